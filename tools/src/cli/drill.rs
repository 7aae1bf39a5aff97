//! `windlass drill`: servers killed under load, again and again.

use std::path::PathBuf;

use serde::Serialize;
use windlass_wire::Durability;

use super::{ExitStatus, Failure, Output, progress};
use crate::{
    drill::{Drill, Ledger, Writers},
    report::{Latency, table, units},
    train::{ServerOptions, Servers, message::Connection},
    verbs_flags::VerbsFlags,
};

const AFTER_HELP: &str = "\
Starts a coordinator and servers on this host, and writers that push all the time. Kills one server \
after another with SIGKILL, measures until a push to every partition is acknowledged again, has a new \
server take the place, and compares all replicas. At the end every acknowledged push must be there \
exactly once. Exits with 1 if one is lost or doubled, or if replicas ever differ.

JSON keys: kills; recovery_p50_ms, recovery_p99_ms, recovery_max_ms (from the kill until every partition \
takes pushes); whole_p50_ms (from the new server's start until every chain is whole); acknowledged, \
lost, doubled (pushes); divergent (partitions with unequal replicas, over all comparisons).";

/// Between two kills, so that a push is under way at any point of the next.
const BETWEEN: std::time::Duration = std::time::Duration::from_millis(200);

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Servers to kill, one after another
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    kills: u32,
    /// Server processes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=64))]
    servers: u32,
    /// Copies of each partition
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=8))]
    replicas: u8,
    /// Writers
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    writers: u32,
    /// Transports that the servers offer [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    transports: Vec<String>,
    /// How the tables pushed to are kept: memory, interval:MS or sync. With other than memory the server
    /// killed comes back with its data directory instead of a new one
    #[arg(long, value_name = "LEVEL", value_parser = super::table::durability, default_value = "memory")]
    durability: Durability,
    /// A new directory, in which each server keeps one
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Seed of who is killed
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    verbs: VerbsFlags,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct DrillResult {
    kills: u32,
    recovery_p50_ms: f64,
    recovery_p99_ms: f64,
    recovery_max_ms: f64,
    whole_p50_ms: f64,
    acknowledged: u64,
    lost: u64,
    doubled: u64,
    divergent: usize,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    if u32::from(arguments.replicas) > arguments.servers {
        let text = format!("--replicas {} needs as many --servers", arguments.replicas);
        return Err(Failure::new(ExitStatus::Usage, text));
    }
    if arguments.durability != (Durability::Memory {}) && arguments.data_dir.is_none() {
        let text =
            "a durability other than memory needs --data-dir DIR, a new one, for the servers";
        return Err(Failure::new(ExitStatus::Usage, text));
    }
    let mut servers = Servers::start(&ServerOptions {
        data: arguments.data_dir.clone(),
        count: arguments.servers,
        replicas: arguments.replicas,
        transports: arguments.transports.clone(),
        memory_bytes: 256 << 20,
        verbs: arguments.verbs.clone(),
        ..ServerOptions::default()
    })
    .map_err(Failure::failed)?;
    let connection = |servers: &Servers| Connection {
        address: servers.address().to_owned(),
        transport: None,
        token: None,
        verbs: arguments.verbs.clone(),
    };
    let mut drill =
        Drill::new(&connection(&servers), arguments.durability).map_err(Failure::failed)?;
    let writers = Writers::start(&connection(&servers), arguments.writers, arguments.durability);
    let bar = progress::bar(u64::from(arguments.kills), "kills");
    let (mut first_pushes, mut wholes, mut divergent) = (Latency::new(), Latency::new(), 0);
    let mut random = arguments.seed;
    for _ in 0..arguments.kills {
        std::thread::sleep(BETWEEN);
        let alive = servers.ids();
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = usize::try_from(random >> 33).unwrap_or_default() % alive.len();
        let recovery = drill.kill_and_replace(&mut servers, alive[at]).map_err(Failure::failed)?;
        first_pushes.record(recovery.first_push);
        wholes.record(recovery.whole);
        writers.pause().map_err(Failure::failed)?;
        let compared = drill.compare(&servers).map_err(Failure::failed)?;
        for one in compared.divergent.iter().chain(&compared.apart) {
            tracing::error!(?one, killed = recovery.killed.0, "replicas differ");
        }
        divergent += compared.divergent.len() + compared.apart.len();
        writers.go_on();
        tracing::info!(killed = recovery.killed.0, first_push = ?recovery.first_push, whole = ?recovery.whole, "recovered");
        bar.inc(1);
        bar.set_message(format!(
            "recovered in {:.0} ms, {} pushes",
            recovery.first_push.as_secs_f64() * 1e3,
            units::grouped(writers.acknowledged())
        ));
    }
    bar.finish_and_clear();
    let pushes = writers.end().map_err(Failure::failed)?;
    let audit = Ledger::audit(&connection(&servers), &pushes).map_err(Failure::failed)?;
    let exact = drill.is_exact().map_err(Failure::failed)?;
    let result = DrillResult {
        kills: arguments.kills,
        recovery_p50_ms: first_pushes.quantile_us(0.5) / 1e3,
        recovery_p99_ms: first_pushes.quantile_us(0.99) / 1e3,
        recovery_max_ms: first_pushes.quantile_us(1.0) / 1e3,
        whole_p50_ms: wholes.quantile_us(0.5) / 1e3,
        acknowledged: audit.acknowledged,
        lost: audit.lost,
        doubled: audit.doubled,
        divergent,
    };
    output.result(&result, || text(&result))?;
    if result.lost + result.doubled > 0 || result.divergent > 0 || !exact {
        return Err(Failure::failed(format!(
            "{} acknowledged pushes were lost, {} applied twice, {} partitions had unequal replicas, \
             and pushes to all partitions were {}: please report this",
            result.lost,
            result.doubled,
            result.divergent,
            if exact { "exact" } else { "not exact" }
        )));
    }
    Ok(())
}

fn text(result: &DrillResult) -> String {
    let ms = |value: f64| format!("{value:.0} ms");
    table::facts(&[
        ("servers killed", result.kills.to_string()),
        ("until pushes go on, p50", ms(result.recovery_p50_ms)),
        ("p99", ms(result.recovery_p99_ms)),
        ("longest", ms(result.recovery_max_ms)),
        ("until chains are whole, p50", ms(result.whole_p50_ms)),
        ("pushes acknowledged", units::grouped(result.acknowledged)),
        ("lost, applied twice", format!("{}, {}", result.lost, result.doubled)),
        ("partitions with unequal replicas", result.divergent.to_string()),
    ])
}
