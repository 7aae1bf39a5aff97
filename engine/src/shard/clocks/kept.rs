//! Clocks of tables that are kept on disk, where partitions have no replicas. Of durability `sync`, what
//! a worker does is recorded in each partition behind the pushes it speaks of; of `interval`, clocks are
//! recorded as they are, behind the images of the rows. Checkpoints hold them as they are; so does the
//! log of a chain, whose records are written as they are.

use std::time::Instant;

use windlass_wire::{DataType, Durability, PartitionId, RowRange, SessionId, TableId, WorkerRank};

use super::{members::Member, table::TableClocks};
use crate::{
    persist::{
        clocks::{CLOCK, CLOCK_LEN_MAX, WORKER, WorkerEvent},
        commit::{self, Position},
        frame::Kind,
        log::Sealed,
        record::{Facts, Record, RecordMut, Shape, Stamp},
    },
    shard::{
        Shard,
        chain::{epoch_of, is_settled, reaching, ready_log, seal},
        durable::Durable,
        push::Refusal,
        rounds::CLOSES,
        tables::ShardTable,
    },
};

/// What becomes of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Event(WorkerEvent),
    /// It has finished a clock on all rows.
    Finished(Stamp),
}

impl TableClocks {
    /// Appends a partition's clock as it is kept on disk.
    pub(in crate::shard) fn save_slot(&self, slot: usize, into: &mut Vec<u8>) {
        if let Some(clock) = self.clocks.get(slot) {
            clock.range.encode_within(CLOCK_LEN_MAX, into);
        }
    }

    /// Whether a partition's clock has changed since it was recorded as it is.
    pub(in crate::shard) fn is_unkept(&self, slot: usize) -> bool {
        self.clocks.get(slot).is_some_and(|clock| clock.unkept)
    }

    fn set_unkept(&mut self, slot: usize, unkept: bool) {
        if let Some(clock) = self.clocks.get_mut(slot) {
            clock.unkept = unkept;
        }
    }

    /// Goes on from clocks that were recovered: nobody is heard yet, and who was waited for is for as
    /// long as a worker may be silent.
    fn resume(&mut self, now: Instant) {
        let mut live: Vec<WorkerRank> = Vec::new();
        for slot in &self.clocks {
            live.extend(slot.range.workers().filter(|(_, live)| *live).map(|(rank, _)| rank));
        }
        live.sort_unstable();
        live.dedup();
        for rank in live {
            let known = self.clocks.iter().filter(|slot| slot.range.is_live(rank));
            let least = known.map(|slot| slot.range.least_of(rank)).min().unwrap_or_default();
            if !self.chained {
                // The log ended while it joined or was retired: it is waited for until it is heard
                // of, or is silent for too long.
                for slot in self.clocks.iter_mut().filter(|slot| !slot.range.is_live(rank)) {
                    let revived = slot.range.revive(rank, least);
                    debug_assert!(revived.is_ok(), "as many workers as another has room for");
                }
            }
            let (session, silent_since) = (SessionId(0), Some(now));
            self.members
                .insert(rank, Member { session, live: true, finished: least, silent_since });
        }
        self.publish();
    }
}

impl Shard {
    /// Goes on from the clocks that recovery has found.
    pub(in crate::shard) fn resume_clocks(&mut self) {
        let now = Instant::now();
        for table in self.tables.values_mut() {
            if let Some(clocks) = &mut table.clocks {
                clocks.resume(now);
            }
        }
        self.count_silent();
    }

    /// Records what becomes of a worker of a table that is kept on disk and has no replicas. The
    /// position at which that is durable, where it has to be before it is acknowledged.
    pub(super) fn keep_change(
        &mut self,
        id: TableId,
        change: Change,
    ) -> Result<Option<Position>, Refusal> {
        let Some(table) = self.tables.get_mut(&id).filter(|table| table.is_kept()) else {
            return Ok(None);
        };
        // While rows of other partitions are still to come nothing is recorded: a clock may be behind.
        if table.goes_by_records() || !is_settled(self.chain.as_deref()) {
            return Ok(None);
        }
        let partitions: Vec<(PartitionId, usize)> = table.slots.filled().collect();
        if let Durability::Interval { milliseconds } = table.entry.schema.durability {
            for (_, slot) in &partitions {
                table.note_unkept(*slot);
            }
            self.image_within(milliseconds);
            return Ok(None);
        }
        let Some(mut durable) = self.durable.take() else { return Ok(None) };
        let mut written = Ok(Some(durable.log().end()));
        for (partition, _) in partitions {
            self.await_segments(&mut durable);
            let sealed = self.write_change(&mut durable, partition, id, change);
            written = sealed.map(|sealed| Some(sealed.position));
            if written.is_err() {
                break;
            }
        }
        self.durable = Some(durable);
        written
    }

    /// Where the log ends: what was recorded before is durable there. `None` for tables whose changes
    /// are not waited for.
    pub(super) fn kept_until(&self, table: &ShardTable) -> Option<Position> {
        let is_sync = table.entry.schema.durability == (Durability::Sync {});
        let durable = self.durable.as_ref().filter(|_| is_sync && !table.goes_by_records());
        durable.map(|durable| durable.log().end())
    }

    fn write_change(
        &mut self,
        durable: &mut Durable,
        partition: PartitionId,
        table: TableId,
        change: Change,
    ) -> Result<Sealed, Refusal> {
        match change {
            Change::Event(event) => {
                let shape = Shape { delta_bytes: WorkerEvent::LEN, ..Shape::default() };
                let fill = |mut record: RecordMut<'_>| {
                    record.delta().copy_from_slice(&event.encode());
                };
                let what = (partition, table, Kind::Engine, WORKER);
                self.write_clock(durable, what, shape, commit::Durability::Sync, fill)
            }
            Change::Finished(stamp) => {
                let shape = Shape { stamps_max: 1, ..Shape::default() };
                let what = (partition, table, Kind::ClockAdvance, 0);
                let fill = |mut record: RecordMut<'_>| record.stamp(stamp);
                self.write_clock(durable, what, shape, commit::Durability::Sync, fill)
            }
        }
    }

    /// Records a partition's clocks that changed, as they are: behind the images of its rows.
    pub(in crate::shard) fn write_clock_images(
        &mut self,
        durable: &mut Durable,
        partition: PartitionId,
    ) -> Result<(), Refusal> {
        let tables: Vec<TableId> = self.tables.keys().copied().collect();
        for id in tables {
            let Some(table) = self.tables.get_mut(&id) else { continue };
            let Some(slot) = table.slot(partition).filter(|slot| table.owes_clock(*slot)) else {
                continue;
            };
            let mut bytes = Vec::new();
            if let Some(clocks) = &mut table.clocks {
                clocks.save_slot(slot, &mut bytes);
                clocks.set_unkept(slot, false);
            }
            let shape = Shape { delta_bytes: bytes.len(), ..Shape::default() };
            let what = (partition, id, Kind::Engine, CLOCK);
            let level = commit::Durability::Interval(0);
            let fill = |mut record: RecordMut<'_>| record.delta().copy_from_slice(&bytes);
            self.write_clock(durable, what, shape, level, fill)?;
        }
        Ok(())
    }

    fn write_clock(
        &mut self,
        durable: &mut Durable,
        (partition, table, kind, tag): (PartitionId, TableId, Kind, u16),
        shape: Shape,
        durability: commit::Durability,
        fill: impl FnOnce(RecordMut<'_>),
    ) -> Result<Sealed, Refusal> {
        ready_log(self, durable, partition)?;
        let facts = Facts {
            kind,
            partition,
            epoch: epoch_of(self.chain.as_deref(), partition),
            table,
            dtype: DataType::I8,
            rows: RowRange::default(),
            tag,
            durability,
        };
        let mut reservation = self.reserve(durable, &facts, shape)?;
        fill(durable.log_mut().fill(&mut reservation));
        Ok(seal(self.chain.as_deref_mut(), durable, (partition, reservation), &[]))
    }
}

impl ShardTable {
    /// Whether a partition's clock is to be recorded as it is.
    pub(in crate::shard) fn owes_clock(&self, slot: usize) -> bool {
        self.is_imaged() && self.clocks.as_ref().is_some_and(|clocks| clocks.is_unkept(slot))
    }

    /// A partition's clock has changed.
    pub(super) fn note_unkept(&mut self, slot: usize) {
        if let Some(clocks) = &mut self.clocks {
            clocks.set_unkept(slot, true);
        }
    }
}

/// Applies what a record says of workers to the clock of its partition. Returns whether it says
/// anything.
pub(in crate::shard) fn apply_record(table: &mut ShardTable, record: &Record<'_>) -> bool {
    let Some(slot) = table.slot(record.partition()) else { return false };
    let is_dense = table.is_dense();
    let whole = table.layout.rows_of(record.partition());
    let Some(clocks) = &mut table.clocks else { return false };
    if record.kind() == Kind::Engine {
        if record.tag() == CLOCK {
            return clocks.restore_slot(slot, record.delta());
        }
        if record.tag() & WORKER == 0 {
            return false;
        }
        let event = WorkerEvent::decode(record.delta());
        event.inspect(|event| clocks.apply_event(slot, *event));
        return event.is_some();
    }
    let closes = record.tag() & CLOSES != 0;
    let mut any = false;
    for stamp in record.stamps() {
        any = true;
        if closes {
            clocks.close_round(slot, stamp.clock);
        }
        let mut apply = |rows| clocks.apply_stamp(slot, stamp.worker, rows, stamp.clock);
        match record.kind() {
            // Who has finished a round has on all rows.
            _ if closes => apply(windlass_replication::ALL_ROWS),
            Kind::ClockAdvance => apply(windlass_replication::ALL_ROWS),
            Kind::Rows => apply(reaching(record.rows(), is_dense, whole)),
            Kind::Keys => record.keys().for_each(|key| {
                apply(reaching(RowRange::new(key, key.saturating_add(1)), is_dense, whole));
            }),
            _ => {}
        }
    }
    any
}
