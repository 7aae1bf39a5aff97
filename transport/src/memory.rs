//! Pinned memory: page-aligned mappings that a device, the kernel and a peer on this host can all
//! use at once, and the only ways to touch bytes that a peer may be writing.
//!
//! No Rust reference is ever made over such bytes: they are copied out, or loaded as atomics, and
//! then checked.
#![allow(unsafe_code)]

mod copy_out;
mod own_file;
mod peer_file;
mod populate;
mod zeroed;

use std::{
    fmt,
    os::fd::{BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{MemfdFlags, SealFlags},
    mm::{Advice, MapFlags, ProtFlags},
};

pub use populate::{populate, prefer_huge_pages};
pub use zeroed::Zeroed;

use self::own_file::OwnFile;
use crate::error::AllocateError;

/// Size of a normal page: what lengths are rounded up to.
pub const PAGE_LEN: usize = 4096;

/// Size of a huge page: what lengths are rounded up to when huge pages are asked for.
pub const HUGE_PAGE_LEN: usize = 2 << 20;

/// Most bytes of one allocation.
pub const PAGES_LEN_MAX: usize = 16 << 40;

/// Bytes that are made, locked or unmapped at a time: other threads' page faults and mappings wait for as
/// long as the kernel takes for one piece.
const PIECE_LEN: usize = 4 << 20;

/// Whether huge pages are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// Reserved huge pages where there are enough, else transparent ones, else normal ones.
    Try,
    /// Normal pages.
    Never,
}

/// Whether the memory has to be locked against swapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Locked, or an error.
    Require,
    /// Locked if the limit allows it; [`PinReport::locked`] says whether it was.
    Try,
    /// Not locked.
    Never,
}

/// How to allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagesOptions {
    /// Huge pages.
    pub huge: HugePages,
    /// Locking.
    pub lock: Lock,
    /// Peers on this host can never map it writable: the kernel refuses. For parameter memory.
    pub sealed_for_peers: bool,
}

impl Default for PagesOptions {
    fn default() -> Self {
        Self { huge: HugePages::Try, lock: Lock::Try, sealed_for_peers: false }
    }
}

/// Which requested properties an allocation got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinReport {
    /// Whether reserved huge pages back it.
    pub huge: bool,
    /// Whether it is locked.
    pub locked: bool,
    /// The memlock limit of the process, in bytes; `u64::MAX` when there is none.
    pub limit_bytes: u64,
}

/// A mapping. Cloning shares it; it is unmapped when the last clone is dropped.
#[derive(Clone)]
pub struct Pages {
    mapping: Arc<Mapping>,
}

struct Mapping {
    address: NonNull<u8>,
    len: usize,
    backing: Backing,
    report: PinReport,
}

enum Backing {
    /// Ours, with the memfd that peers get, until it is closed.
    Memfd(OwnFile),
    /// A peer's memfd, mapped here.
    Peer,
    /// Somebody else's memory, who promised to keep it.
    Borrowed,
}

// SAFETY: the mapping is plain memory with a stable address; every access goes through raw copies
// or atomics, whatever thread makes it, and unmapping happens once, in the last owner's drop.
unsafe impl Send for Mapping {}
// SAFETY: as above: no method hands out a reference over the bytes.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        if matches!(self.backing, Backing::Borrowed) {
            return;
        }
        for (at, len) in pieces(self.len) {
            // SAFETY: the piece lies in one successful mmap of ours, at a multiple of any page size, and is
            // unmapped only here; no slice of it is alive because all users hold a clone of the Arc.
            let unmapped =
                unsafe { rustix::mm::munmap(self.address.as_ptr().wrapping_add(at).cast(), len) };
            if let Err(error) = unmapped {
                tracing::warn!(%error, len, "cannot unmap pinned memory");
            }
        }
    }
}

impl Pages {
    /// At least `len` bytes of zeroed, shareable memory, rounded up to whole pages.
    ///
    /// # Errors
    /// When the length is out of bounds, the system has no memory, or locking is required and
    /// refused.
    pub fn allocate(len: usize, options: PagesOptions) -> Result<Self, AllocateError> {
        if len == 0 || len > PAGES_LEN_MAX {
            return Err(AllocateError::Length { len });
        }
        let (address, len, fd, huge) = match options.huge {
            HugePages::Try if len >= HUGE_PAGE_LEN => {
                let huge_len = len.next_multiple_of(HUGE_PAGE_LEN);
                match map_memfd(huge_len, true) {
                    Ok((address, fd)) => (address, huge_len, fd, true),
                    Err(_) => {
                        let (address, fd) = map_memfd(huge_len, false)?;
                        // SAFETY: the range is the mapping just made; advice changes no contents.
                        let _ = unsafe {
                            rustix::mm::madvise(
                                address.as_ptr().cast(),
                                huge_len,
                                Advice::LinuxHugepage,
                            )
                        };
                        (address, huge_len, fd, false)
                    }
                }
            }
            _ => {
                let page_len = len.next_multiple_of(PAGE_LEN);
                let (address, fd) = map_memfd(page_len, false)?;
                (address, page_len, fd, false)
            }
        };
        let limit_bytes = lock_limit_bytes();
        let mut pages = Self {
            mapping: Arc::new(Mapping {
                address,
                len,
                backing: Backing::Memfd(OwnFile::new(fd)),
                report: PinReport { huge, locked: false, limit_bytes },
            }),
        };
        pages.lock(options.lock)?;
        if options.sealed_for_peers {
            pages.seal()?;
        }
        Ok(pages)
    }

    /// Maps a memfd that a peer shared. `len` must not pass the file's end, which is checked.
    ///
    /// # Errors
    /// When the file is shorter, its seals do not promise that it stays so, or it cannot be mapped.
    pub fn map_peer(fd: BorrowedFd<'_>, len: usize, writable: bool) -> Result<Self, AllocateError> {
        let system = |step| move |error: rustix::io::Errno| system_error(step, len, error);
        if len == 0 || len > PAGES_LEN_MAX {
            return Err(AllocateError::Length { len });
        }
        peer_file::check(
            len,
            || rustix::fs::fcntl_get_seals(fd).map_err(system("fcntl(F_GET_SEALS)")),
            || rustix::fs::fstat(fd).map(|stat| stat.st_size).map_err(system("fstat")),
        )?;
        let protection =
            if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: a fresh shared mapping at an address the kernel chooses; nothing else refers to it.
        let address = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, fd, 0)
        }
        .map_err(system("mmap"))?;
        let address = NonNull::new(address.cast()).ok_or(AllocateError::Length { len })?;
        let report = PinReport { huge: false, locked: false, limit_bytes: lock_limit_bytes() };
        Ok(Self { mapping: Arc::new(Mapping { address, len, backing: Backing::Peer, report }) })
    }

    /// Memory that somebody else owns, as local side of requests or, where
    /// [`Capabilities::shares_foreign_memory`](crate::fabric::Capabilities) says so, for peers.
    ///
    /// # Safety
    /// `address..address + len` must be mapped readable and writable until the last clone of the
    /// returned pages, and of regions made of them, is dropped; and its owner must touch it only as
    /// the request rules of [`crate::fabric`] allow while requests are pending.
    #[must_use]
    pub unsafe fn borrow(address: NonNull<u8>, len: usize) -> Self {
        let report = PinReport { huge: false, locked: false, limit_bytes: lock_limit_bytes() };
        Self { mapping: Arc::new(Mapping { address, len, backing: Backing::Borrowed, report }) }
    }

    /// Length in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.mapping.len
    }

    /// Never true: there is no empty mapping. Here for the lint that asks for it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mapping.len == 0
    }

    /// First byte. Code that dereferences it must follow the rules of this module.
    #[inline]
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.mapping.address.as_ptr()
    }

    /// Which requested properties the allocation got.
    #[must_use]
    pub fn report(&self) -> PinReport {
        self.mapping.report
    }

    /// Whether `offset..offset + len` lies inside.
    #[inline]
    #[must_use]
    pub fn contains(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.mapping.len as u64)
    }

    /// Copies bytes out. Panics when they are not all inside.
    #[inline]
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        let from = self.pointer(offset, into.len());
        // SAFETY: `pointer` checked that the source lies in the mapping; the destination is an
        // exclusive reference, so it cannot be the mapping (no reference over it exists). A peer
        // may write the source meanwhile: bytes then are any mix, which callers check for.
        unsafe { copy_out::copy_out(from.cast_const(), into) }
    }

    /// Copies bytes in. Panics when they do not all fit.
    #[inline]
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let to = self.pointer(offset, bytes.len());
        // SAFETY: as in `read`, with the roles exchanged.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Sets bytes to zero. Panics when they are not all inside.
    #[inline]
    pub fn zero(&self, offset: u64, len: usize) {
        let to = self.pointer(offset, len);
        // SAFETY: `pointer` checked that the range lies in the mapping, which is writable.
        unsafe { std::ptr::write_bytes(to, 0, len) }
    }

    /// The aligned little-endian word at `offset`, with acquire order: what was written before it
    /// is visible after it.
    #[inline]
    #[must_use]
    pub fn load_u64(&self, offset: u64) -> u64 {
        u64::from_le(self.atomic_u64(offset).load(Ordering::Acquire))
    }

    /// Stores an aligned little-endian word with release order.
    #[inline]
    pub fn store_u64(&self, offset: u64, word: u64) {
        self.atomic_u64(offset).store(word.to_le(), Ordering::Release);
    }

    /// Adds to the word at `offset`, wrapping, and returns its old value.
    #[must_use]
    pub fn fetch_add_u64(&self, offset: u64, add: u64) -> u64 {
        // Every target with verbs is little-endian, as asserted below.
        self.atomic_u64(offset).fetch_add(add, Ordering::AcqRel)
    }

    /// Replaces the word at `offset` if it is `expected`, and returns its old value.
    #[must_use]
    pub fn compare_swap_u64(&self, offset: u64, expected: u64, desired: u64) -> u64 {
        match self.atomic_u64(offset).compare_exchange(
            expected,
            desired,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            Ok(old) | Err(old) => old,
        }
    }

    /// The atomic at `offset`, for flags shared with a peer. Panics when misaligned or outside.
    #[inline]
    #[must_use]
    pub fn atomic_u64(&self, offset: u64) -> &AtomicU64 {
        let pointer = self.pointer(offset, 8);
        assert!(pointer.cast::<u64>().is_aligned(), "atomic word at {offset} is misaligned");
        // SAFETY: in the mapping and aligned, as just checked, and alive as long as `self`; an
        // atomic may be shared with anybody who uses atomics, peers' devices included.
        unsafe { AtomicU64::from_ptr(pointer.cast()) }
    }

    /// The 32-bit atomic at `offset`. Panics when misaligned or outside.
    #[inline]
    #[must_use]
    pub fn atomic_u32(&self, offset: u64) -> &AtomicU32 {
        let pointer = self.pointer(offset, 4);
        assert!(pointer.cast::<u32>().is_aligned(), "atomic word at {offset} is misaligned");
        // SAFETY: as in `atomic_u64`.
        unsafe { AtomicU32::from_ptr(pointer.cast()) }
    }

    /// Pointer to `len` bytes at `offset`. Panics when they are not all inside.
    #[inline]
    #[must_use]
    pub fn pointer(&self, offset: u64, len: usize) -> *mut u8 {
        assert!(
            self.contains(offset, len as u64),
            "{offset}+{len} leaves a mapping of {} bytes",
            self.mapping.len
        );
        // SAFETY: offset <= mapping.len, asserted above, so the result stays in the allocation.
        unsafe { self.mapping.address.as_ptr().add(usize_from(offset)) }
    }

    /// Has the system make every page now, and lock it where the limit allows, instead of at its first
    /// touch. Takes time in proportion to the length, a piece at a time, so that other threads of the
    /// process go on.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn populate(&mut self) -> Result<(), AllocateError> {
        let len = self.mapping.len;
        let mut locks = true;
        for (at, piece) in pieces(len) {
            let start = self.as_ptr().wrapping_add(at).cast();
            // SAFETY: the piece lies in our mapping; making its pages changes no contents.
            let made = unsafe { rustix::mm::madvise(start, piece, Advice::LinuxPopulateWrite) };
            match made {
                // Kernels before 5.14 make them at the first touch.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(system_error("madvise(MADV_POPULATE_WRITE)", len, error)),
            }
            // SAFETY: as above, for locking.
            locks = locks && unsafe { rustix::mm::mlock(start, piece) }.is_ok();
            if !locks && at > 0 {
                // SAFETY: what lies before the piece is of our mapping, too.
                let _ = unsafe { rustix::mm::munlock(self.as_ptr().cast(), at) };
            }
        }
        if let Some(mapping) = Arc::get_mut(&mut self.mapping) {
            mapping.report.locked = locks;
        }
        Ok(())
    }

    fn lock(&mut self, lock: Lock) -> Result<(), AllocateError> {
        if lock == Lock::Never {
            return Ok(());
        }
        let len = self.mapping.len;
        // SAFETY: the range is our mapping; locking changes no contents.
        let locked = unsafe { rustix::mm::mlock(self.as_ptr().cast(), len) };
        match locked {
            Ok(()) => {
                if let Some(mapping) = Arc::get_mut(&mut self.mapping) {
                    mapping.report.locked = true;
                }
                Ok(())
            }
            Err(error) if lock == Lock::Require => Err(AllocateError::Lock {
                len,
                limit_bytes: self.mapping.report.limit_bytes,
                source: error.into(),
            }),
            Err(_) => Ok(()),
        }
    }

    fn seal(&self) -> Result<(), AllocateError> {
        let Some(fd) = self.fd() else { return Ok(()) };
        // Existing mappings stay writable, later ones cannot be: exactly owner and peers.
        rustix::fs::fcntl_add_seals(fd, SealFlags::FUTURE_WRITE)
            .map_err(|error| system_error("fcntl(F_SEAL_FUTURE_WRITE)", self.len(), error))
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Pages")
            .field("len", &self.mapping.len)
            .field("report", &self.mapping.report)
            .finish_non_exhaustive()
    }
}

/// Where each piece of a mapping begins, and its length.
fn pieces(len: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..len).step_by(PIECE_LEN).map(move |at| (at, PIECE_LEN.min(len - at)))
}

fn map_memfd(len: usize, huge: bool) -> Result<(NonNull<u8>, OwnedFd), AllocateError> {
    let system = |step| move |error: rustix::io::Errno| system_error(step, len, error);
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if huge {
        flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    }
    let fd = rustix::fs::memfd_create("windlass", flags).map_err(system("memfd_create"))?;
    rustix::fs::ftruncate(&fd, len as u64).map_err(system("ftruncate"))?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)
        .map_err(system("fcntl(F_ADD_SEALS)"))?;
    // SAFETY: a fresh shared mapping at an address the kernel chooses; nothing else refers to it.
    let address = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            &fd,
            0,
        )
    }
    .map_err(system("mmap"))?;
    let address = NonNull::new(address.cast()).ok_or(AllocateError::Length { len })?;
    Ok((address, fd))
}

fn lock_limit_bytes() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current.unwrap_or(u64::MAX)
}

fn system_error(step: &'static str, len: usize, error: rustix::io::Errno) -> AllocateError {
    AllocateError::System { step, len, source: error.into() }
}

/// Lossless on every target this crate supports.
#[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits, asserted below")]
const fn usize_from(value: u64) -> usize {
    value as usize
}

const _: () = assert!(PIECE_LEN.is_multiple_of(HUGE_PAGE_LEN));
const _: () = assert!(size_of::<usize>() == 8, "windlass needs a 64-bit target");
const _: () = assert!(cfg!(target_endian = "little"), "windlass needs a little-endian target");

/// Begins to bring the cache line of an address near, if there is one: any address will do.
#[inline]
pub fn fetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint to the processor; it reads nothing, and faults at no address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
mod tests;
