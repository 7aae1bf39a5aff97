//! Scans of sparse tables agree with an ordered map, whoever pushes meanwhile, over every provider, with
//! several shards and servers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod connecting;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use connecting::connect;
use windlass_client::{
    Element, Provider, PullFrom, PushOptions, RequestError, ScanBatch, ScanColumns, ScanCursor,
    ScanOptions, Table, TableSchema,
};
use windlass_engine::{Server, ServerConfig};

const PARTITIONS: u32 = 16;
const STEADY: u64 = 6000;

/// Rows made meanwhile: the indices grow several times.
const FRESH_MAX: usize = 80_000;

fn start(provider: Provider, shards: u16, servers: u32, replicas: u8) -> Vec<Server> {
    let config = ServerConfig {
        providers: vec![provider],
        memory_len_max: 256 << 20,
        partitions: PARTITIONS,
        shards,
        replicas,
        expected_servers: servers,
        ..ServerConfig::default()
    };
    Server::start_together(&config).unwrap()
}

/// A mixer of our own, so that keys are anywhere.
fn key(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
}

fn push(table: &Table<i64>, rows: &BTreeMap<u64, i64>) {
    let keys: Vec<u64> = rows.keys().copied().collect();
    let values: Vec<i64> = rows.values().flat_map(|value| [*value, -*value]).collect();
    table.push(&keys, &values, &PushOptions::default()).unwrap().wait().unwrap();
}

/// All that a scan brings, none of it twice.
fn scanned(table: &Table<i64>, options: &ScanOptions) -> BTreeMap<u64, i64> {
    let mut rows = BTreeMap::new();
    for batch in table.scan(options).unwrap() {
        take(&batch.unwrap(), options, &mut rows);
    }
    rows
}

fn take(batch: &ScanBatch<i64>, options: &ScanOptions, rows: &mut BTreeMap<u64, i64>) {
    assert!(!batch.keys.is_empty());
    assert!(options.rows_max == 0 || batch.keys.len() <= options.rows_max as usize);
    let has_values = options.columns != ScanColumns::Keys;
    assert_eq!(batch.values.len(), if has_values { 2 * batch.keys.len() } else { 0 });
    for (at, key) in batch.keys.iter().enumerate() {
        let value = if has_values { batch.values[2 * at] } else { 0 };
        assert!(!has_values || batch.values[2 * at + 1] == -value, "a row is whole");
        assert!(rows.insert(*key, value).is_none(), "key {key} comes twice");
    }
}

fn agrees_while_others_push(provider: Provider, servers: &[Server]) {
    let client = connect(&servers[0]);
    let table = client.create_table::<i64>("t", &TableSchema::sparse(i64::DTYPE, 2)).unwrap();
    let values = ScanOptions::default();
    assert!(scanned(&table, &values).is_empty(), "an empty table");
    let mut steady: BTreeMap<u64, i64> = (0..STEADY).map(|at| (key(at), 1 + at as i64)).collect();
    steady.extend([(0, 7), (u64::MAX, 8)]);
    push(&table, &steady);
    assert_eq!(scanned(&table, &values), steady, "{provider:?}");

    let is_over = AtomicBool::new(false);
    let fresh = std::thread::scope(|scope| {
        let pusher = scope.spawn(|| {
            let client = connect(servers.last().unwrap());
            let table = client.open_table::<i64>("t").unwrap();
            let mut made = BTreeMap::new();
            while !is_over.load(Ordering::SeqCst) && made.len() < FRESH_MAX {
                let first = STEADY + made.len() as u64;
                let rows: BTreeMap<u64, i64> =
                    (first..first + 500).map(|at| (key(at), 1)).collect();
                push(&table, &rows);
                made.extend(rows);
            }
            made
        });
        for (round, columns) in [ScanColumns::Values, ScanColumns::Keys, ScanColumns::State]
            .into_iter()
            .cycle()
            .take(12)
            .enumerate()
        {
            let options =
                ScanOptions { columns, rows_max: [0, 100, 1000][round / 3 % 3], ..values };
            let found = scanned(&table, &options);
            for (key, value) in &steady {
                let expected = if columns == ScanColumns::Keys { 0 } else { *value };
                assert_eq!(found.get(key), Some(&expected), "{provider:?}: key {key} is missing");
            }
        }
        is_over.store(true, Ordering::SeqCst);
        pusher.join().unwrap()
    });
    assert!(fresh.len() > 1000, "rows were made meanwhile");
    steady.extend(fresh);
    for from in [PullFrom::Tail, PullFrom::Any, PullFrom::Strong] {
        assert_eq!(scanned(&table, &ScanOptions { from, ..values }), steady, "{from:?}");
    }
}

#[test]
fn scans_agree_with_an_ordered_map_on_one_server() {
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let servers = start(provider, 3, 1, 1);
        agrees_while_others_push(provider, &servers);
        servers.into_iter().for_each(Server::stop);
    }
}

#[test]
fn scans_agree_with_an_ordered_map_on_several_servers() {
    for (provider, replicas) in [(Provider::Tcp {}, 1), (Provider::Shm {}, 2)] {
        let servers = start(provider, 2, 3, replicas);
        agrees_while_others_push(provider, &servers);
        servers.into_iter().rev().for_each(Server::stop);
    }
}

#[test]
fn a_scan_brings_the_state_that_the_rule_keeps() {
    let servers = start(Provider::Shm {}, 1, 1, 1);
    let client = connect(&servers[0]);
    let rule = "adam:lr=0.1,beta1=0.5,beta2=0.5".parse().unwrap();
    let schema = TableSchema { rule, ..TableSchema::sparse(f32::DTYPE, 3) };
    let table = client.create_table::<f32>("adam", &schema).unwrap();
    let mut keys = [3, 9, 27, u64::MAX];
    for key in keys {
        table.push(&[key], &[2.0, 4.0, 8.0], &PushOptions::default()).unwrap().wait().unwrap();
    }
    table.push(&[27], &[0.0; 3], &PushOptions::default()).unwrap().wait().unwrap();
    let options = ScanOptions { columns: ScanColumns::State, rows_max: 3, ..Default::default() };
    let mut seen = Vec::new();
    for batch in table.scan(&options).unwrap() {
        let batch = batch.unwrap();
        assert_eq!((batch.state_len, batch.state.len()), (28, 28 * batch.keys.len()));
        for (at, key) in batch.keys.iter().enumerate() {
            let values = table.pull(&[*key], &Default::default()).unwrap().wait().unwrap();
            assert_eq!(batch.values[3 * at..][..3], values);
            let state = &batch.state[28 * at..][..28];
            let (planes, steps) = state.split_at(24);
            let planes: Vec<f32> = floats(planes);
            let twice = *key == 27;
            // The moments of one gradient, halved once more by one of nothing.
            let part = if twice { 0.25 } else { 0.5 };
            let expected = [2.0, 4.0, 8.0, 4.0, 16.0, 64.0].map(|one: f32| one * part);
            assert_eq!(planes, expected);
            assert_eq!(steps, [1 + u8::from(twice), 0, 0, 0]);
            seen.push(*key);
        }
    }
    seen.sort_unstable();
    keys.sort_unstable();
    assert_eq!(seen, keys);
    servers.into_iter().for_each(Server::stop);
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

#[test]
fn a_scan_goes_on_from_the_text_of_its_cursor_and_refuses_others() {
    let servers = start(Provider::Shm {}, 2, 1, 1);
    let schema = TableSchema::sparse(i64::DTYPE, 2);
    let steady: BTreeMap<u64, i64> = (0..500).map(|at| (key(at), 1)).collect();
    let client = connect(&servers[0]);
    let table = client.create_table::<i64>("t", &schema).unwrap();
    push(&table, &steady);
    let options = ScanOptions { rows_max: 7, ..Default::default() };
    let (mut rows, mut text) = (BTreeMap::new(), None::<String>);
    loop {
        // By another client each time.
        let client = connect(&servers[0]);
        let table = client.open_table::<i64>("t").unwrap();
        let mut scan = match &text {
            None => table.scan(&options).unwrap(),
            Some(text) => table.scan_from(text.parse::<ScanCursor>().unwrap(), &options).unwrap(),
        };
        let Some(batch) = scan.next() else {
            assert!(scan.cursor().is_at_end());
            break;
        };
        take(&batch.unwrap(), &options, &mut rows);
        text = Some(scan.cursor().to_string());
    }
    assert_eq!(rows, steady);

    let cursor = table.scan(&options).unwrap().cursor();
    let other = client.create_table::<i64>("other", &schema).unwrap();
    let refused = other.scan_from(cursor, &options).unwrap_err();
    assert!(matches!(&refused, RequestError::CursorOfAnother { name, .. } if name == "other"));
    assert!(refused.to_string().contains("\"other\""), "{refused}");
    client.drop_table("t").unwrap();
    let again = client.create_table::<i64>("t", &schema).unwrap();
    let refused = again.scan_from(cursor, &options).unwrap_err();
    assert!(matches!(&refused, RequestError::CursorOfAnother { name, .. } if name == "t"));
    let dense = client.create_table::<i64>("d", &TableSchema::dense(i64::DTYPE, 9, 2)).unwrap();
    assert!(matches!(dense.scan(&options), Err(RequestError::ScanOfDense)));
    // Of a table that another client dropped.
    let mut scan = again.scan(&options).unwrap();
    connect(&servers[0]).drop_table("t").unwrap();
    let refused = scan.next().unwrap().unwrap_err();
    assert!(matches!(refused, RequestError::Refused { .. }), "{refused}");
    servers.into_iter().for_each(Server::stop);
}
