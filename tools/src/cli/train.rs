//! `windlass train sparse-lr`.

use std::path::PathBuf;

use windlass_client::Consistency;
use windlass_wire::control::Provider;

use super::{ExitStatus, Failure, Output, connection::Means, consistency, progress};
use crate::{
    data::ReadError,
    report::{Plot, Scale, TrainResult, plot, svg, table, units},
    train::{
        Event, RunError, RunOptions, ServerOptions, Servers, Straggler, Trained,
        message::Connection,
        run::run as train,
        worker_process::{self, ExitCodes},
    },
};

const AFTER_HELP: &str = "\
Minimises the sum over the data of log(1 + exp(-y w.x)), plus l1 |w| + l2/2 |w|^2, by FTRL on the \
servers. (scikit-learn's C is 1 / l2.) The data is LIBSVM, plain or gzip: a label 0/1 or -1/+1, then \
id:value pairs with ids up to 2^63. Malformed lines are reported and counted.

Without --connect, --servers server processes run on this host for as long as the training. With one \
worker and --synchronous, the same data and seed give the same weights to the bit.

Examples:
  windlass train sparse-lr --data train.svm.gz --eval eval.svm.gz --servers 2 --workers 2 --l1 1 --l2 1 --epochs 3
  windlass train sparse-lr --data train.svm --connect 10.0.0.1:7700 --model-out model.txt --json";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Train {
    /// Sparse logistic regression
    SparseLr(Box<Arguments>),
    /// A worker process: its task is on stdin
    #[command(hide = true)]
    Worker,
}

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Train on this file
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Evaluate on this file [default: the training data]
    #[arg(long, value_name = "FILE")]
    eval: Option<PathBuf>,
    /// Stop at the first malformed line
    #[arg(long)]
    strict: bool,
    /// Write the weights here as text, and beside it as .npy
    #[arg(long, value_name = "FILE")]
    model_out: Option<PathBuf>,
    /// Draw loss against examples into this SVG file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Draw loss against examples on the terminal
    #[arg(long)]
    plot: bool,
    #[command(flatten)]
    method: Method,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Method")]
struct Method {
    /// L1 penalty: weights whose evidence stays below it are exactly zero
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = penalty, allow_negative_numbers = true)]
    l1: f64,
    /// L2 penalty
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = penalty, allow_negative_numbers = true)]
    l2: f64,
    /// Passes over the data
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    epochs: u32,
    /// Examples of a batch
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Learning rate of FTRL
    #[arg(long, value_name = "X", default_value_t = 0.1, value_parser = rate)]
    alpha: f64,
    /// Smoothing of the learning rate
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = rate)]
    beta: f64,
    /// Wait for each push before the next pull
    #[arg(long)]
    synchronous: bool,
    /// How far workers may be apart: sequential, bounded:N (a batch is a round), or eventual
    #[arg(long, value_name = "MODEL", default_value = "eventual", value_parser = consistency::parse, conflicts_with = "synchronous")]
    consistency: Consistency,
    /// Slow one worker down by this many milliseconds a batch, to see how long the others wait; which one is
    /// drawn by the seed, again and again
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=60_000))]
    straggler: u64,
    /// Batches for which the worker that was drawn is slow, before the next draw
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    straggler_batches: u64,
    /// Seed of the order of examples
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Cluster")]
struct Cluster {
    /// Worker processes on this host
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: u32,
    /// Server processes on this host [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "connect", value_parser = clap::value_parser!(u32).range(1..=256))]
    servers: Option<u32>,
    /// Use the servers at this address instead
    #[arg(long, value_name = "ADDRESS")]
    connect: Option<String>,
    /// Send pushes and pulls through these filters, apart by commas: key-cache, delta-keys, snappy, bf16, f16, fixed:1 to
    /// fixed:4; and of pushes only the rows that these choose: significance:T, top-k:K, skip:P, kkt. What they hold back is
    /// added to later pushes, and pushed at the end; so is, with residuals:bf16 or residuals:f16, what bf16 or f16 cuts off
    #[arg(long, value_name = "FILTERS", default_value = "", value_parser = super::filters::of_training)]
    filters: String,
    /// Table of the weights; one that exists is trained further
    #[arg(long, value_name = "NAME", default_value = "sparse-lr")]
    table: String,
    #[command(flatten)]
    by: Means,
}

pub(crate) fn run(command: &Train, output: Output) -> Result<(), Failure> {
    match command {
        Train::Worker => worker_process::run(ExitCodes {
            failed: ExitStatus::Failed as u8,
            unreachable: ExitStatus::Unreachable as u8,
            malformed: ExitStatus::Malformed as u8,
        })
        .map_err(Failure::failed),
        Train::SparseLr(arguments) => sparse_lr(arguments, output),
    }
}

fn sparse_lr(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    let (_servers, connection) = cluster(&arguments.cluster)?;
    let options = RunOptions {
        data: arguments.data.clone(),
        eval: arguments.eval.clone(),
        workers: arguments.cluster.workers,
        epochs: arguments.method.epochs,
        batch_examples: arguments.method.batch as usize,
        alpha: arguments.method.alpha,
        beta: arguments.method.beta,
        l1: arguments.method.l1,
        l2: arguments.method.l2,
        synchronous: arguments.method.synchronous,
        consistency: arguments.method.consistency,
        straggler: Straggler {
            delay_ms: arguments.method.straggler,
            batches: arguments.method.straggler_batches,
            seed: arguments.method.seed,
        },
        seed: arguments.method.seed,
        strict: arguments.strict,
        filters: arguments.cluster.filters.clone(),
        table: arguments.cluster.table.clone(),
        ledger: false,
    };
    let trained = watch(&options, &connection, None, |_| {})?;
    if let Some(path) = &arguments.model_out {
        let npy = trained.model.save(path).map_err(Failure::failed)?;
        eprintln!("windlass: weights are in {} and {}", path.display(), npy.display());
    }
    let plot = loss_plot(&trained, None);
    if let Some(path) = &arguments.svg {
        svg::write(&plot, path).map_err(Failure::failed)?;
    }
    let result = result(&trained, &arguments.method);
    output.result(&result, || text(&trained, &result))?;
    if arguments.plot { output.text(&plot.render(72, 12)) } else { Ok(()) }
}

/// Trains with a progress bar; `examples` is how many there will be, if that is known, and
/// `on_progress` is told how many there are.
pub(crate) fn watch(
    options: &RunOptions,
    connection: &Connection,
    examples: Option<u64>,
    mut on_progress: impl FnMut(u64),
) -> Result<Trained, Failure> {
    let bar = match examples {
        Some(examples) => progress::bar(examples, "training"),
        None => progress::spinner("training"),
    };
    let trained = train(options, connection, |event| match event {
        Event::Progress(snapshot) => {
            bar.set_position(snapshot.examples);
            on_progress(snapshot.examples);
            if let Some(loss) = snapshot.recent_logloss {
                bar.set_message(format!("logloss {loss:.4}"));
            }
        }
        Event::Malformed(text) => bar.suspend(|| eprintln!("windlass: skipped {text}")),
        Event::Evaluating => bar.set_message("evaluating"),
    });
    bar.finish_and_clear();
    trained.map_err(failure)
}

/// The loss against examples; `best` is a loss that no model beats, if it is known.
pub(crate) fn loss_plot(trained: &Trained, best: Option<f64>) -> Plot {
    let mut curves = vec![("training".to_owned(), trained.curve.clone())];
    if let (Some(best), Some(first), Some(last)) =
        (best, trained.curve.first(), trained.curve.last())
    {
        let ends = [first.x, last.x].map(|x| plot::Point { x, y: best });
        curves.push(("the true model".to_owned(), ends.to_vec()));
    }
    Plot {
        title: "Convergence".to_owned(),
        x_label: "examples".to_owned(),
        y_label: "logloss before each update".to_owned(),
        scale: Scale::Linear,
        curves,
    }
}

fn result(trained: &Trained, method: &Method) -> TrainResult {
    TrainResult {
        examples: trained.done.examples,
        examples_per_s: examples_per_s(trained),
        logloss: trained.quality.logloss,
        objective: objective(trained, method),
        auc: trained.quality.auc,
        nonzero: trained.model.nonzero_count() as u64,
        bytes_pushed: trained.done.bytes_pushed,
        bytes_pulled: trained.done.bytes_pulled,
        bytes_saved: trained.done.bytes_saved.clone(),
        skipped_lines: trained.skipped_lines,
        consistency: consistency::text(method.consistency),
        idle: trained.idle.clone(),
    }
}

/// Loss and penalties for each example of one pass.
#[expect(clippy::cast_precision_loss, reason = "examples stay below 2^53")]
fn objective(trained: &Trained, method: &Method) -> Option<f64> {
    let examples = trained.done.examples as f64 / f64::from(method.epochs);
    let (sum, squares) = trained.model.norms();
    let penalty = method.l1 * sum + method.l2 / 2.0 * squares;
    (examples > 0.0)
        .then_some(penalty / examples)
        .and_then(|each| Some(trained.quality.logloss? + each))
}

#[expect(clippy::cast_precision_loss, reason = "examples stay below 2^53")]
pub(crate) fn examples_per_s(trained: &Trained) -> f64 {
    if trained.seconds > 0.0 { trained.done.examples as f64 / trained.seconds } else { 0.0 }
}

/// The exit code of a failed run, or of servers that did not start.
pub(crate) fn failure(error: RunError) -> Failure {
    let status = match &error {
        RunError::Worker { exit_code, .. } if *exit_code == ExitStatus::Malformed as u8 => {
            ExitStatus::Malformed
        }
        RunError::Worker { exit_code, .. } if *exit_code == ExitStatus::Unreachable as u8 => {
            ExitStatus::Unreachable
        }
        RunError::Data(ReadError::Malformed(_)) => ExitStatus::Malformed,
        RunError::Remote(error) if error.is_unreachable() => ExitStatus::Unreachable,
        _ => ExitStatus::Failed,
    };
    Failure::new(status, error)
}

fn cluster(cluster: &Cluster) -> Result<(Option<Servers>, Connection), Failure> {
    if let Some(address) = &cluster.connect {
        return Ok((None, cluster.by.connection(address)?));
    }
    let options = ServerOptions {
        count: cluster.servers.unwrap_or(1),
        transports: cluster
            .by
            .transport
            .iter()
            .map(|name: &Provider| name.name().to_owned())
            .collect(),
        verbs: cluster.by.verbs.clone(),
        ..ServerOptions::default()
    };
    let servers = Servers::start(&options).map_err(Failure::failed)?;
    let connection = cluster.by.connection(servers.address())?;
    Ok((Some(servers), connection))
}

fn text(trained: &Trained, result: &TrainResult) -> String {
    let quality = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.5}"));
    #[expect(clippy::cast_precision_loss, reason = "bytes stay below 2^53")]
    let bytes = |count: u64| units::bytes(count as f64);
    let mut rows = vec![
        ("logloss", quality(result.logloss)),
        ("objective", quality(result.objective)),
        ("AUC", quality(result.auc)),
        ("non-zero weights", units::grouped(result.nonzero)),
        ("examples", units::grouped(result.examples)),
        ("examples/s", units::count(result.examples_per_s)),
        ("pushed", bytes(result.bytes_pushed)),
        ("pulled", bytes(result.bytes_pulled)),
        ("pull p50, p99", latency(&trained.pull_latency)),
        ("push p50, p99", latency(&trained.push_latency)),
    ];
    for (filter, &saved) in result.bytes_saved.iter().filter(|(_, saved)| **saved > 0) {
        rows.push(("saved by filters", format!("{} ({filter})", bytes(saved))));
    }
    if trained.idle.iter().any(|&idle| idle > 0.0) {
        let each: Vec<String> =
            trained.idle.iter().map(|idle| format!("{:.0}%", idle * 100.0)).collect();
        rows.push(("waiting, by worker", each.join(" ")));
    }
    if result.skipped_lines > 0 {
        rows.push(("malformed lines", units::grouped(result.skipped_lines)));
    }
    table::facts(&rows)
}

pub(crate) fn latency(latency: &crate::report::Latency) -> String {
    format!(
        "{}, {}",
        units::micros(latency.quantile_us(0.5)),
        units::micros(latency.quantile_us(0.99))
    )
}

fn penalty(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value >= 0.0 && value.is_finite() => Ok(value),
        _ => Err("a penalty is a number from 0".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("a rate is a number above 0".to_owned()),
    }
}
