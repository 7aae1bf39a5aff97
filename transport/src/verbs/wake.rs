//! Sleeping: one descriptor for completions, device events and wakers, and what to do about each.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::event::{EventfdFlags, Timespec, epoll};

use super::{
    abi::{
        IBV_EVENT_COMM_EST, IBV_EVENT_DEVICE_FATAL, IBV_EVENT_PORT_ERR, IBV_EVENT_QP_ACCESS_ERR,
        IBV_EVENT_QP_FATAL, IBV_EVENT_QP_REQ_ERR, ibv_async_event,
    },
    completion_queue::{CompletionChannel, set_nonblocking},
    device::Device,
    progress::fail,
    transport::VerbsTransport,
};
use crate::{
    error::OpenError,
    fabric::{QueuePairState, Waker},
};

const COMPLETIONS: u64 = 0;
const EVENTS: u64 = 1;
const WAKER: u64 = 2;

/// The descriptor to sleep on, and the one that wakers write to.
#[derive(Debug)]
pub(super) struct WakePoint {
    epoll: OwnedFd,
    waker: Arc<OwnedFd>,
}

impl WakePoint {
    pub(super) fn new(
        device: &Arc<Device>,
        channel: &Arc<CompletionChannel>,
    ) -> Result<Self, OpenError> {
        let failed = |step| {
            move |error: rustix::io::Errno| OpenError::System {
                provider: "verbs",
                step,
                source: error.into(),
            }
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("epoll_create"))?;
        let waker = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(failed("eventfd"))?;
        let events = event_descriptor(device);
        set_nonblocking(events).map_err(failed("fcntl(O_NONBLOCK) on the device's events"))?;
        let add = |descriptor: BorrowedFd<'_>, token| {
            epoll::add(&epoll, descriptor, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
        };
        add(channel.as_fd(), COMPLETIONS).map_err(failed("epoll_ctl"))?;
        add(events, EVENTS).map_err(failed("epoll_ctl"))?;
        add(waker.as_fd(), WAKER).map_err(failed("epoll_ctl"))?;
        Ok(Self { epoll, waker: Arc::new(waker) })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    pub(super) fn waker(&self) -> Waker {
        let waker = Arc::clone(&self.waker);
        Waker::new(move || {
            // Refused only when the counter is full, and then it wakes already.
            let _ = rustix::io::write(&waker, &1_u64.to_le_bytes());
        })
    }
}

fn event_descriptor(device: &Device) -> BorrowedFd<'_> {
    // SAFETY: the context is open as long as the device, and its descriptor with it.
    unsafe { BorrowedFd::borrow_raw((*device.context()).async_fd) }
}

impl VerbsTransport {
    /// Asks for an event at the next completion, then looks once more: one that came in between
    /// would give no event.
    pub(super) fn arm_queues(&mut self) -> bool {
        for queue in &self.queues {
            if !self.verbs.notify(queue.cq) {
                return false;
            }
        }
        self.collect() == 0 && self.ready.is_empty()
    }

    /// Takes away whatever made the descriptor readable.
    pub(super) fn clear_wake_point(&mut self) {
        let empty =
            epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut events = [empty; 3];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(&self.wake_point.epoll, &mut events[..], Some(&now)).unwrap_or(0);
        for event in &events[..count] {
            match event.data.u64() {
                COMPLETIONS => self.channel.drain(),
                EVENTS => self.absorb_events(),
                _ => {
                    let mut count = [0; 8];
                    // Another read may have been faster; the counter is zero either way.
                    let _ = rustix::io::read(&self.wake_point.waker, &mut count);
                }
            }
        }
    }

    /// Reads the device's events: a peer's refused access shows here and nowhere else.
    pub(super) fn absorb_events(&mut self) {
        let library = self.device.library();
        loop {
            let mut event = ibv_async_event { element: std::ptr::null_mut(), event_type: 0 };
            // SAFETY: the context is open, its descriptor does not block, the structure is
            // writable.
            let status =
                unsafe { (library.ibv_get_async_event)(self.device.context(), &raw mut event) };
            if status != 0 {
                return;
            }
            self.absorb_event(&event);
            // SAFETY: an event just taken, acknowledged once.
            unsafe { (library.ibv_ack_async_event)(&raw mut event) };
        }
    }

    fn absorb_event(&mut self, event: &ibv_async_event) {
        match event.event_type {
            IBV_EVENT_QP_FATAL | IBV_EVENT_QP_REQ_ERR | IBV_EVENT_QP_ACCESS_ERR => {
                let named = event.element.addr();
                let slot = self
                    .slots
                    .values_mut()
                    .find(|slot| slot.qp().is_some_and(|qp| qp.addr() == named));
                if let Some(slot) = slot {
                    tracing::debug!(queue_pair = slot.id.0, event = event.event_type, "failed");
                    fail(slot);
                }
            }
            IBV_EVENT_COMM_EST => {
                let named = event.element.addr();
                for slot in self.slots.values_mut() {
                    if slot.state == QueuePairState::Connecting
                        && slot.qp().is_some_and(|qp| qp.addr() == named)
                    {
                        slot.state = QueuePairState::Ready;
                    }
                }
            }
            IBV_EVENT_DEVICE_FATAL => {
                tracing::error!(device = self.device.info.name, "the device has failed");
                for slot in self.slots.values_mut() {
                    slot.state = QueuePairState::Error;
                }
            }
            IBV_EVENT_PORT_ERR => {
                tracing::warn!(device = self.device.info.name, "a port went down");
            }
            other => tracing::debug!(event = other, "device event"),
        }
    }
}
