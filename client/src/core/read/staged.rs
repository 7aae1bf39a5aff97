//! Blocks in the staging area as reads brought them: whether they are whole, and their rows.

use std::sync::atomic::Ordering;

use windlass_transport::Pages;

use super::super::{
    push::index,
    view::{FENCED, HEAD_VERSION_AT},
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
