//! `windlass verify`: are the replicas of every partition equal?

use std::time::Duration;

use super::{
    Failure, Output,
    cluster::{self, ControlArguments},
    token,
};
use crate::{
    replicas::{Compared, Comparison, compare_within},
    report::table,
};

const AFTER_HELP: &str = "\
Compares sums over all values and optimiser state of each partition's replicas, taken at one position \
of its log; waits for replicas that are a little behind. Exits with 1 if any differ; with one copy of each
partition there is nothing to compare, and none does.

JSON keys: epoch; partitions (compared); replicas (compared, over all partitions); divergent: a list of \
partition and replicas (server, lsn, checksum) that differ at one position; apart: the same for those \
that were at no one position within --timeout, as under load.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// How long to wait for replicas to be at one position, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
    #[command(flatten)]
    connection: ControlArguments,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    let ControlArguments { connect, token_file } = &arguments.connection;
    let token = token_file.as_deref().map(token::read).transpose()?;
    let timeout = Duration::from_secs(arguments.timeout);
    let result = compare_within(connect, token.as_deref(), timeout).map_err(cluster::failure)?;
    output.result(&result, || match result.replicas {
        0 => "the cluster keeps one copy of each partition: there is nothing to compare".to_owned(),
        _ => text(&result),
    })?;
    if !result.divergent.is_empty() {
        return Err(Failure::failed(format!(
            "replicas of {} partitions differ: please report this",
            result.divergent.len()
        )));
    }
    if !result.apart.is_empty() {
        return Err(Failure::failed(
            "replicas were not at one position: wait until pushes pause, or longer with --timeout",
        ));
    }
    Ok(())
}

fn text(result: &Comparison) -> String {
    let list = |compared: &[Compared]| {
        let numbers: Vec<String> = compared.iter().map(|one| one.partition.to_string()).collect();
        if numbers.is_empty() { "none".to_owned() } else { numbers.join(", ") }
    };
    table::facts(&[
        ("epoch", result.epoch.to_string()),
        ("partitions", result.partitions.to_string()),
        ("replicas compared", result.replicas.to_string()),
        ("partitions that differ", list(&result.divergent)),
        ("at no one position", list(&result.apart)),
    ])
}
