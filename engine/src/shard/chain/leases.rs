//! The server's leases, which its shards share, and the one clock they all read.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use windlass_replication::{LeaseOutput, LeaseTimings, Leases, Time};
use windlass_wire::{ClusterMap, Epoch, Incarnation, ServerId};

/// Tells when the wall clock moves and the monotonic clock does not, or not as far. The monotonic clock
/// of a virtual machine may stand still while it is moved or stopped; nobody else's does.
#[derive(Clone, Copy, Debug, Default)]
struct WallWatch {
    /// Wall clock less monotonic clock, in microseconds, when last looked.
    offset_us: Option<u64>,
}

/// The clocks may differ by this much more than at the look before, in microseconds: a clock that is
/// adjusted moves by less between two looks, and a lease is longer.
const PARTED_MIN_US: u64 = 10_000;

impl WallWatch {
    fn has_parted(&mut self, now: Time, wall_us: u64) -> bool {
        let offset = wall_us.wrapping_sub(now.0);
        let last = self.offset_us.replace(offset);
        last.is_some_and(|last| last.abs_diff(offset) >= PARTED_MIN_US)
    }
}

/// One server's leases.
#[derive(Debug)]
pub struct SharedLeases {
    started: Instant,
    timings: LeaseTimings,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    leases: Leases,
    watch: WallWatch,
    adopted: Epoch,
    has_peers: bool,
}

impl SharedLeases {
    /// The leases of a server that starts now.
    #[must_use]
    pub fn new(timings: LeaseTimings) -> Self {
        let state = State {
            leases: Leases::new(Time(0), timings),
            watch: WallWatch::default(),
            adopted: Epoch(0),
            has_peers: false,
        };
        Self { started: Instant::now(), timings, state: Mutex::new(state) }
    }

    /// This moment on the server's clock.
    #[must_use]
    pub fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// How often the leases want a tick, in microseconds.
    #[must_use]
    pub fn tick_us(&self) -> u64 {
        self.timings.ping_us
    }

    /// Takes over a map, once for all shards: before any replica is configured by it.
    pub(super) fn adopt(&self, now: Time, map: &ClusterMap, server: ServerId) {
        let mut state = self.lock();
        if map.epoch <= state.adopted {
            return;
        }
        state.adopted = map.epoch;
        let peers = map.peers_of(server);
        state.has_peers = !peers.is_empty();
        let life = |id: ServerId| {
            let entry = map.servers.iter().find(|entry| entry.id == id);
            entry.map_or_else(Incarnation::default, |entry| entry.incarnation)
        };
        let peers = peers.into_iter().map(|id| (id, life(id)));
        state.leases.adopt(now, map.epoch, life(server), peers);
    }

    /// Whether other servers depend on those of this one.
    pub(super) fn has_peers(&self) -> bool {
        self.lock().has_peers
    }

    pub(super) fn begin_life(&self) {
        let now = self.now();
        self.lock().leases.begin_life(now);
    }

    pub(super) fn hold_until(&self, removed: Option<ServerId>) -> Time {
        self.lock().leases.hold_until(removed)
    }

    /// Whether all these peers promise, at this moment, to go on only with this server. Where its clock has
    /// just stood still it does not wait for a tick to notice: what it holds by that clock has run out.
    pub(super) fn are_held(&self, epoch: Epoch, peers: impl IntoIterator<Item = ServerId>) -> bool {
        let mut state = self.lock();
        let until = state.leases.valid_until(epoch, peers);
        if until == Time::NEVER {
            return true;
        }
        let (now, wall_us) = self.clocks();
        !state.notice_standstill(now, wall_us) && until > now
    }

    /// Both clocks at one moment.
    fn clocks(&self) -> (Time, u64) {
        loop {
            let before = self.now();
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
            let now = self.now();
            // Otherwise this thread was interrupted in between.
            if now.since(before) < PARTED_MIN_US / 4 {
                return (now, u64::try_from(wall).unwrap_or(u64::MAX));
            }
        }
    }

    pub(super) fn ping(
        &self,
        now: Time,
        from: ServerId,
        asked_at: Time,
        outputs: &mut Vec<LeaseOutput>,
    ) {
        self.lock().leases.ping(now, from, asked_at, outputs);
    }

    pub(super) fn grant(&self, now: Time, from: ServerId, asked_at: Time, map_epoch: Epoch) {
        self.lock().leases.grant(now, from, asked_at, map_epoch);
    }

    pub(super) fn tick(&self, outputs: &mut Vec<LeaseOutput>) {
        let mut state = self.lock();
        let (now, wall_us) = self.clocks();
        state.notice_standstill(now, wall_us);
        state.leases.tick(now, outputs);
    }

    /// Peers that were not heard in time lately, and the microseconds by which they were late.
    pub(crate) fn late_peers(&self) -> Vec<(ServerId, u64)> {
        let now = self.now();
        self.lock().leases.late_peers(now).collect()
    }

    pub(super) fn link_failed(&self, now: Time, peer: ServerId, outputs: &mut Vec<LeaseOutput>) {
        self.lock().leases.link_failed(now, peer, outputs);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one call of the state machine, which leaves whole values if it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets go of what was held by a clock that has stood still; returns whether it has.
    fn notice_standstill(&mut self, now: Time, wall_us: u64) -> bool {
        let has_parted = self.watch.has_parted(now, wall_us);
        if has_parted {
            tracing::warn!("wall clock and monotonic clock have parted: leases are asked for anew");
            self.leases.forget_held(now);
        }
        has_parted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: ServerId = ServerId(2);

    /// A server of two whose peer has just promised something.
    fn promised() -> SharedLeases {
        let second = 1_000_000;
        let leases = SharedLeases::new(LeaseTimings {
            lease_us: 60 * second,
            ping_us: second,
            suspect_us: 90 * second,
            lateness_us: 90 * second,
            link_us: 90 * second,
            drift_ppm: 100,
        });
        let (now, mut outputs) = (leases.now(), Vec::new());
        leases.lock().leases.adopt(now, Epoch(1), Incarnation(1), [(PEER, Incarnation(1))]);
        leases.tick(&mut outputs);
        let [LeaseOutput::Ping { to: PEER, asked_at }] = outputs[..] else {
            panic!("a promise is asked for: {outputs:?}")
        };
        leases.grant(leases.now(), PEER, asked_at, Epoch(1));
        leases
    }

    /// Also between two ticks: the first pull may come before the next one.
    #[test]
    fn what_was_promised_does_not_outlive_a_clock_that_stands_still() {
        let leases = promised();
        assert!(leases.are_held(Epoch(1), [PEER]) && leases.are_held(Epoch(1), []));
        assert!(!leases.are_held(Epoch(2), [PEER]), "nothing was promised for it");
        let before = leases.lock().watch.offset_us.map(|offset| offset - 8_000_000);
        leases.lock().watch.offset_us = before;
        assert!(!leases.are_held(Epoch(1), [PEER]), "the clock stood still for 8 s");
        assert!(!leases.are_held(Epoch(1), [PEER]), "and nothing was promised since");
        assert!(leases.are_held(Epoch(1), []));
    }

    #[test]
    fn a_clock_that_stood_still_is_told_from_one_that_is_adjusted() {
        let mut watch = WallWatch::default();
        assert!(!watch.has_parted(Time(5), 1_000_000), "the first look compares with nothing");
        assert!(!watch.has_parted(Time(5_005), 1_005_500), "adjusted by 0.5 ms");
        assert!(watch.has_parted(Time(10_005), 9_010_500), "stood still for 8 s");
        assert!(!watch.has_parted(Time(15_005), 9_015_500));
        assert!(watch.has_parted(Time(20_005), 1_020_500), "set back by an operator");
    }
}
