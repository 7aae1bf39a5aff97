//! The slowdown that is injected to see who waits for whom: at any time one worker is slower, and
//! which one it is changes. Stragglers of real clusters come and go (another job, a collection, a hot
//! core); one that is always slower sets the pace of all, however far they may be apart.
//!
//! Which worker it is depends on the seed and the number of the batch only, so that workers agree
//! without a word.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::data::draw;

/// Apart from every other use of the seed.
const SEED_SALT: u64 = 0x7374_7261_6767_6c65;

/// Who is slow, when, and by how much.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Straggler {
    /// Milliseconds that the slow worker takes longer over a batch; 0: nobody is slow.
    pub delay_ms: u64,
    /// Batches that it is slow for, before another is drawn; from 1.
    pub batches: u64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Straggler {
    /// Nobody is slow.
    pub const NONE: Self = Self { delay_ms: 0, batches: 1, seed: 0 };

    /// How much longer worker `rank` of `workers` takes over its batch of this number, from 0.
    #[must_use]
    pub fn delay(&self, rank: u64, workers: u64, batch: u64) -> Duration {
        if self.delay_ms == 0 || rank != self.slow(workers, batch) {
            return Duration::ZERO;
        }
        Duration::from_millis(self.delay_ms)
    }

    fn slow(&self, workers: u64, batch: u64) -> u64 {
        draw(workers.max(1), self.seed ^ SEED_SALT, batch / self.batches.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKERS: u64 = 3;

    fn slow(straggler: Straggler, batch: u64) -> Vec<u64> {
        let is_slow = |rank: &u64| !straggler.delay(*rank, WORKERS, batch).is_zero();
        (0..WORKERS).filter(is_slow).collect()
    }

    #[test]
    fn one_worker_is_slow_at_a_time_and_each_gets_its_share() {
        let straggler = Straggler { delay_ms: 5, batches: 1, seed: 1 };
        let mut turns = [0; 3];
        for batch in 0..3000 {
            let [rank] = slow(straggler, batch)[..] else { panic!("one is slow") };
            turns[usize::try_from(rank).unwrap()] += 1;
        }
        assert!(turns.iter().all(|turns| (900..1100).contains(turns)), "{turns:?}");
        let other = Straggler { seed: 2, ..straggler };
        assert!((0..100).any(|batch| slow(straggler, batch) != slow(other, batch)));
    }

    #[test]
    fn it_stays_as_long_as_it_is_told() {
        let straggler = Straggler { delay_ms: 5, batches: 10, seed: 1 };
        let ranks: Vec<_> = (0..1000).map(|batch| slow(straggler, batch)).collect();
        assert!(ranks.chunks(10).all(|stay| stay.iter().all(|ranks| *ranks == stay[0])));
        assert!(ranks.iter().any(|rank| *rank != ranks[0]));
    }

    #[test]
    fn nobody_is_slow_unless_asked() {
        assert!((0..100).all(|batch| slow(Straggler::NONE, batch).is_empty()));
    }
}
