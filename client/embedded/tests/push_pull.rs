//! Push and pull through real servers in this process, over every transport that works here.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod same_rows;

use half::{bf16, f16};
use same_rows::assert_same_rows;
use windlass_client::{
    Client, ClientOptions, Element, NotFinitePolicy, Provider, PullOptions, PushOptions,
    RequestError, Status, TableError, TableSchema,
};
use windlass_embedded::{Embedded, EmbeddedClient};
use windlass_engine::ServerConfig;
use windlass_transport::{late_run::open_shm, shm::ShmOptions, tcp::TcpOptions};

/// Providers, and whether their reads go in ascending order and their writes show in order.
const PROVIDERS: [(Provider, [bool; 2]); 4] = [
    (Provider::Shm {}, [false, true]),
    (Provider::Tcp {}, [true, true]),
    (Provider::Tcp {}, [false, true]),
    (Provider::Tcp {}, [false, false]),
];

fn options((provider, [reads_in_order, writes_in_order]): (Provider, [bool; 2])) -> ClientOptions {
    let tcp = TcpOptions { reads_in_order, writes_in_order, ..TcpOptions::LOOPBACK };
    ClientOptions { providers: vec![provider], tcp, ..ClientOptions::default() }
}

fn client((provider, order): (Provider, [bool; 2]), shards: u16) -> EmbeddedClient {
    let config = ServerConfig {
        providers: vec![provider],
        shards,
        memory_len_max: 1 << 30,
        ..ServerConfig::default()
    };
    Client::embedded_with(config, options((provider, order))).unwrap()
}

fn push() -> PushOptions {
    PushOptions::default()
}

fn pull() -> PullOptions {
    PullOptions::default()
}

/// Pushes whose values the server has read from the client's memory.
fn by_reference(client: &Client) -> u64 {
    let json = client.server_statistics(client.map().servers[0].id).unwrap();
    let (_, rest) = json.split_once("\"by_reference\":").unwrap();
    rest.split(',').next().unwrap().parse().unwrap()
}

fn each(test: impl Fn(&EmbeddedClient)) {
    for provider in PROVIDERS {
        for shards in [1, 3] {
            test(&client(provider, shards));
        }
    }
}

/// A run of this suite over late writes is one.
#[test]
fn writes_are_late_where_the_environment_says_so() {
    let in_order = open_shm(ShmOptions::default()).unwrap().capabilities().promises.writes_in_order;
    assert_eq!(in_order, std::env::var_os("WINDLASS_LATE_WRITES").is_none());
}

#[test]
fn dense_rows_by_key_and_by_range() {
    each(|client| {
        let table =
            client.create_table::<f32>("dense", &TableSchema::dense(f32::DTYPE, 1000, 3)).unwrap();
        let keys = [0, 1, 2, 499, 500, 998, 999];
        let values: Vec<f32> = (0..21).map(|value| value as f32).collect();
        table.push(&keys, &values, &push()).unwrap().wait().unwrap();
        table.push(0..2, &[100.0; 6], &push()).unwrap().wait().unwrap();
        let rows = table.pull(&keys, &pull()).unwrap().wait().unwrap();
        let mut expected = values.clone();
        for value in &mut expected[..6] {
            *value += 100.0;
        }
        assert_same_rows(&rows, &expected, "pushed rows");
        let all = table.pull(0..1000, &pull()).unwrap().wait().unwrap();
        assert_eq!(all.len(), 3000);
        for (at, key) in keys.iter().enumerate() {
            let from = usize::try_from(*key).unwrap() * 3;
            assert_eq!(all[from..from + 3], expected[at * 3..at * 3 + 3], "row {key}");
        }
        assert_eq!(all.iter().filter(|value| **value != 0.0).count(), 21);
    });
}

#[test]
fn sparse_rows_are_made_by_pushes_and_zero_before() {
    each(|client| {
        let table =
            client.create_table::<f64>("sparse", &TableSchema::sparse(f64::DTYPE, 2)).unwrap();
        let keys: Vec<u64> = (0..5000).map(|key| key * 0x0123_4567_89ab).collect();
        let values: Vec<f64> = (0..10_000).map(f64::from).collect();
        for _ in 0..3 {
            table.push(&keys, &values, &push()).unwrap().wait().unwrap();
        }
        let rows = table.pull(&keys, &pull()).unwrap().wait().unwrap();
        assert!(rows.iter().zip(&values).all(|(row, value)| *row == value * 3.0));
        let absent = table.pull(&[1, 2, u64::MAX], &pull()).unwrap().wait().unwrap();
        assert_eq!(absent, [0.0; 6]);
    });
}

#[test]
fn tables_of_every_dtype_side_by_side() {
    fn check<T: Element + PartialEq + std::fmt::Debug>(client: &Client, one: T, two: T) {
        let name = format!("of {}", T::DTYPE);
        let schema = TableSchema::dense(T::DTYPE, 70, 5);
        let table = client.create_table::<T>(&name, &schema).unwrap();
        table.push(60..70, &[one; 50], &push()).unwrap().wait().unwrap();
        table.push(&[61, 63], &[one; 10], &push()).unwrap().wait().unwrap();
        let rows = table.pull(60..64, &pull()).unwrap().wait().unwrap();
        let expected: Vec<T> = [one, two, one, two].into_iter().flat_map(|row| [row; 5]).collect();
        assert_same_rows(&rows, &expected, T::DTYPE.name());
    }
    each(|client| {
        check(client, 1.5_f32, 3.0);
        check(client, 1.5_f64, 3.0);
        check(client, f16::from_f32(1.5), f16::from_f32(3.0));
        check(client, bf16::from_f32(1.5), bf16::from_f32(3.0));
        check(client, 100_i8, -56);
        check(client, -3_i32, -6);
        check(client, i64::MAX, -2);
        check(client, u64::MAX, u64::MAX - 1);
        assert_eq!(client.list_tables().unwrap().len(), 8);
    });
}

#[test]
fn large_values_go_by_reference_and_registered_rows_without_a_copy() {
    each(|client| {
        let schema = TableSchema::dense(f32::DTYPE, 1 << 18, 8);
        let table = client.create_table::<f32>("large", &schema).unwrap();
        let values: Vec<f32> = (0..1 << 21).map(|value| (value % 1000) as f32).collect();
        table.push(0..1 << 18, &values, &push()).unwrap().wait().unwrap();
        let mut rows = client.allocate::<f32>(1 << 21).unwrap();
        rows.copy_from_slice(&values);
        for _ in 0..3 {
            let pending = table.push_rows(0..1 << 18, rows, &push()).unwrap();
            let (back, outcome) = pending.wait_rows();
            outcome.unwrap();
            rows = back.unwrap();
        }
        let mut pulled = vec![0.0; 1 << 21];
        table.pull_into(0..1 << 18, &mut pulled, &pull()).unwrap();
        assert!(pulled.iter().zip(&values).all(|(row, value)| *row == value * 4.0));
        let relaxed = PullOptions { relaxed: true, ..pull() };
        table.pull_into(5..9, &mut pulled[..32], &relaxed).unwrap();
        assert_eq!(pulled[0], 160.0);
    });
}

#[test]
fn values_are_written_where_none_go_by_reference() {
    for provider in PROVIDERS {
        for (by_reference_len, is_written) in [(None, false), (Some(u32::MAX), true)] {
            let config = ServerConfig {
                providers: vec![provider.0],
                by_reference_len,
                ..ServerConfig::default()
            };
            let client = Client::embedded_with(config, options(provider)).unwrap();

            // Several messages of rows, and of keys.
            let schema = TableSchema::dense(f32::DTYPE, 1 << 14, 64);
            let table = client.create_table::<f32>("dense", &schema).unwrap();
            let values: Vec<f32> = (0..1 << 20).map(|value| (value % 1000) as f32).collect();
            table.push(0..1 << 14, &values, &push()).unwrap().wait().unwrap();
            let rows = table.pull(0..1 << 14, &pull()).unwrap().wait().unwrap();
            assert_same_rows(&rows, &values, "a range");
            let schema = TableSchema::sparse(f32::DTYPE, 64);
            let table = client.create_table::<f32>("sparse", &schema).unwrap();
            let keys: Vec<u64> = (0..1 << 14).map(|key| key * 3).collect();
            table.push(&keys, &values, &push()).unwrap().wait().unwrap();
            let rows = table.pull(&keys, &pull()).unwrap().wait().unwrap();
            assert_same_rows(&rows, &values, "keys");
            // Registered rows go from where they lie, also where a part begins anywhere.
            let mut rows = client.allocate::<f32>(1 << 20).unwrap();
            rows.copy_from_slice(&values);
            let (_, outcome) = table.push_rows(&keys, rows, &push()).unwrap().wait_rows();
            outcome.unwrap();
            let sum: Vec<f32> = values.iter().map(|value| value * 2.0).collect();
            let rows = table.pull(&keys, &pull()).unwrap().wait().unwrap();
            assert_same_rows(&rows, &sum, "keys pushed twice");
            let odd = client
                .create_table::<i8>("odd", &TableSchema::dense(i8::DTYPE, 1 << 12, 1001))
                .unwrap();
            let count = 1001 << 12;
            let mut rows = client.allocate::<i8>(count).unwrap();
            rows.iter_mut().zip((0..50).cycle()).for_each(|(row, value)| *row = value);
            let expected = rows.to_vec();
            let (_, outcome) = odd.push_rows(0..1 << 12, rows, &push()).unwrap().wait_rows();
            outcome.unwrap();
            let rows = odd.pull(0..1 << 12, &pull()).unwrap().wait().unwrap();
            assert_same_rows(&rows, &expected, "rows of an odd width");
            assert_eq!(by_reference(&client) == 0, is_written);

            // Rows too long for a message.
            let before = by_reference(&client);
            let schema = TableSchema::dense(f32::DTYPE, 2, 1 << 19);
            let table = client.create_table::<f32>("long", &schema).unwrap();
            table.push(0..2, &values, &push()).unwrap().wait().unwrap();
            assert_eq!(table.pull(0..2, &pull()).unwrap().wait().unwrap(), values);
            assert_eq!(by_reference(&client), before + 2);
        }
    }
}

#[test]
fn prepared_rows_push_and_pull_in_place() {
    each(|client| {
        let table = client.create_table::<f32>("p", &TableSchema::sparse(f32::DTYPE, 128)).unwrap();
        let keys: Vec<u64> = (0..500).map(|key| key * 977).collect();
        let mut prepared = table.prepare(&keys).unwrap();
        prepared.values_mut().unwrap().fill(0.5);
        for _ in 0..10 {
            prepared.push(&push()).unwrap();
        }
        assert!(prepared.pull(&pull()).unwrap().iter().all(|value| *value == 5.0));
    });
}

#[test]
fn update_rules_and_their_state() {
    each(|client| {
        let schema = TableSchema {
            rule: "adagrad:lr=0.1,eps=1e-10".parse().unwrap(),
            ..TableSchema::dense(f32::DTYPE, 10, 1)
        };
        let table = client.create_table::<f32>("adagrad", &schema).unwrap();
        for _ in 0..2 {
            table.push(&[3], &[2.0], &push()).unwrap().wait().unwrap();
        }
        let row = table.pull(&[3], &pull()).unwrap().wait().unwrap();
        let expected = -0.1 * (2.0 / 2.0 + 2.0 / 8.0_f32.sqrt());
        assert!((row[0] - expected).abs() < 1e-6, "{row:?} is not {expected}");
    });
}

#[test]
fn many_requests_in_flight_end_in_the_right_sum() {
    each(|client| {
        let table = client.create_table::<i64>("n", &TableSchema::sparse(i64::DTYPE, 1)).unwrap();
        let mut last = None;
        for round in 0..20_000_u64 {
            let keys = [round % 7, 7 + round % 11];
            last = Some(table.push(&keys, &[1, 2], &push()).unwrap().timestamp());
        }
        client.wait(last.unwrap()).unwrap();
        client.wait_all().unwrap();
        let rows = table.pull(&(0..18).collect::<Vec<u64>>(), &pull()).unwrap().wait().unwrap();
        assert_eq!(rows.iter().sum::<i64>(), 60_000);
    });
}

#[test]
fn mistakes_are_told_and_lose_nothing() {
    each(|client| {
        let schema = TableSchema {
            not_finite: NotFinitePolicy::Reject {},
            ..TableSchema::dense(f32::DTYPE, 100, 2)
        };
        let table = client.create_table::<f32>("strict", &schema).unwrap();
        let error = |outcome: Result<_, RequestError>| match outcome {
            Ok(_) => panic!("a mistake went through"),
            Err(error) => error,
        };
        assert!(matches!(
            error(table.push(&[1, 100], &[0.0; 4], &push())),
            RequestError::OutOfRange { row: 100, rows: 100 }
        ));
        assert!(matches!(
            error(table.push(&[1], &[0.0; 3], &push())),
            RequestError::Length { expected: 2, found: 3, .. }
        ));
        let nan = table.push(&[1, 2], &[1.0, 1.0, f32::NAN, 1.0], &push());
        assert!(matches!(error(nan), RequestError::NotFinite));
        assert_eq!(table.pull(&[1, 2], &pull()).unwrap().wait().unwrap(), [0.0; 4]);
        assert!(matches!(client.open_table::<f32>("none"), Err(TableError::Unknown { .. })));
        assert!(matches!(client.open_table::<i8>("strict"), Err(TableError::Dtype { .. })));
        let other = TableSchema::dense(f32::DTYPE, 101, 2);
        assert!(matches!(
            client.create_table::<f32>("strict", &other),
            Err(TableError::Exists { .. })
        ));
        client.drop_table("strict").unwrap();
        let clock = client.advance_clock().unwrap();
        client.wait(clock).unwrap();
        assert!(table.push(&[1], &[0.0; 2], &push()).unwrap().wait().is_err());
        client.create_table::<f32>("strict", &other).unwrap();
    });
}

#[test]
fn a_stopped_server_is_an_error_and_not_a_hang() {
    for provider in PROVIDERS {
        let server = windlass_engine::Server::start(ServerConfig {
            providers: vec![provider.0],
            ..ServerConfig::default()
        })
        .unwrap();
        let options = ClientOptions { retry_for: std::time::Duration::ZERO, ..options(provider) };
        let client = Client::connect_with(server.advertised(), options).unwrap();
        let table =
            client.create_table::<f32>("t", &TableSchema::dense(f32::DTYPE, 10, 1)).unwrap();
        table.push(&[1], &[1.0], &push()).unwrap().wait().unwrap();
        server.stop();
        let outcome = (0..100).try_for_each(|_| table.push(&[1], &[1.0], &push())?.wait());
        assert!(matches!(outcome, Err(RequestError::ServerGone { .. })), "{outcome:?}");
    }
}

#[test]
fn pushes_to_a_summed_table_never_hide_those_to_another() {
    // Adagrad is not linear: its pushes of one turn are summed, ahead of pushes to other tables
    // that were sent between them.
    each(|client| {
        let summed = TableSchema {
            rule: "adagrad:lr=0.1".parse().unwrap(),
            ..TableSchema::sparse(f32::DTYPE, 1)
        };
        let summed = client.create_table::<f32>("summed", &summed).unwrap();
        let counted = TableSchema::sparse(i64::DTYPE, 1);
        let counted = client.create_table::<i64>("counted", &counted).unwrap();
        let many: Vec<u64> = (0..200).collect();
        for round in 0..2000 {
            let _ = summed.push(&many, &[1.0; 200], &push()).unwrap();
            let _ = counted.push(&[round % 100], &[1], &push()).unwrap();
        }
        client.wait_all().unwrap();
        let counts = counted.pull(&many[..100], &pull()).unwrap().wait().unwrap();
        assert!(counts.iter().all(|count| *count == 20), "{counts:?}");
    });
}

#[test]
fn a_push_and_pull_in_one_sees_the_push_and_its_failure() {
    each(|client| {
        for (name, schema) in [
            ("dense", TableSchema::dense(f32::DTYPE, 100, 2)),
            ("sparse", TableSchema::sparse(f32::DTYPE, 2)),
        ] {
            let table = client.create_table::<f32>(name, &schema).unwrap();
            for round in 1..50 {
                let rows = table.push_pull(&[7, 99], &[1.0; 4], &push()).unwrap().wait().unwrap();
                assert_eq!(rows, [round as f32; 4], "{name}");
            }
            let sync = PushOptions { sync: true, ..push() };
            let refused =
                table.push_pull(&[7], &[1.0; 2], &sync).and_then(|pending| pending.wait());
            assert!(matches!(refused, Err(RequestError::Refused { .. })), "{refused:?}");
        }
    });
}

#[test]
fn rows_of_one_value_come_from_the_right_places_read_after_read() {
    each(|client| {
        // Blocks of several sizes, and values of every length, whose reads begin and end anywhere.
        for rows in [1_u64, 7, 500, 70_000] {
            check_values::<f64>(client, rows, |row| row as f64);
            check_values::<f32>(client, rows, |row| row as f32);
            check_values::<i8>(client, rows, |row| (row % 100) as i8);
        }
    });
}

fn check_values<T: Element + PartialEq + std::fmt::Debug>(
    client: &EmbeddedClient,
    rows: u64,
    value: impl Fn(u64) -> T,
) {
    let name = format!("values-{}-{rows}", T::DTYPE.name());
    let table = client.create_table::<T>(&name, &TableSchema::dense(T::DTYPE, rows, 1)).unwrap();
    let values: Vec<T> = (0..rows).map(&value).collect();
    table.push(0..rows, &values, &push()).unwrap().wait().unwrap();
    let mut random = 1_u64;
    for _ in 0..300 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let first = (random >> 33) % rows;
        let end = (first + 1 + (random >> 20) % 700).min(rows);
        let got = table.pull(first..end, &pull()).unwrap().wait().unwrap();
        let from = usize::try_from(first).unwrap();
        assert_eq!(got, values[from..from + got.len()], "{name}: {first}..{end}");
    }
    client.drop_table(&name).unwrap();
}

#[test]
fn a_dropped_table_is_an_error_and_costs_nobody_the_link() {
    for provider in PROVIDERS {
        let client = client(provider, 2);
        let other = Client::connect_with(client.server().advertised(), options(provider)).unwrap();
        let schema = TableSchema::dense(f32::DTYPE, 1000, 4);
        client.create_table::<f32>("dropped", &schema).unwrap();
        let stale = other.open_table::<f32>("dropped").unwrap();
        let rows = stale.pull(0..1000, &pull()).unwrap().wait().unwrap();
        assert_same_rows(&rows, &[0.0; 4000], "a table that was made anew");
        for relaxed in [false, true] {
            // The first time the memory has no table any more, the second time another one.
            client.drop_table("dropped").ok();
            let options = PullOptions { relaxed, ..pull() };
            let pulled = stale.pull(0..1000, &options).and_then(|pending| pending.wait());
            assert!(matches!(pulled, Err(RequestError::NotCurrent { .. })), "{pulled:?}");
            let kept = client.create_table::<f32>("kept", &schema).unwrap();
            kept.push(&[3], &[1.0; 4], &push()).unwrap().wait().unwrap();
            let kept = other.open_table::<f32>("kept").unwrap();
            kept.push(&[3], &[1.0; 4], &push()).unwrap().wait().unwrap();
            let rows = kept.pull(3..4, &pull()).unwrap().wait().unwrap();
            assert_eq!(rows, [if relaxed { 4.0 } else { 2.0 }; 4]);
        }
    }
}

#[test]
fn a_table_that_rejects_looks_at_what_is_pushed_and_not_at_what_becomes_of_it() {
    let client = Client::embedded().unwrap();
    let not_finite = NotFinitePolicy::Reject {};
    let schema = TableSchema { not_finite, ..TableSchema::dense(f32::DTYPE, 10, 1) };
    let table = client.create_table::<f32>("rejecting", &schema).unwrap();
    let push = |value: f32| {
        table.push(&[3], &[value], &PushOptions::default()).and_then(|pending| pending.wait())
    };
    assert!(matches!(push(f32::INFINITY), Err(RequestError::NotFinite)));
    push(f32::MAX).unwrap();
    push(f32::MAX).unwrap();
    let row = table.pull(&[3], &PullOptions::default()).unwrap().wait().unwrap();
    assert_eq!(row, [f32::INFINITY], "as the policy says");
}

#[test]
fn a_push_that_finds_no_memory_says_which_of_its_rows_were_not_applied() {
    for shards in [1, 3] {
        let config = ServerConfig { shards, memory_len_max: 16 << 20, ..ServerConfig::default() };
        let client = Client::embedded_with(config, ClientOptions::default()).unwrap();
        let schema = TableSchema::sparse(f32::DTYPE, 16);
        let table = client.create_table::<f32>("rows", &schema).unwrap();
        let keys: Vec<u64> = (0..200_000).map(|row| row * 3).collect();
        let values = vec![1.0; keys.len() * 16];
        let pushed =
            table.push(&keys, &values, &PushOptions::default()).and_then(|push| push.wait());
        let Err(RequestError::Refused { status, rows, .. }) = &pushed else {
            panic!("more than there is memory for: {pushed:?}");
        };
        assert_eq!(*status, Status::Full);
        let is_refused = |key: u64| rows.iter().any(|range| range.contains(&key));
        let refused = keys.iter().filter(|key| is_refused(**key)).count();
        assert!(refused > 0 && refused < keys.len(), "some went in: {refused}");
        let text = pushed.as_ref().unwrap_err().to_string();
        assert!(text.contains("were not applied, all others were"), "{text}");
        for part in keys.chunks(10_000) {
            let held = table.pull(part, &PullOptions::default()).unwrap().wait().unwrap();
            for (key, row) in part.iter().zip(held.chunks(16)) {
                let expected = if is_refused(*key) { 0.0 } else { 1.0 };
                assert!(row.iter().all(|value| *value == expected), "key {key}: {row:?}");
            }
        }
    }
}
