//! A client of chains whose servers are killed, with maps that the test hands out: it finds the new
//! heads, sends again what was not acknowledged, once, and reads what it is told it may.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[allow(dead_code, reason = "this test looks at less than the chains' own")]
#[path = "../../../../engine/tests/chains/cluster.rs"]
mod cluster;
mod control;
mod rounds;
mod scan;
mod workers;

use std::{
    collections::BTreeSet,
    net::TcpListener,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use windlass_client::{
    Client, ClientOptions, Consistency, Element, PendingPush, Provider, PullFrom, PullOptions,
    PushOptions, RequestError, TableEntry, TableSchema, WorkerRank,
};
use windlass_engine::shard::ServerEvent;
use windlass_wire::{ClusterMap, Epoch, ServerEntry, ServerId, TableId, map::ServerState};

use self::{
    cluster::{Node, assert_equal_replicas, link_all, map},
    control::Port,
};

const PROVIDERS: [Provider; 2] = [Provider::Shm {}, Provider::Tcp {}];
const ROWS: u64 = 5000;
const FROM: [PullFrom; 3] = [PullFrom::Tail, PullFrom::Any, PullFrom::Strong];

fn tables() -> Vec<TableEntry> {
    let consistency = Consistency::Sequential {};
    let schemas = [
        ("counted", TableSchema::sparse(i64::DTYPE, 1)),
        ("dense", TableSchema::dense(f64::DTYPE, ROWS, 2)),
        ("clocked", TableSchema { consistency, ..TableSchema::dense(f64::DTYPE, 64, 2) }),
        ("by worker", workers::schema()),
        ("in rounds", rounds::schema()),
    ];
    let numbered = schemas.into_iter().zip(1..);
    numbered
        .map(|((name, schema), id)| TableEntry { id: TableId(id), name: name.to_owned(), schema })
        .collect()
}

/// Three servers, every one of them head, middle and tail of some chains.
struct Cluster {
    provider: Provider,
    servers: Vec<(Node, Port)>,
    map: ClusterMap,
}

impl Cluster {
    fn start(provider: Provider) -> Self {
        let nodes: Vec<Node> =
            (1..=3).map(|id| Node::start(id, u64::from(id) * 10, provider)).collect();
        let listeners: Vec<TcpListener> =
            nodes.iter().map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let peers: Vec<_> = nodes.iter().map(|node| node.peer).collect();
        let ids: Vec<_> = peers.iter().map(|peer| peer.server).collect();
        let mut map = map(1, &peers, &ids);
        for (server, listener) in map.servers.iter_mut().zip(&listeners) {
            server.address = listener.local_addr().unwrap().to_string();
        }
        for node in &nodes {
            node.install(&map);
            tables().iter().for_each(|table| node.create(table));
        }
        link_all(&nodes.iter().collect::<Vec<_>>(), provider);
        let open = |(node, listener): (Node, TcpListener)| {
            let port = Port::open(listener, &node, provider, &tables(), &map);
            (node, port)
        };
        let servers = nodes.into_iter().zip(listeners).map(open).collect();
        Self { provider, servers, map }
    }

    /// Starts a server that copies every partition, and waits until it has.
    fn learn(&mut self, id: u32) {
        let node = Node::start(id, u64::from(id) * 10, self.provider);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        self.map.epoch = Epoch(self.map.epoch.0 + 1);
        self.map.servers.push(ServerEntry {
            id: node.peer.server,
            incarnation: node.peer.incarnation,
            address: listener.local_addr().unwrap().to_string(),
            shard_count: cluster::SHARDS,
            state: ServerState::Up,
        });
        self.map.chains.iter_mut().for_each(|chain| chain.learner = Some(node.peer.server));
        node.install(&self.map);
        tables().iter().for_each(|table| node.create(table));
        let port = Port::open(listener, &node, self.provider, &tables(), &self.map);
        self.servers.push((node, port));
        self.tell();
        let (node, _) = self.servers.last().unwrap();
        for (other, _) in &self.servers[..self.servers.len() - 1] {
            other.link(node, self.provider);
            node.link(other, self.provider);
        }
        self.hear(id, |event| matches!(event, ServerEvent::CaughtUp { .. }));
    }

    /// Makes a server that has copied every partition their tail.
    fn promote(&mut self, id: u32) {
        self.map.epoch = Epoch(self.map.epoch.0 + 1);
        for chain in &mut self.map.chains {
            chain.servers.push(ServerId(id));
            (chain.learner, chain.tail_joining, chain.epoch) = (None, true, self.map.epoch);
        }
        self.tell();
        self.hear(id, |event| matches!(event, ServerEvent::Synchronised { .. }));
        self.map.epoch = Epoch(self.map.epoch.0 + 1);
        self.map.chains.iter_mut().for_each(|chain| chain.tail_joining = false);
        self.tell();
    }

    fn tell(&self) {
        for (node, port) in &self.servers {
            node.install(&self.map);
            port.tell(&self.map);
        }
    }

    /// Waits until a server has said so of every partition.
    fn hear(&self, id: u32, is_so: impl Fn(&ServerEvent) -> bool) {
        let (node, _) =
            self.servers.iter().find(|(node, _)| node.peer.server == ServerId(id)).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut said = BTreeSet::new();
        while said.len() < cluster::PARTITIONS as usize {
            assert!(Instant::now() < deadline, "server {id} said so of {said:?} only");
            let event = node.events.recv_timeout(Duration::from_millis(100));
            if let Ok(event) = event.as_ref()
                && is_so(event)
                && let ServerEvent::CaughtUp { partition, .. }
                | ServerEvent::Synchronised { partition, .. } = event
            {
                said.insert(*partition);
            }
        }
    }

    /// Where any of them is.
    fn addresses(&self) -> String {
        let addresses: Vec<_> =
            self.map.servers.iter().map(|server| server.address.as_str()).collect();
        format!("windlass://{}", addresses.join(","))
    }

    /// Kills a server, and takes it out of every chain a while later.
    fn kill(&mut self, victim: u32, until_known: Duration) {
        let is_victim = |(node, _): &(Node, Port)| node.peer.server == ServerId(victim);
        let (node, port) = self.servers.remove(self.servers.iter().position(is_victim).unwrap());
        port.close();
        node.kill();
        std::thread::sleep(until_known);
        self.map.epoch = Epoch(self.map.epoch.0 + 1);
        self.map.servers.retain(|server| server.id != ServerId(victim));
        for chain in &mut self.map.chains {
            chain.servers.retain(|server| *server != ServerId(victim));
            chain.epoch = self.map.epoch;
        }
        self.tell();
    }

    fn assert_equal_replicas(&self) {
        let nodes: Vec<_> = self.servers.iter().map(|(node, _)| node).collect();
        assert_equal_replicas(&self.map, &nodes);
    }
}

fn connect(addresses: &str, rank: Option<u32>) -> Client {
    let options = ClientOptions {
        rank: rank.map(WorkerRank),
        timeout: Duration::from_secs(60),
        retry_for: Duration::from_secs(60),
        ..ClientOptions::default()
    };
    Client::connect_with(addresses, options).unwrap()
}

fn push() -> PushOptions {
    PushOptions::default()
}

fn from(from: PullFrom) -> PullOptions {
    PullOptions { from, ..PullOptions::default() }
}

/// Pushes until told that this is the last round; returns how many rounds there were.
fn load(client: &Client, is_over: &AtomicBool) -> u64 {
    let counted = client.open_table::<i64>("counted").unwrap();
    let dense = client.open_table::<f64>("dense").unwrap();
    let mut rounds = 0;
    let mut is_last = false;
    while !is_last {
        is_last = is_over.load(Ordering::SeqCst);
        let first = rounds * 100;
        let pending: Vec<_> = (0..10)
            .map(|at| {
                let keys: Vec<u64> = (first + at * 10..first + at * 10 + 10).collect();
                counted.push(&keys, &[1; 10], &push()).unwrap()
            })
            .collect();
        let mut rows = client.allocate::<f64>(usize::try_from(ROWS).unwrap() * 2).unwrap();
        rows.fill(1.0);
        let (back, outcome) = dense.push_rows(0..ROWS, rows, &push()).unwrap().wait_rows();
        outcome.unwrap();
        assert!(back.unwrap().iter().all(|value| *value == 1.0));
        pending.into_iter().for_each(|pushed| pushed.wait().unwrap());
        rounds += 1;
        for place in FROM {
            let range = dense.pull(0..ROWS, &from(place)).unwrap().wait().unwrap();
            assert!(range.iter().all(|value| *value == rounds as f64), "{place:?}");
            let some = dense.pull(&[3, 999, 4000], &from(place)).unwrap().wait().unwrap();
            assert_eq!(some, [rounds as f64; 6], "{place:?}");
        }
    }
    let keys: Vec<u64> = (0..rounds * 100).collect();
    for place in FROM {
        for keys in keys.chunks(5000) {
            let counts = counted.pull(keys, &from(place)).unwrap().wait().unwrap();
            assert!(counts.iter().all(|count| *count == 1), "{place:?}: {counts:?}");
        }
    }
    rounds
}

#[test]
fn killed_servers_cost_no_push_and_double_none() {
    for (provider, victims) in [(PROVIDERS[0], [1, 2]), (PROVIDERS[1], [3, 1])] {
        let mut cluster = Cluster::start(provider);
        let client_addresses = cluster.addresses();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let loading = scope.spawn(|| load(&connect(&client_addresses, None), &is_over));
            for victim in victims {
                std::thread::sleep(Duration::from_millis(150));
                cluster.kill(victim, Duration::from_millis(50));
            }
            std::thread::sleep(Duration::from_millis(100));
            is_over.store(true, Ordering::SeqCst);
            assert!(loading.join().unwrap() > 0);
        });
        cluster.assert_equal_replicas();
    }
}

#[test]
fn pushes_follow_the_head_to_another_server() {
    for provider in PROVIDERS {
        let mut cluster = Cluster::start(provider);
        let client = connect(&cluster.addresses(), None);
        let counted = client.open_table::<i64>("counted").unwrap();
        let keys: Vec<u64> = (0..1000).collect();
        let epochs = [client.map().epoch];
        counted.push(&keys, &[1; 1000], &push()).unwrap().wait().unwrap();
        cluster.kill(1, Duration::ZERO);
        counted.push(&keys, &[1; 1000], &push()).unwrap().wait().unwrap();
        assert_eq!((epochs[0], client.map().epoch), (Epoch(1), Epoch(2)));
        assert!(client.counters().resent > 0, "{:?}", client.counters());
        let pulled = counted.pull(&keys, &from(PullFrom::Strong)).unwrap().wait().unwrap();
        assert!(pulled.iter().all(|count| *count == 2), "{pulled:?}");
        cluster.assert_equal_replicas();
    }
}

#[test]
fn a_chain_without_servers_is_an_error_that_names_its_partition() {
    let mut cluster = Cluster::start(Provider::Shm {});
    let options =
        ClientOptions { retry_for: Duration::from_millis(300), ..ClientOptions::default() };
    let client = Client::connect_with(&cluster.addresses(), options).unwrap();
    let dense = client.open_table::<f64>("dense").unwrap();
    for (_, port) in &cluster.servers {
        let mut lost = cluster.map.clone();
        lost.epoch = Epoch(2);
        lost.chains[5].servers.clear();
        port.tell(&lost);
    }
    for id in 1..=2 {
        let is_victim = |(node, _): &(Node, Port)| node.peer.server == ServerId(id);
        let at = cluster.servers.iter().position(is_victim).unwrap();
        let (node, port) = cluster.servers.remove(at);
        port.close();
        node.kill();
    }
    let ones = vec![1.0; usize::try_from(ROWS).unwrap() * 2];
    let pushed = dense.push(0..ROWS, &ones, &push()).and_then(PendingPush::wait);
    assert!(matches!(pushed, Err(RequestError::PartitionUnavailable { .. })), "{pushed:?}");
    for place in FROM {
        let pulled = dense.pull(0..ROWS, &from(place)).and_then(|pull| pull.wait());
        assert!(matches!(pulled, Err(RequestError::PartitionUnavailable { .. })), "{pulled:?}");
    }
}

/// Two workers add one to every row each round. A pull sees all earlier rounds of both, whatever was
/// killed: a clock is known at a tail only when what was pushed before it is there.
#[test]
fn no_pull_is_staler_than_its_table_allows_when_servers_are_killed() {
    const WORKERS: u32 = 2;
    for provider in PROVIDERS {
        let mut cluster = Cluster::start(provider);
        let addresses = cluster.addresses();
        let is_over = AtomicBool::new(false);
        let together = Barrier::new(WORKERS as usize);
        // Both end after the same round: nobody waits for a worker that has left. The first one
        // names it two rounds ahead, and the other cannot be there before it has heard.
        let rounds = AtomicU64::new(u64::MAX);
        std::thread::scope(|scope| {
            for rank in 0..WORKERS {
                let (addresses, is_over, together) = (&addresses, &is_over, &together);
                let rounds = &rounds;
                scope.spawn(move || {
                    let client = connect(addresses, Some(rank));
                    let table = client.open_table::<f64>("clocked").unwrap();
                    table.wait_for_workers(u64::from(WORKERS)).unwrap();
                    together.wait();
                    let keys: Vec<u64> = (0..64).collect();
                    let mut round = 0_u64;
                    while round < rounds.load(Ordering::SeqCst) {
                        if rank == 0 && is_over.swap(false, Ordering::SeqCst) {
                            rounds.store(round + 2, Ordering::SeqCst);
                        }
                        let pulled = if round.is_multiple_of(2) {
                            table.pull(0..64, &PullOptions::default())
                        } else {
                            table.pull(&keys, &PullOptions::default())
                        };
                        let pulled = pulled.unwrap().wait().unwrap();
                        let least = round as f64 * f64::from(WORKERS);
                        assert!(
                            pulled.iter().all(|value| *value >= least),
                            "round {round}: {pulled:?}"
                        );
                        drop(table.push(&keys, &[1.0; 128], &push()).unwrap());
                        client.advance_clock().unwrap();
                        round += 1;
                    }
                    client.wait_all().unwrap();
                    let pulled = table.pull(0..64, &PullOptions::default());
                    let all = round as f64 * f64::from(WORKERS);
                    assert_eq!(pulled.unwrap().wait().unwrap(), [all; 128]);
                });
            }
            for victim in [2, 1] {
                std::thread::sleep(Duration::from_millis(150));
                cluster.kill(victim, Duration::from_millis(30));
            }
            std::thread::sleep(Duration::from_millis(150));
            is_over.store(true, Ordering::SeqCst);
        });
        cluster.assert_equal_replicas();
    }
}
