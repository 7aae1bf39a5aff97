//! Rows of sparse tables that go by themselves: at every replica, for good, and no others.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod connecting;
mod serving;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use connecting::connect;
use serving::{PARTITIONS, start};
use windlass_client::{
    Durability, Element, Provider, PullFrom, PullOptions, PushOptions, ScanOptions, Table,
    TableSchema,
};
use windlass_engine::Server;

const PATIENCE: Duration = Duration::from_secs(60);

fn schema(expiry: &str, durability: Durability) -> TableSchema {
    let expiry = expiry.parse().unwrap();
    TableSchema { expiry, durability, ..TableSchema::sparse(i64::DTYPE, 2) }
}

fn push(table: &Table<i64>, keys: &[u64]) {
    let values = vec![1; 2 * keys.len()];
    table.push(keys, &values, &PushOptions::default()).unwrap().wait().unwrap();
}

/// What a table has, by key.
fn all(table: &Table<i64>, from: PullFrom) -> BTreeMap<u64, i64> {
    let options = ScanOptions { from, ..ScanOptions::default() };
    let batches = table.scan(&options).unwrap().map(Result::unwrap);
    let rows = batches.flat_map(|batch| {
        let firsts = batch.values.chunks(2).map(|row| row[0]);
        batch.keys.iter().copied().zip(firsts).collect::<Vec<_>>()
    });
    rows.collect()
}

fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Half of the rows are pushed to all the time, and keep all that was pushed to them.
fn the_idle_ones_go(provider: Provider, replicas: u8, durability: Durability) {
    let data = tempfile::tempdir().unwrap();
    let is_kept = durability != Durability::Memory {};
    let servers = start(provider, replicas, is_kept.then_some(data.path()));
    let client = connect(&servers[0]);
    let table = client.create_table::<i64>("t", &schema("age:4s", durability)).unwrap();
    let (busy, idle): (Vec<u64>, Vec<u64>) = (0..5_000).partition(|key| key % 2 == 0);
    push(&table, &idle);
    let mut pushed = 0;
    let busy_rows = |pushed: i64| busy.iter().map(|key| (*key, pushed)).collect::<BTreeMap<_, _>>();
    await_that("the idle rows are gone", || {
        push(&table, &busy);
        pushed += 1;
        all(&table, PullFrom::Tail) == busy_rows(pushed)
    });
    for from in [PullFrom::Any, PullFrom::Strong] {
        assert_eq!(all(&table, from), busy_rows(pushed), "{from:?}");
    }
    let pulled = table.pull(&idle[..1], &PullOptions::default()).unwrap().wait().unwrap();
    assert_eq!(pulled[..], [0, 0]);
    // They come again, and then all go.
    push(&table, &idle);
    await_that("all rows are gone", || all(&table, PullFrom::Any).is_empty());
    drop(client);
    servers.into_iter().rev().for_each(Server::stop);
}

#[test]
fn rows_that_nothing_is_pushed_to_go_from_one_server() {
    the_idle_ones_go(Provider::Shm {}, 1, Durability::Interval { milliseconds: 5 });
}

#[test]
fn rows_that_nothing_is_pushed_to_go_from_every_replica() {
    the_idle_ones_go(Provider::Tcp {}, 3, Durability::Memory {});
}

#[test]
fn of_too_many_rows_the_oldest_go() {
    const ROWS: u64 = 1_000;
    let servers = start(Provider::Shm {}, 1, None);
    let client = connect(&servers[0]);
    let schema = schema("rows:1000", Durability::Memory {});
    let table = client.create_table::<i64>("t", &schema).unwrap();
    // No more than there may be stay for ever.
    let few: Vec<u64> = (0..ROWS / 4).collect();
    push(&table, &few);
    let many: Vec<u64> = (10_000..40_000).collect();
    many.chunks(3_000).for_each(|keys| push(&table, keys));
    let busy: Vec<u64> = (100_000..100_200).collect();
    await_that("there are as many rows as there may be, and the newest are among them", || {
        push(&table, &busy);
        let rows = all(&table, PullFrom::Tail);
        rows.len() as u64 <= ROWS && busy.iter().all(|key| rows.contains_key(key))
    });
    // No partition gives away more than it has to.
    assert!(all(&table, PullFrom::Tail).len() as u64 > ROWS - u64::from(PARTITIONS) * 8);
    drop(client);
    servers.into_iter().for_each(Server::stop);
}

#[test]
fn rows_grow_old_over_restarts_and_stay_away() {
    let data = tempfile::tempdir().unwrap();
    let durability = Durability::Sync {};
    let keys: Vec<u64> = (0..3_000).collect();
    for life in 0..4 {
        let servers = start(Provider::Shm {}, 1, Some(data.path()));
        let client = connect(&servers[0]);
        if life == 0 {
            for (name, expiry) in [("short", "age:2s"), ("long", "age:1d,rows:100000")] {
                let table = client.create_table::<i64>(name, &schema(expiry, durability)).unwrap();
                push(&table, &keys);
            }
            client.checkpoint(servers[0].id()).unwrap();
        }
        let long = client.open_table::<i64>("long").unwrap();
        let short = client.open_table::<i64>("short").unwrap();
        assert_eq!(all(&long, PullFrom::Tail).len(), keys.len(), "life {life}");
        if life == 2 {
            await_that("they are gone", || all(&short, PullFrom::Tail).is_empty());
            client.checkpoint(servers[0].id()).unwrap();
        } else if life == 3 {
            assert!(all(&short, PullFrom::Tail).is_empty());
        }
        drop(client);
        servers.into_iter().for_each(Server::stop);
    }
}

#[test]
fn an_expiry_is_changed_while_the_table_is_in_use() {
    let data = tempfile::tempdir().unwrap();
    let keys: Vec<u64> = (0..1_000).collect();
    for life in 0..2 {
        let servers = start(Provider::Shm {}, 1, Some(data.path()));
        let client = connect(&servers[0]);
        if life == 0 {
            let sync = Durability::Sync {};
            let table = client.create_table::<i64>("t", &schema("age:1d", sync)).unwrap();
            push(&table, &keys);
            let changed = client.set_expiry("t", "age:1s".parse().unwrap()).unwrap();
            assert_eq!(changed.schema.expiry.to_string(), "age:1s");
            await_that("they are gone", || all(&table, PullFrom::Tail).is_empty());
            client.create_table::<i64>("free", &schema("never", sync)).unwrap();
            for (name, expiry) in [("free", "age:1s"), ("t", "never")] {
                let refused = client.set_expiry(name, expiry.parse().unwrap()).unwrap_err();
                assert!(refused.to_string().contains("from its creation on"), "{refused}");
            }
        } else {
            let table = client.open_table::<i64>("t").unwrap();
            assert_eq!(table.schema().expiry.to_string(), "age:1s", "after a restart");
            push(&table, &keys);
            await_that("they are gone", || all(&table, PullFrom::Tail).is_empty());
        }
        drop(client);
        servers.into_iter().for_each(Server::stop);
    }
}

#[test]
fn rows_of_dense_tables_do_not_expire() {
    let servers = start(Provider::Shm {}, 1, None);
    let client = connect(&servers[0]);
    let expiry = "age:1s".parse().unwrap();
    let dense = TableSchema { expiry, ..TableSchema::dense(f32::DTYPE, 10, 1) };
    let refused = client.create_table::<f32>("d", &dense).unwrap_err();
    let text = windlass_client::chain(&refused);
    assert!(text.contains("rows of a dense table do not expire"), "{text}");
    servers.into_iter().for_each(Server::stop);
}
