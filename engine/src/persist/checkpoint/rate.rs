//! The rate at which a checkpoint is copied. While requests come in it is slow, in short writes, because the log's
//! writes wait behind each of them on the device. It is faster while the shard is idle. It has no limit if
//! the log would otherwise fill up first, because only the end of the checkpoint frees log space.

use std::time::Duration;

use super::CheckpointConfig;
use crate::persist::limits::{STAGING_WRITE_BYTES, STAGING_WRITE_BYTES_SHORT};

/// How long after the last request the rate is still that beside requests.
const QUIET_TIME: Duration = Duration::from_millis(20);

/// Hundredths of the log's room, counted from the checkpoint's beginning, within which it is to end.
const ROOM_PERCENT: u128 = 75;

/// What the rate depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Situation {
    /// Whether requests came in lately.
    pub(super) is_serving: bool,
    /// Bytes copied so far, and an upper bound of the total.
    pub(super) copied: u64,
    pub(super) total: u64,
    /// Bytes that the log still takes before it is nearly full, and how many it did when the checkpoint
    /// began.
    pub(super) room: u64,
    pub(super) room_begun: u64,
}

/// Bytes per second; `None` for as many as the disk takes. What is copied keeps ahead of the log: as
/// large a part of the whole as the log has used of three quarters of its room. So the faster the log
/// fills up, the faster the checkpoint is.
pub(super) fn rate(config: &CheckpointConfig, situation: Situation) -> Option<u64> {
    let Situation { is_serving, copied, total, room, room_begun } = situation;
    let used = u128::from(room_begun.saturating_sub(room));
    let is_behind = u128::from(copied) * u128::from(room_begun) * ROOM_PERCENT
        < u128::from(total) * used.saturating_mul(100);
    let bytes = match (room, is_serving) {
        (0, _) => 0,
        _ if is_behind => 0,
        (_, true) => config.bytes_per_second,
        (_, false) => config.idle_bytes_per_second,
    };
    (bytes > 0).then_some(bytes)
}

/// Lets as many bytes be copied as the rate says.
#[derive(Debug)]
pub(super) struct Rate {
    /// The limit in force since `at`, and bytes of this checkpoint that may have been copied by then.
    limit: Option<u64>,
    allowed: u64,
    at: Duration,
    /// The number of requests when it was looked at last, and when it was another one last.
    requests: u64,
    served_at: Option<Duration>,
    is_serving: bool,
    room_begun: u64,
}

impl Rate {
    pub(super) fn new(now: Duration, requests: u64, room_begun: u64) -> Self {
        Self {
            limit: Some(0),
            allowed: 0,
            at: now,
            requests,
            served_at: None,
            is_serving: false,
            room_begun,
        }
    }

    /// Called once per turn with the bytes copied, their total, the requests served and the log's free space.
    pub(super) fn advance(
        &mut self,
        config: &CheckpointConfig,
        copied: u64,
        total: u64,
        requests: u64,
        room: u64,
        now: Duration,
    ) {
        if requests != self.requests {
            (self.requests, self.served_at) = (requests, Some(now));
        }
        self.is_serving = self.served_at.is_some_and(|at| now.saturating_sub(at) < QUIET_TIME);
        let situation = Situation {
            is_serving: self.is_serving,
            copied,
            total,
            room,
            room_begun: self.room_begun,
        };
        self.limit = rate(config, situation);
        let micros = now.saturating_sub(self.at).as_micros();
        self.at = now;
        self.allowed = match self.limit {
            Some(limit) => {
                let more = u64::try_from(u128::from(limit) * micros / 1_000_000);
                // What was not used is not kept, but for two writes.
                let most = copied + 2 * self.write_bytes() as u64;
                self.allowed.saturating_add(more.unwrap_or(u64::MAX)).min(most)
            }
            None => copied,
        };
    }

    /// Whether another block may be copied after `copied` bytes.
    pub(super) fn allows(&self, copied: u64) -> bool {
        self.limit.is_none() || copied < self.allowed
    }

    /// Bytes from which a staging buffer is written before it is full.
    pub(super) fn write_bytes(&self) -> usize {
        match self.limit {
            Some(_) if self.is_serving => STAGING_WRITE_BYTES_SHORT,
            _ => STAGING_WRITE_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn config() -> CheckpointConfig {
        CheckpointConfig::default()
    }

    #[test]
    fn requests_slow_a_checkpoint_down_unless_the_log_fills_up() {
        let config = config();
        let situation =
            Situation { is_serving: true, copied: 0, total: 1000, room: 4000, room_begun: 4000 };
        let beside = rate(&config, situation);
        assert_eq!(beside, Some(config.bytes_per_second));
        assert_eq!(
            rate(&config, Situation { is_serving: false, ..situation }),
            Some(config.idle_bytes_per_second)
        );
        // A third of three quarters of the room is used: a third has to be copied.
        let third = Situation { room: 3000, ..situation };
        assert_eq!(rate(&config, Situation { copied: 333, ..third }), None);
        assert_eq!(rate(&config, Situation { copied: 334, ..third }), beside);
        let full = Situation { room: 0, copied: 1000, ..situation };
        assert_eq!(rate(&config, full), None, "somebody waits for its end");
        assert_eq!(rate(&config, Situation { room: 0, room_begun: 0, ..situation }), None);
        let unknown = Situation { total: u64::MAX, copied: 999, room: 3999, ..situation };
        assert_eq!(rate(&config, unknown), None, "a whole of unknown length");
        let unlimited = CheckpointConfig { bytes_per_second: 0, ..config };
        assert_eq!(rate(&unlimited, situation), None);
    }

    /// Turns of a millisecond. The disk takes 1 GiB/s, the log so many bytes each turn. Returns the time
    /// and what room the log has left.
    fn run(total: u64, log_per_turn: u64, room_begun: u64) -> (u64, u64) {
        let (config, mut room, mut copied) = (config(), room_begun, 0);
        let mut rate = Rate::new(Duration::ZERO, 0, room_begun);
        for ms in 1..1_000_000 {
            room = room.saturating_sub(log_per_turn);
            rate.advance(&config, copied, total, ms, room, Duration::from_millis(ms));
            let end = copied + MIB;
            while copied < end && rate.allows(copied) {
                copied += 4096;
            }
            if copied >= total {
                return (ms, room);
            }
        }
        unreachable!("it ends")
    }

    #[test]
    fn a_checkpoint_ends_before_the_log_is_full() {
        for total_mib in [64, 256, 1024, 10 * 1024] {
            for log_per_turn in [0, 4 << 10, 64 << 10, 512 << 10] {
                for room_mib in [64, 512, 2048] {
                    let (total, room_begun) = (total_mib * MIB, room_mib * MIB);
                    let (ms, room) = run(total, log_per_turn, room_begun);
                    let beside = total * 1000 / config().bytes_per_second;
                    assert!(ms <= beside + beside / 50 + 2, "{ms} instead of {beside} ms at most");
                    // Where the disk can: it takes a MiB a turn.
                    let possible = total / MIB * log_per_turn <= room_begun / 100 * 70;
                    assert!(
                        !possible || room >= room_begun / 5,
                        "{total_mib} MiB, {log_per_turn} a turn, {room_mib} MiB of room: {room} left"
                    );
                }
            }
        }
    }

    #[test]
    fn what_was_not_used_is_not_made_up_for() {
        let (config, room) = (config(), 1 << 30);
        let mut rate = Rate::new(Duration::ZERO, 0, room);
        rate.advance(&config, 0, MIB, 1, room, Duration::from_secs(5));
        assert_eq!(rate.write_bytes(), STAGING_WRITE_BYTES_SHORT);
        assert!(!rate.allows(2 * STAGING_WRITE_BYTES_SHORT as u64));
        rate.advance(&config, 0, MIB, 1, room, Duration::from_secs(6));
        assert_eq!(rate.write_bytes(), STAGING_WRITE_BYTES, "nobody asks for anything");
        assert!(!rate.allows(2 * STAGING_WRITE_BYTES as u64));
    }
}
