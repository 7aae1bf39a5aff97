//! Every bound of the server in one place, and how they depend on each other.

use windlass_transport::{
    mailbox,
    wait::{DESCRIPTORS_MAX, TRANSPORTS_MAX},
};
use windlass_wire::{request, schema};

use crate::persist::limits::{KEYS_MAX, RECORD_BYTES_MAX};

/// Most shards of one server.
pub const SHARDS_MAX: u16 = 256;

/// Most shards that share one thread.
pub const SHARDS_PER_THREAD_MAX: usize = 16;

/// Most sessions of one shard.
pub const SESSIONS_MAX: usize = 4096;

/// Highest number of a server. Servers get ascending numbers; no cluster comes near this many.
pub const SERVER_NUMBER_MAX: u32 = u32::MAX >> 1;

/// Most control connections of clients at one server.
pub const CONTROL_CONNECTIONS_MAX: usize = 8192;

/// Most control connections of other servers: one of each and what they ask on behalf of clients.
pub const SERVER_CONNECTIONS_MAX: usize = 1024;

/// Connections that have not shown who they are, which a control port listens to at a time.
pub const STRANGERS_MAX: usize = 64;

/// A peer that says nothing for this long is suspected: longer than a busy machine keeps a thread
/// waiting, and short enough for a host that vanishes to be replaced within a second.
pub const SUSPECT_AFTER: std::time::Duration = std::time::Duration::from_millis(200);

/// Silence beyond [`SUSPECT_AFTER`] counts against a pair of servers for this long. A host that loses
/// packets is silent again and again, not for ever.
pub const LATENESS_WINDOW: std::time::Duration = std::time::Duration::from_secs(3);

/// How long servers that come to share chains may take to link their shards before they are late for
/// each other: they make parameter memory meanwhile, on machines that are busy.
pub const LINK_PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// Events that wait for the coordinator's stepping thread.
pub const COORDINATOR_EVENTS_MAX: usize = 1024;

/// Orders that wait for one server to read them; one that reads no more is cut off.
pub const ORDERS_QUEUED_MAX: usize = 1024;

/// Most tables of one cluster.
pub const TABLES_MAX: usize = 4096;

/// Bytes of a mailbox's ring.
pub const MAILBOX_RING_LEN: u32 = 1 << 20;

/// The same on devices where large values are written instead of fetched.
pub const MAILBOX_RING_LEN_WRITTEN: u32 = 4 << 20;

/// Bytes of values above which clients leave them where they are for the shard to read.
pub const BY_REFERENCE_LEN: u32 = 16 << 10;

/// Completion slots of a session, and so its most requests in flight at one shard.
pub const COMPLETION_SLOTS: u32 = 1024;

/// Inline requests are at most this long: keys and values together, in bytes.
pub const INLINE_LEN_MAX: u64 = request::BODY_LEN_MAX;

/// Messages a shard takes from one session in one turn.
pub const SESSION_MESSAGES_PER_TURN: usize = 64;

/// How long a message may be there by its first and last word with other bytes on their way still: devices
/// place them in any order, but not much later.
pub const DOUBT_MAX: std::time::Duration = std::time::Duration::from_millis(100);

/// Bytes of messages a shard copies out of mailboxes in one turn.
pub const TURN_BYTES_MAX: u64 = 4 << 20;

/// Keys of a turn that pushes to sparse tables may be behind: making a row costs some 0.2 us, and twice that while
/// an index moves. A longer message is a turn of its own.
pub const TURN_KEYS_MAX: usize = 4 << 10;

/// Keys that a shard keeps for one client.
pub const KEPT_KEYS_MAX: u32 = 128 << 10;

/// All keys that are kept take at most this part of a shard's memory, beside it: clients that come later have
/// none kept.
pub const KEPT_KEYS_MEMORY_PART: u64 = 16;

/// Requests a shard carries out in one turn.
pub const TURN_REQUESTS_MAX: usize = 1024;

/// Bytes of values by reference a shard takes on in one turn: bounds how long a turn lasts.
pub const TURN_REFERENCED_BYTES_MAX: u64 = 8 << 20;

/// Bytes a shard stages for pushes fetched from clients and pulls gathered for them.
pub const STAGING_LEN: usize = 32 << 20;

/// Bytes of staging that one session may hold when it holds some already: one that does not take
/// what it asked for leaves room for others.
pub const STAGING_SESSION_LEN_MAX: u64 = STAGING_LEN as u64 / 4;

/// Requests of one session whose values are on their way at once.
pub const FETCHES_MAX: usize = 16;

/// Requests of one session that may be parked: those, and the pulls of one turn.
pub const PARKED_MAX: usize = FETCHES_MAX + SESSION_MESSAGES_PER_TURN;

/// Bytes of parameter memory without a table that are kept for peers who may still read it, so that
/// they find it marked as not current instead of losing their queue pair to an access error.
pub const RETIRED_LEN_MAX: u64 = 64 << 20;

/// Blocks of rows that a turn marks as current or not: a few hundred microseconds where none is in a cache.
pub const BLOCKS_MARKED_PER_TURN: u64 = 2048;

/// Bytes of rows that a turn sums for comparing replicas: a few hundred microseconds.
pub const CHECKSUM_BYTES_PER_TURN: usize = 256 << 10;

/// How often a partition that changes meanwhile is summed from its beginning.
pub const CHECKSUM_ATTEMPTS_MAX: u32 = 8;

/// What giving back a partition counts as among them.
pub const BLOCKS_PER_PARTITION_ENDED: u64 = 64;

/// How far the thread that makes a shard's memory stands back behind those that serve.
pub const MEMORY_THREAD_NICE: i32 = 5;

/// Bytes of one region of parameter memory, unless a table needs a larger one.
pub const ARENA_REGION_LEN: usize = 8 << 20;

/// Data bytes a block of parameter memory aims at: large enough that its version words cost
/// little, small enough that reading a whole block for a few rows costs little.
pub const BLOCK_DATA_LEN: u64 = 960;

/// The same for partitions of at least [`LARGE_PARTITION_LEN`]: they are pulled by large ranges. A
/// whole block of values fits a packet of the largest MTU.
pub const LARGE_BLOCK_DATA_LEN: u64 = 4096;

/// Bytes of rows from which a partition is large.
pub const LARGE_PARTITION_LEN: u64 = 256 << 10;

/// Length of the line between blocks, which holds their version words.
pub const BLOCK_LINE_LEN: u64 = 64;

/// Completions polled from one transport in one call.
pub const COMPLETIONS_PER_POLL: usize = 64;

/// Receives kept posted on each queue pair: a client posts at most one wake-up per sleep of the
/// shard and one per message in flight.
pub const RECEIVES_POSTED: u32 = 64;

/// How long a shard sleeps at most when nothing wakes it, in milliseconds: a net under the
/// wake-up protocol, not its means.
pub const SLEEP_MS_MAX: u64 = 100;

/// Time between two sweeps over the sessions of a shard: those that were silent for [`QUIET_LOOKS`] of them are told
/// to wake it, and after as many more its turns look at them no longer. A message that was on its way when a client was
/// told has arrived by then.
pub const SWEEP_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

/// See [`SWEEP_EVERY`].
pub const QUIET_LOOKS: u32 = 2;

/// Quiet sessions that one sweep looks at: a net under the wake-up protocol, not its means.
pub const SESSIONS_SWEPT: usize = 64;

/// The shortest time after which sessions may expire, in milliseconds.
pub const SESSION_EXPIRY_MS_MIN: u32 = 1_000;

/// Looks at idle sessions in the time after which they expire.
pub const EXPIRY_LOOKS: u32 = 16;

/// Sessions that one record of a chain names as expired.
pub const SESSIONS_EXPIRED_PER_RECORD_MAX: usize = 1024;

/// Rows a sparse partition's first slab holds; each next one holds twice as many, up to `SLAB_LEN_MAX`.
pub const SLAB_ROWS_FIRST: u64 = 16;

/// Bytes of a slab, unless a few rows take more. Small slabs are soon made, and waste little.
pub const SLAB_LEN_MAX: u64 = 4 << 20;

/// Bytes from which on a slab, or an index, is made by another thread: a turn takes some 50 us to touch as many.
pub const MADE_AHEAD_LEN: u64 = 256 << 10;

/// A batch of sparse keys has the processor fetch what it reads next so many keys ahead.
pub const KEYS_FETCHED_AHEAD: usize = 16;

/// Slots of an index that one scan looks at in a turn, give or take a collision: some 100 us where none is in
/// a cache.
pub const SCAN_SLOTS_PER_TURN: usize = 8 << 10;

/// Bytes of values whose norms are computed in a turn at most, to find rows to be removed.
pub const PRUNED_VALUES_LEN_PER_TURN: usize = 1 << 20;

/// Rows whose age is looked at in one piece, at most as many as one record removes.
pub const AGED_ROWS_PER_PIECE: usize = 4 << 10;

/// Pieces looked at in a turn while a partition has more rows than it may have.
pub const AGED_PIECES_PER_LOOK: usize = 4;

/// Between two sweeps through a table passes this part of the age at which its rows expire, at least a second.
pub const AGES_PER_SWEEP: u32 = 16;

/// Rows that one scan brings in a turn at most.
pub const SCAN_ROWS_PER_TURN: u32 = 16 << 10;

/// Bytes of a shard's log ring: what may wait for the disk before pushes wait too.
pub const LOG_RING_LEN: usize = 64 << 20;

/// Bytes of that ring which pushes leave for what is recorded beside them: images, clocks, padding.
pub const LOG_ROOM_LEN: u64 = 4 << 20;

/// Bytes that a record takes at most beside its rows, one more push in it included.
pub const LOG_RECORD_LEN: u64 = 256;

/// Bytes of log that are kept before a checkpoint takes their place, however small the tables are and
/// fast the log grows.
pub const LOG_KEPT_LEN: u64 = 256 << 20;

/// The same of a log that takes longer than [`CHECKPOINT_PAUSE`] to grow by that.
pub const LOG_KEPT_LEN_SLOW: u64 = 32 << 20;

/// From one checkpoint to the next, unless the log needs one sooner.
pub const CHECKPOINT_PAUSE: std::time::Duration = std::time::Duration::from_secs(5);

/// The shortest log that a shard can be told to keep to: its last segments have room for the longest
/// records.
pub const LOG_LEN_MIN: u64 = 512 << 20;

/// The longest segment of a log that a shard is told to keep to is this part of it.
pub const SEGMENTS_PER_LOG_LEN: u64 = 16;

/// A turn that spends more than this on a checkpoint is counted: pushes should not notice one.
pub const CHECKPOINT_TURN_LONG: std::time::Duration = std::time::Duration::from_millis(1);

/// Bytes of rows of `interval` tables, by the longest form of their images, that are recorded before
/// their time is over.
pub const IMAGE_LEN_MAX: u64 = 4 << 20;

/// Bytes of rows of `interval` tables in one partition from half of which on they are recorded: the
/// image of a partition is one record, made in one turn. Longer by the push that passes it at most.
pub const IMAGE_PARTITION_LEN_MAX: u64 = 1 << 20;

/// Bytes of images that a turn records, and one partition's more, when they are due.
pub const IMAGES_LEN_PER_TURN: usize = 512 << 10;

/// Pushes to `interval` tables with more bytes of values, or more rows, are recorded at once.
pub const IMAGED_PUSH_LEN_MAX: u64 = 512 << 10;
/// See [`IMAGED_PUSH_LEN_MAX`].
pub const IMAGED_PUSH_ROWS_MAX: u32 = 1 << 14;

/// Bytes of values as pushed from which a record takes no further push in: its sum may take twice as
/// many, and has to fit a record.
pub const RECORD_VALUES_MAX: u64 = 4 << 20;

/// Clocks by which a worker may be ahead of the slowest of a table: a million a second for an hour. A clock at
/// the end of its numbers would leave the next worker that joins none to go on to.
pub const CLOCK_AHEAD_MAX: u64 = 1 << 32;

/// Pulls that may wait for slower workers at one shard at once; more are refused.
pub const WAITING_PULLS_MAX: usize = 16 << 10;

/// Keys of all of them.
pub const WAITING_KEYS_MAX: usize = 8 << 20;

/// How long a worker whose connection is gone is still waited for, in milliseconds, unless the
/// server is told otherwise: long enough to connect again.
pub const WORKER_TIMEOUT_MS: u32 = 5000;

/// Bytes of sums a shard keeps when it aggregates the pushes of one turn.
pub const AGGREGATE_LEN_MAX: usize = 16 << 20;

/// Messages a shard takes from one peer in one turn.
pub const PEER_MESSAGES_PER_TURN: usize = 256;

/// Messages of one peer that may wait for their records to be committed before they are completed: a small
/// part of what it may have in flight.
pub const CHAIN_ANSWERS_MAX: usize = 64;

/// How long each waits for that, in microseconds.
pub const CHAIN_ANSWER_WAIT_US: u64 = 100;

/// Bytes of records of chains a shard holds before its heads leave pushes in their mailboxes.
pub const CHAIN_HEAD_LEN_MAX: u64 = 32 << 20;

/// Bytes of records of chains a shard holds before learners that are behind have to start over.
pub const CHAIN_LEARNER_LEN_MAX: u64 = 16 << 20;

/// Bytes of records of chains a shard holds before it takes no more from its predecessors.
pub const CHAIN_HELD_LEN_MAX: u64 = 256 << 20;

/// Records of a shard's heads in flight before they leave pushes in their mailboxes.
pub const CHAIN_INFLIGHT_MAX: u64 = 2048;

/// Rounds of a partition that are summed at once. Clients stay four ahead of the one that closes next;
/// the rest is for rounds that close in some partitions sooner than in others.
pub const ROUNDS_OPEN_MAX: u64 = 16;

/// Records of one partition in flight from which workers' clocks wait: what is left of a replica's
/// bound is for the pushes of a turn.
pub const CLOCK_RECORD_INFLIGHT_MAX: u64 = 3072;

/// Bytes of values that pushes which share a record may bring, summed.
pub const CHAIN_RECORD_VALUES_MAX: u64 = 8 << 20;

/// Sessions and lanes that a replica remembers.
pub const CHAIN_SESSIONS_MAX: usize = 65_536;

/// Bytes of keyed rows that a feeder sends at a time.
pub const COPY_ROWS_LEN: usize = 64 << 10;

/// Bytes of its memory that a client on this host may have mapped at a server, however little the server
/// may hold itself: its staging area and rows for some pushes. Otherwise as many as the server may hold.
pub const CLIENT_MAPPED_LEN_MIN: u64 = 256 << 20;

/// Bytes of a copy that may wait on a link.
pub const COPY_BACKLOG_MAX: usize = 256 << 10;

// Each shard's transports, and its disk.
const _: () = assert!(SHARDS_PER_THREAD_MAX * (TRANSPORTS_MAX + 1) <= DESCRIPTORS_MAX);
const _: () = assert!(CHAIN_RECORD_VALUES_MAX + 8 * KEYS_MAX as u64 <= RECORD_BYTES_MAX as u64);
const _: () = assert!(2 * RECORD_BYTES_MAX as u64 + LOG_ROOM_LEN < LOG_RING_LEN as u64);
const _: () = assert!(LOG_KEPT_LEN_SLOW < LOG_KEPT_LEN);
const _: () = assert!(LOG_LEN_MIN / SEGMENTS_PER_LOG_LEN > RECORD_BYTES_MAX as u64 + (1 << 20));
const _: () = assert!(CHAIN_LEARNER_LEN_MAX < CHAIN_HEAD_LEN_MAX);
const _: () = assert!(CHAIN_HEAD_LEN_MAX < CHAIN_HELD_LEN_MAX);
const _: () = assert!(RECORD_BYTES_MAX <= windlass_wire::chain::WHOLE_LEN_MAX as usize);
const _: () = assert!(INLINE_LEN_MAX + 4096 < MAILBOX_RING_LEN as u64 / 2);
const _: () = assert!(COMPLETION_SLOTS <= mailbox::COMPLETION_SLOTS_MAX);
const _: () = assert!(COMPLETION_SLOTS.is_power_of_two());
const _: () = assert!(INLINE_LEN_MAX < TURN_BYTES_MAX);
// What comes in one write is told from half of it by its checksum.
const _: () = assert!(mailbox::ONE_WRITE_LEN_MAX <= request::CHECKED_VALUES_LEN_MAX);
const _: () = assert!(request::VALUES_LEN_MAX + 8 * request::ROWS_MAX as u64 <= STAGING_LEN as u64);
const _: () = assert!(schema::ROW_LEN_MAX <= request::VALUES_LEN_MAX);
const _: () = assert!(BLOCK_DATA_LEN.is_multiple_of(64) && BLOCK_LINE_LEN == 64);
const _: () = assert!(LARGE_BLOCK_DATA_LEN.is_multiple_of(64));
