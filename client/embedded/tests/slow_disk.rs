//! A server on a slow disk: pushes slow down, what waits for the disk is bounded, metrics show it, and
//! nothing acknowledged is lost.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use windlass_client::{
    Client, ClientOptions, Durability, Element, Provider, PullOptions, PushOptions, TableSchema,
};
use windlass_embedded::{Embedded, EmbeddedClient};
use windlass_engine::{ServerConfig, persist::storage};

const WIDTH: u32 = 256;
/// Rows of a push: 1 MiB of values, more than what waits for a later image.
const ROWS: u64 = 1024;
const VALUES: usize = 1024 * 256;
/// Pushes of all workers together: twice what the log's memory holds.
const PUSHES: u64 = 128;
const WORKERS: u64 = 2;
const DELAY: Duration = Duration::from_millis(60);

fn start(data: &Path, storage: storage::Provider) -> EmbeddedClient {
    let config = ServerConfig {
        data_dir: Some(data.to_owned()),
        memory_len_max: 1 << 30,
        providers: vec![Provider::Shm {}],
        storage,
        ..ServerConfig::default()
    };
    Client::embedded_with(config, ClientOptions::default()).unwrap()
}

fn counter(client: &Client, name: &str) -> u64 {
    let json = client.server_statistics(client.map().servers[0].id).unwrap();
    let (_, rest) = json.split_once(&format!("\"{name}\":")).unwrap();
    rest.split([',', '}']).next().unwrap().parse().unwrap()
}

/// Each worker pushes to rows of its own, all at once, as far as its window goes.
fn push_all(address: &str) {
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            scope.spawn(move || {
                let client = Client::connect(address).unwrap();
                let table = client.open_table::<f32>("t").unwrap();
                let pushes = (worker..PUSHES).step_by(usize::try_from(WORKERS).unwrap());
                let pending: Vec<_> = pushes
                    .map(|push| {
                        let values = vec![(push + 1) as f32; VALUES];
                        let rows = push * ROWS..(push + 1) * ROWS;
                        table.push(rows, &values, &PushOptions::default()).unwrap()
                    })
                    .collect();
                pending.into_iter().for_each(|push| push.wait().unwrap());
            });
        }
    });
}

/// Pushes to a table that is not kept, one after another, until all others are over; how many.
fn push_beside(address: &str, is_over: &AtomicBool) -> u32 {
    let client = Client::connect(address).unwrap();
    let table = client.open_table::<f32>("memory").unwrap();
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        table.push(0..1, &[1.0], &PushOptions::default()).unwrap().wait().unwrap();
        count += 1;
    }
    count
}

fn slow_disk(durability: Durability) {
    let data = tempfile::tempdir().unwrap();
    let schema = TableSchema { durability, ..TableSchema::dense(f32::DTYPE, PUSHES * ROWS, WIDTH) };
    let client = start(data.path(), storage::Provider::Delayed(DELAY));
    let table = client.create_table::<f32>("t", &schema).unwrap();
    let memory = TableSchema::dense(f32::DTYPE, 1, 1);
    drop(client.create_table::<f32>("memory", &memory).unwrap());
    let (is_over, begun) = (AtomicBool::new(false), Instant::now());
    let (address, memory) =
        (client.server().advertised().to_owned(), counter(&client, "memory_left"));
    let (is_over, address) = (&is_over, address.as_str());
    let (fullest, beside) = std::thread::scope(|scope| {
        let beside = scope.spawn(move || push_beside(address, is_over));
        let watching = scope.spawn(move || {
            let client = Client::connect(address).unwrap();
            let mut fullest = 0;
            while !is_over.load(Ordering::Relaxed) {
                let waiting = counter(&client, "log_waiting_bytes");
                assert!(waiting <= counter(&client, "log_waiting_bytes_max"));
                fullest = fullest.max(waiting);
                std::thread::sleep(Duration::from_millis(5));
            }
            fullest
        });
        push_all(address);
        is_over.store(true, Ordering::Relaxed);
        (watching.join().unwrap(), beside.join().unwrap())
    });
    let took = begun.elapsed();
    // Pushes went no faster than the disk, two writes at a time.
    let writes = u32::try_from(counter(&client, "log_writes")).unwrap();
    assert!(took >= DELAY * (writes / 2), "{writes} writes in {took:?}");
    assert!(writes > 20, "{writes}");
    // Who does not need the log does not wait for it: the shard goes on while pushes wait for room.
    assert!(beside > 8 * writes, "{beside} beside {writes} writes");
    // The log's memory was all used, whoever pushed waited for it, and nothing else grew.
    let most = counter(&client, "log_waiting_bytes_max");
    assert!(fullest > most / 2, "{fullest} of {most} bytes");
    assert!(counter(&client, "log_waits") > 0 && counter(&client, "log_wait_us") > 0);
    assert_eq!(counter(&client, "memory_left"), memory, "rows were allocated before");
    drop(table);
    drop(client);

    let client = start(data.path(), storage::Provider::Automatic);
    let table = client.open_table::<f32>("t").unwrap();
    for push in 0..PUSHES {
        let rows = push * ROWS..(push + 1) * ROWS;
        let values = table.pull(rows, &PullOptions::default()).unwrap().wait().unwrap();
        assert!(values.iter().all(|value| *value == (push + 1) as f32), "push {push}");
    }
}

#[test]
fn synchronous_pushes_wait_for_a_slow_disk() {
    slow_disk(Durability::Sync {});
}

#[test]
fn pushes_of_an_interval_wait_for_a_slow_disk() {
    slow_disk(Durability::Interval { milliseconds: 5 });
}
