//! Recovery of a checkpoint and of the log behind it, beside its limit: reading the same files with
//! fio and copying the bytes to where they belong in memory.
//!
//! `cargo bench -p windlass-benches --bench recovery -- [--directory DIR] [--mib N] [--rounds N]`.
//! Without arguments, and in tests, a tiny run. fio is left out, and said to be, when not installed.
#![allow(clippy::print_stdout, reason = "printing is what a bench does")]

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use windlass_engine::persist::{
    checkpoint::{BlockHead, CheckpointConfig, CheckpointProgress, CheckpointSource, Extent, Next},
    log::LogConfig,
    manifest::data_name,
    memory::Window,
    persistence::Persistence,
    record::Record,
    recovery::{
        AppliedBlocks, Block, RecoveredDirectory, RecoveryOptions, Replay, ReplayError, recover,
    },
    storage::{Provider, open},
};
use windlass_wire::{Epoch, Lsn, PartitionId, TableId};

const BLOCK: usize = 64 << 10;

/// Parameters as one array of bytes.
struct Parameters {
    bytes: Vec<u8>,
    next: usize,
}

impl CheckpointSource for Parameters {
    fn partitions(&mut self) -> Vec<PartitionId> {
        vec![PartitionId(0)]
    }

    fn begin(&mut self, _partition: PartitionId, _extent: Extent) {
        self.next = 0;
    }

    fn next(&mut self, _partition: PartitionId, buffer: &mut [u8]) -> Next {
        let Some(block) = self.bytes.chunks_exact(BLOCK).nth(self.next) else { return Next::Done };
        let Some(into) = buffer.get_mut(..BLOCK) else { return Next::NoRoom };
        into.copy_from_slice(block);
        self.next += 1;
        Next::Block(BlockHead {
            table: TableId(1),
            section: 0,
            index: self.next as u64 - 1,
            detail: 0,
            lsn: Lsn(0),
            epoch: Epoch(1),
            length: BLOCK,
        })
    }
}

impl Replay for Parameters {
    fn wants(&self, _partition: PartitionId) -> bool {
        true
    }

    fn restore(&mut self, block: &Block<'_>) -> Result<(), ReplayError> {
        let start = usize::try_from(block.head.index).expect("an index in memory") * BLOCK;
        let into = self.bytes.get_mut(start..start + BLOCK).expect("a block of this bench");
        into.copy_from_slice(block.bytes);
        Ok(())
    }

    fn apply(&mut self, _record: &Record<'_>, _applied: &AppliedBlocks) -> Result<(), ReplayError> {
        Ok(())
    }
}

fn main() {
    let mut directory =
        std::env::temp_dir().join(format!("windlass-recovery-bench-{}", std::process::id()));
    let (mut mib, mut rounds) = (8_usize, 1_usize);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("the option has a value");
        match argument.as_str() {
            "--directory" => directory = value().into(),
            "--mib" => mib = value().parse().expect("a number of MiB"),
            "--rounds" => rounds = value().parse().expect("a number of rounds"),
            _ => {}
        }
    }
    directory.push("recovery");
    let _ = std::fs::remove_dir_all(&directory);
    let length = mib << 20;
    write(&directory, length);
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let recovered = recover_once(&directory, length);
        let read = fio(&directory);
        let copied = copy_once(length);
        // Both limits must be passed one after the other by one thread.
        let limit = 1.0 / (1.0 / read + 1.0 / copied);
        ratios.push(recovered / limit);
        println!(
            "{{\"bench\": \"recovery\", \"mib\": {mib}, \"recovery_mib_per_second\": {recovered:.0}, \
             \"fio_read_mib_per_second\": {read:.0}, \"copy_mib_per_second\": {copied:.0}, \
             \"ratio_to_limit\": {:.2}}}",
            recovered / limit
        );
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2}", ratios[ratios.len() / 2]);
    let _ = std::fs::remove_dir_all(&directory);
}

fn write(directory: &Path, length: usize) {
    let storage = open(directory, Provider::Automatic).expect("storage opens");
    let config = LogConfig { segment_bytes: 1 << 20, ..LogConfig::default() };
    let checkpoint = CheckpointConfig {
        bytes_per_second: 0,
        idle_bytes_per_second: 0,
        ..CheckpointConfig::default()
    };
    let ring = Window::allocate(1 << 20).expect("memory");
    let recovered = RecoveredDirectory::default();
    let mut persistence =
        Persistence::open(storage, &config, checkpoint, ring, &recovered).expect("the log opens");
    persistence.log.add_partition(PartitionId(0), Lsn(0));
    let bytes = (0..length).map(|index| index.to_le_bytes()[index % 3]).collect();
    let mut parameters = Parameters { bytes, next: 0 };
    let begun = Instant::now();
    assert!(persistence.start_checkpoint(&mut parameters, Duration::ZERO), "a checkpoint begins");
    loop {
        persistence.poll();
        match persistence.step_checkpoint(&mut parameters, begun.elapsed(), 4 << 20) {
            CheckpointProgress::Published { .. } => break,
            CheckpointProgress::Running { .. } => persistence.wait(Duration::from_millis(1)),
            CheckpointProgress::Idle => panic!("{:?}", persistence.checkpointer().take_failure()),
        }
    }
    println!("checkpoint: {:.0} MiB/s", rate(length, begun));
}

fn recover_once(directory: &Path, length: usize) -> f64 {
    let mut parameters = Parameters { bytes: vec![1; length], next: 0 };
    let begun = Instant::now();
    let mut storage = open(directory, Provider::Automatic).expect("storage opens");
    let options = RecoveryOptions::default();
    let recovered = recover(std::slice::from_mut(&mut storage), options, &mut parameters)
        .expect("recovery reads");
    let rate = rate(length, begun);
    assert_eq!(recovered.damage().count(), 0, "nothing is damaged");
    rate
}

/// MiB per second of fio over the checkpoint's file, or infinite where it is not installed.
fn fio(directory: &Path) -> f64 {
    let file = directory.join(data_name(1));
    let output = Command::new("fio")
        .args(["--name=read", "--rw=read", "--direct=1", "--bs=4m", "--thread"])
        .args(["--ioengine=psync", "--output-format=json", "--readonly"])
        .arg(format!("--filename={}", file.display()))
        .output();
    let Ok(output) = output else {
        println!("fio is not installed: compared with copying alone");
        return f64::INFINITY;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let bytes: Option<f64> = text
        .split_once("\"read\" : {")
        .and_then(|(_, rest)| rest.split_once("\"bw_bytes\" : "))
        .and_then(|(_, rest)| rest.split(',').next())
        .and_then(|number| number.trim().parse().ok());
    bytes.map_or(f64::NAN, |bytes| bytes / 1048576.0)
}

fn copy_once(length: usize) -> f64 {
    let (from, mut into) = (vec![2_u8; BLOCK], vec![1_u8; length]);
    let begun = Instant::now();
    for block in into.chunks_exact_mut(BLOCK) {
        block.copy_from_slice(std::hint::black_box(&from));
    }
    std::hint::black_box(&into);
    rate(length, begun)
}

/// MiB per second.
fn rate(length: usize, begun: Instant) -> f64 {
    length as f64 / 1048576.0 / begun.elapsed().as_secs_f64()
}
