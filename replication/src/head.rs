//! The head: admits pushes, appends the record of each turn, acknowledges what the tail committed.

use crate::chain::Replica;
use crate::error::ReplicaError;
use crate::input::RecordHeader;
use crate::output::Output;
use crate::session::{Admission, Push};
use crate::time::Time;

impl Replica {
    /// Decides on a push before it is summed. `Admission::Apply` obliges the engine to cover the push
    /// by a record, or to call nothing more on this replica: admitted pushes are remembered.
    #[inline]
    pub fn admit(&mut self, push: &Push) -> Result<Admission, ReplicaError> {
        if !self.is_head() {
            return Err(ReplicaError::NotHead {
                partition: self.partition,
                epoch: self.chain.epoch,
            });
        }
        if !self.has_room() {
            return Err(self.inflight_full());
        }
        Ok(self.sessions.admit(push))
    }

    /// Records appended here and not yet committed: what back-pressure goes by.
    #[must_use]
    #[inline]
    pub fn inflight_count(&self) -> u64 {
        self.log.last().0 - self.log.committed().0.min(self.log.last().0)
    }

    /// Whether one more record may be appended now.
    #[must_use]
    #[inline]
    pub fn has_room(&self) -> bool {
        self.inflight_count() < self.limits.inflight_max
    }

    #[inline]
    pub(crate) fn append(
        &mut self,
        now: Time,
        record: RecordHeader<'_>,
        outputs: &mut Vec<Output>,
    ) -> Result<(), ReplicaError> {
        let (partition, last) = (self.partition, self.log.last());
        if !self.is_head() || record.epoch != self.chain.epoch {
            return Err(ReplicaError::NotHead { partition, epoch: self.chain.epoch });
        }
        if record.lsn != last.next() {
            return Err(ReplicaError::OutOfOrder { partition, lsn: record.lsn, last });
        }
        if !self.has_room() {
            return Err(self.inflight_full());
        }
        self.take_in(record, outputs);
        if self.has_unrecorded() {
            self.forget_positions();
        }
        self.forward(now, outputs);
        self.advance(now, outputs);
        Ok(())
    }

    fn inflight_full(&self) -> ReplicaError {
        ReplicaError::InflightFull { partition: self.partition, bound: self.limits.inflight_max }
    }
}
