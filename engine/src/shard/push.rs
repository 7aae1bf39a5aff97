//! Carrying out pushes: check everything, then apply. A push is applied whole or not at all.
#![allow(unsafe_code)]

use windlass_wire::{RequestKind, RowRange, Rows, Status, rule::Merge};

use super::{
    Shard,
    scan::check_scan,
    session::Applied,
    tables::{ShardTable, TableRows},
    work::{Values, Work, scans_do_not_push, values_pointer},
};

/// Why a request is refused, and at what.
pub(super) type Refusal = (Status, u32);

impl Shard {
    /// Carries out every push of the turn and completes it.
    pub(super) fn push_all(&mut self) {
        for at in 0..self.turn.works.len() {
            if self.turn.works[at].closed {
                continue;
            }
            let checked = self.check_order(at).and_then(|()| self.check(&self.turn.works[at]));
            if let Err((status, detail)) = checked {
                self.close(at, status, detail);
            }
        }
        if self.chain.is_some() {
            self.push_chained();
            return;
        }
        for at in 0..self.turn.works.len() {
            if self.turn.works[at].closed || self.turn.works[at].pushed {
                continue;
            }
            if self.is_behind_refused(at) {
                self.close(at, Status::StaleEpoch, 0);
                continue;
            }
            let work = &self.turn.works[at];
            let pushes = work.header.kind.pushes();
            let (table, rows) = (work.header.table, self.statistics.rows_pushed);
            if pushes && self.tables.get(&table).is_some_and(|table| table.rounds.is_some()) {
                self.push_group(at);
                continue;
            }
            let is_kept = pushes && self.is_kept(work);
            let is_imaged = is_kept && self.is_imaged(work);
            if is_imaged && self.is_poisoned() {
                self.close(at, Status::Poisoned, 0);
                continue;
            }
            if is_kept && !is_imaged {
                self.push_records(at);
            } else if pushes && work.header.sync {
                self.close(at, Status::NotDurable, 0);
            } else if pushes && self.needs_sum(at) {
                self.push_sum(at);
            } else if pushes {
                let outcome = self.push_one(at);
                self.finish_push(at, outcome);
            } else if !work.header.kind.pulls() {
                let work = *work;
                let (status, detail) = self.carry_out_other(at, &work);
                self.close(at, status, detail);
            }
            if is_imaged {
                self.note_imaged(table, self.statistics.rows_pushed - rows);
            }
        }
    }

    /// Carries out a request that neither pushes nor pulls.
    pub(super) fn carry_out_other(&mut self, at: usize, work: &Work) -> Refusal {
        if work.header.kind == RequestKind::AdvanceClock && self.clocks.is_used() {
            return self.advance_clock(at).err().unwrap_or((Status::Done, 0));
        }
        if work.header.kind == RequestKind::Idle {
            self.note_idle(at);
        }
        (Status::Done, 0)
    }

    /// Counts a push and completes it, unless it also pulls.
    pub(super) fn finish_push(&mut self, at: usize, outcome: Result<(), Refusal>) {
        let work = &mut self.turn.works[at];
        if let Values::Staged(chunk) = work.values {
            self.staging.release(chunk);
            work.values = Values::None;
        }
        match outcome {
            Ok(()) => {
                let is_over = work.header.kind == RequestKind::Push;
                self.statistics.pushes += 1;
                self.statistics.rows_pushed += u64::from(work.header.row_count);
                self.statistics.bytes_pushed += work.header.values_len();
                if self.clocks.is_used() {
                    let work = self.turn.works[at];
                    self.stamp_push(&work);
                }
                if is_over {
                    self.close(at, Status::Done, 0);
                }
            }
            Err((status, detail)) => self.close(at, status, detail),
        }
    }

    /// Completes a request.
    pub(super) fn close(&mut self, at: usize, status: Status, detail: u32) {
        let work = &mut self.turn.works[at];
        work.closed = true;
        let (slot, number, durable_at) = (work.session, work.number, work.durable_at);
        let wait = work.wait.take();
        let pushes = work.header.kind.pushes();
        if let Values::Staged(chunk) = work.values {
            work.values = Values::None;
            self.staging.release(chunk);
        }
        if pushes
            && is_sent_again(status)
            && let Some(session) = &mut self.sessions[slot]
        {
            session.refuses = true;
        }
        if let Some(wait) = wait {
            self.end_wait(wait, status, detail);
            return;
        }
        match durable_at {
            Some(position) if status == Status::Done => self.complete_at(slot, number, position),
            _ => self.complete(slot, number, status, detail),
        }
    }

    /// Whether a push that was in order when it was looked at first no longer is. One of the turn that
    /// was refused since is behind it or before it; either way it will be sent again with that one.
    pub(super) fn is_behind_refused(&self, at: usize) -> bool {
        let work = &self.turn.works[at];
        let refuses = self.sessions[work.session].as_ref().is_some_and(|session| session.refuses);
        refuses && is_ordered(work.header.kind)
    }

    /// Refuses a push behind one that was refused and will be sent again. To be asked once for each,
    /// in the order they came.
    fn check_order(&mut self, at: usize) -> Result<(), Refusal> {
        let work = &self.turn.works[at];
        let Some(session) = &mut self.sessions[work.session] else { return Ok(()) };
        if !session.refuses || !is_ordered(work.header.kind) {
            return Ok(());
        }
        if work.header.resumes {
            session.refuses = false;
            return Ok(());
        }
        Err((Status::StaleEpoch, 0))
    }

    /// Checks a request against its table, its session and the map, before anything is touched.
    fn check(&self, work: &Work) -> Result<(), Refusal> {
        let header = &work.header;
        if header.kind == RequestKind::Idle {
            // By another map it says nothing, and comes again.
            return Ok(());
        }
        // A replicated partition's chain says how old a map may be.
        let is_known = self.chain.is_some() && header.epoch < self.map.epoch;
        if header.epoch != self.map.epoch && !is_known {
            return Err((Status::StaleEpoch, 0));
        }
        if header.kind == RequestKind::Nothing {
            return Ok(());
        }
        let Some(table) = self.tables.get(&header.table) else {
            // Other replicas may know it before this one is told of it.
            let is_awaited = self.chain.is_some() && self.awaits_table(header.table);
            return Err((if is_awaited { Status::StaleEpoch } else { Status::UnknownTable }, 0));
        };
        // What waits for a round under one map is asked for again under the next.
        if table.rounds.is_some() && header.epoch != self.map.epoch {
            return Err((Status::StaleEpoch, 0));
        }
        let says_clock = header.kind.pushes() || header.kind == RequestKind::AdvanceClock;
        if says_clock && table.clocks.as_ref().is_some_and(|clocks| clocks.is_too_far(header.clock))
        {
            return Err((Status::ClockTooFar, 0));
        }
        if header.kind == RequestKind::AdvanceClock {
            let stale = table.clocks.is_some() && self.is_clock_stale(header.epoch);
            return if stale { Err((Status::StaleEpoch, 0)) } else { Ok(()) };
        }
        let schema = &table.entry.schema;
        if header.dtype != schema.dtype {
            return Err((Status::WrongDtype, 0));
        }
        if let Rows::Partition { partition, columns, .. } = header.rows {
            check_scan(table, partition, columns, header.width)?;
            return self.check_chains(work);
        }
        if header.width != schema.width {
            return Err((Status::WrongWidth, 0));
        }
        match header.rows {
            Rows::Range { first } => {
                table.check_range(first, u64::from(header.row_count))?;
            }
            Rows::Keys => table.check_keys(&self.turn.keys[work.keys.0..work.keys.1])?,
            Rows::Partition { .. } => unreachable!("checked above"),
        }
        if let (Some(scan), Some(values)) = (&table.scan, self.values_pointer(work)) {
            let (rows, width) = (header.row_count as usize, header.width as usize);
            // SAFETY: `values_pointer` points to the readable values of all the rows.
            if !unsafe { scan.is_finite(values, rows * width) } {
                let row_len = width * header.dtype.size();
                let bad = (0..rows).find(|row| {
                    // SAFETY: as above, one row of them.
                    !unsafe { scan.is_finite(values.wrapping_add(row * row_len), width) }
                });
                return Err((Status::NotFinite, detail_of(bad.unwrap_or(0))));
            }
        }
        self.check_chains(work)
    }

    /// Pointer to a push's values: as many as its header says, readable for the rest of the turn.
    pub(super) fn values_pointer(&self, work: &Work) -> Option<*const u8> {
        values_pointer(&self.turn, &self.staging, work)
    }

    /// Whether other pushes of this turn hit the same table, and its rule is for their sum.
    fn needs_sum(&self, at: usize) -> bool {
        if at + 1 == self.turn.works.len() {
            return false;
        }
        let table = self.turn.works[at].header.table;
        let Some(rule) = self.tables.get(&table).map(|table| &table.entry.schema.rule) else {
            return false;
        };
        rule.merge() == Merge::Sum
            && !rule.is_linear()
            && self.turn.works[at + 1..]
                .iter()
                .any(|work| !work.closed && work.header.kind.pushes() && work.header.table == table)
    }

    /// Applies one push directly.
    fn push_one(&mut self, at: usize) -> Result<(), Refusal> {
        let work = &self.turn.works[at];
        let Some(values) = values_pointer(&self.turn, &self.staging, work) else { return Ok(()) };
        let Some(table) = self.tables.get_mut(&work.header.table) else {
            return Err((Status::UnknownTable, 0));
        };
        let Some(session) = &mut self.sessions[work.session] else { return Ok(()) };
        let mut push = Push {
            sequence: work.header.sequence,
            shard_count: self.shard_count,
            applied: &mut session.applied,
            row_len: work.header.width as usize * work.header.dtype.size(),
            values,
            duplicates: 0,
        };
        let keys = &self.turn.keys[work.keys.0..work.keys.1];
        match (&mut table.rows, work.header.rows) {
            (TableRows::Dense(_), Rows::Range { first }) => {
                let rows = RowRange::new(first, first + u64::from(work.header.row_count));
                push.dense_rows(table, rows, 0, true);
            }
            (TableRows::Dense(_), Rows::Keys) => {
                let mut start = 0;
                while start < keys.len() {
                    let mut end = start + 1;
                    while end < keys.len() && keys[end] == keys[end - 1] + 1 {
                        end += 1;
                    }
                    let rows = RowRange::new(keys[start], keys[end - 1] + 1);
                    push.dense_rows(table, rows, start, false);
                    start = end;
                }
                push.record(table, RowsOf::Keys(keys));
            }
            (_, Rows::Partition { .. }) => scans_do_not_push(),
            (TableRows::Sparse(_), _) => {
                table.make_rows(keys, &mut self.memory_left)?;
                push.sparse_rows(table, keys, &mut self.memory_left);
                push.record(table, RowsOf::Keys(keys));
            }
        }
        self.statistics.duplicates += u64::from(push.duplicates > 0);
        Ok(())
    }
}

/// Whether it counts in which order a session's requests are carried out. A clock that went on without
/// the push before it would promise what is not there.
fn is_ordered(kind: RequestKind) -> bool {
    kind.pushes() || kind == RequestKind::AdvanceClock
}

/// Whether a client sends a push with this outcome again, or may.
pub(super) fn is_sent_again(status: Status) -> bool {
    matches!(
        status,
        Status::StaleEpoch
            | Status::NotHere
            | Status::Full
            | Status::Poisoned
            | Status::ShuttingDown
            | Status::TooEarly
    )
}

/// Which rows a push is about.
#[derive(Clone, Copy)]
pub(super) enum RowsOf<'a> {
    Range(RowRange),
    Keys(&'a [u64]),
}

/// One push being applied.
struct Push<'a> {
    sequence: windlass_wire::Sequence,
    shard_count: u16,
    applied: &'a mut Applied,
    row_len: usize,
    /// The readable values of all its rows.
    values: *const u8,
    duplicates: u32,
}

impl Push<'_> {
    /// Applies consecutive rows, whose values begin at row `at` of the push. Where they are all of it,
    /// each partition is recorded at once.
    #[inline]
    fn dense_rows(&mut self, table: &mut ShardTable, rows: RowRange, at: usize, are_all: bool) {
        let mut first = rows.start;
        while first < rows.end {
            let partition = table.layout.partition_of(first);
            let slot = table.slot(partition);
            let TableRows::Dense(partitions) = &mut table.rows else { return };
            let Some((dense, _)) = slot.and_then(|slot| partitions.get_mut(slot)) else { return };
            let end = rows.end.min(dense.rows().end);
            if self.applied.contains(partition, self.shard_count, self.sequence) {
                self.duplicates += 1;
            } else {
                #[expect(clippy::cast_possible_truncation, reason = "at most ROWS_MAX rows")]
                let row = at + (first - rows.start) as usize;
                let values = self.values.wrapping_add(row * self.row_len);
                // SAFETY: the push's values are readable for all of its rows, of which these are
                // `row` and following; they lie in the turn's arena, the staging area or a
                // client's memory, never in parameter memory; the kernel is the table's.
                unsafe { dense.apply(table.rule.pushed(), RowRange::new(first, end), values) };
            }
            if are_all {
                self.applied.insert(partition, self.shard_count, self.sequence);
            }
            first = end;
        }
    }

    #[inline]
    fn sparse_rows(&mut self, table: &mut ShardTable, keys: &[u64], memory: &mut u64) {
        let TableRows::Sparse(partitions) = &mut table.rows else { return };
        for (at, key) in keys.iter().enumerate() {
            let partition = table.layout.partition_of(*key);
            let slot = table.slots.find(partition);
            let Some(sparse) = slot.and_then(|slot| partitions.get_mut(slot)) else { continue };
            if self.applied.contains(partition, self.shard_count, self.sequence) {
                self.duplicates += 1;
                continue;
            }
            let values = self.values.wrapping_add(at * self.row_len);
            // SAFETY: the push's values are readable for all of its rows, of which this is number
            // `at`, and lie apart from the table's slabs; the kernel is the table's.
            let applied = unsafe { sparse.apply(table.rule.pushed(), *key, values, memory) };
            debug_assert!(applied.is_ok(), "rows were reserved");
        }
    }

    /// Remembers the push for every partition it touched.
    fn record(&mut self, table: &ShardTable, rows: RowsOf<'_>) {
        record(self.applied, self.shard_count, self.sequence, table, rows);
    }
}

/// Remembers that a push was applied to every partition of its rows.
pub(super) fn record(
    applied: &mut Applied,
    shard_count: u16,
    sequence: windlass_wire::Sequence,
    table: &ShardTable,
    rows: RowsOf<'_>,
) {
    match rows {
        RowsOf::Range(rows) => {
            let mut first = rows.start;
            while first < rows.end {
                let partition = table.layout.partition_of(first);
                applied.insert(partition, shard_count, sequence);
                first = table.layout.rows_of(partition).end.max(first + 1);
            }
        }
        RowsOf::Keys(keys) => {
            for key in keys {
                applied.insert(table.layout.partition_of(*key), shard_count, sequence);
            }
        }
    }
}

pub(super) fn detail_of(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
