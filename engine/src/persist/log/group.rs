//! Groups: the records of one push, in several partitions, count together. Each says that it is one of a
//! group, and a frame behind the last says that the group is whole: without it recovery takes none of them.
//! They may lie in several batches and segments, so that a long group is written while it is made.

use std::time::Duration;

use windlass_wire::PartitionId;

use super::{Log, ReserveError};
use crate::persist::{
    commit::{Durability, Position},
    frame::{HEADER_BYTES, Header, Kind},
    record::Facts,
};

/// A group that is being written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Group {
    first: Option<First>,
    /// The strictest of its records.
    durability: Option<Durability>,
}

/// Its first record.
#[derive(Clone, Copy, Debug)]
struct First {
    partition: PartitionId,
    /// Where it lies in the log.
    position: u64,
}

impl Log {
    /// From now on records are of one group, until it ends.
    ///
    /// # Panics
    ///
    /// When a group has not ended that the log still could end.
    pub fn begin_group(&mut self) {
        assert!(self.group.is_none() || self.poison.is_some(), "groups do not nest");
        self.group = Some(Group::default());
    }

    /// Whether a group has begun and not ended: no checkpoint may begin or end meanwhile, or it would
    /// hold a part of it.
    #[must_use]
    pub fn is_in_group(&self) -> bool {
        self.group.is_some()
    }

    /// The group has all its records. They are to be acknowledged when the log is durable up to the position
    /// returned.
    ///
    /// # Errors
    /// As [`Log::reserve`]: the group has not ended then.
    ///
    /// # Panics
    ///
    /// When no group has begun.
    pub fn end_group(&mut self, now: Duration) -> Result<Position, ReserveError> {
        let group = self.group.expect("a group has begun");
        let (Some(first), Some(durability)) = (group.first, group.durability) else {
            self.group = None;
            return Ok(self.end());
        };
        let (cursor, batch) =
            self.make_room(first.partition, HEADER_BYTES, durability.delay_max(), now)?;
        let pending = self.batch_mut(batch);
        pending.awaited |= durability.waits();
        let salt = pending.active.salt;
        let end = pending.position + (cursor - pending.start) + HEADER_BYTES as u64;
        let header = Header { lsn: first.position, ..Header::of(Kind::Whole) };
        header.seal(self.ring.bytes_mut(cursor, HEADER_BYTES), salt);
        self.group = None;
        Ok(Position(end))
    }

    /// Whether a record that gets this position is one of a group.
    #[inline]
    pub(super) fn note_grouped(&mut self, facts: &Facts, position: u64) -> bool {
        let Some(group) = &mut self.group else { return false };
        group.first.get_or_insert(First { partition: facts.partition, position });
        let durability = group.durability.unwrap_or(facts.durability);
        group.durability = Some(durability.stricter(facts.durability));
        true
    }
}
