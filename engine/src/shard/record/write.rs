//! One record: its sum is made in the log's memory, sealed there, and applied from there.
#![allow(unsafe_code)]

use std::ops::Range;

use windlass_replication::Admission;
use windlass_wire::{Durability, PartitionId, RowRange, Status, TableId, rule::Merge};

use super::{
    Outcome,
    gather::{Gathered, Touched},
};
use crate::{
    persist::{
        commit::{self, Position},
        frame::{Kind, Salt},
        log::{Reservation, ReserveError, Sealed},
        record::{Draft, Facts, RecordMut, Shape, Stamp},
    },
    shard::{
        Shard,
        chain::{Held, SYNC, epoch_of, seal},
        durable::{Durable, apply_key, apply_range},
        push::{Refusal, session_of},
        staging::Staging,
        tables::{ShardTable, TableRows},
        work::{Turn, Work, values_pointer},
    },
    update::Accumulator,
};

/// Values added at a time, so that a sum stays in the first cache while pushes are added to it.
const CHUNK_LEN: usize = 16 << 10;

/// One record to be: where it goes and how its rows lie.
#[derive(Clone, Copy, Debug)]
struct Plan {
    table: TableId,
    partition: PartitionId,
    kind: Kind,
    row_count: usize,
    width: usize,
    /// Bytes of one row as pushed, and as recorded.
    pushed_len: usize,
    row_len: usize,
    /// Whether values of several pushes meet, in the sum's type.
    summed: bool,
}

impl Shard {
    /// Writes and applies the spans of one partition, and notes what came of their pushes. The record is made
    /// in the log, or held without one.
    pub(super) fn write_record(
        &mut self,
        log: Option<&mut Durable>,
        gathered: &mut Gathered,
        spans: Range<usize>,
        outcomes: &mut [Outcome],
    ) {
        let partition = gathered.partition_of(&spans);
        self.choose(gathered, spans.clone(), outcomes);
        let written = match log {
            // All of it was applied before; its record may still be on its way to the disk.
            Some(durable) if gathered.covered.is_empty() => Ok(Some(durable.log().end())),
            Some(durable) => self.write_fresh(durable, gathered, spans).map(Some),
            None => self.hold_fresh(gathered, spans).map(|()| None),
        };
        for entry in &gathered.touched {
            let member = gathered.members[entry.place];
            let work = &self.turn.works[member];
            match (&mut outcomes[entry.place], written) {
                (Err(_), _) => {}
                (outcome, Err(refusal)) => *outcome = Err(refusal),
                (Ok(position), Ok(Some(end))) => {
                    if self.durability_of_work(work).waits() {
                        *position = (*position).max(Some(end));
                    }
                }
                (Ok(_), Ok(None)) => {
                    if let Some(lsn) = entry.known {
                        self.wait_for_lsn(partition, member, lsn);
                    }
                }
            }
        }
    }

    /// Finds out which pushes touch the partition, which of them it does not hold yet, and whom a
    /// record of those covers.
    fn choose(&mut self, gathered: &mut Gathered, spans: Range<usize>, outcomes: &[Outcome]) {
        let partition = gathered.spans[spans.start].partition;
        let chain = self.chain.as_ref().expect("a shard without a chain takes no pushes");
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
                let work = &self.turn.works[gathered.members[place]];
                let session = session_of(&self.sessions, work);
                let sequence = work.header.sequence;
                let admission =
                    chain.look(partition, &session.push(sequence), gathered.covered.len());
                // Whether it is refused was asked before; a table that has become full since has room for
                // the turn's sessions.
                let known = match admission {
                    Admission::Duplicate { lsn } => Some(lsn),
                    _ => None,
                };
                self.statistics.duplicates += u64::from(known.is_some());
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
        &mut self,
        durable: &mut Durable,
        gathered: &mut Gathered,
        spans: Range<usize>,
    ) -> Result<Position, Refusal> {
        let partition = gathered.partition_of(&spans);
        if self.owes_image(durable, partition) {
            self.write_image(durable, partition)?;
        }
        let (plan, facts, shape, stamp) = self.plan(gathered, spans)?;
        let mut reservation = self.reserve(durable, &facts, shape)?;
        let record = durable.log_mut().fill(&mut reservation);
        self.fill_record(gathered, plan, stamp, record);
        let sealed =
            seal(self.chain.as_deref_mut(), durable, (partition, reservation), &gathered.covered);
        self.apply_sealed(durable, gathered, &plan, shape, &sealed);
        Ok(sealed.position)
    }

    /// Makes a record of what is new, and gives it to the partition's replica.
    fn hold_fresh(&mut self, gathered: &mut Gathered, spans: Range<usize>) -> Result<(), Refusal> {
        if gathered.covered.is_empty() {
            return Ok(());
        }
        let partition = gathered.partition_of(&spans);
        let (plan, facts, shape, stamp) = self.plan(gathered, spans)?;
        if !shape.is_allowed() {
            return Err((Status::TooLarge, 0));
        }
        let chain = self.chain.as_mut().expect("a shard without a chain takes no pushes");
        let lsn = chain.next_of(partition).ok_or((Status::StaleEpoch, 0))?;
        let mut words = chain.take(shape.length());
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        let mut draft = Draft::new(facts, shape, lsn);
        draft.prepare(bytes);
        self.fill_record(gathered, plan, stamp, RecordMut::new(bytes, &mut draft));
        draft.seal(bytes, Salt::NONE);
        let fresh = gathered.touched.iter().filter(|entry| entry.fresh);
        let members = fresh.map(|entry| gathered.members[entry.place]);
        let sync = facts.tag & SYNC != 0;
        self.hold((partition, sync), Held { lsn, words }, &gathered.covered, members);
        Ok(())
    }

    /// Fills a record with what is new, as planned.
    fn fill_record(
        &self,
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
        let table = &self.tables[&plan.table];
        let (values, rule) = delta.split_at_mut(plan.row_count * plan.row_len);
        rule.copy_from_slice(table.rule.suffix());
        Filler { shard: self, table, gathered, plan }.fill(values);
    }

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
        let mut ranks = fresh().map(|work| session_of(&self.sessions, work).rank);
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

    /// What the record of what is new in these spans is to hold.
    fn plan(
        &self,
        gathered: &mut Gathered,
        spans: Range<usize>,
    ) -> Result<(Plan, Facts, Shape, Option<Stamp>), Refusal> {
        let row_count = gathered.unite(spans);
        let span = gathered.kept[0];
        let leader = gathered.leaders[span.leader as usize];
        let header = self.turn.works[gathered.members[leader.first]].header;
        let table = &self.tables[&header.table];
        let stamp = self.stamp_of(gathered, table, span.partition);
        let fresh = || gathered.touched.iter().filter(|entry| entry.fresh);
        let summed = fresh().count() > 1;
        let dtype = if summed { Accumulator::sum_dtype(header.dtype) } else { header.dtype };
        let width = header.width as usize;
        let durability = fresh()
            .map(|entry| self.durability_of_work(&self.turn.works[gathered.members[entry.place]]))
            .fold(commit::Durability::Memory, commit::Durability::stricter);
        let one_range = gathered.runs.len() == 1 && matches!(table.rows, TableRows::Dense(_));
        let kind = if one_range { Kind::Rows } else { Kind::Keys };
        let range = if one_range { gathered.runs[0].range() } else { RowRange::default() };
        let row_count = usize::try_from(row_count).map_err(|_| (Status::TooLarge, 0))?;
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
            epoch: epoch_of(self.chain.as_deref(), span.partition),
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
        let table =
            self.tables.get_mut(&plan.table).expect("a push that was checked has its table");
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
                    // SAFETY: as above, for one row of them.
                    let done =
                        unsafe { apply_key(table, &kernel, key, value, &mut self.memory_left) };
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
        let table = self.tables.get(&work.header.table);
        match table.map(|table| table.entry.schema.durability) {
            Some(Durability::Interval { milliseconds }) => {
                commit::Durability::Interval(milliseconds)
            }
            Some(Durability::Sync {}) => commit::Durability::Sync,
            Some(Durability::Memory {}) | None => commit::Durability::Memory,
        }
    }

    /// Room for a record, waiting for the disk if it is behind: that is what slows pushes down.
    pub(in crate::shard) fn reserve(
        &mut self,
        durable: &mut Durable,
        facts: &Facts,
        shape: Shape,
    ) -> Result<Reservation, Refusal> {
        if !shape.is_allowed() {
            return Err((Status::TooLarge, 0));
        }
        loop {
            let now = durable.now();
            match durable.log_mut().reserve(facts, shape, now) {
                Ok(reservation) => return Ok(reservation),
                Err(ReserveError::Full(full)) => self.wait_for_room(durable, full, now),
                Err(ReserveError::TooLong { .. }) => return Err((Status::TooLarge, 0)),
                Err(ReserveError::Poisoned(_) | ReserveError::Order { .. }) => {
                    return Err((Status::Poisoned, 0));
                }
            }
        }
    }
}

/// Makes the sum of a record's pushes in its delta.
struct Filler<'a> {
    shard: &'a Shard,
    table: &'a ShardTable,
    gathered: &'a mut Gathered,
    plan: Plan,
}

impl Filler<'_> {
    fn fill(&mut self, delta: &mut [u8]) {
        if self.table.entry.schema.rule.merge() == Merge::Last {
            self.replace(delta);
            return;
        }
        let (mut run, mut run_row, mut filled) = (0, 0, 0_usize);
        for span in &self.gathered.kept {
            let runs = &self.gathered.runs;
            while span.last() > runs[run].last {
                run_row += rows(runs[run].count());
                run += 1;
                filled = 0;
            }
            // Spans ascend, so the first `filled` rows of the run hold values and others do not.
            let from = rows(span.first - runs[run].first);
            let count = span.count as usize;
            let known = filled.saturating_sub(from).min(count);
            filled = filled.max(from + count);
            let (row, at) = (span.row as usize, run_row + from);
            if known > 0 {
                self.add(span.leader, row, at, known, false, delta);
            }
            if known < count {
                self.add(span.leader, row + known, at + known, count - known, true, delta);
            }
        }
    }

    /// The last push of a row stays: as they came, over each other.
    fn replace(&mut self, delta: &mut [u8]) {
        let mut order = std::mem::take(&mut self.gathered.order);
        order.clear();
        for (at, leader) in (0_u32..).zip(&self.gathered.leaders) {
            if leader.partition == Some(self.plan.partition) {
                order.extend(self.gathered.fresh_of(at).map(|member| (member, at)));
            }
        }
        order.sort_unstable();
        for (member, leader) in &order {
            for span in self.gathered.kept.iter().filter(|span| span.leader == *leader) {
                let to = self.row_of(span.first);
                self.one(*member, span.row as usize, to, span.count as usize, true, delta);
            }
        }
        self.gathered.order = order;
    }

    /// Row of the record that holds a row of the table.
    fn row_of(&self, row: u64) -> usize {
        let runs = &self.gathered.runs;
        let run = runs.partition_point(|run| run.last < row);
        let before: u64 = runs[..run].iter().map(|run| run.count()).sum();
        rows(before + (row - runs[run].first))
    }

    /// Adds rows of a leader's members, `set` when the first of them finds no values yet.
    fn add(&self, leader: u32, from: usize, to: usize, count: usize, set: bool, delta: &mut [u8]) {
        let step = (CHUNK_LEN / self.plan.row_len).max(1);
        let mut done = 0;
        while done < count {
            // One push alone is copied in one go.
            let chunk = if self.plan.summed { step.min(count - done) } else { count };
            let mut set = set;
            for member in self.gathered.fresh_of(leader) {
                self.one(member, from + done, to + done, chunk, set, delta);
                set = false;
            }
            done += chunk;
        }
    }

    /// Adds rows of one push, or sets them.
    fn one(
        &self,
        member: usize,
        from: usize,
        to: usize,
        count: usize,
        set: bool,
        delta: &mut [u8],
    ) {
        let work = &self.shard.turn.works[member];
        let values = self.shard.values_pointer(work).expect("a push of rows has values");
        let pushed = values.wrapping_add(from * self.plan.pushed_len);
        let sum = &mut delta[to * self.plan.row_len..(to + count) * self.plan.row_len];
        let values = count * self.plan.width;
        if !self.plan.summed {
            // SAFETY: a push's values are readable for all of its rows, of which these are number
            // `from` and following; `sum` is as long, in the log's memory.
            unsafe { std::ptr::copy_nonoverlapping(pushed, sum.as_mut_ptr(), sum.len()) };
        } else if set {
            // SAFETY: as above; `sum` has room for as many values of the sum's type.
            unsafe { self.table.accumulator.set(sum.as_mut_ptr(), pushed, values) };
        } else {
            // SAFETY: as above, and the sum was set by an earlier push.
            unsafe { self.table.accumulator.add(sum.as_mut_ptr(), pushed, values) };
        }
    }
}

/// Copies the values of a push into a record's delta. Panics when the push has none, or not as many.
pub(in crate::shard) fn copy_values(turn: &Turn, staging: &Staging, work: &Work, to: &mut [u8]) {
    let values = values_pointer(turn, staging, work).expect("a push of rows has values");
    assert_eq!(to.len() as u64, work.header.values_len(), "a delta is the push's values");
    // SAFETY: `values` are readable for the rest of the turn, as many as the header says, which is the length
    // of the delta; the record is the shard's own memory.
    unsafe { std::ptr::copy_nonoverlapping(values, to.as_mut_ptr(), to.len()) };
}

#[expect(clippy::cast_possible_truncation, reason = "rows of a turn's pushes")]
const fn rows(count: u64) -> usize {
    count as usize
}
