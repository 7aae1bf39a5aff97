//! `windlass verify`: are the replicas of every partition equal?

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;
use windlass_wire::{
    ClusterMap, Lsn, PartitionId, ServerId, coordination::PartitionChecksum, map::ServerState,
};

use super::{
    Failure, Output,
    cluster::{self, ControlArguments},
};
use crate::report::table;

const AFTER_HELP: &str = "\
Compares sums over all values and optimiser state of each partition's replicas, taken at one position \
of its log; waits for replicas that are a little behind. Exits with 1 if any differ.

JSON keys: epoch; partitions (compared); replicas (compared, over all partitions); divergent: a list of \
partition and replicas (server, lsn, checksum) that differ at one position; apart: the same for those \
that were at no one position within --timeout, as under load.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// How long to wait for replicas to be at one position, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
    #[command(flatten)]
    connection: ControlArguments,
}

/// What `--json` prints.
#[derive(Debug, Default, Serialize)]
struct VerifyResult {
    epoch: u64,
    partitions: usize,
    replicas: usize,
    divergent: Vec<Compared>,
    apart: Vec<Compared>,
}

#[derive(Debug, Serialize)]
struct Compared {
    partition: u32,
    replicas: Vec<Replica>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Replica {
    server: u32,
    lsn: u64,
    /// Hexadecimal in text; a number of 64 bits is none in JSON.
    #[serde(serialize_with = "hexadecimal")]
    checksum: u64,
}

/// What one server holds.
type Held = BTreeMap<PartitionId, (Lsn, u64)>;

/// Between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_secs(arguments.timeout);
    let result = loop {
        let result = look(&arguments.connection)?;
        if result.apart.is_empty() || !result.divergent.is_empty() || Instant::now() >= deadline {
            break result;
        }
        std::thread::sleep(POLL_INTERVAL);
    };
    output.result(&result, || text(&result))?;
    if !result.divergent.is_empty() {
        return Err(Failure::failed(format!(
            "replicas of {} partitions differ: please report this",
            result.divergent.len()
        )));
    }
    if !result.apart.is_empty() {
        return Err(Failure::failed(
            "replicas were not at one position: wait until pushes pause, or longer with --timeout",
        ));
    }
    Ok(())
}

fn look(connection: &ControlArguments) -> Result<VerifyResult, Failure> {
    let map = cluster::connect(connection)?.map().map_err(cluster::failure)?;
    let mut held: BTreeMap<ServerId, Held> = BTreeMap::new();
    for entry in map.servers.iter().filter(|entry| entry.state != ServerState::Down) {
        let mut control = cluster::connect_to(&entry.address, connection)?;
        let sums = control.checksums().map_err(cluster::failure)?;
        let of = |sum: PartitionChecksum| (sum.partition, (sum.lsn, sum.checksum));
        held.insert(entry.id, sums.into_iter().map(of).collect());
    }
    Ok(compare(&map, &held))
}

fn compare(map: &ClusterMap, held: &BTreeMap<ServerId, Held>) -> VerifyResult {
    let mut result = VerifyResult { epoch: map.epoch.0, ..VerifyResult::default() };
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

fn text(result: &VerifyResult) -> String {
    let list = |compared: &[Compared]| {
        let numbers: Vec<String> = compared.iter().map(|one| one.partition.to_string()).collect();
        if numbers.is_empty() { "none".to_owned() } else { numbers.join(", ") }
    };
    table::facts(&[
        ("epoch", result.epoch.to_string()),
        ("partitions", result.partitions.to_string()),
        ("replicas compared", result.replicas.to_string()),
        ("partitions that differ", list(&result.divergent)),
        ("at no one position", list(&result.apart)),
    ])
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
