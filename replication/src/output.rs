//! What a replica wants done. Outputs name log positions, never payload; the engine sends the bytes
//! from its log ring.

use windlass_wire::{Epoch, Lsn, ServerId};

use crate::inflight::Position;

/// One thing to do, in order. `to` is a server; every message carries the sender's chain epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Apply these records to memory, in order.
    Apply {
        /// First record.
        first: Lsn,
        /// Last record.
        last: Lsn,
    },
    /// Send these records of the log.
    Forward {
        /// Successor or learner.
        to: ServerId,
        /// Chain epoch.
        epoch: Epoch,
        /// First record.
        first: Lsn,
        /// Last record.
        last: Lsn,
    },
    /// Write the committed position (a learner: the received position) to the predecessor: 8 bytes.
    ReportCommitted {
        /// Predecessor or feeder.
        to: ServerId,
        /// Chain epoch.
        epoch: Epoch,
        /// The position.
        lsn: Lsn,
    },
    /// Acknowledge every push covered by records up to here.
    Acknowledge {
        /// The committed position.
        up_to: Lsn,
    },
    /// Tell the predecessor (or feeder) what this replica holds.
    Report {
        /// Predecessor or feeder.
        to: ServerId,
        /// Chain epoch.
        epoch: Epoch,
        /// Its last record; `None` when its state is no prefix of any log.
        position: Option<Position>,
        /// Counted up whenever this replica needs an answer anew.
        attempt: u64,
    },
    /// Ask the successor (or learner) for its report.
    AskReport {
        /// Successor or learner.
        to: ServerId,
        /// Chain epoch.
        epoch: Epoch,
    },
    /// Accept a report.
    Welcome {
        /// Successor or learner.
        to: ServerId,
        /// Chain epoch.
        epoch: Epoch,
        /// This replica's last record.
        last: Lsn,
    },
    /// Tell a learner to copy the blocks from here; the log streams from after `start`.
    CopyFrom {
        /// The learner.
        to: ServerId,
        /// Chain epoch.
        epoch: Epoch,
        /// Where the stream starts.
        start: Position,
    },
    /// Discard what this replica holds and read all blocks of `from`, one-sidedly; then give
    /// `Input::CopyFinished`. While records of blocks not yet copied arrive, they are kept in the log.
    StartCopy {
        /// The feeder.
        from: ServerId,
        /// Every copied block is at least this new.
        start: Lsn,
    },
    /// Tell the coordinator that this learner may become the tail.
    CaughtUp {
        /// Chain epoch.
        epoch: Epoch,
    },
    /// Tell the coordinator that this new tail holds all that was ever committed.
    Synchronised {
        /// Chain epoch.
        epoch: Epoch,
    },
    /// Tell a sender that its epoch is old: it fetches the map.
    Refuse {
        /// The sender.
        to: ServerId,
        /// The epoch in force here.
        epoch: Epoch,
    },
    /// Tell the coordinator that `server`, next in the chain, holds no prefix of this replica's log:
    /// it has lost what it had, and the chain stands still until it is out.
    Reject {
        /// The server.
        server: ServerId,
        /// Chain epoch.
        epoch: Epoch,
    },
}

impl Output {
    /// Pushes the output, joining it to the last one where both are ranges of one stream, so that a
    /// turn of many records sends one range.
    #[inline]
    pub(crate) fn push(self, outputs: &mut Vec<Self>) {
        if let Some(last) = outputs.last_mut() {
            match (last, self) {
                (Self::Apply { last, .. }, Self::Apply { first, last: end })
                    if last.next() == first =>
                {
                    *last = end;
                    return;
                }
                (
                    Self::Forward { to, epoch, last, .. },
                    Self::Forward { to: also, epoch: at, first, last: end },
                ) if *to == also && *epoch == at && last.next() == first => {
                    *last = end;
                    return;
                }
                (Self::Acknowledge { up_to }, Self::Acknowledge { up_to: further }) => {
                    *up_to = further;
                    return;
                }
                (
                    Self::ReportCommitted { to, epoch, lsn },
                    Self::ReportCommitted { to: also, epoch: at, lsn: further },
                ) if *to == also && *epoch == at => {
                    *lsn = further;
                    return;
                }
                _ => {}
            }
        }
        outputs.push(self);
    }
}
