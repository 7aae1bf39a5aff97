//! What new keys cost a sparse partition beside the standard library's hash map, which moves all it
//! holds when it grows: how long the batches of keys take that a turn would make rows for, and how
//! many known keys are found a second.
//!
//! `cargo bench -p windlass-benches --bench sparse -- [--keys N] [--rounds N]`.
//! Without arguments, and in tests, a tiny run.
#![allow(clippy::print_stdout, reason = "printing is what a bench does")]

use std::{
    collections::HashMap,
    hint::black_box,
    time::{Duration, Instant},
};

use windlass_engine::table::SparsePartition;
use windlass_wire::{DataType, PartitionId, TableSchema, map::mix};

/// Keys of one push.
const BATCH: usize = 512;

fn main() {
    let (mut keys, mut rounds) = (10_000, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let number = |value: Option<String>| value.and_then(|value| value.parse().ok());
        match argument.as_str() {
            "--keys" => keys = number(arguments.next()).expect("a number of keys"),
            "--rounds" => rounds = number(arguments.next()).expect("a number of rounds"),
            // Cargo's own.
            _ => {}
        }
    }
    let keys: Vec<u64> = (0..keys as u64).map(mix).collect();
    println!("{} keys, {BATCH} a batch; microseconds a batch", keys.len());
    for _ in 0..rounds {
        let mut partition =
            SparsePartition::new(PartitionId(0), &TableSchema::sparse(DataType::F32, 1));
        let mut memory = u64::MAX;
        let made = batches(&keys, |key| {
            partition.row_of_or_new(key, &mut memory).expect("there is memory");
        });
        let found = rate(&keys, |key| partition.contains(key));
        report("windlass", made, found);

        let mut map: HashMap<u64, u64> = HashMap::new();
        let made = batches(&keys, |key| {
            let next = map.len() as u64;
            map.entry(key).or_insert(next);
        });
        let found = rate(&keys, |key| map.contains_key(&key));
        report("HashMap", made, found);
    }
}

/// How long each batch took, ascending.
fn batches(keys: &[u64], mut make: impl FnMut(u64)) -> Vec<Duration> {
    let mut taken: Vec<Duration> = keys
        .chunks(BATCH)
        .map(|batch| {
            let start = Instant::now();
            batch.iter().for_each(|key| make(*key));
            start.elapsed()
        })
        .collect();
    taken.sort_unstable();
    taken
}

/// Keys found a second.
fn rate(keys: &[u64], mut find: impl FnMut(u64) -> bool) -> f64 {
    let start = Instant::now();
    let found = keys.iter().filter(|key| black_box(find(**key))).count();
    assert_eq!(found, keys.len());
    keys.len() as f64 / start.elapsed().as_secs_f64()
}

fn report(name: &str, made: Vec<Duration>, found: f64) {
    let at = |per_mille: usize| made[(made.len() - 1) * per_mille / 1000].as_secs_f64() * 1e6;
    let total: Duration = made.iter().sum();
    println!(
        "{name:8} p50 {:7.1}  p99 {:7.1}  p99.9 {:8.1}  max {:9.1}  total {:6.2} s  {:5.1} M found/s",
        at(500),
        at(990),
        at(999),
        at(1000),
        total.as_secs_f64(),
        found / 1e6
    );
}
