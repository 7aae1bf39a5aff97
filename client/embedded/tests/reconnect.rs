//! A client lives through restarts of its server: what it pushed is there once, what it pulls is
//! what it pushed, and what cannot be saved is said.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod same_rows;

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use same_rows::assert_same_rows;
use windlass_client::{
    Client, ClientOptions, Consistency, Durability, Element, PendingPush, Provider, PullOptions,
    PushOptions, RequestError, Table, TableSchema, Watch, WorkerClock, WorkerRank,
};
use windlass_engine::{Server, ServerConfig};

const PROVIDERS: [Provider; 2] = [Provider::Shm {}, Provider::Tcp {}];
const RESTARTS: usize = 6;
const DENSE_ROWS: u64 = 20_000;

fn config(listen: SocketAddr, provider: Provider, data: Option<PathBuf>) -> ServerConfig {
    ServerConfig {
        listen,
        providers: vec![provider],
        shards: 2,
        memory_len_max: 1 << 30,
        data_dir: data,
        ..ServerConfig::default()
    }
}

/// Starts a server, also where one was a moment ago.
fn start(listen: SocketAddr, provider: Provider, data: Option<&Path>) -> Server {
    start_with(listen, provider, data, None)
}

fn start_with(
    listen: SocketAddr,
    provider: Provider,
    data: Option<&Path>,
    by_reference_len: Option<u32>,
) -> Server {
    let mut patience = 200;
    loop {
        let config = config(listen, provider, data.map(Path::to_owned));
        match Server::start(ServerConfig { by_reference_len, ..config }) {
            Ok(server) => return server,
            Err(error) => {
                patience -= 1;
                assert!(patience > 0, "{error}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn connect(server: &Server, provider: Provider) -> Client {
    let options = ClientOptions { providers: vec![provider], ..ClientOptions::default() };
    Client::connect_with(server.advertised(), options).unwrap()
}

fn kept(schema: TableSchema) -> TableSchema {
    TableSchema { durability: Durability::Sync {}, ..schema }
}

/// What one client pushes while its server comes and goes.
struct Pusher {
    counted: Table<i64>,
    dense: Table<f64>,
    pending: VecDeque<PendingPush<i64>>,
    next: u64,
    rounds: u64,
}

impl Pusher {
    /// One round of everything: keys that nobody pushes twice, a range by reference, a prepared
    /// range, and pulls that see what was acknowledged.
    fn round(&mut self, client: &Client, prepared: &mut windlass_client::Prepared<f64>) {
        let options = PushOptions::default();
        for _ in 0..20 {
            let keys: Vec<u64> = (self.next..self.next + 7).collect();
            self.next += 7;
            self.pending.push_back(self.counted.push(&keys, &[1; 7], &options).unwrap());
            if self.pending.len() > 8 {
                self.pending.pop_front().unwrap().wait().unwrap();
            }
        }
        let mut rows = client.allocate::<f64>(6000).unwrap();
        rows.fill(1.0);
        let (back, outcome) = self.dense.push_rows(0..6000, rows, &options).unwrap().wait_rows();
        outcome.unwrap();
        assert_eq!(back.unwrap()[5999], 1.0);
        prepared.values_mut().unwrap().fill(1.0);
        prepared.push(&options).unwrap();
        prepared.wait().unwrap();
        self.rounds += 1;
        let pull = PullOptions::default();
        let range = self.dense.pull(0..DENSE_ROWS, &pull).unwrap().wait().unwrap();
        assert_eq!(range[..6000], vec![self.rounds as f64; 6000][..]);
        assert_eq!(range[12_000..], vec![self.rounds as f64; 8000][..]);
        let some = self.dense.pull(&[0, 5999, 13_000], &pull).unwrap().wait().unwrap();
        assert_eq!(some, [self.rounds as f64; 3]);
    }
}

#[test]
fn pushes_across_restarts_are_applied_once() {
    restart_under_pushes(None);
}

/// Registered rows are then part of the message, and of none once it has to be sent again.
#[test]
fn rows_that_were_lent_to_a_message_are_applied_once_across_restarts() {
    restart_under_pushes(Some(u32::MAX));
}

fn restart_under_pushes(by_reference_len: Option<u32>) {
    for provider in PROVIDERS {
        let data = tempfile::tempdir().unwrap();
        let server = start_with(anywhere(), provider, Some(data.path()), by_reference_len);
        let address = server.address();
        let client = connect(&server, provider);
        let schema = kept(TableSchema::sparse(i64::DTYPE, 1));
        let counted = client.create_table::<i64>("counted", &schema).unwrap();
        let schema = kept(TableSchema::dense(f64::DTYPE, DENSE_ROWS, 1));
        let dense = client.create_table::<f64>("dense", &schema).unwrap();
        let mut prepared = dense.prepare(12_000..DENSE_ROWS).unwrap();
        let mut pusher = Pusher { counted, dense, pending: VecDeque::new(), next: 0, rounds: 0 };

        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (done, path) = (&done, data.path());
            let restarting = scope.spawn(move || {
                let mut server = Some(server);
                for pause in 0..RESTARTS {
                    std::thread::sleep(Duration::from_millis(40));
                    drop(server.take());
                    std::thread::sleep(Duration::from_millis(15 * (pause as u64 % 3)));
                    let again = start_with(address, provider, Some(path), by_reference_len);
                    server = Some(again);
                }
                done.store(true, Ordering::Release);
                server
            });
            while !done.load(Ordering::Acquire) {
                pusher.round(&client, &mut prepared);
            }
            let server = restarting.join().unwrap();
            pusher.round(&client, &mut prepared);
            client.wait_all().unwrap();
            assert!(client.counters().reconnects >= 1, "{:?}", client.counters());
            let keys: Vec<u64> = (0..pusher.next).collect();
            for keys in keys.chunks(10_000) {
                let pulled = pusher.counted.pull(keys, &PullOptions::default()).unwrap();
                let counts = pulled.wait().unwrap();
                assert!(counts.iter().all(|count| *count == 1), "{provider:?}: {counts:?}");
            }
            drop(server);
        });
    }
}

#[test]
fn a_partition_without_a_server_is_an_error_that_says_so() {
    for provider in PROVIDERS {
        let data = tempfile::tempdir().unwrap();
        let server = start(anywhere(), provider, Some(data.path()));
        let address = server.address();
        let options = ClientOptions {
            providers: vec![provider],
            retry_for: Duration::from_millis(200),
            ..ClientOptions::default()
        };
        let client = Client::connect_with(server.advertised(), options).unwrap();
        let schema = kept(TableSchema::dense(f32::DTYPE, 10, 1));
        let table = client.create_table::<f32>("t", &schema).unwrap();
        let push = PushOptions::default();
        table.push(&[1], &[1.0], &push).unwrap().wait().unwrap();
        drop(server);
        let pushed = table.push(&[1], &[1.0], &push).and_then(PendingPush::wait);
        assert!(matches!(pushed, Err(RequestError::PartitionUnavailable { .. })), "{pushed:?}");
        let pulled = table.pull(0..10, &PullOptions::default()).and_then(|pull| pull.wait());
        assert!(matches!(pulled, Err(RequestError::PartitionUnavailable { .. })), "{pulled:?}");
        // It goes on when the server is there again; what was given up is not sent.
        let server = start(address, provider, Some(data.path()));
        table.push(&[1], &[1.0], &push).unwrap().wait().unwrap();
        assert_eq!(table.pull(&[1], &PullOptions::default()).unwrap().wait().unwrap(), [2.0]);
        drop(server);
    }
}

#[test]
fn rows_that_went_with_their_server_are_told_and_not_taken_for_zero() {
    for provider in PROVIDERS {
        let data = tempfile::tempdir().unwrap();
        let server = start(anywhere(), provider, Some(data.path()));
        let address = server.address();
        let client = connect(&server, provider);
        let memory = TableSchema::dense(f32::DTYPE, 10, 1);
        let lost = client.create_table::<f32>("lost", &memory).unwrap();
        let there = client.create_table::<f32>("there", &kept(memory.clone())).unwrap();
        let push = PushOptions::default();
        for table in [&lost, &there] {
            table.push(&[1], &[1.0], &push).unwrap().wait().unwrap();
        }
        drop(server);
        let server = start(address, provider, Some(data.path()));
        let pull = PullOptions::default();
        assert_eq!(there.pull(&[1], &pull).unwrap().wait().unwrap(), [1.0]);
        let outcome = lost.push(&[1], &[1.0], &push).and_then(PendingPush::wait);
        assert!(matches!(outcome, Err(RequestError::RowsLost)), "{outcome:?}");
        let again = client.create_table::<f32>("lost", &memory).unwrap();
        lost.push(&[1], &[1.0], &push).unwrap().wait().unwrap();
        assert_eq!(again.pull(0..2, &pull).unwrap().wait().unwrap(), [0.0, 1.0]);
        drop(server);
    }
}

#[test]
fn tables_are_made_and_found_while_a_server_restarts() {
    let provider = Provider::Shm {};
    let data = tempfile::tempdir().unwrap();
    let server = start(anywhere(), provider, Some(data.path()));
    let address = server.address();
    let client = connect(&server, provider);
    drop(server);
    let path = data.path().to_owned();
    let starting = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        start(address, provider, Some(&path))
    });
    let schema = kept(TableSchema::dense(f32::DTYPE, 10, 1));
    client.create_table::<f32>("late", &schema).unwrap();
    assert_eq!(client.list_tables().unwrap().len(), 1);
    client.drop_table("late").unwrap();
    drop(starting.join().unwrap());
}

/// Two workers, each adding one to every row a round, and waiting for the other. After a restart the
/// server has forgotten who works: they join again, at their own clocks, and nobody waits for ever.
#[test]
fn workers_go_on_with_their_clocks_after_restarts() {
    const ROUNDS: u64 = 150;
    for provider in PROVIDERS {
        let data = tempfile::tempdir().unwrap();
        let mut server = Some(start(anywhere(), provider, Some(data.path())));
        let address = server.as_ref().unwrap().address();
        let advertised = server.as_ref().unwrap().advertised().to_owned();
        let schema = TableSchema {
            consistency: Consistency::Bounded { tau: 2 },
            ..kept(TableSchema::dense(f64::DTYPE, 100, 1))
        };
        std::thread::scope(|scope| {
            let (advertised, schema) = (&advertised, &schema);
            let work = move |rank| {
                let options = ClientOptions {
                    providers: vec![provider],
                    rank: Some(WorkerRank(rank)),
                    ..ClientOptions::default()
                };
                let client = Client::connect_with(advertised, options).unwrap();
                let table = client.create_table::<f64>("clocked", schema).unwrap();
                table.wait_for_workers(2).unwrap();
                for round in 0..ROUNDS {
                    let rows = table.pull(0..100, &PullOptions::default()).unwrap().wait().unwrap();
                    assert!(rows.iter().all(|value| *value >= round as f64), "{round}: {rows:?}");
                    table
                        .push(0..100, &[1.0; 100], &PushOptions::default())
                        .unwrap()
                        .wait()
                        .unwrap();
                    client.advance_clock().unwrap();
                }
                client.wait_all().unwrap();
                assert_eq!(client.clock(), WorkerClock(ROUNDS));
            };
            scope.spawn(move || work(0));
            scope.spawn(move || work(1));
            for _ in 0..4 {
                std::thread::sleep(Duration::from_millis(100));
                drop(server.take());
                server = Some(start(address, provider, Some(data.path())));
            }
        });
        let client = connect(server.as_ref().unwrap(), provider);
        let table = client.open_table::<f64>("clocked").unwrap();
        let rows = table.pull(0..100, &PullOptions::default()).unwrap().wait().unwrap();
        assert_same_rows(&rows, &[(ROUNDS * 2) as f64; 100], "after all rounds");
        drop(server);
    }
}

/// Stands before a server's control port. Once `ends` is set it ends the server before it hands on what the
/// server has answered, and keeps the client's connection.
struct Doorman {
    address: SocketAddr,
    ends: Arc<AtomicBool>,
    server: Arc<Mutex<Option<Server>>>,
}

impl Doorman {
    /// Before whatever server will be put in its care, which listens at `inner`.
    fn new(inner: SocketAddr) -> Self {
        let listener = TcpListener::bind(anywhere()).unwrap();
        let address = listener.local_addr().unwrap();
        let (ends, server) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let doorman = Self { address, ends: ends.clone(), server: server.clone() };
        std::thread::spawn(move || {
            for outside in listener.incoming().map_while(Result::ok) {
                // The server may be down: then the client hears so.
                let Ok(inside) = TcpStream::connect(inner) else { continue };
                let (mut asking, mut asked) =
                    (outside.try_clone().unwrap(), inside.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut asking, &mut asked);
                    let _ = asked.shutdown(Shutdown::Both);
                });
                let (ends, server) = (ends.clone(), server.clone());
                std::thread::spawn(move || answer(inside, outside, &ends, &server));
            }
        });
        doorman
    }
}

/// Hands on what a server answers.
fn answer(
    mut inside: TcpStream,
    mut outside: TcpStream,
    ends: &AtomicBool,
    server: &Mutex<Option<Server>>,
) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = inside.read(&mut bytes) {
        let is_last = ends.swap(false, Ordering::AcqRel);
        if is_last {
            drop(server.lock().unwrap().take());
        }
        if outside.write_all(&bytes[..count]).is_err() {
            break;
        }
        if is_last {
            // Its connection stands for longer than it does.
            std::thread::sleep(Duration::from_secs(2));
            break;
        }
    }
    let _ = outside.shutdown(Shutdown::Both);
}

/// A server that ends between its answer where to connect to, and the connection: what was asked for is done
/// when it is back, as if it had ended a moment earlier.
#[test]
fn a_server_that_ends_while_a_link_to_it_is_made_is_waited_for() {
    for provider in PROVIDERS {
        let data = tempfile::tempdir().unwrap();
        // A port that is free from then on.
        let inner = start(anywhere(), provider, None).address();
        let doorman = Doorman::new(inner);
        let start = || {
            let advertise = Some(doorman.address.to_string());
            let config = config(inner, provider, Some(data.path().to_owned()));
            Server::start(ServerConfig { advertise, ..config }).unwrap()
        };
        let server = start();
        let client = connect(&server, provider);
        *doorman.server.lock().unwrap() = Some(server);
        let schema = kept(TableSchema::dense(f32::DTYPE, 10, 1));
        let table = client.create_table::<f32>("t", &schema).unwrap();
        doorman.ends.store(true, Ordering::Release);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while doorman.server.lock().unwrap().is_some() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                std::thread::sleep(Duration::from_millis(100));
                *doorman.server.lock().unwrap() = Some(start());
            });
            let rows = table.pull(0..10, &PullOptions::default()).unwrap().wait().unwrap();
            assert_eq!(rows, [0.0; 10], "{provider:?}");
        });
        assert!(client.counters().reconnects >= 1, "{:?}", client.counters());
        drop(doorman.server.lock().unwrap().take());
    }
}

/// Addresses of listeners that nobody accepts from: whoever connects hears nothing, as from a process that
/// was stopped.
fn silent(count: u32) -> (Vec<TcpListener>, Vec<String>) {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind(anywhere()).unwrap()).collect();
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let addresses = listeners.iter().map(address).collect();
    (listeners, addresses)
}

/// A timeout that all addresses share.
const SHARED_TIMEOUT: Duration = Duration::from_secs(2);

/// So many addresses would take far longer than a busy machine does, had each the whole timeout.
const ADDRESSES: u32 = 80;
const TIMEOUT_EACH: Duration = SHARED_TIMEOUT.saturating_mul(ADDRESSES / 2);

#[test]
fn silent_addresses_share_the_timeout_of_connecting() {
    let (_listeners, addresses) = silent(ADDRESSES);
    let options = ClientOptions { timeout: SHARED_TIMEOUT, ..ClientOptions::default() };
    let begun = Instant::now();
    let error = Client::connect_with(&addresses.join(","), options.clone()).unwrap_err();
    let took = begun.elapsed();
    assert!(error.to_string().contains("did not answer within"), "{error}");
    assert!(took >= SHARED_TIMEOUT / 2 && took < TIMEOUT_EACH, "it took {took:?}");
    // One that answers still has its share when the others have had theirs.
    let server = start(anywhere(), Provider::Tcp {}, None);
    let last = format!("{},{}", addresses.join(","), server.advertised());
    drop(Client::connect_with(&last, options).unwrap());
}

#[test]
fn silent_addresses_do_not_hold_up_who_waits_for_an_answer() {
    let (_listeners, addresses) = silent(ADDRESSES);
    let server = start(anywhere(), Provider::Tcp {}, None);
    let options = ClientOptions {
        providers: vec![Provider::Tcp {}],
        timeout: SHARED_TIMEOUT,
        retry_for: SHARED_TIMEOUT,
        ..ClientOptions::default()
    };
    let all = format!("{},{}", server.advertised(), addresses.join(","));
    let client = Client::connect_with(&all, options).unwrap();
    let table = client.create_table::<f32>("t", &TableSchema::dense(f32::DTYPE, 8, 1)).unwrap();
    drop(server);
    let begun = Instant::now();
    let pushed = table.push(0..8, &[1.0; 8], &PushOptions::default());
    let error = pushed.and_then(PendingPush::wait).unwrap_err();
    let took = begun.elapsed();
    assert!(took < TIMEOUT_EACH, "it took {took:?}: {error}");
}

#[test]
fn an_interruption_while_servers_are_looked_for_ends_the_wait() {
    let (_listeners, addresses) = silent(80);
    let server = start(anywhere(), Provider::Tcp {}, None);
    // As a signal is, it is told once.
    let is_signalled = Arc::new(AtomicBool::new(false));
    let signal = Arc::clone(&is_signalled);
    let options = ClientOptions {
        providers: vec![Provider::Tcp {}],
        watch: Some(Watch::new(move || !signal.swap(false, Ordering::AcqRel))),
        ..ClientOptions::default()
    };
    let all = format!("{},{}", server.advertised(), addresses.join(","));
    let client = Client::connect_with(&all, options).unwrap();
    let table = client.create_table::<f32>("t", &TableSchema::dense(f32::DTYPE, 8, 1)).unwrap();
    drop(server);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(500));
            is_signalled.store(true, Ordering::Release);
        });
        let pushed = table.push(0..8, &[1.0; 8], &PushOptions::default());
        let error = pushed.and_then(PendingPush::wait).unwrap_err();
        assert!(matches!(error, RequestError::Interrupted), "{error}");
    });
}
