//! Tables that are kept on disk: servers end, one or all of them, and come back with their folders.

use std::time::{Duration, Instant};

use windlass_engine::shard::ServerEvent;
use windlass_wire::{Durability, Incarnation, ServerId, TableEntry, control::Provider};

use super::{
    cluster::{Node, assert_equal_replicas},
    tables,
    world::World,
};

fn kept(durability: Durability) -> Vec<TableEntry> {
    let mut tables = tables();
    tables.iter_mut().for_each(|table| table.schema.durability = durability);
    tables
}

/// Members are at one position, all of it known to all.
fn settle(world: &mut World) {
    world.client.settle_by(&world.map);
    assert_equal_replicas(&world.map, &world.nodes.iter().collect::<Vec<_>>());
}

#[test]
fn what_was_acknowledged_outlives_all_servers() {
    let folder = tempfile::tempdir().unwrap();
    let sync = kept(Durability::Sync {});
    let mut world = World::start_kept(Provider::Shm {}, 3, sync, folder.path());
    world.push(200);
    settle(&mut world);
    let before = world.nodes[2].checksums();
    world.restart_all(3, 100, Node::kill);
    // Not a row, not the optimiser's state, not a position differs.
    assert_eq!(world.nodes[0].checksums(), before);
    // What was acknowledged before is there, what was under way is sent again and applied once.
    world.push(100);
    world.restart_all(3, 101, Node::kill);
    world.check();

    // The others come back with what they held, which the chain has gone beyond.
    world.rejoin(1, 102);
    world.push(50);
    world.rejoin(2, 103);
    world.push(50);
    world.check();
    // Each of them has all of it on disk by now.
    for (last, life) in [(2, 104), (1, 105)] {
        let others: Vec<u32> = [1, 2, 3].into_iter().filter(|id| *id != last).collect();
        world.push(30);
        world.restart_all(last, life, Node::kill);
        world.check();
        world.rejoin(others[0], life + 100);
        world.rejoin(others[1], life + 200);
        world.push(30);
        world.check();
    }
}

#[test]
fn one_that_comes_back_is_given_what_it_missed() {
    let folder = tempfile::tempdir().unwrap();
    let sync = kept(Durability::Sync {});
    let mut world = World::start_kept(Provider::Tcp {}, 3, sync, folder.path());
    world.push(60);
    for (victim, life) in [(1, 100), (3, 101), (2, 102), (1, 103)] {
        world.kill(ServerId(victim));
        world.push(40);
        world.rejoin(victim, life);
        world.push(20);
        world.check();
    }
    world.restart_all(1, 200, Node::kill);
    world.check();
}

#[test]
fn intervals_are_written_back_and_memory_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut tables = kept(Durability::Interval { milliseconds: 20 });
    tables[2].schema.durability = Durability::Memory {};
    let mut world = World::start_kept(Provider::Shm {}, 3, tables, folder.path());
    world.push(150);
    settle(&mut world);
    world.restart_all(2, 100, Node::stop);
    world.check();
    let keys: Vec<u64> = (0..400).collect();
    let rows = world.client.pull(2, &keys, |all| all[0], false).unwrap();
    let schema = &world.tables[2].schema;
    let first = keys.iter().flat_map(|key| {
        let mut row = vec![0; schema.row_len().try_into().unwrap()];
        schema.initializer.of_table(&world.tables[2].name).fill(*key, schema.dtype, &mut row);
        row.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect::<Vec<_>>()
    });
    assert_eq!(rows, first.collect::<Vec<_>>(), "a table in memory is gone with all servers");
    world.rejoin(3, 101);
    world.push(50);
    world.check();
}

/// Both end at one position, and only one of them still has the rows of the table in memory.
#[test]
fn nobody_goes_on_from_where_a_disk_ends_that_lacks_a_table_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut tables = kept(Durability::Sync {});
    tables[2].schema.durability = Durability::Memory {};
    let mut world = World::start_kept(Provider::Shm {}, 2, tables, folder.path());
    world.push(150);
    settle(&mut world);
    // The last record of each partition is one that its log holds.
    world.client.push(0, (0..400).collect(), 1.0);
    settle(&mut world);
    let mut cut_off = world.nodes.pop().unwrap();
    world.restart_all(1, 100, Node::kill);
    cut_off.begin_life(Incarnation(101));
    world.nodes.push(cut_off);
    world.is_quiet = true;
    world.admit(ServerId(2), false);
    settle(&mut world);
}

#[test]
fn a_server_whose_disk_fails_leaves_its_chains() {
    let folder = tempfile::tempdir().unwrap();
    let sync = kept(Durability::Sync {});
    let mut world = World::start_kept(Provider::Shm {}, 3, sync, folder.path());
    world.push(50);
    settle(&mut world);
    world.node(ServerId(2)).fail_disk();
    world.push(30);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !world
        .node(ServerId(2))
        .events
        .try_iter()
        .any(|event| event == ServerEvent::DiskFailed {})
    {
        assert!(Instant::now() < deadline, "it says so");
        std::thread::sleep(Duration::from_millis(1));
    }
    world.client.poll();
    assert!(
        world.client.unacknowledged() > 0,
        "nothing is acknowledged that is not on three disks"
    );
    world.kill(ServerId(2));
    world.push(30);
    world.check();
    world.restart_all(1, 100, Node::kill);
    world.check();
}
