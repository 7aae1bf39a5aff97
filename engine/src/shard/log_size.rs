//! How long a log may get before a checkpoint replaces it. A checkpoint writes at most as much as the tables
//! hold. So if the log grows by that much between checkpoints, each changed byte is written about twice,
//! however large the tables are.

use std::time::Duration;

use crate::{
    limits::{CHECKPOINT_PAUSE, LOG_KEPT_LEN, LOG_KEPT_LEN_SLOW, SEGMENTS_PER_LOG_LEN},
    persist::{
        limits::{BLOCK_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENTS_LAST},
        log::LogConfig,
    },
};

/// The rule for one shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogSize {
    /// What it was told, in bytes.
    told: Option<u64>,
    /// When the last checkpoint began.
    checkpoint_at: Option<Duration>,
}

impl LogSize {
    pub(super) fn new(told: Option<u64>) -> Self {
        Self { told, checkpoint_at: None }
    }

    /// A log of this size for tables of so many bytes.
    pub(super) fn config(&self, log_id: u64, held: u64) -> LogConfig {
        let block = BLOCK_BYTES as u64;
        let part = self.told.map_or(SEGMENT_BYTES_MAX, |told| told / SEGMENTS_PER_LOG_LEN);
        let segment_bytes = part.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX) / block * block;
        LogConfig { log_id, segment_bytes, bytes_max: self.bytes_max(held), ..LogConfig::default() }
    }

    /// Most bytes of the log for tables of so many bytes: what makes a checkpoint due, as much again
    /// while that is written, and the last segments.
    pub(super) fn bytes_max(&self, held: u64) -> u64 {
        let last = SEGMENTS_LAST * SEGMENT_BYTES_MAX;
        self.told.unwrap_or(held.max(LOG_KEPT_LEN).saturating_mul(2).saturating_add(last))
    }

    /// Whether so many bytes of log are enough for a checkpoint of tables of so many bytes. A log that
    /// grows fast is let grow longer, so that small checkpoints do not follow each other closely.
    pub(super) fn wants_checkpoint(&self, kept: u64, held: u64, now: Duration) -> bool {
        let pause = |at| now.saturating_sub(at) < CHECKPOINT_PAUSE;
        let least = match self.checkpoint_at.is_some_and(pause) {
            true => LOG_KEPT_LEN,
            false => LOG_KEPT_LEN_SLOW,
        };
        kept > held.max(least)
    }

    pub(super) fn note_checkpoint(&mut self, now: Duration) {
        self.checkpoint_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_checkpoint_is_due_when_the_log_is_as_long_as_what_is_held() {
        let size = LogSize::new(None);
        for held in [300 * MIB, 4 << 30, 64 << 30, 1 << 40] {
            assert!(!size.wants_checkpoint(held, held, Duration::ZERO));
            assert!(size.wants_checkpoint(held + 1, held, Duration::ZERO));
            // It has as much room again until it is nearly full.
            let nearly_full = size.bytes_max(held) - SEGMENTS_LAST * SEGMENT_BYTES_MAX;
            assert_eq!(nearly_full, 2 * held);
        }
    }

    #[test]
    fn a_log_of_little_stays_short_unless_it_grows_fast() {
        let mut size = LogSize::new(None);
        assert!(size.wants_checkpoint(33 * MIB, MIB, Duration::ZERO));
        size.note_checkpoint(Duration::from_secs(5));
        assert!(!size.wants_checkpoint(255 * MIB, MIB, Duration::from_millis(9900)));
        assert!(size.wants_checkpoint(257 * MIB, MIB, Duration::from_millis(9900)));
        assert!(size.wants_checkpoint(33 * MIB, MIB, Duration::from_millis(10_000)));
        assert!(!size.wants_checkpoint(33 * MIB, 40 * MIB, Duration::from_millis(10_000)));
    }

    #[test]
    fn what_it_is_told_holds_whatever_is_held() {
        let size = LogSize::new(Some(1 << 30));
        assert_eq!((size.bytes_max(0), size.bytes_max(1 << 40)), (1 << 30, 1 << 30));
        assert_eq!(size.config(1, 0).segment_bytes, 64 * MIB);
        assert_eq!(LogSize::new(Some(512 * MIB)).config(1, 0).segment_bytes, 32 * MIB);
    }
}
