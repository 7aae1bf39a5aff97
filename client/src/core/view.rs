//! Pulls of rows that lie in memory of this host: copied block by block, each validated by its
//! version.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

pub(super) use windlass_transport::block_version::FENCED;
use windlass_transport::{
    block_version::{Look, is_unchanged, look},
    fabric::PeerBytes,
};
use windlass_wire::RowRange;

use super::{
    Core, TableIndex,
    places::Place,
    push::{Replica, index},
};
use crate::error::RequestError;

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

/// What became of copying a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copied {
    Whole,
    /// Its server has it no longer.
    Fenced,
    /// It never rested.
    Contended,
}

impl Core {
    /// Gives mappings of regions back that servers have ended, and forgets what was in view there.
    pub(super) fn release_ended_views(&mut self) {
        for at in 0..self.links.len() {
            let (transport, queue_pair) = (self.links[at].transport, self.links[at].queue_pair);
            while let Some(key) = self.transports[transport].ended_view(queue_pair) {
                for table in &mut self.tables {
                    for place in table.places.iter_mut() {
                        place.take_if(|place| place.link == at && place.at.region.key == key.0);
                    }
                }
                self.forget_lines_in(at, key);
                self.transports[transport].release_views(queue_pair, key);
            }
        }
    }

    /// Whether all rows of a range lie in memory of this host.
    pub(super) fn is_viewable(&self, table: TableIndex, replica: Replica, rows: RowRange) -> bool {
        let state = &self.tables[table.0];
        let mut row = rows.start;
        while row < rows.end {
            let partition = state.layout.partition_of(row);
            let place = state.places.find(replica, partition.0 as usize);
            if !place.is_some_and(|place| place.view.is_some() && !self.links[place.link].failed) {
                return false;
            }
            row = state.layout.rows_of(partition).end;
        }
        true
    }

    /// Copies rows of one partition, all of which the place has, out of its view. False when some are pushed
    /// to all the time.
    pub(super) fn copy_view(
        &mut self,
        place: &Place,
        view: PeerBytes,
        rows: RowRange,
        row_len: u64,
        copy: CopyMode,
        into: &mut [u8],
    ) -> Result<bool, RequestError> {
        let CopyMode { relaxed, streams } = copy;
        let block_rows = u64::from(place.at.block_rows);
        let (mut row, end) = (rows.start - place.at.first_row, rows.end - place.at.first_row);
        let mut to = 0;
        while row < end {
            let block = row / block_rows;
            let block_end = end.min((block + 1) * block_rows);
            let line = block * u64::from(place.at.block_stride);
            let from = line + ROWS_AT + (row % block_rows) * row_len;
            let len = (block_end - row) * row_len;
            let out = &mut into[to..to + index(len)];
            let copied = if !relaxed {
                self.copy_block(view, line, from, out, streams)
            } else {
                copy_bytes(view, from, out, streams);
                // Mixed rows are welcome, rows that are no longer current are not.
                match version(view, line + HEAD_VERSION_AT).load(Ordering::Acquire) & FENCED {
                    0 => Copied::Whole,
                    _ => Copied::Fenced,
                }
            };
            match copied {
                Copied::Whole => {}
                Copied::Contended => return Ok(false),
                Copied::Fenced => {
                    return Err(RequestError::NotCurrent { server: self.links[place.link].server });
                }
            }
            to += index(len);
            row = block_end;
        }
        if streams {
            end_streaming();
        }
        Ok(true)
    }

    /// Copies bytes of one block as they were at one version.
    fn copy_block(
        &mut self,
        view: PeerBytes,
        line: u64,
        from: u64,
        out: &mut [u8],
        streams: bool,
    ) -> Copied {
        for _ in 0..ATTEMPTS {
            let head = version(view, line + HEAD_VERSION_AT);
            match look(head) {
                Look::Rests(before) => {
                    copy_bytes(view, from, out, streams);
                    if is_unchanged(head, before) {
                        return Copied::Whole;
                    }
                }
                Look::Moves => {}
                Look::Fenced => return Copied::Fenced,
            }
            self.counters.reads_retried += 1;
            std::hint::spin_loop();
        }
        Copied::Contended
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
