//! Pulls of rows that are pushed to all the time: they end, and what they bring is whole. A read over an
//! unordered transport takes three steps, so that it meets a push nearly every time here.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use windlass_client::{
    Client, ClientOptions, Counters, Element, Provider, PullOptions, PushOptions, TableSchema,
};
use windlass_engine::{Server, ServerConfig};
use windlass_transport::tcp::TcpOptions;

const WIDTH: u32 = 256;
const PUSHERS: usize = 2;
const PULLS: u64 = 20;

/// For a test that would otherwise wait for its pushers for ever when it fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn connect(address: &str, provider: Provider, reads_in_order: bool) -> Client {
    let tcp = TcpOptions { reads_in_order, ..TcpOptions::LOOPBACK };
    let options = ClientOptions { providers: vec![provider], tcp, ..ClientOptions::default() };
    Client::connect_with(address, options).unwrap()
}

/// Pulls until `PULLS` of them have ended, and what is to be seen was.
fn pull_beside_pushes(
    provider: Provider,
    reads_in_order: bool,
    rows: u64,
    is_seen: impl Fn(&Counters) -> bool,
) {
    let config = ServerConfig {
        providers: vec![provider],
        memory_len_max: 1 << 28,
        ..ServerConfig::default()
    };
    let server = Server::start(config).unwrap();
    let address = server.advertised();
    let client = connect(address, provider, reads_in_order);
    let schema = TableSchema::dense(i32::DTYPE, rows, WIDTH);
    let table = client.create_table::<i32>("hot", &schema).unwrap();
    let values = usize::try_from(rows).unwrap() * WIDTH as usize;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ends = Ends(&is_over);
        for _ in 0..PUSHERS {
            scope.spawn(|| {
                let client = connect(address, provider, reads_in_order);
                let table = client.open_table::<i32>("hot").unwrap();
                let ones = vec![1; values];
                while !is_over.load(Ordering::SeqCst) {
                    let push = || table.push(0..rows, &ones, &PushOptions::default()).unwrap();
                    let pushes = [(); 4].map(|()| push());
                    pushes.into_iter().for_each(|push| push.wait().unwrap());
                }
            });
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut newest = vec![0; values / WIDTH as usize];
        let mut pulls = 0;
        while pulls < PULLS || !is_seen(&client.counters()) {
            assert!(Instant::now() < deadline, "{pulls} pulls: {:?}", client.counters());
            let pulled = table.pull(0..rows, &PullOptions::default()).unwrap().wait().unwrap();
            for (row, newest) in pulled.chunks(WIDTH as usize).zip(&mut newest) {
                assert!(row.iter().all(|value| *value == row[0]), "torn: {row:?}");
                assert!(row[0] >= *newest, "{} after {newest}", row[0]);
                *newest = row[0];
            }
            pulls += 1;
        }
        assert_eq!(client.counters().pulls, pulls);
        drop(ends);
    });
}

#[test]
fn pulls_end_while_their_rows_are_pushed_to() {
    for rows in [1, 64] {
        pull_beside_pushes(Provider::Tcp {}, true, rows, |_| true);
        pull_beside_pushes(Provider::Shm {}, true, rows, |_| true);
    }
}

/// Of a long read only the blocks that were pushed to meanwhile are read again.
#[test]
fn long_reads_are_whole_while_their_rows_are_pushed_to() {
    pull_beside_pushes(Provider::Tcp {}, true, 1024, |counters| counters.reads_retried >= 5);
}

#[test]
fn a_pull_that_keeps_meeting_pushes_is_sent_by_its_server() {
    for rows in [1, 16, 300] {
        pull_beside_pushes(Provider::Tcp {}, false, rows, |counters| counters.pulls_served >= 3);
    }
}

fn small(number: u64) -> i32 {
    i32::try_from(number).unwrap()
}

/// Rows by key that lie in this host's memory are copied there, each as it was at one version, and no
/// shard is asked for them unless one rests in the middle of a push.
#[test]
fn rows_by_key_are_whole_while_they_are_pushed_to_and_cost_the_server_next_to_nothing() {
    const ROWS: u64 = 3_000;
    // Some alone in their block, some beside others, some at the partitions' ends.
    let keys: Vec<u64> = (0..ROWS).filter(|row| row % 7 == 0 || row % 64 < 9).collect();
    for (width, shards) in [(WIDTH, 1), (5, 3)] {
        let config = ServerConfig {
            providers: vec![Provider::Shm {}],
            shards,
            memory_len_max: 1 << 28,
            ..ServerConfig::default()
        };
        let server = Server::start(config).unwrap();
        let client = connect(server.advertised(), Provider::Shm {}, true);
        let schema = TableSchema::dense(i32::DTYPE, ROWS, width);
        let table = client.create_table::<i32>("hot", &schema).unwrap();
        let width = usize::try_from(width).unwrap();
        let first: Vec<i32> = (0..ROWS).flat_map(|row| vec![small(row); width]).collect();
        table.push(0..ROWS, &first, &PushOptions::default()).unwrap().wait().unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let ends = Ends(&is_over);
            scope.spawn(|| {
                let client = connect(server.advertised(), Provider::Shm {}, true);
                let table = client.open_table::<i32>("hot").unwrap();
                let thousands = vec![1000; first.len()];
                while !is_over.load(Ordering::SeqCst) {
                    let pushed = table.push(0..ROWS, &thousands, &PushOptions::default());
                    pushed.unwrap().wait().unwrap();
                }
            });
            let deadline = Instant::now() + Duration::from_secs(60);
            let (mut newest, mut retried) = (vec![0; keys.len()], 0);
            let mut into = vec![0; keys.len() * width];
            for pulls in 0.. {
                assert!(Instant::now() < deadline, "{pulls} pulls: {:?}", client.counters());
                table.pull_into(&keys, &mut into, &PullOptions::default()).unwrap();
                for ((row, key), newest) in into.chunks(width).zip(&keys).zip(&mut newest) {
                    assert!(row.iter().all(|value| *value == row[0]), "torn: {row:?}");
                    assert!(row[0] >= *newest, "{} after {newest}", row[0]);
                    assert_eq!(row[0] % 1000, small(*key) % 1000, "row {key}");
                    *newest = row[0];
                }
                retried += u32::from(client.counters().reads_retried > 0);
                if pulls >= 200 && newest.iter().all(|value| *value >= 4000) && retried > 0 {
                    break;
                }
            }
            drop(ends);
        });
        let statistics = client.server_statistics(client.map().servers[0].id).unwrap();
        let (_, served) = statistics.split_once("\"pulls\":").unwrap();
        let served: u64 = served.split(',').next().unwrap().parse().unwrap();
        // A pusher that loses its core in the middle of a block has them sent.
        assert!(served * 10 < client.counters().pulls, "{served} served: {:?}", client.counters());
    }
}

/// What keys find in place is what their servers would have sent.
#[test]
fn rows_by_key_in_place_are_those_their_servers_send() {
    let config = ServerConfig {
        providers: vec![Provider::Shm {}, Provider::Tcp {}],
        shards: 2,
        memory_len_max: 1 << 28,
        ..ServerConfig::default()
    };
    let server = Server::start(config).unwrap();
    let near = connect(server.advertised(), Provider::Shm {}, true);
    let far = connect(server.advertised(), Provider::Tcp {}, true);
    for (width, rows) in
        [(1, 10_007), (2, 33), (3, 1000), (4, 5000), (16, 777), (33, 300), (5000, 9)]
    {
        let name = format!("of {width}");
        let schema = TableSchema::dense(i32::DTYPE, rows, width);
        let table = near.create_table::<i32>(&name, &schema).unwrap();
        let values: Vec<i32> = (0..small(rows * u64::from(width))).collect();
        table.push(0..rows, &values, &PushOptions::default()).unwrap().wait().unwrap();
        let sent = far.open_table::<i32>(&name).unwrap();
        for stride in [1, 2, 3, 17, 64, 1001] {
            for first in [0, 1, 5] {
                let keys: Vec<u64> = (first..rows).step_by(stride).collect();
                let mut into = vec![0; keys.len() * width as usize];
                table.pull_into(&keys, &mut into, &PullOptions::default()).unwrap();
                let mut other = vec![0; into.len()];
                sent.pull_into(&keys, &mut other, &PullOptions::default()).unwrap();
                assert_eq!(into, other, "width {width}, stride {stride} from {first}");
            }
        }
    }
}
