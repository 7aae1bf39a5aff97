use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use crossbeam::channel::unbounded;
use windlass_replication::LeaseTimings;
use windlass_wire::{DataType, Epoch, Lsn, PartitionId, RowRange, ServerId, TableId};

use super::{super::ChainContext, *};
use crate::{
    limits::{LOG_KEPT_LEN, LOG_RING_LEN},
    persist::{
        commit::Durability as Level,
        frame::Kind,
        hooked::{Hooked, Verdict},
        limits::{RECORD_BYTES_MAX, SEGMENT_BYTES_MAX},
        record::{Facts, Shape},
        recovery::RecoveredDirectory,
        storage::Operation,
    },
    shard::{SharedLeases, log_size::LogSize},
};

/// A log that becomes nearly full between two looks has its last segments for what came between.
#[test]
fn what_is_not_in_the_log_always_fits_it() {
    // The most that a segment leaves out before a longer record.
    assert!(2 * RECORD_BYTES_MAX as u64 <= SEGMENT_BYTES_MAX);
    assert!(unlogged_fit(0, 0) && !unlogged_fit(1, 1));
    assert!(unlogged_fit(CHAIN_HELD_LEN_MAX, 2 * LOG_KEPT_LEN), "in the shortest log");
    assert!(!unlogged_fit(CHAIN_HELD_LEN_MAX, LOG_KEPT_LEN));
}

const MIB: u64 = 1 << 20;

/// A log whose writes are held while it is closed.
fn durable(directory: &Path, is_closed: &Arc<AtomicBool>) -> Durable {
    let is_closed = is_closed.clone();
    let gate = Hooked::open(directory, move |operation| match operation {
        Operation::Write { durable: true, .. } if is_closed.load(Ordering::Relaxed) => {
            Verdict::Hold
        }
        _ => Verdict::CarryOut,
    });
    // Nearly full only when more is used than the ring holds.
    let size = LogSize::new(Some(LOG_RING_LEN as u64 * 3 / 2));
    let mut durable = Durable::open(gate, 1, &RecoveredDirectory::default(), size, 0).unwrap();
    durable.add_partition(PartitionId(0), Lsn(0));
    durable
}

/// Gives the log a record of a MiB, if it has room.
fn log_one(durable: &mut Durable) -> bool {
    let facts = Facts {
        kind: Kind::Rows,
        partition: PartitionId(0),
        epoch: Epoch(1),
        table: TableId(1),
        dtype: DataType::F32,
        rows: RowRange::new(0, 1),
        tag: 0,
        durability: Level::Sync,
    };
    let shape = Shape { delta_bytes: 1 << 20, ..Shape::default() };
    let now = durable.now();
    let reserved = durable.log_mut().reserve(&facts, shape, now);
    let reserved = reserved.map(|reservation| durable.log_mut().abandon(reservation));
    assert!(durable.log().poison().is_none());
    reserved.is_ok()
}

/// The disk stands still, and predecessors send. When it goes on there is no checkpoint until everything that
/// was taken in is in the log: that has to fit.
#[test]
fn what_a_replica_takes_in_while_its_disk_stands_still_fits_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let is_closed = Arc::new(AtomicBool::new(false));
    let mut durable = durable(directory.path(), &is_closed);
    let leases = Arc::new(SharedLeases::new(LeaseTimings::default()));
    let context = ChainContext { leases, events: unbounded().0, ended: unbounded().0 };
    let mut chain = Chain::new(context, ServerId(1), ShardId(0), 1, 1);
    is_closed.store(true, Ordering::Relaxed);
    let mut taken_in = 0;
    while !leaves_records(&chain, Some(&durable)) {
        taken_in += 1;
        durable.turn_alone();
        if chain.kept.spare.held_len > 0 || !log_one(&mut durable) {
            chain.kept.spare.held_len += MIB;
            chain.disk.note_behind(0);
        }
    }
    let held = chain.kept.spare.held_len / MIB;
    assert!(held > 0, "all {taken_in} were logged");
    is_closed.store(false, Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(30);
    for at in 0..held {
        while !log_one(&mut durable) {
            durable.turn_alone();
            assert!(Instant::now() < deadline, "{at} of {held} fit the log");
        }
    }
}
