//! What travels between the simulated machines.

use std::collections::BTreeMap;
use std::rc::Rc;

use windlass_replication::{Covered, Membership, Output, Push, Time};
use windlass_wire::{
    Epoch, Incarnation, Lsn, Sequence, ServerId, SessionId, WorkerClock, WorkerRank,
    coordination::Kept,
};

use super::rounds::Turned;

/// A record of one partition's log.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) lsn: Lsn,
    pub(super) epoch: Epoch,
    pub(super) sync: bool,
    pub(super) covered: Vec<Covered>,
    /// Indices of the pushes it sums.
    pub(super) pushes: Vec<u32>,
    /// Sessions that expire with it.
    pub(super) expired: Vec<SessionId>,
    /// What it does to rounds and workers.
    pub(super) turned: Turned,
}

/// One message.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// Records of partition, by the sender's epoch.
    Records {
        partition: usize,
        epoch: Epoch,
        records: Vec<Rc<Record>>,
    },
    /// Any other output of a replica that goes to a neighbour.
    Chain {
        partition: usize,
        output: Output,
    },
    Ping {
        asked_at: Time,
    },
    Grant {
        asked_at: Time,
        map_epoch: Epoch,
    },
    Join {
        life: Incarnation,
        kept: Kept,
    },
    Heartbeat {
        life: Incarnation,
        map_epoch: Epoch,
    },
    /// Workers that a server has connections of.
    Connected {
        life: Incarnation,
        ranks: Vec<WorkerRank>,
    },
    /// The coordinator says which workers are alive.
    Alive {
        workers: BTreeMap<WorkerRank, bool>,
    },
    Hearing {
        life: Incarnation,
        probe: Time,
        late: Vec<(ServerId, u64)>,
    },
    Suspect {
        life: Incarnation,
        server: ServerId,
    },
    CaughtUp {
        life: Incarnation,
        partition: usize,
        epoch: Epoch,
    },
    Synchronised {
        life: Incarnation,
        partition: usize,
        epoch: Epoch,
    },
    Rejected {
        life: Incarnation,
        partition: usize,
        epoch: Epoch,
        server: ServerId,
    },
    CannotHold {
        life: Incarnation,
        partition: usize,
        epoch: Epoch,
    },
    Map(Rc<Membership>),
    Fence {
        life: Incarnation,
    },
    Probe {
        sent_at: Time,
    },
    WantMap,
    Push {
        partition: usize,
        epoch: Epoch,
        push: Push,
        index: u32,
    },
    /// A push that names none before it: connections keep the order.
    PushInOrder {
        partition: usize,
        epoch: Epoch,
        push: Push,
        index: u32,
        /// Everything before it is settled.
        resumes: bool,
    },
    /// A worker has ended a clock.
    Finish {
        partition: usize,
        epoch: Epoch,
        clock: WorkerClock,
        sequence: Sequence,
        /// The last push before it that has no answer.
        after: Option<Sequence>,
    },
    /// A worker that has ended this clock waits.
    Idle {
        partition: usize,
        epoch: Epoch,
        clock: WorkerClock,
    },
    JoinRounds {
        partition: usize,
        epoch: Epoch,
    },
    /// It is waited for, as having finished this clock.
    Joined {
        partition: usize,
        clock: WorkerClock,
    },
    /// It is not waited for: it has to join.
    NoRank,
    Acknowledged {
        partition: usize,
        sequence: Sequence,
    },
    /// This push has to be sent again.
    SendAgain {
        partition: usize,
        sequence: Sequence,
    },
    /// Not the head, or of another epoch: look at the map, send again.
    Refused,
}
