//! `windlass bench connections`.

use std::time::Duration;

use super::{Failure, Output, connection::Means};
use crate::{
    bench::connections::{ConnectionsOptions, ConnectionsResult, measure},
    report::{table, units},
};

const AFTER_HELP: &str = "\
Starts a server process and measures a client's pushes of one row: alone, beside idle clients that have \
each pushed one row, and alone again. Memory and descriptors are what the system counts of the processes: \
resident memory that can be shared with peers and devices, or what devices have pinned if that is more.

Examples:
  windlass bench connections --clients 200 --shards 16 --transport shm
  windlass bench connections --clients 1000 --shards 16 --transport tcp --json
  windlass bench connections --clients 1000 --shards 16 --transport shm --kills 20";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Idle clients
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=8000))]
    clients: u32,
    /// Processes that hold them: each connects its clients one after the other, all of them at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    processes: u32,
    /// Shards of the server
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    shards: u16,
    /// Time of each of the working client's three measurements in milliseconds; that beside idle clients \
    /// takes twice as long
    #[arg(long, value_name = "MS", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    slice_ms: u64,
    /// Then kill half of the idle clients N times, while the working one pushes for --slice-ms, and show what that
    /// costs
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    kills: u32,
    #[command(flatten)]
    by: Means,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    windlass_transport::descriptors::raise_limit();
    let options = ConnectionsOptions {
        clients: arguments.clients,
        processes: arguments.processes,
        shards: arguments.shards,
        slice: Duration::from_millis(arguments.slice_ms),
        kills: arguments.kills,
    };
    let connection = arguments.by.connection("")?;
    let result = measure(&options, connection).map_err(Failure::failed)?;
    output.result(&result, || text(&result))
}

fn text(result: &ConnectionsResult) -> String {
    let clients = f64::from(result.clients);
    let each = |beside: u64, alone: u64| beside.saturating_sub(alone) as f64 / clients;
    let memory = each(result.server_pinned_bytes, result.server_pinned_bytes_alone) / 1024.0;
    let descriptors = each(result.server_fds, result.server_fds_alone);
    let among = |active: f64, alone: f64| {
        format!("{} alone, {} among them", units::micros(alone), units::micros(active))
    };
    let mut facts = vec![
        ("transport", result.transport.clone()),
        ("shards", result.shards.to_string()),
        ("idle clients", result.clients.to_string()),
        ("connected in", format!("{:.2} s", result.connect_s)),
        ("forgotten in", format!("{:.2} s", result.leave_s)),
        ("queue pairs", result.queue_pairs.to_string()),
        ("server, for each", format!("{memory:.0} KiB pinned, {descriptors:.1} descriptors")),
        (
            "client, each",
            format!("{:.0} KiB pinned", result.client_pinned_bytes as f64 / clients / 1024.0),
        ),
        ("p50, shards in turn", among(result.active_p50_us, result.alone_p50_us)),
        ("p50, one shard", among(result.active_one_shard_p50_us, result.alone_one_shard_p50_us)),
    ];
    if let Some(kills) = &result.kills {
        let (before, after) = (kills.server_pinned_bytes_before, kills.server_pinned_bytes_after);
        facts.extend([
            ("killed", format!("{} clients, {} times", kills.clients, kills.rounds)),
            (
                "longest push",
                format!(
                    "{} while nobody died, {} while they did",
                    units::micros(kills.undisturbed_longest_push_us),
                    units::micros(kills.longest_push_us)
                ),
            ),
            ("the dead, forgotten in", format!("{:.2} s", kills.forgotten_s)),
            (
                "server, before and after",
                format!(
                    "{} and {} KiB pinned, {} and {} descriptors",
                    before >> 10,
                    after >> 10,
                    kills.server_fds_before,
                    kills.server_fds_after
                ),
            ),
        ]);
    }
    table::facts(&facts)
}
