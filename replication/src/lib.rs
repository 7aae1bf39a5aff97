//! Chains, range clocks, placement and membership as pure state machines: inputs in, outputs out. No
//! IO, no clock, no transport; time comes as an argument, and outputs name log positions, never bytes.
//!
//! A shard keeps one [`Replica`] per partition, a server one [`Leases`], the coordinator one
//! [`Coordinator`]. The engine's loop is:
//!
//! - a new map: [`Leases::adopt`], then for each replica [`Replica::removed_tail`],
//!   [`Leases::hold_until`] and [`Input::Configure`]; every map adopted is given to every replica;
//! - a push: [`Replica::admit`]; the engine sums admitted pushes, puts the turn's record into the log, and
//!   passes it to [`Input::Append`];
//! - a chain message: the [`Input`] of the same name; a record is placed in the log first;
//! - outputs: `Apply` to memory, `Forward` from the log ring, `ReportCommitted` as an 8-byte write,
//!   `Acknowledge` to clients, the others as small messages or to the coordinator;
//! - every turn: [`Input::Tick`] once [`Replica::wakes_at`] has passed, and the readable status word:
//!   a strong pull may be served while [`Replica::is_strong`] and [`Leases::valid_until`] say so;
//! - with every heartbeat: [`Replica::pending_report`];
//! - several times per session expiry: [`Replica::idle_sessions`]; put those that are not connected into a
//!   record's [`RecordHeader::expired`].
//!
//! ```
//! use windlass_replication::{Admission, ChainView, Covered, Input, Lane, Output, Push};
//! use windlass_replication::{RecordHeader, Replica, ReplicaLimits, Time};
//! use windlass_wire::{Epoch, Incarnation, Lsn, PartitionId, Sequence, ServerId, SessionId};
//!
//! let mut replica = Replica::new(PartitionId(0), ServerId(1), ReplicaLimits::default());
//! let (mut outputs, now) = (Vec::new(), Time(0));
//! let chain = ChainView {
//!     epoch: Epoch(1), path: vec![ServerId(1)], tail_synchronised: true, learner: None,
//! };
//! replica.step(now, Input::Configure { chain: &chain, hold_until: now }, &mut outputs)?;
//! let (session, incarnation, sequence) = (SessionId(7), Incarnation(1), Sequence(1));
//! let push = Push { session, incarnation, lane: Lane(0), sequence, previous: Some(Sequence(0)) };
//! assert_eq!(replica.admit(&push)?, Admission::Apply);
//! let covered = [Covered { session, incarnation, lane: Lane(0), sequence }];
//! let record =
//!     RecordHeader { lsn: Lsn(1), epoch: Epoch(1), sync: false, covered: &covered, expired: &[] };
//! replica.step(now, Input::Append(record), &mut outputs)?;
//! let acknowledged = Output::Acknowledge { up_to: Lsn(1) };
//! assert_eq!(outputs, [Output::Apply { first: Lsn(1), last: Lsn(1) }, acknowledged]);
//! assert_eq!(replica.admit(&push)?, Admission::Duplicate { lsn: Lsn(1) });
//! # Ok::<(), windlass_replication::ReplicaError>(())
//! ```
//!
//! # Rules the shell keeps
//!
//! - A replica acts only by maps that name its server's present life; a fenced or restarted server
//!   takes a newer incarnation, makes all its links anew, and joins as a learner
//!   ([`Replica::recover`] from what it holds, if [`Replica::position`] is not `None`).
//! - Links deliver in order or break; a new link is told by [`Input::Connected`] at both ends.
//! - A learner applies held records block by block, skipping those a copied block includes.
//! - A head that stops being one drops what it admitted and has not appended.
//! - Records before [`Replica::needed_from`] may go; tell by [`Input::Released`].
#![forbid(unsafe_code)]

mod alone;
mod catch_up;
pub mod chain;
pub mod consistency;
pub mod coordinator;
pub mod error;
mod head;
pub mod idle;
pub mod inflight;
pub mod input;
pub mod lateness;
pub mod lease;
pub mod membership;
mod middle;
pub mod mix;
pub mod output;
pub mod range_clock;
pub mod ring;
pub mod rounds;
pub mod session;
mod tail;
pub mod time;

pub use chain::{Replica, ReplicaLimits, Role};
pub use consistency::Consistency;
pub use coordinator::{
    Cause, Coordinator, CoordinatorInput, CoordinatorOptions, CoordinatorOutput, Workers,
};
pub use error::ReplicaError;
pub use inflight::{LogIndex, Position};
pub use input::{Input, RecordHeader};
pub use lateness::{Lateness, LatenessTimings};
pub use lease::{LeaseOutput, LeaseTimings, Leases};
pub use membership::{ChainView, Change, MapLimits, Membership};
pub use output::Output;
pub use range_clock::{ALL_ROWS, RangeClock, RangeClockError, RangeClockLimits, Stamp};
pub use ring::{PlacementError, Ring};
pub use rounds::Rounds;
pub use session::{Admission, Covered, Lane, Push, SessionTable};
pub use time::Time;
