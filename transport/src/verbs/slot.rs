//! One queue pair of an instance with what the provider knows of it.

use std::{collections::VecDeque, sync::Arc};

use super::{
    abi::ibv_qp,
    connect::VerbsEndpoint,
    datapath::CHAIN_MAX,
    device::Device,
    memory_region::Registration,
    queue_pair::{ConnectedQueuePair, InitQueuePair},
    send_ring::SendRing,
    window::Windows,
};
use crate::{
    error::{AllocateError, RegisterError},
    fabric::{Access, INLINE_LEN_MAX, Promises, QueuePairId, QueuePairState},
    memory::{Pages, PagesOptions},
};

/// Receives the provider keeps posted for its own messages: a greeting and a farewell.
pub(super) const OWN_RECEIVES: u32 = 2;
/// Requests the provider keeps room for in the send queue: the same two, and one that opens a window.
pub(super) const OWN_SENDS: u32 = 3;
/// Most queue pairs of one instance.
pub(super) const QUEUE_PAIRS_MAX: u32 = 0x7fff;
/// Marks the work request ids of receives: a bit that no queue pair's number has.
const RECEIVE: u64 = 1 << 47;

const _: () = assert!(QUEUE_PAIRS_MAX as u64 <= (RECEIVE >> 32), "slots reach the receive bit");

/// A queue pair.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: QueuePairId,
    pub(super) stage: Stage,
    pub(super) state: QueuePairState,
    pub(super) ring: SendRing,
    /// What the peer's device promises.
    pub(super) peer_promises: Promises,
    /// Single writes since the last that asked for a completion.
    pub(super) unsignaled: u32,
    /// Requests the caller may have in flight.
    pub(super) outstanding_max: u32,
    /// Receives the caller has posted that were not consumed yet.
    pub(super) receives_posted: u32,
    /// Immediates that came before the caller had posted a receive for them.
    pub(super) early: VecDeque<u32>,
    /// The completion queue it has reserved room in, and how much.
    pub(super) completion_queue: usize,
    pub(super) completions_max: u32,
    /// Where inline bytes go on a device that cannot carry them in the request.
    pub(super) bounce: Option<Bounce>,
    /// What the peer may write, where the device can tell peers apart.
    pub(super) windows: Windows,
}

/// State of the queue pair.
#[derive(Debug)]
pub(super) enum Stage {
    /// Waits for the peer's endpoint.
    Pending { queue_pair: InitQueuePair, own: VerbsEndpoint },
    /// Connected, ready or failed.
    Connected(ConnectedQueuePair),
    /// A step of the set-up failed half-way: nothing is left.
    Broken,
}

impl Slot {
    /// The device's queue pair, if any is left.
    pub(super) fn qp(&self) -> Option<*mut ibv_qp> {
        match &self.stage {
            Stage::Pending { queue_pair, .. } => Some(queue_pair.raw()),
            Stage::Connected(queue_pair) => Some(queue_pair.raw()),
            Stage::Broken => None,
        }
    }

    /// How many requests the caller may post now.
    pub(super) fn room(&self) -> usize {
        self.outstanding_max.saturating_sub(self.ring.len()) as usize
    }

    /// Work request id of a receive.
    pub(super) fn receive_id(&self) -> u64 {
        receive_id(self.id.0)
    }

    /// Work request id of the request that will be the `ahead`-th from now.
    pub(super) fn send_id(&self, ahead: usize) -> u64 {
        let number = (u64::from(self.ring.next_number()) + ahead as u64) & u64::from(u32::MAX);
        u64::from(self.id.0) << 32 | number
    }
}

/// Work request id of a receive of this queue pair.
pub(super) fn receive_id(queue_pair: u32) -> u64 {
    u64::from(queue_pair) << 32 | RECEIVE
}

/// What a work request id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkRequest {
    /// A request of this number in the queue pair's send ring.
    Send { queue_pair: u32, number: u32 },
    /// Any receive.
    Receive { queue_pair: u32 },
}

impl WorkRequest {
    #[expect(clippy::cast_possible_truncation, reason = "the halves of 64 bits")]
    pub(super) const fn of(wr_id: u64) -> Self {
        let queue_pair = ((wr_id & !RECEIVE) >> 32) as u32;
        if wr_id & RECEIVE == 0 {
            Self::Send { queue_pair, number: wr_id as u32 }
        } else {
            Self::Receive { queue_pair }
        }
    }
}

/// Registered memory for inline bytes: a place for each request in flight.
#[derive(Debug)]
pub(super) struct Bounce {
    registration: Registration,
    pages: Pages,
    places: usize,
}

impl Bounce {
    pub(super) fn new(device: &Arc<Device>, outstanding_max: u32) -> Result<Self, BounceError> {
        // A chain is built before it is posted, so its places must not meet those in flight.
        let places = (outstanding_max as usize + CHAIN_MAX).next_power_of_two();
        let pages = Pages::allocate(places * INLINE_LEN_MAX, PagesOptions::default())?;
        let registration = Registration::new(device, &pages, Access::LOCAL)?;
        Ok(Self { registration, pages, places })
    }

    /// Copies the bytes to the place of the request `ahead` of `number`; returns address and key.
    pub(super) fn place(&self, number: u32, ahead: usize, bytes: &[u8]) -> (u64, u32) {
        let place = (number as usize + ahead) & (self.places - 1);
        let offset = (place * INLINE_LEN_MAX) as u64;
        self.pages.write(offset, bytes);
        (self.registration.address + offset, self.registration.lkey)
    }
}

/// Why there is no memory for inline bytes.
#[derive(Debug, thiserror::Error)]
pub(super) enum BounceError {
    #[error(transparent)]
    Allocate(#[from] AllocateError),
    #[error(transparent)]
    Register(#[from] RegisterError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_request_ids_tell_receives_from_sends() {
        let queue_pair = 0xffff_7fff;
        assert_eq!(WorkRequest::of(receive_id(queue_pair)), WorkRequest::Receive { queue_pair });
        let send = u64::from(queue_pair) << 32 | 0xffff_fffe;
        assert_eq!(WorkRequest::of(send), WorkRequest::Send { queue_pair, number: 0xffff_fffe });
    }
}
