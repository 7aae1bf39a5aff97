//! What a log says of itself.

use std::time::Duration;

use super::{Log, LogStatistics, PendingBatch};
use crate::persist::limits::{BATCHES_MAX, OVERLAP_BYTES_MIN};

/// Segments left when a log is nearly full: no new pushes from then on.
const SEGMENTS_LAST: usize = 4;

/// Segments left for the images that a checkpoint needs to end, whatever is recorded meanwhile.
const SEGMENTS_OF_IMAGES: usize = 2;

impl Log {
    /// When [`Log::flush`] has to be called next at the latest, on the clock it is given; `None` when
    /// only a completion changes anything.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let open = self.batches.back().filter(|batch| !batch.ended && self.may_write(batch));
        let written = open.and_then(|batch| batch.deadline);
        let renewed = self.watermark.due(self.durable.0).filter(|_| self.poison.is_none());
        written.into_iter().chain(renewed).min()
    }

    /// Bytes sealed that no write was begun for.
    #[must_use]
    pub fn open_bytes(&self) -> u64 {
        self.batches.back().filter(|batch| !batch.ended).map_or(0, |batch| batch.length)
    }

    /// Whether a batch gains by being written now. A small one does not while another write is under
    /// way: it would cost as much as that one and leave its followers waiting.
    pub(super) fn may_write(&self, batch: &PendingBatch) -> bool {
        self.writes == 0 || (self.writes < self.writes_max && batch.length >= OVERLAP_BYTES_MIN)
    }

    /// Bytes of ring in use, and in all.
    #[must_use]
    pub fn ring_use(&self) -> (u64, u64) {
        (self.ring.used(), self.ring.capacity())
    }

    /// Whether more than half of the allowed segments hold records: time for a checkpoint.
    #[must_use]
    pub fn wants_checkpoint(&self) -> bool {
        let used = self.segments.count() - self.segments.free_count();
        used * 2 > self.segments.count_max()
    }

    /// Whether only the last few segments are left.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        let used = self.segments.count() - self.segments.free_count();
        used + SEGMENTS_LAST >= self.segments.count_max()
    }

    /// Whether the segments are left that only a checkpoint's images may take.
    #[must_use]
    pub fn is_all_but_full(&self) -> bool {
        let used = self.segments.count() - self.segments.free_count();
        used + SEGMENTS_OF_IMAGES >= self.segments.count_max()
    }

    /// Whether so many bytes, in pieces, find room now. Where a segment is missing that nobody prepares,
    /// that is found out by asking for it.
    #[must_use]
    pub fn has_room(&self, bytes: u64) -> bool {
        let left = self.active.map_or(0, |active| active.bytes - active.offset);
        let has_segment =
            self.segments.free_count() > 0 || !self.segments.is_preparing() || left >= bytes;
        has_segment
            && self.ring.capacity() - self.ring.used() >= bytes
            && self.batches.len() < BATCHES_MAX / 2
    }

    /// Bytes that it takes, made and still to be made segments together, before it is nearly full.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        let used = self.segments.count() - self.segments.free_count();
        let left = self.segments.count_max().saturating_sub(used + SEGMENTS_LAST) as u64;
        let active = self.active.map_or(0, |active| active.bytes - active.offset);
        if left == 0 { 0 } else { left * self.segments.file_bytes() + active }
    }

    /// Bytes of segments that a checkpoint would give back for new records.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        let used = self.segments.count() - self.segments.free_count();
        used as u64 * self.segments.file_bytes()
    }

    /// Figures for metrics.
    #[must_use]
    pub fn statistics(&self) -> LogStatistics {
        self.statistics
    }

    /// Whether a write is under way.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.writes > 0
    }

    /// Segment files: with records, and ready for some.
    #[must_use]
    pub fn segment_count(&self) -> usize {
        self.segments.count()
    }

    /// Whether a segment is being prepared, which takes a share of the disk.
    #[must_use]
    pub fn is_preparing(&self) -> bool {
        self.segments.is_preparing()
    }

    /// Whether everything sealed is on disk.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.batches.is_empty()
    }
}
