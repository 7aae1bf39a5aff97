//! One instance of the verbs provider: what it owns, and the trait's set-up calls.

use std::{collections::VecDeque, os::fd::BorrowedFd, sync::Arc, time::Instant};

use super::{
    VerbsConfig,
    completion_queue::{CompletionChannel, CompletionQueue},
    connect::{VerbsEndpoint, connect_error, random_sequence_number, unreachable},
    datapath::{Limits, Scratch, Verbs},
    device::{Device, positive},
    leave::Departures,
    memory_region::{self, REGIONS_MAX, Registration, VerbsRegistrar},
    progress::Greeting,
    queue_pair::{ResetQueuePair, scatter_max},
    send_ring::SendRing,
    slot::{Bounce, OWN_RECEIVES, OWN_SENDS, QUEUE_PAIRS_MAX, Slot, Stage, receive_id},
    wake::WakePoint,
    window::{self, Windows},
};
use crate::{
    batch::Batch,
    error::{ConnectError, OpenError, PostError, RegisterError, ShareError},
    fabric::{
        Access, Capabilities, Completion, Endpoint, INLINE_LEN_MAX, LocalSlice, MemoryRegion,
        PeerBytes, PendingQueuePair, Prepared, Promises, QueuePairId, QueuePairState, Registrar,
        RemoteAddress, RemoteKey, RemoteRegion, Role, SendRequest, Transport, Waker, WorkId,
    },
    memory::Pages,
    slab::Slab,
};

/// A verbs device as a [`Transport`].
// Fields are dropped in order: what the device uses goes before what it is made of.
#[derive(Debug)]
pub struct VerbsTransport {
    pub(super) departures: Departures,
    pub(super) slots: Slab<Slot>,
    pub(super) regions: Slab<Registration>,
    pub(super) queues: Vec<CompletionQueue>,
    pub(super) channel: Arc<CompletionChannel>,
    pub(super) device: Arc<Device>,
    pub(super) config: VerbsConfig,
    capabilities: Capabilities,
    limits: Limits,
    pub(super) verbs: Verbs,
    pub(super) scratch: Scratch,
    /// Completions that were taken from the device and not yet by the caller.
    pub(super) ready: VecDeque<Completion>,
    pub(super) wake_point: WakePoint,
    pub(super) poll_count: usize,
}

impl VerbsTransport {
    /// Opens the device the settings name, or the first that is usable.
    ///
    /// # Errors
    /// When there is no libibverbs, no usable device, port or address, with the remedy.
    pub fn open(config: VerbsConfig) -> Result<Self, OpenError> {
        config.validate().map_err(|error| OpenError::Unavailable {
            provider: "verbs",
            reason: error.to_string(),
            remedy: "correct the setting".into(),
        })?;
        let device = Device::open(&config)?;
        let channel = CompletionChannel::new(&device)?;
        // SAFETY: the context is open as long as the device.
        let ops = unsafe { &(*device.context()).ops };
        let verbs = Verbs::of(ops, device.is_software()).ok_or(OpenError::System {
            provider: "verbs",
            step: "finding the driver's post and poll functions",
            source: std::io::ErrorKind::Unsupported.into(),
        })?;
        let wake_point = WakePoint::new(&device, &channel)?;
        let departures = Departures::new(wake_point.waker())?;
        let work_requests_max = positive(device.attributes.max_qp_wr);
        let config = VerbsConfig {
            outstanding_max: config.outstanding_max.min(work_requests_max - OWN_SENDS),
            receives_max: config.receives_max.min(work_requests_max - OWN_RECEIVES),
            ..config
        };
        let limits = Limits {
            scatter_max: scatter_max(&device),
            message_len_max: device.port.message_len_max,
            atomics: device.info.atomics,
        };
        let capabilities = Capabilities {
            provider: "verbs",
            device: device.info.name.clone(),
            outstanding_max: config.outstanding_max,
            receives_max: config.receives_max,
            scatter_max: limits.scatter_max,
            message_len_max: limits.message_len_max,
            promises: config.promises(device.promises()),
            writes_wake: false,
            lands_unpolled: true,
            has_helpers: device.is_software(),
            reads_burden_reader: device.is_software(),
            prefers_one_write: true,
            isolates_writers: device.has_windows(),
            shares_foreign_memory: true,
        };
        Ok(Self {
            departures,
            slots: Slab::new(QUEUE_PAIRS_MAX),
            regions: Slab::new(REGIONS_MAX),
            queues: Vec::new(),
            channel,
            device,
            config,
            capabilities,
            limits,
            verbs,
            scratch: Scratch::new(),
            ready: VecDeque::with_capacity(64),
            wake_point,
            poll_count: 0,
        })
    }

    /// Moves a queue pair into the error state, as a device does that fails. Unknown ones are ignored.
    #[cfg(feature = "test-support")]
    pub fn force_error(&mut self, queue_pair: QueuePairId) {
        if let Some(slot) = self.slots.find_mut(queue_pair.0) {
            super::progress::fail(slot);
        }
    }

    /// Number of the completion queue that has room for one more queue pair.
    fn reserve_completions(&mut self, count: u32) -> Result<usize, ConnectError> {
        if let Some(index) = self.queues.iter_mut().position(|queue| queue.reserve(count)) {
            return Ok(index);
        }
        let mut queue = CompletionQueue::new(&self.channel, count).map_err(connect_error)?;
        if !queue.reserve(count) {
            return Err(ConnectError::System {
                step: "finding room for the queue pair's completions",
                source: std::io::ErrorKind::OutOfMemory.into(),
            });
        }
        self.queues.push(queue);
        Ok(self.queues.len() - 1)
    }

    fn make_slot(&mut self, number: u32, queue: usize) -> Result<Slot, ConnectError> {
        let config = &self.config;
        let queue_pair = ResetQueuePair::new(
            &self.device,
            self.queues[queue].cq,
            config.outstanding_max + OWN_SENDS,
            config.receives_max + OWN_RECEIVES,
        )?
        .initialize()?;
        for _ in 0..OWN_RECEIVES {
            queue_pair.post_receive(receive_id(number))?;
        }
        let bounce = if (queue_pair.inline_len_max() as usize) < INLINE_LEN_MAX {
            let bounce = Bounce::new(&self.device, config.outstanding_max);
            Some(bounce.map_err(|error| ConnectError::System {
                step: "registering memory for inline bytes",
                source: std::io::Error::other(error),
            })?)
        } else {
            None
        };
        let own = queue_pair.endpoint(config, random_sequence_number());
        Ok(Slot {
            id: QueuePairId(number),
            stage: Stage::Pending { queue_pair, own },
            state: QueuePairState::Connecting,
            ring: SendRing::new(config.outstanding_max + OWN_SENDS),
            peer_promises: Promises::NONE,
            unsignaled: 0,
            outstanding_max: config.outstanding_max,
            receives_posted: 0,
            early: VecDeque::with_capacity(OWN_RECEIVES as usize),
            completion_queue: queue,
            completions_max: self.completions_max(),
            bounce,
            windows: Windows::default(),
        })
    }

    /// Completions one queue pair can have at once: everything may be flushed.
    fn completions_max(&self) -> u32 {
        self.config.outstanding_max + OWN_SENDS + self.config.receives_max + OWN_RECEIVES
    }

    fn bring_up(&mut self, id: QueuePairId, remote: &VerbsEndpoint) -> Result<(), ConnectError> {
        let slot = self.slots.find_mut(id.0).ok_or(ConnectError::Stale)?;
        let (queue_pair, own) = match std::mem::replace(&mut slot.stage, Stage::Broken) {
            Stage::Pending { queue_pair, own } => (queue_pair, own),
            other => {
                slot.stage = other;
                return Err(ConnectError::Stale);
            }
        };
        if remote.link != own.link {
            return Err(ConnectError::Unreachable {
                address: std::net::Ipv6Addr::from(remote.gid.raw).to_string(),
                source: std::io::Error::other("one side is on InfiniBand, the other on Ethernet"),
            });
        }
        slot.peer_promises = remote.promises;
        let receiving = queue_pair.ready_to_receive(&self.config, &own, remote)?;
        let connected = receiving.ready_to_send(&self.config, &own, remote)?;
        slot.stage = Stage::Connected(connected);
        (0..slot.windows.count()).try_for_each(|index| window::open(self, id, index)).map_err(
            |error| ConnectError::System {
                step: "opening a memory window",
                source: std::io::Error::other(error),
            },
        )
    }

    /// Tells the passive side that we are there; its device's answer makes the queue pair ready.
    fn greet(&mut self, id: QueuePairId, remote: &VerbsEndpoint) -> Result<(), ConnectError> {
        self.bring_up(id, remote)?;
        let slot = self.slots.find_mut(id.0).ok_or(ConnectError::Stale)?;
        self.verbs
            .post_own(slot, Greeting::HERE)
            .map_err(|_| unreachable(remote, std::io::ErrorKind::NotConnected))
    }

    /// Destroys a queue pair that could not be connected.
    fn end_unless(
        &mut self,
        connected: Result<(), ConnectError>,
        id: QueuePairId,
    ) -> Result<QueuePairId, ConnectError> {
        if connected.is_err() {
            self.dismiss(id);
        }
        connected.map(|()| id)
    }
}

impl Transport for VerbsTransport {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn register(&mut self, pages: &Pages, access: Access) -> Result<MemoryRegion, RegisterError> {
        let registration = Registration::new(&self.device, pages, access)?;
        memory_region::insert(&mut self.regions, pages, registration)
    }

    fn deregister(&mut self, region: &MemoryRegion) {
        drop(self.release(region));
    }

    fn registrar(&self) -> Option<Box<dyn Registrar>> {
        Some(Box::new(VerbsRegistrar::new(&self.device)))
    }

    fn adopt(
        &mut self,
        pages: &Pages,
        access: Access,
        prepared: Option<Prepared>,
    ) -> Result<MemoryRegion, RegisterError> {
        let registration = Registration::of(prepared, pages, access);
        memory_region::insert(&mut self.regions, pages, registration)
    }

    fn release(&mut self, region: &MemoryRegion) -> Option<Prepared> {
        for slot in self.slots.values_mut() {
            slot.windows.close(region.id);
        }
        self.regions.remove(region.id.0).map(|registration| Box::new(registration) as Prepared)
    }

    fn create_queue_pair(&mut self) -> Result<PendingQueuePair, ConnectError> {
        self.end_departures();
        let completions_max = self.completions_max();
        let queue = self.reserve_completions(completions_max)?;
        // The number is needed for the receives' ids, so the place is taken before the queue pair
        // is made.
        let placeholder = Slot {
            id: QueuePairId(0),
            stage: Stage::Broken,
            state: QueuePairState::Error,
            ring: SendRing::new(1),
            peer_promises: Promises::NONE,
            unsignaled: 0,
            outstanding_max: 0,
            receives_posted: 0,
            early: VecDeque::new(),
            completion_queue: queue,
            completions_max,
            bounce: None,
            windows: Windows::default(),
        };
        let Some(number) = self.slots.insert_with(|_| placeholder) else {
            self.queues[queue].release(completions_max);
            return Err(ConnectError::TooMany { count_max: QUEUE_PAIRS_MAX });
        };
        let id = QueuePairId(number);
        match self.make_slot(number, queue) {
            Ok(made) => {
                let endpoint = match &made.stage {
                    Stage::Pending { own, .. } => own.encode(),
                    Stage::Connected(_) | Stage::Broken => return Err(ConnectError::Stale),
                };
                if let Some(slot) = self.slots.find_mut(number) {
                    *slot = made;
                }
                Ok(PendingQueuePair::new(id, endpoint))
            }
            Err(error) => {
                self.dismiss(id);
                Err(error)
            }
        }
    }

    fn connect(
        &mut self,
        pending: PendingQueuePair,
        role: Role,
        remote: &Endpoint,
    ) -> Result<QueuePairId, ConnectError> {
        let id = pending.id();
        let connected = VerbsEndpoint::decode(remote).and_then(|remote| match role {
            Role::Passive => self.bring_up(id, &remote),
            Role::Active => {
                let deadline = Instant::now() + self.config.connect_timeout;
                self.greet(id, &remote)?;
                let is_answered = self.settle(id, deadline);
                is_answered
                    .then_some(())
                    .ok_or_else(|| unreachable(&remote, std::io::ErrorKind::TimedOut))
            }
        });
        self.end_unless(connected, id)
    }

    /// Leaves the answer of the peer's device to polling.
    fn begin_connect(
        &mut self,
        pending: PendingQueuePair,
        remote: &Endpoint,
    ) -> Result<QueuePairId, ConnectError> {
        let id = pending.id();
        let greeted = VerbsEndpoint::decode(remote).and_then(|remote| self.greet(id, &remote));
        self.end_unless(greeted, id)
    }

    fn promises(&self, queue_pair: QueuePairId) -> Promises {
        let theirs =
            self.slots.find(queue_pair.0).map_or(Promises::NONE, |slot| slot.peer_promises);
        let writes_in_order = theirs.writes_in_order && self.capabilities.promises.writes_in_order;
        // The peer's device reads; a setting here only makes it less.
        Promises { writes_in_order, ..self.config.narrow(theirs) }
    }

    fn state(&self, queue_pair: QueuePairId) -> QueuePairState {
        self.slots.find(queue_pair.0).map_or(QueuePairState::Error, |slot| slot.state)
    }

    fn disconnect(&mut self, queue_pair: QueuePairId) {
        self.dismiss(queue_pair);
    }

    /// Requests that were pending at a disconnection may use memory until the queue pair is destroyed.
    fn is_quiet(&mut self) -> bool {
        if self.departures.are_under_way() {
            self.collect();
            self.end_departures();
        }
        !self.departures.are_under_way()
    }

    fn share(
        &mut self,
        queue_pair: QueuePairId,
        region: &MemoryRegion,
    ) -> Result<RemoteRegion, ShareError> {
        if self.slots.find(queue_pair.0).is_none() {
            return Err(ShareError::NotConnected { queue_pair });
        }
        let registration =
            self.regions.find(region.id.0).ok_or(ShareError::NotConnected { queue_pair })?;
        if registration.access == Access::LOCAL {
            return Err(ShareError::NoAccess);
        }
        let (address, len) = (registration.address, registration.len);
        let key = match registration.has_windows() {
            true => window::key(self, queue_pair, region.id)?,
            false => registration.rkey,
        };
        Ok(RemoteRegion { key: RemoteKey(key), address, len })
    }

    fn post_receive(&mut self, queue_pair: QueuePairId, count: u32) -> Result<(), PostError> {
        let slot = self.slots.find_mut(queue_pair.0).ok_or(PostError::QueuePairError)?;
        if slot.state == QueuePairState::Error {
            return Err(PostError::QueuePairError);
        }
        if slot.receives_posted.saturating_add(count) > self.config.receives_max {
            return Err(PostError::QueueFull);
        }
        self.verbs.post_receives(slot, count, &mut self.scratch)?;
        slot.receives_posted += count;
        self.deliver_early(queue_pair);
        Ok(())
    }

    fn post_send(
        &mut self,
        queue_pair: QueuePairId,
        requests: &mut Batch<SendRequest>,
    ) -> Result<(), PostError> {
        let slot = self.slots.find_mut(queue_pair.0).ok_or(PostError::QueuePairError)?;
        match slot.state {
            QueuePairState::Ready => {}
            QueuePairState::Connecting => return Err(PostError::NotConnected),
            QueuePairState::Error => return Err(PostError::QueuePairError),
        }
        let (taken, outcome) = self.verbs.post(
            slot,
            &self.regions,
            &self.limits,
            requests.as_slice(),
            &mut self.scratch,
        );
        requests.take_front(taken);
        outcome
    }

    fn write_now(
        &mut self,
        queue_pair: QueuePairId,
        bytes: &[u8],
        remote: RemoteAddress,
    ) -> Result<bool, PostError> {
        let Some(slot) = self.slots.find_mut(queue_pair.0) else { return Ok(false) };
        self.verbs.write_single(slot, bytes, remote)
    }

    fn read_now(
        &mut self,
        queue_pair: QueuePairId,
        work_id: WorkId,
        local: LocalSlice,
        remote: RemoteAddress,
    ) -> Result<bool, PostError> {
        let Some(slot) = self.slots.find_mut(queue_pair.0) else { return Ok(false) };
        self.verbs.read_single(slot, &self.regions, work_id, local, remote)
    }

    fn poll(&mut self, completions: &mut [Completion]) -> usize {
        self.progress(completions)
    }

    fn arm(&mut self) -> bool {
        self.arm_queues()
    }

    fn wait_descriptor(&self) -> BorrowedFd<'_> {
        self.wake_point.descriptor()
    }

    fn disarm(&mut self) {
        self.clear_wake_point();
    }

    fn waker(&self) -> Waker {
        self.wake_point.waker()
    }

    fn view(&mut self, _: QueuePairId, _: RemoteAddress, _: u64) -> Option<PeerBytes> {
        None
    }
}

impl Drop for VerbsTransport {
    fn drop(&mut self) {
        let ids: Vec<QueuePairId> = self.slots.values().map(|slot| slot.id).collect();
        for id in ids {
            self.dismiss(id);
        }
        // All farewells first, then one wait: a thousand peers take no longer than one.
        let deadline = Instant::now() + self.config.farewell_timeout;
        while !self.departures.are_heard_out() && Instant::now() < deadline {
            if self.collect() == 0 {
                std::thread::yield_now();
            }
        }
    }
}
