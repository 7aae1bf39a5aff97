use windlass_wire::Lsn;

use super::*;
use crate::{
    persist::{
        recovery::RecoveredDirectory,
        storage::{Provider, open},
    },
    shard::log_size::LogSize,
};

/// Fills the log with records until it is as full as asked for.
fn fill(durable: &mut Durable, is_full: impl Fn(&Durable) -> bool) {
    let facts = Facts {
        kind: Kind::Rows,
        partition: PartitionId(0),
        epoch: windlass_wire::Epoch(1),
        table: TableId(1),
        dtype: DataType::F32,
        rows: RowRange::new(0, 1),
        tag: 0,
        durability: commit::Durability::Sync,
    };
    let shape = Shape { delta_bytes: 16 << 10, ..Shape::default() };
    while !is_full(durable) {
        let now = durable.now();
        match durable.log_mut().reserve(&facts, shape, now) {
            Ok(reservation) => {
                let _ = durable.log_mut().abandon(reservation);
            }
            Err(error) => assert!(durable.log().poison().is_none(), "{error}"),
        }
        durable.turn_alone();
    }
}

/// Pushes wait while the log is nearly full, for as long as a checkpoint takes. What was pushed before
/// has to be on the disk in its time all the same.
#[test]
fn images_are_recorded_in_their_time_while_the_log_is_nearly_full() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), Provider::Buffered).unwrap();
    let found = RecoveredDirectory::default();
    let size = LogSize::new(Some(2 << 20));
    let mut durable = Durable::open(storage, 1, &found, size, 0).unwrap();
    durable.add_partition(PartitionId(0), Lsn(0));
    durable.images.come_due(Duration::ZERO, 5);
    let (early, late) = (Duration::from_millis(4), Duration::from_millis(5));
    assert!(durable.images_are_due(late) && !durable.images_are_due(early));
    fill(&mut durable, |durable| durable.log().is_nearly_full());
    assert!(durable.images_are_due(late) && !durable.images_are_due(early));
    fill(&mut durable, |durable| durable.log().is_all_but_full());
    assert!(!durable.images_are_due(late), "the last segments are the checkpoint's");
}
