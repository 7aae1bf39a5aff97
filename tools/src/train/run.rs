//! A training run: the table is made, worker processes train, the result is evaluated.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Instant,
};

use super::{
    Filters, Pace, Parameters, Problem, SourceOptions, Straggler,
    message::{Connection, Done, Report, Task},
    weights::Weights,
};
use crate::{
    data::{
        Batch, LibsvmReader, MalformedLine, Model, ReadError, Share, Strictness,
        limits::INTERCEPT_KEY,
    },
    metrics::Quality,
    process::{Process, ProcessError},
    remote::RemoteError,
    report::{Latency, Point},
};
use windlass_client::{Consistency, Limits, RequestError, UpdateRule};

/// Examples read, or keys pulled, at a time when a model is evaluated or fetched.
const CHUNK: usize = 8192;

/// What to train, and how.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Training examples.
    pub data: PathBuf,
    /// Examples to evaluate on; the training examples if there are none.
    pub eval: Option<PathBuf>,
    /// Worker processes, from 1.
    pub workers: u32,
    /// Passes over the data.
    pub epochs: u32,
    /// Examples of a batch.
    pub batch_examples: usize,
    /// FTRL's learning rate.
    pub alpha: f64,
    /// FTRL's smoothing of it.
    pub beta: f64,
    /// L1 penalty of the objective, the sum of losses over one pass.
    pub l1: f64,
    /// L2 penalty of the same.
    pub l2: f64,
    /// Whether workers wait for their pushes.
    pub synchronous: bool,
    /// How far workers may be apart; eventual: as far as they get.
    pub consistency: Consistency,
    /// Who is slow, to see what the others wait.
    pub straggler: Straggler,
    /// Seed of the order of examples.
    pub seed: u64,
    /// Whether a malformed line ends the run.
    pub strict: bool,
    /// Filters of workers' pushes and pulls, apart by commas; may be empty.
    pub filters: String,
    /// Table of the weights.
    pub table: String,
    /// Whether to prove that every acknowledged push was applied exactly once.
    pub ledger: bool,
}

impl RunOptions {
    fn pace(&self) -> Pace {
        match self.consistency {
            Consistency::Eventual {} if self.synchronous => Pace::Synchronous,
            Consistency::Eventual {} => Pace::Asynchronous,
            Consistency::Sequential {} | Consistency::Bounded { .. } => Pace::InRounds,
        }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Examples so far, over all workers.
    pub examples: u64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Mean loss of the last examples, each before its own update.
    pub recent_logloss: Option<f64>,
}

/// Progress messages for the user.
#[derive(Clone, Debug)]
pub enum Event {
    /// Some more examples are done.
    Progress(Snapshot),
    /// A line of the data is no example.
    Malformed(String),
    /// Training is over; the model is being evaluated.
    Evaluating,
}

/// The result.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Sums over all workers.
    pub done: Done,
    /// Pushes acknowledged of each worker, by rank.
    pub pushes: Vec<u64>,
    /// Of each worker's time, the part spent waiting for slower workers, by rank.
    pub idle: Vec<f64>,
    /// Seconds from the first worker's start to the last one's end.
    pub seconds: f64,
    /// Quality on the evaluation data.
    pub quality: Quality,
    /// Malformed lines of the data, and of the evaluation data if that is another file.
    pub skipped_lines: u64,
    /// The weights.
    pub model: Model,
    /// Times of pulls, over all workers.
    pub pull_latency: Latency,
    /// Times of pushes, over all workers.
    pub push_latency: Latency,
    /// Loss against examples.
    pub curve: Vec<Point>,
    /// What became of the acknowledged pushes, if a ledger was kept.
    pub audit: Option<Audit>,
}

/// What a ledger proves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Pushes that were acknowledged.
    pub acknowledged: u64,
    /// Acknowledged pushes that no server holds.
    pub lost: u64,
    /// Pushes applied more than once.
    pub doubled: u64,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file cannot be read.
    #[error(transparent)]
    Data(#[from] ReadError),
    /// The servers refused or are gone.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// A worker could not be started or vanished.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A worker gave up.
    #[error("worker {rank}: {text}")]
    Worker {
        /// Which one.
        rank: u32,
        /// Why.
        text: String,
        /// The exit code it asks for.
        exit_code: u8,
    },
}

/// Trains and evaluates. `on_event` is called from this thread.
pub fn run(
    options: &RunOptions,
    connection: &Connection,
    mut on_event: impl FnMut(Event),
) -> Result<Trained, RunError> {
    // A missing file is better known before anything is started.
    let eval = options.eval.as_deref().unwrap_or(&options.data);
    for path in [options.data.as_path(), eval] {
        LibsvmReader::open(path, Share::WHOLE, Strictness::Lenient)?;
    }
    let penalty_scale = f64::from(options.epochs.max(1));
    // FTRL weighs its penalties against the gradients of all epochs together.
    let rule = UpdateRule::Ftrl {
        limits: Limits::NONE,
        alpha: options.alpha,
        beta: options.beta,
        l1: options.l1 * penalty_scale,
        l2: options.l2 * penalty_scale,
    };
    check_filters(&options.filters, &rule)?;
    let ledger = options.ledger.then(|| format!("{}/ledger", options.table));
    let mut weights =
        Weights::create(connection, &options.table, rule, options.consistency, ledger.as_deref())?;
    let mut trained = train(options, connection, ledger, &mut on_event)?;
    on_event(Event::Evaluating);
    let (quality, skipped_in_eval) = evaluate(&mut weights, eval)?;
    trained.quality = quality;
    if options.eval.is_some() {
        trained.skipped_lines += skipped_in_eval;
    }
    trained.model = fetch(&mut weights, &options.data)?;
    if options.ledger {
        trained.audit = Some(weights.audit(&trained.pushes)?);
    }
    Ok(trained)
}

/// Refuses filters that do not suit the rule before a table is made.
fn check_filters(text: &str, rule: &UpdateRule) -> Result<(), RemoteError> {
    let sparsifier = text.parse().and_then(|filters: Filters| filters.sparsifier(1, rule));
    sparsifier.map(drop).map_err(RequestError::from)?;
    Ok(())
}

fn train(
    options: &RunOptions,
    connection: &Connection,
    ledger: Option<String>,
    on_event: &mut impl FnMut(Event),
) -> Result<Trained, RunError> {
    let start = Instant::now();
    let (sender, reports) = mpsc::channel();
    for rank in 0..options.workers {
        let mut process =
            Process::start(&format!("worker {rank}"), &["train".into(), "worker".into()])?;
        process.tell(&Task {
            connection: connection.clone(),
            table: options.table.clone(),
            ledger: ledger.clone(),
            filters: options.filters.clone(),
            source: SourceOptions {
                path: options.data.clone(),
                rank: u64::from(rank),
                workers: u64::from(options.workers),
                batch_examples: options.batch_examples,
                epochs: options.epochs,
                seed: options.seed,
                strict: options.strict,
            },
            pace: options.pace(),
            straggler: options.straggler,
        })?;
        let sender = sender.clone();
        // The thread ends with its process, and that when we let go of the channel's other end:
        // `listen` then drops the process.
        thread::spawn(move || listen(rank, process, &sender));
    }
    drop(sender);

    let mut totals = Totals::new(options.workers);
    for (rank, report) in reports {
        match report? {
            Report::Progress(progress) => {
                totals.add_progress(progress.examples, progress.loss_sum);
                on_event(Event::Progress(totals.snapshot(start)));
            }
            Report::Malformed { text } => on_event(Event::Malformed(text)),
            Report::Done(done) => totals.add_done(rank, &done),
            Report::Failed { text, exit_code } => {
                return Err(RunError::Worker { rank, text, exit_code });
            }
        }
    }
    let Totals { done, pushes, idle, pull_latency, push_latency, curve, .. } = totals;
    Ok(Trained {
        skipped_lines: done.skipped_lines,
        done,
        pushes,
        idle,
        seconds: start.elapsed().as_secs_f64(),
        quality: Quality { logloss: None, auc: None },
        model: Model::default(),
        pull_latency,
        push_latency,
        curve,
        audit: None,
    })
}

/// Passes on what a worker says until it ends, or until nobody listens any more.
fn listen(
    rank: u32,
    mut process: Process,
    sender: &mpsc::Sender<(u32, Result<Report, ProcessError>)>,
) {
    loop {
        let report = match process.hear() {
            Ok(Some(report)) => Ok(report),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let is_last = report.is_err();
        if sender.send((rank, report)).is_err() || is_last {
            return;
        }
    }
}

struct Totals {
    pushes: Vec<u64>,
    idle: Vec<f64>,
    done: Done,
    pull_latency: Latency,
    push_latency: Latency,
    examples: u64,
    curve: Vec<Point>,
    recent_logloss: Option<f64>,
}

impl Totals {
    fn new(workers: u32) -> Self {
        Self {
            pushes: vec![0; workers as usize],
            idle: vec![0.0; workers as usize],
            done: Done::default(),
            pull_latency: Latency::new(),
            push_latency: Latency::new(),
            examples: 0,
            curve: Vec::new(),
            recent_logloss: None,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "examples stay below 2^53")]
    fn add_progress(&mut self, examples: u64, loss_sum: f64) {
        if examples == 0 {
            return;
        }
        let mean = loss_sum / examples as f64;
        self.examples += examples;
        // Reports of different workers are samples of one curve; a little smoothing joins them.
        let smoothed = self.recent_logloss.map_or(mean, |last| 0.7 * last + 0.3 * mean);
        self.recent_logloss = Some(smoothed);
        self.curve.push(Point { x: self.examples as f64, y: smoothed });
    }

    #[expect(clippy::cast_precision_loss, reason = "microseconds stay below 2^53")]
    fn add_done(&mut self, rank: u32, done: &Done) {
        if let Some(idle) = self.idle.get_mut(rank as usize) {
            *idle = done.idle_us as f64 / done.loop_us.max(1) as f64;
        }
        if let Some(pushes) = self.pushes.get_mut(rank as usize) {
            *pushes = done.pushes;
        }
        self.done.examples += done.examples;
        self.done.pushes += done.pushes;
        self.done.bytes_pushed += done.bytes_pushed;
        self.done.bytes_pulled += done.bytes_pulled;
        self.done.skipped_lines += done.skipped_lines;
        for (filter, bytes) in &done.bytes_saved {
            *self.done.bytes_saved.entry(filter.clone()).or_default() += bytes;
        }
        self.pull_latency.merge(&Latency::from_counts(&done.pull_latency));
        self.push_latency.merge(&Latency::from_counts(&done.push_latency));
    }

    fn snapshot(&self, start: Instant) -> Snapshot {
        Snapshot {
            examples: self.examples,
            seconds: start.elapsed().as_secs_f64(),
            recent_logloss: self.recent_logloss,
        }
    }
}

/// Quality on a file, and how many of its lines are malformed.
fn evaluate(weights: &mut Weights, path: &Path) -> Result<(Quality, u64), RunError> {
    let mut reader = LibsvmReader::open(path, Share::WHOLE, Strictness::Lenient)?;
    let (mut batch, mut problem, mut rows) = (Batch::default(), Problem::default(), Vec::new());
    let (mut probabilities, mut labels) = (Vec::new(), Vec::new());
    while reader.read(&mut batch, CHUNK)? > 0 {
        problem.prepare(&batch);
        let pull = weights.begin_pull(problem.keys())?;
        weights.finish_pull(pull, &mut rows)?;
        problem.predict(&batch, &rows, &mut probabilities);
        labels.extend_from_slice(batch.labels());
        batch.clear();
    }
    Ok((Quality::of(&probabilities, &labels), reader.skipped_count()))
}

/// The weights of all features of a file. Their ids are held in memory.
fn fetch(weights: &mut Weights, path: &Path) -> Result<Model, RunError> {
    let mut reader = LibsvmReader::open(path, Share::WHOLE, Strictness::Lenient)?;
    let mut batch = Batch::default();
    let mut ids = BTreeSet::from([INTERCEPT_KEY]);
    while reader.read(&mut batch, CHUNK)? > 0 {
        ids.extend(batch.ids());
        batch.clear();
    }
    let ids: Vec<u64> = ids.into_iter().collect();
    let (mut values, mut rows) = (Vec::with_capacity(ids.len()), Vec::new());
    for keys in ids.chunks(CHUNK) {
        let pull = weights.begin_pull(keys)?;
        weights.finish_pull(pull, &mut rows)?;
        values.extend_from_slice(&rows);
    }
    Ok(Model::from_rows(&ids, &values))
}

impl From<MalformedLine> for Report {
    fn from(line: MalformedLine) -> Self {
        Self::Malformed { text: line.to_string() }
    }
}
