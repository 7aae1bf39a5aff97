//! Gives finished records to their replica.

use windlass_replication::{Covered, Input};
use windlass_wire::{DataType, Durability, PartitionId, RowRange, SessionId, TableId};

use super::{Chain, SYNC, disk, outputs, part::Held};
use crate::{
    limits::CLOCK_RECORD_INFLIGHT_MAX,
    persist::{
        clocks::{WORKER, WorkerEvent},
        commit,
        frame::{Kind, Salt},
        record::{Draft, Facts, RecordMut, Shape, Stamp},
    },
    shard::{port::Port, rounds, tables::Tables},
};
pub(in crate::shard) fn append_event(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    partition: PartitionId,
    table: TableId,
    event: WorkerEvent,
) -> Option<()> {
    let shape = Shape { delta_bytes: WorkerEvent::LEN, ..Shape::default() };
    let small = Small { table, kind: Kind::Engine, tag: WORKER, shape, expired: &[] };
    append_small(port, tables, chain, partition, &small, |record| {
        record.delta().copy_from_slice(&event.encode());
    })
}

pub(in crate::shard) fn append_stamp(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    partition: PartitionId,
    table: TableId,
    stamp: Stamp,
) -> Option<()> {
    let shape = Shape { stamps_max: 1, ..Shape::default() };
    // As the pushes before it: who has finished a clock is not waited for after a restart.
    let schema = tables.by_id.get(&table).map(|table| table.entry.schema.durability);
    let tag = if schema == Some(Durability::Sync {}) { SYNC } else { 0 };
    let small = Small { table, kind: Kind::ClockAdvance, tag, shape, expired: &[] };
    append_small(port, tables, chain, partition, &small, |record| {
        record.stamp(stamp);
    })
}

/// A record without rows.
pub(super) struct Small<'a> {
    pub(super) table: TableId,
    pub(super) kind: Kind,
    pub(super) tag: u16,
    pub(super) shape: Shape,
    /// Sessions that every replica forgets by it.
    pub(super) expired: &'a [SessionId],
}

/// Appends a record without rows; `None` when there is no room for it now.
pub(in crate::shard) fn append_small(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    partition: PartitionId,
    small: &Small<'_>,
    fill: impl FnOnce(&mut RecordMut<'_>),
) -> Option<()> {
    let index = chain.index(partition);
    let part = chain.parts.get(index)?.as_deref()?;
    if part.replica.inflight_count() >= CLOCK_RECORD_INFLIGHT_MAX {
        return None;
    }
    let facts = Facts {
        kind: small.kind,
        partition,
        epoch: part.epoch(),
        table: small.table,
        dtype: DataType::I8,
        rows: RowRange::default(),
        tag: small.tag,
        durability: commit::Durability::Memory,
    };
    let lsn = part.replica.log().last().next();
    // What the last record that was taken in covers is none of this one's.
    chain.step.covered.clear();
    let mut words = chain.kept.spare.take(small.shape.length());
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    let mut draft = Draft::new(facts, small.shape, lsn);
    draft.prepare(bytes);
    fill(&mut RecordMut::new(bytes, &mut draft));
    draft.seal(bytes, Salt::NONE);
    append_held(
        port,
        tables,
        chain,
        partition,
        Held { lsn, words },
        small.tag & SYNC != 0,
        small.expired,
    );
    Some(())
}

/// The record that closes a round: the pushes it covers, and the messages that wait for it.
pub(in crate::shard) struct ClosingRecord<'a> {
    pub(in crate::shard) table: TableId,
    pub(in crate::shard) partition: PartitionId,
    pub(in crate::shard) held: Held,
    pub(in crate::shard) covered: &'a [crate::persist::record::Covered],
    pub(in crate::shard) waits: &'a [u32],
}

/// Appends the record that closes a round.
pub(in crate::shard) fn append_round(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    ClosingRecord { table, partition, held, covered, waits }: ClosingRecord<'_>,
) {
    let lane = rounds::lane_of(table);
    chain.step.covered.clear();
    chain.step.covered.extend(covered.iter().map(|one| Covered {
        session: one.session,
        incarnation: one.incarnation,
        lane,
        sequence: one.sequence,
    }));
    let waiting = waits.iter().map(|wait| (held.lsn, *wait));
    chain.own_mut(partition).waiting.extend(waiting);
    append_held(port, tables, chain, partition, held, false, &[]);
}

/// Gives a finished record to the replica; what it covers is in [`Chain::covered`].
pub(in crate::shard) fn append_held(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    partition: PartitionId,
    held: Held,
    sync: bool,
    expired: &[SessionId],
) {
    let covered = std::mem::take(&mut chain.step.covered);
    let lsn = held.lsn;
    port.statistics.chain_records += 1;
    port.statistics.chain_bytes += held.bytes().len() as u64;
    let part = chain.own_mut(partition);
    let epoch = part.epoch();
    part.records.push_back(held);
    let record =
        windlass_replication::RecordHeader { lsn, epoch, sync, covered: &covered, expired };
    let appended = outputs::step(port, tables, chain, partition, Input::Append(record));
    assert!(appended.is_ok(), "the head has room for this record: {appended:?}");
    chain.step.covered = covered;
    chain.step.covered.clear();
    disk::keep_record(chain, partition);
}
