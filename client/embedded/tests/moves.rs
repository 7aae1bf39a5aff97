//! Where there is one copy of each partition, partitions move all the same:
//! servers join and leave under a client that pushes, and nothing is lost, doubled or refused.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use windlass_client::{
    Aggregation, Client, ClientOptions, Consistency, Durability, Element, Provider, PullOptions,
    PushOptions, ScanOptions, TableSchema, WorkerRank,
};
use windlass_engine::{CoordinatorConfig, CoordinatorServer, Server, ServerConfig};
use windlass_transport::control::ControlStream;
use windlass_wire::{
    ClusterMap, Incarnation, ServerId, SessionId,
    control::{ClientReply, ClientRequest, PROTOCOL_VERSION},
    coordination::Operation,
};

const ROWS: u64 = 3000;

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

struct Cluster {
    coordinator: CoordinatorServer,
    provider: Provider,
    servers: Vec<Server>,
}

impl Cluster {
    fn start(provider: Provider, data: Option<&Path>) -> Self {
        Self::of(16, provider, data)
    }

    fn of(partitions: u32, provider: Provider, data: Option<&Path>) -> Self {
        let config = CoordinatorConfig { partitions, ..CoordinatorConfig::new(1) };
        let coordinator = CoordinatorServer::start(anywhere(), None, false, config).unwrap();
        let mut cluster = Self { coordinator, provider, servers: Vec::new() };
        cluster.join(data.map(|data| data.join("first")));
        cluster
    }

    fn join(&mut self, data_dir: Option<PathBuf>) {
        let config = ServerConfig {
            listen: anywhere(),
            providers: vec![self.provider],
            coordinators: vec![self.coordinator.address().to_string()],
            shards: 2,
            memory_len_max: 1 << 28,
            data_dir,
            ..ServerConfig::default()
        };
        self.servers.push(Server::start(config).unwrap());
    }

    /// Asks the coordinator.
    fn ask(&self, request: &ClientRequest) -> ClientReply {
        let mut stream = ControlStream::connect(&self.coordinator.address().to_string()).unwrap();
        let hello = ClientRequest::Hello {
            version: PROTOCOL_VERSION,
            token: String::new(),
            session: SessionId(1),
            incarnation: Incarnation(1),
            rank: None,
            host: String::new(),
            peer: None,
        };
        assert!(matches!(stream.ask(&hello).unwrap(), ClientReply::Welcome { .. }));
        stream.ask(request).unwrap()
    }

    fn operate(&self, operation: Operation) {
        let done = self.ask(&ClientRequest::Operate { operation });
        assert!(matches!(done, ClientReply::Done {}), "{done:?}");
    }

    /// Waits until every partition is at one of these servers and each of them has some.
    fn wait_until_at(&self, servers: &[u32]) {
        let is_so = |map: &ClusterMap| {
            let whole = |chain: &windlass_wire::map::Chain| {
                chain.learner.is_none() && chain.servers.len() == 1 && !chain.tail_joining
            };
            let holds = |id: &u32| map.chains.iter().any(|chain| chain.servers == [ServerId(*id)]);
            let only = |chain: &windlass_wire::map::Chain| servers.contains(&chain.servers[0].0);
            map.chains.iter().all(whole) && map.chains.iter().all(only) && servers.iter().all(holds)
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.ask(&ClientRequest::CoordinatorStatus {});
            let ClientReply::CoordinatorStatus { status } = status else { panic!("{status:?}") };
            if is_so(&status.map) {
                return;
            }
            assert!(Instant::now() < deadline, "not at {servers:?}: {:?}", status.map.chains);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn client(&self) -> Client {
        let options = ClientOptions { providers: vec![self.provider], ..ClientOptions::default() };
        let addresses: Vec<&str> = self.servers.iter().map(Server::advertised).collect();
        Client::connect_with(&addresses.join(","), options).unwrap()
    }
}

/// Pushes until told to stop, every row as often as the others; returns how often.
fn load(client: &Client, is_over: &AtomicBool) -> i64 {
    let counted = client.open_table::<i64>("counted").unwrap();
    let dense = client.open_table::<f64>("dense").unwrap();
    let ones = vec![1.0; usize::try_from(ROWS).unwrap()];
    let keys: Vec<u64> = (0..500).map(|key| key * 1_000_003).collect();
    let options = PushOptions::default();
    let mut rounds = 0_i64;
    while !is_over.load(Ordering::SeqCst) {
        let first = counted.push(&keys, &[1; 500], &options).unwrap();
        let second = dense.push(0..ROWS, &ones, &options).unwrap();
        first.wait().unwrap();
        second.wait().unwrap();
        rounds += 1;
        let seen = dense.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
        assert!(seen.iter().all(|value| *value == rounds as f64), "round {rounds}");
    }
    let counts = counted.pull(&keys, &PullOptions::default()).unwrap().wait().unwrap();
    assert!(counts.iter().all(|count| *count == rounds), "{rounds}: {counts:?}");
    rounds
}

fn moved_under_load(provider: Provider, durability: Durability) {
    let folder = tempfile::tempdir().unwrap();
    let data = (durability != (Durability::Memory {})).then(|| folder.path());
    let mut cluster = Cluster::start(provider, data);
    cluster.wait_until_at(&[0]);
    let client = cluster.client();
    let consistency = Consistency::Eventual {};
    let counted = TableSchema { durability, consistency, ..TableSchema::sparse(i64::DTYPE, 1) };
    let dense = TableSchema { durability, consistency, ..TableSchema::dense(f64::DTYPE, ROWS, 1) };
    client.create_table::<i64>("counted", &counted).unwrap();
    client.create_table::<f64>("dense", &dense).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pusher = {
            let (addresses, provider, is_over) =
                (cluster.servers[0].advertised().to_owned(), cluster.provider, &is_over);
            scope.spawn(move || {
                let providers = vec![provider];
                let options = ClientOptions { providers, ..ClientOptions::default() };
                load(&Client::connect_with(&addresses, options).unwrap(), is_over)
            })
        };
        let ends = Ends(&is_over);
        cluster.join(data.map(|data| data.join("second")));
        cluster.wait_until_at(&[0, 1]);
        cluster.operate(Operation::Drain { server: ServerId(0) });
        cluster.wait_until_at(&[1]);
        cluster.operate(Operation::Forget { server: ServerId(0) });
        drop(cluster.servers.remove(0));
        // The rows are where they went, and pushes go on there.
        std::thread::sleep(Duration::from_millis(200));
        drop(ends);
        assert!(pusher.join().unwrap() > 0);
    });
}

/// Pushes and removes rows until told to stop, so that rows are copied while others take their places.
fn come_and_go(client: &Client, is_over: &AtomicBool) {
    let table = client.open_table::<i64>("counted").unwrap();
    let options = PushOptions::default();
    // So many rows stay that copying them takes a while.
    let steady: Vec<u64> = (0..50_000).map(|key| key * 1_000_003 + 1).collect();
    table.push(&steady, &vec![1; steady.len()], &options).unwrap().wait().unwrap();
    let mut counts: std::collections::BTreeMap<u64, i64> =
        steady.into_iter().map(|key| (key, 1)).collect();
    let mut step = 0_u64;
    // However fast the moves are.
    while step <= 5 || !is_over.load(Ordering::SeqCst) {
        let keys: Vec<u64> = (0..200).map(|at| (step * 37 + at * 11) % 3000 * 1_000_003).collect();
        let mut keys: Vec<u64> = keys.into_iter().filter(|key| key % 7 != step % 7).collect();
        keys.sort_unstable();
        keys.dedup();
        if step % 2 == 1 {
            let there = keys.iter().filter(|key| counts.remove(*key).is_some()).count();
            // What a server removed that others know nothing of is not counted.
            assert!(table.remove(&keys).unwrap() <= there as u64);
        } else {
            table.push(&keys, &vec![1; keys.len()], &options).unwrap().wait().unwrap();
            keys.iter().for_each(|key| *counts.entry(*key).or_insert(0) += 1);
        }
        step += 1;
    }
    let found = table.scan(&ScanOptions::default()).unwrap().map(Result::unwrap);
    let found: std::collections::BTreeMap<u64, i64> = found
        .flat_map(|batch| batch.keys.iter().copied().zip(batch.values.to_vec()).collect::<Vec<_>>())
        .collect();
    assert!(found == counts, "after {step} steps");
}

#[test]
fn rows_that_come_and_go_are_copied_as_they_are() {
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let mut cluster = Cluster::start(provider, None);
        cluster.wait_until_at(&[0]);
        let client = cluster.client();
        client.create_table::<i64>("counted", &TableSchema::sparse(i64::DTYPE, 1)).unwrap();
        cluster.join(None);
        cluster.wait_until_at(&[0, 1]);
        for _ in 0..3 {
            let is_over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let (address, is_over) = (cluster.servers[0].advertised().to_owned(), &is_over);
                let changes = scope.spawn(move || {
                    let options =
                        ClientOptions { providers: vec![provider], ..ClientOptions::default() };
                    come_and_go(&Client::connect_with(&address, options).unwrap(), is_over);
                });
                let ends = Ends(is_over);
                for move_number in 0..4 {
                    let (drained, other) = (move_number % 2, (move_number + 1) % 2);
                    cluster.operate(Operation::Undrain { server: ServerId(other) });
                    cluster.operate(Operation::Drain { server: ServerId(drained) });
                    cluster.wait_until_at(&[other]);
                }
                drop(ends);
                changes.join().unwrap();
            });
            let table = client.open_table::<i64>("counted").unwrap();
            table.remove_below(f64::INFINITY).unwrap();
        }
    }
}

#[test]
fn one_copy_moves_with_the_servers_that_join_and_leave() {
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        moved_under_load(provider, Durability::Memory {});
    }
}

#[test]
fn one_copy_on_disk_moves_too() {
    moved_under_load(Provider::Shm {}, Durability::Sync {});
}

/// Ends a load whatever happens to whoever started it, who would otherwise wait for it for ever.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Where rows are on their way no server may say that enough workers are there: one partition leaves all
/// others without any.
#[test]
fn workers_that_are_missing_are_missed_while_partitions_move() {
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let mut cluster = Cluster::of(1, provider, None);
        cluster.wait_until_at(&[0]);
        let consistency = Consistency::Sequential {};
        let schema = TableSchema { consistency, ..TableSchema::dense(f64::DTYPE, ROWS, 1) };
        let client = cluster.client();
        drop(client.create_table::<f64>("sequential", &schema).unwrap());
        let address = cluster.servers[0].advertised().to_owned();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let options = ClientOptions {
                    providers: vec![provider],
                    rank: Some(WorkerRank(0)),
                    timeout: Duration::from_millis(15),
                    ..ClientOptions::default()
                };
                // So short a timeout bounds connecting, too, which takes longer on a busy machine.
                let connect = || Client::connect_with(&address, options.clone()).ok();
                let client = std::iter::repeat_with(connect).flatten().next().unwrap();
                let open = || client.open_table::<f64>("sequential").ok();
                let table = std::iter::repeat_with(open).flatten().next().unwrap();
                while !is_over.load(Ordering::SeqCst) {
                    let waited = table.wait_for_workers(2);
                    assert!(waited.is_err(), "there is only one worker");
                }
            });
            let ends = Ends(&is_over);
            cluster.join(None);
            for move_number in 0..40 {
                let (drained, other) = (move_number % 2, (move_number + 1) % 2);
                cluster.operate(Operation::Undrain { server: ServerId(other) });
                cluster.operate(Operation::Drain { server: ServerId(drained) });
                cluster.wait_until_at(&[other]);
            }
            drop(ends);
            waiter.join().unwrap();
        });
        // Shards that never had rows keep nobody waiting.
        let rank = Some(WorkerRank(1));
        let providers = vec![provider];
        let options = ClientOptions { providers, rank, ..ClientOptions::default() };
        let client = Client::connect_with(&address, options).unwrap();
        client.open_table::<f64>("sequential").unwrap().wait_for_workers(1).unwrap();
    }
}

/// A barrier that fails where one party does not come.
struct Meeting {
    parties: u64,
    came: AtomicU64,
}

impl Meeting {
    fn of(parties: u64) -> Self {
        Self { parties, came: AtomicU64::new(0) }
    }

    fn wait(&self) {
        let before = self.came.fetch_add(1, Ordering::SeqCst);
        let all = (before / self.parties + 1) * self.parties;
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.came.load(Ordering::SeqCst) < all {
            assert!(Instant::now() < deadline, "somebody does not come");
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Two workers add one to every row in each round, while their servers change; then a server is drained
/// while a round is open, which one worker has ended and the other has not.
#[test]
fn rounds_go_on_while_their_partitions_move() {
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let mut cluster = Cluster::start(provider, None);
        cluster.wait_until_at(&[0]);
        let schema = TableSchema {
            aggregation: Aggregation::Rounds { quorum: 0, fold_late: false },
            consistency: Consistency::Sequential {},
            ..TableSchema::dense(f64::DTYPE, ROWS, 1)
        };
        let client = cluster.client();
        drop(client.create_table::<f64>("in rounds", &schema).unwrap());
        let address = cluster.servers[0].advertised().to_owned();
        let (is_over, is_last) = (AtomicBool::new(false), AtomicBool::new(false));
        let [together, drained, ready, held_open] = [2, 2, 3, 3].map(Meeting::of);
        std::thread::scope(|scope| {
            for rank in 0..2 {
                let (address, is_over, is_last) = (&address, &is_over, &is_last);
                let (together, drained) = (&together, &drained);
                let (ready, held_open) = (&ready, &held_open);
                scope.spawn(move || {
                    let options = ClientOptions {
                        providers: vec![provider],
                        rank: Some(WorkerRank(rank)),
                        timeout: Duration::from_secs(60),
                        ..ClientOptions::default()
                    };
                    let client = Client::connect_with(address, options).unwrap();
                    let table = client.open_table::<f64>("in rounds").unwrap();
                    table.wait_for_workers(2).unwrap();
                    ready.wait();
                    let ones = vec![1.0; usize::try_from(ROWS).unwrap()];
                    let push = || table.push(0..ROWS, &ones, &PushOptions::default()).unwrap();
                    let pull = || table.pull(0..ROWS, &PullOptions::default()).unwrap();
                    let mut round = 0.0;
                    while !is_last.load(Ordering::SeqCst) {
                        drop(push());
                        client.advance_clock().unwrap();
                        round += 1.0;
                        let seen = pull().wait().unwrap();
                        let is_whole = |value: &f64| *value >= 2.0 * round && value % 2.0 == 0.0;
                        assert!(seen.iter().all(is_whole), "round {round}: {seen:?}");
                        // Both stop after the same round.
                        together.wait();
                        if rank == 0 {
                            is_last.store(is_over.load(Ordering::SeqCst), Ordering::SeqCst);
                        }
                        together.wait();
                    }
                    if rank == 0 {
                        let pushed = push();
                        client.advance_clock().unwrap();
                        held_open.wait();
                        pushed.wait().unwrap();
                    } else {
                        held_open.wait();
                        drained.wait();
                        let pushed = push();
                        client.advance_clock().unwrap();
                        pushed.wait().unwrap();
                    }
                    let seen = pull().wait().unwrap();
                    assert!(seen.iter().all(|value| *value == 2.0 * (round + 1.0)), "{seen:?}");
                    // Neither leaves before the other has seen it.
                    together.wait();
                });
            }
            // Whatever fails here must not leave the workers waiting for the last round.
            let ends = Ends(&is_over);
            ready.wait();
            cluster.join(None);
            cluster.wait_until_at(&[0, 1]);
            cluster.operate(Operation::Drain { server: ServerId(0) });
            cluster.wait_until_at(&[1]);
            cluster.operate(Operation::Undrain { server: ServerId(0) });
            cluster.wait_until_at(&[0, 1]);
            drop(ends);
            held_open.wait();
            cluster.operate(Operation::Drain { server: ServerId(1) });
            cluster.wait_until_at(&[0]);
            drained.wait();
        });
    }
}
