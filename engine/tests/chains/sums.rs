//! Sums of partitions, by which replicas are compared: made over many turns, and of one position each.

use std::collections::BTreeMap;

use crossbeam::channel::{Receiver, bounded};
use windlass_engine::shard::{ChainCommand, PartitionChecksum, ShardCommand};
use windlass_wire::{DataType, PartitionId, TableEntry, TableId, TableSchema, control::Provider};

use super::{cluster::Node, world::World};

/// Rows that take more than a hundred turns to sum.
const ROWS: u64 = 600_000;
const WIDTH: u32 = 32;

type Answered = Receiver<Result<Vec<PartitionChecksum>, String>>;

fn start() -> World {
    let schema = TableSchema::dense(DataType::F32, ROWS, WIDTH);
    let large = TableEntry { id: TableId(1), name: "large".to_owned(), schema };
    World::start(Provider::Shm {}, 1, vec![large])
}

fn ask(node: &Node) -> Vec<Answered> {
    let ask = |handle: &windlass_engine::shard::ShardHandle| {
        let (answer, answered) = bounded(1);
        handle.send(ShardCommand::Chain(ChainCommand::Checksums { answer }));
        answered
    };
    node.handles.iter().map(ask).collect()
}

#[test]
fn a_shard_serves_while_it_sums_a_large_table() {
    let world = start();
    let node = &world.nodes[0];
    // Commands are carried out in turn: this one comes behind the sums, and is answered before them. This
    // thread may be stopped for as long as they take, but not each time.
    let is_served = (0..20).any(|_| {
        let answers = ask(node);
        node.memory_left();
        let is_served = answers.iter().all(|answer| answer.is_empty());
        let sums = answers.iter().flat_map(|answer| answer.recv().unwrap().unwrap());
        assert_eq!(sums.count(), 8);
        is_served
    });
    assert!(is_served, "all of it was one turn");
}

#[test]
fn a_sum_is_of_one_position_whatever_is_pushed_meanwhile() {
    let mut world = start();
    let by_partition = |sums: Vec<PartitionChecksum>| -> BTreeMap<PartitionId, PartitionChecksum> {
        sums.into_iter().map(|sum| (sum.partition, sum)).collect()
    };
    let mut before = by_partition(world.nodes[0].checksums());
    let mut changed = 0;
    for round in 0..6_u32 {
        let answers = ask(&world.nodes[0]);
        // A row near each end of every partition, by one message to each shard.
        let part = ROWS / 8;
        let keys: Vec<u64> = (0..8).flat_map(|at| [at * part + 1, (at + 1) * part - 1]).collect();
        std::thread::sleep(std::time::Duration::from_millis(u64::from(round) * 4));
        world.client.push(0, keys, 1.0);
        world.client.settle();
        let sums: Vec<PartitionChecksum> =
            answers.iter().flat_map(|answer| answer.recv().unwrap().unwrap()).collect();
        let after = by_partition(world.nodes[0].checksums());
        for sum in sums {
            let [before, after] = [&before, &after].map(|sums| sums[&sum.partition]);
            assert!(sum == before || sum == after, "{before:?}, {sum:?}, {after:?}");
            changed += u32::from(sum == after && before != after);
        }
        before = after;
    }
    assert!(changed > 0, "nothing was pushed meanwhile");
}
