//! `windlass export`: tables into files that numpy and others read.

pub(super) mod columns;

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use indicatif::ProgressBar;
use serde::Serialize;
use windlass_client::{Client, DataType, PullOptions, RequestError, Table, TableEntry, TableKind};
use windlass_engine::persist::export::{ExportError, RowSource, TableShape, npy, safetensors};

use self::columns::{cannot_write, scan};
use super::{
    ExitStatus, Failure, Output,
    connection::ConnectionArguments,
    progress, size,
    table::{connect, find, remote},
};
use crate::{
    element::{Value, with_dtype},
    report::units,
};

const AFTER_HELP: &str = "\
The rows are pulled while training goes on: each block of rows is consistent in itself. A sparse table is \
scanned into tensors NAME.keys and NAME.values, and with --state NAME.state and NAME.steps, as far as its \
rule keeps them. A folder holds pieces of bounded size, for tables of any size; `windlass import` takes it as \
a whole.

Examples:
  windlass export weights --out weights.npy
  windlass export layer1 layer2 --out model.safetensors
  windlass export embedding --state --out embedding           (a folder of pieces)";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The tables; a .npy file takes one, a dense one
    #[arg(required = true, value_name = "TABLE")]
    tables: Vec<String>,
    /// The file; its ending says which format: .npy or .safetensors. Without one, a new folder of pieces
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// With the optimiser's state of sparse tables
    #[arg(long)]
    state: bool,
    /// The type that keys of sparse tables are written as: u64 or i64, of the same bits
    #[arg(long, value_name = "TYPE", default_value = "u64", value_parser = key_type)]
    key_type: DataType,
    /// Bytes of a sparse table in a piece of a folder, about
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size::parse)]
    piece: u64,
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
    /// Several of these in a folder.
    Pieces,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    let format = format_of(arguments)?;
    let client = connect(&arguments.connection)?;
    let entries = arguments
        .tables
        .iter()
        .map(|name| find(&client, name))
        .collect::<Result<Vec<TableEntry>, Failure>>()?;
    let dense = entries.iter().filter_map(shape_of);
    let bar = progress::bytes(dense.filter_map(|shape| shape.bytes()).sum(), "exporting");
    let mut files = Files::new(client, arguments, format, bar.clone())?;
    let written = files.write(&entries);
    bar.finish_and_clear();
    let bytes = files.end(written)?;
    let exported = Exported { file: &arguments.out, tables: entries.len(), bytes };
    #[expect(clippy::cast_precision_loss, reason = "bytes stay below 2^53")]
    output.result(&exported, || {
        format!("{}: {} of tables", arguments.out.display(), units::bytes(bytes as f64))
    })
}

fn format_of(arguments: &Arguments) -> Result<Format, Failure> {
    let usage = |text: &str| Failure::new(ExitStatus::Usage, text.to_owned());
    if arguments.out.extension().is_none() {
        return Ok(Format::Pieces);
    }
    let format = Format::of(&arguments.out)?;
    if format == Format::Npy && arguments.tables.len() > 1 {
        return Err(usage("a .npy file holds one table: export one, or write a .safetensors file"));
    }
    Ok(format)
}

fn key_type(text: &str) -> Result<DataType, String> {
    match text {
        "u64" => Ok(DataType::U64),
        "i64" => Ok(DataType::I64),
        _ => Err("keys are u64 or i64".to_owned()),
    }
}

impl Format {
    /// The format that a file's ending names; a folder is one of pieces.
    pub(super) fn of(path: &Path) -> Result<Self, Failure> {
        match path.extension().and_then(|ending| ending.to_str()) {
            _ if path.is_dir() => Ok(Self::Pieces),
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

/// The shape of a dense table.
fn shape_of(entry: &TableEntry) -> Option<TableShape> {
    let TableKind::Dense { rows } = entry.schema.kind else { return None };
    Some(TableShape {
        name: entry.name.clone(),
        dtype: entry.schema.dtype,
        rows,
        width: u64::from(entry.schema.width),
        is_list: false,
    })
}

/// What is written: complete, or absent, because it is renamed into place.
struct Files<'a> {
    arguments: &'a Arguments,
    format: Format,
    source: Source,
    /// The file or folder until it is complete.
    partial: PathBuf,
    pieces: Vec<PathBuf>,
    /// Bytes of tensors.
    bytes: u64,
}

impl<'a> Files<'a> {
    fn new(
        client: Client,
        arguments: &'a Arguments,
        format: Format,
        bar: ProgressBar,
    ) -> Result<Self, Failure> {
        let mut partial = arguments.out.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        if format == Format::Pieces {
            if arguments.out.exists() {
                let text = format!("{} is there: name a new folder", arguments.out.display());
                return Err(Failure::failed(text));
            }
            fs::create_dir(&partial).map_err(|error| cannot_write(&partial, &error))?;
        }
        let source = Source { client, bar, columns: HashMap::new() };
        Ok(Self { arguments, format, source, partial, pieces: Vec::new(), bytes: 0 })
    }

    fn write(&mut self, entries: &[TableEntry]) -> Result<(), Failure> {
        let mut shapes = Vec::new();
        for entry in entries {
            match shape_of(entry) {
                Some(shape) => shapes.push(shape),
                None => self.scan(entry, &mut shapes)?,
            }
            if self.format == Format::Pieces && !shapes.is_empty() {
                self.write_piece(&std::mem::take(&mut shapes))?;
            }
        }
        if self.format == Format::Pieces { Ok(()) } else { self.write_piece(&shapes) }
    }

    /// Writes the pieces of a sparse table, or where there is one file for all puts its columns with the others.
    fn scan(&mut self, entry: &TableEntry, shapes: &mut Vec<TableShape>) -> Result<(), Failure> {
        if self.format == Format::Npy {
            return Err(Failure::failed(format!(
                "table {} is sparse, with keys and values: write a .safetensors file",
                entry.name
            )));
        }
        let is_cut = self.format == Format::Pieces;
        let what = (self.arguments.state, self.arguments.key_type);
        let piece_len = if is_cut { self.arguments.piece.max(1) } else { u64::MAX };
        let (beside, bar) = (self.partial.clone(), self.source.bar.clone());
        with_dtype!(entry.schema.dtype, T => {
            let table = self.source.client.open_table::<T>(&entry.name).map_err(remote)?;
            scan(&table, what, piece_len, (&beside, &bar), |columns| {
                columns.hand_over(shapes, &mut self.source.columns);
                if is_cut { self.write_piece(&std::mem::take(shapes)) } else { Ok(()) }
            })
        })
    }

    fn write_piece(&mut self, shapes: &[TableShape]) -> Result<(), Failure> {
        let path = match self.format {
            Format::Pieces => self.partial.join(format!("{}.partial", self.pieces.len())),
            _ => self.partial.clone(),
        };
        self.pieces.push(path.clone());
        let file =
            File::create(&path).map_err(|error| cannot_write(&self.arguments.out, &error))?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let written = match self.format {
            Format::Npy => npy::write(&shapes[0], &mut self.source, &mut out),
            _ => safetensors::write(shapes, &mut self.source, &mut out),
        };
        let written: Result<(), ExportError> = written.and_then(|()| Ok(out.flush()?));
        written.map_err(Failure::failed)?;
        self.source.columns.clear();
        self.bytes += shapes.iter().filter_map(TableShape::bytes).sum::<u64>();
        Ok(())
    }

    /// Puts what is complete into its place, and takes anything else away.
    fn end(self, written: Result<(), Failure>) -> Result<u64, Failure> {
        let (out, partial) = (&self.arguments.out, &self.partial);
        let name = || {
            let count = self.pieces.len();
            for (piece, at) in self.pieces.iter().zip(1..) {
                if self.format == Format::Pieces {
                    let name = format!("part-{at:05}-of-{count:05}.safetensors");
                    fs::rename(piece, partial.join(name))?;
                }
            }
            fs::rename(partial, out)
        };
        let ended = written.and_then(|()| name().map_err(|error| cannot_write(out, &error)));
        if let Err(failure) = ended {
            // The cause matters more than what is left of the attempt.
            let _ = match self.format {
                Format::Pieces => fs::remove_dir_all(partial),
                _ => fs::remove_file(partial),
            };
            return Err(failure);
        }
        Ok(self.bytes)
    }
}

/// Rows of tables: of dense ones pulled as the file needs them, of sparse ones scanned before.
struct Source {
    client: Client,
    bar: ProgressBar,
    columns: HashMap<String, File>,
}

impl RowSource for Source {
    fn read(&mut self, shape: &TableShape, first: u64, into: &mut [u8]) -> io::Result<()> {
        if let Some(column) = self.columns.get(&shape.name) {
            return column.read_exact_at(into, first * shape.row_bytes());
        }
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
