//! Which rows changed since the log recorded them last, one by one.

use windlass_wire::RowRange;

/// A bit for each row, and which words of bits have any. Empty when nobody asks.
#[derive(Clone, Debug, Default)]
pub struct DirtyRows {
    bits: Vec<u64>,
    /// Words that are not zero, in order of their first row that changed.
    words: Vec<u32>,
    count: u64,
    tracked: bool,
}

impl DirtyRows {
    /// From now on changes are noted.
    pub fn track(&mut self) {
        self.tracked = true;
    }

    /// Whether changes are noted.
    #[inline]
    #[must_use]
    pub fn is_tracked(&self) -> bool {
        self.tracked
    }

    /// Number of rows that changed.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// A row has changed; returns whether it had not before.
    #[inline]
    pub fn set(&mut self, row: u64) -> bool {
        let before = self.count;
        self.set_range(row, row + 1);
        self.count > before
    }

    /// Rows `from..to` have changed.
    #[inline]
    pub fn set_range(&mut self, from: u64, to: u64) {
        let mut row = from;
        while row < to {
            let word = index(row / 64);
            let end = to.min((row / 64 + 1) * 64);
            let mask = (u64::MAX >> (64 - (end - row))) << (row % 64);
            if word >= self.bits.len() {
                self.bits.resize((word + 1).next_power_of_two(), 0);
            }
            let old = self.bits[word];
            if old == 0 {
                // Bits are fewer than rows of memory, so their words fit 32 bits.
                self.words.push(u32::try_from(word).unwrap_or(u32::MAX));
            }
            self.bits[word] = old | mask;
            self.count += u64::from((mask & !old).count_ones());
            row = end;
        }
    }

    /// Takes the changed rows out, ascending, as runs of neighbours that do not cross a multiple of
    /// `piece` rows.
    pub fn take(&mut self, piece: u64, mut run: impl FnMut(RowRange)) {
        self.words.sort_unstable();
        let mut open: Option<RowRange> = None;
        for word in &self.words {
            let mut bits = std::mem::take(&mut self.bits[*word as usize]);
            while bits != 0 {
                let row = u64::from(*word) * 64 + u64::from(bits.trailing_zeros());
                bits &= bits - 1;
                match &mut open {
                    Some(last) if last.end == row && !row.is_multiple_of(piece) => last.end += 1,
                    _ => {
                        if let Some(last) = open.replace(RowRange::new(row, row + 1)) {
                            run(last);
                        }
                    }
                }
            }
        }
        if let Some(last) = open {
            run(last);
        }
        self.words.clear();
        self.count = 0;
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rows in memory")]
const fn index(word: u64) -> usize {
    word as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_taken_once_as_runs_within_pieces() {
        let mut dirty = DirtyRows::default();
        assert!(!dirty.is_tracked());
        dirty.track();
        dirty.set_range(60, 200);
        assert!(dirty.set(5) && !dirty.set(5));
        dirty.set_range(63, 66);
        assert_eq!(dirty.count(), 141);
        let mut runs = Vec::new();
        dirty.take(100, |run| runs.push((run.start, run.end)));
        assert_eq!(runs, [(5, 6), (60, 100), (100, 200)]);
        assert_eq!(dirty.count(), 0);
        dirty.take(100, |run| panic!("{run} was taken twice"));
        dirty.set(1000);
        dirty.take(1, |run| assert_eq!(run, RowRange::new(1000, 1001)));
    }

    #[test]
    fn agrees_with_a_set_of_rows() {
        let mut random = 7_u64;
        let mut below = |bound: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % bound
        };
        let mut dirty = DirtyRows::default();
        for round in 0..300 {
            let mut set = std::collections::BTreeSet::new();
            for _ in 0..below(6) {
                let from = below(1000);
                let to = from + below(200);
                dirty.set_range(from, to);
                set.extend(from..to);
                let row = below(1200);
                assert_eq!(dirty.set(row), set.insert(row));
                assert_eq!(dirty.count(), set.len() as u64);
            }
            let piece = [1, 7, 64, 100, u64::MAX][round % 5];
            let mut taken = Vec::new();
            dirty.take(piece, |run| {
                assert!(run.start < run.end && run.start / piece == (run.end - 1) / piece);
                let follows = taken.last().is_some_and(|last| last + 1 == run.start);
                assert!(
                    !follows || run.start.is_multiple_of(piece),
                    "{run}: neighbours are one run"
                );
                taken.extend(run.start..run.end);
            });
            assert!(taken.iter().eq(&set), "round {round}");
        }
        assert!(!dirty.is_tracked());
        dirty.track();
        assert!(dirty.is_tracked());
    }
}
