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
