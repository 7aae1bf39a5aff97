//! Queries about the state of a log.

use std::time::Duration;

use super::{Log, LogStatistics, PendingBatch, Sealed};
use crate::persist::limits::{
    BATCHES_MAX, BLOCK_BYTES, OVERLAP_BYTES_MIN, SEGMENTS_LAST, SEGMENTS_OF_IMAGES,
    SUPERBLOCK_BYTES_MAX,
};

/// What a segment takes beside the one record it is needed for.
const SEGMENT_OVERHEAD: u64 = (SUPERBLOCK_BYTES_MAX + 2 * BLOCK_BYTES) as u64;

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

    /// The bytes of a record just sealed, to be applied straight from the ring. Panics when it was
    /// released meanwhile.
    #[must_use]
    pub fn sealed_bytes(&self, sealed: &Sealed) -> &[u8] {
        self.ring.at_page_offset(sealed.page_offset, sealed.length)
    }

    /// Bytes of ring in use, and in all.
    #[must_use]
    pub fn ring_use(&self) -> (u64, u64) {
        (self.ring.used(), self.ring.capacity())
    }

    /// Whether more than half of the log's space is taken by records: time for a checkpoint.
    #[must_use]
    pub fn wants_checkpoint(&self) -> bool {
        self.segments.space.used * 2 > self.segments.space.max
    }

    /// Whether no more than the last few segments fit.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.leaves_only(SEGMENTS_LAST)
    }

    /// Whether the segments are left that only a checkpoint's images may take.
    #[must_use]
    pub fn is_all_but_full(&self) -> bool {
        self.leaves_only(SEGMENTS_OF_IMAGES)
    }

    fn leaves_only(&self, longest: u64) -> bool {
        let left = longest * self.segments.space.longest_made;
        self.segments.space.used + left >= self.segments.space.max
    }

    /// Whether the ring has room now for `bytes` in several pieces.
    #[must_use]
    pub fn has_ring_room(&self, bytes: u64) -> bool {
        self.ring.capacity() - self.ring.used() >= bytes && self.batches.len() < BATCHES_MAX / 2
    }

    /// Whether segments have room now for `bytes` in records of at most `record` bytes. The next flush begins to prepare
    /// a missing segment; whether that is possible shows only when a record asks for it.
    pub fn has_segment_room(&mut self, bytes: u64, record: u64) -> bool {
        let left = self.active.map_or(0, |active| active.bytes - active.offset);
        let needed = bytes.min(record).min(self.record_bytes_max() as u64) + SEGMENT_OVERHEAD;
        left >= bytes + SEGMENT_OVERHEAD
            || self.segments.has_free(needed)
            || !self.segments.ask_for(needed)
    }

    /// Bytes that it takes, made and still to be made segments together, before it is nearly full.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        let last = SEGMENTS_LAST * self.segments.space.longest_made;
        let used = self.segments.space.used + last;
        let left = self.segments.space.max.saturating_sub(used);
        let active = self.active.map_or(0, |active| active.bytes - active.offset);
        if left == 0 { 0 } else { left + active }
    }

    /// Bytes of segments that a checkpoint would give back for new records.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.segments.space.used
    }

    /// Figures for metrics.
    #[must_use]
    pub fn statistics(&self) -> LogStatistics {
        LogStatistics { prepared_bytes: self.segments.bytes_prepared, ..self.statistics }
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
