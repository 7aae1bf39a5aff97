//! `windlass demo`: real training against real servers, in under a minute.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use windlass_client::Consistency;

use super::{ExitStatus, Failure, Output, train};
use crate::{
    data::{ClickModel, ClickOptions, limits::INTERCEPT_KEY},
    drill::{Drill, DrillError, Recovery, busy_head},
    replicas::compare_within,
    report::{DemoResult, svg, table, units},
    train::{RunOptions, ServerOptions, Servers, Straggler, Trained, message::Connection},
    verbs_flags::VerbsFlags,
};

const AFTER_HELP: &str = "\
Generates click data from a known model, starts server and worker processes on this host, trains \
logistic regression, and compares the AUC reached with the best possible one. On the way the server that \
heads the busiest chain is killed, and a new one takes its place, while training goes on. Every push is \
also counted in a ledger table, which at the end proves that each was applied exactly once.

JSON keys: auc, auc_best, examples_per_s, acknowledged, lost, doubled, recovery_ms (from the kill until \
pushes to every partition are acknowledged again; null without replicas), replicas_equal (likewise).";

/// How long replicas may take to be at one position when nobody pushes any more.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(20);
const TRAIN_EXAMPLES: u64 = 1_000_000;
const FEATURES: u64 = 20_000;
const EVAL_EXAMPLES: u64 = 50_000;
const EPOCHS: u32 = 3;
const BATCH_EXAMPLES: usize = 512;

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Server processes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    servers: u32,
    /// Copies of each partition; with 1, no server is killed
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=8))]
    replicas: u8,
    /// Worker processes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Training examples
    #[arg(long, value_name = "N", default_value_t = TRAIN_EXAMPLES)]
    examples: u64,
    /// Seed of model, data and order
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Draw the convergence plot into this SVG file as well
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    if u32::from(arguments.replicas) > arguments.servers {
        let text = format!("--replicas {} needs as many --servers", arguments.replicas);
        return Err(Failure::new(ExitStatus::Usage, text));
    }
    let folder = Folder::new()?;
    let (data, eval) = (folder.path.join("train.svm"), folder.path.join("eval.svm"));
    eprintln!("windlass: generating {} examples", units::grouped(arguments.examples));
    let options =
        ClickOptions { seed: arguments.seed, features: FEATURES, ..ClickOptions::default() };
    let clicks = ClickModel::new(options).map_err(Failure::failed)?;
    let best_on_train = write(&clicks, &data, 0, arguments.examples)?;
    let best = write(&clicks, &eval, 1, EVAL_EXAMPLES)?;

    let servers_text = match arguments.replicas {
        1 => format!("{} servers", arguments.servers),
        replicas => format!("{} servers in chains of {replicas}", arguments.servers),
    };
    eprintln!("windlass: starting {servers_text}, and {} workers", arguments.workers);
    let mut servers = Servers::start(&ServerOptions {
        count: arguments.servers,
        replicas: arguments.replicas,
        ..ServerOptions::default()
    })
    .map_err(Failure::failed)?;
    let connection = Connection {
        address: servers.address().to_owned(),
        transport: None,
        token: None,
        verbs: VerbsFlags::default(),
    };
    let options = RunOptions {
        data,
        eval: Some(eval),
        workers: arguments.workers,
        epochs: EPOCHS,
        batch_examples: BATCH_EXAMPLES,
        alpha: 0.2,
        beta: 1.0,
        l1: 6.0,
        l2: 1.0,
        synchronous: false,
        consistency: Consistency::Eventual {},
        straggler: Straggler::NONE,
        seed: arguments.seed,
        strict: true,
        table: "demo".to_owned(),
        filters: String::new(),
        ledger: true,
    };
    let examples = arguments.examples * u64::from(EPOCHS);
    let (trained, outage) = train_through(&options, &connection, examples, &mut servers)?;
    let audit = trained.audit.unwrap_or_default();
    let result = DemoResult {
        auc: trained.quality.auc,
        auc_best: best.auc,
        examples_per_s: train::examples_per_s(&trained),
        acknowledged: audit.acknowledged,
        lost: audit.lost,
        doubled: audit.doubled,
        recovery_ms: outage.as_ref().map(|outage| outage.recovery.first_push.as_secs_f64() * 1e3),
        replicas_equal: outage.as_ref().map(|outage| outage.replicas_equal),
    };
    let plot = train::loss_plot(&trained, best_on_train.logloss);
    output.text(&plot.render(72, 12))?;
    if let Some(path) = &arguments.svg {
        svg::write(&plot, path).map_err(Failure::failed)?;
    }
    output.result(&result, || {
        text(
            &trained,
            &result,
            outage.as_ref().map(|outage| &outage.recovery),
            &Truth { logloss: best.logloss, nonzero: clicks.truth().nonzero_count() },
        )
    })?;
    if result.lost + result.doubled > 0 || result.replicas_equal == Some(false) {
        return Err(Failure::failed(format!(
            "{} acknowledged pushes were lost and {} applied twice, and replicas equal: {:?}: please \
             report this",
            result.lost, result.doubled, result.replicas_equal
        )));
    }
    Ok(())
}

/// What happened on the way.
struct Outage {
    recovery: Recovery,
    replicas_equal: bool,
}

/// Trains, and a third of the way through kills the server that heads the busiest chain.
fn train_through(
    options: &RunOptions,
    connection: &Connection,
    examples: u64,
    servers: &mut Servers,
) -> Result<(Trained, Option<Outage>), Failure> {
    if servers.coordinator().is_none() {
        return Ok((train::watch(options, connection, Some(examples), |_| {})?, None));
    }
    let (recovery, trained) = thread::scope(|scope| {
        let (sender, is_time) = mpsc::channel();
        let servers = &mut *servers;
        let killer = scope.spawn(move || -> Result<Option<Recovery>, DrillError> {
            // Training that ends before says so by letting go of the channel.
            if is_time.recv().is_err() {
                return Ok(None);
            }
            kill_busiest(connection, &options.table, servers)
        });
        let trained = train::watch(options, connection, Some(examples), move |done| {
            if done >= examples / 3 {
                // The first one counts.
                let _ = sender.send(());
            }
        });
        (killer.join(), trained)
    });
    let recovery = recovery
        .map_err(|_| Failure::failed("the thread that kills servers ended: please report this"))?;
    let (recovery, trained) = (recovery.map_err(Failure::failed)?, trained?);
    let Some(recovery) = recovery else { return Ok((trained, None)) };
    let compared =
        compare_within(servers.address(), None, SETTLE_TIME_MAX).map_err(Failure::failed)?;
    Ok((trained, Some(Outage { recovery, replicas_equal: compared.is_equal() })))
}

fn kill_busiest(
    connection: &Connection,
    table: &str,
    servers: &mut Servers,
) -> Result<Option<Recovery>, DrillError> {
    // Every example has the intercept.
    let Some(victim) = busy_head(connection, table, INTERCEPT_KEY)? else { return Ok(None) };
    let mut drill = Drill::new(connection, windlass_wire::Durability::Memory {})?;
    eprintln!("windlass: killing server {victim}, which heads the busiest chain");
    let recovery = drill.kill_and_replace(servers, victim)?;
    eprintln!(
        "windlass: pushes to all partitions went on after {:.0} ms; server {} took its place",
        recovery.first_push.as_secs_f64() * 1e3,
        recovery.joined
    );
    if !drill.is_exact()? {
        return Err(DrillError::NotExact);
    }
    Ok(Some(recovery))
}

/// What the true model achieves, and how sparse it is.
struct Truth {
    logloss: Option<f64>,
    nonzero: usize,
}

fn text(
    trained: &Trained,
    result: &DemoResult,
    recovery: Option<&Recovery>,
    truth: &Truth,
) -> String {
    let quality = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
    let against = |value, best| format!("{} (best possible: {})", quality(value), quality(best));
    #[expect(clippy::cast_precision_loss, reason = "bytes stay below 2^53")]
    let rate = |bytes: u64| units::bytes_per_s(bytes as f64 / trained.seconds.max(1e-9));
    let mut rows = vec![
        ("AUC", against(result.auc, result.auc_best)),
        ("logloss", against(trained.quality.logloss, truth.logloss)),
        ("examples/s", units::count(result.examples_per_s)),
        ("pushed, pulled", {
            format!("{}, {}", rate(trained.done.bytes_pushed), rate(trained.done.bytes_pulled))
        }),
        ("pull p50, p99", train::latency(&trained.pull_latency)),
        ("push p50, p99", train::latency(&trained.push_latency)),
        ("non-zero weights", {
            let count = units::grouped(trained.model.nonzero_count() as u64);
            format!("{count} (true model: {} of {FEATURES})", truth.nonzero)
        }),
        ("pushes acknowledged", units::grouped(result.acknowledged)),
        ("lost, applied twice", format!("{}, {}", result.lost, result.doubled)),
    ];
    if let Some(recovery) = recovery {
        let Recovery { killed, joined, first_push, .. } = recovery;
        rows.extend([
            ("server killed", format!("{killed}, the head of the busiest chain")),
            ("pushes went on after", format!("{:.0} ms", first_push.as_secs_f64() * 1e3)),
            ("took its place", format!("server {joined}")),
            (
                "replicas equal",
                if result.replicas_equal == Some(true) { "yes" } else { "no" }.into(),
            ),
        ]);
    }
    table::facts(&rows)
}

fn write(
    clicks: &ClickModel,
    path: &Path,
    data_set: u64,
    count: u64,
) -> Result<crate::metrics::Quality, Failure> {
    let failed = |error| {
        Failure::failed(format!("cannot write {}: is there room? ({error})", path.display()))
    };
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
    let summary = clicks.write(&mut out, data_set, count, || {}).map_err(failed)?;
    out.flush().map_err(failed)?;
    Ok(summary.best)
}

/// A folder for the data, removed at the end.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("windlass-demo-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|error| {
            Failure::failed(format!(
                "cannot make the folder {}: set TMPDIR to one with room ({error})",
                path.display()
            ))
        })?;
        Ok(Self { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it is in the temporary folder, where the system clears up.
        let _ = fs::remove_dir_all(&self.path);
    }
}
