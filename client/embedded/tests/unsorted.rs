//! Keys in any order, and several times in one call, agree with an ordered map: pushes sum what a key has, pulls
//! bring its row to each of its places.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod connecting;
mod same_rows;

use std::{collections::BTreeMap, time::Duration};

use connecting::connect;
use same_rows::assert_same_rows;
use windlass_client::{
    Client, ClientOptions, Element, NotFinitePolicy, Provider, PullOptions, PushOptions,
    RequestError, Table, TableSchema, UpdateRule,
};
use windlass_engine::{Server, ServerConfig};

const WIDTH: usize = 3;
const ROWS: u64 = 4000;

fn start(provider: Provider, shards: u16, servers: u32) -> Vec<Server> {
    let config = ServerConfig {
        providers: vec![provider],
        memory_len_max: 256 << 20,
        partitions: 16,
        shards,
        expected_servers: servers,
        ..ServerConfig::default()
    };
    Server::start_together(&config).unwrap()
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Keys of which many come again.
    fn keys(&mut self, count: usize, sparse: bool) -> Vec<u64> {
        let far = |key: u64| if sparse { key.wrapping_mul(0x9e37_79b9_7f4a_7c15) } else { key };
        (0..count).map(|_| far(self.below(ROWS))).collect()
    }
}

type Rows = BTreeMap<u64, [i64; WIDTH]>;

fn push(rows: &mut Rows, keys: &[u64], values: &[i64]) {
    for (key, values) in keys.iter().zip(values.chunks(WIDTH)) {
        let row = rows.entry(*key).or_default();
        row.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
}

fn expected(rows: &Rows, keys: &[u64]) -> Vec<i64> {
    keys.iter().flat_map(|key| rows.get(key).copied().unwrap_or_default()).collect()
}

fn agrees(table: &Table<i64>, client: &Client, sparse: bool, random: &mut Random) {
    let (mut rows, pull) = (Rows::new(), PullOptions::default());
    for count in [1, 2, 7, 300, 600, 5000, 40_000] {
        let keys = random.keys(count, sparse);
        let values: Vec<i64> =
            (0..count * WIDTH).map(|_| random.below(1000).cast_signed() - 500).collect();
        let filters = ["", "delta-keys,snappy", "key-cache"][count % 3].parse().unwrap();
        let options = PushOptions { filters, ..PushOptions::default() };
        if count % 2 == 0 {
            table.push(&keys, &values, &options).unwrap().wait().unwrap();
        } else {
            let mut registered = client.allocate::<i64>(values.len()).unwrap();
            registered.copy_from_slice(&values);
            let (back, pushed) = table.push_rows(&keys, registered, &options).unwrap().wait_rows();
            pushed.unwrap();
            assert_eq!(back.unwrap()[..], values);
        }
        push(&mut rows, &keys, &values);
        let asked = random.keys(count, sparse);
        let mut into = vec![0; count * WIDTH];
        table.pull_into(&asked, &mut into, &pull).unwrap();
        assert_eq!(into, expected(&rows, &asked));
        let found = table.pull(&keys, &pull).unwrap().wait().unwrap();
        assert_same_rows(&found, &expected(&rows, &keys), "unsorted keys");
        let found = table.push_pull(&keys, &values, &options).unwrap().wait().unwrap();
        push(&mut rows, &keys, &values);
        assert_eq!(found, expected(&rows, &keys));
        let mut prepared = table.prepare(&keys).unwrap();
        for _ in 0..2 {
            prepared.values_mut().unwrap().copy_from_slice(&values);
            prepared.push(&options).unwrap();
            push(&mut rows, &keys, &values);
            prepared.wait().unwrap();
            assert_eq!(prepared.pull(&pull).unwrap(), expected(&rows, &keys));
        }
    }
}

#[test]
fn keys_may_come_in_any_order_and_again() {
    let mut random = Random(7);
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        for (shards, servers) in [(1, 1), (2, 2)] {
            let servers = start(provider, shards, servers);
            let client = connect(&servers[0]);
            let width = u32::try_from(WIDTH).unwrap();
            let dense = TableSchema::dense(i64::DTYPE, ROWS, width);
            let table = client.create_table::<i64>("dense", &dense).unwrap();
            agrees(&table, &client, false, &mut random);
            let sparse = TableSchema::sparse(i64::DTYPE, width);
            let table = client.create_table::<i64>("sparse", &sparse).unwrap();
            agrees(&table, &client, true, &mut random);
        }
    }
}

#[test]
fn the_last_value_of_a_key_is_assigned() {
    let servers = start(Provider::Shm {}, 1, 1);
    let client = connect(&servers[0]);
    let schema =
        TableSchema { rule: UpdateRule::Assign, ..TableSchema::dense(f32::DTYPE, ROWS, 1) };
    let table = client.create_table::<f32>("t", &schema).unwrap();
    let push = PushOptions::default();
    table.push(&[9, 4, 9, 4, 1], &[1.0, 2.0, 3.0, 4.0, 5.0], &push).unwrap().wait().unwrap();
    let found = table.pull(&[1, 4, 9], &PullOptions::default()).unwrap().wait().unwrap();
    assert_eq!(found, [5.0, 4.0, 3.0]);
}

#[test]
fn mistakes_in_unsorted_keys_are_told() {
    let servers = start(Provider::Shm {}, 1, 1);
    let client = connect(&servers[0]);
    let schema = TableSchema::dense(f32::DTYPE, ROWS, 1);
    let table = client.create_table::<f32>("t", &schema).unwrap();
    let past = [5, ROWS, 3];
    let refused = table.push(&past, &[1.0; 3], &PushOptions::default()).unwrap_err();
    assert!(matches!(refused, RequestError::OutOfRange { row: ROWS, rows: ROWS }), "{refused}");
    assert!(table.pull(&past, &PullOptions::default()).is_err());
    assert!(table.prepare(&past).is_err());
    let refused = table.push(&[5, 3], &[1.0; 3], &PushOptions::default()).unwrap_err();
    assert!(matches!(refused, RequestError::Length { expected: 2, found: 3, .. }), "{refused}");
    assert!(table.pull_into(&[5, 3], &mut [0.0; 3], &PullOptions::default()).is_err());
}

#[test]
fn sums_that_are_not_finite_are_refused_before_anything_is_sent() {
    let servers = start(Provider::Tcp {}, 2, 1);
    let client = connect(&servers[0]);
    let schema = TableSchema {
        not_finite: NotFinitePolicy::Reject {},
        ..TableSchema::dense(f32::DTYPE, ROWS, 8)
    };
    let strict = client.create_table::<f32>("strict", &schema).unwrap();
    let keys: Vec<u64> = (0..ROWS).chain([5]).collect();
    let greatest = vec![f32::MAX; keys.len() * 8];
    let refused = strict.push(&keys, &greatest, &PushOptions::default()).unwrap_err();
    assert!(matches!(refused, RequestError::NotFinite), "{refused}");
    let schema = TableSchema::dense(f32::DTYPE, ROWS, 8);
    let table = client.create_table::<f32>("t", &schema).unwrap();
    let fixed = PushOptions { filters: "fixed:2".parse().unwrap(), ..PushOptions::default() };
    let refused = table.push(&keys, &greatest, &fixed).unwrap_err();
    assert!(matches!(refused, RequestError::Filter(_)), "{refused}");
    for table in [strict, table] {
        let found = table.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
        assert!(found.iter().all(|value| *value == 0.0), "nothing was applied");
    }
}

/// More rows than the staging area holds, by keys in any order.
#[test]
fn millions_of_keys_go_in_one_call() {
    const COUNT: u64 = 1 << 20;
    let servers = start(Provider::Tcp {}, 1, 1);
    let options = ClientOptions {
        timeout: Duration::from_secs(120),
        staging_len: 8 << 20,
        ..ClientOptions::default()
    };
    let client = Client::connect_with(servers[0].advertised(), options).unwrap();
    let table = client.create_table::<i64>("t", &TableSchema::sparse(i64::DTYPE, 1)).unwrap();
    // Each key twice, far apart.
    let key = |at: u64| (at % (COUNT / 2)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let keys: Vec<u64> = (0..COUNT).map(key).collect();
    let values: Vec<i64> = (0..COUNT).map(u64::cast_signed).collect();
    table.push(&keys, &values, &PushOptions::default()).unwrap().wait().unwrap();
    let mut into = vec![0; values.len()];
    table.pull_into(&keys, &mut into, &PullOptions::default()).unwrap();
    let half = COUNT.cast_signed() / 2;
    let sums = (0..COUNT.cast_signed()).map(|at| 2 * (at % half) + half);
    assert!(into.into_iter().eq(sums));
}

#[test]
#[should_panic(expected = "rows: value 2 is 4 where 3 was expected")]
fn a_comparison_of_rows_names_the_first_difference() {
    assert_same_rows(&[1, 2, 4, 5], &[1, 2, 3, 4], "rows");
}

#[test]
#[should_panic(expected = "the lengths are not")]
fn a_comparison_of_rows_notices_a_missing_end() {
    assert_same_rows(&[1, 2], &[1, 2, 3], "rows");
}
