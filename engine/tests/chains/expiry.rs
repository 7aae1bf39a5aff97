//! Idle sessions are forgotten by records: by every replica and every recovery alike, and nobody who
//! is connected.

use std::time::{Duration, Instant};

use windlass_engine::shard::ShardCommand;
use windlass_wire::{Durability, ServerId, SessionId, control::Provider};

use super::{
    client::Client,
    cluster::{Node, assert_equal_replicas},
    tables,
    world::World,
};

const EXPIRY_MS: u32 = 400;
const GUEST: u64 = 99;
/// The table whose rows `World::check` does not count.
const UNCOUNTED: usize = 2;

/// Sessions that a server remembers, over its partitions.
fn remembered(node: &Node) -> u64 {
    let of = |handle: &windlass_engine::shard::ShardHandle| {
        handle
            .ask(|answer| ShardCommand::Statistics { answer })
            .unwrap()
            .counted
            .sessions_remembered
    };
    node.handles.iter().map(of).sum()
}

fn wait_until_all_remember(world: &World, count: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found: Vec<u64> = world.nodes.iter().map(remembered).collect();
        if found.iter().all(|found| *found == count) {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?} sessions remembered, not {count}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn guest(world: &World) -> Client {
    let mut guest = Client::new(GUEST, &world.map, &world.tables);
    world.nodes.iter().for_each(|node| guest.connect(node, world.provider));
    guest
}

fn push_as_guest(guest: &mut Client) {
    for number in 0..30 {
        guest.push(UNCOUNTED, vec![number, number + 1_000], 1.0);
    }
    guest.settle();
}

/// Its connections end as those of a client that is gone.
fn hang_up(world: &World) {
    for handle in world.nodes.iter().flat_map(|node| &node.handles) {
        handle.send(ShardCommand::CloseSession { session: SessionId(GUEST), connection: 7 });
    }
}

fn expire_in(world: &mut World, milliseconds: u32) {
    world.map.session_expiry_ms = milliseconds;
    world.install(|_, _| {});
    world.client.reroute(&world.map);
}

#[test]
fn all_replicas_forget_who_is_gone_and_nobody_who_is_there() {
    let mut world = World::start(Provider::Shm {}, 3, tables());
    expire_in(&mut world, EXPIRY_MS);
    world.push(80);
    world.check();
    let connected = remembered(&world.nodes[0]);
    assert!(connected > 0);
    let mut visitor = guest(&world);
    push_as_guest(&mut visitor);
    world.check();
    let both = remembered(&world.nodes[0]);
    wait_until_all_remember(&world, both);
    hang_up(&world);
    wait_until_all_remember(&world, connected);
    // However long it is silent, a session that is connected stays known.
    std::thread::sleep(Duration::from_millis(u64::from(EXPIRY_MS) * 2));
    wait_until_all_remember(&world, connected);
    world.push(30);

    // Who was forgotten and comes back begins afresh, and is forgotten alike by who leads then.
    world.nodes.iter().for_each(|node| visitor.disconnect(node.peer.server));
    world.nodes.iter().for_each(|node| visitor.connect(node, world.provider));
    push_as_guest(&mut visitor);
    world.check();
    wait_until_all_remember(&world, both);
    world.kill(ServerId(1));
    hang_up(&world);
    wait_until_all_remember(&world, connected);
    world.join(5, 50);
    world.check();
    wait_until_all_remember(&world, connected);
}

#[test]
fn what_is_forgotten_stays_so_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut kept = tables();
    kept.iter_mut().for_each(|table| table.schema.durability = Durability::Sync {});
    let mut world = World::start_kept(Provider::Shm {}, 3, kept, folder.path());
    expire_in(&mut world, EXPIRY_MS);
    world.push(80);
    world.check();
    let connected = remembered(&world.nodes[0]);
    let mut visitor = guest(&world);
    push_as_guest(&mut visitor);
    hang_up(&world);
    wait_until_all_remember(&world, connected);
    // The log is written up to what is acknowledged behind it.
    world.push(80);
    world.check();
    assert_equal_replicas(&world.map, &world.nodes.iter().collect::<Vec<_>>());
    world.restart_all(2, 100, Node::kill);
    wait_until_all_remember(&world, connected);
    world.push(30);
    world.check();
}
