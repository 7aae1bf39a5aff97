//! The worker's loop: read a batch, pull its weights, push its gradient.
//!
//! Asynchronously, the weights of the next batch are already under way while this one is computed,
//! and pushes are not waited for; so a gradient may be one batch old, besides what other workers do.
//! Synchronously, each push is acknowledged before the next pull: with one worker the result is then
//! the same to the bit, run after run. In rounds, a batch is a round of the worker's clock: the push
//! belongs to it, and the next pull waits for slower workers as long as the table says.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{Parameters, Problem, Source};
use crate::{
    data::{Batch, ReadError},
    metrics::LogLoss,
    report::Latency,
};

const KEY_BYTES: u64 = 8;
const VALUE_BYTES: u64 = 4;

/// When a worker goes on to its next batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pace {
    /// Without waiting for pushes.
    Asynchronous,
    /// After its push is acknowledged.
    Synchronous,
    /// When its clock has gone on, and slower workers are near enough.
    InRounds,
}

/// What a worker has done.
#[derive(Clone, Debug, Default)]
pub struct WorkerTotals {
    /// Examples trained on.
    pub examples: u64,
    /// Loss of every example before its own update: an honest estimate of progress without an
    /// evaluation set.
    pub loss: LogLoss,
    /// Pushes, all of them acknowledged once the loop has ended.
    pub pushes: u64,
    /// Keys and values pushed.
    pub bytes_pushed: u64,
    /// Keys and values pulled.
    pub bytes_pulled: u64,
    /// From asking for rows to having them; what was hidden behind other work included.
    pub pull_latency: Latency,
    /// From pushing to being able to go on.
    pub push_latency: Latency,
}

/// Why a worker stopped early.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError<E: std::error::Error + 'static> {
    /// Its data cannot be read.
    #[error(transparent)]
    Data(#[from] ReadError),
    /// The servers refused or are gone.
    #[error(transparent)]
    Parameters(E),
}

/// One batch on its way through the loop.
struct Slot<P> {
    batch: Batch,
    problem: Problem,
    pull: Option<(P, Instant)>,
}

/// Trains until the source is exhausted, over the batch of each number longer by `delay` than it takes.
/// `on_batch` is told the totals after every batch.
pub fn run<P: Parameters>(
    source: &mut Source,
    parameters: &mut P,
    pace: Pace,
    delay: impl Fn(u64) -> Duration,
    mut on_batch: impl FnMut(&WorkerTotals, &mut Source),
) -> Result<WorkerTotals, WorkerError<P::Error>> {
    let mut totals = WorkerTotals::default();
    let mut current = Slot { batch: Batch::default(), problem: Problem::default(), pull: None };
    let mut next = Slot { batch: Batch::default(), problem: Problem::default(), pull: None };
    let (mut rows, mut gradient) = (Vec::new(), Vec::new());
    begin(source, parameters, &mut current)?;
    while let Some((pull, asked)) = current.pull.take() {
        if pace == Pace::Asynchronous {
            begin(source, parameters, &mut next)?;
        }
        parameters.finish_pull(pull, &mut rows).map_err(WorkerError::Parameters)?;
        totals.pull_latency.record(asked.elapsed());

        let loss = current.problem.gradient(&current.batch, &rows, &mut gradient);
        let delay = delay(totals.pushes);
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        let keys = current.problem.keys();
        let pushed = Instant::now();
        parameters.push(keys, &rows, &gradient).map_err(WorkerError::Parameters)?;
        match pace {
            Pace::Asynchronous => {}
            Pace::Synchronous => parameters.wait_for_pushes().map_err(WorkerError::Parameters)?,
            Pace::InRounds => parameters.end_round().map_err(WorkerError::Parameters)?,
        }
        totals.push_latency.record(pushed.elapsed());

        let bytes = keys.len() as u64 * (KEY_BYTES + VALUE_BYTES);
        totals.bytes_pulled += bytes;
        totals.bytes_pushed += bytes;
        totals.pushes += 1;
        totals.examples += loss.count();
        totals.loss.merge(loss);
        on_batch(&totals, source);
        if pace != Pace::Asynchronous {
            begin(source, parameters, &mut next)?;
        }
        std::mem::swap(&mut current, &mut next);
    }
    let held = parameters.push_held().map_err(WorkerError::Parameters)?;
    totals.bytes_pushed += held as u64 * (KEY_BYTES + VALUE_BYTES);
    parameters.wait_for_pushes().map_err(WorkerError::Parameters)?;
    Ok(totals)
}

/// Reads the next batch into `slot` and asks for its rows; leaves no pull at the end of the data.
fn begin<P: Parameters>(
    source: &mut Source,
    parameters: &mut P,
    slot: &mut Slot<P::Pull>,
) -> Result<(), WorkerError<P::Error>> {
    if source.next(&mut slot.batch)? {
        slot.problem.prepare(&slot.batch);
        let asked = Instant::now();
        let pull = parameters.begin_pull(slot.problem.keys()).map_err(WorkerError::Parameters)?;
        slot.pull = Some((pull, asked));
    }
    Ok(())
}
