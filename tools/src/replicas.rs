//! Are chains whole, and the replicas of every partition equal?

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;
use windlass_wire::{
    ClusterMap, Lsn, PartitionId, ServerId, coordination::PartitionChecksum, map::ServerState,
};

use crate::control::{AskError, Control};

/// Between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The replicas of a cluster beside each other.
#[derive(Debug, Default, Serialize)]
pub struct Comparison {
    /// Epoch of the map.
    pub epoch: u64,
    /// Partitions compared.
    pub partitions: usize,
    /// Replicas compared, over all partitions.
    pub replicas: usize,
    /// Partitions whose replicas differ at one position.
    pub divergent: Vec<Compared>,
    /// Partitions whose replicas were at no one position.
    pub apart: Vec<Compared>,
}

/// One partition's replicas.
#[derive(Debug, Serialize)]
pub struct Compared {
    /// The partition.
    pub partition: u32,
    /// Its replicas.
    pub replicas: Vec<Replica>,
}

/// What one server holds of one partition.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Replica {
    /// The server.
    pub server: u32,
    /// Position in the partition's log.
    pub lsn: u64,
    /// Sum over values and state there; hexadecimal in text, as a number of 64 bits is none in JSON.
    #[serde(serialize_with = "hexadecimal")]
    pub checksum: u64,
}

/// What one server holds.
type Held = BTreeMap<PartitionId, (Lsn, u64)>;

impl Comparison {
    /// Whether all are at one position each, and equal.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.divergent.is_empty() && self.apart.is_empty()
    }
}

/// Compares all replicas, and waits up to `timeout` for those that are a little behind.
///
/// # Errors
/// When a server that is up, or everybody in `addresses`, does not answer.
pub fn compare_within(
    addresses: &str,
    token: Option<&str>,
    timeout: Duration,
) -> Result<Comparison, AskError> {
    let deadline = Instant::now() + timeout;
    let map = Control::connect(addresses, token)?.map()?;
    if map.replicas <= 1 {
        // One copy of each partition: none differs from another.
        return Ok(Comparison { epoch: map.epoch.0, ..Comparison::default() });
    }
    loop {
        let found = look(addresses, token);
        let is_over = Instant::now() >= deadline;
        match found {
            Ok(found) if found.apart.is_empty() || !found.divergent.is_empty() || is_over => {
                return Ok(found);
            }
            Err(error) if is_over || !error.is_unreachable() => return Err(error),
            _ => thread::sleep(POLL_INTERVAL),
        }
    }
}

/// Waits up to `timeout` until every chain is whole. Returns whether they are.
///
/// # Errors
/// When nobody in `addresses` answers.
pub fn wait_until_whole(
    addresses: &str,
    token: Option<&str>,
    timeout: Duration,
) -> Result<bool, AskError> {
    let deadline = Instant::now() + timeout;
    loop {
        if is_whole(&Control::connect(addresses, token)?.map()?) {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Whether every chain has its copies, and none moves.
#[must_use]
pub fn is_whole(map: &ClusterMap) -> bool {
    map.chains.iter().all(|chain| {
        chain.servers.len() == usize::from(map.replicas)
            && chain.learner.is_none()
            && !chain.tail_joining
    })
}

fn look(addresses: &str, token: Option<&str>) -> Result<Comparison, AskError> {
    let map = Control::connect(addresses, token)?.map()?;
    let mut held: BTreeMap<ServerId, Held> = BTreeMap::new();
    for entry in map.servers.iter().filter(|entry| entry.state != ServerState::Down) {
        let sums = Control::connect(&entry.address, token)?.checksums()?;
        let of = |sum: PartitionChecksum| (sum.partition, (sum.lsn, sum.checksum));
        held.insert(entry.id, sums.into_iter().map(of).collect());
    }
    Ok(compare(&map, &held))
}

fn compare(map: &ClusterMap, held: &BTreeMap<ServerId, Held>) -> Comparison {
    let mut result = Comparison { epoch: map.epoch.0, ..Comparison::default() };
    for (partition, chain) in (0..).map(PartitionId).zip(&map.chains) {
        // A tail that joins may lack what the others have.
        let joined = chain.servers.len() - usize::from(chain.tail_joining);
        let found = chain.servers[..joined].iter().map(|server| {
            let held = held.get(server)?.get(&partition)?;
            Some(Replica { server: server.0, lsn: held.0.0, checksum: held.1 })
        });
        let replicas: Vec<Replica> = found.clone().flatten().collect();
        result.partitions += 1;
        result.replicas += replicas.len();
        let differ =
            |of: fn(&Replica) -> u64| replicas.windows(2).any(|two| of(&two[0]) != of(&two[1]));
        let compared = || Compared { partition: partition.0, replicas: replicas.clone() };
        if replicas.len() < joined || differ(|one| one.lsn) {
            result.apart.push(compared());
        } else if differ(|one| one.checksum) {
            result.divergent.push(compared());
        }
    }
    result
}

fn hexadecimal<S: serde::Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:016x}"))
}

#[cfg(test)]
mod tests {
    use windlass_wire::{Epoch, map::Chain};

    use super::*;

    #[test]
    fn replicas_are_compared_at_one_position() {
        let servers = vec![ServerId(0), ServerId(1)];
        let chain = Chain { epoch: Epoch(1), servers, ..Chain::default() };
        let map = ClusterMap { replicas: 2, chains: vec![chain; 4], ..ClusterMap::default() };
        let sums = |sums: [(u64, u64); 4]| -> Held {
            (0..).map(PartitionId).zip(sums.map(|(lsn, sum)| (Lsn(lsn), sum))).collect()
        };
        let mut held = BTreeMap::from([
            (ServerId(0), sums([(5, 1), (5, 1), (6, 1), (0, 0)])),
            (ServerId(1), sums([(5, 1), (5, 2), (5, 1), (0, 0)])),
        ]);
        let partitions =
            |list: &[Compared]| list.iter().map(|one| one.partition).collect::<Vec<_>>();
        let result = compare(&map, &held);
        assert_eq!((partitions(&result.divergent), partitions(&result.apart)), (vec![1], vec![2]));
        assert_eq!((result.partitions, result.replicas), (4, 8));
        held.remove(&ServerId(1));
        assert_eq!(partitions(&compare(&map, &held).apart), [0, 1, 2, 3]);
    }
}
