//! A range clock as bytes, for checkpoints and catch-up. Equal clocks have equal bytes.
//!
//! ```text
//! 0         4
//! | workers | worker entries ...
//! 0      4      5       9
//! | rank | live | steps | steps: first row (8) | clock (8) ...
//! ```

use std::collections::{BTreeMap, BTreeSet};

use windlass_wire::WorkerRank;

use super::steps::Steps;
use super::{RangeClock, RangeClockLimits, Worker};
use windlass_wire::codec::{DecodeError, Reader, encode_len};

const WORKER_BYTES: usize = 9;
const STEP_BYTES: usize = 16;

impl RangeClock {
    /// Appends the clock's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_len());
        encode_len(self.workers.len(), out);
        for (rank, entry) in &self.workers {
            out.extend_from_slice(&rank.0.to_le_bytes());
            out.push(u8::from(entry.live));
            encode_len(entry.steps.count(), out);
            entry.steps.each(&mut |start, clock| {
                out.extend_from_slice(&start.to_le_bytes());
                out.extend_from_slice(&clock.to_le_bytes());
            });
        }
    }

    /// Appends the clock's bytes, at most `len_max` of them: where they would be more, steps of each
    /// worker are merged to the lower clock, which claims no push that is not there. Panics when
    /// `len_max` has no room for a step of each worker.
    pub fn encode_within(&self, len_max: usize, out: &mut Vec<u8>) {
        if self.encoded_len() <= len_max {
            self.encode(out);
            return;
        }
        let room = (len_max - 4) / self.workers.len() - WORKER_BYTES;
        let mut coarse = self.clone();
        for entry in coarse.workers.values_mut() {
            entry.steps.coarsen(room / STEP_BYTES);
        }
        assert!(coarse.encoded_len() <= len_max, "{len_max} bytes have no room for a clock");
        coarse.encode(out);
    }

    fn encoded_len(&self) -> usize {
        4 + self.workers.len() * WORKER_BYTES + self.step_count() * STEP_BYTES
    }

    /// Most bytes of a clock within these bounds, when each worker has one step.
    #[must_use]
    pub const fn encoded_len_least(limits: &RangeClockLimits) -> usize {
        4 + limits.workers_max * (WORKER_BYTES + STEP_BYTES)
    }

    /// Reads a clock from all of `bytes`. Refuses what `encode` never writes: above a bound, out of
    /// order, not coalesced.
    pub fn decode(bytes: &[u8], limits: RangeClockLimits) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let count = reader.count("a range clock's workers", limits.workers_max, WORKER_BYTES)?;
        let mut workers = BTreeMap::new();
        let mut minima = BTreeSet::new();
        for _ in 0..count {
            let rank = WorkerRank(reader.read()?);
            let live = match reader.read::<u8>()? {
                0 => false,
                1 => true,
                value => return Err(malformed("a worker's live flag", u64::from(value))),
            };
            let steps = decode_steps(&mut reader, limits.steps_max)?;
            if workers.last_key_value().is_some_and(|(last, _)| *last >= rank) {
                return Err(malformed("a worker's rank", u64::from(rank.0)));
            }
            if live {
                minima.insert((steps.minimum(), rank));
            }
            workers.insert(rank, Worker { steps, live });
        }
        reader.finish()?;
        Ok(Self { workers, minima, limits })
    }
}

fn decode_steps(reader: &mut Reader<'_>, steps_max: usize) -> Result<Steps, DecodeError> {
    let count = reader.count("a worker's steps", steps_max, STEP_BYTES)?;
    let mut sorted: Vec<(u64, u64)> = Vec::with_capacity(count);
    for _ in 0..count {
        let (start, clock) = (reader.read::<u64>()?, reader.read::<u64>()?);
        let in_order = match sorted.last() {
            None => start == 0,
            Some(&(last, before)) => last < start && before != clock && start < u64::MAX,
        };
        if !in_order {
            return Err(malformed("a step's first row", start));
        }
        sorted.push((start, clock));
    }
    if sorted.is_empty() {
        return Err(malformed("a worker's steps", 0));
    }
    Ok(Steps::from_sorted(&sorted))
}

fn malformed(field: &'static str, value: u64) -> DecodeError {
    DecodeError::Malformed { field, value }
}
