//! Rows that come and go: their memory is made and given back beside the turns, which go on meanwhile.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crossbeam::channel::bounded;
use windlass_engine::shard::{ChainCommand, LinkEnded, ServerEvent, ShardCommand};
use windlass_wire::{
    DataType, PartitionId, ServerId, TableEntry, TableId, TableSchema, control::Provider,
    map::Chain,
};

use super::{
    cluster::{Node, PARTITIONS, assert_equal_replicas},
    tables,
    world::World,
};

const FOUR: ServerId = ServerId(4);

fn late_table() -> TableEntry {
    let schema = TableSchema {
        rule: "adam:lr=0.01".parse().unwrap(),
        ..TableSchema::dense(DataType::F32, 100_000, 16)
    };
    TableEntry { id: TableId(9), name: "late".to_owned(), schema }
}

/// A server with the tables of the cluster, which no map has named yet.
fn outsider(world: &World, memory_len_max: u64) -> Node {
    let node = Node::start_with(FOUR.0, 40, world.provider, memory_len_max);
    node.install(&world.map);
    world.tables.iter().for_each(|table| node.create(table));
    node
}

#[test]
fn pushes_are_acknowledged_while_the_memory_of_a_table_is_made() {
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let mut world = World::start(provider, 3, tables());
        world.push(20);
        world.client.settle_by(&world.map);
        let held: Vec<_> = world.nodes.iter().map(Node::hold_memory).collect();
        let mut answers = Vec::new();
        for handle in world.nodes.iter().flat_map(|node| &node.handles) {
            let (answer, answered) = bounded(1);
            handle.send(ShardCommand::CreateTable { entry: late_table(), answer });
            answers.push(answered);
        }
        let before = world.client.acknowledged;
        world.push(60);
        world.client.settle_by(&world.map);
        assert!(world.client.acknowledged >= before + 120, "they are acknowledged meanwhile");
        assert!(answers.iter().all(|answer| answer.is_empty()), "and the table is still made");
        drop(held);
        answers.iter().for_each(|answer| answer.recv().unwrap().unwrap());
        world.client.add_tables(&[late_table()]);
        world.client.push(3, vec![5, 70_000], 1.0);
        world.push(20);
        world.check();
    }
}

#[test]
fn a_table_that_is_dropped_while_it_is_made_leaves_nothing() {
    let world = World::start(Provider::Tcp {}, 1, tables());
    let node = &world.nodes[0];
    let left = node.memory_left();
    let held = node.hold_memory();
    let mut answers = Vec::new();
    for handle in &node.handles {
        let (answer, answered) = bounded(1);
        handle.send(ShardCommand::CreateTable { entry: late_table(), answer });
        answers.push(answered);
    }
    node.drop_table(late_table().id);
    drop(held);
    assert!(answers.iter().all(|answer| answer.recv().unwrap().is_err()));
    // Another one is made behind it.
    let other = TableEntry { id: TableId(10), ..late_table() };
    node.create(&other);
    assert_ne!(node.memory_left(), left);
    node.drop_table(other.id);
    assert_eq!(node.memory_left(), left);
}

#[test]
fn dropped_tables_give_back_all_that_was_taken_for_them() {
    let mut world = World::start(Provider::Shm {}, 1, tables());
    world.nodes[0].create(&late_table());
    world.push(100);
    world.client.settle_by(&world.map);
    let node = &world.nodes[0];
    assert!(node.memory_left().iter().all(|left| *left < 1 << 30));
    for id in [1, 2, 3, 9] {
        node.drop_table(TableId(id));
    }
    assert_eq!(node.memory_left(), [1 << 30; 2], "not a byte more or less");
}

#[test]
fn a_learner_copies_once_its_memory_is_made_and_holds_up_nobody_before() {
    let mut world = World::start(Provider::Shm {}, 3, tables());
    world.push(40);
    let node = outsider(&world, 1 << 30);
    world.client.connect(&node, world.provider);
    let held = node.hold_memory();
    world.nodes.push(node);
    world.introduce(FOUR, false);
    world.push(60);
    world.client.settle_by(&world.map);
    let caught_up = |event| matches!(event, ServerEvent::CaughtUp { .. });
    assert!(!world.node(FOUR).events.try_iter().any(caught_up), "it has no rows yet");
    drop(held);
    world.take_in(FOUR);
    world.push(60);
    world.check();
}

#[test]
fn a_map_that_needs_more_memory_than_there_is_takes_effect_and_is_told() {
    let dense = tables().remove(0);
    let mut world = World::start(Provider::Shm {}, 3, vec![dense]);
    world.client.push(0, vec![1, 70, 300], 1.0);
    // Each partition takes about 1 KiB, and a shard has four.
    world.nodes.push(outsider(&world, 3 << 10));
    world.introduce(FOUR, false);
    let (mut copied, mut refused) = (BTreeSet::new(), BTreeSet::new());
    let deadline = Instant::now() + Duration::from_secs(60);
    while copied.len() + refused.len() < PARTITIONS as usize {
        for event in world.node(FOUR).events.try_iter() {
            match event {
                ServerEvent::CaughtUp { partition, .. } => drop(copied.insert(partition)),
                ServerEvent::CannotHold { partition, epoch } => {
                    assert_eq!(epoch, world.map.chains[partition.0 as usize].epoch);
                    refused.insert(partition);
                }
                _ => {}
            }
        }
        assert!(Instant::now() < deadline, "copied {copied:?}, refused {refused:?}");
        world.client.poll();
    }
    assert_eq!(refused.len(), 2, "what fits is copied: {copied:?}");
    assert!(copied.is_disjoint(&refused));
    // The coordinator takes it in where it has caught up, and asks it no more where it has no memory.
    let joins = |world: &mut World, is_tail: bool| {
        world.map.epoch = world.map.epoch.next();
        for (at, chain) in world.map.chains.iter_mut().enumerate() {
            chain.learner = None;
            if is_tail && copied.iter().any(|partition| partition.0 as usize == at) {
                chain.servers.push(FOUR);
                (chain.tail_joining, chain.epoch) = (true, world.map.epoch);
            }
        }
        world.nodes.iter().for_each(|node| node.install(&world.map));
    };
    joins(&mut world, true);
    world.client.reroute(&world.map);
    let all: Vec<u64> = (0..400).collect();
    world.client.push(0, all, 1.0);
    world.client.settle_by(&world.map);
    assert_equal_replicas(&world.map, &world.nodes.iter().collect::<Vec<_>>());
    // With memory for nothing more, it still follows every map.
    joins(&mut world, false);
    assert_eq!(world.node(FOUR).states().len(), copied.len());
}

#[test]
fn rows_that_come_back_at_once_take_the_memory_of_those_that_go() {
    let dense = tables().remove(0);
    let mut world = World::start(Provider::Shm {}, 3, vec![dense]);
    world.client.push(0, vec![1, 70, 300], 1.0);
    // Room for the four partitions of a shard, and for no fifth one.
    world.nodes.push(outsider(&world, 4400));
    world.introduce(FOUR, false);
    let copied = |world: &World| {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut copied = BTreeSet::new();
        while copied.len() < PARTITIONS as usize {
            for event in world.node(FOUR).events.try_iter() {
                match event {
                    ServerEvent::CaughtUp { partition, .. } => drop(copied.insert(partition)),
                    ServerEvent::CannotHold { partition, .. } => panic!("{partition} has no room"),
                    _ => {}
                }
            }
            assert!(Instant::now() < deadline, "copied {copied:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    copied(&world);
    // Two maps that its shards take up in one turn: no partition is its, all are.
    let mut answers = Vec::new();
    for learner in [None, Some(FOUR)] {
        world.map.epoch = world.map.epoch.next();
        world.map.chains.iter_mut().for_each(|chain| chain.learner = learner);
        for handle in &world.node(FOUR).handles {
            let (answer, answered) = bounded(1);
            let map = std::sync::Arc::new(world.map.clone());
            handle.send(ShardCommand::InstallMap { map, answer });
            answers.push(answered);
        }
    }
    answers.iter().for_each(|answer| answer.recv().unwrap().unwrap());
    for node in world.nodes.iter().filter(|node| node.peer.server != FOUR) {
        let without = windlass_wire::ClusterMap {
            epoch: windlass_wire::Epoch(world.map.epoch.0 - 1),
            chains: world
                .map
                .chains
                .iter()
                .cloned()
                .map(|chain| Chain { learner: None, ..chain })
                .collect(),
            ..world.map.clone()
        };
        node.install(&without);
        node.install(&world.map);
    }
    copied(&world);
}

/// Partitions of a node that has part of their rows.
fn half_copied(node: &Node) -> usize {
    node.states().iter().filter(|part| !part.is_whole).count()
}

/// A server alone with the rows that it had got when the only one that had all of them was killed.
fn killed_in_the_midst_of_a_copy(first: ServerId, second: ServerId) -> World {
    let provider = Provider::Shm {};
    // This thread may be stopped for as long as a copy takes, but not each time.
    for _ in 0..20 {
        let schema = TableSchema::dense(DataType::F32, 400_000, 32);
        let large = TableEntry { id: TableId(1), name: "large".to_owned(), schema };
        let mut world = World::start(provider, 1, vec![large]);
        assert_eq!(world.nodes[0].peer.server, first);
        world.client.push(0, vec![1, 399_999], 7.0);
        world.client.settle();
        world.nodes.push(Node::start(second.0, 20, provider));
        world.introduce(second, true);
        let deadline = Instant::now() + Duration::from_secs(20);
        let node = world.node(second);
        while half_copied(node) == 0 && node.states().len() < PARTITIONS as usize {
            assert!(Instant::now() < deadline, "no copy was seen under way");
        }
        world.nodes.remove(0).kill();
        if half_copied(world.node(second)) > 0 {
            return world;
        }
    }
    panic!("all of it was copied at once");
}

/// Rows are half copied when the only server that had all of them is gone for good. Those of the partition
/// that begins empty are made beside the turns, as a new one's are, not wiped within one.
#[test]
fn a_partition_that_begins_empty_gets_its_rows_beside_the_turns() {
    let (first, second) = (ServerId(1), ServerId(2));
    let mut world = killed_in_the_midst_of_a_copy(first, second);
    let half = half_copied(world.node(second));
    let held = world.nodes[0].hold_memory();
    world.map.servers.retain(|entry| entry.id != first);
    world.install(|chain, epoch| {
        (chain.servers, chain.learner, chain.epoch) = (vec![second], None, epoch);
    });
    assert_eq!(half_copied(world.node(second)), 0, "what was half copied is given back");
    // Every partition gets a row; the ones that wait for theirs do not answer.
    world.client.disconnect(first);
    world.client.reroute(&world.map);
    let rows = |at: u64| vec![at * 50_000 + 3];
    (0..8).for_each(|at| world.client.push(0, rows(at), 1.0));
    let until = Instant::now() + Duration::from_millis(100);
    while Instant::now() < until {
        world.client.poll();
    }
    assert!(world.client.unacknowledged() >= half, "rows were wiped within a turn");
    drop(held);
    world.client.settle_by(&world.map);
    let node = world.node(second);
    let sums = node.checksums();
    assert_eq!(sums.len(), PARTITIONS as usize);
}

/// A partition whose shard did not lend it its memory thread would be charged with a slab when it needs one, and make
/// it within the turn.
#[test]
fn sparse_partitions_have_their_next_rows_made_by_the_thread_of_their_shard() {
    let schema = TableSchema::sparse(DataType::F32, 4096);
    let table = TableEntry { id: TableId(1), name: "wide".to_owned(), schema };
    let mut world = World::start(Provider::Tcp {}, 1, vec![table]);
    let keys: Vec<u64> =
        (0..).filter(|key| world.client.partition_of(0, *key) == 3).take(16).collect();
    let mut left = Vec::new();
    for key in keys {
        world.client.push(0, vec![key], 1.0);
        world.client.settle_by(&world.map);
        left.push(world.nodes[0].memory_left().iter().sum::<u64>());
    }
    // The first slab has 16 rows. Once half of them are taken the next one is asked for.
    assert!(left[..8].iter().all(|now| *now == left[0]), "{left:?}");
    assert!(left[8] + 32 * 4096 * 4 <= left[7], "the next slab was not asked for: {left:?}");
    assert_eq!(left[8], left[15]);
}

/// A sparse table whose rows take more than a small server has.
fn wide() -> TableEntry {
    let schema = TableSchema::sparse(DataType::F32, 256);
    TableEntry { id: TableId(1), name: "wide".to_owned(), schema }
}

/// Every row of it once more, by messages that fit a mailbox.
fn push_wide(world: &mut World) {
    for first in (0..2000).step_by(100) {
        world.client.push(0, (first..first + 100).collect(), 1.0);
    }
    world.client.settle_by(&world.map);
}

/// The partitions that a server says it cannot hold, once it has said so of any and, with a heartbeat,
/// again.
fn refused_by(world: &mut World, server: ServerId) -> BTreeSet<PartitionId> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut refused, mut again) = (BTreeSet::new(), BTreeSet::new());
    while refused.is_empty() || again != refused {
        world
            .node(server)
            .handles
            .iter()
            .for_each(|handle| handle.send(ShardCommand::Chain(ChainCommand::RepeatReports {})));
        for event in world.node(server).events.try_iter() {
            let ServerEvent::CannotHold { partition, epoch } = event else { continue };
            assert_eq!(epoch, world.map.chains[partition.0 as usize].epoch);
            if !refused.insert(partition) {
                again.insert(partition);
            }
        }
        assert!(Instant::now() < deadline, "it cannot hold {refused:?} and {again:?}");
        world.client.poll();
    }
    refused
}

#[test]
fn a_learner_without_memory_for_copied_rows_says_so_and_keeps_its_links() {
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let mut world = World::start(provider, 2, vec![wide()]);
        push_wide(&mut world);
        world.nodes.push(outsider(&world, 1 << 19));
        world.introduce(FOUR, false);
        let refused = refused_by(&mut world, FOUR);
        for node in &world.nodes {
            let ended: Vec<LinkEnded> = node.ended.try_iter().collect();
            assert!(ended.is_empty(), "links have ended: {ended:?}");
        }
        // What it gave up takes nothing, and pushes go on.
        push_wide(&mut world);
        world.install(|chain, _| chain.learner = None);
        assert_eq!(world.node(FOUR).memory_left(), [1 << 19; 2], "{refused:?}");
        assert_equal_replicas(&world.map, &world.nodes.iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_member_without_memory_for_new_rows_says_so_and_the_others_go_on() {
    let mut world = World::start(Provider::Tcp {}, 2, vec![wide()]);
    world.client.push(0, (0..16).collect(), 1.0);
    world.client.settle_by(&world.map);
    world.nodes.push(outsider(&world, 1 << 19));
    world.client.connect(world.nodes.last().unwrap(), world.provider);
    world.introduce(FOUR, false);
    world.is_quiet = true;
    world.take_in(FOUR);
    push_wide(&mut world);
    let refused = refused_by(&mut world, FOUR);
    let epoch = world.map.epoch.next();
    world.map.epoch = epoch;
    for partition in refused {
        let chain = &mut world.map.chains[partition.0 as usize];
        chain.servers.retain(|member| *member != FOUR);
        chain.epoch = epoch;
    }
    world.nodes.iter().for_each(|node| node.install(&world.map));
    world.client.reroute(&world.map);
    push_wide(&mut world);
    assert_equal_replicas(&world.map, &world.nodes.iter().collect::<Vec<_>>());
}
