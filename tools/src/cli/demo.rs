//! `windlass demo`: real training against real servers, in under a minute.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use windlass_client::Consistency;

use super::{Failure, Output, train};
use crate::{
    data::{ClickModel, ClickOptions},
    report::{DemoResult, svg, table, units},
    train::{RunOptions, ServerOptions, Servers, Trained, message::Connection},
    verbs_flags::VerbsFlags,
};

const AFTER_HELP: &str = "\
Generates click data from a known model, starts server and worker processes on this host, trains \
logistic regression, and compares the AUC reached with the best possible one. Every push is also \
counted in a ledger table, which at the end proves that each was applied exactly once.";

const TRAIN_EXAMPLES: u64 = 1_000_000;
const FEATURES: u64 = 20_000;
const EVAL_EXAMPLES: u64 = 50_000;
const EPOCHS: u32 = 3;
const BATCH_EXAMPLES: usize = 512;

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Server processes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    servers: u32,
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
    let folder = Folder::new()?;
    let (data, eval) = (folder.path.join("train.svm"), folder.path.join("eval.svm"));
    eprintln!("windlass: generating {} examples", units::grouped(arguments.examples));
    let options =
        ClickOptions { seed: arguments.seed, features: FEATURES, ..ClickOptions::default() };
    let clicks = ClickModel::new(options).map_err(Failure::failed)?;
    let best_on_train = write(&clicks, &data, 0, arguments.examples)?;
    let best = write(&clicks, &eval, 1, EVAL_EXAMPLES)?;

    eprintln!("windlass: starting {} servers and {} workers", arguments.servers, arguments.workers);
    let servers =
        Servers::start(&ServerOptions { count: arguments.servers, ..ServerOptions::default() })
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
        straggler_ms: 0,
        seed: arguments.seed,
        strict: true,
        table: "demo".to_owned(),
        ledger: true,
    };
    let trained =
        train::watch(&options, &connection, Some(arguments.examples * u64::from(EPOCHS)))?;
    let audit = trained.audit.unwrap_or_default();
    let result = DemoResult {
        auc: trained.quality.auc,
        auc_best: best.auc,
        examples_per_s: train::examples_per_s(&trained),
        acknowledged: audit.acknowledged,
        lost: audit.lost,
        doubled: audit.doubled,
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
            &Truth { logloss: best.logloss, nonzero: clicks.truth().nonzero_count() },
        )
    })?;
    if result.lost + result.doubled > 0 {
        return Err(Failure::failed(format!(
            "{} acknowledged pushes were lost and {} applied twice: please report this",
            result.lost, result.doubled
        )));
    }
    Ok(())
}

/// What the true model achieves, and how sparse it is.
struct Truth {
    logloss: Option<f64>,
    nonzero: usize,
}

fn text(trained: &Trained, result: &DemoResult, truth: &Truth) -> String {
    let quality = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
    let against = |value, best| format!("{} (best possible: {})", quality(value), quality(best));
    #[expect(clippy::cast_precision_loss, reason = "bytes stay below 2^53")]
    let rate = |bytes: u64| units::bytes_per_s(bytes as f64 / trained.seconds.max(1e-9));
    table::facts(&[
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
    ])
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
