//! Verbs semantics over TCP: one-sided operations travel as frames, and the peer's instance carries
//! them out in its `poll`, straight into and out of registered memory.
//!
//! Reads take the peer's bytes in ascending order, in steps between which the peer's thread may have
//! written: whole blocks of one thread's writing validate themselves by versions at both ends.
//! Nothing happens at a peer that neither polls nor waits.

mod backwards;
mod connect;
mod connection;
mod datapath;
mod emit;
mod endpoint;
mod execute;
mod failure;
mod frame;
mod inbox;
mod late;
mod limits;
mod outbox;
mod region;
mod requests;
mod socket;
#[cfg(test)]
mod tests;
mod wait;

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use crate::{
    batch::Batch,
    error::{ConnectError, OpenError, PostError, RegisterError, ShareError},
    fabric::{
        Access, Capabilities, Completion, CompletionStatus, Endpoint, MemoryRegion, PeerBytes,
        PendingQueuePair, Promises, QueuePairId, QueuePairState, RemoteAddress, RemoteRegion, Role,
        SCATTER_MAX, SendRequest, Transport, Waker,
    },
    memory::Pages,
};

use crate::{late_run, slab::Slab};
use connect::Stranger;
use connection::{Connection, Shared};
use limits::{
    DIRECT_CONNECTIONS_MAX, MESSAGE_LEN_MAX, OUTSTANDING_MAX, QUEUE_PAIRS_MAX, RECEIVES_MAX,
    STRANGERS_MAX,
};
use region::Regions;
use socket::SocketOptions;
use wait::WaitPoint;

const PROVIDER: &str = "tcp";

/// How to open the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// Where to listen for peers' connections. Port 0 takes any.
    pub bind: SocketAddr,
    /// The address to tell peers, when it differs from `bind`: needed when that is unspecified.
    pub advertised: Option<IpAddr>,
    /// How long a peer's host may leave what was sent unacknowledged, or a write with immediate
    /// may wait for a receive, before the queue pair fails.
    pub silence_max: Duration,
    /// How long a connection may take to be made, and a peer that dialled to introduce itself.
    pub dial_timeout: Duration,
    /// Bytes of each socket buffer; `None` leaves them to the system, which adapts them.
    pub socket_buffer_len: Option<usize>,
    /// Whether payloads carry a CRC32C of their own, for networks that TCP's checksum is too weak
    /// for. Headers always do. A damaged payload ends the connection before anything posted later
    /// is carried out.
    pub payload_checksums: bool,
    /// Whether this side's reads take the peer's bytes in ascending order. False does what a device may
    /// that promises none, at its worst: for tests of what has to hold on such devices.
    pub reads_in_order: bool,
    /// Whether this side's writes show in the order they were posted. False does what a device may that
    /// promises none, for the same tests.
    pub writes_in_order: bool,
}

impl TcpOptions {
    /// Loopback only.
    pub const LOOPBACK: Self = Self {
        bind: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        advertised: None,
        silence_max: Duration::from_secs(1),
        dial_timeout: Duration::from_secs(2),
        socket_buffer_len: None,
        payload_checksums: false,
        reads_in_order: true,
        writes_in_order: true,
    };

    /// What this side promises of what it carries out: a poll does it by and by, in ascending order. Who
    /// reads backwards or writes out of order does so by its own requests.
    fn promises(&self) -> Promises {
        Promises { writes_in_order: self.writes_in_order, ..Promises::ALL }
    }

    fn socket(&self) -> SocketOptions {
        SocketOptions { buffer_len: self.socket_buffer_len, silence_max: self.silence_max }
    }
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self::LOOPBACK
    }
}

/// The connections that something has to be done about: all others cost a poll and a sleep nothing.
#[derive(Debug, Default)]
struct Lists {
    /// Those that the next poll tries.
    hot: Vec<QueuePairId>,
    /// Those that the next sleep has to see to besides.
    restless: Vec<QueuePairId>,
    /// Those whose peers had requests carried out, until they are named.
    writers: Vec<QueuePairId>,
    /// Dialled ones that were answered, while a look goes on.
    answered: Vec<QueuePairId>,
}

/// One thread's access to peers over TCP.
#[derive(Debug)]
pub struct Tcp {
    capabilities: Capabilities,
    options: TcpOptions,
    /// What the order of late writes is drawn from.
    late_seed: u64,
    shared: Shared,
    connections: Slab<Connection>,
    lists: Lists,
    /// Queue pairs there are, and those of them that wait for their connection.
    queue_pair_count: usize,
    expected_count: usize,
    /// Made when the first queue pair is.
    listener: Option<TcpListener>,
    strangers: Vec<Stranger>,
    wait_point: WaitPoint,
    /// A queue pair became ready, or dialled in vain, since the last `wait`.
    connected: bool,
    polls: u32,
    checked_at: Instant,
    /// Set while nobody is accepted, for want of descriptors.
    accepts_again_at: Option<Instant>,
}

impl Tcp {
    /// Opens the transport.
    ///
    /// # Errors
    /// When the address to tell peers is not known, or the system has no descriptors left.
    pub fn open(options: TcpOptions) -> Result<Self, OpenError> {
        Self::open_as(PROVIDER, options)
    }

    /// The same under the name of the provider that it stands for.
    pub(crate) fn open_as(
        provider: &'static str,
        mut options: TcpOptions,
    ) -> Result<Self, OpenError> {
        let late_seed = late_run::seed();
        if late_seed.is_some() {
            options.reads_in_order = false;
            options.writes_in_order = false;
        }
        if options.advertised.unwrap_or(options.bind.ip()).is_unspecified() {
            return Err(OpenError::Unavailable {
                provider: PROVIDER,
                reason: format!("{} is no address that peers could dial", options.bind.ip()),
                remedy: "name the address to advertise, or bind to one".to_owned(),
            });
        }
        let wait_point = WaitPoint::new().map_err(|(step, error)| OpenError::System {
            provider: PROVIDER,
            step,
            source: error.into(),
        })?;
        Ok(Self {
            capabilities: Capabilities {
                provider,
                device: options.bind.to_string(),
                outstanding_max: OUTSTANDING_MAX,
                receives_max: RECEIVES_MAX,
                scatter_max: SCATTER_MAX,
                message_len_max: MESSAGE_LEN_MAX,
                promises: options.promises(),
                writes_wake: true,
                lands_unpolled: false,
                has_helpers: false,
                reads_burden_reader: false,
                prefers_one_write: false,
                isolates_writers: true,
                shares_foreign_memory: true,
            },
            options,
            late_seed: late_seed.unwrap_or(0),
            shared: Shared {
                regions: Regions::new(),
                ready: VecDeque::new(),
                payload_checksums: options.payload_checksums,
                silence_max: options.silence_max,
            },
            connections: Slab::new(QUEUE_PAIRS_MAX),
            lists: Lists::default(),
            queue_pair_count: 0,
            expected_count: 0,
            listener: None,
            strangers: Vec::with_capacity(STRANGERS_MAX),
            wait_point,
            connected: false,
            polls: 0,
            checked_at: Instant::now(),
            accepts_again_at: None,
        })
    }

    /// Makes room so that neither completions nor the list of connections to try grow in `poll`.
    fn reserve_ready(&mut self) {
        let per_queue_pair = (OUTSTANDING_MAX + RECEIVES_MAX) as usize;
        let ready = &mut self.shared.ready;
        ready.reserve((self.queue_pair_count * per_queue_pair).saturating_sub(ready.len()));
        let Lists { hot, restless, writers, answered } = &mut self.lists;
        for list in [hot, restless, writers, answered] {
            list.reserve(self.queue_pair_count.saturating_sub(list.len()));
        }
    }

    /// Forgets a queue pair, after a last attempt to send what it has taken.
    fn forget(&mut self, queue_pair: QueuePairId) {
        let Some(mut connection) = self.connections.remove(queue_pair.0) else { return };
        self.queue_pair_count -= 1;
        self.expected_count -= usize::from(connection.is_expected());
        if connection.acknowledgement.wanted {
            connection.emit_acknowledgement();
        }
        connection.send(&mut self.shared);
        connection.end(CompletionStatus::Flushed, &mut self.shared);
        let Lists { hot, restless, writers, answered: _ } = &mut self.lists;
        for list in [hot, restless, writers] {
            list.retain(|listed| *listed != queue_pair);
        }
        if self.queue_pair_count == DIRECT_CONNECTIONS_MAX {
            // From now on every poll tries each: none may be left out.
            for connection in self.connections.values_mut() {
                if connection.socket.is_some() && !connection.is_hot && !connection.is_expected() {
                    connection.is_hot = true;
                    self.lists.hot.push(connection.id);
                }
            }
        }
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        for connection in self.connections.values_mut() {
            if connection.acknowledgement.wanted {
                connection.emit_acknowledgement();
            }
            connection.send(&mut self.shared);
        }
    }
}

impl Transport for Tcp {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn register(&mut self, pages: &Pages, access: Access) -> Result<MemoryRegion, RegisterError> {
        let id = self.shared.regions.insert(pages, access)?;
        Ok(MemoryRegion { id, pages: pages.clone(), access })
    }

    fn deregister(&mut self, region: &MemoryRegion) {
        self.shared.regions.remove(region.id);
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
        let id = pending.id();
        match self.join(id, role, remote) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.forget(id);
                Err(error)
            }
        }
    }

    fn begin_connect(
        &mut self,
        pending: PendingQueuePair,
        remote: &Endpoint,
    ) -> Result<QueuePairId, ConnectError> {
        let id = pending.id();
        let begun = self.begin_dial(id, remote);
        if begun.is_err() {
            self.forget(id);
        }
        begun.map(|()| id)
    }

    fn promises(&self, queue_pair: QueuePairId) -> Promises {
        let connection = self.connections.find(queue_pair.0);
        let theirs = connection.map_or(Promises::NONE, |connection| connection.peer_promises);
        let reads_in_order = theirs.reads_in_order && self.options.reads_in_order;
        Promises { reads_in_order, ..theirs.and(self.options.promises()) }
    }

    fn state(&self, queue_pair: QueuePairId) -> QueuePairState {
        self.connections.find(queue_pair.0).map_or(QueuePairState::Error, Connection::state)
    }

    fn disconnect(&mut self, queue_pair: QueuePairId) {
        self.forget(queue_pair);
    }

    fn share(
        &mut self,
        queue_pair: QueuePairId,
        region: &MemoryRegion,
    ) -> Result<RemoteRegion, ShareError> {
        let access = region.access;
        if !(access.remote_read || access.remote_write || access.remote_atomic) {
            return Err(ShareError::NoAccess);
        }
        let key = self
            .connections
            .find_mut(queue_pair.0)
            .and_then(|connection| connection.grant(region.id))
            .ok_or(ShareError::NotConnected { queue_pair })?;
        // Addresses count from the region's start: peers learn nothing of the address space.
        Ok(RemoteRegion { key, address: 0, len: region.pages.len() as u64 })
    }

    fn post_receive(&mut self, queue_pair: QueuePairId, count: u32) -> Result<(), PostError> {
        self.post_receives(queue_pair, count)
    }

    fn post_send(
        &mut self,
        queue_pair: QueuePairId,
        requests: &mut Batch<SendRequest>,
    ) -> Result<(), PostError> {
        self.post(queue_pair, requests)
    }

    fn poll(&mut self, completions: &mut [Completion]) -> usize {
        if self.shared.ready.len() < completions.len().max(1) {
            self.advance();
        }
        self.hand_out(completions)
    }

    fn take_writer(&mut self) -> Option<QueuePairId> {
        let id = self.lists.writers.pop()?;
        if let Some(connection) = self.connections.find_mut(id.0) {
            connection.is_named = false;
        }
        Some(id)
    }

    fn arm(&mut self) -> bool {
        self.prepare_sleep()
    }

    fn wait_descriptor(&self) -> BorrowedFd<'_> {
        self.wait_point.descriptor()
    }

    fn disarm(&mut self) {
        self.finish_sleep();
    }

    fn waker(&self) -> Waker {
        self.wait_point.waker()
    }

    fn view(&mut self, _: QueuePairId, _: RemoteAddress, _: u64) -> Option<PeerBytes> {
        None
    }
}
