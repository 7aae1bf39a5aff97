//! Bags of keys are pooled as a plain loop over an ordered map pools them, and pulls by key take any number.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

mod connecting;

use std::{collections::BTreeMap, time::Duration};

use connecting::connect;
use half::bf16;
use windlass_client::{
    Client, ClientOptions, Element, Pooling, Provider, PullFrom, PullOptions, PushOptions,
    RequestError, Table, TableSchema,
};
use windlass_engine::{Server, ServerConfig};

fn start(provider: Provider) -> Vec<Server> {
    let config = ServerConfig {
        providers: vec![provider],
        memory_len_max: 512 << 20,
        partitions: 8,
        shards: 2,
        expected_servers: 2,
        ..ServerConfig::default()
    };
    Server::start_together(&config).unwrap()
}

fn key(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
}

fn push<T: Element>(table: &Table<T>, rows: &BTreeMap<u64, Vec<T>>) {
    let keys: Vec<u64> = rows.keys().copied().collect();
    let values: Vec<T> = rows.values().flatten().copied().collect();
    table.push(&keys, &values, &PushOptions::default()).unwrap().wait().unwrap();
}

#[test]
fn bags_are_pooled_as_a_plain_loop_pools_them() {
    let plain = PullOptions::default();
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let servers = start(provider);
        let client = connect(&servers[0]);
        let sparse = client.create_table::<f32>("s", &TableSchema::sparse(f32::DTYPE, 3)).unwrap();
        let dense =
            client.create_table::<f32>("d", &TableSchema::dense(f32::DTYPE, 900, 3)).unwrap();
        for (table, key) in [(&sparse, key as fn(u64) -> u64), (&dense, |number| number)] {
            // Of sparse tables two thirds of the keys have no row.
            let rows: BTreeMap<u64, Vec<f32>> =
                (0..300).map(|at| (key(at), vec![at as f32, at as f32 * 0.5, -3.0])).collect();
            push(table, &rows);
            for round in 0..30_u64 {
                let lens =
                    (0..40_u64).map(|bag| (bag * 7 + round) % if bag % 3 == 0 { 1 } else { 9 });
                let mut offsets = vec![0];
                lens.for_each(|len| offsets.push(offsets[offsets.len() - 1] + len));
                let count = offsets[40];
                let keys: Vec<u64> =
                    (0..count).map(|at| key((at * at + 31 * round) % 900)).collect();
                for pooling in [Pooling::Sum, Pooling::Mean] {
                    let found = table.pull_bags(&keys, &offsets, pooling, &plain).unwrap();
                    let mut expected = Vec::new();
                    for bag in offsets.windows(2) {
                        let bag = &keys[bag[0] as usize..bag[1] as usize];
                        for column in 0..3 {
                            let value = |key| rows.get(key).map_or(0.0, |row| row[column]);
                            let sum: f32 = bag.iter().map(value).sum();
                            let is_mean = pooling == Pooling::Mean && !bag.is_empty();
                            expected.push(if is_mean { sum / bag.len() as f32 } else { sum });
                        }
                    }
                    assert_eq!(found, expected, "{provider:?} {pooling:?} round {round}");
                }
            }
        }
        servers.into_iter().rev().for_each(Server::stop);
    }
}

#[test]
fn halves_are_pooled_in_f32_and_what_makes_no_bags_is_refused() {
    let servers = start(Provider::Shm {});
    let client = connect(&servers[0]);
    let table = client.create_table::<bf16>("b", &TableSchema::sparse(bf16::DTYPE, 1)).unwrap();
    // 256 and a half is no bf16, 257 is none either, but 258 is.
    let half = |value: f32| bf16::from_f32(value);
    push(&table, &[(1, vec![half(256.0)]), (2, vec![half(0.5)])].into());
    let options = PullOptions::default();
    let pooled = table.pull_bags(&[2, 1, 2, 2, 2], &[0, 5], Pooling::Sum, &options).unwrap();
    assert_eq!(pooled, [half(258.0)]);
    let pooled = table.pull_bags(&[2, 1], &[0, 0, 2, 2], Pooling::Mean, &options).unwrap();
    assert_eq!(pooled, [0.0, 128.25, 0.0].map(half));
    for pooling in [Pooling::Sum, Pooling::Mean] {
        let pooled = table.pull_bags(&[2, 1], &[0, 0, 2], pooling, &options).unwrap();
        assert_eq!(pooled[0].to_bits(), 0, "zeros of a bag without keys are not negative");
    }
    assert_eq!(table.pull_bags(&[], &[0], Pooling::Mean, &options).unwrap(), []);
    for (offsets, why) in [
        (&[][..], "there are none"),
        (&[1, 2], "the first is 1"),
        (&[0, 2, 1, 2], "1 follows 2 at 2"),
        (&[0, 1], "the last is 1"),
        (&[0, 3], "the last is 3"),
        (&[0], "the last is 0"),
    ] {
        let refused = table.pull_bags(&[2, 1], offsets, Pooling::Sum, &options).unwrap_err();
        assert!(matches!(refused, RequestError::Offsets { key_count: 2, .. }), "{refused}");
        assert!(refused.to_string().contains(why), "{refused}");
    }
    let mut into = [half(0.0); 2];
    let refused = table.pull_bags_into(&[1], &[0, 1], Pooling::Sum, &mut into, &options);
    assert!(matches!(refused, Err(RequestError::Length { .. })));
    let numbers = client.create_table::<i64>("i", &TableSchema::sparse(i64::DTYPE, 1)).unwrap();
    push(&numbers, &[(1, vec![i64::MAX]), (2, vec![2])].into());
    let sum = numbers.pull_bags(&[1, 2], &[0, 2], Pooling::Sum, &options).unwrap();
    assert_eq!(sum, [i64::MIN + 1]);
    let refused = numbers.pull_bags(&[1, 2], &[0, 2], Pooling::Mean, &options).unwrap_err();
    assert!(matches!(refused, RequestError::MeanOfIntegers { .. }), "{refused}");
    servers.into_iter().rev().for_each(Server::stop);
}

/// More than the staging area, started without waiting: sorted, not sorted, and with a push before.
#[test]
fn a_pull_by_key_that_is_started_takes_any_number() {
    const COUNT: u64 = 30_000;
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let servers = start(provider);
        let options = ClientOptions {
            timeout: Duration::from_secs(60),
            staging_len: 4 << 20,
            ..ClientOptions::default()
        };
        let client = Client::connect_with(servers[0].advertised(), options).unwrap();
        let table = client.create_table::<i64>("t", &TableSchema::sparse(i64::DTYPE, 32)).unwrap();
        let row = |key: u64| (0..32).map(move |column| key.cast_signed() ^ column);
        let mut keys: Vec<u64> = (0..COUNT).map(key).collect();
        keys.sort_unstable();
        let expected = |keys: &[u64]| keys.iter().copied().flat_map(row).collect::<Vec<i64>>();
        let pushed = table.push(&keys, &expected(&keys), &PushOptions::default()).unwrap();
        let after = PullOptions { after: Some(pushed.timestamp()), ..PullOptions::default() };
        let started = table.pull(&keys, &after).unwrap();
        let strong = PullOptions { from: PullFrom::Strong, ..PullOptions::default() };
        keys.reverse();
        keys.extend_from_within(..100);
        let backwards = table.pull(&keys, &strong).unwrap();
        let later = PullOptions { after: Some(backwards.timestamp()), ..PullOptions::default() };
        let few = table.pull(&[key(7)], &later).unwrap();
        assert_eq!(few.wait().unwrap(), expected(&[key(7)]));
        assert!(backwards.wait().unwrap() == expected(&keys), "{provider:?}");
        keys.truncate(COUNT as usize);
        keys.reverse();
        assert!(started.wait().unwrap() == expected(&keys), "{provider:?}");
        drop(table.pull(&keys, &strong).unwrap());
        let mut short = vec![0; 31];
        let wrong = table.pull(&keys, &strong).unwrap().wait_into(&mut short);
        assert!(matches!(wrong, Err(RequestError::Length { .. })));
        let zero = vec![1; 32 * keys.len()];
        let both = table.push_pull(&keys, &zero, &PushOptions::default()).unwrap().wait().unwrap();
        assert!(both.iter().zip(expected(&keys)).all(|(one, other)| *one == other + 1));
        // A key that a dense table has not is found before anything is asked for.
        let dense =
            client.create_table::<i64>("d", &TableSchema::dense(i64::DTYPE, COUNT, 32)).unwrap();
        let mut rows: Vec<u64> = (0..COUNT).step_by(2).chain([COUNT + 1]).collect();
        let refused = dense.pull(&rows, &PullOptions::default()).unwrap_err();
        assert!(matches!(refused, RequestError::OutOfRange { .. }), "{refused}");
        rows.pop();
        let zeros = dense.pull(&rows, &PullOptions::default()).unwrap().wait().unwrap();
        assert!(zeros.len() == 32 * rows.len() && zeros.iter().all(|value| *value == 0));
        servers.into_iter().rev().for_each(Server::stop);
    }
}
