//! How a server joins a chain, seen from both ends. The tail feeds the learner: from the learner's own
//! position if its log is a prefix of the chain's, else blocks are copied one-sidedly while the log
//! streams behind. The learner reports when it has caught up, and only the coordinator promotes it.

use std::collections::BTreeMap;

use windlass_wire::{Lsn, ServerId, SessionId};

use crate::chain::{Replica, Role};
use crate::error::ReplicaError;
use crate::idle::IdleNotes;
use crate::inflight::{LogIndex, Position};
use crate::output::Output;
use crate::session::SessionTable;

/// A replica's own catching up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CatchUp {
    /// The state is that of the log's last position: a member, or a server with nothing to do.
    Complete,
    /// The state is usable or not; the feeder decides whether it continues.
    Asked {
        /// Whether the state is that of the log's last position.
        whole: bool,
    },
    /// Blocks are being copied; records are kept in the log.
    Copying {
        /// Where the log starts to stream.
        start: Lsn,
        /// Sessions expired by records that arrived meanwhile, and by the last of which: the copied table
        /// may still have them.
        expired: BTreeMap<SessionId, Lsn>,
    },
    /// Blocks are copied, some newer than the log's last record.
    Settling { through: Lsn },
    /// The state is whole, the log streams; `target` is where the feeder was, `told` whether the
    /// coordinator knows.
    Streaming { target: Lsn, told: bool },
    /// A new tail on its way to its predecessor's last record.
    Aiming { target: Lsn },
    /// A new tail that has reached it.
    Reached,
}

impl CatchUp {
    /// Whether the memory is that of the log's last position.
    pub(crate) fn is_whole(&self) -> bool {
        !matches!(self, Self::Copying { .. } | Self::Settling { .. } | Self::Asked { whole: false })
    }

    /// Whether records wait in the log because their blocks are still being copied.
    pub(crate) fn holds_records(&self) -> bool {
        matches!(self, Self::Copying { .. })
    }

    pub(crate) fn is_synchronised(&self) -> bool {
        *self == Self::Reached
    }

    /// Whether records from above may be taken in.
    pub(crate) fn takes_records(&self) -> bool {
        !matches!(self, Self::Asked { .. })
    }

    pub(crate) fn position(&self, log: &LogIndex) -> Option<Position> {
        self.is_whole().then(|| log.position())
    }

    pub(crate) fn remember_expired(&mut self, lsn: Lsn, more: &[SessionId]) {
        if let Self::Copying { expired, .. } = self {
            expired.extend(more.iter().map(|session| (*session, lsn)));
        }
    }

    pub(crate) fn aim(&mut self, target: Lsn) {
        if *self != Self::Reached {
            *self = Self::Aiming { target };
        }
    }

    pub(crate) fn reach(&mut self, last: Lsn) -> bool {
        let reached = matches!(self, Self::Aiming { target } if last >= *target);
        if reached {
            *self = Self::Reached;
        }
        reached
    }
}

impl Replica {
    /// On a new path: a copy in progress starts over with the new feeder, a whole state is kept and
    /// reported.
    pub(crate) fn begin_catch_up(&mut self) {
        let whole = self.catch_up.is_whole();
        self.catch_up = if whole && self.role != Role::Learner {
            CatchUp::Complete
        } else {
            CatchUp::Asked { whole }
        };
    }

    /// On a new link to the feeder: what was on its way is lost.
    pub(crate) fn restart_copy(&mut self) {
        if self.role == Role::Learner {
            self.begin_catch_up();
        }
    }

    /// The tail's side: which learner the map names.
    pub(crate) fn configure_learner(&mut self, outputs: &mut Vec<Output>) {
        let named = self.chain.learner.filter(|_| self.is_tail());
        if self.learner.map(|link| link.server) != named {
            self.learner = named.map(crate::middle::Follower::new);
            if let Some(to) = named {
                Output::AskReport { to, epoch: self.chain.epoch }.push(outputs);
            }
        }
    }

    /// The log no longer holds what the learner was to be sent next: it starts over.
    pub(crate) fn restart_outrun_learner(&mut self, outputs: &mut Vec<Output>) {
        let (first, epoch) = (self.log.first(), self.chain.epoch);
        if let Some(link) = self.learner.as_mut()
            && link.accepted
            && link.sent.next() < first
        {
            link.disconnect();
            Output::AskReport { to: link.server, epoch }.push(outputs);
        }
    }

    /// The learner's log is a prefix of the feeder's: no copy is needed.
    pub(crate) fn learner_welcome(
        &mut self,
        last: Lsn,
        outputs: &mut Vec<Output>,
    ) -> Result<(), ReplicaError> {
        if self.catch_up != (CatchUp::Asked { whole: true }) {
            return Err(self.not_awaited("a welcome"));
        }
        self.catch_up = CatchUp::Streaming { target: last, told: false };
        self.learner_received(outputs);
        Ok(())
    }

    /// The feeder wants a copy: what this replica holds is discarded.
    pub(crate) fn copy_from(
        &mut self,
        from: ServerId,
        start: Position,
        outputs: &mut Vec<Output>,
    ) -> Result<(), ReplicaError> {
        self.check_from_above(from)?;
        if self.role != Role::Learner {
            return Err(self.not_awaited("a copy"));
        }
        if matches!(self.catch_up, CatchUp::Copying { start: under_way, .. } if under_way == start.lsn)
        {
            return Ok(());
        }
        self.log = LogIndex::new(start);
        self.sessions = SessionTable::new(self.limits.sessions_max);
        // Positions of another history say nothing of this one.
        self.idle = IdleNotes::default();
        self.catch_up = CatchUp::Copying { start: start.lsn, expired: BTreeMap::new() };
        Output::StartCopy { from, start: start.lsn }.push(outputs);
        Ok(())
    }

    /// All blocks are here. Records kept meanwhile are applied; the engine skips, block by block,
    /// those that a copied block already includes.
    pub(crate) fn copy_finished(
        &mut self,
        began: Lsn,
        through: Lsn,
        sessions: &SessionTable,
        outputs: &mut Vec<Output>,
    ) -> Result<(), ReplicaError> {
        let expired = match &mut self.catch_up {
            CatchUp::Copying { start, expired } if *start == began => std::mem::take(expired),
            _ => return Err(self.not_awaited("the end of a copy")),
        };
        self.sessions.merge(sessions);
        for (session, lsn) in expired {
            self.sessions.expire(session, lsn);
        }
        let (first, last) = (self.log.first(), self.log.last());
        if first <= last {
            Output::Apply { first, last }.push(outputs);
        }
        self.catch_up = CatchUp::Settling { through };
        self.learner_received(outputs);
        Ok(())
    }

    /// The learner tells its feeder how far it is and, once, the coordinator that it has caught up.
    pub(crate) fn learner_received(&mut self, outputs: &mut Vec<Output>) {
        let (last, epoch) = (self.log.last(), self.chain.epoch);
        if let Some(to) = self.predecessor {
            Output::ReportCommitted { to, epoch, lsn: last }.push(outputs);
        }
        if let CatchUp::Settling { through } = self.catch_up
            && last >= through
        {
            self.catch_up = CatchUp::Streaming { target: through, told: false };
        }
        if let CatchUp::Streaming { target, told } = &mut self.catch_up
            && !*told
            && last.0 + self.limits.caught_up_lag_max >= target.0
        {
            *told = true;
            Output::CaughtUp { epoch }.push(outputs);
        }
    }

    /// What the coordinator should know and may have missed: goes with every heartbeat.
    #[must_use]
    pub fn pending_report(&self) -> Option<Output> {
        let epoch = self.chain.epoch;
        match (&self.catch_up, self.role) {
            (CatchUp::Streaming { told: true, .. }, Role::Learner) => {
                Some(Output::CaughtUp { epoch })
            }
            _ if self.successor.is_some_and(|link| link.rejected && !link.accepted) => {
                let server = self.successor.map(|link| link.server)?;
                Some(Output::Reject { server, epoch })
            }
            (CatchUp::Reached, Role::Tail) if !self.chain.tail_synchronised => {
                Some(Output::Synchronised { epoch })
            }
            _ => None,
        }
    }

    pub(crate) fn not_awaited(&self, what: &'static str) -> ReplicaError {
        ReplicaError::NotAwaited { partition: self.partition, what }
    }
}
