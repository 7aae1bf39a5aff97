//! Which pieces of a partition changed since a checkpoint copied them last.

/// A bit for each piece; empty when nobody asks.
#[derive(Clone, Debug, Default)]
pub struct ChangedPieces {
    bits: Vec<u64>,
    count: u64,
}

impl ChangedPieces {
    /// A set in which all pieces have changed.
    #[must_use]
    pub fn all(count: u64) -> Self {
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(usize::MAX).max(1);
        Self { bits: vec![u64::MAX; words], count }
    }

    /// A set in which none has.
    #[must_use]
    pub fn none(count: u64) -> Self {
        let mut none = Self::all(count);
        none.bits.fill(0);
        none
    }

    /// Whether changes are noted at all.
    #[inline]
    #[must_use]
    pub fn is_tracked(&self) -> bool {
        !self.bits.is_empty()
    }

    /// Pieces `from..to` have changed.
    #[inline]
    pub fn set(&mut self, from: u64, to: u64) {
        for piece in from..to {
            if let Some(word) = self.bits.get_mut(index(piece)) {
                *word |= 1 << (piece % 64);
            }
        }
    }

    /// Whether a piece has changed.
    #[must_use]
    pub fn contains(&self, piece: u64) -> bool {
        self.bits.get(index(piece)).is_some_and(|word| word >> (piece % 64) & 1 == 1)
    }

    /// Number of pieces, changed or not.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes the marks: none has changed then.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let bits = vec![0; self.bits.len()];
        Self { bits: std::mem::replace(&mut self.bits, bits), count: self.count }
    }
}

const fn index(piece: u64) -> usize {
    (piece / 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_taken_once() {
        let marked = |changed: &ChangedPieces| -> Vec<u64> {
            (0..changed.count()).filter(|piece| changed.contains(*piece)).collect()
        };
        let mut changed = ChangedPieces::all(70);
        assert_eq!(marked(&changed.take()).len(), 70);
        changed.set(63, 66);
        assert_eq!(marked(&changed.take()), [63, 64, 65]);
        assert!(marked(&changed.take()).is_empty());
        assert!(!ChangedPieces::default().is_tracked());
    }

    #[test]
    fn marks_are_those_of_their_pieces_and_no_others() {
        for count in [0, 1, 63, 64, 65, 200] {
            let mut changed = ChangedPieces::all(count);
            assert!(changed.is_tracked(), "of {count} pieces, too");
            assert_eq!(changed.count(), count);
            let _ = changed.take();
            for (from, to) in [(0, 1), (62, 66), (5, 5), (190, 1000)] {
                changed.set(from, to);
                let taken = changed.take();
                assert_eq!(taken.count(), count);
                for piece in 0..count {
                    let marked = (from..to).contains(&piece);
                    assert_eq!(taken.contains(piece), marked, "{piece} of {count}");
                }
                assert!((0..count).all(|piece| !changed.contains(piece)), "they were taken");
            }
            assert!(!changed.contains(1 << 40));
        }
        let mut untracked = ChangedPieces::default();
        untracked.set(0, 10);
        assert!(!untracked.contains(3) && !untracked.is_tracked());
    }
}
