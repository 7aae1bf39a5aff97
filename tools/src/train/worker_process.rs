//! A worker as a process of its own: its task on stdin, its reports on stdout.

use std::{
    error::Error,
    io::{self, BufRead, Write},
    thread,
    time::{Duration, Instant},
};

use super::{
    Source, WorkerError, WorkerTotals,
    message::{Done, Progress, Report, Task},
    weights::Weights,
    worker,
};
use crate::{data::ReadError, process::wait_for_parent_to_go, remote::RemoteError};

const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// Exit codes of failed workers, as the command documents them.
#[derive(Clone, Copy, Debug)]
pub struct ExitCodes {
    /// The work failed.
    pub failed: u8,
    /// The servers are out of reach.
    pub unreachable: u8,
    /// The data is malformed.
    pub malformed: u8,
}

/// Does the task on stdin. A failure is reported on stdout, where the parent reads it.
pub fn run(codes: ExitCodes) -> io::Result<()> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let task: Task = serde_json::from_str(&line)?;
    thread::spawn(|| {
        wait_for_parent_to_go();
        // Nobody is left who wants the result.
        std::process::exit(1);
    });
    let report = match train(&task) {
        Ok(done) => Report::Done(done),
        Err(error) => {
            Report::Failed { text: describe(&error), exit_code: exit_code(&error, codes) }
        }
    };
    say(&report)
}

fn train(task: &Task) -> Result<Done, WorkerError<RemoteError>> {
    let mut source = Source::open(task.source.clone())?;
    let mut weights = Weights::open(task).map_err(WorkerError::Parameters)?;
    let started = Instant::now();
    let delay = |batch| task.straggler.delay(task.source.rank, task.source.workers, batch);
    let mut reported = (0, 0.0);
    let mut last = Instant::now();
    let on_batch = |totals: &WorkerTotals, source: &mut Source| {
        for malformed in source.take_malformed() {
            tell(&malformed.into());
        }
        if last.elapsed() >= REPORT_INTERVAL {
            last = Instant::now();
            reported = tell_progress(totals, reported);
        }
    };
    let totals = worker::run(&mut source, &mut weights, task.pace, delay, on_batch)?;
    let loop_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    tell_progress(&totals, reported);
    for malformed in source.take_malformed() {
        tell(&malformed.into());
    }
    Ok(Done {
        examples: totals.examples,
        pushes: totals.pushes,
        bytes_pushed: totals.bytes_pushed,
        bytes_pulled: totals.bytes_pulled,
        bytes_saved: weights.bytes_saved(),
        skipped_lines: source.skipped_count(),
        idle_us: weights.idle_us(),
        loop_us,
        pull_latency: totals.pull_latency.counts(),
        push_latency: totals.push_latency.counts(),
    })
}

/// Reports what was done since the last time, and returns what is reported now.
fn tell_progress(totals: &WorkerTotals, (examples, loss_sum): (u64, f64)) -> (u64, f64) {
    let now = (totals.examples, totals.loss.sum());
    tell(&Report::Progress(Progress { examples: now.0 - examples, loss_sum: now.1 - loss_sum }));
    now
}

/// Says something that the result does not hang on. If nobody listens, the parent is gone, and the
/// thread that waits for that ends this process.
fn tell(report: &Report) {
    if let Err(error) = say(report) {
        tracing::debug!(%error, "the parent does not listen");
    }
}

fn say(report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

fn exit_code(error: &WorkerError<RemoteError>, codes: ExitCodes) -> u8 {
    match error {
        WorkerError::Data(ReadError::Malformed(_)) => codes.malformed,
        WorkerError::Parameters(error) if error.is_unreachable() => codes.unreachable,
        _ => codes.failed,
    }
}

fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
