//! Many clients, shards, servers and tables at once, with tables, clients and whole processes coming
//! and going: sums stay exact, and no row is ever seen torn.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use windlass_client::{
    Client, ClientOptions, Element, Provider, PullOptions, PushOptions, RequestError, TableSchema,
};
use windlass_engine::{Server, ServerConfig};
use windlass_tests::crash::random::Random;

const PROVIDERS: [Provider; 2] = [Provider::Shm {}, Provider::Tcp {}];
const ROWS: u64 = 20_000;
const WIDTH: usize = 16;
const LASTS: Duration = Duration::from_secs(4);

/// Two servers of two shards that make one cluster.
fn cluster(provider: Provider) -> (Server, Server) {
    let config = ServerConfig {
        providers: vec![provider],
        shards: 2,
        expected_servers: 2,
        memory_len_max: 512 << 20,
        ..ServerConfig::default()
    };
    let first = Server::start(config.clone()).unwrap();
    let coordinators = vec![first.advertised().to_owned()];
    let second = Server::start(ServerConfig { coordinators, ..config }).unwrap();
    (first, second)
}

fn connect(address: &str, provider: Provider) -> Client {
    let options = ClientOptions { providers: vec![provider], ..ClientOptions::default() };
    Client::connect_with(address, options).unwrap()
}

#[test]
fn mixed_clients_come_and_go_over_shm() {
    torture(Provider::Shm {});
}

#[test]
fn mixed_clients_come_and_go_over_tcp() {
    torture(Provider::Tcp {});
}

fn torture(provider: Provider) {
    let (first, second) = cluster(provider);
    let address = first.advertised().to_owned();
    let other = second.advertised().to_owned();
    let founder = connect(&address, provider);
    founder.create_table::<f32>("even", &TableSchema::dense(f32::DTYPE, ROWS, 16)).unwrap();
    founder.create_table::<i64>("sums", &TableSchema::sparse(i64::DTYPE, 3)).unwrap();
    founder.create_table::<i32>("small", &TableSchema::dense(i32::DTYPE, 100, 1)).unwrap();
    let adagrad = TableSchema {
        rule: "adagrad:lr=0.1,eps=1e-10".parse().unwrap(),
        ..TableSchema::dense(f64::DTYPE, 500, 7)
    };
    founder.create_table::<f64>("adagrad", &adagrad).unwrap();

    let stop = AtomicBool::new(false);
    let pushed = AtomicU64::new(0);
    let checked = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for seed in 1..=2 {
            let address = if seed == 1 { &address } else { &other };
            let (stop, pushed) = (&stop, &pushed);
            scope.spawn(move || pushes(address, provider, seed, stop, pushed));
        }
        scope.spawn(|| reads(&address, provider, &stop, &checked));
        scope.spawn(|| comes_and_goes(&other, provider, &stop));
        scope.spawn(|| tables_come_and_go(&address, provider, &stop));
        scope.spawn(|| dies(&address, provider, &stop));
        std::thread::sleep(LASTS);
        stop.store(true, Ordering::Release);
    });
    let rounds = pushed.load(Ordering::Acquire);
    let rows = checked.load(Ordering::Acquire);
    eprintln!("{}: {rounds} rounds pushed, {rows} rows seen whole", provider.name());
    assert!(rounds > 10 && rows > 10_000, "{rounds} rounds, {rows} rows");

    let pull = PullOptions::default();
    let sums = founder.open_table::<i64>("sums").unwrap();
    let keys: Vec<u64> = (0..300).map(|key| key * 0x0101_0101_0101).collect();
    let found = sums.pull(&keys, &pull).unwrap().wait().unwrap();
    let rounds = i64::try_from(rounds).unwrap();
    assert!(found.iter().all(|value| *value == rounds), "{rounds} rounds: {found:?}");
    let small = founder.open_table::<i32>("small").unwrap();
    let found = small.pull(10..20, &pull).unwrap().wait().unwrap();
    assert!(found.iter().all(|value| i64::from(*value) == rounds), "{rounds}: {found:?}");
    drop(founder);
    second.stop();
    first.stop();
}

/// Pushes to all tables; every acknowledged push counts, in a table of sums.
fn pushes(address: &str, provider: Provider, seed: u64, stop: &AtomicBool, pushed: &AtomicU64) {
    let client = connect(address, provider);
    let even = client.open_table::<f32>("even").unwrap();
    let sums = client.open_table::<i64>("sums").unwrap();
    let small = client.open_table::<i32>("small").unwrap();
    let adagrad = client.open_table::<f64>("adagrad").unwrap();
    let push = PushOptions::default();
    let mut random = Random::new(seed);
    let keys: Vec<u64> = (0..300).map(|key| key * 0x0101_0101_0101).collect();
    let ones = vec![1_i64; 900];
    let values = vec![1.0_f32; 6000 * WIDTH];
    let mut rows = Some(client.allocate::<f32>(3000 * WIDTH).unwrap());
    while !stop.load(Ordering::Acquire) {
        let first = random.below(ROWS - 6000);
        let count = 1 + random.below(6000);
        let len = usize::try_from(count).unwrap() * WIDTH;
        let _range = even.push(first..first + count, &values[..len], &push).unwrap();
        let _sums = sums.push(&keys, &ones, &push).unwrap();
        let _adagrad = adagrad.push(&[3, 4, 77, 499], &[0.5; 28], &push).unwrap();
        let _small = small.push(10..20, &[1; 10], &push).unwrap();
        if let Some(mut mine) = rows.take() {
            mine.fill(2.0);
            let pending = even.push_rows(first..first + 3000, mine, &push).unwrap();
            let (back, outcome) = pending.wait_rows();
            outcome.unwrap();
            rows = back;
        }
        client.wait_all().unwrap();
        pushed.fetch_add(1, Ordering::AcqRel);
    }
}

/// All values of a row are always pushed alike: a validated pull that sees two different ones in a
/// row has seen the middle of an update.
fn reads(address: &str, provider: Provider, stop: &AtomicBool, checked: &AtomicU64) {
    let client = connect(address, provider);
    let even = client.open_table::<f32>("even").unwrap();
    let mut random = Random::new(99);
    let mut into = vec![0.0; usize::try_from(ROWS).unwrap() * WIDTH];
    let relaxed = PullOptions { relaxed: true, ..PullOptions::default() };
    while !stop.load(Ordering::Acquire) {
        let most = if random.one_in(4) { ROWS } else { 500 };
        let count = 1 + random.below(most);
        let first = random.below(ROWS - count + 1);
        let into = &mut into[..usize::try_from(count).unwrap() * WIDTH];
        even.pull_into(first..first + count, into, &PullOptions::default()).unwrap();
        for (row, values) in into.chunks(WIDTH).enumerate() {
            assert!(values.iter().all(|v| *v == values[0]), "row {row} is torn: {values:?}");
        }
        let keys = [first, first + count - 1];
        let keys = if count == 1 { &keys[..1] } else { &keys[..] };
        let gathered = even.pull(keys, &PullOptions::default()).unwrap().wait().unwrap();
        assert!(gathered.chunks(WIDTH).all(|row| row.iter().all(|v| *v == row[0])));
        even.pull_into(first..first + count, into, &relaxed).unwrap();
        assert!(into.iter().all(|value| value.fract() == 0.0), "a relaxed value is not whole");
        checked.fetch_add(count, Ordering::AcqRel);
    }
}

/// Clients that are dropped in the middle of pushes, by reference or not, and of pulls.
fn comes_and_goes(address: &str, provider: Provider, stop: &AtomicBool) {
    let mut random = Random::new(5);
    while !stop.load(Ordering::Acquire) {
        let client = connect(address, provider);
        let even = client.open_table::<f32>("even").unwrap();
        let values = vec![1.0_f32; 5000 * WIDTH];
        for _ in 0..random.below(20) {
            let _pushed = even.push(0..5000, &values, &PushOptions::default()).unwrap();
            let _pulled = even.pull(100..4000, &PullOptions::default()).unwrap();
            let _gathered = even.pull(&[1, 2, 19_999], &PullOptions::default()).unwrap();
        }
        drop(even);
        drop(client);
    }
}

/// Tables made, filled, read and dropped under load; a reader of a dropped table gets an error.
fn tables_come_and_go(address: &str, provider: Provider, stop: &AtomicBool) {
    let client = connect(address, provider);
    let reader = connect(address, provider);
    let schema = TableSchema::dense(f64::DTYPE, 3000, 8);
    while !stop.load(Ordering::Acquire) {
        let table = client.create_table::<f64>("passing", &schema).unwrap();
        table.push(0..3000, &vec![1.0; 24_000], &PushOptions::default()).unwrap().wait().unwrap();
        let view = reader.open_table::<f64>("passing").unwrap();
        let rows = view.pull(0..3000, &PullOptions::default()).unwrap().wait().unwrap();
        assert!(rows.iter().all(|value| *value == 1.0));
        client.drop_table("passing").unwrap();
        let late = view.pull(0..3000, &PullOptions::default()).and_then(|pull| pull.wait());
        assert!(late.is_err(), "rows of a dropped table were given for current");
        let relaxed = PullOptions { relaxed: true, ..PullOptions::default() };
        let late = view.pull(0..3000, &relaxed).and_then(|pull| pull.wait());
        assert!(late.is_err(), "rows of a dropped table were given for current, relaxed");
        let late = table.push(&[1], &[1.0; 8], &PushOptions::default()).and_then(|p| p.wait());
        assert!(matches!(late, Err(RequestError::Refused { .. })), "{late:?}");
    }
}

/// Processes that are killed in the middle of pushing.
fn dies(address: &str, provider: Provider, stop: &AtomicBool) {
    let mut random = Random::new(8);
    while !stop.load(Ordering::Acquire) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture"])
            .env("WINDLASS_VICTIM", format!("{address} {}", provider.name()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(40 + random.below(300)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Not a test of its own: what the killed process runs.
#[test]
fn victim() {
    let Ok(arguments) = std::env::var("WINDLASS_VICTIM") else { return };
    let (address, provider) = arguments.split_once(' ').unwrap();
    let provider = *PROVIDERS.iter().find(|known| known.name() == provider).unwrap();
    let client = connect(address, provider);
    let even = client.open_table::<f32>("even").unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut rows = Some(client.allocate::<f32>(10_000 * WIDTH).unwrap());
    let push = PushOptions::default();
    while Instant::now() < deadline {
        let _pushed = even.push(&[5, 7, 9], &[1.0; 3 * WIDTH], &push).unwrap();
        let pending = even.push_rows(0..10_000, rows.take().unwrap(), &push).unwrap();
        let _pulled = even.pull(0..500, &PullOptions::default()).unwrap();
        let (back, outcome) = pending.wait_rows();
        outcome.unwrap();
        rows = back;
    }
}
