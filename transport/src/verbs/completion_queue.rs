//! Completion queues, and the channel that wakes a sleeper for them. A queue has room for every completion that its
//! queue pairs can have at once, because an overflowing queue is unusable.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use super::{
    abi::{ibv_comp_channel, ibv_cq},
    device::{Device, failed, positive},
};
use crate::error::OpenError;

/// Entries asked for: a hundred queue pairs of the default depth, in a megabyte.
const ENTRIES_WANTED: u32 = 16_384;

/// A completion channel: one descriptor for all queues of an instance.
#[derive(Debug)]
pub(super) struct CompletionChannel {
    channel: *mut ibv_comp_channel,
    device: Arc<Device>,
}

// SAFETY: libibverbs' calls on a channel are thread-safe.
unsafe impl Send for CompletionChannel {}
// SAFETY: as above; the structure is not changed after its making.
unsafe impl Sync for CompletionChannel {}

impl CompletionChannel {
    pub(super) fn new(device: &Arc<Device>) -> Result<Arc<Self>, OpenError> {
        // SAFETY: the context is open as long as the device.
        let channel = unsafe { (device.library().ibv_create_comp_channel)(device.context()) };
        if channel.is_null() {
            return Err(failed("ibv_create_comp_channel"));
        }
        let channel = Arc::new(Self { channel, device: Arc::clone(device) });
        set_nonblocking(channel.as_fd()).map_err(|error| OpenError::System {
            provider: "verbs",
            step: "fcntl(O_NONBLOCK) on the completion channel",
            source: error.into(),
        })?;
        Ok(channel)
    }

    /// Takes and acknowledges every event there is. Does not block.
    pub(super) fn drain(&self) {
        loop {
            let mut cq = std::ptr::null_mut();
            let mut context = std::ptr::null_mut();
            // SAFETY: the channel is alive and does not block; both results are writable.
            let status = unsafe {
                (self.device.library().ibv_get_cq_event)(
                    self.channel,
                    &raw mut cq,
                    &raw mut context,
                )
            };
            if status != 0 {
                return;
            }
            // SAFETY: the event is of this queue, which waits in its destruction until all are
            // acknowledged, so it is alive.
            unsafe { (self.device.library().ibv_ack_cq_events)(cq, 1) };
        }
    }
}

impl AsFd for CompletionChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel is alive, and its descriptor is open as long as it is.
        unsafe { BorrowedFd::borrow_raw((*self.channel).fd) }
    }
}

impl Drop for CompletionChannel {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed once; every queue of it holds an Arc, so none is left.
        let status = unsafe { (self.device.library().ibv_destroy_comp_channel)(self.channel) };
        if status != 0 {
            tracing::warn!(status, "ibv_destroy_comp_channel failed");
        }
    }
}

/// A completion queue shared by the queue pairs that have reserved room in it.
#[derive(Debug)]
pub(super) struct CompletionQueue {
    pub(super) cq: *mut ibv_cq,
    entries: u32,
    reserved: u32,
    channel: Arc<CompletionChannel>,
}

// SAFETY: libibverbs' calls on a queue are thread-safe; only one thread uses it.
unsafe impl Send for CompletionQueue {}

impl CompletionQueue {
    /// A queue with room for at least `room_min` completions.
    pub(super) fn new(channel: &Arc<CompletionChannel>, room_min: u32) -> Result<Self, OpenError> {
        let device = &channel.device;
        let limit = positive(device.attributes.max_cqe);
        let wanted = ENTRIES_WANTED.max(room_min).min(limit);
        let library = device.library();
        // SAFETY: context and channel are alive; no queue context is used.
        let cq = unsafe {
            (library.ibv_create_cq)(
                device.context(),
                i32::try_from(wanted).unwrap_or(i32::MAX),
                std::ptr::null_mut(),
                channel.channel,
                0,
            )
        };
        if cq.is_null() {
            return Err(failed("ibv_create_cq"));
        }
        // SAFETY: not null, so alive until ibv_destroy_cq.
        let entries = positive(unsafe { (*cq).cqe });
        Ok(Self { cq, entries, reserved: 0, channel: Arc::clone(channel) })
    }

    /// Reserves room for a queue pair's completions, or says that there is not enough.
    pub(super) fn reserve(&mut self, count: u32) -> bool {
        let fits = self.entries - self.reserved >= count;
        if fits {
            self.reserved += count;
        }
        fits
    }

    /// Gives back what a destroyed queue pair had reserved.
    pub(super) fn release(&mut self, count: u32) {
        debug_assert!(count <= self.reserved, "released more than was reserved");
        self.reserved = self.reserved.saturating_sub(count);
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // An event not acknowledged would block the destruction for ever.
        self.channel.drain();
        // SAFETY: made once, destroyed once; its queue pairs are destroyed before it.
        let status = unsafe { (self.channel.device.library().ibv_destroy_cq)(self.cq) };
        if status != 0 {
            tracing::warn!(status, "ibv_destroy_cq failed");
        }
    }
}

/// Makes reads of a descriptor return at once when there is nothing.
pub(super) fn set_nonblocking(descriptor: BorrowedFd<'_>) -> Result<(), rustix::io::Errno> {
    let flags = rustix::fs::fcntl_getfl(descriptor)?;
    rustix::fs::fcntl_setfl(descriptor, flags | rustix::fs::OFlags::NONBLOCK)
}
