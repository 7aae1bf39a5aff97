//! Sparse tables from columns of keys, values and state: of one file, or of many that are pieces. All of it is
//! checked before anything is made of it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Seek},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use indicatif::ProgressBar;
use windlass_client::{Client, DataType, TableEntry, TableSchema};
use windlass_engine::persist::export::{TableShape, safetensors};
use windlass_wire::map::mix;

use super::{open, refused};
use crate::cli::{
    Failure,
    export::columns::{KEYS, ROW_STATE, STATE, STEPS, VALUES, shapes_of},
    table::remote,
};

/// Bytes that are read and set at a time.
const CHUNK_LEN: u64 = 16 << 20;

/// Keys that are sorted at a time, to find those that come twice.
const SORTED_MAX: u64 = 32 << 20;

/// A tensor in a file.
#[derive(Clone, Debug)]
struct Column {
    shape: TableShape,
    /// Where its data begins.
    offset: u64,
}

/// Some rows of a table.
#[derive(Debug)]
struct Piece {
    path: PathBuf,
    file: File,
    keys: Column,
    values: Column,
    state: Option<Column>,
    /// Steps, or another state of whole rows.
    word: Option<Column>,
}

/// The sparse tables of some files, by name.
#[derive(Debug, Default)]
pub(super) struct Sparse(BTreeMap<String, Vec<Piece>>);

impl Sparse {
    /// Looks for them in the headers of files, and for what is wrong with them.
    pub(super) fn find(paths: &[PathBuf]) -> Result<Self, Failure> {
        let mut sparse = Self::default();
        for path in paths {
            sparse.find_in(path)?;
        }
        Ok(sparse)
    }

    fn find_in(&mut self, path: &Path) -> Result<(), Failure> {
        let columns = columns_of(path)?;
        let named = |name: &str, ending: &str| {
            columns.iter().find(|one| one.shape.name.strip_suffix(ending) == Some(name)).cloned()
        };
        for keys in &columns {
            let Some(name) = keys.shape.name.strip_suffix(KEYS) else { continue };
            let Some(values) = named(name, VALUES).filter(|_| keys.shape.width == 1) else {
                continue;
            };
            let wrong = |text: String| Failure::failed(format!("{}: {text}", path.display()));
            if !matches!(keys.shape.dtype, DataType::U64 | DataType::I64) {
                let (name, dtype) = (&keys.shape.name, keys.shape.dtype);
                return Err(wrong(format!("{name} is of {dtype}, and keys are of u64 or i64")));
            }
            let state = named(name, STATE);
            let word = named(name, STEPS).or_else(|| named(name, ROW_STATE));
            for column in [Some(&values), state.as_ref(), word.as_ref()].into_iter().flatten() {
                let (rows, keys) = (column.shape.rows, keys.shape.rows);
                if rows != keys {
                    let column = &column.shape.name;
                    return Err(wrong(format!("{column} has {rows} rows for {keys} keys")));
                }
            }
            let file = open(path)?;
            let (path, keys) = (path.to_owned(), keys.clone());
            let piece = Piece { path, file, keys, values, state, word };
            self.0.entry(name.to_owned()).or_default().push(piece);
        }
        Ok(())
    }

    /// Whether a tensor is a column of one of them.
    pub(super) fn has(&self, tensor: &str) -> bool {
        let name = |ending| tensor.strip_suffix(ending);
        let names = [KEYS, VALUES, STATE, STEPS, ROW_STATE].into_iter().filter_map(name);
        names.into_iter().any(|name| self.0.contains_key(name))
    }

    /// Those that are wanted; all, where no names are given.
    pub(super) fn keep(&mut self, wanted: &[String]) {
        self.0.retain(|name, _| wanted.is_empty() || wanted.contains(name));
    }

    /// Their names, and the shape of each's values with the rows of all pieces.
    pub(super) fn shapes(&self) -> Vec<TableShape> {
        let all = self.0.iter().map(|(name, pieces)| {
            let rows = pieces.iter().map(|piece| piece.keys.shape.rows).sum();
            TableShape { name: name.clone(), rows, ..pieces[0].values.shape.clone() }
        });
        all.collect()
    }

    /// Checks a table's pieces against its schema, and that no key comes twice.
    pub(super) fn check(&self, name: &str, schema: &TableSchema) -> Result<(), Failure> {
        let Some(pieces) = self.0.get(name) else { return Ok(()) };
        for piece in pieces {
            piece.check(name, schema)?;
        }
        let total: u64 = pieces.iter().map(|piece| piece.keys.shape.rows).sum();
        let passes = total.div_ceil(SORTED_MAX).max(1);
        let mut keys = Vec::new();
        for pass in 0..passes {
            keys.clear();
            for piece in pieces {
                piece.read_keys(|key| {
                    if mix(key) % passes == pass {
                        keys.push(key);
                    }
                })?;
            }
            keys.sort_unstable();
            if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
                let text = format!("key {} of table {name} comes twice: give each once", pair[0]);
                return Err(Failure::failed(text));
            }
        }
        Ok(())
    }

    /// Sets the rows of a table; returns their bytes.
    pub(super) fn set(
        &self,
        client: &Client,
        entry: &TableEntry,
        bar: &ProgressBar,
    ) -> Result<u64, Failure> {
        let mut set = 0;
        for piece in self.0.get(&entry.name).into_iter().flatten() {
            let row_len: u64 = piece.columns().map(|column| column.shape.row_bytes()).sum();
            let chunk = (CHUNK_LEN / row_len).max(1);
            let mut first = 0;
            while first < piece.keys.shape.rows {
                let count = chunk.min(piece.keys.shape.rows - first);
                piece.set(client, entry, first, count)?;
                set += count * row_len;
                bar.inc(count * row_len);
                first += count;
            }
        }
        Ok(set)
    }
}

impl Piece {
    fn columns(&self) -> impl Iterator<Item = &Column> {
        let state = self.state.iter().chain(&self.word);
        [&self.keys, &self.values].into_iter().chain(state)
    }

    fn check(&self, name: &str, schema: &TableSchema) -> Result<(), Failure> {
        let with_state = self.state.is_some() || self.word.is_some();
        let wanted = shapes_of(name, schema, with_state, self.keys.shape.dtype);
        let shown = |shapes: &mut dyn Iterator<Item = &TableShape>| {
            let one =
                |shape: &TableShape| format!("{} {} x {}", shape.name, shape.dtype, shape.width);
            shapes.map(one).collect::<Vec<String>>().join(", ")
        };
        let wanted = shown(&mut wanted.iter());
        let found = shown(&mut self.columns().map(|column| &column.shape));
        if found == wanted {
            return Ok(());
        }
        Err(Failure::failed(format!(
            "{} has {found}, where table {name} of rule {} has {wanted}: name its rule by --rule, or drop \
             the table that is there",
            self.path.display(),
            schema.rule
        )))
    }

    fn read(&self, column: &Column, first: u64, count: u64) -> Result<Vec<u8>, Failure> {
        let row_len = column.shape.row_bytes();
        let mut bytes = vec![0; usize::try_from(count * row_len).unwrap_or(usize::MAX)];
        let read = self.file.read_exact_at(&mut bytes, column.offset + first * row_len);
        read.map_err(|error| refused(&self.path, error.into()))?;
        Ok(bytes)
    }

    fn read_keys(&self, mut take: impl FnMut(u64)) -> Result<(), Failure> {
        let mut first = 0;
        while first < self.keys.shape.rows {
            let count = (CHUNK_LEN / 8).min(self.keys.shape.rows - first);
            let bytes = self.read(&self.keys, first, count)?;
            bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned::<u64>).for_each(&mut take);
            first += count;
        }
        Ok(())
    }

    fn set(
        &self,
        client: &Client,
        entry: &TableEntry,
        first: u64,
        count: u64,
    ) -> Result<(), Failure> {
        let keys = self.read(&self.keys, first, count)?;
        let keys: Vec<u64> = keys.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect();
        let values = self.read(&self.values, first, count)?;
        let parts: Vec<&Column> = self.state.iter().chain(&self.word).collect();
        let state = match parts.as_slice() {
            [] => None,
            [column] => Some(self.read(column, first, count)?),
            columns => {
                let read = columns.iter().map(|column| self.read(column, first, count));
                let parts = read.collect::<Result<Vec<Vec<u8>>, Failure>>()?;
                let mut state = Vec::with_capacity(parts.iter().map(Vec::len).sum());
                for row in 0..keys.len() {
                    for part in &parts {
                        let len = part.len() / keys.len();
                        state.extend_from_slice(&part[row * len..][..len]);
                    }
                }
                Some(state)
            }
        };
        client.set_keys(entry, &keys, &values, state.as_deref()).map_err(remote)
    }
}

/// The tensors of a file, which is as long as it says.
fn columns_of(path: &Path) -> Result<Vec<Column>, Failure> {
    let mut file = open(path)?;
    let shapes = safetensors::read_header(&mut file).map_err(|error| refused(path, error))?;
    let lengths = file.stream_position().and_then(|start| Ok((start, file.metadata()?.len())));
    let (start, length) = lengths.map_err(|error| refused(path, error.into()))?;
    let (mut offset, mut columns) = (start, Vec::new());
    for shape in shapes {
        let bytes = shape.bytes().unwrap_or(u64::MAX);
        columns.push(Column { shape, offset });
        offset = offset.saturating_add(bytes);
    }
    if offset > length {
        return Err(refused(path, io::Error::from(io::ErrorKind::UnexpectedEof).into()));
    }
    Ok(columns)
}
