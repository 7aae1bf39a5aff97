//! Chains over real transports: several servers' shards in one process, killed and replaced while a
//! client pushes. Nothing acknowledged is lost, nothing is applied twice, replicas are equal.
#![allow(missing_docs, clippy::unwrap_used)]

mod client;
mod cluster;

use windlass_wire::{DataType, ServerId, TableEntry, TableId, TableSchema, control::Provider};

use self::{
    client::Client,
    cluster::{Node, assert_equal_replicas, link_all, map},
};

const ROWS: u64 = 400;

fn tables() -> Vec<TableEntry> {
    let dense = TableSchema::dense(DataType::F32, ROWS, 4);
    let sparse = TableSchema::sparse(DataType::F32, 3);
    let adam = TableSchema {
        rule: "adam:lr=0.01".parse().unwrap(),
        ..TableSchema::sparse(DataType::F32, 8)
    };
    [("dense", dense), ("sparse", sparse), ("adam", adam)]
        .into_iter()
        .zip(1..)
        .map(|((name, schema), id)| TableEntry { id: TableId(id), name: name.to_owned(), schema })
        .collect()
}

fn ids(nodes: &[&Node]) -> Vec<ServerId> {
    nodes.iter().map(|node| node.peer.server).collect()
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

fn assert_exact(client: &mut Client, count: u64) {
    let (dense, sparse) = expected(count);
    let rows: Vec<u64> = (0..ROWS).collect();
    for at in [0_usize, 1] {
        let pick = move |servers: &[ServerId]| servers[at % servers.len()];
        let pulled = client.pull(0, &rows, pick, false).unwrap();
        for (row, expected) in dense.iter().enumerate() {
            assert_eq!(pulled[row * 4], *expected, "row {row} at replica {at}");
        }
        let keys: Vec<u64> = sparse.keys().copied().collect();
        let pulled = client.pull(1, &keys, pick, false).unwrap();
        for (at, expected) in sparse.values().enumerate() {
            assert_eq!(pulled[at * 3], *expected, "key {}", keys[at]);
        }
    }
}

fn start(provider: Provider, servers: std::ops::RangeInclusive<u32>) -> Vec<Node> {
    servers.map(|server| Node::start(server, u64::from(server) * 10, provider)).collect()
}

fn chains_of_three(provider: Provider) {
    let nodes = start(provider, 1..=3);
    let all: Vec<&Node> = nodes.iter().collect();
    let peers: Vec<_> = all.iter().map(|node| node.peer).collect();
    let first = map(1, &peers, &ids(&all));
    for node in &all {
        node.install(&first);
        tables().iter().for_each(|table| node.create(table));
    }
    link_all(&all, provider);
    let mut client = Client::new(77, &first, &tables());
    for node in &all {
        client.connect(node, provider);
    }
    push_some(&mut client, 300, 0);
    client.settle();
    assert_eq!(client.unacknowledged(), 0);
    assert_equal_replicas(&first, &all);
    assert_exact(&mut client, 300);
    for node in &all {
        assert!(
            node.ended.is_empty() && node.events.is_empty(),
            "links stand, nobody is suspected"
        );
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

fn killed(provider: Provider, victim: u32) {
    let mut nodes = start(provider, 1..=3);
    let peers: Vec<_> = nodes.iter().map(|node| node.peer).collect();
    let first = map(1, &peers, &ids(&nodes.iter().collect::<Vec<_>>()));
    for node in &nodes {
        node.install(&first);
        tables().iter().for_each(|table| node.create(table));
    }
    link_all(&nodes.iter().collect::<Vec<_>>(), provider);
    let mut client = Client::new(78, &first, &tables());
    for node in &nodes {
        client.connect(node, provider);
    }
    push_some(&mut client, 100, 0);
    let at = nodes.iter().position(|node| node.peer.server == ServerId(victim)).unwrap();
    nodes.remove(at).kill();
    push_some(&mut client, 100, 100);
    let left: Vec<&Node> = nodes.iter().collect();
    // Every chain keeps its order without the victim.
    let mut second = first.clone();
    second.epoch = windlass_wire::Epoch(2);
    second.servers.retain(|server| server.id != ServerId(victim));
    for chain in &mut second.chains {
        chain.servers.retain(|server| *server != ServerId(victim));
        chain.epoch = windlass_wire::Epoch(2);
    }
    left.iter().for_each(|node| node.install(&second));
    client.reroute(&second);
    push_some(&mut client, 100, 200);
    client.settle_by(&second);
    assert_equal_replicas(&second, &left);
    assert_exact(&mut client, 300);
}

#[test]
fn a_killed_server_loses_and_doubles_nothing() {
    for victim in 1..=3 {
        killed(Provider::Shm {}, victim);
    }
    killed(Provider::Tcp {}, 2);
}
