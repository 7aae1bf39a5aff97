//! The log, checkpoints and recovery on a real directory, through both storages.

use std::{path::Path, time::Duration};

use windlass_wire::{
    DataType, Epoch, Incarnation, Lsn, PartitionId, RowRange, Sequence, SessionId,
};
use windlass_wire::{TableId, WorkerClock, WorkerRank};

use super::Persistence;
use crate::persist::{
    checkpoint::{BlockHead, CheckpointConfig, CheckpointProgress, CheckpointSource, Extent, Next},
    commit::{Durability, Position},
    frame::Kind,
    inspect::{inspect_checkpoints, inspect_log},
    log::{LogConfig, ReserveError, Sealed},
    manifest::data_name,
    memory::Window,
    record::{Covered, Facts, Record, Shape, Stamp},
    recovery::{
        AppliedBlocks, Block, Recovered, RecoveredDirectory, RecoveryOptions, Replay, ReplayError,
        recover,
    },
    scrub::scrub,
    storage::{Provider, Storage, open},
};

use crate::persist::hooked;

#[path = "persistence_tests/begun.rs"]
mod begun;
#[path = "persistence_tests/beside.rs"]
mod beside;
#[path = "persistence_tests/counts.rs"]
mod counts;
#[path = "persistence_tests/ends.rs"]
mod ends;
#[path = "persistence_tests/growing.rs"]
mod growing;
#[path = "persistence_tests/older.rs"]
mod older;
#[path = "persistence_tests/refusing.rs"]
mod refusing;
#[path = "persistence_tests/slow.rs"]
mod slow;

const PARTITIONS: u32 = 4;

/// Counts what it is given: enough to see that nothing is missing and nothing comes twice.
#[derive(Debug, Default)]
struct Counter {
    sums: [u64; PARTITIONS as usize],
    records: u64,
    blocks: u64,
    only: Option<PartitionId>,
    copied: [bool; PARTITIONS as usize],
    lsns: [u64; PARTITIONS as usize],
}

impl CheckpointSource for Counter {
    fn partitions(&mut self) -> Vec<PartitionId> {
        (0..PARTITIONS).map(PartitionId).collect()
    }

    fn begin(&mut self, partition: PartitionId, _extent: Extent) {
        self.copied[partition.0 as usize] = false;
    }

    fn next(&mut self, partition: PartitionId, buffer: &mut [u8]) -> Next {
        let at = partition.0 as usize;
        if std::mem::replace(&mut self.copied[at], true) {
            return Next::Done;
        }
        buffer[..8].copy_from_slice(&self.sums[at].to_le_bytes());
        Next::Block(BlockHead {
            table: TableId(1),
            section: 0,
            index: 0,
            detail: 0,
            lsn: Lsn(self.lsns[at]),
            epoch: Epoch(1),
            length: 8,
        })
    }
}

impl Replay for Counter {
    fn wants(&self, partition: PartitionId) -> bool {
        self.only.is_none_or(|only| only == partition)
    }

    fn restore(&mut self, block: &Block<'_>) -> Result<(), ReplayError> {
        self.sums[block.partition.0 as usize] =
            u64::from_le_bytes(block.bytes[..8].try_into().unwrap());
        self.blocks += 1;
        Ok(())
    }

    fn apply(&mut self, record: &Record<'_>, applied: &AppliedBlocks) -> Result<(), ReplayError> {
        let partition = record.partition();
        if !applied.contains(partition, TableId(1), 0, 0, record.lsn()) {
            let value = u64::from_le_bytes(record.delta()[..8].try_into().unwrap());
            self.sums[partition.0 as usize] += value;
        }
        self.lsns[partition.0 as usize] = record.lsn().0;
        self.records += 1;
        Ok(())
    }
}

fn start(directory: &Path, provider: Provider, counter: &mut Counter) -> (Persistence, Recovered) {
    start_on(open(directory, provider).unwrap(), counter)
}

fn start_on(mut storage: Box<dyn Storage>, counter: &mut Counter) -> (Persistence, Recovered) {
    let recovered =
        recover(std::slice::from_mut(&mut storage), RecoveryOptions::default(), counter).unwrap();
    assert_eq!(recovered.damage().count(), 0);
    (go_on_from(storage, &recovered, counter), recovered)
}

fn go_on_from(
    storage: Box<dyn Storage>,
    recovered: &Recovered,
    counter: &mut Counter,
) -> Persistence {
    let config = LogConfig {
        log_id: 5,
        segment_bytes: 1 << 20,
        segment_bytes_first: 1 << 20,
        bytes_max: 8 << 20,
        segments_spare: 1,
        writes_max: 2,
    };
    let ring = Window::allocate(2 << 20).unwrap();
    let checkpoint = CheckpointConfig::default();
    let mut persistence =
        Persistence::open(storage, &config, checkpoint, ring, &recovered.directories[0]).unwrap();
    for number in 0..PARTITIONS {
        let last = recovered.partitions.get(&PartitionId(number)).map_or(Lsn(0), |state| state.lsn);
        persistence.log.add_partition(PartitionId(number), last);
        counter.lsns[number as usize] = last.0;
    }
    persistence
}

fn push(
    persistence: &mut Persistence,
    counter: &mut Counter,
    partition: u32,
    value: u64,
) -> Sealed {
    let facts = Facts {
        kind: Kind::Rows,
        partition: PartitionId(partition),
        epoch: Epoch(1),
        table: TableId(1),
        dtype: DataType::U64,
        rows: RowRange::new(0, 100),
        tag: 0,
        durability: Durability::Sync,
    };
    let shape = Shape { covered_max: 1, stamps_max: 1, keys: 0, delta_bytes: 800 };
    let mut reservation = loop {
        match persistence.log.reserve(&facts, shape, Duration::ZERO) {
            Ok(reservation) => break reservation,
            Err(ReserveError::Full(_)) => {
                persistence.flush(Duration::ZERO);
                persistence.poll();
                persistence.wait(Duration::from_millis(10));
            }
            Err(error) => panic!("{error}"),
        }
    };
    let mut record = persistence.log.fill(&mut reservation);
    record.delta()[..8].copy_from_slice(&value.to_le_bytes());
    record.cover(Covered {
        session: SessionId(1),
        incarnation: Incarnation(1),
        sequence: Sequence(value),
    });
    record.stamp(Stamp { worker: WorkerRank(0), clock: WorkerClock(value) });
    counter.sums[partition as usize] += value;
    counter.lsns[partition as usize] += 1;
    persistence.log.seal(reservation)
}

/// One row of the first partition.
fn facts(durability: Durability) -> Facts {
    Facts {
        kind: Kind::Rows,
        partition: PartitionId(0),
        epoch: Epoch(1),
        table: TableId(1),
        dtype: DataType::F32,
        rows: RowRange::new(0, 1),
        tag: 0,
        durability,
    }
}

fn settle(persistence: &mut Persistence, position: Position) {
    while persistence.poll() < position {
        persistence.flush(Duration::ZERO);
        persistence.wait(Duration::from_millis(10));
    }
}

fn checkpoint(persistence: &mut Persistence, source: &mut dyn CheckpointSource) {
    assert!(persistence.start_checkpoint(source, Duration::ZERO));
    let mut now = Duration::ZERO;
    loop {
        now += Duration::from_millis(10);
        persistence.poll();
        match persistence.step_checkpoint(source, now, 1 << 20) {
            CheckpointProgress::Published { .. } => return,
            CheckpointProgress::Running { .. } => persistence.wait(Duration::from_millis(1)),
            CheckpointProgress::Idle => {
                panic!("{:?}", persistence.checkpointer().take_failure());
            }
        }
    }
}

/// One partition of three blocks: a long one, one that fills the rest of the buffer, a short one.
#[derive(Default)]
struct Brim {
    blocks: u64,
}

impl CheckpointSource for Brim {
    fn partitions(&mut self) -> Vec<PartitionId> {
        vec![PartitionId(0)]
    }

    fn begin(&mut self, _partition: PartitionId, _extent: Extent) {}

    fn next(&mut self, _partition: PartitionId, buffer: &mut [u8]) -> Next {
        let length = [1 << 20, buffer.len(), 8, 0][usize::try_from(self.blocks).unwrap()];
        if length == 0 {
            return Next::Done;
        }
        if length > buffer.len() || buffer.is_empty() {
            return Next::NoRoom;
        }
        self.blocks += 1;
        let (table, index) = (TableId(1), self.blocks);
        let (lsn, epoch) = (Lsn(0), Epoch(1));
        Next::Block(BlockHead { table, section: 0, index, detail: 0, lsn, epoch, length })
    }
}

#[test]
fn a_block_may_fill_a_buffer_to_the_brim() {
    let directory = tempfile::tempdir().unwrap();
    let mut counter = Counter::default();
    let (mut persistence, _) = start(directory.path(), Provider::Buffered, &mut counter);
    checkpoint(&mut persistence, &mut Brim::default());
    drop(persistence);
    let (_, recovered) = start(directory.path(), Provider::Buffered, &mut counter);
    let manifest = recovered.directories[0].manifest.as_ref().unwrap();
    assert_eq!(manifest.files.iter().map(|file| file.blocks).sum::<u64>(), 3);
}

#[test]
fn a_scrub_reads_everything_and_finds_a_flipped_bit() {
    let directory = tempfile::tempdir().unwrap();
    let mut counter = Counter::default();
    let (mut persistence, _) = start(directory.path(), Provider::Buffered, &mut counter);
    for value in 1..=50_u32 {
        push(&mut persistence, &mut counter, value % PARTITIONS, u64::from(value));
    }
    checkpoint(&mut persistence, &mut counter);
    for value in 1..=30_u32 {
        push(&mut persistence, &mut counter, value % PARTITIONS, u64::from(value));
    }
    assert!(persistence.close(Duration::from_secs(5)));
    drop(persistence);
    let mut storage = open(directory.path(), Provider::Buffered).unwrap();
    let report = scrub(storage.as_mut()).unwrap();
    assert_eq!((report.records, report.blocks, report.bad.len()), (30, 4, 0), "{report}");
    let mut frames = Vec::new();
    let summary = inspect_log(storage.as_mut(), &mut |frame| frames.push(frame.clone())).unwrap();
    assert_eq!(summary.records, 30);
    assert!(frames[0].to_string().contains("Batch"), "{}", frames[0]);
    let (checkpoints, bad) = inspect_checkpoints(storage.as_mut()).unwrap();
    assert_eq!((checkpoints.len(), bad.len()), (1, 0));

    let path = directory.path().join(data_name(checkpoints[0].number));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[300] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let report = scrub(storage.as_mut()).unwrap();
    assert_eq!(report.bad.len(), 1, "{report}");
    assert!(report.bad[0].file.contains("checkpoint-"), "{report}");
}

/// Directories written by earlier versions, committed: what is on disk stays readable.
#[test]
fn the_fixture_of_version_2_opens() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/data-2");
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    let mut counter = Counter::default();
    let (_, recovered) = start(directory.path(), Provider::Automatic, &mut counter);
    // Values 1..=8 before the checkpoint, 9..=12 behind it, dealt out in turn.
    assert_eq!(counter.sums, [4 + 8 + 12, 1 + 5 + 9, 2 + 6 + 10, 3 + 7 + 11]);
    assert_eq!((counter.blocks, counter.records), (4, 4));
    assert_eq!(recovered.partitions[&PartitionId(0)].lsn, Lsn(3));
}

/// Writes the fixture: `cargo test -p windlass-engine write_the_fixture -- --ignored`, once for each
/// new version, into a folder of its own.
#[test]
#[ignore = "writes a fixture that is committed"]
fn write_the_fixture() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/data-2");
    let mut counter = Counter::default();
    let storage = open(&directory, Provider::Buffered).unwrap();
    let config = LogConfig {
        log_id: 5,
        segment_bytes: 64 << 10,
        bytes_max: 128 << 10,
        ..LogConfig::default()
    };
    let ring = Window::allocate(1 << 20).unwrap();
    let recovered = RecoveredDirectory::default();
    let checkpoints = CheckpointConfig::default();
    let mut persistence =
        Persistence::open(storage, &config, checkpoints, ring, &recovered).unwrap();
    for number in 0..PARTITIONS {
        persistence.log.add_partition(PartitionId(number), Lsn(0));
    }
    for value in 1..=12_u32 {
        push(&mut persistence, &mut counter, value % PARTITIONS, u64::from(value));
        if value == 8 {
            checkpoint(&mut persistence, &mut counter);
        }
    }
    assert!(persistence.close(Duration::from_secs(5)));
}

/// Two shards' directories load into one shard, which goes on in a third; after a crash before its
/// first checkpoint all three together still hold everything.
#[test]
fn another_grouping_of_partitions_loads() {
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut expected = [0; PARTITIONS as usize];
    for (shard, folder) in folders[..2].iter().enumerate() {
        let mut counter = Counter::default();
        let (mut persistence, _) = start(folder.path(), Provider::Automatic, &mut counter);
        for value in 1..=100_u32 {
            let partition = value % 2 + 2 * u32::try_from(shard).unwrap();
            push(&mut persistence, &mut counter, partition, u64::from(value));
            if value == 60 && shard == 0 {
                checkpoint(&mut persistence, &mut counter);
            }
        }
        assert!(persistence.close(Duration::from_secs(5)));
        for (sum, more) in expected.iter_mut().zip(counter.sums) {
            *sum += more;
        }
    }
    let all = |count: usize| -> Vec<Box<dyn Storage>> {
        let folders = folders[..count].iter();
        folders.map(|folder| open(folder.path(), Provider::Automatic).unwrap()).collect()
    };
    let mut counter = Counter::default();
    let options = RecoveryOptions::default();
    let recovered = recover(&mut all(2), options, &mut counter).unwrap();
    assert_eq!(recovered.damage().count(), 0);
    assert_eq!(counter.sums, expected);

    let (mut persistence, _) =
        start(folders[2].path(), Provider::Automatic, &mut Counter::default());
    for number in 0..PARTITIONS {
        persistence.log.remove_partition(PartitionId(number));
        persistence
            .log
            .add_partition(PartitionId(number), recovered.partitions[&PartitionId(number)].lsn);
    }
    for value in 1..=40_u32 {
        push(&mut persistence, &mut counter, value % PARTITIONS, 1000);
    }
    assert!(persistence.close(Duration::from_secs(5)));
    drop(persistence);
    let mut again = Counter::default();
    let recovered = recover(&mut all(3), options, &mut again).unwrap();
    assert_eq!(recovered.damage().map(ToString::to_string).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(again.sums, counter.sums);
    assert_eq!(recovered.partitions[&PartitionId(3)].lsn, Lsn(60));
}

fn round_trip(provider: Provider) {
    let directory = tempfile::tempdir().unwrap();
    let mut counter = Counter::default();
    let (mut persistence, _) = start(directory.path(), provider, &mut counter);
    let mut last = Position(0);
    for value in 1..=6000_u32 {
        last = push(&mut persistence, &mut counter, value % PARTITIONS, u64::from(value)).position;
        if value % 7 == 0 {
            persistence.flush(Duration::ZERO);
            persistence.poll();
        }
        if value == 4000 {
            checkpoint(&mut persistence, &mut counter);
        }
    }
    settle(&mut persistence, last);
    assert_eq!(persistence.log.last_lsn(PartitionId(1)), Lsn(1500));
    // As after kill -9: nothing is closed in order.
    drop(persistence);

    let mut again = Counter::default();
    let (mut persistence, recovered) = start(directory.path(), provider, &mut again);
    assert_eq!(again.sums, counter.sums);
    assert_eq!(again.records, 2000);
    assert_eq!(recovered.partitions[&PartitionId(0)].checkpoint, Lsn(1000));
    let sealed = push(&mut persistence, &mut again, 2, 9);
    assert_eq!(sealed.lsn, Lsn(1501));
    settle(&mut persistence, sealed.position);
    assert!(persistence.close(Duration::from_secs(5)));
    drop(persistence);

    // Any grouping loads: one shard that wants one partition of that directory.
    let mut one = Counter { only: Some(PartitionId(2)), ..Counter::default() };
    let mut storage = open(directory.path(), provider).unwrap();
    let recovered =
        recover(std::slice::from_mut(&mut storage), RecoveryOptions::default(), &mut one).unwrap();
    assert_eq!(one.sums[2], again.sums[2]);
    assert_eq!(one.sums[1], 0);
    assert_eq!(recovered.partitions.len(), 1);
}

#[test]
fn records_and_checkpoints_survive_on_buffered_storage() {
    round_trip(Provider::Buffered);
}

#[test]
fn records_and_checkpoints_survive_on_the_best_storage() {
    round_trip(Provider::Automatic);
}
