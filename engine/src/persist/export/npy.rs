//! NumPy's `.npy`, format version 1.0 (numpy.lib.format): one table as a two-dimensional array.
//!
//! ```text
//!  0   6   \x93NUMPY
//!  6   2   1, 0
//!  8   2   length of the header text
//!  10  n   {'descr': '<f4', 'fortran_order': False, 'shape': (rows, width), } padded to 64, newline
//!  ..      rows
//! ```

use std::io::{self, Read, Write};

use windlass_wire::DataType;

use super::{ExportError, HEADER_BYTES_MAX, RowSink, RowSource, TableShape, read_rows, write_rows};

const MAGIC: &[u8] = b"\x93NUMPY";
const FORMAT: &str = ".npy";

/// Writes one table.
///
/// # Errors
/// When the source or the file fails, or numpy has no such type.
pub fn write(
    table: &TableShape,
    source: &mut dyn RowSource,
    to: &mut dyn Write,
) -> Result<(), ExportError> {
    let (rows, width) = (table.rows, table.width);
    let descr = descr(table.dtype)?;
    write_header(&format!("'{descr}'"), &[rows, width], to)?;
    write_rows(table, source, to)
}

/// Writes what comes before an array's values: `descr` is the type as a Python literal (`'<f4'`, or a list
/// of fields), `shape` the array's lengths.
///
/// # Errors
/// When `to` fails, or the header is longer than the format allows.
pub fn write_header(descr: &str, shape: &[u64], to: &mut dyn Write) -> io::Result<()> {
    // Python's tuples: (3, 4), but (3,).
    let comma = if shape.len() == 1 { "," } else { "" };
    let shape = shape.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': ({shape}{comma}), }}");
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    let length_field = u16::try_from(length).map_err(io::Error::other)?;
    to.write_all(MAGIC)?;
    to.write_all(&[1, 0])?;
    to.write_all(&length_field.to_le_bytes())?;
    let padding = length - text.len() - 1;
    writeln!(to, "{text}{:padding$}", "")
}

/// Reads one table; the file does not hold its name. One-dimensional arrays have rows of one value.
///
/// # Errors
/// When the file is no `.npy` of a known type in C order, or the sink refuses.
pub fn read(name: &str, from: &mut dyn Read, sink: &mut dyn RowSink) -> Result<(), ExportError> {
    let table = read_header(name, from)?;
    read_rows(&table, from, sink)
}

/// Reads the header alone.
///
/// # Errors
/// As [`read`].
pub fn read_header(name: &str, from: &mut dyn Read) -> Result<TableShape, ExportError> {
    let mut start = [0; 8];
    from.read_exact(&mut start)?;
    if &start[..6] != MAGIC {
        return Err(bad("it does not start with the magic bytes"));
    }
    let length = match start[6] {
        1 => {
            let mut length = [0; 2];
            from.read_exact(&mut length)?;
            usize::from(u16::from_le_bytes(length))
        }
        2 | 3 => {
            let mut length = [0; 4];
            from.read_exact(&mut length)?;
            u32::from_le_bytes(length) as usize
        }
        version => return Err(bad(&format!("version {version} is not known"))),
    };
    if length > HEADER_BYTES_MAX {
        return Err(bad("it is too long"));
    }
    let mut text = vec![0; length];
    from.read_exact(&mut text)?;
    let text = String::from_utf8(text).map_err(|_| bad("it is no text"))?;
    parse(name, &text)
}

fn parse(name: &str, text: &str) -> Result<TableShape, ExportError> {
    let after = |key: &str| {
        let quoted = [format!("'{key}':"), format!("\"{key}\":")];
        quoted
            .iter()
            .find_map(|key| text.split_once(key.as_str()))
            .map(|(_, rest)| rest.trim_start())
    };
    let descr = after("descr").ok_or_else(|| bad("descr is missing"))?;
    let descr = descr.trim_start_matches(['\'', '"']).split(['\'', '"']).next().unwrap_or("");
    let dtype = DataType::ALL
        .into_iter()
        .find(|dtype| self::descr(*dtype).is_ok_and(|known| known == descr))
        .ok_or_else(|| bad(&format!("type {descr:?} is not known, or not little-endian")))?;
    let order = after("fortran_order").ok_or_else(|| bad("fortran_order is missing"))?;
    if !order.starts_with("False") {
        return Err(bad("it is in Fortran order: save it in C order"));
    }
    let shape = after("shape").and_then(|rest| rest.strip_prefix('('));
    let shape = shape.and_then(|rest| rest.split(')').next()).ok_or_else(|| bad("no shape"))?;
    let numbers: Result<Vec<u64>, _> =
        shape.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::parse).collect();
    let numbers = numbers.map_err(|_| bad("the shape is no list of numbers"))?;
    let (rows, width) = match numbers.as_slice() {
        [rows] => (*rows, 1),
        [rows, width] => (*rows, *width),
        _ => return Err(bad("a table has one or two dimensions")),
    };
    let table =
        TableShape { name: name.to_owned(), dtype, rows, width, is_list: numbers.len() == 1 };
    table.bytes().ok_or_else(|| bad("the shape is too large"))?;
    Ok(table)
}

fn descr(dtype: DataType) -> Result<&'static str, ExportError> {
    Ok(match dtype {
        DataType::F32 => "<f4",
        DataType::F64 => "<f8",
        DataType::F16 => "<f2",
        DataType::I8 => "|i1",
        DataType::I32 => "<i4",
        DataType::I64 => "<i8",
        DataType::U64 => "<u8",
        DataType::Bf16 => {
            let instead = "safetensors";
            return Err(ExportError::NoSuchType { format: FORMAT, dtype, instead });
        }
    })
}

fn bad(reason: &str) -> ExportError {
    ExportError::Header { format: FORMAT, reason: reason.to_owned() }
}
