//! How old pushes are. Servers forget a session that is gone for as long as the map says; a push that
//! may be half as old is not sent again, or it could be applied twice.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::{Core, kept::Kept, requests::Failure};

/// Milliseconds on a clock that is cheap enough to be read for every request: it may be some
/// milliseconds late, and stands still while the machine is suspended.
pub(super) fn coarse_ms() -> u64 {
    milliseconds(ClockId::CLOCK_MONOTONIC_COARSE)
}

/// Milliseconds the machine has been suspended.
pub(super) fn suspended_ms() -> u64 {
    milliseconds(ClockId::CLOCK_BOOTTIME).saturating_sub(milliseconds(ClockId::CLOCK_MONOTONIC))
}

fn milliseconds(clock: ClockId) -> u64 {
    // By the C library, not by rustix: that looks for the kernel's clock where valgrind hides it.
    // Every Linux that has the transports has these clocks.
    let now = clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl Core {
    /// Nothing waits to be sent again: what the machine was suspended until now is of no push.
    pub(super) fn settle_ages(&mut self) {
        self.suspended_ms = suspended_ms();
    }

    /// Gives up pushes that servers may have applied and forgotten.
    pub(super) fn give_up_old(&mut self) {
        let expiry = u64::from(self.map.session_expiry_ms);
        if expiry == 0 || self.backlog.is_empty() {
            return;
        }
        let (now, suspended) = (coarse_ms(), suspended_ms().saturating_sub(self.suspended_ms));
        let requests = &self.requests;
        let is_over = |kept: &Kept| {
            let begun = requests.find(kept.request).map(|request| request.begun_ms);
            let age = begun.map_or(0, |begun| now.saturating_sub(begun) + suspended);
            kept.header.kind.pushes() && age >= expiry / 2
        };
        if !self.backlog.iter().any(is_over) {
            return;
        }
        let (over, left) = std::mem::take(&mut self.backlog).into_iter().partition(is_over);
        self.backlog = left;
        let over: std::collections::VecDeque<Kept> = over;
        let expiry = Duration::from_millis(expiry);
        for kept in over {
            self.drop_kept(kept, Failure::Expired { expiry });
        }
    }
}
