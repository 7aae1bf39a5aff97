//! Blocks that reads have brought into the staging area: validates them and copies their rows out.

use std::sync::atomic::Ordering;

use windlass_transport::Pages;
use windlass_wire::RowRange;

use super::Read;
use crate::core::{
    Memory,
    message::index,
    view::{FENCED, HEAD_VERSION_AT, ROWS_AT},
};

/// Blocks as a read brought them: from the head version of the first on, `len` bytes at `at` of the
/// staging area.
#[derive(Clone, Copy, Debug)]
pub(super) struct Staged {
    pub(super) at: u64,
    pub(super) len: u64,
    pub(super) stride: u64,
}

impl Staged {
    /// Whether a block has equal, even versions at both ends. The last one may have come by half: the
    /// low one, which is the same again only after two thousand million pushes.
    #[inline]
    pub(super) fn is_whole(&self, pages: &Pages, block: u64) -> bool {
        let head = pages.load_u64(self.at + block * self.stride);
        // At the start of the next line.
        let tail_at = (block + 1) * self.stride - HEAD_VERSION_AT;
        let is_same = if tail_at + 8 <= self.len {
            pages.load_u64(self.at + tail_at) == head
        } else {
            low_half_at(pages, self.at + tail_at) == low_half(head)
        };
        is_same && head & (FENCED | 1) == 0
    }

    #[inline]
    pub(super) fn is_fenced(&self, pages: &Pages, block: u64) -> bool {
        pages.load_u64(self.at + block * self.stride) & FENCED != 0
    }
}

/// The low half of the version at `at`.
fn low_half_at(pages: &Pages, at: u64) -> u32 {
    u32::from_le(pages.atomic_u32(at).load(Ordering::Acquire))
}

/// The half of a version that counts.
#[expect(clippy::cast_possible_truncation, reason = "the other half is dropped")]
fn low_half(version: u64) -> u32 {
    version as u32
}

/// Rows of blocks in the staging area.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    /// Where those of the first block are, or would be if they were all there.
    pub(super) at: u64,
    pub(super) stride: u64,
    pub(super) block_rows: u64,
    pub(super) row_len: u64,
}

impl Rows {
    /// Copies rows from `first` on, counted from the first block's first.
    #[inline]
    pub(super) fn copy(self, pages: &Pages, first: u64, into: &mut [u8]) {
        let mut block_at = self.at.wrapping_add(first / self.block_rows * self.stride);
        let mut left_out = index(first % self.block_rows * self.row_len);
        let block_len = index(self.block_rows * self.row_len);
        let mut rest = into;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at_mut(rest.len().min(block_len - left_out));
            pages.read(block_at.wrapping_add(left_out as u64), piece);
            block_at = block_at.wrapping_add(self.stride);
            left_out = 0;
            rest = behind;
        }
    }
}

impl Memory {
    /// Whether every block of a read has equal, even versions at both ends.
    pub(super) fn is_whole(&self, read: &Read) -> bool {
        let (pages, staged) = (self.staging_pages(), read.staged());
        read.blocks().all(|block| staged.is_whole(pages, block))
    }

    /// The first and the last block of a read that are not whole.
    pub(super) fn changed(&self, read: &Read) -> Option<(u64, u64)> {
        let (pages, staged) = (self.staging_pages(), read.staged());
        let mut changed = read.blocks().filter(|block| !staged.is_whole(pages, *block));
        let first = changed.next()?;
        Some((first, changed.next_back().unwrap_or(first)))
    }

    pub(super) fn is_fenced(&self, read: &Read) -> bool {
        let (pages, staged) = (self.staging_pages(), read.staged());
        read.blocks().any(|block| staged.is_fenced(pages, block))
    }
}

/// Copies those of `rows` that a read has staged to where they belong in `into`. The last block of a
/// partition may have room for more rows than `part`, the partition's: other reads bring those.
pub(super) fn copy_read(
    read: &Read,
    pages: &Pages,
    part: RowRange,
    rows: RowRange,
    row_len: u64,
    into: &mut [u8],
) {
    let place = &read.span.place.at;
    let block_rows = u64::from(place.block_rows);
    let first = place.first_row + read.span.block * block_rows;
    let all = RowRange::new(first, first + read.span.block_count * block_rows);
    let wanted = part.intersection(rows).and_then(|of_part| of_part.intersection(all));
    let Some(wanted) = wanted else { return };
    let to = index((wanted.start - rows.start) * row_len);
    let len = index(wanted.count() * row_len);
    let blocks = Rows {
        at: (read.chunk.offset + ROWS_AT - HEAD_VERSION_AT).wrapping_sub(read.span.skipped),
        stride: u64::from(place.block_stride),
        block_rows,
        row_len,
    };
    blocks.copy(pages, wanted.start - first, &mut into[to..to + len]);
}

#[cfg(test)]
mod tests {
    use windlass_transport::memory::PagesOptions;

    use super::*;

    const STRIDE: u64 = 128;
    const WHOLE_LEN: u64 = 80;

    /// Whether a block of one line with these versions at its ends is whole, of which so many bytes came.
    fn is_whole(head: u64, tail: u64, len: u64) -> bool {
        let pages = Pages::allocate(4096, PagesOptions::default()).unwrap();
        // What an earlier read left there decides nothing.
        pages.store_u64(64 + WHOLE_LEN - 8, 0x5555_5555_5555_5555);
        pages.store_u64(64, head);
        let tail_len = usize::try_from(len - (WHOLE_LEN - 8)).unwrap();
        pages.write(64 + WHOLE_LEN - 8, &tail.to_le_bytes()[..tail_len]);
        let staged = Staged { at: 64, len, stride: STRIDE };
        assert_eq!(staged.is_fenced(&pages, 0), head & FENCED != 0);
        staged.is_whole(&pages, 0)
    }

    #[test]
    fn versions_decide_whether_they_came_whole_or_by_half() {
        for len in [WHOLE_LEN, WHOLE_LEN - 4] {
            for version in [0, 2, 0xFFFF_FFFE, 0x1_0000_0000, 0x1234_5678_9ABC_DEF0] {
                assert!(is_whole(version, version, len), "{version:#x}");
                assert!(!is_whole(version, version + 1, len), "being pushed to behind");
                assert!(!is_whole(version, version + 2, len), "pushed to meanwhile");
                assert!(!is_whole(version + 1, version + 2, len), "being pushed to");
                assert!(!is_whole(version | 1, version | 1, len), "the whole time");
                assert!(!is_whole(version | FENCED, version | FENCED, len), "not current");
            }
        }
        assert!(!is_whole(0, 1 << 32, WHOLE_LEN) && is_whole(0, 1 << 32, WHOLE_LEN - 4));
    }
}
