//! How long a piece of a turn took: by the clock, and of the processor's time.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Runs since it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

/// What a stopwatch shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Took {
    /// By the clock: what a push behind it has waited.
    pub(super) wall: Duration,
    /// Of the processor, the kernel's work for this thread included: the rest of the clock's is
    /// others that had the core, or a call that slept.
    pub(super) cpu: Duration,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self { wall: Instant::now(), cpu: thread_time() }
    }

    pub(super) fn took(self) -> Took {
        Took { wall: self.wall.elapsed(), cpu: thread_time().saturating_sub(self.cpu) }
    }
}

/// Time that this thread has had a core.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
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
    }
}
