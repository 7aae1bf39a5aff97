//! Zeroed private memory in huge pages, where the system has them. Pieces smaller than a huge page share it
//! with others: rows and indices that are met at random cost a miss of the address cache each otherwise.
#![allow(unsafe_code)]

mod ranges;

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::{Mutex, PoisonError},
};

use bytemuck::Zeroable;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use self::ranges::{FreeRanges, Range};
use super::{HUGE_PAGE_LEN, PAGE_LEN, PIECE_LEN};

/// Values that begin as zeros, at the start of a cache line. As with a vector, a process that finds no
/// memory for them ends.
pub struct Zeroed<T> {
    start: NonNull<T>,
    count: usize,
    owned: PhantomData<T>,
}

/// A cache line.
#[repr(align(64))]
struct Line;

const ALIGN: usize = align_of::<Line>();

/// Bytes from which on memory is taken out of a chunk.
const SHARED_LEN_MIN: usize = 32 << 10;

/// Bytes up to which it is; more have a mapping of their own.
const SHARED_LEN_MAX: usize = CHUNK_LEN / 4;

/// Bytes that are mapped at once to be shared, and unmapped once nobody uses any of them. The system gives
/// pages for them as they are touched.
const CHUNK_LEN: usize = 32 << 20;

const _: () = {
    assert!(CHUNK_LEN.is_multiple_of(HUGE_PAGE_LEN), "chunks are of whole huge pages");
    assert!(SHARED_LEN_MIN >= 8 * PAGE_LEN, "what is rounded up to pages wastes an eighth at most");
};

/// The parts of chunks that nobody uses.
static FREE: Mutex<FreeRanges> = Mutex::new(FreeRanges::new(CHUNK_LEN));

/// Where memory of some length comes from.
enum Home {
    Heap(Layout),
    Chunk(usize),
    Mapping(usize),
}

impl<T: Zeroable + Copy> Zeroed<T> {
    /// `count` zeros.
    ///
    /// # Panics
    ///
    /// When that many do not fit any memory.
    #[must_use]
    pub fn new(count: usize) -> Self {
        const { assert!(align_of::<T>() <= ALIGN && size_of::<T>() > 0) };
        let start = match count {
            0 => NonNull::<Line>::dangling().cast(),
            _ => match home(Self::layout(count)) {
                Home::Heap(layout) => {
                    // SAFETY: the layout is of more than no bytes.
                    let start = NonNull::new(unsafe { alloc_zeroed(layout) });
                    start.unwrap_or_else(|| handle_alloc_error(layout))
                }
                Home::Chunk(len) => take_shared(len),
                Home::Mapping(len) => map(len, HUGE_PAGE_LEN),
            },
        };
        Self { start: start.cast(), count, owned: PhantomData }
    }
}

impl<T> Zeroed<T> {
    fn layout(count: usize) -> Layout {
        let layout = Layout::array::<T>(count).and_then(|layout| layout.align_to(ALIGN));
        layout.expect("a length in memory")
    }
}

impl<T> Deref for Zeroed<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `start` points to `count` values that this owns, which were zeros at first, as their type
        // allows.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl<T> DerefMut for Zeroed<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; they are borrowed mutably as long as this is.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.count) }
    }
}

impl<T> Drop for Zeroed<T> {
    fn drop(&mut self) {
        if self.count == 0 {
            return;
        }
        let start = self.start.cast();
        match home(Self::layout(self.count)) {
            // SAFETY: it was allocated with this layout, and nothing refers to it any more.
            Home::Heap(layout) => unsafe { dealloc(start.as_ptr(), layout) },
            Home::Chunk(len) => give_shared(start, len),
            Home::Mapping(len) => unmap(start, len),
        }
    }
}

impl<T: Zeroable + Copy> Default for Zeroed<T> {
    fn default() -> Self {
        Self::new(0)
    }
}

impl<T> fmt::Debug for Zeroed<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Zeroed").field("count", &self.count).finish_non_exhaustive()
    }
}

// SAFETY: it owns its values, as a vector does.
unsafe impl<T: Send> Send for Zeroed<T> {}

// SAFETY: as above.
unsafe impl<T: Sync> Sync for Zeroed<T> {}

fn home(layout: Layout) -> Home {
    let len = layout.size();
    if len < SHARED_LEN_MIN || cfg!(miri) {
        return Home::Heap(layout);
    }
    let len = len.next_multiple_of(PAGE_LEN);
    if len <= SHARED_LEN_MAX { Home::Chunk(len) } else { Home::Mapping(len) }
}

/// Zeroed memory out of a chunk.
fn take_shared(len: usize) -> NonNull<u8> {
    let taken = FREE.lock().unwrap_or_else(PoisonError::into_inner).take(len);
    let Some(Range { start, is_used }) = taken else {
        let chunk = map(CHUNK_LEN, CHUNK_LEN);
        let rest = chunk.as_ptr().expose_provenance() + len;
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = free.give(Range { start: rest, is_used: false }, CHUNK_LEN - len);
        assert_eq!(whole, None, "a part of it is taken");
        return chunk;
    };
    let start = std::ptr::with_exposed_provenance_mut::<u8>(start);
    if is_used {
        // SAFETY: a part of a chunk, which was free until it was taken here.
        unsafe { start.write_bytes(0, len) };
    }
    NonNull::new(start).expect("no chunk is at address 0")
}

fn give_shared(start: NonNull<u8>, len: usize) {
    let start = start.as_ptr().expose_provenance();
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let whole = free.give(Range { start, is_used: true }, len);
    drop(free);
    if let Some(chunk) = whole {
        let chunk = std::ptr::with_exposed_provenance_mut(chunk);
        unmap(NonNull::new(chunk).expect("no chunk is at address 0"), CHUNK_LEN);
    }
}

/// Maps zeroed memory at a multiple of `align`, which is one of huge pages.
fn map(len: usize, align: usize) -> NonNull<u8> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let mapped_len = len + align;
    let no_memory = || handle_alloc_error(Layout::from_size_align(len, align).expect("as asked"));
    // SAFETY: a fresh mapping at an address the kernel chooses; nothing else refers to it.
    let mapped =
        unsafe { mmap_anonymous(std::ptr::null_mut(), mapped_len, protection, MapFlags::PRIVATE) };
    let Some(mapped) = mapped.ok().and_then(|mapped| NonNull::new(mapped.cast::<u8>())) else {
        no_memory()
    };
    let before = mapped.as_ptr().addr().next_multiple_of(align) - mapped.as_ptr().addr();
    // SAFETY: `before` is less than `align`, by which the mapping is longer.
    let start = unsafe { mapped.add(before) };
    if before > 0 {
        unmap(mapped, before);
    }
    // SAFETY: as above: `len` bytes follow, and at most `align` more.
    let end = unsafe { start.add(len) };
    unmap(end, align - before);
    // What the system does not have it need not give.
    // SAFETY: the pages were mapped above, and the advice changes nothing that they hold.
    let _ = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxHugepage) };
    start
}

/// Unmaps memory to which nothing refers any more.
fn unmap(start: NonNull<u8>, len: usize) {
    for at in (0..len).step_by(PIECE_LEN) {
        let piece = start.as_ptr().wrapping_add(at).cast();
        // SAFETY: part of a mapping made here, and nothing refers to it.
        if let Err(error) = unsafe { munmap(piece, PIECE_LEN.min(len - at)) } {
            tracing::warn!(%error, len, "cannot unmap memory of rows");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_begin_as_zeros_wherever_they_come_from_and_whoever_had_them_before() {
        let mut held: Vec<Zeroed<u64>> = Vec::new();
        let mut random = 5_u64;
        for at in 0..600_usize {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let counts = [0, 1, 1000, 4096, 5000, 40_000, 262_144, 1 << 20, (1 << 20) + 1];
            let count = counts[usize::try_from(random >> 40).unwrap() % counts.len()];
            let mut values = Zeroed::<u64>::new(count);
            assert_eq!((values.len(), values.as_ptr().addr() % ALIGN), (count, 0));
            assert!(values.iter().all(|value| *value == 0), "{count} values");
            values.fill(at as u64 + 1);
            held.push(values);
            if held.len() > 20 {
                let gone = usize::try_from(random >> 33).unwrap() % held.len();
                let gone = held.swap_remove(gone);
                assert!(gone.windows(2).all(|pair| pair[0] == pair[1]), "nobody else wrote there");
            }
        }
        assert!(held.iter().all(|values| values.iter().all(|value| *value == values[0])));
    }

    #[test]
    fn what_fills_a_huge_page_lies_in_one_whatever_its_parts() {
        let parts: Vec<Zeroed<u64>> = (0..32).map(|_| Zeroed::new(HUGE_PAGE_LEN / 64)).collect();
        let mut starts: Vec<usize> = parts.iter().map(|part| part.as_ptr().addr()).collect();
        starts.sort_unstable();
        // Four huge pages' worth: a chunk that was made for them has them beside each other.
        let apart = starts.windows(2).filter(|pair| pair[1] - pair[0] != HUGE_PAGE_LEN / 8).count();
        assert!(apart < 16, "{apart} of {} lie apart", parts.len());
        let large = Zeroed::<u8>::new(SHARED_LEN_MAX + 1);
        assert!(large.as_ptr().addr().is_multiple_of(HUGE_PAGE_LEN));
    }
}
