//! `windlass push` and `windlass pull`: a few rows by hand.

use serde::Serialize;
use windlass_client::{Client, Durability, FilterStack, PullOptions, PushOptions, TableEntry};

use crate::element::{Value, with_dtype};

use super::{
    ExitStatus, Failure, Output,
    connection::ConnectionArguments,
    filters,
    replica::Replica,
    table::{connect, find, remote},
};

/// Most rows that one command shows.
const ROWS_MAX: u64 = 100_000;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  windlass push weights 3=1.5 7=-0.25\n  windlass push embedding 42=0.1,0.2,0.3,0.4"
)]
pub(crate) struct PushArguments {
    /// The table
    table: String,
    /// A row: its key, and as many values as the table is wide
    #[arg(required = true, value_name = "KEY=VALUE,...")]
    rows: Vec<String>,
    /// Acknowledge only what is on disk, whatever the table's durability
    #[arg(long)]
    sync: bool,
    /// Send it through these filters, apart by commas: key-cache, delta-keys, snappy, bf16, f16, fixed:1 to fixed:4
    #[arg(long, value_name = "FILTERS", default_value = "", value_parser = filters::parse)]
    filters: FilterStack,
    #[command(flatten)]
    connection: ConnectionArguments,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  windlass pull weights 3 7\n  windlass pull weights --range 0..10"
)]
pub(crate) struct PullArguments {
    /// The table
    table: String,
    /// Keys of rows
    #[arg(value_name = "KEY", required_unless_present = "range")]
    keys: Vec<u64>,
    /// Rows from a first up to, but not including, a last
    #[arg(long, value_name = "FIRST..LAST", value_parser = range, conflicts_with = "keys")]
    range: Option<(u64, u64)>,
    /// Which replica is read, where rows have several
    #[arg(long, value_name = "REPLICA", default_value = "tail")]
    from: Replica,
    /// Send keys and values through these filters, apart by commas: key-cache, delta-keys, snappy, bf16, f16, fixed:1 to
    /// fixed:4
    #[arg(long, value_name = "FILTERS", default_value = "", value_parser = filters::parse)]
    filters: FilterStack,
    #[command(flatten)]
    connection: ConnectionArguments,
}

/// What `push --json` prints.
#[derive(Serialize)]
struct Pushed<'a> {
    table: &'a str,
    rows: usize,
    timestamp: u64,
}

/// What `pull --json` prints.
#[derive(Serialize)]
struct Pulled<'a> {
    table: &'a str,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    key: u64,
    values: Vec<serde_json::Value>,
}

pub(crate) fn push(arguments: &PushArguments, output: Output) -> Result<(), Failure> {
    let client = connect(&arguments.connection)?;
    let entry = find(&client, &arguments.table)?;
    let timestamp = with_dtype!(entry.schema.dtype, T => {
        let options = PushOptions { sync: arguments.sync, filters: arguments.filters, ..PushOptions::default() };
        push_rows::<T>(&client, &entry, &arguments.rows, &options)
    })?;
    let pushed = Pushed { table: &arguments.table, rows: arguments.rows.len(), timestamp };
    output.result(&pushed, || format!("{} rows pushed and acknowledged", pushed.rows))
}

pub(crate) fn pull(arguments: &PullArguments, output: Output) -> Result<(), Failure> {
    let mut keys = match arguments.range {
        Some((first, last)) => (first..last).collect(),
        None => arguments.keys.clone(),
    };
    keys.sort_unstable();
    keys.dedup();
    let client = connect(&arguments.connection)?;
    let entry = find(&client, &arguments.table)?;
    let options = PullOptions {
        from: arguments.from.pull_from(),
        filters: arguments.filters,
        ..PullOptions::default()
    };
    let rows = with_dtype!(entry.schema.dtype, T => {
        pull_rows::<T>(&client, &entry, &keys, &options)
    })?;
    let pulled = Pulled { table: &arguments.table, rows };
    output.result(&pulled, || {
        let line = |row: &Row| {
            let values: Vec<String> = row.values.iter().map(|value| value.to_string()).collect();
            format!("{}  {}", row.key, values.join(" "))
        };
        pulled.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

fn push_rows<T: Value>(
    client: &Client,
    entry: &TableEntry,
    rows: &[String],
    options: &PushOptions,
) -> Result<u64, Failure> {
    let mut parsed = rows
        .iter()
        .map(|row| parse_row::<T>(row, entry.schema.width))
        .collect::<Result<Vec<_>, String>>()
        .map_err(|text| Failure::new(ExitStatus::Usage, text))?;
    parsed.sort_by_key(|row| row.0);
    if let Some(pair) = parsed.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(Failure::new(
            ExitStatus::Usage,
            format!("key {} stands twice: give each row once", pair[0].0),
        ));
    }
    let keys: Vec<u64> = parsed.iter().map(|row| row.0).collect();
    let values: Vec<T> = parsed.into_iter().flat_map(|row| row.1).collect();
    let table = client.open_table::<T>(&entry.name).map_err(remote)?;
    if options.sync && entry.schema.durability == (Durability::Memory {}) {
        return Err(Failure::failed(format!(
            "table {} is in memory only: create it with --durability interval:MS or sync",
            entry.name
        )));
    }
    let pending = table.push(&keys, &values, options).map_err(remote)?;
    let timestamp = pending.timestamp();
    pending.wait().map_err(remote)?;
    Ok(timestamp.0)
}

fn pull_rows<T: Value>(
    client: &Client,
    entry: &TableEntry,
    keys: &[u64],
    options: &PullOptions,
) -> Result<Vec<Row>, Failure> {
    let table = client.open_table::<T>(&entry.name).map_err(remote)?;
    let values = table.pull(keys, options).and_then(|pending| pending.wait()).map_err(remote)?;
    let width = entry.schema.width as usize;
    let row = |(&key, values): (&u64, &[T])| Row {
        key,
        values: values.iter().map(|value| value.json()).collect(),
    };
    Ok(keys.iter().zip(values.chunks(width)).map(row).collect())
}

fn parse_row<T: Value>(text: &str, width: u32) -> Result<(u64, Vec<T>), String> {
    let (key, values) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is no row: write KEY=VALUE, values apart by commas"))?;
    let key =
        key.parse().map_err(|_| format!("{key:?} is no key: keys are whole numbers from 0"))?;
    let values = values.split(',').map(T::parse).collect::<Result<Vec<T>, String>>()?;
    if values.len() != width as usize {
        return Err(format!(
            "row {key} has {} values, but the table is {width} wide",
            values.len()
        ));
    }
    Ok((key, values))
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let wrong = || "write FIRST..LAST with FIRST below LAST, such as 0..10".to_owned();
    let (first, last) = text.split_once("..").ok_or_else(wrong)?;
    let first: u64 = first.parse().map_err(|_| wrong())?;
    let last: u64 = last.parse().map_err(|_| wrong())?;
    if first >= last {
        return Err(wrong());
    }
    if last - first > ROWS_MAX {
        return Err(format!("a range has at most {ROWS_MAX} rows here; use a program for more"));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_checked_against_the_table() {
        assert_eq!(parse_row::<f32>("3=1,-2.5", 2), Ok((3, vec![1.0, -2.5])));
        assert!(parse_row::<f32>("3=1", 2).unwrap_err().contains("2 wide"));
        assert!(parse_row::<f32>("3", 1).unwrap_err().contains("KEY=VALUE"));
        assert!(parse_row::<i8>("x=1", 1).unwrap_err().contains("no key"));
        assert_eq!(range("2..5"), Ok((2, 5)));
        for text in ["5..2", "5", "..", "0..99999999"] {
            assert!(range(text).is_err());
        }
    }
}
