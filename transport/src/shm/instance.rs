//! One thread's access to shared memory.

use std::{
    collections::VecDeque,
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{EventfdFlags, epoll};

use super::{
    connect::BELL_TOKEN,
    doorbell,
    endpoint::{Host, Nonce},
    limits::{
        MESSAGE_LEN_MAX, OUTSTANDING_MAX, POLLS_PER_CLOCK, QUEUE_PAIRS_MAX, RECEIVES_MAX,
        REGIONS_MAX,
    },
    queue_pair::QueuePair,
    quiesce::{Leaving, PostFence},
    segment::InstancePage,
    socket,
};
use crate::{
    batch::Batch,
    error::{ConnectError, OpenError, PostError, RegisterError, ShareError},
    fabric::{
        Access, Capabilities, Completion, Endpoint, MemoryRegion, PeerBytes, PendingQueuePair,
        Promises, QueuePairId, QueuePairState, RemoteAddress, RemoteKey, RemoteRegion, Role,
        SCATTER_MAX, SendRequest, Transport, Waker,
    },
    memory::Pages,
    slab::Slab,
};

/// Requests are copies by the platform's routine, whatever that does first, each ordered by a fence.
const PROMISES: Promises = Promises { writes_in_order: true, ..Promises::NONE };

/// How to open an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShmOptions {
    /// How long [`Role::Active`] waits for the passive side, whose thread has to poll.
    pub connect_timeout: Duration,
    /// Most completions of one queue pair that wait to be polled, at least 1.
    pub outstanding_max: u32,
    /// How long a busy thread goes without a look at its sockets: how late it learns of new
    /// peers and of their death.
    pub socket_interval: Duration,
    /// Most bytes of one peer's regions that are mapped here; others are refused.
    pub mapped_len_max: u64,
}

impl Default for ShmOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            outstanding_max: OUTSTANDING_MAX,
            socket_interval: Duration::from_micros(500),
            mapped_len_max: u64::MAX,
        }
    }
}

/// The shared-memory provider: one instance per thread.
pub struct Shm {
    pub(super) options: ShmOptions,
    pub(super) capabilities: Capabilities,
    pub(super) host: Host,
    pub(super) page: InstancePage,
    pub(super) post_fence: PostFence,
    pub(super) bell: Arc<OwnedFd>,
    pub(super) epoll: OwnedFd,
    pub(super) listener: Option<Listener>,
    /// Connections that have not said yet what they want.
    pub(super) greetings: VecDeque<(u32, OwnedFd)>,
    pub(super) greeting_number: u32,
    /// Set while nobody is accepted, for want of descriptors.
    pub(super) accepts_again_at: Option<Instant>,
    pub(super) queue_pairs: Slab<QueuePair>,
    /// Those that were disconnected while their peers carried out requests.
    pub(super) leaving: Vec<Leaving>,
    /// Queue pairs whose immediates rings have to be looked at.
    pub(super) receivers: Vec<QueuePairId>,
    pub(super) ring_cursor: usize,
    pub(super) regions: Slab<MemoryRegion>,
    pub(super) completions: VecDeque<Completion>,
    polls: u32,
    served_at: Instant,
}

/// Where active peers come in.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) name: Nonce,
    pub(super) socket: OwnedFd,
}

impl Shm {
    /// Opens an instance. Its listener comes with the first queue pair.
    ///
    /// # Errors
    /// When the system has no descriptors or memory left.
    pub fn open(options: ShmOptions) -> Result<Self, OpenError> {
        assert!(options.outstanding_max > 0, "at least one request has to be possible");
        let system = |step| move |source| OpenError::System { provider: "shm", step, source };
        let page = InstancePage::create().map_err(|error| {
            system("allocating the instance page")(std::io::Error::other(error))
        })?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let bell =
            rustix::event::eventfd(0, flags).map_err(|error| system("eventfd")(error.into()))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| system("epoll_create")(error.into()))?;
        socket::watch(&epoll, &bell, BELL_TOKEN).map_err(system("epoll_ctl"))?;
        Ok(Self {
            options,
            capabilities: Capabilities {
                provider: "shm",
                device: "memfd".to_owned(),
                outstanding_max: options.outstanding_max,
                receives_max: RECEIVES_MAX,
                scatter_max: SCATTER_MAX,
                message_len_max: MESSAGE_LEN_MAX,
                promises: PROMISES,
                writes_wake: false,
                lands_unpolled: true,
                has_helpers: false,
                reads_burden_reader: false,
                prefers_one_write: false,
                isolates_writers: true,
                shares_foreign_memory: false,
            },
            host: Host::here(),
            page,
            post_fence: PostFence::register(),
            bell: Arc::new(bell),
            epoll,
            listener: None,
            greetings: VecDeque::new(),
            greeting_number: 0,
            accepts_again_at: None,
            queue_pairs: Slab::new(QUEUE_PAIRS_MAX),
            leaving: Vec::new(),
            receivers: Vec::new(),
            ring_cursor: 0,
            regions: Slab::new(REGIONS_MAX),
            completions: VecDeque::new(),
            polls: 0,
            served_at: Instant::now(),
        })
    }

    /// Looks after the sockets now and then, without a system call in most polls.
    #[inline]
    fn serve_if_due(&mut self) {
        self.polls = self.polls.wrapping_add(1);
        if self.polls.is_multiple_of(POLLS_PER_CLOCK) {
            let now = Instant::now();
            if now.duration_since(self.served_at) >= self.options.socket_interval {
                self.served_at = now;
                self.serve();
            }
        }
    }
}

impl Transport for Shm {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn register(&mut self, pages: &Pages, access: Access) -> Result<MemoryRegion, RegisterError> {
        self.register_region(pages, access)
    }

    fn deregister(&mut self, region: &MemoryRegion) {
        self.end_region(region.id);
    }

    fn create_queue_pair(&mut self) -> Result<PendingQueuePair, ConnectError> {
        self.make_queue_pair()
    }

    fn connect(
        &mut self,
        pending: PendingQueuePair,
        role: Role,
        remote: &Endpoint,
    ) -> Result<QueuePairId, ConnectError> {
        self.connect_queue_pair(pending.id(), role, remote)
    }

    fn begin_connect(
        &mut self,
        pending: PendingQueuePair,
        remote: &Endpoint,
    ) -> Result<QueuePairId, ConnectError> {
        self.begin_connect_queue_pair(pending.id(), remote)
    }

    fn promises(&self, _: QueuePairId) -> Promises {
        PROMISES
    }

    fn state(&self, queue_pair: QueuePairId) -> QueuePairState {
        self.queue_pairs.find(queue_pair.0).map_or(QueuePairState::Error, |found| found.state)
    }

    fn disconnect(&mut self, queue_pair: QueuePairId) {
        self.end_queue_pair(queue_pair);
    }

    fn share(
        &mut self,
        queue_pair: QueuePairId,
        region: &MemoryRegion,
    ) -> Result<RemoteRegion, ShareError> {
        self.share_region(queue_pair, region)
    }

    fn post_receive(&mut self, queue_pair: QueuePairId, count: u32) -> Result<(), PostError> {
        let queue_pair = self
            .queue_pairs
            .find_mut(queue_pair.0)
            .filter(|queue_pair| queue_pair.state != QueuePairState::Error)
            .ok_or(PostError::QueuePairError)?;
        if queue_pair.consumer.post(queue_pair.inbound.ring(), count) {
            Ok(())
        } else {
            Err(PostError::QueueFull)
        }
    }

    fn post_send(
        &mut self,
        queue_pair: QueuePairId,
        requests: &mut Batch<SendRequest>,
    ) -> Result<(), PostError> {
        self.post_requests(queue_pair, requests)
    }

    fn write_now(
        &mut self,
        queue_pair: QueuePairId,
        bytes: &[u8],
        remote: RemoteAddress,
    ) -> Result<bool, PostError> {
        self.write_at_once(queue_pair, bytes, remote)
    }

    fn write_message_now(
        &mut self,
        queue_pair: QueuePairId,
        word: u64,
        parts: &[&[u8]],
        remote: RemoteAddress,
    ) -> Result<bool, PostError> {
        self.write_message_at_once(queue_pair, word, parts, remote)
    }

    fn poll(&mut self, completions: &mut [Completion]) -> usize {
        self.serve_if_due();
        self.report(completions)
    }

    fn arm(&mut self) -> bool {
        doorbell::announce(self.page.sleeping());
        !self.has_reports()
    }

    fn wait_descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn disarm(&mut self) {
        doorbell::withdraw(self.page.sleeping());
        // Nothing to read is the usual case, and fine.
        let _ = rustix::io::read(&*self.bell, &mut [0_u8; 8]);
        self.serve();
    }

    fn waker(&self) -> Waker {
        let bell = Arc::clone(&self.bell);
        Waker::new(move || {
            // A full counter means that it is ringing already.
            let _ = rustix::io::write(&*bell, &1_u64.to_le_bytes());
        })
    }

    fn view(
        &mut self,
        queue_pair: QueuePairId,
        remote: RemoteAddress,
        len: u64,
    ) -> Option<PeerBytes> {
        self.view_bytes(queue_pair, remote, len)
    }

    fn release_views(&mut self, queue_pair: QueuePairId, key: RemoteKey) {
        if let Some(queue_pair) = self.queue_pairs.find_mut(queue_pair.0) {
            queue_pair.imports.release_views(key.0);
        }
    }

    fn ended_view(&self, queue_pair: QueuePairId) -> Option<RemoteKey> {
        self.queue_pairs.find(queue_pair.0)?.imports.ended_view().map(RemoteKey)
    }

    fn has_refused(&self, queue_pair: QueuePairId, key: RemoteKey) -> bool {
        let queue_pair = self.queue_pairs.find(queue_pair.0);
        queue_pair.is_some_and(|queue_pair| queue_pair.imports.has_refused(key.0))
    }

    fn is_quiet(&mut self) -> bool {
        self.peers_are_quiet()
    }
}

impl Drop for Shm {
    fn drop(&mut self) {
        // Peers may keep our pages mapped: tell them that nobody is behind them any more.
        for queue_pair in self.queue_pairs.values_mut() {
            queue_pair.fail();
        }
    }
}

impl fmt::Debug for Shm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Shm")
            .field("queue_pairs", &self.queue_pairs.values().count())
            .field("regions", &self.regions.values().count())
            .finish_non_exhaustive()
    }
}
