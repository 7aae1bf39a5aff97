//! How placement, the map and reconfiguration grow with the cluster, without moving a byte: the real
//! ring, coordinator and codec, driven through one join and one death.

use std::collections::BTreeMap;
use std::time::Instant;

use windlass_replication::coordinator::{Coordinator, CoordinatorInput, CoordinatorOptions};
use windlass_replication::membership::JoiningPhase;
use windlass_replication::ring::copies_moved;
use windlass_replication::{Change, Membership, Ring, Time};
use windlass_wire::{Incarnation, PartitionId, ServerId, coordination::Kept};

/// What one cluster size costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scale {
    /// Servers.
    pub servers: u32,
    /// Partitions, each a chain of `replicas`.
    pub partitions: u32,
    /// Members per chain.
    pub replicas: u8,
    /// Time to place everything anew, in microseconds.
    pub place_us: u64,
    /// Most and least copies on a server, in percent of the mean.
    pub load_max_percent: u64,
    /// The least loaded server, in percent of the mean.
    pub load_min_percent: u64,
    /// Bytes of the whole map.
    pub map_bytes: u64,
    /// Time to decode it, in microseconds.
    pub map_decode_us: u64,
    /// Copies that one more server moves, in percent of its even share.
    pub join_moved_percent: u64,
    /// Chains the death of one server changes.
    pub death_chains: u64,
    /// Servers that share those chains.
    pub death_peers: u64,
    /// Time to decide on the death, in microseconds.
    pub death_decide_us: u64,
    /// Maps published until all chains are whole again.
    pub repair_maps: u64,
    /// Time spent deciding until then, in microseconds.
    pub repair_decide_us: u64,
}

/// Measures one cluster size.
#[must_use]
pub fn measure(servers: u32, partitions: u32, replicas: u8) -> Scale {
    let mut scale = Scale { servers, partitions, replicas, ..Scale::default() };
    place(&mut scale);
    reconfigure(&mut scale);
    scale
}

impl Scale {
    /// The figures as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> String {
        let fields: [(&str, u64); 14] = [
            ("servers", u64::from(self.servers)),
            ("partitions", u64::from(self.partitions)),
            ("replicas", u64::from(self.replicas)),
            ("place_us", self.place_us),
            ("load_max_percent", self.load_max_percent),
            ("load_min_percent", self.load_min_percent),
            ("map_bytes", self.map_bytes),
            ("map_decode_us", self.map_decode_us),
            ("join_moved_percent", self.join_moved_percent),
            ("death_chains", self.death_chains),
            ("death_peers", self.death_peers),
            ("death_decide_us", self.death_decide_us),
            ("repair_maps", self.repair_maps),
            ("repair_decide_us", self.repair_decide_us),
        ];
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn ids(count: u32) -> impl Iterator<Item = ServerId> {
    (1..=count).map(ServerId)
}

fn place(scale: &mut Scale) {
    let empty = vec![Vec::new(); scale.partitions as usize];
    let began = Instant::now();
    let ring = Ring::new(ids(scale.servers));
    let chains = ring.place(&empty, usize::from(scale.replicas)).expect("servers and partitions");
    scale.place_us = micros(began);
    let mut loads: BTreeMap<ServerId, u64> = BTreeMap::new();
    for id in chains.iter().flatten() {
        *loads.entry(*id).or_default() += 1;
    }
    let copies: u64 = loads.values().sum();
    let mean = copies.max(1);
    let percent = |load: u64| load * 100 * u64::from(scale.servers) / mean;
    scale.load_max_percent = percent(loads.values().copied().max().unwrap_or(0));
    scale.load_min_percent = percent(loads.values().copied().min().unwrap_or(0));
    let larger = Ring::new(ids(scale.servers + 1));
    let after = larger.place(&chains, usize::from(scale.replicas)).expect("servers and partitions");
    let moved = copies_moved(&chains, &after) as u64;
    scale.join_moved_percent = moved * 100 * u64::from(scale.servers + 1) / mean;
}

struct Driver {
    coordinator: Coordinator,
    maps: u64,
    decide_us: u64,
}

impl Driver {
    /// Gives one input; the store agrees at once.
    fn give(&mut self, input: CoordinatorInput) {
        let mut outputs = Vec::new();
        let began = Instant::now();
        self.coordinator.step(Time(1), input, &mut outputs);
        self.decide_us += micros(began);
        self.store();
    }

    fn store(&mut self) {
        while let Some(draft) = self.coordinator.draft() {
            self.maps += 1;
            let epoch = draft.epoch;
            let began = Instant::now();
            let mut outputs = Vec::new();
            self.coordinator.step(Time(1), CoordinatorInput::Stored { epoch }, &mut outputs);
            self.decide_us += micros(began);
        }
    }
}

fn reconfigure(scale: &mut Scale) {
    let mut map = Membership::new(scale.partitions, scale.replicas).draft();
    for server in ids(scale.servers) {
        let join = Change::Join {
            server,
            incarnation: Incarnation(1),
            address: format!(
                "10.{}.{}.{}:7700",
                server.0 >> 16,
                server.0 >> 8 & 255,
                server.0 & 255
            ),
            shards: 16,
            kept: Kept::Whole {},
        };
        map.apply(join).expect("a new server");
    }
    let options = CoordinatorOptions {
        servers_at_creation: scale.servers as usize,
        ..CoordinatorOptions::default()
    };
    let coordinator = Coordinator::new(options);
    let mut driver = Driver { coordinator, maps: 0, decide_us: 0 };
    driver.give(CoordinatorInput::Elected { map });
    let map = driver.coordinator.map().clone();
    let mut bytes = Vec::new();
    map.encode(&mut bytes);
    scale.map_bytes = bytes.len() as u64;
    let began = Instant::now();
    let decoded = Membership::decode(&bytes, windlass_replication::MapLimits::default());
    scale.map_decode_us = micros(began);
    assert_eq!(decoded.as_ref(), Ok(&map), "a map survives its bytes");

    let dead = ServerId(scale.servers / 2 + 1);
    let mut peers: Vec<ServerId> = Vec::new();
    for partition in map.held_by(dead) {
        scale.death_chains += 1;
        peers.extend(map.partition(partition).expect("held").members.iter().copied());
    }
    peers.sort_unstable();
    peers.dedup();
    scale.death_peers = peers.len().saturating_sub(1) as u64;
    (driver.maps, driver.decide_us) = (0, 0);
    // The first map takes the dead server out and starts the first copies; the repair goes on from it.
    let mut outputs = Vec::new();
    let began = Instant::now();
    let fail = CoordinatorInput::Operator(Change::Fail { server: dead });
    driver.coordinator.step(Time(1), fail, &mut outputs);
    scale.death_decide_us = micros(began);
    driver.decide_us = scale.death_decide_us;
    driver.store();
    repair(&mut driver);
    scale.repair_maps = driver.maps;
    scale.repair_decide_us = driver.decide_us;
}

/// Every joining server copies and settles at once; what is decided meanwhile is batched as it would
/// be while the store writes.
fn repair(driver: &mut Driver) {
    loop {
        let map = driver.coordinator.map().clone();
        let mut inputs = Vec::new();
        for (id, entry) in (0_u32..).zip(&map.partitions) {
            let Some(joining) = entry.joining else { continue };
            let server = joining.server;
            let incarnation = map.servers[&server].incarnation;
            let (partition, epoch) = (PartitionId(id), entry.epoch);
            inputs.push(match joining.phase {
                JoiningPhase::Copying => {
                    CoordinatorInput::CaughtUp { server, incarnation, partition, epoch }
                }
                JoiningPhase::Tail => {
                    CoordinatorInput::Synchronised { server, incarnation, partition, epoch }
                }
            });
        }
        if inputs.is_empty() {
            return;
        }
        let mut outputs = Vec::new();
        let began = Instant::now();
        for input in inputs {
            driver.coordinator.step(Time(1), input, &mut outputs);
        }
        driver.decide_us += micros(began);
        driver.store();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_of_a_cluster_are_bounded() {
        let scale = measure(100, 1024, 3);
        assert!(scale.load_max_percent <= 112 && scale.load_min_percent >= 88, "{scale:?}");
        assert!(scale.join_moved_percent <= 120, "{scale:?}");
        assert!(scale.death_peers >= 30, "{scale:?}");
    }
}
