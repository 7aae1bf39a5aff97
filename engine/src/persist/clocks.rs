//! What log and checkpoints say of workers' clocks, beside the stamps of records.
//!
//! ```text
//!  record of kind ClockAdvance    stamps           workers that have finished a clock on all rows of
//!                                                  the partition
//!  record of kind Engine, tag 4   delta, 24 bytes  who is waited for from now on, or no more
//!   0      1      4      8         16       24
//!   | kind | zero | rank | session | clock  |      kind 1: joined, as having finished clock;
//!                                                  2: retired, session and clock zero
//!  block of section 4, index 0    delta            the range clock of the table in the partition, as a
//!                                                  whole, when the block was copied
//! ```
//!
//! `windlass_replication::RangeClock` draws a range clock's bytes.

use std::fmt;

use windlass_replication::{RangeClock, RangeClockLimits};
use windlass_wire::{SessionId, WorkerClock, WorkerRank};

use super::{
    frame::Kind,
    limits::CHECKPOINT_BLOCK_BYTES_MAX,
    record::{Record, Stamp},
};

/// Bit of an engine record's tag: it says something of a worker.
pub(crate) const WORKER: u16 = 4;

/// Section of a checkpoint's blocks that hold whole clocks.
pub(crate) const CLOCKS: u16 = 4;

/// Longest clock on disk; a longer one is cut to the lower of neighbouring rows' clocks.
pub(crate) const CLOCK_LEN_MAX: usize = CHECKPOINT_BLOCK_BYTES_MAX;

const _: () = {
    let limits = RangeClockLimits { workers_max: 4096, steps_max: 1024 };
    assert!(RangeClock::encoded_len_least(&limits) <= CLOCK_LEN_MAX);
};

/// What a record says of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkerEvent {
    /// It is waited for from now on, as having finished `clock`.
    Joined { rank: WorkerRank, session: SessionId, clock: WorkerClock },
    /// Nobody waits for it any more.
    Retired { rank: WorkerRank },
}

impl WorkerEvent {
    /// Bytes of an event.
    pub(crate) const LEN: usize = 24;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let (kind, rank, session, clock) = match *self {
            Self::Joined { rank, session, clock } => (1, rank, session, clock),
            Self::Retired { rank } => (2, rank, SessionId(0), WorkerClock(0)),
        };
        let mut bytes = [0; Self::LEN];
        bytes[0] = kind;
        bytes[4..8].copy_from_slice(&rank.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&session.0.to_le_bytes());
        bytes[16..].copy_from_slice(&clock.0.to_le_bytes());
        bytes
    }

    /// The event of foreign bytes, if they are one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let rank = WorkerRank(u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]));
        let (session, clock) = (SessionId(word(8)), WorkerClock(word(16)));
        let event = match bytes[0] {
            1 => Self::Joined { rank, session, clock },
            2 => Self::Retired { rank },
            _ => return None,
        };
        (event.encode() == *bytes).then_some(event)
    }
}

/// What a place on disk says of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct WorkerSeen {
    /// Its rank.
    pub worker: u32,
    /// The clock it has finished: on the record's rows, or of a whole clock, on all rows.
    pub clock: u64,
    /// Whether it is waited for.
    pub live: bool,
}

impl fmt::Display for WorkerSeen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worker, clock, live } = self;
        write!(formatter, "worker {worker} at {clock}{}", if *live { "" } else { " (gone)" })
    }
}

/// What a record says of workers.
#[must_use]
pub fn workers_of_record(record: &Record<'_>) -> Vec<WorkerSeen> {
    if record.kind() != Kind::Engine {
        let seen =
            |stamp: Stamp| WorkerSeen { worker: stamp.worker.0, clock: stamp.clock.0, live: true };
        return record.stamps().map(seen).collect();
    }
    match WorkerEvent::decode(record.delta()).filter(|_| record.tag() & WORKER != 0) {
        Some(WorkerEvent::Joined { rank, clock, .. }) => {
            vec![WorkerSeen { worker: rank.0, clock: clock.0, live: true }]
        }
        Some(WorkerEvent::Retired { rank }) => {
            vec![WorkerSeen { worker: rank.0, clock: 0, live: false }]
        }
        None => Vec::new(),
    }
}

/// The workers of a whole clock; none if the bytes are no clock.
#[must_use]
pub fn workers_of_clock(bytes: &[u8]) -> Vec<WorkerSeen> {
    let clock = RangeClock::decode(bytes, RangeClockLimits::default());
    let Ok(clock) = clock else { return Vec::new() };
    let seen = |(rank, live): (WorkerRank, bool)| WorkerSeen {
        worker: rank.0,
        clock: clock.least_of(rank).0,
        live,
    };
    clock.workers().map(seen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::persist::{
        commit::Durability,
        frame::Salt,
        record::{Draft, Facts, RecordMut, Shape},
    };

    /// Changing these bytes is a change of the format: it needs a new tag or section and a fixture.
    #[test]
    fn golden_bytes() {
        let joined = WorkerEvent::Joined {
            rank: WorkerRank(7),
            session: SessionId(0x1122),
            clock: WorkerClock(3),
        };
        let mut clock = RangeClock::new(RangeClockLimits::default());
        clock.revive(WorkerRank(7), WorkerClock(3)).unwrap();
        let rows = windlass_wire::RowRange::new(10, 20);
        clock.tick(WorkerRank(7), rows, WorkerClock(4)).unwrap();
        clock.revive(WorkerRank(9), WorkerClock(1)).unwrap();
        clock.retire(WorkerRank(9));
        let mut whole = Vec::new();
        clock.encode_within(CLOCK_LEN_MAX, &mut whole);
        let retired = WorkerEvent::Retired { rank: WorkerRank(9) }.encode();
        let lines = [&joined.encode()[..], &retired, &whole]
            .map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        let golden = include_str!("../../golden/clocks-1.hex");
        assert_eq!(lines.join("\n"), golden.trim_end());
        assert_eq!(WorkerEvent::decode(&joined.encode()), Some(joined));
        assert_eq!(
            workers_of_clock(&whole),
            [
                WorkerSeen { worker: 7, clock: 3, live: true },
                WorkerSeen { worker: 9, clock: 1, live: false },
            ]
        );
    }

    /// What a record of this kind and tag says of workers, with one stamp and this delta.
    fn workers_of(kind: Kind, tag: u16, delta: &[u8]) -> Vec<WorkerSeen> {
        let facts = Facts {
            kind,
            partition: windlass_wire::PartitionId(0),
            epoch: windlass_wire::Epoch(1),
            table: windlass_wire::TableId(1),
            dtype: windlass_wire::DataType::U64,
            rows: windlass_wire::RowRange::new(0, 3),
            tag,
            durability: Durability::Sync,
        };
        let shape = Shape { stamps_max: 1, delta_bytes: delta.len(), ..Shape::default() };
        let mut draft = Draft::new(facts, shape, windlass_wire::Lsn(1));
        let mut bytes = vec![0; shape.length()];
        let mut record = RecordMut::new(&mut bytes, &mut draft);
        record.delta().copy_from_slice(delta);
        record.stamp(Stamp { worker: WorkerRank(5), clock: WorkerClock(6) });
        draft.seal(&mut bytes, Salt::NONE);
        workers_of_record(&Record::decode(&bytes, Salt::NONE).unwrap())
    }

    #[test]
    fn records_tell_of_workers_by_stamps_or_by_events() {
        let seen = |worker, clock, live| vec![WorkerSeen { worker, clock, live }];
        let (rank, session) = (WorkerRank(7), SessionId(1));
        let joined = WorkerEvent::Joined { rank, session, clock: WorkerClock(3) }.encode();
        let retired = WorkerEvent::Retired { rank }.encode();
        assert_eq!(workers_of(Kind::ClockAdvance, 0, &[]), seen(5, 6, true));
        assert_eq!(workers_of(Kind::Rows, WORKER, &joined), seen(5, 6, true));
        assert_eq!(workers_of(Kind::Engine, WORKER | 1, &joined), seen(7, 3, true));
        assert_eq!(workers_of(Kind::Engine, WORKER, &retired), seen(7, 0, false));
        assert_eq!(workers_of(Kind::Engine, 1, &joined), []);
        assert_eq!(workers_of(Kind::Engine, WORKER, &joined[..23]), []);
        let texts = [seen(7, 3, true), seen(7, 0, false)].map(|seen| seen[0].to_string());
        assert_eq!(texts, ["worker 7 at 3", "worker 7 at 0 (gone)"]);
    }

    #[test]
    fn what_is_no_event_is_none() {
        for kind in [0, 3, 255] {
            let mut bytes = [0; WorkerEvent::LEN];
            bytes[0] = kind;
            assert_eq!(WorkerEvent::decode(&bytes), None);
        }
        let mut bytes = WorkerEvent::Retired { rank: WorkerRank(1) }.encode();
        bytes[16] = 1;
        assert_eq!(WorkerEvent::decode(&bytes), None);
        assert_eq!(workers_of_clock(&[1, 2, 3]), []);
    }
}
