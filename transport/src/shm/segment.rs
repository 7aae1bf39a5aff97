//! The two kinds of pages that peers share besides regions, and their layouts.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
};

use super::{
    immediates::Ring,
    limits::{RECEIVES_MAX, REGIONS_MAX},
};
use crate::{
    error::AllocateError,
    memory::{HugePages, Lock, Pages, PagesOptions},
    sync::{AtomicU32, AtomicU64, Ordering},
};

/// The slot that a region's key names, below its generation.
#[inline]
pub(super) fn slot_of(key: u32) -> usize {
    (key & 0xffff) as usize
}

/// What an instance tells all its peers; they can only read it (sealed by the kernel).
///
/// ```text
/// offset
///      0  u32  sleeping: 1 while the instance's thread sleeps or is about to
///      4  ...  unused up to a cache line
///     64  u32  liveness of region slot 0: the region's key, or 0
///     68  u32  liveness of region slot 1
///    ...       REGIONS_MAX words
/// ```
#[derive(Debug)]
pub(super) struct InstancePage(Pages);

const SLEEPING_OFFSET: usize = 0;
const LIVENESS_OFFSET: usize = 64;
const INSTANCE_PAGE_LEN: usize = LIVENESS_OFFSET + 4 * REGIONS_MAX as usize;

/// One direction of a queue pair: memory of the receiver, which the sender writes too.
///
/// ```text
/// offset
///      0  u64  produced: immediates written so far (sender)
///     64  u64  posted: receives posted so far (receiver)
///     72  u32  closed: 1 once the receiver has ended the queue pair (receiver)
///    128  u32  posting: odd while the sender carries out a request (sender)
///    192  u32  immediate slot 0 (sender)
///    ...       RECEIVES_MAX slots
/// ```
#[derive(Debug)]
pub(super) struct ChannelPage(Pages);

const PRODUCED_OFFSET: usize = 0;
const POSTED_OFFSET: usize = 64;
const CLOSED_OFFSET: usize = 72;
const POSTING_OFFSET: usize = 128;
const SLOTS_OFFSET: usize = 192;
const CHANNEL_PAGE_LEN: usize = SLOTS_OFFSET + 4 * RECEIVES_MAX as usize;

impl InstancePage {
    /// A page of one's own.
    pub(super) fn create() -> Result<Self, AllocateError> {
        allocate(INSTANCE_PAGE_LEN, true).map(Self)
    }

    /// A peer's page.
    pub(super) fn map(fd: BorrowedFd<'_>) -> Result<Self, AllocateError> {
        Pages::map_peer(fd, INSTANCE_PAGE_LEN, false).map(Self)
    }

    pub(super) fn fd(&self) -> io::Result<Arc<OwnedFd>> {
        descriptor(&self.0)
    }

    #[inline]
    pub(super) fn sleeping(&self) -> &AtomicU32 {
        // SAFETY: inside the page, 4-aligned; a peer's page is only loaded from by the callers.
        unsafe { word(&self.0, SLEEPING_OFFSET) }
    }

    /// Whether the owner still has a region by this key.
    #[inline]
    pub(super) fn is_live(&self, key: u32) -> bool {
        self.liveness(key).is_some_and(|word| word.load(Ordering::Acquire) == key)
    }

    /// For the owner: says that a region is there.
    pub(super) fn publish(&self, key: u32) {
        if let Some(word) = self.liveness(key) {
            word.store(key, Ordering::Release);
        }
    }

    /// For the owner: says that a region is gone.
    pub(super) fn retract(&self, key: u32) {
        if let Some(word) = self.liveness(key) {
            word.store(0, Ordering::SeqCst);
        }
    }

    #[inline]
    fn liveness(&self, key: u32) -> Option<&AtomicU32> {
        let slot = slot_of(key);
        // SAFETY: slot < REGIONS_MAX, so the word lies inside the page; 4-aligned.
        (slot < REGIONS_MAX as usize).then(|| unsafe { word(&self.0, LIVENESS_OFFSET + 4 * slot) })
    }
}

impl ChannelPage {
    /// A page of one's own, to receive by.
    pub(super) fn create() -> Result<Self, AllocateError> {
        allocate(CHANNEL_PAGE_LEN, false).map(Self)
    }

    /// A peer's page, to send by.
    pub(super) fn map(fd: BorrowedFd<'_>) -> Result<Self, AllocateError> {
        Pages::map_peer(fd, CHANNEL_PAGE_LEN, true).map(Self)
    }

    pub(super) fn fd(&self) -> io::Result<Arc<OwnedFd>> {
        descriptor(&self.0)
    }

    /// The peer has it: nobody else gets it.
    pub(super) fn close_file(&self) {
        self.0.close_file();
    }

    #[inline]
    pub(super) fn ring(&self) -> Ring<'_> {
        let base = self.0.as_ptr();
        // SAFETY: all offsets lie inside the page, which has at least CHANNEL_PAGE_LEN bytes, and are
        // aligned; atomics may be shared with whoever maps the page.
        unsafe {
            Ring {
                produced: AtomicU64::from_ptr(base.add(PRODUCED_OFFSET).cast()),
                posted: AtomicU64::from_ptr(base.add(POSTED_OFFSET).cast()),
                slots: std::slice::from_raw_parts(
                    base.add(SLOTS_OFFSET).cast::<AtomicU32>(),
                    RECEIVES_MAX as usize,
                ),
            }
        }
    }

    #[inline]
    pub(super) fn closed(&self) -> &AtomicU32 {
        // SAFETY: inside the page, 4-aligned.
        unsafe { word(&self.0, CLOSED_OFFSET) }
    }

    #[inline]
    pub(super) fn posting(&self) -> &AtomicU32 {
        // SAFETY: inside the page, 4-aligned.
        unsafe { word(&self.0, POSTING_OFFSET) }
    }
}

/// # Safety
/// `offset + 4` must not pass the page's end and `offset` be a multiple of four.
#[inline]
unsafe fn word(pages: &Pages, offset: usize) -> &AtomicU32 {
    // SAFETY: as the caller promises; the mapping lives as long as `pages`.
    unsafe { AtomicU32::from_ptr(pages.as_ptr().add(offset).cast()) }
}

fn allocate(len: usize, sealed_for_peers: bool) -> Result<Pages, AllocateError> {
    Pages::allocate(
        len,
        PagesOptions { huge: HugePages::Never, lock: Lock::Never, sealed_for_peers },
    )
}

/// The file of a page that was allocated here, which has one until it is closed.
fn descriptor(pages: &Pages) -> io::Result<Arc<OwnedFd>> {
    pages.fd().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}
