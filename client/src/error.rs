//! One error per operation of the client. Each text says what failed and what to do about it.

use std::{fmt::Write, ops::RangeInclusive, time::Duration};

pub use windlass_transport::error::chain;
use windlass_transport::{
    control::ControlError,
    error::{AllocateError, ConnectError as LinkError, OpenError, RegisterError, ShareError},
    text::{Shown, Span},
};
use windlass_wire::{
    DataType, PartitionId, ServerId, Status, Timestamp, WorkerClock, control::RefusalKind,
    filter::StackError,
};

use crate::fork::WrongProcess;

/// Why a client could not connect.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The text is not an address.
    #[error("{address:?} is not an address: use windlass://HOST:PORT or HOST:PORT")]
    Address {
        /// The text.
        address: String,
    },
    /// A control connection failed.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The server refused.
    #[error("the server at {} refused: {}", Shown(.address), Shown(.text))]
    Refused {
        /// The server.
        address: String,
        /// Its kind.
        kind: RefusalKind,
        /// The server's words.
        text: String,
    },
    /// The server answered something else.
    #[error("the server at {} answered something else than was asked", Shown(.address))]
    Unexpected {
        /// The server.
        address: String,
    },
    /// The server accepted the connection and does not answer.
    #[error("{} did not answer within {}: it is overloaded or stopped", Shown(.address), Span(*.timeout))]
    Timeout {
        /// The server.
        address: String,
        /// The bound.
        timeout: Duration,
    },
    /// The client's watch ended the wait.
    #[error("interrupted while waiting for a server")]
    Interrupted,
    /// No provider is common to client and server.
    #[error("no transport works between here and {}: {reasons}", Shown(.address))]
    NoProvider {
        /// The server.
        address: String,
        /// Why each did not.
        reasons: String,
    },
    /// A provider could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Memory could not be allocated.
    #[error(transparent)]
    Allocate(#[from] AllocateError),
    /// Memory could not be registered.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// Memory could not be shared with the server.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// There is no control connection to the server to link by.
    #[error("there is no connection to server {server} any more")]
    Unlinked {
        /// The server.
        server: ServerId,
    },
    /// A queue pair could not be connected.
    #[error("cannot connect a queue pair to the server at {}", Shown(.address))]
    Link {
        /// The server.
        address: String,
        /// Why.
        source: LinkError,
    },
}

/// Why a table could not be created, opened or dropped.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// There is no such table.
    #[error("there is no table {name:?}: create it first")]
    Unknown {
        /// The name.
        name: String,
    },
    /// One of that name has another schema.
    #[error("table {name:?} exists with another schema: drop it first, or open it")]
    Exists {
        /// The name.
        name: String,
    },
    /// The table's dtype is not the one asked for.
    #[error("table {name:?} holds {found}, not {asked}: open it as {found}")]
    Dtype {
        /// The name.
        name: String,
        /// The table's.
        found: DataType,
        /// Asked for.
        asked: DataType,
    },
    /// The servers refused.
    #[error("the servers refused: {}", Shown(.text))]
    Refused {
        /// Its kind.
        kind: RefusalKind,
        /// The server's words.
        text: String,
    },
    /// A control connection failed.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A server accepted the connection and does not answer. It may still carry out the request.
    #[error(
        "{} did not answer within {}: it is overloaded or stopped; what it was asked for \
         may still be done",
        Shown(.address),
        Span(*.timeout)
    )]
    Timeout {
        /// The server.
        address: String,
        /// The bound.
        timeout: Duration,
    },
    /// The client's watch ended the wait. What was asked for may still be done.
    #[error("interrupted while waiting for a server; what it was asked for may still be done")]
    Interrupted,
    /// The table is open, but its other workers could not be told where this one starts.
    #[error("cannot tell the table's shards this worker's clock")]
    Clock {
        /// Why.
        source: Box<RequestError>,
    },
    /// One of the table's shards cannot be linked to.
    #[error("cannot link to a shard of the table")]
    Link {
        /// Why.
        source: Box<ConnectError>,
    },
    /// The server answered something else.
    #[error("the server answered something else than was asked")]
    Unexpected,
    /// The client belongs to another process.
    #[error(transparent)]
    WrongProcess(#[from] WrongProcess),
    /// A server that was named is not connected to.
    #[error("server {server} is not there: see which servers the map has")]
    OutOfReach {
        /// The server.
        server: ServerId,
    },
}

impl RequestError {
    /// Whether this ended only the wait, while the request goes on.
    #[must_use]
    pub fn leaves_request(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Interrupted)
    }
}

/// Why a push or pull failed. Nothing of it was applied, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The client belongs to another process.
    #[error(transparent)]
    WrongProcess(#[from] WrongProcess),
    /// The values do not fit the rows.
    #[error("{rows} rows of {width} values need {expected} values, not {found}")]
    Length {
        /// Rows named.
        rows: u64,
        /// Values per row.
        width: u32,
        /// Values needed.
        expected: u64,
        /// Values given, or values that there is room for.
        found: u64,
    },
    /// A row is past the table's end.
    #[error("row {row} is past the table's end: it has {rows} rows")]
    OutOfRange {
        /// The row.
        row: u64,
        /// Rows of the table.
        rows: u64,
    },
    /// The request named a range of a sparse table.
    #[error("a sparse table has no row ranges: name keys")]
    RangeOfSparse,
    /// The offsets do not divide the keys into bags.
    #[error(
        "offsets of bags of {key_count} keys begin at 0, ascend and end at {key_count}: {what}"
    )]
    Offsets {
        /// What is wrong with them.
        what: String,
        /// Number of keys.
        key_count: usize,
    },
    /// The mean of bags of integers was asked for.
    #[error("there is no mean of {dtype}: pool by the sum")]
    MeanOfIntegers {
        /// The table's.
        dtype: DataType,
    },
    /// A scan was asked of a dense table.
    #[error("a dense table has no keys to scan: pull ranges of its rows")]
    ScanOfDense,
    /// The scan's cursor belongs to another table, or to a dropped one of the same name.
    #[error(
        "cursor {cursor} is not of table {name:?}, which is number {table}: begin a new scan of it"
    )]
    CursorOfAnother {
        /// The cursor.
        cursor: String,
        /// The table's name.
        name: String,
        /// Its number, with which cursors of it begin.
        table: u32,
    },
    /// A server answered a scan with something else.
    #[error("a server answered a scan with bytes that make no sense: use one release for both")]
    BadScan,
    /// A value is NaN or infinite, and the table refuses those.
    #[error(
        "a value of the push is NaN or infinite and the table refuses such; nothing was applied"
    )]
    NotFinite,
    /// The push cannot go through its filters; nothing was sent.
    #[error(transparent)]
    Filter(#[from] FilterRefusal),
    /// The server refused for another reason. A push of more than 1 MiB of values or 16,384 keys (4,096 in a
    /// sparse table), or to several shards, goes in several messages, each of which is applied as a whole or
    /// refused by itself.
    #[error("server {server} refused: {status}{}", of_push(rows))]
    Refused {
        /// The server, or the first of several.
        server: ServerId,
        /// Its reason.
        status: Status,
        /// Rows or keys of the push that were not applied, ascending; all others of it were. None of a pull.
        rows: Vec<RangeInclusive<u64>>,
    },
    /// No server took or answered the request for as long as the client retries. A push may have been applied in other
    /// partitions, or by servers that are gone.
    #[error(
        "no live server has partition {partition}, for {} and longer: {remedy}; parts of \
         the request may have been applied",
        Span(*.tried_for)
    )]
    PartitionUnavailable {
        /// The partition, or the first of several.
        partition: PartitionId,
        /// How long the client tries.
        tried_for: Duration,
        /// Which server is waited for, or what else is to be done, by the newest map known.
        remedy: String,
    },
    /// The only server with the rows came back without them, because they were not on disk.
    #[error(
        "a server came back without the table's rows, which were kept in its memory only: open the \
         table again to go on with what is there, restore it, or use replicas or durability"
    )]
    RowsLost,
    /// The push had no answer for so long that the servers may have applied and forgotten it. The client does not
    /// resend it, because it could be applied twice. All, part or none of it may have been applied.
    #[error(
        "the push had no answer for half of the {} after which servers forget which pushes \
         were applied: it is unknown whether it was; pull the rows to see, and push anew what is missing",
        Span(*.expiry)
    )]
    SessionExpired {
        /// How long servers remember an idle session: `--session-expiry` of the cluster.
        expiry: Duration,
    },
    /// The server went away. Requests without an answer may have been applied or not.
    #[error(
        "server {server} is gone: connect again; requests without an answer may have been applied"
    )]
    ServerGone {
        /// The server.
        server: ServerId,
    },
    /// The memory that held the rows is no longer current.
    #[error(
        "the rows at server {server} are no longer current: the table was dropped; open it again if it was made anew"
    )]
    NotCurrent {
        /// The server.
        server: ServerId,
    },
    /// No answer in time. The request goes on.
    #[error("no answer within {}: the server is overloaded or gone", Span(*.timeout))]
    Timeout {
        /// The bound.
        timeout: Duration,
    },
    /// The push was not sent as a whole in time. Parts that were sent go on.
    #[error(
        "the push could not be sent within {}: none or only some of its rows are or will be \
         pushed; push fewer rows at once, or raise the timeout",
        Span(*.timeout)
    )]
    SendTimeout {
        /// The bound.
        timeout: Duration,
    },
    /// The client's watch ended the wait. Requests that were sent go on.
    #[error("interrupted while waiting; what was sent goes on")]
    Interrupted,
    /// The timestamp names no request of this client, or one so old that it is forgotten.
    #[error("timestamp {timestamp} names no request that is still known")]
    UnknownTimestamp {
        /// The timestamp.
        timestamp: Timestamp,
    },
    /// The request needs more of the staging area at once than one may take.
    #[error(
        "{len} bytes are more than one request may take of the client's staging area, {limit} of its \
         {staging_len} bytes: ask for fewer rows at once, or raise it"
    )]
    TooLarge {
        /// Bytes of the request.
        len: u64,
        /// Bytes that one request may take.
        limit: usize,
        /// Bytes of the area.
        staging_len: usize,
    },
    /// A slower worker kept a pull waiting for too long.
    #[error(
        "the slowest worker is at clock {slowest} and the pull needs {needed}; waited {}: \
         let that worker go on or leave, raise the table's bound, or the client's timeout",
        Span(*.timeout)
    )]
    Behind {
        /// Clock of the slowest live worker.
        slowest: WorkerClock,
        /// Clock it has to reach.
        needed: WorkerClock,
        /// The bound.
        timeout: Duration,
    },
    /// Too few workers came.
    #[error(
        "{live} of {expected} workers have opened the table within {}: start the others",
        Span(*.timeout)
    )]
    Missing {
        /// Workers there are.
        live: u64,
        /// Workers waited for.
        expected: u64,
        /// The bound.
        timeout: Duration,
    },
    /// The table's workers keep clocks, and this client is none of them.
    #[error("the table counts its workers' clocks: connect with a rank to be one of them")]
    NoRank,
    /// What this worker has pushed in its round leaves no room for more: servers acknowledge it when
    /// the round closes. Of this request, nothing or only some of its rows may have been pushed.
    #[error(
        "what was pushed in this round takes all the room there is until the round closes (1,000 \
         requests, 1,000 messages and 1 MiB of keys to a shard, the client's staging area): push \
         more rows at once, advance the clock sooner, or raise the staging area"
    )]
    RoundFull,
    /// The table's workers keep no clocks.
    #[error(
        "the table's consistency is eventual, its workers have no clocks: create it with sequential or bounded:N"
    )]
    NoClock,
    /// The place of rows could not be learned, or memory could not be shared.
    #[error("cannot prepare the request: {text}")]
    Setup {
        /// Why.
        text: String,
    },
}

/// Ranges of rows that the text of an error names.
const RANGES_NAMED: usize = 16;

/// The end of a sentence that names the rows of a push that were not applied.
fn of_push(rows: &[RangeInclusive<u64>]) -> String {
    let mut text = String::new();
    for (at, range) in rows.iter().take(RANGES_NAMED).enumerate() {
        let (first, last) = range.clone().into_inner();
        let before = if at == 0 { "; of the push, rows " } else { ", " };
        let _ = match first == last {
            true => write!(text, "{before}{first}"),
            false => write!(text, "{before}{first} to {last}"),
        };
    }
    if rows.len() > RANGES_NAMED {
        let _ = write!(text, " and {} ranges more", rows.len() - RANGES_NAMED);
    }
    if !rows.is_empty() {
        text.push_str(" were not applied, all others were");
    }
    text
}

/// Why a push cannot go through its filters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterRefusal {
    /// The filters do not fit the table.
    #[error("{0}")]
    Stack(StackError),
    /// The filters choose rows, and do not suit the table.
    #[error("{0}")]
    Rows(crate::sparsify::ParseSparsifierError),
    /// Fixed point has no form for NaN and infinities.
    #[error(
        "a value of the push is NaN or infinite, which fixed point cannot write; nothing was sent"
    )]
    NotFinite,
    /// The same for rows of a pull.
    #[error(
        "a value of the rows is NaN or infinite, which fixed point cannot write: pull them without it"
    )]
    RowNotFinite,
}
