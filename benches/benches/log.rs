//! Durable commits of the log alone beside fio on the same directory, in turns: sequential writes
//! of one block each, O_DIRECT, durable one by one. The log fills and sums each block as a shard
//! does, with the next one while the last is written, and once without that overlap. Then group
//! commit of pushes of three sizes.
//!
//! `cargo bench -p windlass-benches --bench log -- [--directory DIR] [--rounds N] [--seconds S]`.
//! Without arguments, and in tests, a tiny run. fio is left out, and said to be, when not installed.
#![allow(clippy::print_stdout, reason = "printing is what a bench does")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use windlass_engine::persist::{
    checkpoint::CheckpointConfig,
    commit::{CommitQueue, Durability},
    frame::Kind,
    log::{LogConfig, ReserveError},
    memory::Window,
    persistence::Persistence,
    record::{Facts, Shape},
    recovery::RecoveredDirectory,
    storage::{Provider, open},
};
use windlass_wire::{DataType, Epoch, Lsn, PartitionId, RowRange, TableId};

const BLOCKS: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];
/// Frames around a record's delta: Batch and record headers.
const OVERHEAD: usize = 128;

struct Options {
    directory: PathBuf,
    rounds: usize,
    time: Duration,
}

fn main() {
    let options = options();
    std::fs::create_dir_all(&options.directory).expect("the directory can be made");
    println!(
        "log: {} rounds of {:?} in {}",
        options.rounds,
        options.time,
        options.directory.display()
    );
    for block in BLOCKS {
        let mut rounds: Vec<[f64; 5]> = Vec::new();
        for round in 0..options.rounds {
            // In turns, and each first every other time, so that no one gets the quiet moments.
            let mut results = [0.0; 5];
            let order = if round % 2 == 0 { [0, 1, 2, 3, 4] } else { [4, 3, 2, 1, 0] };
            for which in order {
                results[which] = match which {
                    0 => fio(&options, block, "fdatasync"),
                    1 => fio(&options, block, "dsync"),
                    2 => commits(&options, block, 1, Provider::Automatic),
                    3 => commits(&options, block, 2, Provider::Automatic),
                    _ => commits(&options, block, 1, Provider::Buffered),
                };
            }
            rounds.push(results);
        }
        let median = |which: usize| {
            let mut values: Vec<f64> = rounds.iter().map(|results| results[which]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let (fdatasync, dsync, one, log) = (median(0), median(1), median(2), median(3));
        let buffered = median(4);
        println!(
            "{{\"bench\": \"log_commit\", \"block_bytes\": {block}, \
             \"fio_fdatasync_per_second\": {fdatasync:.0}, \"fio_dsync_per_second\": {dsync:.0}, \
             \"log_one_at_a_time_per_second\": {one:.0}, \"log_per_second\": {log:.0}, \
             \"log_buffered_per_second\": {buffered:.0}, \
             \"ratio_to_fdatasync\": {:.2}, \"ratio_to_dsync\": {:.2}}}",
            log / fdatasync,
            log / dsync
        );
    }
    for (name, delta) in [("row_64", 64), ("rows_4k", 4096 - OVERHEAD), ("push_500x512", 256_000)] {
        let (records, bytes) = group(&options, delta, Durability::Sync);
        let (interval, _) = group(&options, delta, Durability::Interval(10));
        println!(
            "{{\"bench\": \"log_group\", \"push\": \"{name}\", \"sync_per_second\": {records:.0}, \
             \"sync_mib_per_second\": {:.0}, \"interval_10ms_per_second\": {interval:.0}}}",
            bytes / 1048576.0
        );
    }
}

fn options() -> Options {
    let mut options = Options {
        directory: std::env::temp_dir().join(format!("windlass-log-bench-{}", std::process::id())),
        rounds: 1,
        time: Duration::from_millis(20),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("the option has a value");
        match argument.as_str() {
            "--directory" => options.directory = value().into(),
            "--rounds" => options.rounds = value().parse().expect("a number of rounds"),
            "--seconds" => {
                options.time = Duration::from_secs_f64(value().parse().expect("seconds"));
            }
            _ => {}
        }
    }
    options
}

/// Writes per second of fio, or NaN where it is not installed.
fn fio(options: &Options, block: usize, how: &str) -> f64 {
    let file = options.directory.join("fio.data");
    let mut command = Command::new("fio");
    command
        .args([
            "--name=log",
            "--rw=write",
            "--direct=1",
            "--ioengine=psync",
            "--output-format=json",
        ])
        // The file is written before, as segments are.
        .args(["--overwrite=1", "--time_based", "--size=256m", "--thread"])
        .arg(format!("--filename={}", file.display()))
        .arg(format!("--bs={block}"))
        .arg(format!("--runtime={}ms", options.time.as_millis()));
    match how {
        "fdatasync" => command.arg("--fdatasync=1"),
        _ => command.arg("--sync=dsync"),
    };
    let Ok(output) = command.output() else {
        println!("fio is not installed: compared with nothing");
        return f64::NAN;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    // The first "iops" in the "write" object is what is wanted; a JSON parser for one number is too much.
    let iops = text
        .split_once("\"write\" : {")
        .and_then(|(_, rest)| rest.split_once("\"iops\" : "))
        .and_then(|(_, rest)| rest.split(',').next())
        .and_then(|number| number.trim().parse().ok());
    iops.unwrap_or(f64::NAN)
}

fn start(directory: &Path, name: &str, provider: Provider, writes_max: usize) -> Persistence {
    let directory = directory.join(name);
    // A new log each time: figures must not depend on what was before.
    let _ = std::fs::remove_dir_all(&directory);
    let storage = open(&directory, provider).expect("storage opens");
    let config = LogConfig {
        log_id: 1,
        segment_bytes: 64 << 20,
        segment_bytes_first: 64 << 20,
        bytes_max: 4 * (64 << 20),
        segments_spare: 2,
        writes_max,
    };
    let ring = Window::allocate(32 << 20).expect("memory");
    let recovered = RecoveredDirectory::default();
    let mut persistence =
        Persistence::open(storage, &config, CheckpointConfig::default(), ring, &recovered)
            .expect("the log opens");
    persistence.log.add_partition(PartitionId(0), Lsn(0));
    // As fio lays its file out before it measures.
    loop {
        persistence.flush(Duration::ZERO);
        persistence.poll();
        if !persistence.log.is_preparing() {
            return persistence;
        }
        persistence.wait(Duration::from_millis(10));
    }
}

fn facts(delta: usize, durability: Durability) -> (Facts, Shape) {
    let facts = Facts {
        kind: Kind::Rows,
        partition: PartitionId(0),
        epoch: Epoch(1),
        table: TableId(1),
        dtype: DataType::F32,
        rows: RowRange::new(0, (delta / 4) as u64),
        tag: 0,
        durability,
    };
    (facts, Shape { covered_max: 0, stamps_max: 0, keys: 0, delta_bytes: delta })
}

/// Durable commits per second of records that make one block each, so many at a time.
fn commits(options: &Options, block: usize, depth: usize, provider: Provider) -> f64 {
    let mut persistence = start(&options.directory, "commits", provider, depth);
    let (facts, shape) = facts(block - OVERHEAD, Durability::Sync);
    let mut waiting = CommitQueue::new(depth);
    let begun = Instant::now();
    let mut count = 0_u64;
    while begun.elapsed() < options.time {
        let now = begun.elapsed();
        let mut reservation = match persistence.log.reserve(&facts, shape, now) {
            Ok(reservation) => reservation,
            Err(ReserveError::Full(_)) => {
                persistence.flush(now);
                persistence.poll();
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        // As a shard does: the sum is made in the ring.
        persistence.log.fill(&mut reservation).delta().fill(count.to_le_bytes()[0]);
        let sealed = persistence.log.seal(reservation);
        persistence.flush(now);
        waiting.push(sealed.position, ()).expect("the queue has room");
        loop {
            let durable = persistence.poll();
            while waiting.release(durable).is_some() {
                count += 1;
            }
            if waiting.len() < depth {
                break;
            }
            persistence.wait(Duration::from_millis(100));
        }
        persistence.log.truncate(persistence.log.durable());
    }
    rate(count, begun)
}

/// Records per second, and bytes, that are acknowledged when as many as fit are under way.
fn group(options: &Options, delta: usize, durability: Durability) -> (f64, f64) {
    let mut persistence = start(&options.directory, "group", Provider::Automatic, 2);
    let (facts, shape) = facts(delta, durability);
    let mut waiting = CommitQueue::new(4096);
    let begun = Instant::now();
    let mut count = 0_u64;
    while begun.elapsed() < options.time {
        let now = begun.elapsed();
        // One turn takes at most so many pushes.
        for _ in 0..64 {
            if waiting.len() == 4096 {
                break;
            }
            let Ok(mut reservation) = persistence.log.reserve(&facts, shape, now) else { break };
            persistence.log.fill(&mut reservation).delta().fill(1);
            let sealed = persistence.log.seal(reservation);
            if durability.waits() {
                waiting.push(sealed.position, ()).expect("the queue has room");
            } else {
                count += 1;
            }
        }
        persistence.flush(now);
        let durable = persistence.poll();
        while waiting.release(durable).is_some() {
            count += 1;
        }
        persistence.log.truncate(durable);
    }
    let records = rate(count, begun);
    (records, records * delta as f64)
}

fn rate(count: u64, begun: Instant) -> f64 {
    // Counts are far below 2^52.
    count as f64 / begun.elapsed().as_secs_f64()
}
