//! Rows of sparse tables go at every replica, in the log and in checkpoints, and come anew with later pushes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod connecting;
mod serving;

use std::{collections::BTreeMap, time::Duration};

use connecting::connect;
use serving::start;
use windlass_client::{
    Aggregation, Client, ClientOptions, Consistency, Durability, Element, Provider, PullFrom,
    PullOptions, PushOptions, ScanOptions, Table, TableError, TableSchema, WorkerRank,
};
use windlass_engine::Server;

fn key(at: u64) -> u64 {
    if at == 0 { u64::MAX } else { (at - 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) }
}

fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 31).wrapping_mul(0x7fb5_d329_728e_a185);
    (number ^ number >> 27).wrapping_mul(0x81da_def4_bc2d_d44d)
}

/// What a table has, by key.
type Rows = BTreeMap<u64, i64>;

fn all(table: &Table<i64>, from: PullFrom) -> Rows {
    let options = ScanOptions { from, ..ScanOptions::default() };
    let mut rows = Rows::new();
    for batch in table.scan(&options).unwrap() {
        let batch = batch.unwrap();
        rows.extend(batch.keys.iter().copied().zip(batch.values.chunks(2).map(|row| row[0])));
    }
    rows
}

fn push(table: &Table<i64>, keys: &[u64], rows: &mut Rows) {
    let values = vec![1; 2 * keys.len()];
    table.push(keys, &values, &PushOptions::default()).unwrap().wait().unwrap();
    keys.iter().for_each(|key| *rows.entry(*key).or_insert(0) += 1);
}

fn remove(table: &Table<i64>, keys: &[u64], rows: &mut Rows) {
    let there = keys.iter().filter(|key| rows.contains_key(key)).count();
    assert_eq!(table.remove(keys).unwrap(), there as u64);
    keys.iter().for_each(|key| _ = rows.remove(key));
}

/// Pushes and removes keys; some steps of so many numbered from `from` on.
fn change(table: &Table<i64>, steps: std::ops::Range<u64>, rows: &mut Rows) {
    for step in steps {
        let mut keys: Vec<u64> = (0..50).map(|at| key(mix(step * 64 + at) % 900)).collect();
        keys.sort_unstable();
        keys.dedup();
        if step % 3 == 2 { remove(table, &keys, rows) } else { push(table, &keys, rows) }
    }
}

fn sparse(durability: Durability) -> TableSchema {
    TableSchema { durability, ..TableSchema::sparse(i64::DTYPE, 2) }
}

#[test]
fn tables_are_as_a_map_while_rows_come_and_go() {
    for (provider, replicas) in
        [(Provider::Shm {}, 1), (Provider::Tcp {}, 1), (Provider::Shm {}, 3), (Provider::Tcp {}, 2)]
    {
        let servers = start(provider, replicas, None);
        let client = connect(&servers[0]);
        let table = client.create_table::<i64>("t", &sparse(Durability::Memory {})).unwrap();
        let mut rows = Rows::new();
        for part in 0..6 {
            change(&table, part * 50..part * 50 + 50, &mut rows);
            for from in [PullFrom::Tail, PullFrom::Any, PullFrom::Strong] {
                assert_eq!(all(&table, from), rows, "{provider:?} {replicas} {from:?}");
            }
        }
        // One key after the other, and twice, and in any order, and one that there never was.
        let (gone, there) = (*rows.keys().next().unwrap(), *rows.keys().next_back().unwrap());
        assert_eq!(table.remove(&[there, gone, there, 77, gone]).unwrap(), 2);
        assert_eq!(table.remove(&[there, gone]).unwrap(), 0);
        assert_eq!(table.remove(&[]).unwrap(), 0);
        let pulled = table.pull(&[there], &PullOptions::default()).unwrap().wait().unwrap();
        assert_eq!(pulled[..], [0, 0]);
        // Many at once.
        let keys: Vec<u64> = (0..30_000).map(key).collect();
        assert_eq!(table.remove(&keys).unwrap(), rows.len() as u64 - 2);
        assert!(all(&table, PullFrom::Tail).is_empty());
        servers.into_iter().rev().for_each(Server::stop);
    }
}

#[test]
fn rows_that_are_gone_stay_so_after_restarts() {
    for durability in [Durability::Interval { milliseconds: 5 }, Durability::Sync {}] {
        let data = tempfile::tempdir().unwrap();
        let mut rows = Rows::new();
        for life in 0..6 {
            let servers = start(Provider::Shm {}, 1, Some(data.path()));
            let client = connect(&servers[0]);
            let table = match life {
                0 => client.create_table::<i64>("t", &sparse(durability)).unwrap(),
                _ => client.open_table::<i64>("t").unwrap(),
            };
            assert_eq!(all(&table, PullFrom::Tail), rows, "{durability:?}, life {life}");
            // Keys of few pieces, of which later checkpoints find all gone.
            let lone = [key(1000 + life), key(2000 + life)];
            push(&table, &lone, &mut rows);
            change(&table, life * 40..life * 40 + 20, &mut rows);
            client.checkpoint(servers[0].id()).unwrap();
            change(&table, life * 40 + 20..life * 40 + 40, &mut rows);
            remove(&table, &lone[..1], &mut rows);
            if life > 0 {
                remove(&table, &[key(2000 + life - 1)], &mut rows);
            }
            if life % 2 == 1 {
                client.checkpoint(servers[0].id()).unwrap();
            }
            drop(client);
            servers.into_iter().for_each(Server::stop);
        }
    }
}

#[test]
fn a_full_server_has_room_again_once_rows_are_gone() {
    let servers = start(Provider::Shm {}, 1, None);
    let client = connect(&servers[0]);
    let schema = TableSchema::sparse(i64::DTYPE, 4096);
    let table = client.create_table::<i64>("wide", &schema).unwrap();
    let values = vec![1; 4096];
    let push = |at: u64| table.push(&[key(at)], &values, &PushOptions::default()).unwrap().wait();
    let full = (0..).find(|at| push(*at).is_err()).unwrap();
    let keys: Vec<u64> = (0..full).map(key).collect();
    for from in [1_u64 << 20, 1 << 21, 1 << 22] {
        assert_eq!(table.remove(&keys).unwrap(), full);
        // As many keys take their place, in the same partitions.
        (0..full).for_each(|at| push(at).unwrap());
        assert!((from..from + 64).any(|at| push(at).is_err()));
    }
    servers.into_iter().for_each(Server::stop);
}

#[test]
fn small_rows_are_removed_and_others_stay() {
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let servers = start(provider, 2, None);
        let client = connect(&servers[0]);
        let schema = TableSchema::sparse(f32::DTYPE, 2);
        let table = client.create_table::<f32>("t", &schema).unwrap();
        let keys: Vec<u64> = {
            let mut keys: Vec<u64> = (0..20_000).map(key).collect();
            keys.sort_unstable();
            keys
        };
        let norm_of = |key: u64| (mix(key) % 1000) as f32 / 100.0;
        let values: Vec<f32> =
            keys.iter().flat_map(|key| [norm_of(*key) * 0.6, norm_of(*key) * -0.8]).collect();
        table.push(&keys, &values, &PushOptions::default()).unwrap().wait().unwrap();
        let stay: Vec<u64> = keys.iter().copied().filter(|key| norm_of(*key) > 3.005).collect();
        let removed = table.remove_below(3.005).unwrap();
        assert_eq!(removed, (keys.len() - stay.len()) as u64);
        assert_eq!(table.remove_below(3.005).unwrap(), 0);
        let left = |from| {
            let options = ScanOptions { from, ..ScanOptions::default() };
            let batches = table.scan(&options).unwrap().map(Result::unwrap);
            let mut left: Vec<u64> = batches.flat_map(|batch| batch.keys.to_vec()).collect();
            left.sort_unstable();
            left
        };
        assert!(left(PullFrom::Tail) == stay && left(PullFrom::Any) == stay);
        assert_eq!(table.remove_below(f64::INFINITY).unwrap(), stay.len() as u64);
        servers.into_iter().rev().for_each(Server::stop);
    }
}

#[test]
fn what_is_not_to_be_removed_is_refused() {
    let servers = start(Provider::Shm {}, 1, None);
    let client = connect(&servers[0]);
    let dense = client.create_table::<f32>("d", &TableSchema::dense(f32::DTYPE, 10, 3)).unwrap();
    let table = client.create_table::<f32>("t", &TableSchema::sparse(f32::DTYPE, 3)).unwrap();
    let refused = |error: TableError, about: &str| {
        assert!(matches!(error, TableError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(about), "{error}");
    };
    refused(dense.remove(&[1]).unwrap_err(), "rows of dense tables are not removed");
    refused(dense.remove_below(1.0).unwrap_err(), "rows of dense tables are not removed");
    refused(table.remove_below(f64::NAN).unwrap_err(), "with a number");
    client.drop_table("t").unwrap();
    refused(table.remove(&[1]).unwrap_err(), "no such table");
    servers.into_iter().for_each(Server::stop);
}

/// The push that waits for its round needs the row that it found.
#[test]
fn rows_with_pushes_in_an_open_round_stay_until_it_ends() {
    let servers = start(Provider::Shm {}, 1, None);
    let worker = |rank| {
        let rank = Some(WorkerRank(rank));
        let options = ClientOptions {
            rank,
            retry_for: Duration::from_millis(50),
            ..ClientOptions::default()
        };
        Client::connect_with(servers[0].advertised(), options).unwrap()
    };
    let schema = TableSchema {
        aggregation: Aggregation::Rounds { quorum: 0, fold_late: false },
        consistency: Consistency::Sequential {},
        ..TableSchema::sparse(i64::DTYPE, 2)
    };
    let (one, other) = (worker(0), worker(1));
    let table = one.create_table::<i64>("t", &schema).unwrap();
    let others = other.open_table::<i64>("t").unwrap();
    table.wait_for_workers(2).unwrap();
    let pushed = table.push(&[5], &[3, 3], &PushOptions::default()).unwrap();
    one.advance_clock().unwrap();
    while !matches!(others.remove(&[5]), Err(TableError::Refused { text, .. }) if text.contains("their round"))
    {
        // The push is on its way.
    }
    assert_eq!(others.remove(&[6]).unwrap(), 0);
    other.advance_clock().unwrap();
    pushed.wait().unwrap();
    assert_eq!(others.remove(&[5]).unwrap(), 1);
    drop((one, other));
    servers.into_iter().for_each(Server::stop);
}
