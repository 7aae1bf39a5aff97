//! `windlass table scan`: the rows of a sparse table.

use serde::Serialize;
use windlass_client::{Client, ScanBatch, ScanColumns, ScanCursor, ScanOptions, TableEntry};

use super::{
    ExitStatus, Failure, Output,
    connection::ConnectionArguments,
    replica::Replica,
    table::{connect, find, remote},
};
use crate::element::{Value, with_dtype};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The table, a sparse one
    name: String,
    /// Print keys only
    #[arg(long)]
    keys: bool,
    /// Print so many rows at least, where there are as many, and where to go on
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: u64,
    /// Go on behind the rows that an earlier scan printed with this cursor
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<ScanCursor>,
    /// Which replica of the rows is read
    #[arg(long, value_name = "REPLICA", default_value = "tail")]
    from: Replica,
    #[command(flatten)]
    connection: ConnectionArguments,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Scanned<'a> {
    table: &'a str,
    rows: Vec<Row>,
    /// Where the next scan goes on, unless these were the last.
    cursor: Option<String>,
}

#[derive(Serialize)]
struct Row {
    key: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<Vec<serde_json::Value>>,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    if arguments.limit == 0 {
        return Err(Failure::new(ExitStatus::Usage, "--limit is at least 1".to_owned()));
    }
    let client = connect(&arguments.connection)?;
    let entry = find(&client, &arguments.name)?;
    let (rows, cursor) =
        with_dtype!(entry.schema.dtype, T => scan::<T>(&client, &entry, arguments))?;
    let cursor = (!cursor.is_at_end()).then(|| cursor.to_string());
    let scanned = Scanned { table: &arguments.name, rows, cursor };
    output.result(&scanned, || {
        let line = |row: &Row| {
            let values = row.values.iter().flatten().map(|value| value.to_string());
            let words: Vec<String> = values.collect();
            format!("{}  {}", row.key, words.join(" ")).trim_end().to_owned()
        };
        let mut lines: Vec<String> = scanned.rows.iter().map(line).collect();
        lines.push(match &scanned.cursor {
            Some(cursor) => format!("there may be more: go on with --cursor {cursor}"),
            None if scanned.rows.is_empty() => "no rows".to_owned(),
            None => return lines.join("\n"),
        });
        lines.join("\n")
    })
}

fn scan<T: Value>(
    client: &Client,
    entry: &TableEntry,
    arguments: &Arguments,
) -> Result<(Vec<Row>, ScanCursor), Failure> {
    let table = client.open_table::<T>(&entry.name).map_err(remote)?;
    let columns = if arguments.keys { ScanColumns::Keys } else { ScanColumns::Values };
    let rows_max = u32::try_from(arguments.limit).unwrap_or(u32::MAX);
    let options = ScanOptions { columns, rows_max, from: arguments.from.pull_from() };
    let mut scan = match arguments.cursor {
        Some(cursor) => table.scan_from(cursor, &options),
        None => table.scan(&options),
    }
    .map_err(remote)?;
    let (mut rows, mut batch) = (Vec::new(), ScanBatch::default());
    let width = entry.schema.width as usize;
    while (rows.len() as u64) < arguments.limit && scan.next_into(&mut batch).map_err(remote)? {
        let mut values = batch.values.chunks(width);
        rows.extend(batch.keys.iter().map(|key| Row {
            key: *key,
            values: values.next().map(|row| row.iter().map(|value| value.json()).collect()),
        }));
    }
    Ok((rows, scan.cursor()))
}
