//! Pushes of chosen rows arrive as plain ones do in the end: every value once, whatever was held back between,
//! over every provider, with keys in any order, through messages' filters and refusals.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod connecting;
mod same_rows;

use connecting::connect;
use same_rows::assert_same_rows;
use windlass_client::{
    Candidates, DataType, Provider, PullOptions, PushOptions, RequestError, SelectRows, Sparsifier,
    Table, TableSchema,
};
use windlass_engine::{Server, ServerConfig};

const ROWS: u64 = 400;

fn server(provider: Provider) -> Server {
    let config = ServerConfig {
        providers: vec![provider],
        memory_len_max: 64 << 20,
        partitions: 16,
        shards: 2,
        ..ServerConfig::default()
    };
    Server::start(config).unwrap()
}

fn all(table: &Table<i64>) -> Vec<i64> {
    table.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap()
}

/// Numbers that look random, the same in every run.
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::from_fn(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Some(state >> 33)
    })
}

#[test]
fn what_is_held_back_arrives_later_and_once() {
    let options = PushOptions::default();
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let server = server(provider);
        let client = connect(&server);
        for filters in ["significance:40", "top-k:7", "skip:0.6", "kkt:30", "skip:0.1,top-k:20"] {
            let schema = TableSchema::dense(DataType::I64, ROWS, 1);
            let table = client.create_table::<i64>(&format!("t-{filters}"), &schema).unwrap();
            let mut sparsifier = table.sparsifier(filters).unwrap();
            let mut expected = vec![0_i64; usize::try_from(ROWS).unwrap()];
            let mut numbers = numbers(7);
            for _ in 0..50 {
                // Unsorted, some of them twice.
                let keys: Vec<u64> = (0..60).map(|_| numbers.next().unwrap() % ROWS).collect();
                let values: Vec<i64> = keys
                    .iter()
                    .map(|key| (numbers.next().unwrap() % 50 + key % 3) as i64)
                    .collect();
                for (key, value) in keys.iter().zip(&values) {
                    expected[usize::try_from(*key).unwrap()] += value;
                }
                let weights = vec![0; 60];
                let push = sparsifier.push(&table, &keys, &values, Some(&weights), &options);
                if let Some(push) = push.unwrap() {
                    push.wait().unwrap();
                }
            }
            assert!(sparsifier.held_rows() > 0, "{filters} held nothing back");
            assert_ne!(all(&table), expected, "{filters}");
            sparsifier.push_held(&table, &options).unwrap().unwrap().wait().unwrap();
            assert_same_rows(&all(&table), &expected, &format!("{filters} over {provider:?}"));
            assert!(sparsifier.push_held(&table, &options).unwrap().is_none());
            assert!(sparsifier.bytes_saved().all(|(_, bytes)| bytes > 0), "{filters}");
        }
    }
}

/// Even keys.
struct Even;

impl SelectRows<f32> for Even {
    fn select(&mut self, rows: &Candidates<'_, f32>, is_sent: &mut [bool]) {
        for (key, is_sent) in rows.keys.iter().zip(is_sent) {
            *is_sent &= key % 2 == 0;
        }
    }
}

#[test]
fn a_filter_of_ones_own_chooses_rows_and_messages_have_theirs() {
    let server = server(Provider::Shm {});
    let client = connect(&server);
    let schema =
        TableSchema { rule: "sgd:lr=1".parse().unwrap(), ..TableSchema::sparse(DataType::F32, 2) };
    let table = client.create_table::<f32>("own", &schema).unwrap();
    let options =
        PushOptions { filters: "delta-keys,bf16".parse().unwrap(), ..PushOptions::default() };
    let mut even = Sparsifier::by(2, "even", Box::new(Even));
    let push = even.push(&table, &[1, 2, 3, 4], &[-1.0; 8], None, &options);
    push.unwrap().unwrap().wait().unwrap();
    let pull = |keys: &[u64]| table.pull(keys, &PullOptions::default()).unwrap().wait().unwrap();
    assert_eq!(pull(&[1, 2, 3, 4]), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
    let push = even.push(&table, &[1, 3], &[-1.0; 4], None, &options);
    assert!(push.unwrap().is_none());
    assert_eq!(even.held(), (vec![1, 3], vec![-2.0; 4]));
    even.push_held(&table, &options).unwrap().unwrap().wait().unwrap();
    assert_eq!(pull(&[1, 3]), [2.0; 4]);
}

#[test]
fn a_push_that_is_refused_costs_nothing_that_was_held() {
    let server = server(Provider::Shm {});
    let client = connect(&server);
    let schema = TableSchema {
        rule: "sgd:lr=1".parse().unwrap(),
        ..TableSchema::dense(DataType::F32, 8, 1)
    };
    let table = client.create_table::<f32>("refuses", &schema).unwrap();
    let options = PushOptions::default();
    let mut sparsifier = table.sparsifier("significance:3").unwrap();
    let push = |sparsifier: &mut Sparsifier<f32>, keys: &[u64], values: &[f32]| {
        sparsifier.push(&table, keys, values, None, &options)
    };
    assert!(push(&mut sparsifier, &[1, 2], &[1.0, 2.0]).unwrap().is_none());
    let before = sparsifier.held();
    let refused = push(&mut sparsifier, &[1, 2, 8], &[5.0, 5.0, 5.0]).unwrap_err();
    assert!(matches!(refused, RequestError::OutOfRange { .. }), "{refused}");
    let refused = push(&mut sparsifier, &[1], &[5.0, 5.0]).unwrap_err();
    assert!(matches!(refused, RequestError::Length { .. }), "{refused}");
    let fixed = PushOptions { filters: "fixed:1".parse().unwrap(), ..options };
    let refused = sparsifier.push(&table, &[1], &[f32::NAN], None, &fixed);
    assert!(matches!(refused.unwrap_err(), RequestError::Filter(..)));
    assert_eq!(sparsifier.held(), before);
    push(&mut sparsifier, &[1, 2], &[2.0, 0.5]).unwrap().unwrap().wait().unwrap();
    assert_eq!(sparsifier.held(), (vec![2], vec![2.5]));
}
