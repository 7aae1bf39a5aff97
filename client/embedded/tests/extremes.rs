//! Keys, rows, values and widths at the ends of what there is, through every durability and every number
//! of replicas: they are rows like any other, before and after a restart.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{collections::BTreeMap, path::Path, sync::Barrier, time::Duration};

use windlass_client::{
    Aggregation, Client, ClientOptions, Consistency, Durability, Element, Provider, PullOptions,
    PushOptions, RequestError, Status, Table, TableSchema, WorkerClock, WorkerRank,
};
use windlass_engine::{Server, ServerConfig};

/// Neighbours among them, so that runs of rows end at the last key there is.
const KEYS: [u64; 12] = [
    0,
    1,
    2,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    1 << 63,
    (1 << 63) + 1,
    u64::MAX - 3,
    u64::MAX - 2,
    u64::MAX - 1,
    u64::MAX,
];
const WORKERS: u32 = 3;
const PUSHES: u32 = 30;
const ROWS: u64 = (1 << 16) + 1;

/// The widest row there is, and the widest that checkpoints hold.
const WIDEST: u32 = 4 << 20;
const WIDEST_KEPT: u32 = 512 << 10;

fn start(replicas: u8, data: Option<&Path>) -> Vec<Server> {
    let config = ServerConfig {
        providers: vec![Provider::Shm {}],
        memory_len_max: 256 << 20,
        partitions: 4,
        replicas,
        expected_servers: u32::from(replicas),
        data_dir: data.map(Path::to_owned),
        ..ServerConfig::default()
    };
    Server::start_together(&config).unwrap()
}

fn connect(address: &str, rank: Option<u32>) -> Client {
    let timeout = Duration::from_secs(60);
    let rank = rank.map(WorkerRank);
    let options = ClientOptions { rank, timeout, ..ClientOptions::default() };
    Client::connect_with(address, options).unwrap()
}

/// The tables, by name and by what pushes of a row come to.
fn tables(durability: Durability) -> Vec<(&'static str, TableSchema)> {
    let sums = TableSchema { durability, ..TableSchema::sparse(i64::DTYPE, 1) };
    let consistency = Consistency::Bounded { tau: u64::MAX };
    let mut tables = vec![
        ("sums", sums.clone()),
        ("clocked", TableSchema { consistency, ..sums.clone() }),
        ("rows", TableSchema { durability, ..TableSchema::dense(i64::DTYPE, ROWS, 1) }),
    ];
    if durability == (Durability::Memory {}) {
        let aggregation = Aggregation::Rounds { quorum: 0, fold_late: false };
        tables.push(("rounds", TableSchema { aggregation, ..sums }));
    }
    tables
}

struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(0x1234_5671);
        windlass_wire::map::mix(self.0)
    }

    /// Some of the keys, at least one, in order.
    fn some_of(&mut self, keys: &[u64]) -> Vec<u64> {
        let chosen = self.word();
        let first = usize::try_from(self.word()).unwrap() % keys.len();
        let of = |(at, key): (usize, &u64)| (at == first || chosen >> at & 1 == 1).then_some(*key);
        keys.iter().enumerate().filter_map(of).collect()
    }
}

type Totals = BTreeMap<(&'static str, u64), i64>;

fn keys_of(name: &str) -> Vec<u64> {
    match name {
        "rows" => vec![0, 1, ROWS / 2, ROWS - 3, ROWS - 2, ROWS - 1],
        _ => KEYS.to_vec(),
    }
}

/// One worker's pushes, many of them under way at once, so that they meet in one record.
fn work(client: &Client, names: &[&'static str], random: &mut Random) -> Totals {
    let mut totals = Totals::new();
    let tables: Vec<(&'static str, Table<i64>)> =
        names.iter().map(|name| (*name, client.open_table::<i64>(name).unwrap())).collect();
    for _ in 0..PUSHES / 10 {
        let mut pending = Vec::new();
        for _ in 0..10 {
            for (name, table) in &tables {
                let keys = random.some_of(&keys_of(name));
                let values: Vec<i64> = keys.iter().map(|_| random.word().cast_signed()).collect();
                pending.push(table.push(&keys, &values, &PushOptions::default()).unwrap());
                for (key, value) in keys.iter().zip(values) {
                    let total = totals.entry((*name, *key)).or_default();
                    *total = total.wrapping_add(value);
                }
            }
        }
        client.advance_clock().unwrap();
        pending.into_iter().for_each(|push| push.wait().unwrap());
    }
    totals
}

fn check(client: &Client, expected: &Totals, wide: i8, context: &str) {
    for ((name, key), total) in expected {
        let table = client.open_table::<i64>(name).unwrap();
        let row = table.pull(&[*key], &PullOptions::default()).unwrap().wait().unwrap();
        let mut into = vec![Default::default(); row.len()];
        table.pull_into(&[*key], &mut into, &PullOptions::default()).unwrap();
        assert_eq!(into, row, "{context}");
        assert_eq!(row, [*total], "row {key} of {name}, {context}");
    }
    let table = client.open_table::<i8>("widest").unwrap();
    let row = table.pull(&[u64::MAX], &PullOptions::default()).unwrap().wait().unwrap();
    assert!(row.iter().all(|value| *value == wide), "{context}: {} is not {wide}", row[0]);
}

fn run(replicas: u8, durability: Durability) {
    let context = format!("{replicas} replicas, {durability:?}");
    let data = tempfile::tempdir().unwrap();
    let is_kept = durability != (Durability::Memory {});
    let mut expected = Totals::new();
    let mut random = Random(u64::from(replicas));
    for life in 0..if is_kept { 3 } else { 1 } {
        let servers = start(replicas, is_kept.then_some(data.path()));
        let client = connect(servers[0].advertised(), None);
        let tables = tables(durability);
        for (name, schema) in &tables {
            client.create_table::<i64>(name, schema).unwrap();
        }
        let width = if is_kept { WIDEST_KEPT } else { WIDEST };
        let schema = TableSchema { durability, ..TableSchema::sparse(i8::DTYPE, width) };
        let widest = client.create_table::<i8>("widest", &schema).unwrap();
        if life > 0 {
            check(&client, &expected, life, &context);
        }
        let names: Vec<&'static str> = tables.iter().map(|(name, _)| *name).collect();
        let (barrier, address) = (Barrier::new(WORKERS as usize), servers[0].advertised());
        let seed = random.word();
        let worker = |rank: u32| {
            let client = connect(address, Some(rank));
            // All of them are there before a round closes.
            let known: Vec<_> =
                names.iter().map(|name| client.open_table::<i64>(name).unwrap()).collect();
            barrier.wait();
            let totals = work(&client, &names, &mut Random(seed + u64::from(rank)));
            drop(known);
            totals
        };
        let worker = &worker;
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..WORKERS).map(|rank| scope.spawn(move || worker(rank))).collect();
            for totals in threads.into_iter().map(|thread| thread.join().unwrap()) {
                for (row, total) in totals {
                    let sum = expected.entry(row).or_default();
                    *sum = sum.wrapping_add(total);
                }
            }
        });
        let ones = vec![1; width as usize];
        widest.push(&[u64::MAX], &ones, &PushOptions::default()).unwrap().wait().unwrap();
        refuse_what_is_not_there(&client);
        check(&client, &expected, life + 1, &context);
        drop((widest, client));
        servers.into_iter().rev().for_each(Server::stop);
    }
}

/// Rows behind a table's last one.
fn refuse_what_is_not_there(client: &Client) {
    let table = client.open_table::<i64>("rows").unwrap();
    let options = PushOptions::default();
    for row in [ROWS, i64::MAX as u64, u64::MAX - 1, u64::MAX] {
        let by_key = table.push(&[row], &[1], &options).map(drop);
        assert!(matches!(by_key, Err(RequestError::OutOfRange { .. })), "{by_key:?}");
        let by_range = table.push(row - 1..row, &[1], &options).map(drop);
        let is_there = row == ROWS;
        assert_eq!(by_range.is_ok(), is_there, "{row}: {by_range:?}");
        if is_there {
            table.push(row - 1..row, &[-1], &options).unwrap().wait().unwrap();
        }
        let pulled = table.pull(&[row], &PullOptions::default()).map(drop);
        assert!(matches!(pulled, Err(RequestError::OutOfRange { .. })), "{pulled:?}");
        let mut into = vec![Default::default(); table.width()];
        let pulled = table.pull_into(&[row], &mut into, &PullOptions::default());
        assert!(matches!(pulled, Err(RequestError::OutOfRange { .. })), "{pulled:?}");
    }
}

#[test]
fn extreme_keys_are_rows_like_any_other_in_memory() {
    (1..=3).for_each(|replicas| run(replicas, Durability::Memory {}));
}

#[test]
fn extreme_keys_are_rows_like_any_other_in_interval_tables() {
    (1..=3).for_each(|replicas| run(replicas, Durability::Interval { milliseconds: 5 }));
}

#[test]
fn extreme_keys_are_rows_like_any_other_in_sync_tables() {
    (1..=3).for_each(|replicas| run(replicas, Durability::Sync {}));
}

/// A clock at the end of its numbers would leave the next worker none to go on to.
#[test]
fn a_clock_that_no_worker_can_have_is_refused() {
    for (replicas, durability) in
        [(1, Durability::Memory {}), (1, Durability::Sync {}), (2, Durability::Memory {})]
    {
        let data = tempfile::tempdir().unwrap();
        let servers = start(replicas, Some(data.path()));
        let consistency = Consistency::Bounded { tau: 1 };
        let schema = TableSchema { durability, ..TableSchema::sparse(i64::DTYPE, 1) };
        let schema = TableSchema { consistency, ..schema };
        let worker = connect(servers[0].advertised(), Some(0));
        let table = worker.create_table::<i64>("t", &schema).unwrap();
        let ahead = |clock| {
            let options = PushOptions { clock: Some(WorkerClock(clock)), ..PushOptions::default() };
            table.push(&KEYS, &[1; KEYS.len()], &options).unwrap().wait()
        };
        for clock in [u64::MAX, u64::MAX - 1, (1 << 32) + 1] {
            let refused = ahead(clock);
            assert!(
                matches!(refused, Err(RequestError::Refused { status: Status::ClockTooFar, .. })),
                "clock {clock}: {refused:?}"
            );
        }
        // As far as any worker may be ahead, and a worker of the next run starts behind it.
        ahead(1 << 32).unwrap();
        drop((table, worker));
        let next = connect(servers[0].advertised(), Some(1));
        let table = next.open_table::<i64>("t").unwrap();
        for _ in 0..3 {
            table.push(&[u64::MAX], &[1], &PushOptions::default()).unwrap().wait().unwrap();
            next.wait(next.advance_clock().unwrap()).unwrap();
        }
        let row = table.pull(&[u64::MAX], &PullOptions::default()).unwrap().wait().unwrap();
        assert_eq!(row, [4], "{replicas} replicas, {durability:?}");
        drop((table, next));
        servers.into_iter().rev().for_each(Server::stop);
    }
}
