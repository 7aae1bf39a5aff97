//! One partition's replica with the records it holds.

use std::collections::VecDeque;

use windlass_replication::Replica;
use windlass_wire::{Epoch, Lsn, PartitionId};

use super::{copy_in::CopyIn, copy_out::CopyOut};
use crate::{
    persist::record::{Record, RecordError},
    shard::{
        command::Answer,
        set_rows::{Changed, SetError},
    },
};

/// A request that sets or removes rows, answered once every replica has its record.
pub(super) struct Setting {
    pub(super) position: Lsn,
    pub(super) changed: Changed,
    pub(super) answer: Answer<Changed, SetError>,
}

/// A replica and what it goes by.
pub(super) struct Part {
    pub(super) partition: PartitionId,
    pub(super) replica: Replica,
    /// Records held, oldest first, without gaps.
    pub(super) records: VecDeque<Held>,
    /// The last record applied to memory.
    pub(super) applied: Lsn,
    /// In a settled shard: the last record of images, which covers all pushes before it.
    pub(super) imaged: Lsn,
    /// Messages that wait for a position to be committed, by position.
    pub(super) waiting: VecDeque<(Lsn, u32)>,
    /// Requests that set or remove rows.
    pub(super) setting: VecDeque<Setting>,
    /// How many of the replica's records are in flight.
    pub(super) inflight_count: u64,
    /// As a learner: the copy being taken in.
    pub(super) copy_in: Option<CopyIn>,
    /// As a feeder: the copy being sent.
    pub(super) copy_out: Option<CopyOut>,
    /// Whether its rows are marked as not current.
    pub(super) fenced: bool,
    /// Whether it waits in the list of those that may let records go.
    pub(super) dirty: bool,
    /// A record could not be applied: this replica says nothing any more.
    pub(super) broken: bool,
}

/// A record, as bytes in words so that values are aligned.
#[derive(Debug)]
pub(in crate::shard) struct Held {
    pub(in crate::shard) lsn: Lsn,
    pub(in crate::shard) words: Vec<u64>,
}

impl Held {
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.words)
    }

    /// The record; its checksums held when it was taken in.
    #[inline]
    pub(super) fn record(&self) -> Result<Record<'_>, RecordError> {
        Record::checked_before(self.bytes())
    }
}

impl Part {
    pub(super) fn new(partition: PartitionId, replica: Replica) -> Self {
        Self {
            partition,
            applied: replica.log().last(),
            imaged: replica.log().last(),
            replica,
            records: VecDeque::new(),
            waiting: VecDeque::new(),
            setting: VecDeque::new(),
            inflight_count: 0,
            copy_in: None,
            copy_out: None,
            fenced: false,
            dirty: false,
            broken: false,
        }
    }

    /// The record at a position, if it is held.
    #[inline]
    pub(super) fn held(&self, lsn: Lsn) -> Option<&Held> {
        let first = self.records.front()?.lsn;
        let at = usize::try_from(lsn.0.checked_sub(first.0)?).ok()?;
        self.records.get(at)
    }

    /// Records of images cover all pushes so far, or none is needed for them.
    pub(super) fn note_imaged(&mut self) {
        self.imaged = self.replica.log().last();
    }

    /// The epoch of the rows as they are: that of the last record, or the one in force, in which the log
    /// may have been told that the partition begins anew with them.
    pub(super) fn copied_epoch(&self) -> Epoch {
        self.epoch().max(self.replica.log().position().epoch)
    }

    /// The chain epoch in force here.
    #[inline]
    pub(super) fn epoch(&self) -> Epoch {
        self.replica.epoch()
    }
}

/// Buffers of records that were let go, for those to come.
#[derive(Debug, Default)]
pub(super) struct Spare {
    buffers: Vec<Vec<u64>>,
    /// Bytes of all records held.
    pub(super) held_len: u64,
}

/// Buffers kept for reuse.
const SPARE_MAX: usize = 256;

/// Words of the longest buffer kept.
const SPARE_WORDS_MAX: usize = (256 << 10) / 8;

impl Spare {
    /// A buffer of `len` bytes, a multiple of 8, whose content is any.
    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Vec<u64> {
        self.held_len += len as u64;
        let mut words = self.buffers.pop().unwrap_or_default();
        words.resize(len / 8, 0);
        words
    }

    /// Takes back a buffer.
    #[inline]
    pub(super) fn put(&mut self, words: Vec<u64>) {
        self.held_len -= words.len() as u64 * 8;
        if self.buffers.len() < SPARE_MAX && words.capacity() <= SPARE_WORDS_MAX {
            self.buffers.push(words);
        }
    }
}

#[cfg(test)]
mod tests {
    use windlass_replication::{
        ChainView, Input, LogIndex, Position, ReplicaLimits, SessionTable, Time,
    };
    use windlass_wire::ServerId;

    use super::*;

    #[test]
    fn what_is_copied_is_not_older_than_the_beginning_that_the_log_has() {
        let (me, lsn) = (ServerId(2), Lsn(9));
        let log = LogIndex::recovered(lsn.next(), lsn, &[Position { epoch: Epoch(3), lsn }]);
        let limits = ReplicaLimits::default();
        let sessions = SessionTable::new(limits.sessions_max);
        let replica = Replica::recover(PartitionId(1), me, limits, log, sessions);
        let mut part = Part::new(PartitionId(1), replica);
        assert_eq!(part.copied_epoch(), Epoch(3));
        // No record was made in the epoch in force, in which the log is told of a beginning.
        let chain =
            ChainView { epoch: Epoch(5), path: vec![me], tail_synchronised: true, learner: None };
        let configure = Input::Configure { chain: &chain, hold_until: Time(0) };
        part.replica.step(Time(0), configure, &mut Vec::new()).unwrap();
        assert_eq!(part.replica.log().position().epoch, Epoch(3));
        assert_eq!((part.epoch(), part.copied_epoch()), (Epoch(5), Epoch(5)));
    }
}
