//! Pulls of rows in this host's memory: copied block by block, each validated by its version.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use windlass_transport::{
    block_version::{Look, is_unchanged, look},
    fabric::PeerBytes,
    memory::fetch,
};
use windlass_wire::RowRange;

use super::{
    Links, TableIndex, Tables,
    message::{Replica, index},
    places::Place,
};

pub(super) use windlass_transport::block_version::FENCED;

/// Offset of a block's version from its line, and of its rows.
pub(super) const HEAD_VERSION_AT: u64 = 56;
pub(super) const ROWS_AT: u64 = 64;

/// How rows are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CopyMode {
    /// Rows may mix values from before and after an update.
    pub(super) relaxed: bool,
    /// The whole is larger than the caches.
    pub(super) streams: bool,
}

/// Times a block that keeps changing is read before its server is asked for the rows: it may have lost its
/// core in the middle of a push.
const ATTEMPTS: u32 = 1 << 14;

/// Rows that are fetched ahead of the one that is copied: enough to keep a core's line fill buffers busy.
const AHEAD: usize = 16;

/// What became of copying rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    Whole,
    /// The server no longer has the rows.
    Fenced,
    /// It never rested.
    Contended,
}

impl Tables {
    /// Gives mappings of regions back that servers have ended, and forgets what was in view there.
    pub(super) fn release_ended_views(&mut self, links: &mut Links) {
        for at in 0..links.all.len() {
            let (transport, queue_pair) = (links.all[at].transport, links.all[at].queue_pair);
            while let Some(key) = links.transports[transport].ended_view(queue_pair) {
                for table in self.iter_mut() {
                    for place in table.places.iter_mut() {
                        place.take_if(|place| place.link == at && place.at.region.key == key.0);
                    }
                }
                self.forget_lines_in(at, key);
                links.transports[transport].release_views(queue_pair, key);
            }
        }
    }

    /// Whether all rows of a range lie in memory of this host.
    pub(super) fn is_viewable(
        &self,
        links: &Links,
        table: TableIndex,
        replica: Replica,
        rows: RowRange,
    ) -> bool {
        let state = &self[table];
        let mut row = rows.start;
        while row < rows.end {
            let partition = state.layout.partition_of(row);
            let place = state.places.find(replica, partition.0 as usize);
            if !place
                .is_some_and(|place| place.view.is_some() && !links.all[place.link].state.failed)
            {
                return false;
            }
            row = state.layout.rows_of(partition).end;
        }
        true
    }
}

impl Place {
    /// Copies rows of one partition, all of which the place has, out of its view.
    pub(super) fn copy_view(
        &self,
        view: PeerBytes,
        rows: RowRange,
        row_len: u64,
        copy: CopyMode,
        retried: &mut u64,
        into: &mut [u8],
    ) -> Copied {
        let CopyMode { relaxed, streams } = copy;
        let block_rows = u64::from(self.at.block_rows);
        let (mut row, end) = (rows.start - self.at.first_row, rows.end - self.at.first_row);
        let mut to = 0;
        while row < end {
            let block = row / block_rows;
            let block_end = end.min((block + 1) * block_rows);
            let line = block * u64::from(self.at.block_stride);
            let from = line + ROWS_AT + (row % block_rows) * row_len;
            let len = (block_end - row) * row_len;
            let out = &mut into[to..to + index(len)];
            let head = version(view, line + HEAD_VERSION_AT);
            let copied = at_one_version(head, relaxed, retried, || {
                copy_bytes(view, from, out, streams);
            });
            if copied != Copied::Whole {
                return copied;
            }
            to += index(len);
            row = block_end;
        }
        if streams {
            end_streaming();
        }
        Copied::Whole
    }

    /// Copies rows of one partition by ascending keys, one behind the other, out of the place's view.
    /// Whether all are there: none may be fenced, or be pushed to all the time.
    pub(super) fn copy_view_keys(
        &self,
        view: PeerBytes,
        keys: &[u64],
        retried: &mut u64,
        into: &mut [u8],
    ) -> Copied {
        let rows = KeyedRows::new(self, view, into.len() / keys.len());
        rows.copy(keys, into, retried)
    }
}

/// Copies what lies behind one version: as it was at one, or `relaxed`, as long as it is current.
#[inline]
fn at_one_version(
    head: &AtomicU64,
    relaxed: bool,
    retried: &mut u64,
    mut copy: impl FnMut(),
) -> Copied {
    if relaxed {
        copy();
        let is_fenced = head.load(Ordering::Acquire) & FENCED != 0;
        return if is_fenced { Copied::Fenced } else { Copied::Whole };
    }
    for _ in 0..ATTEMPTS {
        match look(head) {
            Look::Rests(before) => {
                copy();
                if is_unchanged(head, before) {
                    return Copied::Whole;
                }
            }
            Look::Moves => {}
            Look::Fenced => return Copied::Fenced,
        }
        *retried += 1;
        std::hint::spin_loop();
    }
    Copied::Contended
}

/// Rows of one partition in a view, found by key.
struct KeyedRows {
    view: PeerBytes,
    first_row: u64,
    block_rows: u64,
    stride: u64,
    row_len: usize,
}

/// A block: its rows, counted from the partition's first, and where its line lies.
#[derive(Clone, Copy, Default)]
struct Block {
    rows: RowRange,
    line: u64,
}

/// Where a row lies: its block's line, and its bytes.
#[derive(Clone, Copy, Default)]
struct Spot {
    line: u64,
    from: u64,
}

impl KeyedRows {
    fn new(place: &Place, view: PeerBytes, row_len: usize) -> Self {
        let at = &place.at;
        let (block_rows, stride) = (u64::from(at.block_rows), u64::from(at.block_stride));
        Self { view, first_row: at.first_row, block_rows, stride, row_len }
    }

    /// Copies the rows. While one is copied the next ones are on their way into the caches; neighbours
    /// in one block share the look at its version.
    fn copy(&self, keys: &[u64], into: &mut [u8], retried: &mut u64) -> Copied {
        let (mut spots, mut block) = ([Spot::default(); AHEAD], Block::default());
        let (mut found, mut done) = (0, 0);
        while done < keys.len() {
            while found < keys.len().min(done + AHEAD) {
                let spot = self.find(keys[found], &mut block);
                self.fetch(spot);
                spots[found % AHEAD] = spot;
                found += 1;
            }
            let line = spots[done % AHEAD].line;
            let mut end = done + 1;
            while end < found && spots[end % AHEAD].line == line {
                end += 1;
            }
            let head = version(self.view, line + HEAD_VERSION_AT);
            let copied = at_one_version(head, false, retried, || {
                for at in done..end {
                    let out = &mut into[at * self.row_len..][..self.row_len];
                    copy_row(self.view, spots[at % AHEAD].from, out);
                }
            });
            if copied != Copied::Whole {
                return copied;
            }
            done = end;
        }
        Copied::Whole
    }

    /// Where a row is. `block` is that of the row found last.
    #[inline]
    fn find(&self, key: u64, block: &mut Block) -> Spot {
        let row = key - self.first_row;
        if !block.rows.contains(row) {
            let number = divide(row, self.block_rows);
            let first = number * self.block_rows;
            let rows = RowRange::new(first, first + self.block_rows);
            *block = Block { rows, line: number * self.stride };
        }
        let from = block.line + ROWS_AT + (row - block.rows.start) * self.row_len as u64;
        Spot { line: block.line, from }
    }

    /// Has the processor fetch a row and its block's version.
    #[inline]
    fn fetch(&self, spot: Spot) {
        let row = self.view.pointer.wrapping_add(index(spot.from));
        fetch(self.view.pointer.wrapping_add(index(spot.line + HEAD_VERSION_AT)));
        fetch(row);
        fetch(row.wrapping_add(self.row_len - 1));
    }
}

/// A quotient, faster where both numbers are small, as they nearly always are.
#[inline]
fn divide(number: u64, by: u64) -> u64 {
    match (u32::try_from(number), u32::try_from(by)) {
        (Ok(number), Ok(by)) => u64::from(number / by),
        _ => number / by,
    }
}

/// The word at `at` of a view, as it is now.
pub(super) fn load_word(view: PeerBytes, at: u64) -> u64 {
    version(view, at).load(Ordering::Acquire)
}

/// The version word at `at` of a view.
fn version(view: PeerBytes, at: u64) -> &'static AtomicU64 {
    assert!(at + 8 <= view.len as u64, "a version outside of its view");
    let pointer = view.pointer.wrapping_add(index(at)).cast_mut().cast::<u64>();
    assert!(pointer.is_aligned(), "a misaligned version");
    // SAFETY: inside the view and aligned, as asserted; the view is mapped as long as its queue
    // pair is connected, which is when its place is known (`forget_places`), and the reference is
    // not kept past this module's calls. Versions are only accessed as atomics, and only loaded
    // here, so that a read-only mapping is enough.
    unsafe { AtomicU64::from_ptr(pointer) }
}

/// Copies bytes of a view that its owner may be writing. `streams` goes around the caches, which is
/// faster for what is larger than they are.
#[inline]
fn copy_bytes(view: PeerBytes, from: u64, out: &mut [u8], streams: bool) {
    assert!(from + out.len() as u64 <= view.len as u64, "rows outside of their view");
    let source = view.pointer.wrapping_add(index(from));
    if streams {
        // SAFETY: as below.
        unsafe { copy_streaming(source, out) };
        return;
    }
    // SAFETY: inside the view, as asserted, which is mapped as long as its place is known; `out` is
    // memory of this process alone, so they do not overlap. The owner may write meanwhile: the
    // versions tell.
    unsafe { std::ptr::copy_nonoverlapping(source, out.as_mut_ptr(), out.len()) };
}

/// Copies a row as [`copy_bytes`] does; the common lengths without a call.
#[inline]
fn copy_row(view: PeerBytes, from: u64, out: &mut [u8]) {
    match out.len() {
        4 => copy_words::<4>(view, from, out),
        8 => copy_words::<8>(view, from, out),
        16 => copy_words::<16>(view, from, out),
        32 => copy_words::<32>(view, from, out),
        64 => copy_words::<64>(view, from, out),
        128 => copy_words::<128>(view, from, out),
        _ => copy_bytes(view, from, out, false),
    }
}

#[inline]
fn copy_words<const LEN: usize>(view: PeerBytes, from: u64, out: &mut [u8]) {
    if let Some(out) = out.first_chunk_mut::<LEN>() {
        copy_bytes(view, from, out, false);
    }
}

/// Copies with stores that leave the caches alone.
///
/// # Safety
/// `source` is readable for as many bytes as `out` has, and does not overlap it.
#[cfg(target_arch = "x86_64")]
unsafe fn copy_streaming(source: *const u8, out: &mut [u8]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};

    const VECTOR: usize = size_of::<__m128i>();
    let head = out.as_ptr().align_offset(VECTOR).min(out.len());
    let body = (out.len() - head) / (4 * VECTOR) * (4 * VECTOR);
    let tail = head + body;
    let to = out.as_mut_ptr();
    // SAFETY: the first `head` bytes of both.
    unsafe { std::ptr::copy_nonoverlapping(source, to, head) };
    for at in (head..tail).step_by(4 * VECTOR) {
        for vector in 0..4 {
            let at = at + vector * VECTOR;
            // SAFETY: `at + VECTOR <= tail <= out.len()`, which the source has as well; no
            // alignment is needed to load.
            let value = unsafe { _mm_loadu_si128(source.wrapping_add(at).cast()) };
            // SAFETY: as above; `to + at` is aligned, because `to + head` is and steps are vectors.
            unsafe { _mm_stream_si128(to.wrapping_add(at).cast(), value) };
        }
    }
    // SAFETY: the bytes from `tail` on of both.
    unsafe {
        std::ptr::copy_nonoverlapping(
            source.wrapping_add(tail),
            to.wrapping_add(tail),
            out.len() - tail,
        );
    }
}

/// Elsewhere the platform's copy has to do.
///
/// # Safety
/// `source` is readable for as many bytes as `out` has, and does not overlap it.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn copy_streaming(source: *const u8, out: &mut [u8]) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(source, out.as_mut_ptr(), out.len()) };
}

/// Makes streamed stores visible before whatever comes after.
fn end_streaming() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a fence has no preconditions.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}
