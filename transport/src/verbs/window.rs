//! Memory windows of type 2: only a peer's own queue pair may write the memory meant for that peer. The key of a region
//! is valid on every queue pair of its protection domain, so a guessed key and address would reach another peer's
//! mailbox. Parameter memory needs no window: peers only read it, and it lies in one region for all.

use std::{
    ffi::c_int,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    abi::{
        IBV_MW_TYPE_2, IBV_SEND_SIGNALED, IBV_WR_BIND_MW, ibv_context_ops, ibv_mw,
        ibv_mw_bind_info, ibv_pd, ibv_send_wr, ibv_send_wr_bind_mw,
    },
    datapath::{EMPTY_SEND, Verbs, post_error},
    device::Device,
    memory_region::{Registration, remote_flags},
    send_ring::{InFlight, Purpose},
    slot::{Slot, Stage},
    transport::VerbsTransport,
};
use crate::{
    error::{PostError, ShareError},
    fabric::{Opcode, QueuePairId, QueuePairState, RegionId},
};

/// How long a device may take to open a memory window, which takes it some microseconds.
const WINDOW_TIMEOUT: Duration = Duration::from_secs(1);

/// The windows of one queue pair.
#[derive(Debug, Default)]
pub(super) struct Windows {
    open: Vec<(RegionId, Window)>,
    /// Requests to open one that have not completed.
    binding: u32,
}

/// A window, closed when it is dropped.
#[derive(Debug)]
struct Window {
    mw: *mut ibv_mw,
    /// Its key once it is open.
    rkey: u32,
    request: ibv_send_wr,
    device: Arc<Device>,
}

// SAFETY: a window is an object of libibverbs, whose calls are thread-safe; only one thread uses it. The
// pointers in its request are to it and to a region of the same instance.
unsafe impl Send for Window {}

impl Windows {
    /// The key by which the peer reaches a region, once [`Verbs::open_window`] was called for it.
    pub(super) fn key_of(&self, region: RegionId) -> Option<u32> {
        self.open.iter().find(|(open, _)| *open == region).map(|(_, window)| window.rkey)
    }

    /// Makes a window over a region, not open yet; returns its key.
    pub(super) fn add(
        &mut self,
        device: &Arc<Device>,
        region: RegionId,
        registration: &Registration,
    ) -> Result<u32, ShareError> {
        let window = Window::new(device, registration)?;
        let rkey = window.rkey;
        self.open.push((region, window));
        Ok(rkey)
    }

    /// Closes the windows over a region.
    pub(super) fn close(&mut self, region: RegionId) {
        self.open.retain(|(open, _)| *open != region);
    }

    /// Closes them all.
    pub(super) fn clear(&mut self) {
        self.open.clear();
    }

    pub(super) fn count(&self) -> usize {
        self.open.len()
    }

    /// Whether all that were opened are open.
    pub(super) fn are_open(&self) -> bool {
        self.binding == 0
    }

    pub(super) fn note_bound(&mut self) {
        self.binding -= 1;
    }
}

impl Window {
    fn new(device: &Arc<Device>, registration: &Registration) -> Result<Self, ShareError> {
        // SAFETY: the context is open as long as the device, and the protection domain is of it.
        let mw =
            unsafe { allocate(&(*device.context()).ops, device.pd, device.attributes.max_mw) }?;
        // SAFETY: not null, so alive until it is deallocated.
        let before = unsafe { (*mw).rkey };
        // Each opening has another key in the low byte, as `ibv_inc_rkey` makes it.
        let rkey = before & !0xff | before.wrapping_add(1) & 0xff;
        let request = ibv_send_wr {
            opcode: IBV_WR_BIND_MW,
            send_flags: IBV_SEND_SIGNALED,
            bind_mw: ibv_send_wr_bind_mw {
                mw,
                rkey,
                bind_info: ibv_mw_bind_info {
                    mr: registration.mr,
                    addr: registration.address,
                    length: registration.len,
                    mw_access_flags: remote_flags(registration.access).cast_unsigned(),
                },
            },
            ..EMPTY_SEND
        };
        Ok(Self { mw, rkey, request, device: Arc::clone(device) })
    }
}

/// Has a device that promises `max` windows make one, not open yet and never null.
///
/// # Safety
/// The protection domain is of the device that the functions are of.
unsafe fn allocate(
    ops: &ibv_context_ops,
    domain: *mut ibv_pd,
    max: c_int,
) -> Result<*mut ibv_mw, ShareError> {
    let refused = |source| ShareError::Windows { max: max.unsigned_abs(), source };
    let unsupported = || refused(std::io::ErrorKind::Unsupported.into());
    let allocate = ops.alloc_mw.ok_or_else(unsupported)?;
    // SAFETY: the caller's promise.
    let mw = unsafe { allocate(domain, IBV_MW_TYPE_2) };
    if mw.is_null() { Err(refused(std::io::Error::last_os_error())) } else { Ok(mw) }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the context is open as long as the device.
        let deallocate = unsafe { (*self.device.context()).ops.dealloc_mw };
        // SAFETY: allocated once and deallocated once; from here on the device refuses its key.
        let status = deallocate.map_or(0, |deallocate| unsafe { deallocate(self.mw) });
        if status != 0 {
            tracing::warn!(status, "ibv_dealloc_mw failed; what it opened stays open");
        }
    }
}

impl Verbs {
    /// Posts the request that opens the window of this index; it is open when it has completed.
    pub(super) fn open_window(&self, slot: &mut Slot, index: usize) -> Result<(), PostError> {
        let Some(qp) = slot.qp() else { return Err(PostError::QueuePairError) };
        let mut request = slot.windows.open[index].1.request;
        request.wr_id = slot.send_id(0);
        let mut refused = std::ptr::null_mut();
        // SAFETY: the queue pair is alive and in RTS; the window is alive as long as it is listed, the region
        // as long as it is registered, which closes its windows first. The request is copied by the call.
        let status = unsafe { (self.post_send)(qp, &raw mut request, &raw mut refused) };
        if status != 0 {
            return Err(post_error(status));
        }
        slot.ring.push(InFlight { work_id: None, opcode: Opcode::Write, purpose: Purpose::Bind });
        slot.windows.binding += 1;
        Ok(())
    }
}

/// Opens a window of a connected queue pair, which its own device does alone.
pub(super) fn open(
    transport: &mut VerbsTransport,
    id: QueuePairId,
    index: usize,
) -> Result<(), ShareError> {
    let failed = |source| ShareError::System { step: "opening a memory window", source };
    let slot = transport.slots.find_mut(id.0).ok_or(ShareError::NotConnected { queue_pair: id })?;
    transport
        .verbs
        .open_window(slot, index)
        .map_err(|error| failed(std::io::Error::other(error)))?;
    let deadline = Instant::now() + WINDOW_TIMEOUT;
    loop {
        transport.collect();
        let slot = transport.slots.find(id.0).ok_or(ShareError::NotConnected { queue_pair: id })?;
        if slot.state == QueuePairState::Error {
            return Err(failed(std::io::ErrorKind::ConnectionAborted.into()));
        }
        if slot.windows.are_open() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(failed(std::io::ErrorKind::TimedOut.into()));
        }
        std::thread::yield_now();
    }
}

/// The key by which the peer of a queue pair reaches a region that it may change.
pub(super) fn key(
    transport: &mut VerbsTransport,
    id: QueuePairId,
    region: RegionId,
) -> Result<u32, ShareError> {
    let not_connected = ShareError::NotConnected { queue_pair: id };
    let (Some(slot), Some(registration)) =
        (transport.slots.find_mut(id.0), transport.regions.find(region.0))
    else {
        return Err(not_connected);
    };
    if let Some(key) = slot.windows.key_of(region) {
        return Ok(key);
    }
    let key = slot.windows.add(&transport.device, region, registration)?;
    let index = slot.windows.count() - 1;
    // Before it is connected the connection opens it.
    if matches!(slot.stage, Stage::Connected(_))
        && let Err(error) = open(transport, id, index)
    {
        if let Some(slot) = transport.slots.find_mut(id.0) {
            slot.windows.close(region);
        }
        return Err(error);
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::ffi::c_uint;

    use super::*;

    unsafe extern "C" fn refuse(_: *mut ibv_pd, _: c_uint) -> *mut ibv_mw {
        // SAFETY: the address of this thread's errno is valid.
        unsafe { *libc::__errno_location() = libc::ENOMEM };
        std::ptr::null_mut()
    }

    #[test]
    fn a_device_without_a_window_left_is_told_with_its_limit() {
        // SAFETY: no functions and null pointers, which is what a provider without them has.
        let none: ibv_context_ops = unsafe { std::mem::zeroed() };
        let full = ibv_context_ops { alloc_mw: Some(refuse), ..none };
        // SAFETY: neither function looks at the domain.
        let error = unsafe { allocate(&full, std::ptr::null_mut(), 4096) }.unwrap_err();
        let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert!(text.contains("max_mw 4096") && text.contains("Cannot allocate memory"), "{text}");
    }
}
