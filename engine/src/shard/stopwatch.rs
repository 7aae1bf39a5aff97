//! Measures a piece of a turn: wall time, CPU time, and whether the thread slept. If it did not sleep, wall
//! time beyond CPU time went to other threads on the core.

use std::time::{Duration, Instant};

use windlass_transport::clock::{Clock, thread_sleeps};

use crate::limits::CHECKPOINT_TURN_LONG;

/// Runs since it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopwatch {
    wall: Instant,
    cpu: Duration,
    sleeps: u64,
}

/// What a stopwatch shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Took {
    /// Wall time: how long a push behind this piece has waited.
    pub(super) wall: Duration,
    /// CPU time, including the kernel's work for this thread. The rest of the wall time went to other threads
    /// or to a call that slept.
    pub(super) cpu: Duration,
    /// Whether it was long and the thread gave its core up for something it waited for in the kernel.
    pub(super) blocked: bool,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        let sleeps = thread_sleeps();
        Self { wall: Instant::now(), cpu: Clock::Thread.now(), sleeps }
    }

    pub(super) fn took(self) -> Took {
        let cpu = Clock::Thread.now().saturating_sub(self.cpu);
        let wall = self.wall.elapsed();
        Took { wall, cpu, blocked: wall > CHECKPOINT_TURN_LONG && thread_sleeps() != self.sleeps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeping_takes_time_but_no_processor() {
        let watch = Stopwatch::start();
        std::thread::sleep(Duration::from_millis(30));
        let took = watch.took();
        assert!(took.wall >= Duration::from_millis(30));
        assert!(took.cpu < took.wall, "{took:?}");
        assert!(took.blocked, "{took:?}");
    }

    #[test]
    fn working_is_no_sleep() {
        let work = || {
            let watch = Stopwatch::start();
            let began = watch.cpu;
            while Clock::Thread.now() - began < 2 * CHECKPOINT_TURN_LONG {}
            let took = watch.took();
            assert!(took.cpu >= 2 * CHECKPOINT_TURN_LONG && took.wall >= took.cpu, "{took:?}");
            took.blocked
        };
        // One or another may have to wait for the kernel to give it a page.
        assert!((0..20).any(|_| !work()));
    }
}
