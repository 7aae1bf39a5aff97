//! Hugging Face's `safetensors`: many tables a file.
//!
//! ```text
//!  0   8   length of the header
//!  8   n   JSON: {"name": {"dtype": "F32", "shape": [rows, width], "data_offsets": [from, to]}, ..}
//!  ..      rows, at those offsets from here, without gaps
//! ```
//! The crate of that name wants each tensor in memory as a whole, so the few lines of the format are
//! written here; a test reads them with Python's package where there is one.

use std::io::{Read, Write};

use serde_json::{Map, Value, json};
use windlass_wire::DataType;

use super::{ExportError, HEADER_BYTES_MAX, RowSink, RowSource, TableShape, read_rows, write_rows};

const FORMAT: &str = "safetensors";
const METADATA: &str = "__metadata__";

/// Writes tables.
///
/// # Errors
/// When the source or the file fails.
pub fn write(
    tables: &[TableShape],
    source: &mut dyn RowSource,
    to: &mut dyn Write,
) -> Result<(), ExportError> {
    let mut header = Map::new();
    let mut offset = 0_u64;
    for table in tables {
        let bytes = table.bytes().ok_or_else(|| bad("a table is too large"))?;
        let end = offset.checked_add(bytes).ok_or_else(|| bad("the tables are too large"))?;
        let entry = json!({
            "dtype": name_of(table.dtype),
            "shape": if table.is_list { json!([table.rows]) } else { json!([table.rows, table.width]) },
            "data_offsets": [offset, end],
        });
        if header.insert(table.name.clone(), entry).is_some() {
            return Err(bad(&format!("two tables are named {}", table.name)));
        }
        offset = end;
    }
    let mut text = Value::Object(header).to_string();
    // Data starts aligned, for readers that map the file.
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(64) - text.len()));
    to.write_all(&(text.len() as u64).to_le_bytes())?;
    to.write_all(text.as_bytes())?;
    tables.iter().try_for_each(|table| write_rows(table, source, to))
}

/// Reads all tables, in the order of their data. Returns them.
///
/// # Errors
/// When the file is not valid, or the sink refuses.
pub fn read(from: &mut dyn Read, sink: &mut dyn RowSink) -> Result<Vec<TableShape>, ExportError> {
    let tables = read_header(from)?;
    tables.iter().try_for_each(|table| read_rows(table, from, sink))?;
    Ok(tables)
}

/// Reads the header alone.
///
/// # Errors
/// When it is not valid: data must lie without gaps, and shapes must agree with its offsets.
pub fn read_header(from: &mut dyn Read) -> Result<Vec<TableShape>, ExportError> {
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > HEADER_BYTES_MAX {
        return Err(bad("it is too long"));
    }
    let mut text = vec![0; length];
    from.read_exact(&mut text)?;
    let header: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|error| bad(&error.to_string()))?;
    let mut tables = Vec::new();
    for (name, entry) in header.iter().filter(|(name, _)| *name != METADATA) {
        tables.push(parse(name, entry)?);
    }
    tables.sort_by_key(|(start, end, _)| (*start, *end));
    let mut offset = 0;
    for (start, end, table) in &tables {
        if *start != offset || end < start {
            return Err(bad(&format!(
                "the data of {} does not follow the data before",
                table.name
            )));
        }
        let expected = table.bytes().ok_or_else(|| bad("a shape is too large"))?;
        if end - start != expected {
            let found = end - start;
            return Err(ExportError::Length { table: table.name.clone(), expected, found });
        }
        offset = *end;
    }
    Ok(tables.into_iter().map(|(_, _, table)| table).collect())
}

fn parse(name: &str, entry: &Value) -> Result<(u64, u64, TableShape), ExportError> {
    let numbers = |key: &str| -> Option<Vec<u64>> {
        entry.get(key)?.as_array()?.iter().map(Value::as_u64).collect()
    };
    let dtype = entry.get("dtype").and_then(Value::as_str).unwrap_or("");
    let dtype = DataType::ALL
        .into_iter()
        .find(|known| name_of(*known) == dtype)
        .ok_or_else(|| bad(&format!("{name} has type {dtype:?}, which is not known")))?;
    let (rows, width, is_list) = match numbers("shape").as_deref() {
        Some([rows]) => (*rows, 1, true),
        Some([rows, width]) => (*rows, *width, false),
        _ => return Err(bad(&format!("{name} has not one or two dimensions"))),
    };
    let Some([start, end]) =
        numbers("data_offsets").and_then(|list| <[u64; 2]>::try_from(list).ok())
    else {
        return Err(bad(&format!("{name} has no data offsets")));
    };
    Ok((start, end, TableShape { name: name.to_owned(), dtype, rows, width, is_list }))
}

const fn name_of(dtype: DataType) -> &'static str {
    match dtype {
        DataType::F32 => "F32",
        DataType::F64 => "F64",
        DataType::F16 => "F16",
        DataType::Bf16 => "BF16",
        DataType::I8 => "I8",
        DataType::I32 => "I32",
        DataType::I64 => "I64",
        DataType::U64 => "U64",
    }
}

fn bad(reason: &str) -> ExportError {
    ExportError::Header { format: FORMAT, reason: reason.to_owned() }
}
