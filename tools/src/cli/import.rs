//! `windlass import`: tables from files that numpy and others write.

mod sparse;

use std::{
    fs::{self, File},
    io::{self, BufReader},
    path::{Path, PathBuf},
};

use indicatif::ProgressBar;
use serde::Serialize;
use windlass_client::{Client, Durability, TableEntry, TableKind, TableSchema, UpdateRule};
use windlass_engine::persist::export::{ExportError, RowSink, TableShape, npy, safetensors};

use self::sparse::Sparse;
use super::{
    ExitStatus, Failure, Output,
    connection::ConnectionArguments,
    export::Format,
    progress, table,
    table::{connect, remote},
};
use crate::{element::with_dtype, report::units};

const AFTER_HELP: &str = "\
A table that is not there is created. Rows get the file's values, whatever the table's rule, and their \
optimiser state begins anew. Arrays have one or two dimensions, in C order, little-endian. Tensors NAME.keys \
and NAME.values are a sparse table NAME, whose rows get the state of NAME.state and of NAME.steps or NAME.row_state where these are \
there, too: name the rule that made it. A folder is one of pieces, as `windlass export` makes it.

Examples:
  windlass import weights.npy --table weights --rule sgd:lr=0.1
  windlass import model.safetensors --durability sync        (all its tensors, by their names)
  windlass import embedding --rule adagrad:lr=0.05           (a folder of pieces)";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The file; its ending says which format: .npy or .safetensors. Or a folder of .safetensors files
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
    let format = Format::of(path)?;
    let paths = if format == Format::Pieces { pieces_in(path)? } else { vec![path.clone()] };
    let name = npy_name(arguments, format)?;
    let lengths = paths.iter().map(|path| fs::metadata(path).map_or(0, |file| file.len()));
    let bar = progress::bytes(lengths.sum(), "importing");
    let sparse = if format == Format::Npy { Sparse::default() } else { Sparse::find(&paths)? };
    let mut sink = Sink::new(connect(&arguments.connection)?, arguments, sparse, bar.clone());
    let read = paths.iter().try_for_each(|path| sink.read(path, format, &name));
    let read = read.and_then(|()| sink.set_sparse());
    bar.finish_and_clear();
    read.map_err(|failure| sink.undo(failure))?;
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

/// The files of a folder, of which none that an export made is missing.
fn pieces_in(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |text: String| Failure::failed(format!("{}: {text}", folder.display()));
    let entries = fs::read_dir(folder).map_err(|error| failed(format!("cannot read: {error}")))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "safetensors"));
    paths.sort();
    if paths.is_empty() {
        return Err(failed("there is no .safetensors file in it".to_owned()));
    }
    let count_of = |path: &PathBuf| -> Option<usize> {
        let stem = path.file_stem()?.to_str()?;
        stem.strip_prefix("part-")?.split_once("-of-")?.1.parse().ok()
    };
    let wanted = paths.iter().filter_map(count_of).max();
    let found = paths.iter().filter(|path| count_of(path).is_some()).count();
    match wanted {
        Some(wanted) if wanted != found => {
            Err(failed(format!("it has {found} of {wanted} pieces: export again")))
        }
        _ => Ok(paths),
    }
}

/// The table of a .npy file, which does not say; empty for other formats.
fn npy_name(arguments: &Arguments, format: Format) -> Result<String, Failure> {
    let usage = |text: &str| Failure::new(ExitStatus::Usage, text.to_owned());
    match (format, arguments.tables.as_slice()) {
        (Format::Safetensors | Format::Pieces, _) => Ok(String::new()),
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
    (format != Format::Npy).then(|| arguments.tables.iter().find(is_absent)).flatten()
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path)
        .map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))
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
    sparse: Sparse,
    bar: ProgressBar,
    /// The table whose rows come; `None` for a tensor that is not wanted.
    current: Option<TableEntry>,
    imported: Vec<ImportedTable>,
    /// Tables that this import made.
    created: Vec<String>,
    /// Bytes of values set.
    bytes: u64,
}

impl RowSink for Sink<'_> {
    fn begin(&mut self, shape: &TableShape) -> io::Result<()> {
        self.current = None;
        let wanted = &self.arguments.tables;
        if self.sparse.has(&shape.name) || !wanted.is_empty() && !wanted.contains(&shape.name) {
            return Ok(());
        }
        let kind = TableKind::Dense { rows: shape.rows };
        self.current = Some(self.table(shape, kind).map_err(io::Error::other)?);
        Ok(())
    }

    fn write(&mut self, _: &TableShape, first: u64, bytes: &[u8]) -> io::Result<()> {
        let Some(entry) = &self.current else { return Ok(()) };
        self.client.set_rows(entry, first, bytes).map_err(io::Error::other)?;
        self.bytes += bytes.len() as u64;
        self.bar.inc(bytes.len() as u64);
        Ok(())
    }
}

impl<'a> Sink<'a> {
    fn new(client: Client, arguments: &'a Arguments, sparse: Sparse, bar: ProgressBar) -> Self {
        let (imported, created) = (Vec::new(), Vec::new());
        Self { client, arguments, sparse, bar, current: None, imported, created, bytes: 0 }
    }

    /// Takes a file's dense tables in.
    fn read(&mut self, path: &Path, format: Format, name: &str) -> Result<(), Failure> {
        let mut file = BufReader::with_capacity(1 << 20, open(path)?);
        let read = match format {
            Format::Npy => npy::read(name, &mut file, self),
            _ => safetensors::read(&mut file, self).map(drop),
        };
        read.map_err(|error| refused(path, error))
    }

    /// Sets the rows of sparse tables, once all of them are known to be sound.
    fn set_sparse(&mut self) -> Result<(), Failure> {
        self.sparse.keep(&self.arguments.tables);
        let shapes = self.sparse.shapes();
        let known = self.client.list_tables().map_err(remote)?;
        for shape in &shapes {
            let known = known.iter().find(|table| table.name == shape.name);
            let schema = match known {
                Some(entry) => entry.schema.clone(),
                None => self.schema_of(shape, TableKind::Sparse {})?,
            };
            self.sparse.check(&shape.name, &schema)?;
        }
        for shape in shapes {
            let entry = self.table(&shape, TableKind::Sparse {})?;
            self.bytes += self.sparse.set(&self.client, &entry, &self.bar)?;
        }
        Ok(())
    }

    /// The table that takes a shape's rows: the one that is there, or a new one.
    fn table(&mut self, shape: &TableShape, kind: TableKind) -> Result<TableEntry, Failure> {
        let tables = self.client.list_tables().map_err(remote)?;
        let known = tables.into_iter().find(|table| table.name == shape.name);
        let created = known.is_none();
        let entry = match known {
            Some(entry) => entry,
            None => self.create(shape, kind)?,
        };
        check(&entry, shape, kind).map_err(Failure::failed)?;
        self.imported.push(ImportedTable {
            name: shape.name.clone(),
            rows: shape.rows,
            width: shape.width,
            dtype: shape.dtype.name(),
            created,
        });
        Ok(entry)
    }

    /// The schema of a table that is made of a shape.
    fn schema_of(&self, shape: &TableShape, kind: TableKind) -> Result<TableSchema, Failure> {
        let width = u32::try_from(shape.width).map_err(|_| {
            Failure::failed(format!("{} has rows of {} values: too wide", shape.name, shape.width))
        })?;
        let schema = TableSchema {
            kind,
            rule: self.arguments.rule,
            durability: self.arguments.durability,
            ..TableSchema::sparse(shape.dtype, width)
        };
        schema.validate().map_err(Failure::failed)?;
        Ok(schema)
    }

    /// Drops the tables that a failed import has made, which have a part of their rows. Those that were there
    /// before stay.
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

    fn create(&mut self, shape: &TableShape, kind: TableKind) -> Result<TableEntry, Failure> {
        let schema = self.schema_of(shape, kind)?;
        with_dtype!(shape.dtype, T => {
            self.client.create_table::<T>(&shape.name, &schema).map_err(remote)?;
        });
        self.created.push(shape.name.clone());
        table::find(&self.client, &shape.name)
    }
}

/// Whether the table that is there takes the file's rows.
fn check(entry: &TableEntry, shape: &TableShape, kind: TableKind) -> Result<(), String> {
    let (name, schema) = (&entry.name, &entry.schema);
    let text = |kind: TableKind, width: u64, dtype| match kind {
        TableKind::Dense { rows } => format!("{rows} x {width} of {dtype}"),
        TableKind::Sparse {} => format!("sparse, any key x {width} of {dtype}"),
    };
    let there = text(schema.kind, u64::from(schema.width), schema.dtype);
    let given = text(kind, shape.width, shape.dtype);
    if there == given {
        return Ok(());
    }
    Err(format!(
        "table {name} is {there}, and what the file has of it {given}: drop the table, or import an array \
         under another name by --table"
    ))
}
