//! How old rows are: the partition's time, and the stamps of rows, where rows expire.

use super::SparsePartition;

impl SparsePartition {
    /// Time passes in which the partition is served, in seconds.
    pub fn pass_time(&mut self, seconds: u32) {
        self.time_s = self.time_s.saturating_add(seconds);
    }

    /// For how many seconds of service nothing was pushed to a row; zero where rows do not expire.
    #[must_use]
    pub fn age_of(&self, row: u64) -> u32 {
        let age = self.time_s.saturating_sub(self.stamp_of(row));
        if self.layout.has_stamp() { age } else { 0 }
    }

    pub(super) fn stamp_of(&self, row: u64) -> u32 {
        self.layout.stamp(self.bytes_of(row))
    }

    #[inline]
    pub(super) fn stamp(&mut self, row: u64, stamp: u32) {
        let layout = self.layout;
        layout.set_stamp(self.bytes_of_mut(row), stamp);
    }

    /// Begins to bring near what says how old a row is.
    #[inline]
    pub fn fetch_age(&self, row: u64) {
        self.layout.fetch_stamp(self.bytes_of(row).as_ptr());
    }
}
