//! `windlass import`: dense tables from files that numpy and others write.

use std::{
    fs::File,
    io::{self, BufReader},
    path::{Path, PathBuf},
};

use indicatif::ProgressBar;
use serde::Serialize;
use windlass_client::{
    Client, Durability, PushOptions, RequestError, Table, TableEntry, TableKind, TableSchema,
    UpdateRule,
};
use windlass_engine::persist::export::{ExportError, RowSink, TableShape, npy, safetensors};

use super::{
    ExitStatus, Failure, Output, connection::ConnectionArguments, export::Format, progress, table,
    table::connect,
};
use crate::{
    element::{Value, with_dtype},
    report::units,
};

const AFTER_HELP: &str = "\
A table that is not there is created. Rows get the file's values, whatever the table's rule, and their \
optimiser state begins anew; a cluster with replicas takes them for tables of rule assign, and for new \
ones of rule add. Arrays have one or two dimensions, in C order, little-endian.

Examples:
  windlass import weights.npy --table weights --rule sgd:lr=0.1
  windlass import model.safetensors --durability sync        (all its tensors, by their names)";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The file; its ending says which format: .npy or .safetensors
    file: PathBuf,
    /// The table of a .npy file [default: the file's name]; of a .safetensors file, only these tensors
    #[arg(long = "table", value_name = "TABLE")]
    tables: Vec<String>,
    /// What a push does to a row of a table that is created
    #[arg(long, value_name = "RULE", default_value = "add")]
    rule: UpdateRule,
    /// When a push to a table that is created is acknowledged: memory, interval:MS or sync
    #[arg(long, value_name = "LEVEL", value_parser = table::durability, default_value = "memory")]
    durability: Durability,
    #[command(flatten)]
    connection: ConnectionArguments,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Imported<'a> {
    file: &'a Path,
    tables: Vec<ImportedTable>,
    bytes: u64,
}

#[derive(Serialize)]
struct ImportedTable {
    name: String,
    rows: u64,
    width: u64,
    dtype: &'static str,
    created: bool,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    let path = &arguments.file;
    let file = File::open(path)
        .map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))?;
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let format = Format::of(path)?;
    let name = npy_name(arguments, format)?;
    let client = connect(&arguments.connection)?;
    let bar = progress::bytes(length, "importing");
    let mut sink = Sink::new(client, arguments, bar.clone());
    let mut file = BufReader::with_capacity(1 << 20, file);
    let read = match format {
        Format::Npy => npy::read(&name, &mut file, &mut sink),
        Format::Safetensors => safetensors::read(&mut file, &mut sink).map(drop),
    };
    bar.finish_and_clear();
    if let Err(error) = read {
        return Err(sink.undo(refused(path, error)));
    }
    let (tables, bytes) = (sink.imported, sink.bytes);
    if let Some(absent) = missing(arguments, format, &tables) {
        return Err(Failure::failed(format!("{} has no tensor {absent:?}", path.display())));
    }
    let imported = Imported { file: path, tables, bytes };
    #[expect(clippy::cast_precision_loss, reason = "bytes stay below 2^53")]
    output.result(&imported, || {
        let count = imported.tables.len();
        format!("{}: {count} tables, {} of values", path.display(), units::bytes(bytes as f64))
    })
}

/// The table of a .npy file, which does not say; empty for other formats.
fn npy_name(arguments: &Arguments, format: Format) -> Result<String, Failure> {
    let usage = |text: &str| Failure::new(ExitStatus::Usage, text.to_owned());
    match (format, arguments.tables.as_slice()) {
        (Format::Safetensors, _) => Ok(String::new()),
        (Format::Npy, [name]) => Ok(name.clone()),
        (Format::Npy, []) => {
            let stem = arguments.file.file_stem().and_then(|stem| stem.to_str());
            stem.map(ToOwned::to_owned).ok_or_else(|| usage("name the table by --table"))
        }
        (Format::Npy, _) => Err(usage("a .npy file holds one table: name one by --table")),
    }
}

fn missing<'a>(
    arguments: &'a Arguments,
    format: Format,
    imported: &[ImportedTable],
) -> Option<&'a String> {
    let is_absent = |name: &&String| !imported.iter().any(|table| table.name == **name);
    (format == Format::Safetensors).then(|| arguments.tables.iter().find(is_absent)).flatten()
}

/// What the file or the servers have against it.
fn refused(path: &Path, error: ExportError) -> Failure {
    match error {
        ExportError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Failure::failed(format!("{} is cut short: write it anew", path.display()))
        }
        // Said by the sink, in a sentence of its own.
        ExportError::Io(error) => Failure::failed(error),
        error => Failure::failed(format!("{}: {error}", path.display())),
    }
}

/// Tables, which take rows as the file gives them.
struct Sink<'a> {
    client: Client,
    arguments: &'a Arguments,
    bar: ProgressBar,
    /// The table whose rows come; `None` for a tensor that is not wanted.
    current: Option<(TableEntry, Way)>,
    imported: Vec<ImportedTable>,
    /// Tables that this import made.
    created: Vec<String>,
    /// Bytes of values set.
    bytes: u64,
}

/// How rows are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By telling the server that holds them, whatever the rule.
    Set,
    /// By pushes, which replicas get, too.
    Push,
}

impl RowSink for Sink<'_> {
    fn begin(&mut self, shape: &TableShape) -> io::Result<()> {
        self.current = None;
        let wanted = &self.arguments.tables;
        if !wanted.is_empty() && !wanted.contains(&shape.name) {
            return Ok(());
        }
        let tables = self.client.list_tables().map_err(io::Error::other)?;
        let known = tables.into_iter().find(|table| table.name == shape.name);
        let created = known.is_none();
        let entry = match known {
            Some(entry) => entry,
            None => self.create(shape)?,
        };
        check(&entry, shape).map_err(io::Error::other)?;
        let way = way(&entry, created, self.client.map().chained).map_err(io::Error::other)?;
        self.imported.push(ImportedTable {
            name: shape.name.clone(),
            rows: shape.rows,
            width: shape.width,
            dtype: shape.dtype.name(),
            created,
        });
        self.current = Some((entry, way));
        Ok(())
    }

    fn write(&mut self, shape: &TableShape, first: u64, bytes: &[u8]) -> io::Result<()> {
        let Some((entry, way)) = &self.current else { return Ok(()) };
        match way {
            Way::Set => {
                self.client.set_rows(entry, first, bytes).map_err(io::Error::other)?;
            }
            Way::Push => with_dtype!(shape.dtype, T => {
                let table = self.client.open_table::<T>(&shape.name).map_err(io::Error::other)?;
                push(&table, first, bytes).map_err(io::Error::other)?;
            }),
        }
        self.bytes += bytes.len() as u64;
        self.bar.inc(bytes.len() as u64);
        Ok(())
    }
}

impl<'a> Sink<'a> {
    fn new(client: Client, arguments: &'a Arguments, bar: ProgressBar) -> Self {
        let (imported, created) = (Vec::new(), Vec::new());
        Self { client, arguments, bar, current: None, imported, created, bytes: 0 }
    }

    /// Drops the tables that a failed import has made: they have a part of their rows, and where rows
    /// come by pushes a later import could not begin with them. Those that were there before stay.
    fn undo(&self, failure: Failure) -> Failure {
        let left: Vec<&str> = (self.created.iter())
            .filter(|name| self.client.drop_table(name).is_err())
            .map(String::as_str)
            .collect();
        if left.is_empty() {
            return failure;
        }
        let left = left.join(", ");
        let text = format!("{failure}; drop what was made of tables {left} before another try");
        Failure::new(failure.status(), text)
    }

    fn create(&mut self, shape: &TableShape) -> io::Result<TableEntry> {
        let width = u32::try_from(shape.width).map_err(|_| {
            io::Error::other(format!("{} has rows of {} values: too wide", shape.name, shape.width))
        })?;
        let schema = TableSchema {
            rule: self.arguments.rule,
            durability: self.arguments.durability,
            ..TableSchema::dense(shape.dtype, shape.rows, width)
        };
        schema.validate().map_err(io::Error::other)?;
        with_dtype!(shape.dtype, T => {
            self.client.create_table::<T>(&shape.name, &schema).map_err(io::Error::other)?;
        });
        self.created.push(shape.name.clone());
        let tables = self.client.list_tables().map_err(io::Error::other)?;
        let found = tables.into_iter().find(|table| table.name == shape.name);
        found.ok_or_else(|| io::Error::other(format!("table {} was dropped", shape.name)))
    }
}

/// Whether the table that is there takes the file's rows.
fn check(entry: &TableEntry, shape: &TableShape) -> Result<(), String> {
    let (name, schema) = (&entry.name, &entry.schema);
    let TableKind::Dense { rows } = schema.kind else {
        return Err(format!("table {name} is sparse: only dense tables are arrays; push its keys"));
    };
    let there = (rows, u64::from(schema.width), schema.dtype);
    if there == (shape.rows, shape.width, shape.dtype) {
        return Ok(());
    }
    Err(format!(
        "table {name} is {} x {} of {}, and the file's array {} x {} of {}: drop the table, or import \
         under another name by --table",
        there.0, there.1, there.2, shape.rows, shape.width, shape.dtype
    ))
}

fn way(entry: &TableEntry, created: bool, is_chained: bool) -> Result<Way, String> {
    let rule = entry.schema.rule;
    match rule {
        _ if !is_chained => Ok(Way::Set),
        UpdateRule::Assign => Ok(Way::Push),
        UpdateRule::Add if created => Ok(Way::Push),
        _ => Err(format!(
            "a push to table {} is a change by rule {rule}, and a cluster of chains takes rows by \
             pushes only: import into a table of rule assign, or one of rule add that does not exist",
            entry.name
        )),
    }
}

fn push<T: Value>(table: &Table<T>, first: u64, bytes: &[u8]) -> Result<(), RequestError> {
    // Files and memory are little-endian alike on every host there is a build for; a file's bytes need
    // not be aligned.
    let mut values = vec![T::one(); bytes.len() / size_of::<T>()];
    bytemuck::cast_slice_mut::<T, u8>(&mut values).copy_from_slice(bytes);
    let rows = values.len() as u64 / u64::from(table.schema().width);
    table.push(first..first + rows, &values, &PushOptions::default())?.wait()
}
