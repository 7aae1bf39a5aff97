//! Chains over real transports: several servers' shards in one process, killed and replaced while a
//! client pushes. Nothing acknowledged is lost, nothing is applied twice, replicas are equal.
#![allow(missing_docs, clippy::unwrap_used)]

mod client;
mod cluster;
mod expiry;
mod faults;
mod in_place;
mod kept;
mod late_rows;
mod linked;
mod memory;
mod order;
mod rules;
mod sums;
mod world;

use std::time::{Duration, Instant};

use windlass_wire::{
    DataType, ServerId, Status, TableEntry, TableId, TableSchema, control::Provider,
};

use self::{client::Client, world::World};

const ROWS: u64 = 400;

fn tables() -> Vec<TableEntry> {
    let dense = TableSchema::dense(DataType::F32, ROWS, 4);
    let sparse = TableSchema::sparse(DataType::F32, 3);
    let adam = TableSchema {
        rule: "adam:lr=0.01".parse().unwrap(),
        initializer: "normal:0,0.02".parse().unwrap(),
        expiry: "age:1d,rows:1000000".parse().unwrap(),
        ..TableSchema::sparse(DataType::F32, 8)
    };
    [("dense", dense), ("sparse", sparse), ("adam", adam)]
        .into_iter()
        .zip(1..)
        .map(|((name, schema), id)| TableEntry { id: TableId(id), name: name.to_owned(), schema })
        .collect()
}

/// Pushes a little of everything.
fn push_some(client: &mut Client, count: u64, from: u64) {
    for number in from..from + count {
        let spread: Vec<u64> = (0..5).map(|row| (number * 7 + row * 79) % ROWS).collect();
        let mut keys = spread.clone();
        keys.sort_unstable();
        keys.dedup();
        client.push(0, keys.clone(), 1.0);
        client.push(1, keys.iter().map(|key| key * 1_000_003 % 977).collect_sorted(), 1.0);
        if number.is_multiple_of(3) {
            client.push(2, keys, 0.5);
        }
        client.poll();
    }
}

trait CollectSorted: Iterator<Item = u64> + Sized {
    fn collect_sorted(self) -> Vec<u64> {
        let mut keys: Vec<u64> = self.collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

impl<I: Iterator<Item = u64>> CollectSorted for I {}

/// What the first two tables hold when `push_some` was carried out once for each number.
fn expected(count: u64) -> (Vec<f32>, std::collections::BTreeMap<u64, f32>) {
    let mut dense = vec![0.0; usize::try_from(ROWS).unwrap()];
    let mut sparse = std::collections::BTreeMap::new();
    for number in 0..count {
        let keys = (0..5).map(|row| (number * 7 + row * 79) % ROWS).collect_sorted();
        for key in &keys {
            dense[usize::try_from(*key).unwrap()] += 1.0;
        }
        for key in keys.iter().map(|key| key * 1_000_003 % 977).collect_sorted() {
            *sparse.entry(key).or_insert(0.0) += 1.0;
        }
    }
    (dense, sparse)
}

/// Rows of any replica; one that has just come in refuses until it has them all.
fn pull_in_time(
    client: &mut Client,
    table: usize,
    keys: &[u64],
    at: impl Fn(&[ServerId]) -> ServerId + Copy,
) -> Vec<f32> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match client.pull(table, keys, at, false) {
            Err(Status::StaleEpoch) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            pulled => return pulled.unwrap(),
        }
    }
}

fn assert_exact(client: &mut Client, count: u64) {
    let (dense, sparse) = expected(count);
    let rows: Vec<u64> = (0..ROWS).collect();
    for at in [0_usize, 1] {
        let pick = move |servers: &[ServerId]| servers[at % servers.len()];
        let pulled = pull_in_time(client, 0, &rows, pick);
        for (row, expected) in dense.iter().enumerate() {
            assert_eq!(pulled[row * 4], *expected, "row {row} at replica {at}");
        }
        let keys: Vec<u64> = sparse.keys().copied().collect();
        let pulled = pull_in_time(client, 1, &keys, pick);
        for (at, expected) in sparse.values().enumerate() {
            assert_eq!(pulled[at * 3], *expected, "key {}", keys[at]);
        }
    }
}

fn chains_of_three(provider: Provider) {
    let mut world = World::start(provider, 3, tables());
    world.push(300);
    world.client.settle();
    assert_eq!(world.client.unacknowledged(), 0);
    world.check();
    for node in &world.nodes {
        assert_eq!(node.ended.try_iter().collect::<Vec<_>>(), [], "links stand");
        assert_eq!(node.events.try_iter().collect::<Vec<_>>(), [], "nobody is suspected");
    }
}

#[test]
fn pushes_are_acknowledged_by_the_whole_chain_on_shm() {
    chains_of_three(Provider::Shm {});
}

#[test]
fn pushes_are_acknowledged_by_the_whole_chain_on_tcp() {
    chains_of_three(Provider::Tcp {});
}

/// The property: after each kill and each join what was acknowledged is there once, on equal replicas.
fn members_come_and_go(provider: Provider, victims: [u32; 3]) {
    let mut world = World::start(provider, 3, tables());
    world.push(100);
    for (victim, newcomer) in victims.into_iter().zip(4..) {
        world.kill(ServerId(victim));
        world.push(50);
        world.check();
        world.is_quiet = newcomer == 5;
        world.join(newcomer, u64::from(newcomer) * 10);
        world.push(50);
        world.check();
    }
}

#[test]
fn killed_and_joining_servers_lose_and_double_nothing_on_shm() {
    members_come_and_go(Provider::Shm {}, [1, 2, 3]);
    // Each time the one that joined last.
    members_come_and_go(Provider::Shm {}, [3, 4, 5]);
}

#[test]
fn killed_and_joining_servers_lose_and_double_nothing_on_tcp() {
    members_come_and_go(Provider::Tcp {}, [2, 4, 1]);
}

#[test]
fn the_last_member_goes_on_alone() {
    let mut world = World::start(Provider::Shm {}, 3, tables());
    world.push(50);
    world.kill(ServerId(1));
    world.kill(ServerId(3));
    world.push(50);
    world.check();
    world.join(7, 70);
    world.kill(ServerId(2));
    world.check();
}
