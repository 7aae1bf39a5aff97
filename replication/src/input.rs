//! What the engine tells a replica. Inputs borrow; nothing here owns payload bytes.

use windlass_wire::{Epoch, Lsn, ServerId, SessionId};

use crate::inflight::Position;
use crate::membership::ChainView;
use crate::session::{Covered, SessionTable};
use crate::time::Time;

/// What the header of one log record says to the replica. The payload stays in the engine's log.
#[derive(Clone, Copy, Debug)]
pub struct RecordHeader<'a> {
    /// Its position in the partition's log.
    pub lsn: Lsn,
    /// The chain epoch in which a head first appended it.
    pub epoch: Epoch,
    /// Whether it must be on every replica's disk before it is committed.
    pub sync: bool,
    /// Highest sequence per (session, lane) in it.
    pub covered: &'a [Covered],
    /// Sessions that expire with it.
    pub expired: &'a [SessionId],
}

/// One thing that happened. `from` is always the server the transport authenticated.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A new map says this about the partition.
    Configure {
        /// The chain in force.
        chain: &'a ChainView,
        /// Until when a removed tail may still be read: [`crate::lease::Leases::hold_until`].
        hold_until: Time,
    },
    /// The shard summed a turn's pushes and wrote their record at the end of the log. Head only.
    Append(RecordHeader<'a>),
    /// A record arrived in the mailbox of the predecessor (or of a learner's feeder) and lies in the
    /// log.
    Record {
        /// Who sent it.
        from: ServerId,
        /// The sender's chain epoch.
        epoch: Epoch,
        /// Its header.
        record: RecordHeader<'a>,
    },
    /// The successor or a learner tells what it holds.
    Report {
        /// Who reports.
        from: ServerId,
        /// The sender's chain epoch.
        epoch: Epoch,
        /// Its last record; `None` when its state is no prefix of any log.
        position: Option<Position>,
        /// Counted up whenever it needs an answer anew; a repeated one is not answered twice.
        attempt: u64,
    },
    /// The predecessor asks for a report.
    AskReport {
        /// Who asks.
        from: ServerId,
        /// The sender's chain epoch.
        epoch: Epoch,
    },
    /// The predecessor accepted the report and holds records up to `last`.
    Welcome {
        /// Who accepted.
        from: ServerId,
        /// The sender's chain epoch.
        epoch: Epoch,
        /// Its last record.
        last: Lsn,
    },
    /// The successor's committed position (a learner's: received position) has moved.
    Committed {
        /// Who says so.
        from: ServerId,
        /// The sender's chain epoch.
        epoch: Epoch,
        /// The position.
        lsn: Lsn,
    },
    /// The feeder wants this learner to copy the blocks; the log streams from after `start`.
    CopyFrom {
        /// The feeder.
        from: ServerId,
        /// The sender's chain epoch.
        epoch: Epoch,
        /// Where the stream starts.
        start: Position,
    },
    /// All blocks and the session table have been copied from the feeder; none is newer than
    /// `through`.
    CopyFinished {
        /// The start named by `Output::StartCopy`: a copy that was started over does not count.
        start: Lsn,
        /// The newest position seen in any copied block or in the session table.
        through: Lsn,
        /// The copied session table.
        sessions: &'a SessionTable,
    },
    /// This server's disk holds the log up to `lsn`.
    Durable {
        /// The last record on disk.
        lsn: Lsn,
    },
    /// The log no longer holds records before `first`.
    Released {
        /// The first record still held.
        first: Lsn,
    },
    /// The link to `peer` is new: what was sent on the old one may be lost.
    Connected {
        /// The server at the other end.
        peer: ServerId,
    },
    /// Time passed.
    Tick,
}
