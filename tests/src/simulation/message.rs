//! What travels between the simulated machines.

use std::rc::Rc;

use windlass_replication::{ClusterMap, Covered, Output, Push, Time};
use windlass_wire::{Epoch, Incarnation, Lsn, Sequence, ServerId, SessionId};

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
        kept: bool,
    },
    Heartbeat {
        life: Incarnation,
        map_epoch: Epoch,
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
    Map(Rc<ClusterMap>),
    Fence {
        life: Incarnation,
    },
    Probe,
    WantMap,
    Push {
        partition: usize,
        epoch: Epoch,
        push: Push,
        index: u32,
    },
    Acknowledged {
        partition: usize,
        sequence: Sequence,
    },
    /// Not the head, or of another epoch: look at the map, send again.
    Refused,
}
