//! What rows of new keys cost a shard's thread, by its CPU time, where the memory of a sparse partition is
//! made in place and where another thread makes it ahead. Run by hand:
//!
//! ```console
//! $ cargo run --release -p windlass-embedded --example new_rows -- KEYS_PER_BATCH [PARTITIONS]
//! ```
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for people at a terminal")]

use std::{sync::Arc, time::Instant};

use crossbeam::channel::{Sender, unbounded};
use rustix::time::{ClockId, clock_gettime};
use windlass_engine::table::{Background, SparsePartition};
use windlass_wire::{DataType, PartitionId, TableSchema, map::mix};

const KEYS: usize = 4_000_000;

type Work = Box<dyn FnOnce() + Send>;

#[derive(Debug)]
struct Thread(Sender<Work>);

impl Background for Thread {
    fn run(&self, work: Work) {
        self.0.send(work).unwrap();
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = || arguments.next().map(|text| text.parse().expect("a number"));
    let batch: usize = number().expect("keys of a batch");
    let partitions = number().unwrap_or(1);
    for _ in 0..3 {
        fill("in place", batch, partitions, |_| ());
        let (give, take) = unbounded::<Work>();
        let worker = std::thread::spawn(move || take.into_iter().for_each(|work| work()));
        fill("ahead", batch, partitions, |partition| {
            partition.grow_ahead(Arc::new(Thread(give.clone())));
        });
        drop(give);
        worker.join().unwrap();
    }
}

fn fill(how: &str, batch: usize, count: usize, prepare: impl Fn(&mut SparsePartition)) {
    let rule = "adagrad".parse().unwrap();
    let schema = TableSchema { rule, ..TableSchema::sparse(DataType::F32, 16) };
    let mut partitions: Vec<SparsePartition> = (0..)
        .take(count)
        .map(|number| SparsePartition::new(PartitionId(number), &schema))
        .collect();
    partitions.iter_mut().for_each(prepare);
    let mut memory = u64::MAX;
    let started = Instant::now();
    let mut took: Vec<u64> = (0..KEYS / batch)
        .map(|number| {
            let before = cpu_time_ns();
            for at in number * batch..(number + 1) * batch {
                partitions[at % count].make_row(mix(at as u64), &mut memory).unwrap();
            }
            let t = cpu_time_ns() - before;
            if t > 2_000_000 {
                eprintln!("{number} {} {t}", number * batch);
            }
            t
        })
        .collect();
    let rate = KEYS as f64 / started.elapsed().as_secs_f64() / 1e6;
    took.sort_unstable();
    let at = |hundredths: usize| took[(took.len() - 1) * hundredths / 100] as f64 / 1e6;
    println!(
        "{how:8} {batch} new keys: median {:.2} ms, p99 {:.2}, longest {:.2}; {rate:.1} M keys/s",
        at(50),
        at(99),
        at(100)
    );
}

/// CPU time of this thread.
fn cpu_time_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap()
}
