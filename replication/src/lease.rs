//! Leases between servers, and the detection of dead ones. A tail may be read strongly only while
//! every other member of its chain promises not to go on without it; the promise runs out by itself,
//! so a silent or cut-off tail stops being read without anybody reaching it, and no coordinator is
//! needed to keep a healthy chain readable. Times of two machines are never compared: a lease counts
//! at its holder from when it asked, at its grantor from when it answered, and drift is allowed for.

use std::collections::BTreeMap;

use windlass_wire::{Epoch, Incarnation, ServerId};

use crate::lateness::{Lateness, LatenessTimings};
use crate::time::Time;

/// Timings of leases and heartbeats, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTimings {
    /// How long a promise holds.
    pub lease_us: u64,
    /// Time between requests to a peer to renew; well below `lease_us`.
    pub ping_us: u64,
    /// A peer silent for this long is reported to the coordinator.
    pub suspect_us: u64,
    /// For how long lateness of peers counts.
    pub lateness_us: u64,
    /// How long a link to a new peer may take to be made: until then its silence is not late.
    pub link_us: u64,
    /// How much faster one clock may run than another, in parts per million.
    pub drift_ppm: u64,
}

impl Default for LeaseTimings {
    fn default() -> Self {
        Self {
            lease_us: 40_000,
            ping_us: 5_000,
            suspect_us: 60_000,
            lateness_us: 3_000_000,
            link_us: 2_000_000,
            drift_ppm: 1_000,
        }
    }
}

impl LeaseTimings {
    fn drift(&self, micros: u64) -> u64 {
        micros.saturating_mul(self.drift_ppm).div_ceil(1_000_000)
    }

    fn lateness(&self) -> LatenessTimings {
        LatenessTimings { after_us: self.suspect_us, window_us: self.lateness_us }
    }
}

/// A message or a decision of the lease table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseOutput {
    /// Ask `to` to renew its promise; it answers with `asked_at` unchanged.
    Ping {
        /// The peer.
        to: ServerId,
        /// This server's clock.
        asked_at: Time,
    },
    /// Promise `to` what it asked for.
    Grant {
        /// The peer.
        to: ServerId,
        /// As it came.
        asked_at: Time,
        /// The map this server acts by: a holder with an older map must not count the promise.
        map_epoch: Epoch,
    },
    /// Tell the coordinator that `peer` has been silent.
    Suspect {
        /// The peer.
        peer: ServerId,
    },
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    life: Incarnation,
    /// When this server's promise to the peer ends, by this server's clock.
    granted_until: Time,
    /// When the peer's promise to this server ends, by this server's clock.
    held_until: Time,
    /// The map by which the peer promised that.
    held_epoch: Epoch,
    /// When it was heard, moved on by what this server stood still since.
    heard_at: Time,
    /// While it has not been heard at all: when that begins to be late.
    linked_by: Time,
    lateness: Lateness,
    pinged_at: Option<Time>,
    suspected_at: Option<Time>,
}

impl Peer {
    fn new(now: Time, life: Incarnation, timings: LeaseTimings) -> Self {
        Self {
            life,
            granted_until: Time(0),
            held_until: Time(0),
            held_epoch: Epoch(0),
            heard_at: now,
            linked_by: now.after(timings.link_us),
            lateness: Lateness::default(),
            pinged_at: None,
            suspected_at: None,
        }
    }

    /// For how long it has been waited for.
    fn waited_us(&self, now: Time) -> u64 {
        now.since(self.heard_at.max(self.linked_by))
    }
}

/// One server's promises, given and held. One per server, shared by its partitions.
#[derive(Clone, Debug)]
pub struct Leases {
    peers: BTreeMap<ServerId, Peer>,
    /// Promises given to servers that are no longer peers, kept until they have run out.
    parting: BTreeMap<ServerId, Time>,
    map_epoch: Epoch,
    /// The life of this server that the map speaks of.
    life: Incarnation,
    /// What an earlier life of this server may have promised has run out by then.
    forgotten_until: Time,
    /// Promises asked for before this moment do not count.
    void_before: Time,
    /// When this was last called: it is called all the time, unless the server stands still.
    active_at: Time,
    timings: LeaseTimings,
}

/// A server that did nothing for this many times `ping_us` stood still. Its peers' silence then proves nothing.
const STANDSTILL_PINGS: u64 = 4;

impl Leases {
    /// The leases of a server that started at `now`. It may have promised something before, so it
    /// waits for one lease before it goes on with anything.
    #[must_use]
    pub fn new(now: Time, timings: LeaseTimings) -> Self {
        assert!(timings.ping_us < timings.lease_us, "leases are renewed before they run out");
        let lease = timings.lease_us;
        Self {
            peers: BTreeMap::new(),
            parting: BTreeMap::new(),
            map_epoch: Epoch(0),
            life: Incarnation(0),
            forgotten_until: now.after(lease).after(timings.drift(lease)),
            void_before: Time(0),
            active_at: now,
            timings,
        }
    }

    /// The server begins another life. What it promised in the one before binds it still, in chains of
    /// which it does not know any more who was removed.
    pub fn begin_life(&mut self, now: Time) {
        let lease = self.timings.lease_us;
        self.forgotten_until = now.after(lease).after(self.timings.drift(lease));
    }

    /// This server's clock stood still for a while, as a virtual machine's does while it is moved: what
    /// peers promised may have run out meanwhile, also by answers that are still on their way.
    pub fn forget_held(&mut self, now: Time) {
        self.void_before = now;
        for peer in self.peers.values_mut() {
            peer.held_until = Time(0);
            // Nor was the peer silent.
            peer.heard_at = now;
            peer.pinged_at = None;
        }
    }

    /// A new map is in force, in which this server, in its `life`, shares chains with `peers` in theirs.
    /// To be called before any replica is configured by that map: promises given so far bind it, later
    /// ones do not, because they name the new epoch.
    pub fn adopt(
        &mut self,
        now: Time,
        map_epoch: Epoch,
        life: Incarnation,
        peers: impl IntoIterator<Item = (ServerId, Incarnation)>,
    ) {
        self.notice_standstill(now);
        self.map_epoch = map_epoch;
        let begins = std::mem::replace(&mut self.life, life) != life;
        let mut old = std::mem::take(&mut self.peers);
        for (id, life) in peers {
            let mut peer = old.remove(&id).unwrap_or(Peer {
                granted_until: self.parting.remove(&id).unwrap_or(Time(0)),
                ..Peer::new(now, life, self.timings)
            });
            if begins || peer.life != life {
                // Links are made anew: what was not heard by the old ones says nothing.
                let Peer { granted_until, held_until, held_epoch, .. } = peer;
                let new = Peer::new(now, life, self.timings);
                peer = Peer { granted_until, held_until, held_epoch, ..new };
            }
            self.peers.insert(id, peer);
        }
        for (id, peer) in old {
            self.parting.insert(id, peer.granted_until);
        }
        self.parting.retain(|_, until| *until > now);
    }

    /// How long a chain without `removed` (see [`crate::Replica::removed_tail`]) must wait before it
    /// commits or forwards anything: the end of the promise given to it. To be read after `adopt`,
    /// before a replica is configured; every map adopted is given to every replica it changes.
    #[must_use]
    pub fn hold_until(&self, removed: impl IntoIterator<Item = ServerId>) -> Time {
        let until = |id: ServerId| {
            let peer = self.peers.get(&id).map_or(Time(0), |peer| peer.granted_until);
            peer.max(self.parting.get(&id).copied().unwrap_or(Time(0)))
        };
        removed.into_iter().map(until).max().unwrap_or(Time(0)).max(self.forgotten_until)
    }

    /// The end of the promises this server holds from all of `peers` for a chain of `chain_epoch`:
    /// until then none of them goes on without it. A promise made by a map older than the chain does
    /// not count: its grantor may never have seen this server as tail, and would not wait for it.
    /// `Time::NEVER` for a chain of one.
    #[must_use]
    pub fn valid_until(
        &self,
        chain_epoch: Epoch,
        peers: impl IntoIterator<Item = ServerId>,
    ) -> Time {
        let until = |id| {
            let peer = self.peers.get(&id).filter(|peer| peer.held_epoch >= chain_epoch);
            peer.map_or(Time(0), |peer| peer.held_until)
        };
        peers.into_iter().map(until).min().unwrap_or(Time::NEVER)
    }

    /// A peer asks for a promise.
    pub fn ping(
        &mut self,
        now: Time,
        from: ServerId,
        asked_at: Time,
        outputs: &mut Vec<LeaseOutput>,
    ) {
        let lease = self.timings.lease_us;
        let until = now.after(lease).after(self.timings.drift(lease));
        let map_epoch = self.map_epoch;
        self.hear(now, from);
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.granted_until = peer.granted_until.max(until);
            outputs.push(LeaseOutput::Grant { to: from, asked_at, map_epoch });
        }
    }

    /// A peer's promise came. It counts only if this server's map is at least as new as the peer's:
    /// in a newer one this server may have lost its place already.
    pub fn grant(&mut self, now: Time, from: ServerId, asked_at: Time, map_epoch: Epoch) {
        let lease = self.timings.lease_us;
        let until = asked_at.after(lease - self.timings.drift(lease).min(lease));
        self.hear(now, from);
        if let Some(peer) = self.peers.get_mut(&from)
            && map_epoch <= self.map_epoch
            && (self.void_before..=now).contains(&asked_at)
        {
            if map_epoch > peer.held_epoch {
                peer.held_epoch = map_epoch;
                peer.held_until = until;
            } else if map_epoch == peer.held_epoch {
                peer.held_until = peer.held_until.max(until);
            }
        }
    }

    /// Asks for renewals that are due and reports peers that have been silent.
    pub fn tick(&mut self, now: Time, outputs: &mut Vec<LeaseOutput>) {
        self.notice_standstill(now);
        let LeaseTimings { ping_us, suspect_us, .. } = self.timings;
        for (&id, peer) in &mut self.peers {
            if peer.pinged_at.is_none_or(|at| now.since(at) >= ping_us) {
                peer.pinged_at = Some(now);
                outputs.push(LeaseOutput::Ping { to: id, asked_at: now });
            }
            let due = peer.suspected_at.is_none_or(|at| now.since(at) >= suspect_us);
            if now.since(peer.heard_at) >= suspect_us && due {
                peer.suspected_at = Some(now);
                outputs.push(LeaseOutput::Suspect { peer: id });
            }
        }
    }

    /// The link to `peer` broke (queue pair error, connection reset): suspect it at once.
    pub fn link_failed(&mut self, now: Time, peer: ServerId, outputs: &mut Vec<LeaseOutput>) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.suspected_at = Some(now);
            outputs.push(LeaseOutput::Suspect { peer });
        }
    }

    /// Peers that have not been heard in time lately, with the microseconds by which they were late.
    pub fn late_peers(&self, now: Time) -> impl Iterator<Item = (ServerId, u64)> + '_ {
        let timings = self.timings.lateness();
        let now = now.min(self.active_at.after(self.standstill_us()));
        let late = self
            .peers
            .iter()
            .map(move |(&id, peer)| (id, peer.lateness.total(now, peer.waited_us(now), timings)));
        late.filter(|(_, late_us)| *late_us > 0)
    }

    fn hear(&mut self, now: Time, from: ServerId) {
        self.notice_standstill(now);
        let timings = self.timings.lateness();
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.lateness.add(now, peer.waited_us(now), timings);
            peer.heard_at = now;
            peer.linked_by = Time(0);
            peer.suspected_at = None;
        }
    }

    /// What comes late because this server stood still is not late.
    fn notice_standstill(&mut self, now: Time) {
        let stood_us = now.since(self.active_at);
        self.active_at = self.active_at.max(now);
        if stood_us > self.standstill_us() {
            for peer in self.peers.values_mut() {
                peer.heard_at = peer.heard_at.after(stood_us).min(now);
            }
        }
    }

    fn standstill_us(&self) -> u64 {
        STANDSTILL_PINGS * self.timings.ping_us
    }

    /// Servers this one shares chains with.
    pub fn peers(&self) -> impl Iterator<Item = ServerId> + '_ {
        self.peers.keys().copied()
    }
}

#[cfg(test)]
mod tests;
