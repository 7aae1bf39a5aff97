//! Clocks and counters of the C library, which asks the kernel for them as debuggers and valgrind expect:
//! rustix looks for the kernel's clock in memory that valgrind hides.
#![allow(unsafe_code, reason = "calls of the C library")]

use std::time::Duration;

/// A clock of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Clock {
    /// Goes on evenly, but not while the machine is suspended.
    Monotonic = libc::CLOCK_MONOTONIC,
    /// The same as of the kernel's last tick: some milliseconds late, and cheap to read.
    MonotonicCoarse = libc::CLOCK_MONOTONIC_COARSE,
    /// Goes on while the machine is suspended, too.
    Boot = libc::CLOCK_BOOTTIME,
    /// The time of day, which may be set.
    Wall = libc::CLOCK_REALTIME,
    /// Time for which this thread has had a core.
    Thread = libc::CLOCK_THREAD_CPUTIME_ID,
}

impl Clock {
    /// What it shows.
    ///
    /// # Panics
    /// Never on a Linux that has the transports: it has these clocks.
    #[must_use]
    #[inline]
    pub fn now(self) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a timespec that lives through the call.
        let result = unsafe { libc::clock_gettime(self as libc::clockid_t, &raw mut time) };
        assert_eq!(result, 0, "the kernel has the clock {self:?}");
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
    }
}

/// Times that this thread has given its core up by itself, to wait for something.
#[must_use]
pub fn thread_sleeps() -> u64 {
    // SAFETY: a usage is plain numbers, for which zeros are values.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a usage that lives through the call.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    assert_eq!(result, 0, "the kernel counts what threads use");
    u64::try_from(usage.ru_nvcsw).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_on_and_threads_use_less_than_the_clock_says() {
        let all = [Clock::Monotonic, Clock::MonotonicCoarse, Clock::Boot, Clock::Wall];
        let (before, worked, slept) = (all.map(Clock::now), Clock::Thread.now(), thread_sleeps());
        std::thread::sleep(Duration::from_millis(30));
        for (clock, before) in all.into_iter().zip(before) {
            let passed = clock.now().saturating_sub(before);
            assert!(passed >= Duration::from_millis(15), "{clock:?}: {passed:?}");
        }
        assert!(Clock::Thread.now() - worked < Duration::from_millis(15));
        assert!(thread_sleeps() > slept);
    }
}
