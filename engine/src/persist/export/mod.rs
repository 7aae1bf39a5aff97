//! Tables to and from files other programs read: `.npy`, one table a file, and `safetensors`, many
//! tables a file. Rows stream through a bounded buffer, so that a table may be larger than memory.

pub mod npy;
pub mod safetensors;

use std::io;

use windlass_wire::DataType;

/// Rows are moved in pieces of about this many bytes.
pub const PIECE_BYTES: usize = 1 << 20;

/// Longest header that is read.
pub const HEADER_BYTES_MAX: usize = 100 << 20;

/// A table's shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableShape {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: DataType,
    /// Its rows.
    pub rows: u64,
    /// Values of a row.
    pub width: u64,
    /// Whether it is a list: one dimension, of rows of one value.
    pub is_list: bool,
}

impl TableShape {
    /// Bytes of a row.
    #[must_use]
    pub fn row_bytes(&self) -> u64 {
        self.width * self.dtype.size() as u64
    }

    /// Bytes of all rows, or `None` when that is beyond 64 bits.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.width.checked_mul(self.dtype.size() as u64)?.checked_mul(self.rows)
    }
}

/// Where rows come from: the engine, one table at a time.
pub trait RowSource {
    /// Copies whole rows from `first` on, little-endian, as many as fill the buffer.
    ///
    /// # Errors
    /// When the rows cannot be had.
    fn read(&mut self, table: &TableShape, first: u64, into: &mut [u8]) -> io::Result<()>;
}

/// Where rows go to.
pub trait RowSink {
    /// A table follows. The sink checks that it can take it.
    ///
    /// # Errors
    /// When it cannot.
    fn begin(&mut self, table: &TableShape) -> io::Result<()>;

    /// Whole rows from `first` on, little-endian.
    ///
    /// # Errors
    /// When the rows cannot be taken.
    fn write(&mut self, table: &TableShape, first: u64, bytes: &[u8]) -> io::Result<()>;
}

/// Why a file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The file, the source or the sink refused.
    #[error("the file or the table could not be read or written")]
    Io(#[from] io::Error),
    /// The format has no such type.
    #[error("{format} has no type for {dtype}: use {instead}")]
    NoSuchType {
        /// The format.
        format: &'static str,
        /// The table's type.
        dtype: DataType,
        /// What to do.
        instead: &'static str,
    },
    /// The header is not what the format says.
    #[error("the header is not valid {format}: {reason}")]
    Header {
        /// The format.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The data has the wrong length.
    #[error("table {table} has {found} bytes of data instead of {expected}: the file is cut short")]
    Length {
        /// The table.
        table: String,
        /// Bytes its shape needs.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
}

/// Calls back with the first row and the length of each piece of a table's rows.
fn pieces(
    table: &TableShape,
    mut piece: impl FnMut(u64, usize) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let row_bytes = table.row_bytes();
    if row_bytes == 0 {
        return Ok(());
    }
    let rows_per_piece = (PIECE_BYTES as u64 / row_bytes).max(1);
    let mut first = 0;
    while first < table.rows {
        let rows = rows_per_piece.min(table.rows - first);
        let length = usize::try_from(rows * row_bytes).map_err(io::Error::other)?;
        piece(first, length)?;
        first += rows;
    }
    Ok(())
}

fn write_rows(
    table: &TableShape,
    source: &mut dyn RowSource,
    to: &mut dyn io::Write,
) -> Result<(), ExportError> {
    let mut buffer = Vec::new();
    pieces(table, |first, length| {
        buffer.resize(length, 0);
        source.read(table, first, &mut buffer)?;
        Ok(to.write_all(&buffer)?)
    })
}

fn read_rows(
    table: &TableShape,
    from: &mut dyn io::Read,
    sink: &mut dyn RowSink,
) -> Result<(), ExportError> {
    sink.begin(table)?;
    let mut buffer = Vec::new();
    pieces(table, |first, length| {
        buffer.resize(length, 0);
        from.read_exact(&mut buffer)?;
        Ok(sink.write(table, first, &buffer)?)
    })
}

#[cfg(test)]
mod tests;
