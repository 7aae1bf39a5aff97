//! Which parts of chunks are free. Neighbours that are free become one.

use std::collections::{BTreeMap, BTreeSet};

/// Free ranges of addresses in chunks, which lie at multiples of their length.
#[derive(Debug)]
pub(super) struct FreeRanges {
    chunk_len: usize,
    /// Length, and whether any of it was used before, by start.
    by_start: BTreeMap<usize, (usize, bool)>,
    /// Length and start.
    by_len: BTreeSet<(usize, usize)>,
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: usize,
    /// Whether somebody may have written there.
    pub(super) is_used: bool,
}

impl FreeRanges {
    pub(super) const fn new(chunk_len: usize) -> Self {
        Self { chunk_len, by_start: BTreeMap::new(), by_len: BTreeSet::new() }
    }

    /// Takes `len` bytes out of the shortest range that has as many.
    pub(super) fn take(&mut self, len: usize) -> Option<Range> {
        let (found, start) = *self.by_len.range((len, 0)..).next()?;
        let (_, is_used) = self.remove(start)?;
        if found > len {
            self.insert(start + len, found - len, is_used);
        }
        Some(Range { start, is_used })
    }

    /// Takes a range of `len` bytes back. The start of its chunk, if all of that is free now: it is none of
    /// these ranges any more.
    pub(super) fn give(&mut self, range: Range, mut len: usize) -> Option<usize> {
        let Range { mut start, mut is_used } = range;
        let chunk = start / self.chunk_len * self.chunk_len;
        let end = chunk + self.chunk_len;
        if start + len < end
            && let Some((behind, was_used)) = self.remove(start + len)
        {
            len += behind;
            is_used |= was_used;
        }
        let before = self.by_start.range(chunk..start).next_back();
        if let Some((&before, &(before_len, was_used))) = before
            && before + before_len == start
        {
            self.remove(before);
            (start, len, is_used) = (before, len + before_len, is_used | was_used);
        }
        if len == self.chunk_len {
            return Some(chunk);
        }
        self.insert(start, len, is_used);
        None
    }

    fn insert(&mut self, start: usize, len: usize, is_used: bool) {
        self.by_start.insert(start, (len, is_used));
        self.by_len.insert((len, start));
    }

    fn remove(&mut self, start: usize) -> Option<(usize, bool)> {
        let (len, is_used) = self.by_start.remove(&start)?;
        self.by_len.remove(&(len, start));
        Some((len, is_used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: usize = 64;

    #[test]
    fn ranges_never_overlap_and_chunks_come_back_whole() {
        let mut free = FreeRanges::new(CHUNK);
        let (mut chunks, mut taken) = (0, Vec::new());
        // Who uses each byte of each chunk, and whether somebody did.
        let mut bytes: BTreeMap<usize, Vec<(bool, bool)>> = BTreeMap::new();
        let mut random = 11_u64;
        let mut whole_count = 0;
        for step in 0..20_000 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let draw = usize::try_from(random >> 33).unwrap();
            // Ever more of them, then ever fewer, again and again.
            let takes = draw % 8 < if step / 500 % 2 == 0 { 6 } else { 2 };
            if takes || taken.is_empty() {
                let len = 1 + draw / 8 % 20;
                let range = free.take(len).unwrap_or_else(|| {
                    chunks += 1;
                    let start = chunks * CHUNK;
                    bytes.insert(start, vec![(false, false); CHUNK]);
                    assert_eq!(
                        free.give(Range { start: start + len, is_used: false }, CHUNK - len),
                        None
                    );
                    Range { start, is_used: false }
                });
                let chunk = bytes.get_mut(&(range.start / CHUNK * CHUNK)).unwrap();
                for byte in &mut chunk[range.start % CHUNK..][..len] {
                    assert!(!byte.0, "taken twice");
                    assert!(range.is_used || !byte.1, "it is not zero any more");
                    *byte = (true, true);
                }
                taken.push((range.start, len));
            } else {
                let (start, len) = taken.swap_remove(draw % taken.len());
                let at = start / CHUNK * CHUNK;
                let chunk = bytes.get_mut(&at).unwrap();
                chunk[start % CHUNK..][..len].iter_mut().for_each(|byte| byte.0 = false);
                let is_whole = chunk.iter().all(|byte| !byte.0);
                let whole = free.give(Range { start, is_used: true }, len);
                assert_eq!(whole, is_whole.then_some(at));
                if is_whole {
                    bytes.remove(&at);
                    whole_count += 1;
                }
            }
            let left: usize = free.by_start.values().map(|(len, _)| len).sum();
            let used: usize = taken.iter().map(|(_, len)| len).sum();
            assert_eq!(left + used, bytes.len() * CHUNK);
            assert_eq!(free.by_len.len(), free.by_start.len());
        }
        assert!(whole_count > 100, "{whole_count} chunks came back");
    }

    #[test]
    fn the_shortest_range_that_is_long_enough_is_used_first() {
        let mut free = FreeRanges::new(CHUNK);
        for (start, len) in [(64, 40), (128, 10), (192, 20)] {
            assert_eq!(free.give(Range { start, is_used: false }, len), None);
        }
        assert_eq!(free.take(10).map(|range| range.start), Some(128));
        assert_eq!(free.take(11).map(|range| range.start), Some(192));
        assert_eq!(free.take(10).map(|range| range.start), Some(64));
        assert_eq!(free.take(31), None);
    }
}
