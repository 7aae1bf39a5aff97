//! `windlass export`: dense tables into files that numpy and others read.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use indicatif::ProgressBar;
use serde::Serialize;
use windlass_client::{Client, PullOptions, RequestError, Table, TableEntry, TableKind};
use windlass_engine::persist::export::{ExportError, RowSource, TableShape, npy, safetensors};

use super::{
    ExitStatus, Failure, Output,
    connection::ConnectionArguments,
    progress,
    table::{connect, find},
};
use crate::{
    element::{Value, with_dtype},
    report::units,
};

const AFTER_HELP: &str = "\
The rows are pulled while training goes on: each block of rows is consistent in itself.

Examples:
  windlass export weights --out weights.npy
  windlass export layer1 layer2 --out model.safetensors";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The tables; a .npy file takes one
    #[arg(required = true, value_name = "TABLE")]
    tables: Vec<String>,
    /// The file; its ending says which format: .npy or .safetensors
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    connection: ConnectionArguments,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Exported<'a> {
    file: &'a Path,
    tables: usize,
    bytes: u64,
}

/// A file's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Npy,
    Safetensors,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    let format = format_of(arguments)?;
    let client = connect(&arguments.connection)?;
    let entries = arguments
        .tables
        .iter()
        .map(|name| find(&client, name))
        .collect::<Result<Vec<TableEntry>, Failure>>()?;
    let shapes = entries.iter().map(shape_of).collect::<Result<Vec<TableShape>, Failure>>()?;
    let bytes = shapes.iter().filter_map(TableShape::bytes).sum();
    let bar = progress::bytes(bytes, "exporting");
    let mut source = Source { client, bar: bar.clone() };
    write(&arguments.out, |out| match format {
        Format::Npy => npy::write(&shapes[0], &mut source, out),
        Format::Safetensors => safetensors::write(&shapes, &mut source, out),
    })?;
    bar.finish_and_clear();
    let exported = Exported { file: &arguments.out, tables: shapes.len(), bytes };
    #[expect(clippy::cast_precision_loss, reason = "bytes stay below 2^53")]
    output.result(&exported, || {
        format!("{}: {} of values", arguments.out.display(), units::bytes(bytes as f64))
    })
}

fn format_of(arguments: &Arguments) -> Result<Format, Failure> {
    let format = Format::of(&arguments.out)?;
    if format == Format::Npy && arguments.tables.len() > 1 {
        let text = "a .npy file holds one table: export one, or write a .safetensors file";
        return Err(Failure::new(ExitStatus::Usage, text.to_owned()));
    }
    Ok(format)
}

impl Format {
    /// The format that a file's ending names.
    pub(super) fn of(path: &Path) -> Result<Self, Failure> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("npy") => Ok(Self::Npy),
            Some("safetensors") => Ok(Self::Safetensors),
            _ => Err(Failure::new(
                ExitStatus::Usage,
                format!(
                    "the ending of {} names no format: use .npy or .safetensors",
                    path.display()
                ),
            )),
        }
    }
}

fn shape_of(entry: &TableEntry) -> Result<TableShape, Failure> {
    match entry.schema.kind {
        TableKind::Dense { rows } => Ok(TableShape {
            name: entry.name.clone(),
            dtype: entry.schema.dtype,
            rows,
            width: u64::from(entry.schema.width),
        }),
        TableKind::Sparse {} => Err(Failure::failed(format!(
            "table {} is sparse: only dense tables are arrays; pull the keys you need",
            entry.name
        ))),
    }
}

/// The file is complete or absent: it is renamed into place.
fn write(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>,
) -> Result<(), Failure> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let file = File::create(&partial).map_err(|error| {
        Failure::failed(format!(
            "cannot write {}: check that the folder exists and has room ({error})",
            path.display()
        ))
    })?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let written = write(&mut out).and_then(|()| Ok(out.flush()?));
    if let Err(error) = written.and_then(|()| Ok(fs::rename(&partial, path)?)) {
        // The cause matters more than what is left of the attempt.
        let _ = fs::remove_file(&partial);
        return Err(Failure::failed(error));
    }
    Ok(())
}

/// Rows of tables, pulled as the file needs them.
struct Source {
    client: Client,
    bar: ProgressBar,
}

impl RowSource for Source {
    fn read(&mut self, shape: &TableShape, first: u64, into: &mut [u8]) -> io::Result<()> {
        let rows = into.len() as u64 / shape.row_bytes();
        with_dtype!(shape.dtype, T => {
            let table = self.client.open_table::<T>(&shape.name).map_err(io::Error::other)?;
            pull(&table, first..first + rows, into).map_err(io::Error::other)?;
        });
        self.bar.inc(into.len() as u64);
        Ok(())
    }
}

fn pull<T: Value>(
    table: &Table<T>,
    rows: std::ops::Range<u64>,
    into: &mut [u8],
) -> Result<(), RequestError> {
    let values = table.pull(rows, &PullOptions::default())?.wait()?;
    // Files and memory are little-endian alike on every host there is a build for.
    into.copy_from_slice(bytemuck::cast_slice(&values));
    Ok(())
}

const _: () = assert!(cfg!(target_endian = "little"), "files are little-endian, and so is this");
