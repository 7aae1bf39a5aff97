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

    pub(super) fn valid_until(
        &self,
        epoch: Epoch,
        peers: impl IntoIterator<Item = ServerId>,
    ) -> Time {
        self.lock().leases.valid_until(epoch, peers)
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

    pub(super) fn tick(&self, now: Time, outputs: &mut Vec<LeaseOutput>) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let mut state = self.lock();
        if state.watch.has_parted(now, u64::try_from(wall).unwrap_or(u64::MAX)) {
            tracing::warn!("wall clock and monotonic clock have parted: leases are asked for anew");
            state.leases.forget_held(now);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
