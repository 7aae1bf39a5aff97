//! Servers that act by an old map, strong pulls, tables that come late.

use std::time::{Duration, Instant};

use windlass_engine::shard::{ServerEvent, ShardCommand};
use windlass_wire::{Epoch, Incarnation, ServerId, SessionId, Status, control::Provider};

use super::{
    cluster::{Node, transport},
    tables,
    world::World,
};

const ONE: ServerId = ServerId(1);

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a server opens a mailbox for a peer.
fn opens_for(node: &Node, peer: ServerId, incarnation: Incarnation) -> bool {
    let mut transport = transport(Provider::Tcp {});
    let pending = transport.create_queue_pair().unwrap();
    let endpoint = pending.endpoint().clone();
    let opened = node.handles[0].ask(|answer| ShardCommand::OpenMailbox {
        session: SessionId(4),
        incarnation,
        connection: 4,
        rank: None,
        peer: Some(windlass_wire::control::Peer { server: peer, incarnation }),
        provider: Provider::Tcp {},
        endpoint,
        answer,
    });
    opened.is_ok()
}

#[test]
fn a_fenced_server_is_refused_until_it_has_caught_up() {
    let mut world = World::start(Provider::Tcp {}, 3, tables());
    world.push(60);
    // The others go on without server 1, which knows nothing of it and goes on taking pushes.
    let old_life = world.node(ONE).peer.incarnation;
    let outsider = world.nodes.remove(0);
    world.map.servers.retain(|entry| entry.id != ONE);
    world.install(|chain, epoch| {
        chain.servers.retain(|member| *member != ONE);
        chain.epoch = epoch;
    });
    world.push(60);
    wait_for("the outsider's links are cut", || !outsider.ended.is_empty());
    assert!(world.nodes.iter().all(|node| !opens_for(node, ONE, old_life)));
    assert!(opens_for(&world.nodes[0], ServerId(2), Incarnation(20)), "others are let in");

    let mut outsider = outsider;
    outsider.begin_life(Incarnation(11));
    world.client.reroute(&world.map);
    world.push(60);
    world.check();
    let stale = world.client.pull(0, &[0], |_| ONE, false);
    assert_eq!(stale, Err(Status::StaleEpoch), "what a fenced server holds is not read");

    outsider.events.try_iter().for_each(drop);
    world.nodes.push(outsider);
    world.admit(ONE, false);
    world.push(60);
    world.check();
    world.kill(ServerId(2));
    world.kill(ServerId(3));
    world.check();
}

#[test]
fn a_server_that_missed_a_map_asks_for_it() {
    let mut world = World::start(Provider::Shm {}, 3, tables());
    world.push(30);
    world.client.settle();
    // Server 3 does not hear of the new chains.
    let late = world.nodes.pop().unwrap();
    world.install(|chain, epoch| {
        chain.servers.retain(|member| *member != ServerId(2));
        chain.epoch = epoch;
    });
    wait_for("it hears of a newer epoch", || {
        late.events.try_iter().any(|event| event == ServerEvent::StaleMap { epoch: Epoch(2) })
    });
    late.install(&world.map);
    world.nodes.push(late);
    world.push(30);
    world.client.settle_by(&world.map);
    world.check();
}

#[test]
fn strong_pulls_are_answered_by_a_tail_with_leases_only() {
    let mut world = World::start(Provider::Shm {}, 3, tables());
    world.push(50);
    world.client.settle();
    let strong = |world: &mut World, at: fn(&[ServerId]) -> ServerId| {
        world.client.pull(0, &[7], at, true).map(|row| row.len())
    };
    let tail: fn(&[ServerId]) -> ServerId = |servers| *servers.last().unwrap();
    wait_for("the tail gets its leases", || strong(&mut world, tail) == Ok(4));
    assert_eq!(strong(&mut world, |servers| servers[0]), Err(Status::StaleEpoch));
    assert_eq!(strong(&mut world, |servers| servers[1]), Err(Status::StaleEpoch));
    // A member that is silent renews nothing.
    let layout_tail = tail(&world.map.chains[world.client.partition_of(0, 7)].servers);
    let victim = world.map.servers.iter().map(|server| server.id).find(|id| *id != layout_tail);
    let at = world.nodes.iter().position(|node| Some(node.peer.server) == victim).unwrap();
    let silent = world.nodes.remove(at);
    silent.die();
    wait_for("leases run out", || strong(&mut world, tail) == Err(Status::StaleEpoch));
    let victim = silent.peer.server;
    silent.kill();
    world.remove(victim);
    wait_for("the new chain grants leases", || strong(&mut world, tail) == Ok(4));
}

#[test]
fn records_wait_for_their_table() {
    let all = tables();
    let mut world = World::start(Provider::Shm {}, 3, all[..1].to_vec());
    // Server 3 is told last, after pushes have come to the others.
    for node in &world.nodes[..2] {
        all[1..].iter().for_each(|table| node.create(table));
    }
    world.client.add_tables(&all[1..]);
    world.push(40);
    // Whatever passes by the third server waits, and nobody is told otherwise.
    std::thread::sleep(Duration::from_millis(20));
    assert!(world.client.unacknowledged() > 0);
    all[1..].iter().for_each(|table| world.nodes[2].create(table));
    world.check();
}
