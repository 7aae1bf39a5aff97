//! Notices that the server behind a memory view is gone. Such rows are read without the server, and stay
//! readable after it has died or was replaced, so no read would ever fail. The client therefore asks the
//! server now and then, over the control connection, whether it lives. If it does not answer, the client asks
//! others for a newer map.

use std::time::{Duration, Instant};

use windlass_transport::clock::Clock;

use super::{
    Core,
    control::{Pulse, Unanswered},
};

/// When a link's server was last looked at, in ticks of the kernel's coarse clock.
///
/// A look takes system calls, and so does any clock that is exact enough to bound its rate; this clock is
/// a few loads. It goes on at each of the kernel's ticks, every 1 to 10 ms, so that is how long a dead
/// server may be taken for alive. Pauses between pulls make it no longer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Vigil {
    tick: Duration,
}

impl Vigil {
    /// Whether it is time for a look, which is taken to happen then.
    #[inline]
    fn is_due(&mut self) -> bool {
        self.begins(tick())
    }

    #[inline]
    fn begins(&mut self, tick: Duration) -> bool {
        std::mem::replace(&mut self.tick, tick) != tick
    }
}

#[inline]
fn tick() -> Duration {
    Clock::MonotonicCoarse.now()
}

/// Whether a link whose rows are read in place still has its server, as was looked at in this tick.
#[inline]
pub(super) fn still_serves(core: &mut Core, link: usize) -> bool {
    let known = &mut core.links.all[link];
    if known.vigil.is_due() {
        let server = known.server_at;
        core.cluster.check_server(&mut core.links, server);
        if feel_pulse(core, server) {
            return false;
        }
    }
    !core.links.all[link].state.failed
}

/// Whether there is a newer map than the one by which a server is read.
#[cold]
fn feel_pulse(core: &mut Core, at: usize) -> bool {
    let was_in_trouble = core.recovery.in_trouble();
    let Some(control) = &mut core.cluster.servers[at].control else { return false };
    match control.pulse(Instant::now()) {
        Ok(Pulse::Steady) => {}
        Ok(Pulse::Map(map)) if map.epoch > core.cluster.map.epoch => core.recovery.start_trouble(),
        Ok(Pulse::Map(_)) => {}
        Ok(Pulse::Silent(told)) => core.suspect_read(at, told),
        Err(Unanswered::Interrupted) => {
            core.cluster.servers[at].control = None;
            core.session.watching.ended_another();
        }
        // The next look finds it closed.
        Err(Unanswered::Control(_)) => core.cluster.servers[at].control = None,
    }
    !was_in_trouble && core.recovery.in_trouble()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_look_is_due_once_a_tick() {
        let mut vigil = Vigil::default();
        assert!(vigil.begins(Duration::from_millis(4)) && !vigil.begins(Duration::from_millis(4)));
        assert!(vigil.begins(Duration::from_millis(8)) && !vigil.begins(Duration::from_millis(8)));
        let (mut asked, mut looks) = (0_u64, 0);
        let deadline = Instant::now() + Duration::from_secs(10);
        while looks < 5 {
            assert!(Instant::now() < deadline, "{looks} looks in 10 s");
            asked += 1;
            looks += u64::from(vigil.is_due());
        }
        assert!(asked > looks, "each call is a look");
    }
}
