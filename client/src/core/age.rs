//! Expiry of unacknowledged pushes. Servers forget a session that has been idle for as long as the map says.
//! A push that may be half that old is not sent again, because it could be applied twice.

use std::time::Duration;

use windlass_transport::clock::Clock;

use super::{Pending, RequestId, Session};

/// Milliseconds on a clock that is cheap enough to be read for every request: it may be some
/// milliseconds late, and stands still while the machine is suspended.
pub(super) fn coarse_ms() -> u64 {
    milliseconds(Clock::MonotonicCoarse)
}

/// How far other clocks are ahead of the monotonic one, which stands still while the machine is suspended
/// or, if it is a virtual one, moved or stopped from outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClockLeads {
    boot_ms: u64,
    wall_ms: u64,
}

impl ClockLeads {
    pub(super) fn now() -> Self {
        let monotonic = milliseconds(Clock::Monotonic);
        let lead = |clock| milliseconds(clock).saturating_sub(monotonic);
        Self { boot_ms: lead(Clock::Boot), wall_ms: lead(Clock::Wall) }
    }

    /// Milliseconds for which the monotonic clock may have stood still since `earlier`. A wall clock that
    /// is set forward counts, too: a push is then given up, which is safe, instead of applied twice.
    pub(super) fn stood_still_ms(self, earlier: Self) -> u64 {
        let boot = self.boot_ms.saturating_sub(earlier.boot_ms);
        boot.max(self.wall_ms.saturating_sub(earlier.wall_ms))
    }
}

fn milliseconds(clock: Clock) -> u64 {
    u64::try_from(clock.now().as_millis()).unwrap_or(u64::MAX)
}

impl Pending {
    /// How long a request may go on being sent.
    pub(super) fn time_left(&self, session: &Session, request: RequestId) -> Duration {
        let begun = self.requests.find(request).map(|request| request.begun_ms);
        let elapsed = begun.map_or(0, |begun| coarse_ms().saturating_sub(begun));
        session.options.timeout.saturating_sub(Duration::from_millis(elapsed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_that_went_furthest_counts() {
        let earlier = ClockLeads { boot_ms: 100, wall_ms: 1_000_000 };
        let stood = |boot_ms, wall_ms| ClockLeads { boot_ms, wall_ms }.stood_still_ms(earlier);
        assert_eq!(stood(100, 1_000_000), 0);
        assert_eq!(stood(600, 1_000_500), 500, "suspended: both went on");
        assert_eq!(stood(100, 1_060_000), 60_000, "a virtual machine that was moved");
        assert_eq!(stood(150, 400_000), 50, "a wall clock that is set back hides nothing");
    }
}
