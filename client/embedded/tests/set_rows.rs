//! Rows set from outside, with their state, are those of every replica, and come back after a restart.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod connecting;
mod serving;

use std::collections::BTreeMap;

use connecting::connect;
use serving::start;
use windlass_client::{
    Client, Durability, Element, Provider, PullFrom, PullOptions, PushOptions, ScanColumns,
    ScanOptions, Table, TableEntry, TableError, TableSchema,
};
use windlass_engine::Server;

const ROWS: u64 = 30_000;

fn entry(client: &Client, name: &str) -> TableEntry {
    client.list_tables().unwrap().into_iter().find(|table| table.name == name).unwrap()
}

fn adam(durability: Durability) -> TableSchema {
    let rule = "adam:lr=0.1,beta1=0.5,beta2=0.5".parse().unwrap();
    TableSchema { rule, durability, ..TableSchema::sparse(f32::DTYPE, 3) }
}

fn key(at: u64) -> u64 {
    if at == 0 { u64::MAX } else { (at - 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) }
}

type Row = (Vec<f32>, Vec<u8>);

/// Every row with its state.
fn all(table: &Table<f32>, from: PullFrom) -> BTreeMap<u64, Row> {
    let options = ScanOptions { columns: ScanColumns::State, from, ..ScanOptions::default() };
    let mut rows = BTreeMap::new();
    for batch in table.scan(&options).unwrap() {
        let batch = batch.unwrap();
        let states = batch.state.chunks(batch.state_len);
        for ((key, values), state) in batch.keys.iter().zip(batch.values.chunks(3)).zip(states) {
            rows.insert(*key, (values.to_vec(), state.to_vec()));
        }
    }
    rows
}

fn bytes(values: &[f32]) -> &[u8] {
    bytemuck::cast_slice(values)
}

/// Sets rows with state, then some of them without; what the table has by then.
fn set(client: &Client, table: &Table<f32>) -> BTreeMap<u64, Row> {
    let entry = entry(client, "t");
    let keys: Vec<u64> = (0..ROWS).map(key).collect();
    let values: Vec<f32> = (0..3 * ROWS).map(|at| at as f32 * 0.5 - 7.0).collect();
    let mut state = Vec::new();
    for at in 0..ROWS {
        state.extend([0.25, 0.5, at as f32, 1.0, 2.0, 3.0].map(f32::to_le_bytes).concat());
        state.extend(u32::try_from(at).unwrap().to_le_bytes());
    }
    // A row that is there gets other values, and other state.
    table.push(&[key(5)], &[9.0; 3], &PushOptions::default()).unwrap().wait().unwrap();
    client.set_keys(&entry, &keys, bytes(&values), Some(&state)).unwrap();
    client.set_keys(&entry, &keys[7..9], bytes(&[1.5; 6]), None).unwrap();
    let row = |at: usize| match at {
        7 | 8 => (vec![1.5; 3], vec![0; 28]),
        _ => (values[3 * at..][..3].to_vec(), state[28 * at..][..28].to_vec()),
    };
    keys.iter().enumerate().map(|(at, key)| (*key, row(at))).collect()
}

#[test]
fn every_replica_has_the_rows_that_were_set() {
    for (provider, replicas) in
        [(Provider::Shm {}, 1), (Provider::Tcp {}, 1), (Provider::Shm {}, 3), (Provider::Tcp {}, 2)]
    {
        let servers = start(provider, replicas, None);
        let client = connect(&servers[0]);
        let table = client.create_table::<f32>("t", &adam(Durability::Memory {})).unwrap();
        let expected = set(&client, &table);
        for from in [PullFrom::Tail, PullFrom::Any, PullFrom::Strong] {
            assert!(all(&table, from) == expected, "{provider:?} {replicas} {from:?}");
        }
        // A dense table, in the midst of its pieces.
        let rule = "sgd:lr=0.5,momentum=0.5".parse().unwrap();
        let schema = TableSchema { rule, ..TableSchema::dense(f32::DTYPE, 100_000, 4) };
        let dense = client.create_table::<f32>("d", &schema).unwrap();
        dense.push(0..9, &[1.0; 36], &PushOptions::default()).unwrap().wait().unwrap();
        let values: Vec<f32> = (0..360_000).map(|at| at as f32).collect();
        client.set_rows(&entry(&client, "d"), 5, bytes(&values)).unwrap();
        let pulled = dense.pull(0..100_000, &PullOptions::default()).unwrap().wait().unwrap();
        assert_eq!(pulled[..20], [-0.5; 20]);
        assert!(pulled[20..360_020] == values && pulled[360_020..].iter().all(|one| *one == 0.0));
        servers.into_iter().rev().for_each(Server::stop);
    }
}

#[test]
fn rows_that_were_set_come_back_after_a_restart() {
    for durability in [Durability::Interval { milliseconds: 5 }, Durability::Sync {}] {
        let data = tempfile::tempdir().unwrap();
        let servers = start(Provider::Shm {}, 1, Some(data.path()));
        let client = connect(&servers[0]);
        let table = client.create_table::<f32>("t", &adam(durability)).unwrap();
        client.checkpoint(servers[0].id()).unwrap();
        let mut expected = set(&client, &table);
        for at in [7, 20] {
            table.push(&[key(at)], &[1.0; 3], &PushOptions::default()).unwrap().wait().unwrap();
        }
        for (at, row) in all(&table, PullFrom::Tail) {
            if at == key(7) || at == key(20) {
                assert_ne!(expected.insert(at, row.clone()), Some(row));
            }
        }
        drop(client);
        servers.into_iter().for_each(Server::stop);
        let servers = start(Provider::Shm {}, 1, Some(data.path()));
        let client = connect(&servers[0]);
        let table = client.open_table::<f32>("t").unwrap();
        assert!(all(&table, PullFrom::Tail) == expected, "{durability:?}");
        drop(client);
        servers.into_iter().for_each(Server::stop);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let servers = start(Provider::Shm {}, 1, None);
    let client = connect(&servers[0]);
    client.create_table::<f32>("t", &adam(Durability::Memory {})).unwrap();
    client.create_table::<f32>("d", &TableSchema::dense(f32::DTYPE, 10, 3)).unwrap();
    let refused = |table: &str, keys: &[u64], values: &[f32], state: Option<&[u8]>| {
        let error = client.set_keys(&entry(&client, table), keys, bytes(values), state);
        let error = error.unwrap_err();
        assert!(matches!(error, TableError::Refused { .. }), "{error}");
        error.to_string()
    };
    assert!(refused("t", &[1, 2], &[0.0; 3], None).contains("12 bytes of values for 2 keys"));
    assert!(refused("t", &[1], &[0.0; 3], Some(&[0; 24])).contains("24 bytes of state"));
    assert!(refused("d", &[1], &[0.0; 3], None).contains("sparse tables are set by key"));
    let rows = client.open_table::<f32>("t").unwrap().scan(&ScanOptions::default()).unwrap();
    assert_eq!(rows.count(), 0);
    servers.into_iter().for_each(Server::stop);
}
