//! A partition that begins anew in the log while a checkpoint is being taken, which then copies it.

use std::time::Duration;

use windlass_wire::{DataType, Epoch, Lsn, PartitionId, RowRange, TableId};

use super::{Counter, Persistence, push, settle, start};
use crate::persist::{
    checkpoint::{BlockHead, CheckpointProgress, CheckpointSource, Extent, Next},
    commit::Durability,
    frame::{Kind, Salt},
    record::{Draft, Facts, Record, Shape},
    recovery::{AppliedBlocks, Block, RecoveryOptions, Replay, ReplayError, recover},
    storage::{Provider, open},
};

/// A [`Counter`] whose blocks are of an epoch, and which a beginning empties.
struct Chained {
    counter: Counter,
    epoch: Epoch,
    begun: u32,
}

impl Chained {
    fn new(epoch: u64) -> Self {
        Self { counter: Counter::default(), epoch: Epoch(epoch), begun: 0 }
    }
}

impl CheckpointSource for Chained {
    fn partitions(&mut self) -> Vec<PartitionId> {
        self.counter.partitions()
    }

    fn begin(&mut self, partition: PartitionId, extent: Extent) {
        self.counter.begin(partition, extent);
    }

    fn next(&mut self, partition: PartitionId, buffer: &mut [u8]) -> Next {
        match self.counter.next(partition, buffer) {
            Next::Block(head) => Next::Block(BlockHead { epoch: self.epoch, ..head }),
            other => other,
        }
    }
}

impl Replay for Chained {
    fn wants(&self, partition: PartitionId) -> bool {
        self.counter.wants(partition)
    }

    fn restore(&mut self, block: &Block<'_>) -> Result<(), ReplayError> {
        self.counter.restore(block)
    }

    fn apply(&mut self, record: &Record<'_>, applied: &AppliedBlocks) -> Result<(), ReplayError> {
        if record.kind() == Kind::Begin {
            self.counter.sums[record.partition().0 as usize] = 0;
            self.begun += 1;
            return Ok(());
        }
        self.counter.apply(record, applied)
    }
}

/// Tells the log that a partition begins anew with its last record.
fn begin_anew(persistence: &mut Persistence, partition: u32, epoch: u64, lsn: Lsn) {
    let facts = Facts {
        kind: Kind::Begin,
        partition: PartitionId(partition),
        epoch: Epoch(epoch),
        table: TableId(0),
        dtype: DataType::F32,
        rows: RowRange::default(),
        tag: 0,
        durability: Durability::Memory,
    };
    let draft = Draft::new(facts, Shape::default(), lsn);
    let mut words = vec![0_u64; Shape::default().length() / 8];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    draft.prepare(bytes);
    draft.seal(bytes, Salt::NONE);
    let record = Record::checked_before(bytes).unwrap();
    let log = &mut persistence.log;
    log.append(&record, Salt::NONE, Durability::Memory, Duration::ZERO).unwrap();
}

/// What recovery makes of a beginning in epoch 5 within a checkpoint whose blocks are of `epoch`: the
/// sum of the partition's values, and how often it began.
fn recovered_from(epoch: u64) -> (u64, u32) {
    let directory = tempfile::tempdir().unwrap();
    let mut source = Chained::new(epoch);
    let (mut persistence, _) = start(directory.path(), Provider::Buffered, &mut source.counter);
    let last = push(&mut persistence, &mut source.counter, 3, 7);
    settle(&mut persistence, last.position);
    assert!(persistence.start_checkpoint(&mut source, Duration::ZERO));
    // The checkpoint has begun, and has not come to the partition.
    begin_anew(&mut persistence, 3, 5, last.lsn);
    let mut now = Duration::ZERO;
    loop {
        now += Duration::from_millis(10);
        persistence.poll();
        let progress = persistence.step_checkpoint(&mut source, now, 1 << 20);
        if matches!(progress, CheckpointProgress::Published { .. }) {
            break;
        }
        persistence.wait(Duration::from_millis(1));
    }
    assert!(persistence.close(Duration::from_secs(5)));
    drop(persistence);
    let mut storage = open(directory.path(), Provider::Buffered).unwrap();
    let mut found = Chained::new(0);
    let options = RecoveryOptions::default();
    recover(std::slice::from_mut(&mut storage), options, &mut found).unwrap();
    (found.counter.sums[3], found.begun)
}

/// Why what is copied has to be of the epoch in force at least, as the shard sees to.
#[test]
fn a_beginning_within_a_checkpoint_leaves_what_that_copied_later() {
    assert_eq!(recovered_from(5), (7, 0));
    assert_eq!(recovered_from(6), (7, 0));
    assert_eq!(recovered_from(3), (0, 1), "taken for another life");
}
