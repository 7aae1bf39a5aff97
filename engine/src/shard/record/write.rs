//! Writes one record: sums the pushes in the log's memory, seals it there, and applies it from there.
#![allow(unsafe_code)]

use std::ops::Range;

use windlass_replication::Admission;
use windlass_wire::{Durability, PartitionId, RowRange, Status, TableId};

use super::{
    Outcome,
    fill::Filler,
    gather::{Gathered, Touched},
};
use crate::{
    persist::{
        commit,
        commit::Position,
        frame::{Kind, Salt},
        log::Sealed,
        record::{Draft, Facts, RecordMut, Shape, Stamp},
    },
    shard::{
        chain,
        chain::{Chain, Held, SYNC, epoch_of, seal},
        durable::{Durable, apply_key, apply_range},
        image,
        port::Port,
        push::{Refused, session_of},
        reserve,
        tables::{ShardTable, TableRows, Tables},
        work::Work,
    },
    update::Accumulator,
};

/// One record to be: where it goes and how its rows lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) table: TableId,
    pub(super) partition: PartitionId,
    pub(super) kind: Kind,
    pub(super) row_count: usize,
    pub(super) width: usize,
    /// Bytes of one row as pushed, and as recorded.
    pub(super) pushed_len: usize,
    pub(super) row_len: usize,
    /// Whether values of several pushes meet, in the sum's type.
    pub(super) summed: bool,
}

/// Writes and applies the spans of one partition, and notes what came of their pushes. The record is made
/// in the log, or held without one.
pub(super) fn write_record(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    log: Option<&mut Durable>,
    gathered: &mut Gathered,
    spans: Range<usize>,
    outcomes: &mut [Outcome],
) {
    let partition = gathered.partition_of(&spans);
    choose(port, chain, gathered, spans.clone(), outcomes);
    let written = match log {
        // All of it was applied before; its record may still be on its way to the disk.
        Some(durable) if gathered.covered.is_empty() => Ok(Some(durable.log().end())),
        Some(durable) => write_fresh(port, tables, chain, durable, gathered, spans).map(Some),
        None => hold_fresh(port, tables, chain, gathered, spans).map(|()| None),
    };
    for entry in &gathered.touched {
        let member = gathered.members[entry.place];
        let work = &port.turn.works[member];
        match (&mut outcomes[entry.place], written) {
            (Err(_), _) => {}
            (outcome, Err(refusal)) => *outcome = Err(refusal),
            (Ok(position), Ok(Some(end))) => {
                if tables.durability_of_work(work).waits() {
                    *position = (*position).max(Some(end));
                }
            }
            (Ok(_), Ok(None)) => {
                if let Some(lsn) = entry.known {
                    chain::wait_for_lsn(port, chain, partition, member, lsn);
                }
            }
        }
    }
}

/// Finds out which pushes touch the partition, which of them it does not hold yet, and whom a
/// record of those covers.
fn choose(
    port: &mut Port,
    chain: &mut Chain,
    gathered: &mut Gathered,
    spans: Range<usize>,
    outcomes: &[Outcome],
) {
    let partition = gathered.spans[spans.start].partition;
    gathered.touched.clear();
    gathered.covered.clear();
    for at in spans {
        let leader = &mut gathered.leaders[gathered.spans[at].leader as usize];
        if leader.partition == Some(partition) {
            continue;
        }
        leader.partition = Some(partition);
        let from = gathered.touched.len();
        let places = outcomes.iter().enumerate().skip(leader.first).take(leader.count);
        for (place, outcome) in places {
            let work = &port.turn.works[gathered.members[place]];
            let session = session_of(&port.sessions, work);
            let sequence = work.header.sequence;
            let admission = chain.look(partition, &session.push(sequence), gathered.covered.len());
            // Whether it is refused was asked before; a table that has become full since has room for
            // the turn's sessions.
            let known = match admission {
                Admission::Duplicate { lsn } => Some(lsn),
                _ => None,
            };
            port.statistics.duplicates += u64::from(known.is_some());
            let fresh = outcome.is_ok() && known.is_none();
            gathered.touched.push(Touched { place, fresh, known });
            if !fresh {
                continue;
            }
            let its = session.covered(sequence);
            match gathered.covered.iter_mut().find(|covered| covered.session == its.session) {
                Some(covered) => covered.sequence = covered.sequence.max(sequence),
                None => gathered.covered.push(its),
            }
        }
        leader.touched = (from, gathered.touched.len());
    }
}

/// Makes a record of what is new in the log; where it ends.
fn write_fresh(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    durable: &mut Durable,
    gathered: &mut Gathered,
    spans: Range<usize>,
) -> Result<Position, Refused> {
    let partition = gathered.partition_of(&spans);
    if tables.owes_image(durable, partition) {
        image::write_image(port, tables, chain, durable, partition)?;
    }
    let (plan, facts, shape, stamp) = plan(port, tables, chain, gathered, spans)?;
    let mut reservation = reserve::reserve(port, tables, chain, durable, &facts, shape)?;
    let record = durable.log_mut().fill(&mut reservation);
    fill_record(port, tables, gathered, plan, stamp, record);
    let sealed = seal(chain, durable, partition, reservation, &gathered.covered);
    tables.apply_sealed(durable, gathered, &plan, shape, &sealed);
    Ok(sealed.position)
}

/// Makes a record of what is new, and gives it to the partition's replica.
fn hold_fresh(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    gathered: &mut Gathered,
    spans: Range<usize>,
) -> Result<(), Refused> {
    if gathered.covered.is_empty() {
        return Ok(());
    }
    let partition = gathered.partition_of(&spans);
    let (plan, facts, shape, stamp) = plan(port, tables, chain, gathered, spans)?;
    if !shape.is_allowed() {
        return Err(Status::TooLarge.into());
    }
    let lsn = chain.next_of(partition).ok_or(Status::StaleEpoch)?;
    let mut words = chain.take(shape.length());
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    let mut draft = Draft::new(facts, shape, lsn);
    draft.prepare(bytes);
    fill_record(port, tables, gathered, plan, stamp, RecordMut::new(bytes, &mut draft));
    draft.seal(bytes, Salt::NONE);
    let fresh = gathered.touched.iter().filter(|entry| entry.fresh);
    let members = fresh.map(|entry| gathered.members[entry.place]);
    let sync = facts.tag & SYNC != 0;
    chain::wait_for_record(port, chain, partition, lsn, members);
    chain::hold(port, tables, chain, partition, Held { lsn, words }, sync, &gathered.covered);
    Ok(())
}

/// Fills a record with what is new, as planned.
fn fill_record(
    port: &Port,
    tables: &Tables,
    gathered: &mut Gathered,
    plan: Plan,
    stamp: Option<Stamp>,
    mut record: RecordMut<'_>,
) {
    for covered in &gathered.covered {
        record.cover(*covered);
    }
    if let Some(stamp) = stamp {
        record.stamp(stamp);
    }
    let delta = match plan.kind {
        Kind::Rows => record.delta(),
        _ => {
            let (bytes, delta) = record.keys_and_delta();
            let keys = gathered.runs.iter().flat_map(|run| run.first..=run.last);
            for (bytes, key) in bytes.chunks_exact_mut(8).zip(keys) {
                bytes.copy_from_slice(&key.to_le_bytes());
            }
            delta
        }
    };
    let table = &tables.by_id[&plan.table];
    let (values, rule) = delta.split_at_mut(plan.row_count * plan.row_len);
    rule.copy_from_slice(table.rule.suffix());
    Filler { port, table, gathered, plan }.fill(values);
}

impl Port {
    /// The clock that a record's rows have from then on, if all of them are of one worker.
    fn stamp_of(
        &self,
        gathered: &Gathered,
        table: &ShardTable,
        partition: PartitionId,
    ) -> Option<Stamp> {
        let clocks = table.clocks.as_ref().filter(|_| !table.is_imaged())?;
        let fresh = || {
            let fresh = gathered.touched.iter().filter(|entry| entry.fresh);
            fresh.map(|entry| &self.turn.works[gathered.members[entry.place]])
        };
        let mut ranks = fresh().map(|work| session_of(&self.sessions, work).owner.rank);
        let worker = ranks.next().flatten()?;
        // Rows of several workers' pushes are not all of each.
        if !ranks.all(|rank| rank == Some(worker)) {
            return None;
        }
        // Of several pushes, what all of them say.
        let clock = fresh().map(|work| work.header.clock).min()?;
        let is_news = clock > clocks.live_clock(table.slot(partition)?, worker)?;
        is_news.then_some(Stamp { worker, clock })
    }
}

/// What the record of what is new in these spans is to hold.
fn plan(
    port: &Port,
    tables: &Tables,
    chain: &Chain,
    gathered: &mut Gathered,
    spans: Range<usize>,
) -> Result<(Plan, Facts, Shape, Option<Stamp>), Refused> {
    let row_count = gathered.unite(spans);
    let span = gathered.kept[0];
    let leader = gathered.leaders[span.leader as usize];
    let header = port.turn.works[gathered.members[leader.first]].header;
    let table = &tables.by_id[&header.table];
    let stamp = port.stamp_of(gathered, table, span.partition);
    let fresh = || gathered.touched.iter().filter(|entry| entry.fresh);
    let summed = fresh().count() > 1;
    let dtype = if summed { Accumulator::sum_dtype(header.dtype) } else { header.dtype };
    let width = header.width as usize;
    let durability = fresh()
        .map(|entry| tables.durability_of_work(&port.turn.works[gathered.members[entry.place]]))
        .fold(commit::Durability::Memory, commit::Durability::stricter);
    let one_range = gathered.runs.len() == 1 && matches!(table.rows, TableRows::Dense(_));
    let kind = if one_range { Kind::Rows } else { Kind::Keys };
    let range = if one_range { gathered.runs[0].range() } else { RowRange::default() };
    let row_count = usize::try_from(row_count).map_err(|_| Status::TooLarge)?;
    let plan = Plan {
        table: header.table,
        partition: span.partition,
        kind,
        row_count,
        width,
        pushed_len: width * header.dtype.size(),
        row_len: width * dtype.size(),
        summed,
    };
    let facts = Facts {
        kind,
        partition: span.partition,
        epoch: epoch_of(chain, span.partition),
        table: header.table,
        dtype,
        rows: range,
        tag: table.rule.tag() | if durability.waits() { SYNC } else { 0 },
        durability,
    };
    let shape = Shape {
        covered_max: gathered.covered.len(),
        stamps_max: usize::from(stamp.is_some()),
        keys: if one_range { 0 } else { row_count },
        delta_bytes: row_count * plan.row_len + table.rule.suffix().len(),
    };
    Ok((plan, facts, shape, stamp))
}

impl Tables {
    /// Applies a record from where it lies in the log.
    fn apply_sealed(
        &mut self,
        durable: &Durable,
        gathered: &Gathered,
        plan: &Plan,
        shape: Shape,
        sealed: &Sealed,
    ) {
        let bytes = durable.log().sealed_bytes(sealed);
        let delta = bytes[shape.delta_start()..].as_ptr();
        let table = self.by_id.get_mut(&plan.table).expect("a push that was checked has its table");
        let kernel = if plan.summed { *table.rule.sums() } else { *table.rule.pushed() };
        let mut row = 0;
        for run in &gathered.runs {
            let at = delta.wrapping_add(row * plan.row_len);
            let count = usize::try_from(run.count()).unwrap_or(0);
            if matches!(table.rows, TableRows::Dense(_)) {
                // SAFETY: the record holds the values of all rows of the run, in the log's memory,
                // of the type that the kernel takes.
                unsafe { apply_range(table, &kernel, run.range(), at) };
            } else {
                for (within, key) in (run.first..=run.last).enumerate() {
                    let value = at.wrapping_add(within * plan.row_len);
                    let slot = table.slots.find(table.layout.partition_of(key));
                    let slot = slot.expect("rows that are applied are here");
                    // SAFETY: as above, for one row of them.
                    let done = unsafe {
                        apply_key(table, slot, &kernel, key, value, &mut self.memory_left)
                    };
                    debug_assert!(done, "rows were made before");
                }
            }
            row += count;
        }
        debug_assert_eq!(row, plan.row_count, "every row is applied");
    }

    /// What a push asks for, or its table.
    fn durability_of_work(&self, work: &Work) -> commit::Durability {
        if work.header.sync {
            return commit::Durability::Sync;
        }
        let table = self.by_id.get(&work.header.table);
        match table.map(|table| table.entry.schema.durability) {
            Some(Durability::Interval { milliseconds }) => {
                commit::Durability::Interval(milliseconds)
            }
            Some(Durability::Sync {}) => commit::Durability::Sync,
            Some(Durability::Memory {}) | None => commit::Durability::Memory,
        }
    }
}
