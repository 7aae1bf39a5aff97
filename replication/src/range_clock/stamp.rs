//! A stamp: what one push adds to the range clock, as log records carry it.

use windlass_wire::{RowRange, WorkerClock, WorkerRank};

use super::{RangeClock, RangeClockError};
use windlass_wire::codec::{DecodeError, Reader};

/// "`worker` has pushed rows `rows` at `clock`."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The worker that pushed.
    pub worker: WorkerRank,
    /// The rows its push covered.
    pub rows: RowRange,
    /// Its clock, from 1.
    pub clock: WorkerClock,
}

impl Stamp {
    /// Bytes of an encoded stamp.
    pub const BYTES: usize = 28;

    /// Appends the stamp:
    ///
    /// ```text
    /// 0        4              12            20           28
    /// | worker | first row    | end row     | clock      |
    /// ```
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.worker.0.to_le_bytes());
        out.extend_from_slice(&self.rows.start.to_le_bytes());
        out.extend_from_slice(&self.rows.end.to_le_bytes());
        out.extend_from_slice(&self.clock.0.to_le_bytes());
    }

    /// Reads a stamp from exactly [`Stamp::BYTES`] bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let worker = WorkerRank(reader.read()?);
        let (start, end) = (reader.read::<u64>()?, reader.read::<u64>()?);
        if start > end {
            return Err(DecodeError::Malformed { field: "a stamp's end row", value: end });
        }
        let clock = WorkerClock(reader.read()?);
        reader.finish()?;
        Ok(Self { worker, rows: RowRange { start, end }, clock })
    }

    /// Applies the stamp.
    pub fn apply(&self, clock: &mut RangeClock) -> Result<(), RangeClockError> {
        clock.tick(self.worker, self.rows, self.clock)
    }
}
