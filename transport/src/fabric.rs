//! The transport trait: the semantics of RDMA verbs, whatever carries them. It names nothing that a
//! network card cannot do one-sided, and it knows no provider.
//!
//! One instance belongs to one thread; only [`Transport::wait`] blocks. The rules every provider
//! keeps, proved by the conformance suite in `tests/conformance.rs`:
//!
//! 1. **Order.** Where [`Promises::writes_in_order`] says so, requests of one queue pair take effect at
//!    the peer in the order they were posted: a peer that sees the second write sees the first.
//!    Otherwise the peer may see writes in any order, in pieces, until an immediate that was posted
//!    behind them has come. Reads overtake nothing, but the bytes *within* reads are ordered only where
//!    [`Promises::reads_in_order`] says so; otherwise only a completion orders them, or a fence: a
//!    request posted with `fenced` begins when the bytes of every earlier read of its queue pair have
//!    arrived.
//! 2. **Completion.** A successful write completion says the bytes were placed in the peer's
//!    memory, not that its processor looked. A successful read or atomic completion says the local
//!    bytes are valid. Completions of one queue pair come in posting order. Only requests posted
//!    with `signaled` complete on success; a failure always completes.
//! 3. **Failure.** The first failure moves the queue pair to [`QueuePairState::Error`]; every later
//!    and still pending request completes as [`CompletionStatus::Flushed`]. Other queue pairs are
//!    unaffected.
//! 4. **Protection.** A request outside a shared region, or without the access it needs, completes
//!    as [`CompletionStatus::RemoteAccess`] and changes nothing at the peer.
//! 5. **Atomics** are eight bytes, eight-byte aligned, little-endian, and atomic among requests of
//!    this provider to that region.
//! 6. **Immediates.** A write with immediate consumes one posted receive at the peer and yields a
//!    [`Opcode::ReceiveImmediate`] completion there after its bytes are placed; it wakes a peer in
//!    `wait`. Without a posted receive the provider waits or fails, as verbs do: callers keep
//!    credits so that it never happens.
//! 7. **Wake-ups.** Only write with immediate, a completion of one's own, a change of connection
//!    or a [`Waker`] is promised to end `wait`. A plain write may, and nobody may rely on it.
//! 8. **Taking back.** What begins after [`Transport::deregister`] or [`Transport::disconnect`] has
//!    returned is refused. Neither waits for a peer, which may have been stopped in the middle of a
//!    write: memory that peers could write is used for something else only when
//!    [`Transport::is_quiet`] says so. Giving it back to the system needs no such care. What was pending at
//!    a disconnection completes as flushed once nothing uses its memory any more, at once or later.

use std::{any::Any, fmt, os::fd::BorrowedFd, time::Duration};

use crate::{
    batch::Batch,
    error::{ConnectError, PostError, RegisterError, ShareError},
    memory::Pages,
};

/// A queue pair of one transport instance. Never reused by that instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueuePairId(pub u32);

/// A registered region's number at its owner, as local side of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(pub u32);

/// What a peer names to reach a shared region: the rkey of verbs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemoteKey(pub u32);

/// What the caller puts on a request to know its completion by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkId(pub u64);

/// What peers may do to a region. The owner may always read and write it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Peers may read.
    pub remote_read: bool,
    /// Peers may write.
    pub remote_write: bool,
    /// Peers may fetch-add and compare-swap.
    pub remote_atomic: bool,
}

impl Access {
    /// No access for peers: a local source or destination only.
    pub const LOCAL: Self = Self { remote_read: false, remote_write: false, remote_atomic: false };
    /// Peers may read, never write: parameter memory.
    pub const READ: Self = Self { remote_read: true, ..Self::LOCAL };
    /// Peers may read and write: mailboxes and reply regions.
    pub const READ_WRITE: Self = Self { remote_read: true, remote_write: true, ..Self::LOCAL };
    /// Everything.
    pub const ALL: Self = Self { remote_read: true, remote_write: true, remote_atomic: true };
}

/// A region registered with one transport instance. Cloning shares it; the provider also holds its
/// pages until the last request that names them has completed, so dropping is always safe.
#[derive(Clone, Debug)]
pub struct MemoryRegion {
    /// The region's number at this instance.
    pub id: RegionId,
    /// The memory.
    pub pages: Pages,
    /// What peers may do.
    pub access: Access,
}

impl MemoryRegion {
    /// Bytes `offset..offset + len` of the region. Panics when they are not inside it.
    #[must_use]
    #[inline]
    pub fn slice(&self, offset: u64, len: u32) -> LocalSlice {
        let end = offset.checked_add(u64::from(len));
        assert!(
            end.is_some_and(|end| end <= self.pages.len() as u64),
            "slice {offset}+{len} leaves its region of {} bytes",
            self.pages.len()
        );
        LocalSlice { region: self.id, offset, len }
    }
}

/// Bytes of a region of one's own. Provider posts check it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalSlice {
    /// The region.
    pub region: RegionId,
    /// First byte within the region.
    pub offset: u64,
    /// Number of bytes.
    pub len: u32,
}

/// What a peer tells of a region it shares: travels in control messages and mailboxes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoteRegion {
    /// Key to name it by.
    pub key: RemoteKey,
    /// Address of its first byte in the owner's terms.
    pub address: u64,
    /// Length in bytes.
    pub len: u64,
}

impl RemoteRegion {
    /// Address of the byte at `offset`, as requests name it.
    #[must_use]
    #[inline]
    pub fn at(&self, offset: u64) -> RemoteAddress {
        RemoteAddress { key: self.key, address: self.address.wrapping_add(offset) }
    }
}

/// A place in a peer's region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoteAddress {
    /// Key of the region.
    pub key: RemoteKey,
    /// Address in the owner's terms.
    pub address: u64,
}

/// Most pieces a request scatters to or gathers from. A provider may offer fewer, see
/// [`Capabilities::scatter_max`], never fewer than two.
pub const SCATTER_MAX: usize = 8;

/// Most bytes of an inline payload at this interface.
pub const INLINE_LEN_MAX: usize = 128;

/// Up to [`SCATTER_MAX`] local slices, in order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ScatterList {
    slices: [LocalSlice; SCATTER_MAX],
    count: u8,
}

impl ScatterList {
    /// No slice.
    pub const EMPTY: Self = Self {
        slices: [LocalSlice { region: RegionId(0), offset: 0, len: 0 }; SCATTER_MAX],
        count: 0,
    };

    /// Adds a slice at the end. Panics when there are [`SCATTER_MAX`] already.
    #[inline]
    pub fn push(&mut self, slice: LocalSlice) {
        self.slices[usize::from(self.count)] = slice;
        self.count += 1;
    }

    /// The slices.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[LocalSlice] {
        &self.slices[..usize::from(self.count)]
    }

    /// Total bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.as_slice().iter().map(|slice| u64::from(slice.len)).sum()
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<LocalSlice> for ScatterList {
    fn from(slice: LocalSlice) -> Self {
        let mut list = Self::EMPTY;
        list.push(slice);
        list
    }
}

impl fmt::Debug for ScatterList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.as_slice()).finish()
    }
}

/// A payload small enough to travel in the request itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InlineBytes {
    bytes: [u8; INLINE_LEN_MAX],
    len: u8,
}

impl InlineBytes {
    /// A copy of `bytes`. Panics when there are more than [`INLINE_LEN_MAX`].
    #[must_use]
    #[inline]
    pub fn new(bytes: &[u8]) -> Self {
        assert!(bytes.len() <= INLINE_LEN_MAX, "{} bytes do not go inline", bytes.len());
        let mut inline = Self { bytes: [0; INLINE_LEN_MAX], len: 0 };
        inline.bytes[..bytes.len()].copy_from_slice(bytes);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most INLINE_LEN_MAX, asserted above"
        )]
        let len = bytes.len() as u8;
        inline.len = len;
        inline
    }

    /// Room for `len` bytes, all zero: see [`InlineBytes::as_mut_slice`]. Panics as
    /// [`InlineBytes::new`] does.
    #[must_use]
    #[inline]
    pub(crate) fn zeroed(len: usize) -> Self {
        assert!(len <= INLINE_LEN_MAX, "{len} bytes do not go inline");
        #[expect(clippy::cast_possible_truncation, reason = "at most INLINE_LEN_MAX")]
        let len = len as u8;
        Self { bytes: [0; INLINE_LEN_MAX], len }
    }

    /// The bytes, to be laid out in place.
    #[inline]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[..usize::from(self.len)]
    }

    /// The eight little-endian bytes of a word, as commit words and acknowledgements are.
    #[must_use]
    #[inline]
    pub fn word(word: u64) -> Self {
        Self::new(&word.to_le_bytes())
    }

    /// The bytes.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for InlineBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "InlineBytes({})", self.len)
    }
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Gathers local bytes into the peer's memory. The local bytes must stay unchanged until this
    /// or a later request of the queue pair has completed. An aligned eight-byte write is placed
    /// as one.
    Write {
        /// Source.
        local: ScatterList,
        /// Destination.
        remote: RemoteAddress,
    },
    /// Writes bytes carried by the request: the source may be reused at once.
    WriteInline {
        /// Source.
        bytes: InlineBytes,
        /// Destination.
        remote: RemoteAddress,
    },
    /// A write, possibly of nothing, that also consumes a receive at the peer and wakes it.
    WriteWithImmediate {
        /// Source.
        bytes: InlineBytes,
        /// Destination; ignored when there are no bytes.
        remote: RemoteAddress,
        /// What the peer's completion carries.
        immediate: u32,
    },
    /// Scatters the peer's bytes into local memory.
    Read {
        /// Destination.
        local: ScatterList,
        /// Source.
        remote: RemoteAddress,
    },
    /// Adds to the peer's word; its old value goes to eight local bytes.
    FetchAdd {
        /// Where the old value goes: eight aligned bytes.
        local: LocalSlice,
        /// The word.
        remote: RemoteAddress,
        /// What is added, wrapping.
        add: u64,
    },
    /// Replaces the peer's word if it has the expected value; its old value goes to eight local
    /// bytes.
    CompareSwap {
        /// Where the old value goes: eight aligned bytes.
        local: LocalSlice,
        /// The word.
        remote: RemoteAddress,
        /// Value the word must have.
        expected: u64,
        /// Value it gets.
        desired: u64,
    },
}

/// One work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendRequest {
    /// Comes back in the completion.
    pub work_id: WorkId,
    /// Whether success yields a completion. A failure always does. At least one request in
    /// [`Capabilities::outstanding_max`] has to be signaled, or the send queue never empties.
    pub signaled: bool,
    /// Whether it begins only when every earlier read and atomic of the queue pair has completed.
    /// What is behind it waits with it.
    pub fenced: bool,
    /// What to do.
    pub operation: Operation,
}

/// What completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// A write, inline or not, with or without immediate.
    Write,
    /// A read.
    Read,
    /// A fetch-add or compare-swap.
    Atomic,
    /// A peer's write with immediate.
    ReceiveImmediate,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletionStatus {
    /// As asked.
    Success,
    /// The peer refused: unknown key, outside the region, or access not granted.
    RemoteAccess,
    /// The peer could not carry it out: misaligned atomic, or it failed inside.
    RemoteOperation,
    /// The peer did not answer in time, or the connection broke.
    RetryExceeded,
    /// The peer had no receive posted in time.
    ReceiverNotReady,
    /// A local slice was not valid.
    LocalProtection,
    /// An earlier request of the queue pair had failed, or it was disconnected.
    Flushed,
    /// Anything else, with the provider's own number.
    Provider(u32),
}

/// The end of one request, or the arrival of an immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The queue pair.
    pub queue_pair: QueuePairId,
    /// The request's work id; zero for a received immediate.
    pub work_id: WorkId,
    /// What it was.
    pub opcode: Opcode,
    /// How it ended.
    pub status: CompletionStatus,
    /// The immediate received; zero otherwise.
    pub immediate: u32,
}

impl Completion {
    /// A value to fill completion arrays with before [`Transport::poll`].
    pub const EMPTY: Self = Self {
        queue_pair: QueuePairId(0),
        work_id: WorkId(0),
        opcode: Opcode::Write,
        status: CompletionStatus::Success,
        immediate: 0,
    };
}

/// A queue pair's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueuePairState {
    /// Connected on this side, but the peer has not been heard of: a passive side must not post yet.
    Connecting,
    /// Ready.
    Ready,
    /// Failed, or the peer went away. Only [`Transport::disconnect`] is left to do.
    Error,
}

/// What a device promises of requests that it carries out in the memory of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promises {
    /// Whether a read takes bytes in ascending address order, so that one read can validate itself by
    /// versions at both ends.
    pub reads_in_order: bool,
    /// Whether a read brings each aligned word as it was at one time.
    pub reads_words_whole: bool,
    /// Whether the writes of a queue pair show in the order they were posted.
    pub writes_in_order: bool,
}

impl Promises {
    /// Everything.
    pub const ALL: Self =
        Self { reads_in_order: true, reads_words_whole: true, writes_in_order: true };
    /// Nothing.
    pub const NONE: Self =
        Self { reads_in_order: false, reads_words_whole: false, writes_in_order: false };

    /// What both promise.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            reads_in_order: self.reads_in_order && other.reads_in_order,
            reads_words_whole: self.reads_words_whole && other.reads_words_whole,
            writes_in_order: self.writes_in_order && other.writes_in_order,
        }
    }

    /// For endpoints: bit 0 for reads in order, 1 for whole words, 2 for writes in order.
    pub(crate) fn bits(self) -> u8 {
        u8::from(self.reads_in_order)
            | u8::from(self.reads_words_whole) << 1
            | u8::from(self.writes_in_order) << 2
    }

    /// `None` for bits that mean nothing.
    pub(crate) fn from_bits(bits: u8) -> Option<Self> {
        (bits < 8).then_some(Self {
            reads_in_order: bits & 1 != 0,
            reads_words_whole: bits & 2 != 0,
            writes_in_order: bits & 4 != 0,
        })
    }
}

/// What one instance can do, fixed at its opening.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// Name of the provider: `verbs`, `shm`, `tcp`, `simulated`.
    pub provider: &'static str,
    /// Name of the device or address in use.
    pub device: String,
    /// Most requests of one queue pair in flight.
    pub outstanding_max: u32,
    /// Most receives posted on one queue pair.
    pub receives_max: u32,
    /// Most slices of a scatter list, from 2 to [`SCATTER_MAX`].
    pub scatter_max: usize,
    /// Most bytes of one request.
    pub message_len_max: u32,
    /// What this side's device promises of what it carries out in memory here. Of what peers' devices
    /// do in theirs, [`Transport::promises`] tells.
    pub promises: Promises,
    /// Whether any write of a peer ends a wait, immediate or not, and [`Transport::take_writer`] names who
    /// wrote: nobody has to be told of a sleep then. Rule 7 promises no more than immediates.
    pub writes_wake: bool,
    /// Whether writes of peers land in memory while this side neither polls nor waits: who waits
    /// for one may look at the memory alone.
    pub lands_unpolled: bool,
    /// Whether its work is done by threads of the kernel on the poller's core, which a poller that
    /// never yields keeps waiting: [`crate::spin::Spin`] lets them run.
    pub has_helpers: bool,
    /// Whether a read keeps a core of who posts it busy until its bytes are there, as that of a
    /// device in software does: what is large is then better written by who has it.
    pub reads_burden_reader: bool,
    /// Whether a request costs more than the bytes of a short message: a mailbox then takes one
    /// write for what it otherwise orders by two.
    pub prefers_one_write: bool,
    /// Whether what is shared with one peer for writing can be written by that peer alone, whatever keys and
    /// addresses others guess.
    pub isolates_writers: bool,
    /// Whether a region over memory that was not allocated by [`Pages::allocate`] can be shared
    /// with peers. Always possible as local side.
    pub shares_foreign_memory: bool,
}

/// Which side opens the carrier when two endpoints connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Waits for the peer.
    Passive,
    /// Goes to the peer.
    Active,
}

/// What one side of a queue pair tells the other over the control connection: opaque bytes of its
/// provider, at most [`Endpoint::LEN_MAX`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(pub Vec<u8>);

impl Endpoint {
    /// Most bytes of an endpoint.
    pub const LEN_MAX: usize = 512;
}

/// A queue pair that is not connected yet: nothing can be posted on it, only
/// [`Transport::connect`] takes it. Dropping it leaves a half-open queue pair to be reclaimed by
/// [`Transport::disconnect`] of [`PendingQueuePair::id`].
#[derive(Debug)]
#[must_use = "a pending queue pair has to be connected or disconnected"]
pub struct PendingQueuePair {
    id: QueuePairId,
    endpoint: Endpoint,
}

impl PendingQueuePair {
    /// For providers: a queue pair just made.
    pub fn new(id: QueuePairId, endpoint: Endpoint) -> Self {
        Self { id, endpoint }
    }

    /// The number it will have.
    #[must_use]
    pub fn id(&self) -> QueuePairId {
        self.id
    }

    /// What the peer has to be told.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

/// Ends another thread's [`Transport::wait`]. Cheap to clone; may outlive the transport.
#[derive(Clone)]
pub struct Waker(std::sync::Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// For providers: a waker that calls `wake`.
    #[must_use]
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(std::sync::Arc::new(wake))
    }

    /// Wakes the transport's thread, now or at its next `wait`.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Waker")
    }
}

/// Bytes of a peer's region that the processor can read in place. Valid until the queue pair is
/// disconnected or [`Transport::release_views`] of the region; the peer may change them at any time, so
/// never form a reference over them.
#[derive(Clone, Copy, Debug)]
pub struct PeerBytes {
    /// First byte.
    pub pointer: *const u8,
    /// Number of bytes.
    pub len: usize,
}

/// What a provider made of memory on another thread than its own, or what is left of a region there.
pub type Prepared = Box<dyn Any + Send>;

/// Registers memory for one transport on another thread, where that takes long.
pub trait Registrar: fmt::Debug + Send {
    /// What [`Transport::adopt`] takes.
    ///
    /// # Errors
    /// As [`Transport::register`].
    fn prepare(&self, pages: &Pages, access: Access) -> Result<Prepared, RegisterError>;
}

/// One thread's access to a fabric: see the module's rules.
pub trait Transport: Send {
    /// What this instance can do.
    fn capabilities(&self) -> &Capabilities;

    /// Registers memory for local use and, with what `access` grants, for peers. Costs time in
    /// proportion to the length: register few and large regions.
    ///
    /// # Errors
    /// When the provider or the system refuses, with the remedy.
    fn register(&mut self, pages: &Pages, access: Access) -> Result<MemoryRegion, RegisterError>;

    /// Ends a registration: later requests of peers to it fail as remote access errors. Requests in
    /// flight that use it locally must have completed. Rule 8 says when its memory can be used again.
    fn deregister(&mut self, region: &MemoryRegion);

    /// What registers memory for this instance on another thread; without, [`Self::register`] takes no
    /// longer for much memory than for little.
    fn registrar(&self) -> Option<Box<dyn Registrar>> {
        None
    }

    /// As [`Self::register`], of memory that this instance's registrar has prepared with the same access.
    ///
    /// # Errors
    /// As [`Self::register`].
    fn adopt(
        &mut self,
        pages: &Pages,
        access: Access,
        prepared: Option<Prepared>,
    ) -> Result<MemoryRegion, RegisterError> {
        assert!(prepared.is_none(), "an instance without a registrar adopts what nobody prepared");
        self.register(pages, access)
    }

    /// As [`Self::deregister`], but what takes long is left to whoever drops the result, on any thread:
    /// only then the region has ended for peers.
    fn release(&mut self, region: &MemoryRegion) -> Option<Prepared> {
        self.deregister(region);
        None
    }

    /// Makes a queue pair and the endpoint to tell the peer.
    ///
    /// # Errors
    /// When the provider has no room or the system refuses.
    fn create_queue_pair(&mut self) -> Result<PendingQueuePair, ConnectError>;

    /// Connects to the peer's endpoint. The passive side returns at once and is
    /// [`QueuePairState::Connecting`] until the peer is there; the active side returns connected.
    ///
    /// # Errors
    /// When the endpoint is malformed, of another provider, stale, or cannot be reached.
    fn connect(
        &mut self,
        pending: PendingQueuePair,
        role: Role,
        remote: &Endpoint,
    ) -> Result<QueuePairId, ConnectError>;

    /// As [`Self::connect`] on the active side, without waiting for the peer's thread, which may be this
    /// very thread: [`QueuePairState::Connecting`] until the peer has answered, which polling finds.
    ///
    /// # Errors
    /// As [`Self::connect`].
    fn begin_connect(
        &mut self,
        pending: PendingQueuePair,
        remote: &Endpoint,
    ) -> Result<QueuePairId, ConnectError> {
        self.connect(pending, Role::Active, remote)
    }

    /// What may be relied on over a connected queue pair: of reads, what the peer's device promises, as
    /// far as the settings of this side agree; of writes, what the devices of both sides do.
    fn promises(&self, queue_pair: QueuePairId) -> Promises;

    /// The queue pair's state; [`QueuePairState::Error`] for one that is unknown.
    fn state(&self, queue_pair: QueuePairId) -> QueuePairState;

    /// Breaks the connection without waiting: pending requests complete as flushed, the peer's side goes to
    /// error. Unknown ones are ignored. Rule 8 says when memory that the peer could write can be used again.
    fn disconnect(&mut self, queue_pair: QueuePairId);

    /// Whether no peer still carries out a write that began before memory was taken back from it by
    /// [`Self::deregister`] or [`Self::disconnect`], and no request of this side that was pending at a
    /// disconnection is still carried out. Polling brings it about.
    fn is_quiet(&mut self) -> bool {
        true
    }

    /// Makes a region reachable for the peer of one queue pair and says how to name it. The answer
    /// may be sent to the peer at once by any way.
    ///
    /// # Errors
    /// When the region grants nothing, or cannot be shared by this provider.
    fn share(
        &mut self,
        queue_pair: QueuePairId,
        region: &MemoryRegion,
    ) -> Result<RemoteRegion, ShareError>;

    /// Posts receives for writes with immediate.
    ///
    /// # Errors
    /// When the queue pair is unknown, in error, or its receive queue is full.
    fn post_receive(&mut self, queue_pair: QueuePairId, count: u32) -> Result<(), PostError>;

    /// Posts requests in order; those taken leave the batch, those refused stay in it. Never
    /// blocks and never allocates.
    ///
    /// # Errors
    /// The reason why the first one left in the batch was refused.
    fn post_send(
        &mut self,
        queue_pair: QueuePairId,
        requests: &mut Batch<SendRequest>,
    ) -> Result<(), PostError>;

    /// Carries a write of the bytes out at once, without a completion unless it fails, where posting it
    /// would only take longer (shm; verbs, where they go inline). False says that nothing was done: it is
    /// to be posted.
    ///
    /// # Errors
    /// As [`Transport::post_send`].
    fn write_now(
        &mut self,
        queue_pair: QueuePairId,
        bytes: &[u8],
        remote: RemoteAddress,
    ) -> Result<bool, PostError> {
        let _ = (queue_pair, bytes, remote);
        Ok(false)
    }

    /// Writes a mailbox's message at once, where a copy is all it takes (shm): `parts` eight bytes behind
    /// `remote`, zeros up to the next multiple of 8 and eight more, then `word` at `remote`, which must be
    /// a multiple of 8. As two unsignaled writes. False says that nothing was done.
    ///
    /// # Errors
    /// As [`Transport::post_send`].
    fn write_message_now(
        &mut self,
        queue_pair: QueuePairId,
        word: u64,
        parts: &[&[u8]],
        remote: RemoteAddress,
    ) -> Result<bool, PostError> {
        let _ = (queue_pair, word, parts, remote);
        Ok(false)
    }

    /// Posts one read that completes with `work_id`, where that takes less than building a request for
    /// [`Transport::post_send`] (verbs). False says that nothing was done: it is to be posted.
    ///
    /// # Errors
    /// As [`Transport::post_send`].
    fn read_now(
        &mut self,
        queue_pair: QueuePairId,
        work_id: WorkId,
        local: LocalSlice,
        remote: RemoteAddress,
    ) -> Result<bool, PostError> {
        let _ = (queue_pair, work_id, local, remote);
        Ok(false)
    }

    /// Makes bounded progress and reports up to `completions.len()` completions, returning their
    /// number. Never blocks, never allocates in a steady state.
    fn poll(&mut self, completions: &mut [Completion]) -> usize;

    /// A queue pair whose peer's requests this instance has carried out since it was last named, where that is its own
    /// work and not that of the peer or of a device, see [`Capabilities::writes_wake`]. What is said twice is named once.
    fn take_writer(&mut self) -> Option<QueuePairId> {
        None
    }

    /// Announces that this thread is about to sleep: from now on whatever rule 7 names makes
    /// [`Transport::wait_descriptor`] readable. Returns false when there is something to poll
    /// already, in which case the caller does not sleep. Every `arm` is followed by a `disarm`.
    fn arm(&mut self) -> bool;

    /// The descriptor to sleep on between `arm` and `disarm`, readable when there may be something
    /// to poll. It stays the same for the life of the instance.
    fn wait_descriptor(&self) -> BorrowedFd<'_>;

    /// Ends what `arm` began, whether woken or not, and clears the descriptor.
    fn disarm(&mut self);

    /// Sleeps until something may be there to poll, a waker is used, or the time is over. Spurious
    /// returns are allowed. A thread with several transports uses [`crate::wait::wait_any`].
    fn wait(&mut self, timeout: Duration) {
        if self.arm() {
            crate::wait::sleep_on([self.wait_descriptor()], timeout);
        }
        self.disarm();
    }

    /// Something for other threads to end `wait` with.
    fn waker(&self) -> Waker;

    /// The peer's bytes in place, where its memory is this host's (shm); `None` on a network. The
    /// region must have been shared for reading. It stays mapped until [`Self::release_views`], even
    /// if its owner ends it.
    fn view(
        &mut self,
        queue_pair: QueuePairId,
        remote: RemoteAddress,
        len: u64,
    ) -> Option<PeerBytes>;

    /// Ends all views of a peer's region: what its owner has ended, or will, is not kept for them.
    fn release_views(&mut self, queue_pair: QueuePairId, key: RemoteKey) {
        let _ = (queue_pair, key);
    }

    /// A region that its owner has ended and only views still need, if there is one.
    fn ended_view(&self, queue_pair: QueuePairId) -> Option<RemoteKey> {
        let _ = queue_pair;
        None
    }

    /// Whether a region of the peer's was refused because it has shared too much (shm): requests to it
    /// would fail.
    fn has_refused(&self, queue_pair: QueuePairId, key: RemoteKey) -> bool {
        let _ = (queue_pair, key);
        false
    }
}
