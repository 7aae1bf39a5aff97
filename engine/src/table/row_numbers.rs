//! Numbers of a sparse partition's rows: those that no key has any more serve keys to come.

/// Which rows there are.
#[derive(Debug, Default)]
pub(super) struct RowNumbers {
    /// The row that the next new key gets.
    next: u64,
    /// Rows that were ever made.
    made: u64,
    /// Rows that no key has any more, the next to be taken last, and a bit for each.
    free: Vec<u64>,
    bits: Vec<u64>,
}

impl RowNumbers {
    /// The row that [`RowNumbers::take_next`] takes.
    #[inline]
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// One more than the largest row there was.
    #[inline]
    pub(super) fn end(&self) -> u64 {
        self.made
    }

    /// Whether no key has a row any more.
    #[inline]
    pub(super) fn is_free(&self, row: u64) -> bool {
        let (word, bit) = place(row);
        self.bits.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// Takes the next row; whether there was none of that number before.
    #[inline]
    pub(super) fn take_next(&mut self) -> bool {
        if self.next == self.made {
            self.made += 1;
            self.next = self.made;
            return true;
        }
        self.free.pop();
        let (word, bit) = place(self.next);
        self.bits[word] &= !bit;
        self.next = self.free.last().copied().unwrap_or(self.made);
        false
    }

    /// Gives a row back.
    ///
    /// # Panics
    ///
    /// When it is free already.
    pub(super) fn release(&mut self, row: u64) {
        let (word, bit) = place(row);
        if word >= self.bits.len() {
            self.bits.resize((word + 1).next_power_of_two(), 0);
        }
        assert!(self.bits[word] & bit == 0, "row {row} is freed twice");
        self.bits[word] |= bit;
        self.free.push(row);
        self.next = row;
    }
}

/// The word and the bit of a row.
#[inline]
fn place(row: u64) -> (usize, u64) {
    (super::slab::usize_of(row / 64), 1 << (row % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_were_given_back_last_are_taken_first() {
        let mut rows = RowNumbers::default();
        for row in 0..700 {
            assert_eq!((rows.next(), rows.end()), (row, row));
            assert!(rows.take_next());
        }
        let free = [3, 699, 64, 0];
        free.into_iter().for_each(|row| rows.release(row));
        assert!((0..1000).all(|row| rows.is_free(row) == free.contains(&row)));
        for row in free.into_iter().rev() {
            assert_eq!((rows.next(), rows.end()), (row, 700));
            assert!(!rows.take_next() && !rows.is_free(row));
        }
        assert!(rows.next() == 700 && rows.take_next() && rows.end() == 701);
    }

    #[test]
    #[should_panic(expected = "row 5 is freed twice")]
    fn a_row_is_not_freed_twice() {
        let mut rows = RowNumbers::default();
        rows.release(5);
        rows.release(5);
    }
}
