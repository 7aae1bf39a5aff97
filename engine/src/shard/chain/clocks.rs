//! Workers' clocks in chain records. In every partition of a table the head records who joins and leaves and
//! who finishes a clock. Every replica applies that in order with the rows.

use windlass_replication::{Admission, Lane, Push, ReplicaError};
use windlass_wire::{
    Epoch, Incarnation, Lsn, PartitionId, RowRange, Sequence, SessionId, Status, TableId,
    WorkerClock, WorkerRank, control::ClockPlace,
};

use super::{Chain, append, head};
use crate::{
    limits::CLOCK_RECORD_INFLIGHT_MAX,
    persist::record::{Record, Stamp},
    refusal::Refusal,
    shard::{
        command::Answer,
        port::Port,
        push::Refused,
        rounds,
        rounds::CLOSES,
        tables::{ShardTable, Tables},
        work::Work,
    },
};

/// A worker whose answer waits until it is on every replica.
#[derive(Debug)]
pub(super) struct Joining {
    table: TableId,
    rank: WorkerRank,
    place: ClockPlace,
    answer: Answer<ClockPlace, Refusal>,
    /// Positions to be committed, once its records are made; whoever leads a later epoch records it
    /// again, if it has to.
    until: Option<Vec<(PartitionId, Epoch, Lsn)>>,
}

/// Answers a worker that has joined once it is known to the whole of every chain led from here.
pub(in crate::shard) fn answer_when_recorded(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    table: TableId,
    rank: WorkerRank,
    place: ClockPlace,
    answer: Answer<ClockPlace, Refusal>,
) {
    tables.clocks.unrecorded = true;
    chain.joining.push(Joining { table, rank, place, answer, until: None });
    record_workers(port, tables, chain);
}

/// Records who was heard, or is not any more, where this server leads; then answers whoever is
/// waiting for that.
pub(in crate::shard) fn record_workers(port: &mut Port, tables: &mut Tables, chain: &mut Chain) {
    if std::mem::take(&mut tables.clocks.unrecorded) {
        let ids: Vec<TableId> = tables.by_id.keys().copied().collect();
        for id in ids {
            record_workers_of(port, tables, chain, id);
        }
    }
    if chain.joining.is_empty() {
        return;
    }
    for mut joining in std::mem::take(&mut chain.joining) {
        if joining.until.is_none() {
            joining.until = positions_of(tables, chain, joining.table, joining.rank);
        }
        let is_over = |(partition, epoch, lsn): &(PartitionId, Epoch, Lsn)| {
            chain
                .part(*partition)
                .is_none_or(|part| part.epoch() != *epoch || part.replica.log().committed() >= *lsn)
        };
        if !joining.until.as_ref().is_some_and(|until| until.iter().all(is_over)) {
            chain.joining.push(joining);
            continue;
        }
        let heads = chain.led_slots(tables.by_id.get(&joining.table));
        let clocks = tables.by_id.get(&joining.table).and_then(|table| table.clocks.as_ref());
        let clock = clocks
            .map_or(WorkerClock(0), |clocks| clocks.start_of(&slots_of(&heads), joining.rank));
        let place = ClockPlace { clock, ..joining.place };
        // An asker that is gone needs no answer.
        let _ = joining.answer.send(Ok(place));
    }
}

/// The positions at which a worker is known to every chain led from here; `None` before all of
/// its records are made.
fn positions_of(
    tables: &Tables,
    chain: &Chain,
    table: TableId,
    rank: WorkerRank,
) -> Option<Vec<(PartitionId, Epoch, Lsn)>> {
    let Some(found) = tables.by_id.get(&table) else { return Some(Vec::new()) };
    let Some(clocks) = &found.clocks else { return Some(Vec::new()) };
    let led = chain.led_slots(Some(found));
    led.into_iter()
        .map(|(partition, slot)| {
            clocks.live_clock(slot, rank)?;
            let part = chain.part(partition)?;
            Some((partition, part.epoch(), part.replica.log().last()))
        })
        .collect()
}

fn record_workers_of(port: &mut Port, tables: &mut Tables, chain: &mut Chain, id: TableId) {
    let Some(table) = tables.by_id.get(&id) else { return };
    let Some(clocks) = &table.clocks else { return };
    let led = chain.led_slots(Some(table));
    for (slot, event) in clocks.unrecorded(&slots_of(&led)) {
        let found = led.iter().find(|(_, of)| *of == slot);
        let (partition, _) = found.expect("only slots that were asked about have events");
        if append::append_event(port, tables, chain, *partition, id, event).is_none() {
            tables.clocks.unrecorded = true;
        }
    }
}

/// A worker has finished a clock on all rows of a table: recorded wherever this server leads, and
/// acknowledged when all of that is on every replica.
pub(in crate::shard) fn advance_recorded(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    at: usize,
    rank: WorkerRank,
) -> Result<(), Refused> {
    let Work { header, .. } = port.turn.works[at];
    let table = tables.by_id.get(&header.table).expect("a request that was checked has its table");
    let led = chain.led_slots(Some(table));
    let clocks = table.clocks.as_ref().expect("a table whose clocks go on has clocks");
    let mut behind = Vec::new();
    for (partition, slot) in &led {
        // One that nobody waits for has to open the table again.
        let finished = clocks.live_clock(*slot, rank).ok_or(Status::NoRank)?;
        let part = chain.part(*partition);
        if part.is_none_or(|part| part.replica.inflight_count() >= CLOCK_RECORD_INFLIGHT_MAX) {
            return Err(Status::StaleEpoch.into());
        }
        if finished < header.clock {
            behind.push(*partition);
        }
    }
    for partition in behind {
        let stamp = Stamp { worker: rank, clock: header.clock };
        append::append_stamp(port, tables, chain, partition, header.table, stamp);
    }
    for (partition, _) in led {
        let last = last_of(chain, partition).expect("whoever leads a partition has its replica");
        head::wait_for_lsn(port, chain, partition, at, last);
    }
    Ok(())
}

/// Whether an older map than this one's could miss a chain that a clock has to reach.
pub(in crate::shard) fn is_clock_stale(chain: &Chain, epoch: Epoch) -> bool {
    let chains = (0..).map(PartitionId).zip(&chain.map.chains);
    let mut own = chains.filter(|(partition, _)| {
        windlass_wire::map::shard_of(*partition, chain.shard_count) == chain.shard
    });
    own.any(|(_, chain)| chain.epoch > epoch)
}

/// The partitions of a table that pushes come to here, with their slots.
pub(in crate::shard) fn led_partitions(
    tables: &Tables,
    chain: &Chain,
    table: TableId,
) -> Vec<(PartitionId, usize)> {
    chain.led_slots(tables.by_id.get(&table))
}

/// The last record of a partition.
pub(in crate::shard) fn last_of(chain: &Chain, partition: PartitionId) -> Option<Lsn> {
    let part = chain.part(partition)?;
    Some(part.replica.log().last())
}

impl Tables {
    /// Publishes the clocks that records have moved since.
    pub(in crate::shard) fn publish_clocks(&mut self) {
        if !std::mem::take(&mut self.clocks.is_stale) {
            return;
        }
        for table in self.by_id.values_mut() {
            if let Some(clocks) = table.clocks.as_mut().filter(|clocks| clocks.is_stale) {
                self.clocks.moved |= clocks.publish();
            }
        }
    }
}

impl Chain {
    /// Whether a push is new to a partition that is led here; `None` where there is none.
    pub(in crate::shard) fn admit(
        &mut self,
        partition: PartitionId,
        push: &Push,
    ) -> Option<Result<Admission, ReplicaError>> {
        Some(self.part_mut(partition)?.replica.admit(push))
    }

    /// The last push of a session that is applied to a partition, of one lane.
    pub(in crate::shard) fn applied(
        &self,
        partition: PartitionId,
        session: SessionId,
        lane: Lane,
    ) -> Option<(Incarnation, Sequence)> {
        self.part(partition)?.replica.sessions().applied(session, lane)
    }

    /// Epoch and position of a partition's next record; `Err` when there is no room for it now.
    pub(in crate::shard) fn next_record(
        &self,
        partition: PartitionId,
    ) -> Option<Result<(Epoch, Lsn), ()>> {
        let part = self.part(partition)?;
        if part.replica.inflight_count() >= CLOCK_RECORD_INFLIGHT_MAX {
            return Some(Err(()));
        }
        Some(Ok((part.epoch(), part.replica.log().last().next())))
    }

    /// The partitions of a table that this server leads, with their slots.
    fn led_slots(&self, table: Option<&ShardTable>) -> Vec<(PartitionId, usize)> {
        let Some(table) = table else { return Vec::new() };
        let mut led = Vec::new();
        for part in self.parts.iter().flatten() {
            let slot = table.slot(part.partition);
            if let Some(slot) = slot.filter(|_| self.leads(part.partition)) {
                led.push((part.partition, slot));
            }
        }
        led
    }
}

fn slots_of(led: &[(PartitionId, usize)]) -> Vec<usize> {
    led.iter().map(|(_, slot)| *slot).collect()
}

/// The lane of what a record covers.
pub(in crate::shard) fn lane_of(record: &Record<'_>) -> Lane {
    if record.tag() & CLOSES == 0 { Lane(0) } else { rounds::lane_of(record.table()) }
}

/// Rows at an end of their partition reach as far as there are numbers, so that a push of all of a
/// partition covers all of its clock.
pub(in crate::shard) fn reaching(rows: RowRange, is_dense: bool, whole: RowRange) -> RowRange {
    if !is_dense {
        return rows;
    }
    RowRange {
        start: if rows.start == whole.start { 0 } else { rows.start },
        end: if rows.end == whole.end { u64::MAX } else { rows.end },
    }
}
