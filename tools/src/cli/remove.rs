//! `windlass table remove`: rows of a sparse table go.

use serde::Serialize;
use windlass_client::{Client, TableEntry};

use super::{
    Failure, Output,
    connection::ConnectionArguments,
    table::{connect, find, remote},
};
use crate::element::with_dtype;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    windlass table remove embedding 42 77\n  \
    windlass table remove embedding --below 0.001")]
pub(crate) struct Arguments {
    /// The table, a sparse one
    name: String,
    /// Keys of rows; those that have none are passed over
    #[arg(value_name = "KEY", required_unless_present = "below", conflicts_with = "below")]
    keys: Vec<u64>,
    /// Remove every row whose values have a Euclidean norm below this
    #[arg(long, value_name = "NORM", allow_hyphen_values = true)]
    below: Option<f64>,
    #[command(flatten)]
    connection: ConnectionArguments,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Removed<'a> {
    table: &'a str,
    /// Rows there were.
    rows: u64,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    let client = connect(&arguments.connection)?;
    let entry = find(&client, &arguments.name)?;
    let rows = with_dtype!(entry.schema.dtype, T => remove::<T>(&client, &entry, arguments))?;
    let removed = Removed { table: &arguments.name, rows };
    output.result(&removed, || match rows {
        1 => "1 row is removed".to_owned(),
        rows => format!("{rows} rows are removed"),
    })
}

fn remove<T: windlass_client::Element>(
    client: &Client,
    entry: &TableEntry,
    arguments: &Arguments,
) -> Result<u64, Failure> {
    let table = client.open_table::<T>(&entry.name).map_err(remote)?;
    let removed = match arguments.below {
        Some(norm) => table.remove_below(norm),
        None => table.remove(&arguments.keys),
    };
    removed.map_err(remote)
}
