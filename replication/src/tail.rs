//! The tail: what it has taken in is committed (the rule is `Replica::advance`). A new tail first
//! makes sure that it holds all that was ever committed.

use windlass_wire::{Lsn, ServerId};

use crate::chain::{Replica, Role};
use crate::error::ReplicaError;
use crate::output::Output;

impl Replica {
    /// Whether this replica holds all that was ever committed: every full member does.
    #[must_use]
    pub fn is_synchronised(&self) -> bool {
        let full_member = self.role != Role::Tail || self.chain.tail_synchronised;
        self.is_readable() && (full_member || self.catch_up.is_synchronised())
    }

    /// The predecessor accepted this replica's report and holds records up to `last`: a new tail that
    /// has reached it holds all that was ever committed, because every commit before this epoch
    /// passed through the predecessor.
    pub(crate) fn welcome(
        &mut self,
        from: ServerId,
        last: Lsn,
        outputs: &mut Vec<Output>,
    ) -> Result<(), ReplicaError> {
        self.check_from_above(from)?;
        if self.role == Role::Learner {
            return self.learner_welcome(last, outputs);
        }
        // What the last link lost: the committed position.
        let lsn = self.log.committed();
        Output::ReportCommitted { to: from, epoch: self.chain.epoch, lsn }.push(outputs);
        if self.role == Role::Tail && !self.chain.tail_synchronised {
            self.catch_up.aim(last);
            self.settle_tail(outputs);
        }
        Ok(())
    }

    /// Reports a new tail that has reached its aim.
    pub(crate) fn settle_tail(&mut self, outputs: &mut Vec<Output>) {
        if self.role == Role::Tail && self.catch_up.reach(self.log.last()) {
            Output::Synchronised { epoch: self.chain.epoch }.push(outputs);
        }
    }
}
