//! Pushes through filters do what plain ones do: exactly where no filter rounds, within the filter's error
//! where one does; over every provider, with several shards and servers, inline and by reference, through
//! restarts.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "small numbers")]

mod connecting;

use std::time::Duration;

use connecting::connect;
use windlass_client::{
    Aggregation, Client, ClientOptions, Consistency, DataType, Durability, FilterStack, Provider,
    PullOptions, PushOptions, RequestError, Table, TableSchema, WorkerRank,
};
use windlass_engine::{Server, ServerConfig};

const ROWS: u64 = 20_000;
const WIDTH: u32 = 8;

/// Stacks, and how far a value may be off, in parts of the greatest.
const STACKS: [(&str, f32); 9] = [
    ("key-cache", 0.0),
    ("key-cache,delta-keys,snappy,bf16", 0.004),
    ("delta-keys", 0.0),
    ("snappy", 0.0),
    ("delta-keys,snappy", 0.0),
    ("bf16", 0.004),
    ("delta-keys,f16,snappy", 0.001),
    ("fixed:1", 0.01),
    ("snappy,fixed:3", 1e-6),
];

fn config(provider: Provider, shards: u16, servers: u32, replicas: u8) -> ServerConfig {
    ServerConfig {
        providers: vec![provider],
        memory_len_max: 256 << 20,
        partitions: 16,
        shards,
        replicas,
        expected_servers: servers,
        ..ServerConfig::default()
    }
}

fn through(stack: &str) -> PushOptions {
    PushOptions { filters: stack.parse().unwrap(), ..PushOptions::default() }
}

/// Values of some rows, with zeros among them, so that compression finds something.
fn values(rows: usize, seed: u64) -> Vec<f32> {
    let count = rows as u64 * u64::from(WIDTH);
    let value = |at: u64| {
        let word = (at ^ seed << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        if at % 64 < 40 { 0.0 } else { word as f32 / 1e6 - 8.0 }
    };
    (0..count).map(value).collect()
}

fn assert_near(found: &[f32], expected: &[f32], off: f32, what: &str) {
    let greatest = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let is_near = (found - expected).abs() <= off * greatest;
        assert!(is_near, "{what}: value {at} is {found}, not {expected}");
    }
}

fn pulled(table: &Table<f32>, keys: &[u64]) -> Vec<f32> {
    let mut into = vec![0.0; keys.len() * WIDTH as usize];
    table.pull_into(keys, &mut into, &PullOptions::default()).unwrap();
    into
}

/// Keys far and near, of each shard some.
fn keys(count: u64, step: u64) -> Vec<u64> {
    (0..count).map(|at| at * step + at % 3).collect()
}

fn pushes_as_plain_ones_do(provider: Provider, servers: &[Server]) {
    let client = connect(&servers[0]);
    let sparse = TableSchema::sparse(DataType::F32, WIDTH);
    let dense = TableSchema::dense(DataType::F32, ROWS, WIDTH);
    for (number, (stack, off)) in STACKS.into_iter().enumerate() {
        let (options, what) = (through(stack), format!("{stack} over {provider:?}"));
        let by_key = client.create_table::<f32>(&format!("s{number}"), &sparse).unwrap();
        let by_range = client.create_table::<f32>(&format!("d{number}"), &dense).unwrap();
        // From one message that holds all to many that go by reference.
        for (count, step) in [(1, 1), (40, 1 << 40), (3000, 5), (17_000, 1 << 20)] {
            let (keys, values) = (keys(count, step), values(count as usize, count));
            let before = pulled(&by_key, &keys);
            by_key.push(&keys, &values, &options).unwrap().wait().unwrap();
            let after: Vec<f32> =
                pulled(&by_key, &keys).iter().zip(&before).map(|(now, was)| now - was).collect();
            assert_near(&after, &values, off + 1e-6, &what);
        }
        let mut rows = client.allocate::<f32>((ROWS * u64::from(WIDTH)) as usize).unwrap();
        let all = values(ROWS as usize, 7);
        rows.copy_from_slice(&all);
        by_range.push_rows(0..ROWS, rows, &options).unwrap().wait().unwrap();
        let mut into = vec![0.0; all.len()];
        by_range.pull_into(0..ROWS, &mut into, &PullOptions::default()).unwrap();
        assert_near(&into, &all, off, &what);
        by_range.push(3..4, &[1.5; WIDTH as usize], &options).unwrap().wait().unwrap();
    }
    let saved = client.counters().saved;
    for (filter, bytes) in saved.by_filter() {
        // Each table spreads the same keys otherwise.
        assert!(
            bytes > 0 || filter == "key-cache",
            "{filter} saved nothing over {provider:?}: {saved:?}"
        );
    }
}

#[test]
fn filtered_pushes_do_what_plain_ones_do() {
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let (near, far) = (config(provider, 1, 1, 1), config(provider, 2, 2, 2));
        pushes_as_plain_ones_do(provider, &Server::start_together(&near).unwrap());
        pushes_as_plain_ones_do(provider, &Server::start_together(&far).unwrap());
    }
}

/// Pulls by key through each stack, of rows of both kinds of tables.
fn pulls_as_plain_ones_do(provider: Provider, servers: &[Server]) {
    let client = connect(&servers[0]);
    let dense = TableSchema::dense(DataType::F32, ROWS, WIDTH);
    for (name, schema) in [("sparse", TableSchema::sparse(DataType::F32, WIDTH)), ("dense", dense)]
    {
        let table = client.create_table::<f32>(name, &schema).unwrap();
        for count in [1, 40, 5000] {
            let (keys, values) = (keys(count, 3), values(count as usize, count));
            let before = pulled(&table, &keys);
            table.push(&keys, &values, &PushOptions::default()).unwrap().wait().unwrap();
            let expected: Vec<f32> =
                before.iter().zip(&values).map(|(was, add)| was + add).collect();
            for (stack, off) in STACKS {
                let options =
                    PullOptions { filters: stack.parse().unwrap(), ..PullOptions::default() };
                let found = table.pull(&keys, &options).unwrap().wait().unwrap();
                assert_near(&found, &expected, off, &format!("{stack} over {provider:?}"));
            }
        }
    }
    let saved = client.counters().saved;
    assert!(
        saved.bf16 > 0 && saved.f16 > 0 && saved.fixed > 0 && saved.delta_keys > 0,
        "{saved:?}"
    );
}

#[test]
fn filtered_pulls_bring_what_plain_ones_do() {
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let (near, far) = (config(provider, 1, 1, 1), config(provider, 2, 2, 2));
        pulls_as_plain_ones_do(provider, &Server::start_together(&near).unwrap());
        pulls_as_plain_ones_do(provider, &Server::start_together(&far).unwrap());
    }
}

#[test]
fn a_list_of_keys_is_sent_once() {
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let servers = Server::start_together(&config(provider, 2, 1, 1)).unwrap();
        let client = connect(&servers[0]);
        let schema = TableSchema::sparse(DataType::F32, WIDTH);
        let table = client.create_table::<f32>("t", &schema).unwrap();
        let (keys, ones) = (keys(4000, 1 << 30), vec![1.0; 4000 * WIDTH as usize]);
        let sent = keys.len() as u64 * 8;
        for round in 0..5_u8 {
            let filters = "key-cache".parse().unwrap();
            let pull = PullOptions { filters, ..PullOptions::default() };
            let found = table.pull(&keys, &pull).unwrap().wait().unwrap();
            assert!(found.iter().all(|value| *value == f32::from(round)), "{:?}", &found[..8]);
            assert_eq!(client.counters().saved.key_cache, 2 * u64::from(round) * sent);
            let push = PushOptions { filters, ..PushOptions::default() };
            table.push(&keys, &ones, &push).unwrap().wait().unwrap();
        }
    }
}

#[test]
fn a_pull_says_which_filter_cannot_write_its_rows() {
    let server = Server::start_together(&config(Provider::Tcp {}, 1, 1, 1)).unwrap();
    let client = connect(&server[0]);
    let table =
        client.create_table::<f32>("t", &TableSchema::sparse(DataType::F32, WIDTH)).unwrap();
    let endless = vec![f32::INFINITY; 100 * WIDTH as usize];
    let keys: Vec<u64> = (0..100).collect();
    table.push(&keys, &endless, &PushOptions::default()).unwrap().wait().unwrap();
    for few in [&keys[..1], &keys[..]] {
        let pull = |stack: &str| {
            let options = PullOptions { filters: stack.parse().unwrap(), ..PullOptions::default() };
            table.pull(few, &options).unwrap().wait()
        };
        let refused = pull("fixed:2").unwrap_err();
        assert!(refused.to_string().contains("pull them without it"), "{refused}");
        assert_eq!(pull("bf16").unwrap(), endless[..few.len() * WIDTH as usize]);
    }
}

#[test]
fn filtered_pushes_are_part_of_rounds() {
    let server = Server::start_together(&config(Provider::Tcp {}, 2, 1, 1)).unwrap();
    let options = ClientOptions { rank: Some(WorkerRank(0)), ..Default::default() };
    let client = Client::connect_with(server[0].advertised(), options).unwrap();
    let mut schema = TableSchema::dense(DataType::F32, ROWS, WIDTH);
    schema.aggregation = Aggregation::Rounds { quorum: 0, fold_late: false };
    schema.consistency = Consistency::Sequential {};
    let table = client.create_table::<f32>("t", &schema).unwrap();
    let all = values(ROWS as usize, 3);
    for round in 1..=3_u8 {
        let pushed = table.push(0..ROWS, &all, &through("bf16,snappy")).unwrap();
        client.advance_clock().unwrap();
        pushed.wait().unwrap();
        let mut into = vec![0.0; all.len()];
        table.pull_into(0..ROWS, &mut into, &PullOptions::default()).unwrap();
        let expected: Vec<f32> = all.iter().map(|value| value * f32::from(round)).collect();
        assert_near(&into, &expected, 0.004, "rounds");
    }
}

#[test]
fn what_cannot_go_through_a_filter_is_refused_before_anything_is_sent() {
    let server = Server::start_together(&config(Provider::Shm {}, 1, 1, 1)).unwrap();
    let client = connect(&server[0]);
    let halves = TableSchema::dense(DataType::F64, 8, 1);
    let table = client.create_table::<f64>("f64", &halves).unwrap();
    let refused = table.push(0..1, &[1.0], &through("delta-keys,bf16")).unwrap_err();
    assert_eq!(refused.to_string(), "bf16 codes values of f32 tables, and this table's are f64");
    table.push(0..1, &[1.0], &through("delta-keys,snappy")).unwrap().wait().unwrap();
    let schema = TableSchema::dense(DataType::F32, ROWS, 1);
    let table = client.create_table::<f32>("f32", &schema).unwrap();
    let mut values = vec![1.0; ROWS as usize];
    values[ROWS as usize - 1] = f32::NAN;
    let refused = table.push(0..ROWS, &values, &through("fixed:2")).unwrap_err();
    assert!(matches!(refused, RequestError::Filter(_)), "{refused}");
    let mut into = vec![0.0; ROWS as usize];
    table.pull_into(0..ROWS, &mut into, &PullOptions::default()).unwrap();
    assert!(into.iter().all(|value| *value == 0.0), "nothing was applied");
    // Half precision writes them.
    table.push(0..ROWS, &values, &through("bf16")).unwrap().wait().unwrap();
    assert!("gzip".parse::<FilterStack>().is_err());
}

#[test]
fn filtered_pushes_outlive_their_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(Provider::Tcp {}, 2, 1, 1);
    config.data_dir = Some(folder.path().to_owned());
    let server = Server::start(config.clone()).unwrap();
    let client = connect(&server);
    config.listen = server.address();
    let mut schema = TableSchema::sparse(DataType::F32, WIDTH);
    schema.durability = Durability::Sync {};
    let table = client.create_table::<f32>("t", &schema).unwrap();
    let (keys, ones) = (keys(5000, 1 << 20), vec![1.0; 5000 * WIDTH as usize]);
    let mut pending = Vec::new();
    for _ in 0..8 {
        pending.push(
            table.push(&keys, &ones, &through("key-cache,delta-keys,fixed:2,snappy")).unwrap(),
        );
    }
    // Gone with pushes in flight; what is sent again is what was sent before.
    drop(server);
    for _ in 0..2 {
        pending.push(
            table.push(&keys, &ones, &through("key-cache,delta-keys,fixed:2,snappy")).unwrap(),
        );
    }
    let server = started_again(&config);
    for pushed in pending {
        pushed.wait().unwrap();
    }
    let found = pulled(&table, &keys);
    assert!(found.iter().all(|value| *value == 10.0), "{:?}", &found[..8]);
    drop(server);
}

/// A server where one was a moment ago.
fn started_again(config: &ServerConfig) -> Server {
    for _ in 0..200 {
        if let Ok(server) = Server::start(config.clone()) {
            return server;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Server::start(config.clone()).unwrap()
}
