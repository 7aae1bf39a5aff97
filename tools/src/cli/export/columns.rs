//! The rows of a sparse table as columns: keys, values and, if asked for, the optimiser's state. How many rows
//! there are is known at a scan's end only, and a file says it at its beginning: so each column waits on disk.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use indicatif::ProgressBar;
use windlass_client::{
    DataType, RowWord, Scan, ScanBatch, ScanColumns, ScanOptions, Table, TableSchema,
};
use windlass_engine::persist::export::TableShape;

use super::super::{Failure, table::remote};
use crate::element::Value;

/// How columns are named behind their table.
pub(in crate::cli) const KEYS: &str = ".keys";
pub(in crate::cli) const VALUES: &str = ".values";
pub(in crate::cli) const STATE: &str = ".state";
pub(in crate::cli) const STEPS: &str = ".steps";
/// A number that the rule keeps of a row, such as a sum of squares.
pub(in crate::cli) const ROW_STATE: &str = ".row_state";

/// Columns of some of a table's rows.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) shapes: Vec<TableShape>,
    files: Vec<File>,
}

/// A column that is being written, in a file without a name.
struct Spool {
    shape: TableShape,
    file: BufWriter<File>,
}

/// The shapes of a table's columns, without rows.
pub(in crate::cli) fn shapes_of(
    name: &str,
    schema: &TableSchema,
    with_state: bool,
    keys: DataType,
) -> Vec<TableShape> {
    let column = |ending: &str, dtype: DataType, width: u64, is_list: bool| TableShape {
        name: format!("{name}{ending}"),
        dtype,
        rows: 0,
        width,
        is_list,
    };
    let width = u64::from(schema.width);
    let mut shapes = vec![column(KEYS, keys, 1, true), column(VALUES, schema.dtype, width, false)];
    let state_width = schema.rule.state_width() as u64 * width;
    if with_state && state_width > 0 {
        let dtype = if schema.dtype == DataType::F64 { DataType::F64 } else { DataType::F32 };
        shapes.push(column(STATE, dtype, state_width, false));
    }
    match schema.rule.row_word().filter(|_| with_state) {
        Some(RowWord::Steps) => shapes.push(column(STEPS, DataType::I32, 1, true)),
        Some(RowWord::Number(_)) => shapes.push(column(ROW_STATE, DataType::F32, 1, true)),
        None => {}
    }
    shapes
}

/// Scans a table, and gives its columns to `take` in pieces of about `piece_len` bytes: at least one, which has
/// no rows when the table has none.
pub(super) fn scan<T: Value>(
    table: &Table<T>,
    (with_state, keys): (bool, DataType),
    piece_len: u64,
    (beside, bar): (&Path, &ProgressBar),
    mut take: impl FnMut(Columns) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let entry = table.entry();
    let shapes = shapes_of(&entry.name, &entry.schema, with_state, keys);
    let columns = if with_state { ScanColumns::State } else { ScanColumns::Values };
    let options = ScanOptions { columns, ..ScanOptions::default() };
    let mut scan: Scan<T> = table.scan(&options).map_err(remote)?;
    let mut batch = ScanBatch::default();
    let mut is_more = scan.next_into(&mut batch).map_err(remote)?;
    loop {
        let failed = |error: io::Error| cannot_write(beside, &error);
        let spools = shapes.iter().map(|shape| Spool::new(shape, beside));
        let mut spools = spools.collect::<io::Result<Vec<Spool>>>().map_err(failed)?;
        let mut written = 0;
        while is_more && written < piece_len {
            let len = append(&mut spools, &batch).map_err(failed)?;
            written += len;
            bar.inc(len);
            is_more = scan.next_into(&mut batch).map_err(remote)?;
        }
        let mut columns = Columns { shapes: Vec::new(), files: Vec::new() };
        for spool in spools {
            columns.shapes.push(spool.shape);
            let file = spool.file.into_inner().map_err(|error| failed(error.into_error()))?;
            columns.files.push(file);
        }
        take(columns)?;
        if !is_more {
            return Ok(());
        }
    }
}

fn append<T: Value>(spools: &mut [Spool], batch: &ScanBatch<T>) -> io::Result<u64> {
    let mut written = 0;
    for spool in spools {
        let mut put = |bytes: &[u8]| {
            written += bytes.len() as u64;
            spool.file.write_all(bytes)
        };
        let name = &spool.shape.name;
        if name.ends_with(KEYS) {
            put(bytemuck::cast_slice(&batch.keys))?;
        } else if name.ends_with(VALUES) {
            put(bytemuck::cast_slice(&batch.values))?;
        } else if name.ends_with(STATE) {
            let planes_len = usize::try_from(spool.shape.row_bytes()).map_err(io::Error::other)?;
            let rows = batch.state.chunks_exact(batch.state_len);
            rows.map(|row| &row[..planes_len]).try_for_each(&mut put)?;
        } else {
            // Steps stand behind the planes of a row's state.
            let rows = batch.state.chunks_exact(batch.state_len);
            rows.map(|row| &row[batch.state_len - 4..]).try_for_each(&mut put)?;
        }
        spool.shape.rows += batch.keys.len() as u64;
    }
    Ok(written)
}

impl Columns {
    /// Puts the columns where [`RowSource`] finds them by name.
    ///
    /// [`RowSource`]: windlass_engine::persist::export::RowSource
    pub(super) fn hand_over(self, shapes: &mut Vec<TableShape>, files: &mut HashMap<String, File>) {
        let names = self.shapes.iter().map(|shape| shape.name.clone());
        files.extend(names.zip(self.files));
        shapes.extend(self.shapes);
    }
}

impl Spool {
    fn new(shape: &TableShape, beside: &Path) -> io::Result<Self> {
        let mut path = beside.as_os_str().to_owned();
        path.push(".column");
        let path = PathBuf::from(path);
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        // Whatever becomes of this process, nothing is left of it.
        fs::remove_file(&path)?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(Self { shape: shape.clone(), file })
    }
}

pub(super) fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!(
        "cannot write {}: check that the folder exists and has room ({error})",
        path.display()
    ))
}
