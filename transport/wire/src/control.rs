//! Control messages: what clients, servers and the coordinator say over a control connection.
//!
//! ```text
//! offset size
//!      0    4  magic "WLC1"
//!      4    4  length of the message, at most 1 MiB
//!      8    4  CRC32C of the message
//!     12       message: a tag byte, then its fields
//! ```

use crate::{
    checksum::Checksum,
    codec::{BLOB_LEN_MAX, Blob, DecodeError, Wire},
    coordination::{CoordinatorStatus, Kept, Operation, PartitionChecksum},
    expiry::Expiry,
    ids::{
        Incarnation, PartitionId, ServerId, SessionId, ShardId, TableId, WorkerClock, WorkerRank,
    },
    map::ClusterMap,
    proof::{ServerSecret, Ticket},
    schema::{Consistency, TableEntry, TableSchema},
};

mod place;
mod which_rows;

pub use self::{
    place::{ClockPlace, PartitionPlace, SharedRegion},
    which_rows::{REMOVED_KEYS_MAX, WhichRows},
};
pub use crate::refusal::RefusalKind;

/// Version of the protocol; peers of different versions refuse each other.
pub const PROTOCOL_VERSION: u32 = 7;

/// Length of a frame's header in bytes.
pub const FRAME_HEADER_LEN: usize = 12;

/// Most bytes of a message.
pub const MESSAGE_LEN_MAX: usize = BLOB_LEN_MAX + 4096;

/// Most bytes of the first message of a connection, with its header: all that is kept for a stranger.
pub const HELLO_LEN_MAX: usize = 4096;

/// Most bytes of a token.
pub const TOKEN_LEN_MAX: usize = 3072;

/// Bytes that the rest of a hello takes at most.
const HELLO_REST_LEN_MAX: usize = 512;

const _: () = assert!(FRAME_HEADER_LEN + TOKEN_LEN_MAX + HELLO_REST_LEN_MAX <= HELLO_LEN_MAX);

const MAGIC: [u8; 4] = *b"WLC1";

/// A message with its header.
#[must_use]
pub fn encode_frame<M: Wire>(message: &M) -> Vec<u8> {
    let mut frame = vec![0; FRAME_HEADER_LEN];
    message.encode(&mut frame);
    let len = u32::try_from(frame.len() - FRAME_HEADER_LEN).unwrap_or(u32::MAX);
    let checksum = Checksum::of(&frame[FRAME_HEADER_LEN..]);
    frame[0..4].copy_from_slice(&MAGIC);
    frame[4..8].copy_from_slice(&len.to_le_bytes());
    frame[8..12].copy_from_slice(&checksum.0.to_le_bytes());
    frame
}

/// Checks a frame's header; returns the message's length and checksum.
///
/// # Errors
/// When the magic is wrong or the length over its bound.
pub fn decode_frame_header(
    header: &[u8; FRAME_HEADER_LEN],
) -> Result<(usize, Checksum), DecodeError> {
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    if header[0..4] != MAGIC {
        return Err(DecodeError::Unknown { field: "frame magic", value: u64::from(word(0)) });
    }
    let len = word(4) as usize;
    if len > MESSAGE_LEN_MAX {
        return Err(DecodeError::TooLong {
            field: "message length",
            value: len as u64,
            max: MESSAGE_LEN_MAX as u64,
        });
    }
    Ok((len, Checksum(word(8))))
}

/// Checks a message's checksum and decodes it.
///
/// # Errors
/// When the bytes are damaged or are no message.
pub fn decode_message<M: Wire>(bytes: &[u8], checksum: Checksum) -> Result<M, DecodeError> {
    let computed = Checksum::of(bytes);
    if computed != checksum {
        return Err(DecodeError::Checksum { found: checksum.0, computed: computed.0 });
    }
    M::from_bytes(bytes)
}

/// A way that bytes can travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// InfiniBand, RoCE, SoftRoCE.
    Verbs {},
    /// Shared memory of one host.
    Shm {},
    /// TCP.
    Tcp {},
}

impl Provider {
    /// All, in the order in which they are tried.
    pub const ALL: [Self; 3] = [Self::Verbs {}, Self::Shm {}, Self::Tcp {}];

    /// Its name in flags and results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Verbs {} => "verbs",
            Self::Shm {} => "shm",
            Self::Tcp {} => "tcp",
        }
    }
}

/// A life of a server, as it names itself to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The server.
    pub server: ServerId,
    /// Its life.
    pub incarnation: Incarnation,
}

/// What a server connects to another process of the cluster for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRole {
    /// To join at a coordinator, or to ask it something.
    Joins {},
    /// To link its shards with those of another server: its mailboxes take chain messages.
    Links {
        /// Who it is.
        peer: Peer,
        /// What proves that to the other one.
        ticket: Ticket,
    },
}

/// What a client asks of a server.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientRequest {
    /// First message of every control connection.
    Hello {
        /// [`PROTOCOL_VERSION`].
        version: u32,
        /// The token, or empty.
        token: String,
        /// The session to go on with, or zero for a new one.
        session: SessionId,
        /// The life of the session.
        incarnation: Incarnation,
        /// The worker's rank, when it has one.
        rank: Option<WorkerRank>,
        /// Names this host and user: equal names can share memory.
        host: String,
        /// What for, when it is a server that connects, and not a client.
        peer: Option<PeerRole>,
    },
    /// The cluster map in force.
    Map {},
    /// Creates a table; an equal one that exists already is returned.
    CreateTable {
        /// Its name.
        name: String,
        /// Its schema.
        schema: TableSchema,
    },
    /// Finds a table.
    OpenTable {
        /// Its name.
        name: String,
    },
    /// Drops a table and its rows.
    DropTable {
        /// Its name.
        name: String,
    },
    /// All tables.
    ListTables {},
    /// First half of connecting to a shard: exchanges endpoints.
    OpenMailbox {
        /// The shard.
        shard: ShardId,
        /// By which provider.
        provider: Provider,
        /// The client's endpoint.
        endpoint: Blob,
    },
    /// Second half: exchanges regions.
    AttachMailbox {
        /// The shard.
        shard: ShardId,
        /// The client's reply region.
        reply: SharedRegion,
        /// Slots of its completion ring.
        completion_slots: u32,
    },
    /// Where the rows of a dense table lie at a shard.
    Locate {
        /// The table.
        table: TableId,
        /// The shard.
        shard: ShardId,
    },
    /// Counters of the server.
    Statistics {},
    /// Asks the server to shut down after what it has is done.
    Shutdown {},
    /// Asks the server to begin a checkpoint of what it keeps on disk.
    Checkpoint {},
    /// The session works on a table: where its clock at a shard is published. A session with a rank
    /// is one of the table's workers from now on, and waited for.
    JoinClock {
        /// The table.
        table: TableId,
        /// The shard.
        shard: ShardId,
    },
    /// Sets rows of one partition of a dense table, whatever its rule; their optimiser state begins
    /// anew. The server leads the partition.
    SetRows {
        /// The table.
        table: TableId,
        /// The partition.
        partition: PartitionId,
        /// The first row.
        first: u64,
        /// Values of whole rows, little-endian.
        values: Blob,
    },
    /// Sets rows of one partition of a sparse table, whatever its rule. The server leads the partition.
    SetKeys {
        /// The table.
        table: TableId,
        /// The partition.
        partition: PartitionId,
        /// Whether the rows have their optimiser state; it begins anew otherwise.
        with_state: bool,
        /// Key (8 bytes), values, and state if it is given, of each row: little-endian, the state as a
        /// scan brings it.
        rows: Blob,
    },
    /// Removes rows of one partition of a sparse table, with their state. The server leads the partition.
    RemoveRows {
        /// The table.
        table: TableId,
        /// The partition.
        partition: PartitionId,
        /// Which.
        which: WhichRows,
    },
    /// Changes the staleness bound of a table while it is in use.
    AlterTable {
        /// Its name.
        name: String,
        /// How stale pulls may be from now on.
        consistency: Consistency,
    },
    /// Changes hyper-parameters of a table's rule, while the table is in use.
    SetRule {
        /// Its name.
        name: String,
        /// `key=value,...`, as [`UpdateRule::with`](crate::UpdateRule::with) takes it.
        parameters: String,
    },
    /// Changes which rows of a sparse table go by themselves, while it is in use.
    SetExpiry {
        /// Its name.
        name: String,
        /// Which go from now on.
        expiry: Expiry,
    },
    /// The session is no table's worker any more: nobody waits for it from now on.
    LeaveClocks {},
    /// A server joins the cluster. On success the connection turns round: the coordinator sends
    /// [`Order`](crate::coordination::Order)s over it and the server
    /// [`Report`](crate::coordination::Report)s.
    Join {
        /// The number it had before, if it has one.
        server: Option<ServerId>,
        /// The cluster it had that number in; zero when it had none.
        cluster: u64,
        /// Where the server's control port listens.
        address: String,
        /// Its shards.
        shard_count: u16,
        /// Its life.
        incarnation: Incarnation,
        /// What it holds of what it acknowledged.
        kept: Kept,
        /// What it proves its number by: made at its first join, and the same at each later one.
        secret: ServerSecret,
    },
    /// How the coordinator is doing.
    CoordinatorStatus {},
    /// An operator's change.
    Operate {
        /// Which.
        operation: Operation,
    },
    /// What every partition of this server amounts to.
    Checksums {},
    /// A worker begins: it gets a rank, or the one it asks for, and the clock to start from.
    RegisterWorker {
        /// The rank it had.
        rank: Option<WorkerRank>,
        /// Its life.
        incarnation: Incarnation,
    },
    /// A worker ends: its rank is free, and nobody waits for it.
    LeaveWorker {
        /// Its rank.
        rank: WorkerRank,
        /// Its life.
        incarnation: Incarnation,
    },
}

/// What a server answers to a client.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientReply {
    /// To `Hello`.
    Welcome {
        /// The session.
        session: SessionId,
        /// The server.
        server: ServerId,
        /// Its life.
        incarnation: Incarnation,
        /// The life its process began with: rows in its memory go back to that one.
        started: Incarnation,
        /// Its shards.
        shard_count: u16,
        /// Providers it offers to this client, best first.
        providers: Vec<Provider>,
        /// Why better ones are not offered, one sentence each.
        notes: Vec<String>,
    },
    /// To `Map`.
    Map {
        /// The map.
        map: ClusterMap,
    },
    /// To `CreateTable` and `OpenTable`.
    Table {
        /// The table.
        table: TableEntry,
    },
    /// To `ListTables`.
    Tables {
        /// The tables, by id.
        tables: Vec<TableEntry>,
    },
    /// To `OpenMailbox`.
    Mailbox {
        /// The shard's endpoint.
        endpoint: Blob,
    },
    /// To `AttachMailbox`.
    Attached {
        /// The mailbox's region.
        mailbox: SharedRegion,
        /// Bytes of its ring.
        ring_len: u32,
        /// Microseconds a shard spins before it sleeps.
        spin_us: u32,
        /// Values longer than this go by reference, in bytes; `u32::MAX` if none should.
        by_reference_len: u32,
        /// Keys that the client may have the shard keep; zero for none.
        kept_keys_max: u32,
    },
    /// To `Locate`.
    Located {
        /// The partitions of the shard that hold rows of the table.
        places: Vec<PartitionPlace>,
    },
    /// To `Statistics`: JSON, whose keys are documented with the command line.
    Statistics {
        /// The text.
        json: Blob,
    },
    /// Done, nothing to say.
    Done {},
    /// Not done.
    Refused {
        /// Its kind.
        status: RefusalKind,
        /// A sentence for people.
        text: String,
    },
    /// To `JoinClock`.
    ClockJoined {
        /// Where the clock is published, and where the worker starts.
        place: ClockPlace,
    },
    /// To `Join`.
    Joined {
        /// The server's number from now on.
        server: ServerId,
        /// Names the cluster.
        cluster: u64,
        /// Time between its heartbeats, in milliseconds.
        heartbeat_ms: u32,
    },
    /// To `CoordinatorStatus`.
    CoordinatorStatus {
        /// The answer.
        status: CoordinatorStatus,
    },
    /// To `Checksums`.
    Checksums {
        /// One per partition held.
        partitions: Vec<PartitionChecksum>,
    },
    /// To `RegisterWorker`.
    WorkerRegistered {
        /// Its rank.
        rank: WorkerRank,
        /// The clock to start from.
        clock: WorkerClock,
    },
    /// To `RemoveRows`.
    RowsRemoved {
        /// How many there were.
        rows: u64,
        /// Where to look for more, unless that was the partition's end.
        next: Option<u64>,
    },
}

crate::codec::wire_enum!(Provider { 1 => Verbs {}, 2 => Shm {}, 3 => Tcp {} });
crate::codec::wire_struct!(Peer { server, incarnation });
crate::codec::wire_enum!(PeerRole { 1 => Joins {}, 2 => Links { peer, ticket } });
crate::codec::wire_enum!(ClientRequest {
    1 => Hello { version, token, session, incarnation, rank, host, peer },
    2 => Map {},
    3 => CreateTable { name, schema },
    4 => OpenTable { name },
    5 => DropTable { name },
    6 => ListTables {},
    7 => OpenMailbox { shard, provider, endpoint },
    8 => AttachMailbox { shard, reply, completion_slots },
    9 => Locate { table, shard },
    10 => Statistics {},
    11 => Shutdown {},
    12 => Join { server, cluster, address, shard_count, incarnation, kept, secret },
    13 => Checkpoint {},
    14 => CoordinatorStatus {},
    15 => Operate { operation },
    16 => Checksums {},
    17 => RegisterWorker { rank, incarnation },
    18 => LeaveWorker { rank, incarnation },
    20 => JoinClock { table, shard },
    21 => AlterTable { name, consistency },
    22 => LeaveClocks {},
    23 => SetRows { table, partition, first, values },
    24 => SetRule { name, parameters },
    25 => SetKeys { table, partition, with_state, rows },
    26 => RemoveRows { table, partition, which },
    27 => SetExpiry { name, expiry },
});
crate::codec::wire_enum!(ClientReply {
    1 => Welcome { session, server, incarnation, started, shard_count, providers, notes },
    2 => Map { map },
    3 => Table { table },
    4 => Tables { tables },
    5 => Mailbox { endpoint },
    6 => Attached { mailbox, ring_len, spin_us, by_reference_len, kept_keys_max },
    7 => Located { places },
    8 => Statistics { json },
    9 => Done {},
    10 => Refused { status, text },
    11 => Joined { server, cluster, heartbeat_ms },
    12 => CoordinatorStatus { status },
    13 => Checksums { partitions },
    14 => WorkerRegistered { rank, clock },
    20 => ClockJoined { place },
    21 => RowsRemoved { rows, next },
});
