//! Placement: a fixed number of partitions onto chains of `replicas` distinct servers, by consistent
//! hashing with virtual nodes, then by a deterministic pass that moves single copies until every
//! server's load is within 10% of the mean (rounded to whole copies). Placement starts from the chains
//! in force, so that a join or a leave moves only its share.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;
use windlass_wire::{PartitionId, ServerId};

use crate::mix::mix2;

/// Points each server has on the ring: enough for even arcs, few enough to build quickly.
pub const VIRTUAL_NODES: u64 = 64;

/// How far a server's load may be from the mean before copies move, in percent; whole copies round in
/// its favour. Inside the 10% promised, so that a join does not move copies back and forth.
const SLACK_PERCENT: u64 = 5;

/// Why no placement was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PlacementError {
    /// There is no server to place on.
    #[error("no server is up: start one before placing partitions")]
    NoServers,
    /// The number of partitions is not a power of two.
    #[error("{partitions} partitions: choose a power of two at cluster creation")]
    NotAPowerOfTwo {
        /// The number asked for.
        partitions: u32,
    },
}

/// Servers as points on a circle of 2^64.
#[derive(Clone, Debug)]
pub struct Ring {
    /// (point, server), sorted.
    points: Vec<(u64, ServerId)>,
    servers: Vec<ServerId>,
}

impl Ring {
    /// The ring of `servers`, in any order.
    #[must_use]
    pub fn new(servers: impl IntoIterator<Item = ServerId>) -> Self {
        let servers: BTreeSet<ServerId> = servers.into_iter().collect();
        let servers: Vec<ServerId> = servers.into_iter().collect();
        let mut points: Vec<(u64, ServerId)> = servers
            .iter()
            .flat_map(|&id| (0..VIRTUAL_NODES).map(move |node| (mix2(u64::from(id.0), node), id)))
            .collect();
        points.sort_unstable();
        Self { points, servers }
    }

    /// The distinct servers clockwise from the point of one copy of `partition`: the preference order
    /// of that copy. Each copy has a point of its own, so that two servers share few chains.
    pub fn walk(&self, partition: PartitionId, copy: usize) -> impl Iterator<Item = ServerId> + '_ {
        let mut seen = BTreeSet::new();
        self.points_from(partition, copy).filter(move |&id| seen.insert(id))
    }

    /// The servers of all points clockwise, each as often as it has points.
    fn points_from(
        &self,
        partition: PartitionId,
        copy: usize,
    ) -> impl Iterator<Item = ServerId> + '_ {
        let from = mix2(u64::from(partition.0) ^ 0x5769_6E64_6C61_7373, copy as u64);
        let at = self.points.partition_point(|point| point.0 < from);
        let (before, after) = self.points.split_at(at);
        after.iter().chain(before).map(|point| point.1)
    }

    /// Chains for all partitions. `current` holds the chains in force (empty ones at creation);
    /// members that are no longer on the ring are dropped, the order of the others is kept, new
    /// members come at the tail. Chains are shorter than `replicas` only when there are fewer servers.
    pub fn place(
        &self,
        current: &[Vec<ServerId>],
        replicas: usize,
    ) -> Result<Vec<Vec<ServerId>>, PlacementError> {
        let partitions = u32::try_from(current.len()).unwrap_or(u32::MAX);
        if !partitions.is_power_of_two() {
            return Err(PlacementError::NotAPowerOfTwo { partitions });
        }
        if self.servers.is_empty() {
            return Err(PlacementError::NoServers);
        }
        let fresh = current.iter().all(Vec::is_empty);
        let mut plan = Plan::new(self, current, replicas.min(self.servers.len()));
        plan.fill(self);
        // The empty first: they take from the fullest, which leaves less to lower.
        plan.raise_the_empty();
        plan.lower_the_full(self);
        plan.raise_the_empty();
        if fresh {
            plan.spread_heads();
        }
        Ok(plan.chains)
    }
}

/// Copies that differ between two placements: what a change moves over the network.
#[must_use]
pub fn copies_moved(from: &[Vec<ServerId>], to: &[Vec<ServerId>]) -> usize {
    from.iter().zip(to).map(|(old, new)| new.iter().filter(|id| !old.contains(id)).count()).sum()
}

struct Plan {
    chains: Vec<Vec<ServerId>>,
    /// The partitions each server holds.
    held: BTreeMap<ServerId, BTreeSet<usize>>,
    replicas: usize,
    low: usize,
    high: usize,
    /// Servers with fewer than `low` copies, so that no ring is walked in vain.
    below_low: usize,
}

impl Plan {
    fn new(ring: &Ring, current: &[Vec<ServerId>], replicas: usize) -> Self {
        let mut held: BTreeMap<ServerId, BTreeSet<usize>> =
            ring.servers.iter().map(|&id| (id, BTreeSet::new())).collect();
        let mut chains: Vec<Vec<ServerId>> = Vec::with_capacity(current.len());
        for (partition, chain) in current.iter().enumerate() {
            let mut kept: Vec<ServerId> =
                chain.iter().copied().filter(|id| held.contains_key(id)).collect();
            kept.truncate(replicas);
            for id in &kept {
                held.get_mut(id).expect("kept servers are on the ring").insert(partition);
            }
            chains.push(kept);
        }
        let copies = current.len() * replicas;
        let servers = ring.servers.len();
        let slack = |percent: u64| copies * usize::try_from(percent).expect("a percentage");
        let low = slack(100 - SLACK_PERCENT) / (servers * 100);
        let high = slack(100 + SLACK_PERCENT).div_ceil(servers * 100);
        let below_low = held.values().filter(|held| held.len() < low).count();
        Self { chains, held, replicas, low, high: high.max(1), below_low }
    }

    fn load(&self, id: ServerId) -> usize {
        self.held[&id].len()
    }

    fn add(&mut self, partition: usize, id: ServerId) {
        self.chains[partition].push(id);
        let held = self.held.get_mut(&id).expect("the server is on the ring");
        held.insert(partition);
        self.below_low -= usize::from(held.len() == self.low);
    }

    fn shift(&mut self, partition: usize, from: ServerId, to: ServerId) {
        self.chains[partition].retain(|&id| id != from);
        let held = self.held.get_mut(&from).expect("the server is on the ring");
        self.below_low += usize::from(held.len() == self.low);
        held.remove(&partition);
        self.add(partition, to);
    }

    /// Gives every short chain the next servers clockwise that have room, in rounds by chain length,
    /// so that no chain waits long for its second copy. A chain whose walk meets only full servers
    /// takes the least loaded one.
    fn fill(&mut self, ring: &Ring) {
        for length in 0..self.replicas {
            for partition in 0..self.chains.len() {
                if self.chains[partition].len() > length {
                    continue;
                }
                let chain = &self.chains[partition];
                let id = partition_id(partition);
                let under = |bound: usize| {
                    ring.points_from(id, length)
                        .find(|id| !chain.contains(id) && self.load(*id) < bound)
                };
                // Servers below the band first: what they get here need not be moved to them later.
                let needy = if self.below_low > 0 { under(self.low) } else { None };
                let next = needy.or_else(|| under(self.high)).or_else(|| {
                    let others = ring.servers.iter().filter(|id| !chain.contains(id));
                    others.min_by_key(|&&id| (self.load(id), id)).copied()
                });
                if let Some(next) = next {
                    self.add(partition, next);
                }
            }
        }
    }

    /// Moves copies from servers above the band to the next server clockwise below it.
    fn lower_the_full(&mut self, ring: &Ring) {
        for donor in ring.servers.clone() {
            while self.load(donor) > self.high {
                let mut order: Vec<usize> = self.held[&donor].iter().copied().collect();
                order.sort_unstable_by_key(|&partition| mix2(u64::from(donor.0), partition as u64));
                let found = order.into_iter().find_map(|partition| {
                    let chain = &self.chains[partition];
                    let fits = |id: &ServerId| !chain.contains(id) && self.load(*id) < self.high;
                    ring.points_from(partition_id(partition), chain.len())
                        .find(fits)
                        .map(|to| (partition, to))
                });
                let Some((partition, to)) = found else { break };
                self.shift(partition, donor, to);
            }
        }
    }

    /// Moves copies to servers below the band, each from the fullest server, chosen by hash so that a
    /// newcomer shares chains with all its peers.
    fn raise_the_empty(&mut self) {
        let mut by_load: BTreeSet<(usize, ServerId)> =
            self.held.iter().map(|(&id, held)| (held.len(), id)).collect();
        while let Some(&(load, needy)) = by_load.first() {
            if load >= self.low {
                break;
            }
            let found = by_load.iter().rev().take_while(|(full, _)| *full > load + 1).find_map(
                |&(full, donor)| {
                    let mine = &self.held[&needy];
                    let theirs = self.held[&donor].iter().filter(|at| !mine.contains(at));
                    let hash = |at: &&usize| mix2(u64::from(needy.0), **at as u64);
                    theirs.min_by_key(hash).map(|&partition| (full, donor, partition))
                },
            );
            let Some((full, donor, partition)) = found else { break };
            by_load.remove(&(full, donor));
            by_load.remove(&(load, needy));
            self.shift(partition, donor, needy);
            by_load.insert((full - 1, donor));
            by_load.insert((load + 1, needy));
        }
    }

    /// Orders the members of new chains so that heads (which aggregate) and tails (which serve strong
    /// pulls) are spread evenly. Only at creation: later the order is history.
    fn spread_heads(&mut self) {
        let mut heads: BTreeMap<ServerId, usize> = BTreeMap::new();
        let mut tails: BTreeMap<ServerId, usize> = BTreeMap::new();
        for _ in 0..4 {
            for chain in &mut self.chains {
                if chain.len() < 2 {
                    continue;
                }
                for (role, counts) in [(0, &mut heads), (chain.len() - 1, &mut tails)] {
                    let free = if role == 0 { 0..chain.len() } else { 1..chain.len() };
                    let least = free.min_by_key(|&at| {
                        let held = usize::from(at == role);
                        counts.get(&chain[at]).copied().unwrap_or(0).saturating_sub(held)
                    });
                    chain.swap(role, least.expect("a chain of two has a member for each role"));
                }
                *heads.entry(chain[0]).or_default() += 1;
                *tails.entry(chain[chain.len() - 1]).or_default() += 1;
            }
        }
    }
}

fn partition_id(index: usize) -> PartitionId {
    PartitionId(u32::try_from(index).expect("partitions are counted in u32"))
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers of a test")]
mod tests {
    use super::*;

    fn servers(count: u32) -> Vec<ServerId> {
        (1..=count).map(ServerId).collect()
    }

    fn loads(chains: &[Vec<ServerId>]) -> BTreeMap<ServerId, usize> {
        let mut loads = BTreeMap::new();
        for id in chains.iter().flatten() {
            *loads.entry(*id).or_default() += 1;
        }
        loads
    }

    fn check(chains: &[Vec<ServerId>], count: u32, replicas: usize) {
        let replicas = replicas.min(count as usize);
        for chain in chains {
            assert_eq!(chain.len(), replicas);
            assert_eq!(chain.iter().collect::<BTreeSet<_>>().len(), replicas, "distinct servers");
        }
        let loads = loads(chains);
        let copies = chains.len() * replicas;
        let low = (copies * 9 / 10) / count as usize;
        let high = (copies * 11).div_ceil(10 * count as usize);
        assert!(low == 0 || loads.len() == count as usize, "a server holds nothing");
        for (id, load) in loads {
            assert!(
                (low..=high).contains(&load),
                "server {id} of {count} holds {load}: {low}..={high}"
            );
        }
    }

    fn fresh(count: u32, partitions: usize, replicas: usize) -> Vec<Vec<ServerId>> {
        Ring::new(servers(count)).place(&vec![Vec::new(); partitions], replicas).unwrap()
    }

    #[test]
    fn balanced_for_1_to_64_servers() {
        for count in 1..=64 {
            for (partitions, replicas) in [(64, 1), (64, 3), (1024, 2), (1024, 3)] {
                check(&fresh(count, partitions, replicas), count, replicas);
            }
        }
    }

    #[test]
    fn balanced_for_1000_servers() {
        check(&fresh(1000, 16_384, 3), 1000, 3);
    }

    #[test]
    fn heads_and_tails_are_spread() {
        for count in [3, 5, 16, 64] {
            let chains = fresh(count, 1024, 3);
            for role in [0, 2] {
                let mut counts: BTreeMap<ServerId, usize> = BTreeMap::new();
                for chain in &chains {
                    *counts.entry(chain[role]).or_default() += 1;
                }
                let most = *counts.values().max().unwrap();
                let least = *counts.values().min().unwrap();
                let mean = 1024 / count as usize;
                assert!(most <= mean * 12 / 10 + 1, "{count}: {most} of role {role}, mean {mean}");
                assert!(least >= mean * 8 / 10, "{count}: {least} of role {role}, mean {mean}");
            }
        }
    }

    #[test]
    fn deterministic_whatever_the_order_of_servers() {
        let mut reversed = servers(17);
        reversed.reverse();
        let current = vec![Vec::new(); 256];
        assert_eq!(
            Ring::new(reversed).place(&current, 3),
            Ring::new(servers(17)).place(&current, 3)
        );
    }

    #[test]
    fn a_join_moves_at_most_its_share() {
        for count in 3..=64 {
            let before = fresh(count, 1024, 3);
            let after = Ring::new(servers(count + 1)).place(&before, 3).unwrap();
            check(&after, count + 1, 3);
            let moved = copies_moved(&before, &after);
            let share = 1024 * 3 * 12 / (10 * (count as usize + 1));
            assert!(moved <= share, "{count} + 1 servers: {moved} copies moved, share {share}");
        }
    }

    #[test]
    fn a_leave_moves_at_most_its_share_and_spreads_over_all_peers() {
        for count in 4..=64 {
            let before = fresh(count, 1024, 3);
            let gone = ServerId(1 + count / 2);
            let left: Vec<ServerId> = servers(count).into_iter().filter(|&id| id != gone).collect();
            let after = Ring::new(left.clone()).place(&before, 3).unwrap();
            let moved = copies_moved(&before, &after);
            let held = loads(&before)[&gone];
            assert!(moved <= held * 12 / 10, "{moved} copies moved, {held} were held");
            let mut gained: BTreeMap<ServerId, usize> = BTreeMap::new();
            for (old, new) in before.iter().zip(&after) {
                for id in new.iter().filter(|id| !old.contains(id)) {
                    *gained.entry(*id).or_default() += 1;
                }
            }
            if count <= 16 {
                assert_eq!(gained.len(), left.len(), "every peer takes some of {count}'s load");
            }
            let most = gained.values().max().copied().unwrap_or(0);
            assert!(most <= 4 + 4 * held / left.len(), "{most} of {held} copies on one of {count}");
            let mut peers: BTreeMap<ServerId, usize> = BTreeMap::new();
            for chain in before.iter().filter(|chain| chain.contains(&gone)) {
                for id in chain.iter().filter(|&&id| id != gone) {
                    *peers.entry(*id).or_default() += 1;
                }
            }
            assert!(peers.len() * 10 >= left.len() * 7, "{} peers of {}", peers.len(), left.len());
        }
    }

    #[test]
    fn a_thousand_joins_and_leaves_stay_balanced() {
        let mut up: BTreeSet<ServerId> = servers(12).into_iter().collect();
        let mut chains = fresh(12, 256, 3);
        for step in 0..1000_u64 {
            let id = ServerId((mix2(step, 0) % 24) as u32);
            if !up.remove(&id) || up.len() < 4 {
                up.insert(id);
            }
            chains = Ring::new(up.iter().copied()).place(&chains, 3).unwrap();
            check(&chains, up.len() as u32, 3);
        }
    }

    /// Placements depend on nothing but servers and what was placed before, and every coordinator of any
    /// version must place alike: a standby of the next one goes on from the same map.
    #[test]
    fn places_as_every_version_does() {
        let mut digests = Vec::new();
        for (count, partitions, replicas) in
            [(1, 16, 3), (2, 64, 2), (5, 64, 3), (23, 256, 1), (40, 256, 3)]
        {
            let mut up: BTreeSet<ServerId> = servers(count).into_iter().collect();
            let mut chains = fresh(count, partitions, replicas);
            let mut digest = 0;
            for step in 0..12_u64 {
                for (place, id) in chains.iter().flat_map(|chain| (0..).zip(chain)) {
                    digest = mix2(digest, u64::from(id.0) << 8 | place);
                }
                let id = ServerId(1 + (mix2(step, u64::from(count)) % u64::from(count + 3)) as u32);
                if !up.remove(&id) || up.is_empty() {
                    up.insert(id);
                }
                let ring = Ring::new(up.iter().copied());
                let placed = ring.place(&chains, replicas).unwrap();
                let moved = copies_moved(&chains, &placed);
                digest = mix2(digest, moved as u64);
                chains = placed;
            }
            digests.push(digest);
        }
        assert_eq!(
            digests,
            [
                2_965_665_870_136_042_051,
                13_839_375_446_905_020_364,
                13_967_781_466_746_385_553,
                9_529_910_211_943_358_168,
                8_188_736_218_046_996_348,
            ]
        );
    }

    #[test]
    fn refusals_name_the_remedy() {
        let none = Ring::new([]).place(&vec![Vec::new(); 4], 3).unwrap_err();
        assert_eq!(none.to_string(), "no server is up: start one before placing partitions");
        Ring::new(servers(1)).place(&vec![Vec::new(); 6], 3).unwrap_err();
    }
}
