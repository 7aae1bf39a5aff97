//! Parameter memory: rows in versioned blocks that peers read one-sided and nobody but the owning
//! shard writes.
//!
//! ```text
//! line 0            | block 0 rows ...        | line 1            | block 1 rows ... | line n
//! 64 bytes          | block_rows * row_len,   | 64 bytes          |
//!                   | padded to 64            |                   |
//!  0.. 8 tail of -1                             0.. 8 tail of 0
//! 56..64 head of 0                             56..64 head of 1
//! ```
//!
//! Head and tail of a block hold the same version: odd while its shard writes the block, even
//! otherwise, bit 63 set when the memory is fenced ([`windlass_transport::block_version`]). The writer
//! sets tail then head odd, writes rows, then sets head and tail to the next even version. A read in ascending order of
//! `head .. tail` is whole when both are equal and even; so is one that sees the same even head
//! before and after.
#![allow(unsafe_code)]

use std::sync::atomic::AtomicU64;

pub use windlass_transport::block_version::FENCED;
use windlass_transport::{Pages, block_version};
use windlass_wire::RowRange;

use crate::limits::{BLOCK_DATA_LEN, BLOCK_LINE_LEN, LARGE_BLOCK_DATA_LEN, LARGE_PARTITION_LEN};

/// Offset of a block's head version from its line.
pub const HEAD_VERSION_AT: u64 = 56;

/// Offset of a block's tail version from the next line.
pub const TAIL_VERSION_AT: u64 = 0;

/// How rows of one length lie in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockGeometry {
    /// Bytes of one row.
    pub row_len: u64,
    /// Rows of one block.
    pub block_rows: u32,
    /// Bytes from line to line.
    pub block_stride: u32,
}

impl BlockGeometry {
    /// For `row_count` rows of `row_len` bytes, at most 4 MiB.
    #[must_use]
    pub fn new(row_len: u64, row_count: u64) -> Self {
        assert!(row_len > 0, "rows have at least one byte");
        let large = row_len.saturating_mul(row_count) >= LARGE_PARTITION_LEN;
        let data_len = if large { LARGE_BLOCK_DATA_LEN } else { BLOCK_DATA_LEN };
        // A pull reads whole blocks: one of few rows is no longer than they are.
        let block_rows = (data_len / row_len).min(row_count).max(1);
        let stride = BLOCK_LINE_LEN + (block_rows * row_len).next_multiple_of(BLOCK_LINE_LEN);
        let fits = |value: u64| u32::try_from(value).unwrap_or_else(|_| unreachable!("row bound"));
        Self { row_len, block_rows: fits(block_rows), block_stride: fits(stride) }
    }

    /// Number of blocks that hold `row_count` rows.
    #[must_use]
    pub fn block_count(&self, row_count: u64) -> u64 {
        row_count.div_ceil(u64::from(self.block_rows))
    }

    /// Bytes that `row_count` rows take, version lines included.
    #[must_use]
    pub fn len(&self, row_count: u64) -> u64 {
        self.block_count(row_count) * u64::from(self.block_stride) + BLOCK_LINE_LEN
    }
}

/// The blocks of one partition. One shard writes them; anybody may read the pages.
#[derive(Debug)]
pub struct Blocks {
    pages: Pages,
    offset: u64,
    row_count: u64,
    geometry: BlockGeometry,
    /// [`FENCED`] where every block is to carry that mark, else nothing.
    mark: u64,
    /// Blocks before this one carry it, or carry it no more.
    marked: u64,
}

impl Blocks {
    /// Blocks for `row_count` rows at `offset` of `pages`, which have to be zero there.
    #[must_use]
    pub fn new(pages: Pages, offset: u64, row_count: u64, geometry: BlockGeometry) -> Self {
        assert!(offset.is_multiple_of(BLOCK_LINE_LEN), "blocks begin at a line");
        assert!(pages.contains(offset, geometry.len(row_count)), "blocks leave their pages");
        let marked = geometry.block_count(row_count);
        Self { pages, offset, row_count, geometry, mark: 0, marked }
    }

    /// Offset of the first line.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How the rows lie.
    #[must_use]
    pub fn geometry(&self) -> BlockGeometry {
        self.geometry
    }

    /// Bytes they take.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there are no blocks of nothing")]
    pub fn len(&self) -> u64 {
        self.geometry.len(self.row_count)
    }

    /// Number of rows.
    #[must_use]
    pub fn row_count(&self) -> u64 {
        self.row_count
    }

    /// Calls `write(values, first, count)` for the rows of each block that `rows` touches, with the
    /// block marked as being written. Panics when `rows` are not all there.
    #[inline]
    pub fn update(&mut self, rows: RowRange, mut write: impl FnMut(*mut u8, u64, u64)) {
        assert!(rows.end <= self.row_count, "rows {rows} of {}", self.row_count);
        let block_rows = u64::from(self.geometry.block_rows);
        let mut first = rows.start;
        while first < rows.end {
            let block = first / block_rows;
            let end = rows.end.min((block + 1) * block_rows);
            let line = self.offset + block * u64::from(self.geometry.block_stride);
            let values = line + BLOCK_LINE_LEN + (first % block_rows) * self.geometry.row_len;
            let (head, tail) = self.version_words(line);
            let version = block_version::begin(head, tail);
            write(self.values_pointer(values), first, end - first);
            // One that is written before its turn to be marked has to be marked from now on.
            block_version::end(head, tail, version | self.mark);
            first = end;
        }
    }

    /// Calls `read(values, first, count)` for the rows of each block that `rows` touches. Only for
    /// the owning shard: nothing is being written meanwhile.
    #[inline]
    pub fn read(&self, rows: RowRange, mut read: impl FnMut(*const u8, u64, u64)) {
        assert!(rows.end <= self.row_count, "rows {rows} of {}", self.row_count);
        let block_rows = u64::from(self.geometry.block_rows);
        let mut first = rows.start;
        while first < rows.end {
            let block = first / block_rows;
            let end = rows.end.min((block + 1) * block_rows);
            let line = self.offset + block * u64::from(self.geometry.block_stride);
            let values = line + BLOCK_LINE_LEN + (first % block_rows) * self.geometry.row_len;
            read(self.values_pointer(values), first, end - first);
            first = end;
        }
    }

    /// Version of a block.
    #[must_use]
    pub fn version(&self, block: u64) -> u64 {
        let line = self.offset + block * u64::from(self.geometry.block_stride);
        self.pages.load_u64(line + HEAD_VERSION_AT)
    }

    /// Has every block marked as no longer current, so that one-sided readers see it, or as current again:
    /// block by block, by [`Blocks::mark_some`]. One that is written in the meantime is marked at once.
    pub fn fence(&mut self, fenced: bool) {
        self.mark = if fenced { FENCED } else { 0 };
        self.marked = 0;
    }

    /// Whether every block carries the mark it is to carry.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.marked == self.geometry.block_count(self.row_count)
    }

    /// Whether its rows are to be read by nobody.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.mark == FENCED
    }

    /// Marks at most `blocks_max` blocks; returns how many.
    pub fn mark_some(&mut self, blocks_max: u64) -> u64 {
        let end = self.geometry.block_count(self.row_count).min(self.marked + blocks_max);
        for block in self.marked..end {
            let line = self.offset + block * u64::from(self.geometry.block_stride);
            let before = self.pages.load_u64(line + HEAD_VERSION_AT);
            if before & FENCED == self.mark {
                continue;
            }
            // Unmarked it gets another version than any before: a reader that saw rows before they were
            // fenced must not take those from now on for the same.
            let version = if self.mark == 0 { (before & !FENCED) + 2 } else { before | FENCED };
            self.pages.store_u64(line + HEAD_VERSION_AT, version);
            let tail = line + u64::from(self.geometry.block_stride) + TAIL_VERSION_AT;
            self.pages.store_u64(tail, version);
        }
        end - std::mem::replace(&mut self.marked, end)
    }

    /// Pointer to values at `at`. The blocks were checked to lie in the pages when they were made,
    /// so no check is repeated for each block.
    #[inline]
    fn values_pointer(&self, at: u64) -> *mut u8 {
        #[expect(clippy::cast_possible_truncation, reason = "inside a mapping")]
        let at = at as usize;
        self.pages.as_ptr().wrapping_add(at)
    }

    /// The versions at both ends of a block.
    #[inline]
    fn version_words(&self, line: u64) -> (&AtomicU64, &AtomicU64) {
        let tail = line + u64::from(self.geometry.block_stride) + TAIL_VERSION_AT;
        let word = |at: u64| {
            // SAFETY: `new` asserted that every line of the blocks, the last one included, lies in
            // the pages; lines are 64-byte aligned in page-aligned memory, so the word is aligned;
            // version words are only accessed as atomics, by this process and through devices.
            unsafe { AtomicU64::from_ptr(self.values_pointer(at).cast::<u64>()) }
        };
        (word(line + HEAD_VERSION_AT), word(tail))
    }
}

#[cfg(test)]
mod tests {
    use windlass_transport::memory::PagesOptions;

    use super::*;

    fn blocks(row_len: u64, row_count: u64) -> Blocks {
        let geometry = BlockGeometry::new(row_len, row_count);
        let len = usize::try_from(geometry.len(row_count)).unwrap();
        let pages = Pages::allocate(len + 64, PagesOptions::default()).unwrap();
        Blocks::new(pages, 64, row_count, geometry)
    }

    #[test]
    fn rows_do_not_touch_version_words_whatever_their_length() {
        for row_len in [1, 4, 8, 12, 100, 512, 960, 961, 5000] {
            let mut blocks = blocks(row_len, 1000);
            blocks.update(RowRange::new(0, 1000), |values, _, count| {
                let len = usize::try_from(count * row_len).unwrap();
                // SAFETY: the values of `count` rows, handed out for writing.
                unsafe { std::ptr::write_bytes(values, 0xff, len) };
            });
            blocks.update(RowRange::new(500, 501), |_, first, count| {
                assert_eq!((first, count), (500, 1));
            });
            let rows = u64::from(blocks.geometry.block_rows);
            for block in 0..blocks.geometry.block_count(1000) {
                let expected = if block == 500 / rows { 4 } else { 2 };
                assert_eq!(blocks.version(block), expected, "row length {row_len}");
            }
            blocks.read(RowRange::new(999, 1000), |values, _, _| {
                // SAFETY: the values of one row, handed out for reading.
                assert_eq!(unsafe { values.read() }, 0xff);
            });
        }
    }

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]
    fn rows_come_block_by_block_each_once() {
        for (row_len, from, to) in [(8, 37, 611), (100, 0, 1000), (961, 998, 1000)] {
            let mut blocks = blocks(row_len, 1000);
            let row = usize::try_from(row_len).unwrap();
            let byte = |row: u64| (row % 251) as u8;
            blocks.update(RowRange::new(0, 1000), |values, first, count| {
                for at in 0..count {
                    // SAFETY: one of the rows handed out for writing.
                    let values = unsafe { values.add(at as usize * row) };
                    // SAFETY: as above.
                    unsafe { std::ptr::write_bytes(values, byte(first + at), row) };
                }
            });
            let mut next = from;
            blocks.read(RowRange::new(from, to), |values, first, count| {
                assert_eq!(first, next, "row length {row_len}");
                next += count;
                // SAFETY: the rows handed out for reading, while nothing writes them.
                let values = unsafe { std::slice::from_raw_parts(values, count as usize * row) };
                for (at, values) in (first..).zip(values.chunks_exact(row)) {
                    assert!(values.iter().all(|value| *value == byte(at)), "row {at}");
                }
            });
            assert_eq!(next, to);
        }
    }

    /// The version at a block's end, as one-sided readers compare it.
    fn tail_version(blocks: &Blocks, block: u64) -> u64 {
        let stride = u64::from(blocks.geometry.block_stride);
        blocks.pages.load_u64(blocks.offset + (block + 1) * stride + TAIL_VERSION_AT)
    }

    #[test]
    fn fencing_marks_every_block_a_few_at_a_time() {
        let mut blocks = blocks(64, 100);
        let count = blocks.geometry.block_count(100);
        assert!(count > 5 && blocks.is_marked());
        blocks.fence(true);
        assert_eq!(blocks.mark_some(2), 2);
        let marked = |blocks: &Blocks| -> Vec<u64> {
            assert!((0..count).all(|block| tail_version(blocks, block) == blocks.version(block)));
            (0..count).filter(|block| blocks.version(*block) & FENCED != 0).collect()
        };
        assert_eq!(marked(&blocks), [0, 1], "no step touches more than it may");
        // One that is written is marked at once: its rows must not look current.
        let last = RowRange::new(99, 100);
        blocks.update(last, |_, _, _| {});
        assert_eq!(marked(&blocks), [0, 1, count - 1]);
        blocks.update(RowRange::new(0, 1), |_, _, _| {});
        assert_eq!(marked(&blocks), [0, 1, count - 1], "a mark stays");
        assert!(!blocks.is_marked());
        assert_eq!(blocks.mark_some(u64::MAX - 2), count - 2);
        assert!(blocks.is_marked());
        assert_eq!(marked(&blocks), (0..count).collect::<Vec<_>>());
        blocks.fence(false);
        assert_eq!(blocks.mark_some(3), 3);
        assert_eq!(marked(&blocks), (3..count).collect::<Vec<_>>());
        blocks.update(last, |_, _, _| {});
        assert_eq!(marked(&blocks), (3..count).collect::<Vec<_>>(), "not before its turn");
        blocks.mark_some(count);
        for block in 0..count {
            assert!(blocks.version(block) >= 2 && blocks.version(block) & (FENCED | 1) == 0);
        }
    }

    /// The layout that one-sided readers go by.
    #[test]
    fn rows_lie_in_blocks_of_about_a_page_quarter_and_longer_ones_in_large_partitions() {
        // Length and number of rows; rows of a block, its stride, blocks, and bytes of all.
        for (row_len, row_count, block_rows, stride, count, len) in [
            (4, 1, 1, 128, 1, 192),
            (4, 1000, 240, 1024, 5, 5 * 1024 + 64),
            (64, 100, 15, 1024, 7, 7 * 1024 + 64),
            (100, 9, 9, 64 + 960, 1, 1088),
            (960, 2, 1, 1024, 2, 2 * 1024 + 64),
            (961, 2, 1, 64 + 1024, 2, 2 * 1088 + 64),
            (4 << 20, 3, 1, (4 << 20) + 64, 3, 3 * ((4 << 20) + 64) + 64),
        ] {
            let geometry = BlockGeometry::new(row_len, row_count);
            assert_eq!(geometry, BlockGeometry { row_len, block_rows, block_stride: stride });
            assert_eq!(geometry.block_count(row_count), count, "{row_count} rows of {row_len}");
            assert_eq!(geometry.len(row_count), len, "{row_count} rows of {row_len}");
        }
        let least = LARGE_PARTITION_LEN / 64;
        let rows = |count| u64::from(BlockGeometry::new(64, count).block_rows);
        assert_eq!(rows(least - 1), BLOCK_DATA_LEN / 64);
        assert_eq!(rows(least), LARGE_BLOCK_DATA_LEN / 64);
    }

    #[test]
    fn blocks_say_where_they_lie_and_whether_they_are_current() {
        let mut blocks = blocks(64, 100);
        assert_eq!((blocks.offset(), blocks.row_count(), blocks.len()), (64, 100, 7 * 1024 + 64));
        assert!(!blocks.is_fenced());
        blocks.fence(true);
        assert!(blocks.is_fenced() && !blocks.is_marked());
        assert_eq!(blocks.mark_some(3), 3);
        let versions: Vec<u64> = (0..7).map(|block| blocks.version(block)).collect();
        blocks.fence(true);
        assert_eq!(blocks.mark_some(7), 7);
        assert!((0..3).all(|at| blocks.version(at as u64) == versions[at]), "they had the mark");
        assert_eq!(blocks.mark_some(7), 0, "all have it");
        blocks.fence(false);
        assert!(!blocks.is_fenced());
        assert_eq!(blocks.mark_some(7), 7);
        assert!((0..7).all(|block| blocks.version(block) == 2), "other than before the fence");
    }

    #[test]
    #[should_panic(expected = "rows 99..101 of 100")]
    fn no_row_past_the_last_is_written() {
        blocks(64, 100).update(RowRange::new(99, 101), |_, _, _| {});
    }

    #[test]
    #[should_panic(expected = "rows 99..101 of 100")]
    fn no_row_past_the_last_is_read() {
        blocks(64, 100).read(RowRange::new(99, 101), |_, _, _| {});
    }

    #[test]
    #[should_panic(expected = "blocks leave their pages")]
    fn blocks_lie_in_their_pages() {
        let pages = Pages::allocate(4096, PagesOptions::default()).unwrap();
        let _ = Blocks::new(pages, 2048, 30, BlockGeometry::new(64, 30));
    }

    #[test]
    #[should_panic(expected = "blocks begin at a line")]
    fn blocks_begin_where_words_are_whole() {
        let pages = Pages::allocate(4096, PagesOptions::default()).unwrap();
        let _ = Blocks::new(pages, 8, 1, BlockGeometry::new(64, 1));
    }
}
