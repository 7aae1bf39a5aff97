//! Carrying out pushes: check everything, then apply. A push is applied whole or not at all.
#![allow(unsafe_code)]

use windlass_wire::{RequestHeader, RequestKind, RowRange, Rows, Status, rule::Merge};

use super::{
    Shard,
    admitted::{Admitted, RowsOf},
    chain::is_settled,
    image::may_wait,
    scan::check_scan,
    session::ShardSession,
    tables::{ShardTable, TableRows},
    work::{Values, Work, values_pointer},
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
        let is_settled = is_settled(self.chain.as_deref());
        if !is_settled && self.push_alone() {
            return;
        }
        for at in 0..self.turn.works.len() {
            let work = &self.turn.works[at];
            let only_pulls = work.header.kind.pulls() && !work.header.kind.pushes();
            if work.closed || work.pushed || only_pulls {
                continue;
            }
            if self.is_behind_refused(at) {
                self.close(at, Status::StaleEpoch, 0);
                continue;
            }
            let work = &self.turn.works[at];
            if !work.header.kind.pushes() {
                let work = *work;
                let (status, detail) = self.carry_out_other(at, &work);
                self.close(at, status, detail);
                continue;
            }
            if !is_settled {
                self.push_records(at);
                continue;
            }
            match way_of(self.table_of(work), &work.header) {
                Way::Records => self.push_records(at),
                Way::Refused => self.close(at, Status::NotDurable, 0),
                Way::Images if self.is_poisoned() => self.close(at, Status::Poisoned, 0),
                Way::Images => {
                    let (table, rows) = (work.header.table, self.statistics.rows_pushed);
                    self.push_straight(at);
                    self.note_imaged(table, self.statistics.rows_pushed - rows);
                }
                Way::Memory => self.push_straight(at),
            }
        }
    }

    /// The table of a request that was checked.
    #[inline]
    pub(super) fn table_of(&self, work: &Work) -> &ShardTable {
        self.tables.get(&work.header.table).expect("a request that was checked has its table")
    }

    /// Carries out a push that takes no record, with others of its table where its rule is for their sum.
    fn push_straight(&mut self, at: usize) {
        if self.needs_sum(at) {
            self.push_sum(at);
        } else {
            let outcome = self.push_one(at);
            self.finish_push(at, outcome);
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
                work.pushed = true;
                let is_over = work.header.kind == RequestKind::Push;
                self.statistics.pushes += 1;
                self.statistics.rows_pushed += u64::from(work.header.row_count);
                self.statistics.bytes_pushed += work.header.values_len();
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
            session.gate.close();
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
        let session = self.sessions[work.session].as_ref();
        session.is_some_and(|session| session.gate.is_closed()) && is_ordered(work.header.kind)
    }

    /// Refuses a push behind one that was refused and will be sent again. To be asked once for each,
    /// in the order they came.
    fn check_order(&mut self, at: usize) -> Result<(), Refusal> {
        let work = &self.turn.works[at];
        let session = self.sessions[work.session].as_mut();
        let session = session.expect("no session ends while its requests are carried out");
        let passes = !is_ordered(work.header.kind) || session.gate.admits(work.header.resumes);
        if passes { Ok(()) } else { Err((Status::StaleEpoch, 0)) }
    }

    /// Checks a request against its table, its session and the map, before anything is touched.
    fn check(&self, work: &Work) -> Result<(), Refusal> {
        let header = &work.header;
        if header.kind == RequestKind::Idle {
            // By another map it says nothing, and comes again.
            return Ok(());
        }
        // The partitions' chains say how old a map may be.
        if header.epoch > self.map.epoch {
            return Err((Status::StaleEpoch, 0));
        }
        if header.kind == RequestKind::Nothing {
            return Ok(());
        }
        let Some(table) = self.tables.get(&header.table) else {
            // Other servers may know it before this one is told of it.
            let is_awaited = self.map.servers.len() > 1 && self.awaits_table(header.table);
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
            return self.check_chains(table, work);
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
        self.check_chains(table, work)
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
        // One of no rows.
        let Some(values) = values_pointer(&self.turn, &self.staging, work) else { return Ok(()) };
        let Self { tables, sessions, chain, admitted, memory_left, .. } = self;
        let table =
            tables.get_mut(&work.header.table).expect("a push that was checked has its table");
        let session = session_of(sessions, work);
        let chain = chain.as_mut().expect("a shard without a chain takes no pushes");
        let rows = work.rows(&self.turn.keys);
        if let RowsOf::Keys(keys) = rows {
            table.make_rows(keys, memory_left)?;
        }
        let push = session.push(work.header.sequence);
        let admission = admitted.admit(chain, &table.layout, rows, (work.session, &push));
        self.statistics.duplicates += u64::from(admission.map_err(|status| (status, 0))?);
        let applying = Applying { admitted, values, row_len: work.row_len() };
        match (&table.rows, rows) {
            (TableRows::Dense(_), RowsOf::Range(rows)) => applying.dense_rows(table, rows, 0),
            (TableRows::Dense(_), RowsOf::Keys(keys)) => {
                let mut start = 0;
                while start < keys.len() {
                    let mut end = start + 1;
                    while end < keys.len() && keys[end] == keys[end - 1] + 1 {
                        end += 1;
                    }
                    let rows = RowRange::new(keys[start], keys[end - 1] + 1);
                    applying.dense_rows(table, rows, start);
                    start = end;
                }
            }
            (TableRows::Sparse(_), RowsOf::Keys(keys)) => {
                applying.sparse_rows(table, keys, memory_left);
            }
            (TableRows::Sparse(_), RowsOf::Range(_)) => {
                unreachable!("a range of rows of a sparse table is refused")
            }
        }
        Ok(())
    }
}

/// How a push of a settled shard is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By records.
    Records,
    /// At once; its rows are recorded later.
    Images,
    /// At once, and that is all.
    Memory,
    /// It asks for the disk, and its table is not kept there.
    Refused,
}

#[inline]
pub(super) fn way_of(table: &ShardTable, header: &RequestHeader) -> Way {
    if table.goes_by_records() {
        Way::Records
    } else if table.is_imaged() && may_wait(header) {
        Way::Images
    } else if table.is_kept() {
        Way::Records
    } else if header.sync {
        Way::Refused
    } else {
        Way::Memory
    }
}

/// The session of a request of this turn.
#[inline]
pub(super) fn session_of<'a>(
    sessions: &'a [Option<ShardSession>],
    work: &Work,
) -> &'a ShardSession {
    sessions[work.session].as_ref().expect("no session ends while its requests are carried out")
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

/// One push being applied wherever it is new.
#[derive(Clone, Copy)]
struct Applying<'a> {
    admitted: &'a Admitted,
    /// The readable values of all its rows.
    values: *const u8,
    row_len: usize,
}

impl Applying<'_> {
    /// Applies consecutive rows, whose values begin at row `at` of the push.
    #[inline]
    fn dense_rows(self, table: &mut ShardTable, rows: RowRange, at: usize) {
        let ShardTable { layout, slots, rule, rows: TableRows::Dense(partitions), .. } = table
        else {
            unreachable!("rows of a dense table")
        };
        for (partition, piece) in layout.pieces_of(rows) {
            if !self.admitted.is_fresh(partition) {
                continue;
            }
            let slot = slots.find(partition).expect("rows that were checked are here");
            #[expect(clippy::cast_possible_truncation, reason = "at most ROWS_MAX rows")]
            let row = at + (piece.start - rows.start) as usize;
            let values = self.values.wrapping_add(row * self.row_len);
            // SAFETY: the push's values are readable for all of its rows, of which these are
            // `row` and following; they lie in the turn's arena, the staging area or a
            // client's memory, never in parameter memory; the kernel is the table's.
            unsafe { partitions[slot].0.apply(rule.pushed(), piece, values) };
        }
    }

    #[inline]
    fn sparse_rows(self, table: &mut ShardTable, keys: &[u64], memory: &mut u64) {
        let ShardTable { layout, slots, rule, rows: TableRows::Sparse(partitions), .. } = table
        else {
            unreachable!("rows of a sparse table")
        };
        for (at, key) in keys.iter().enumerate() {
            let partition = layout.partition_of(*key);
            if !self.admitted.is_fresh(partition) {
                continue;
            }
            let slot = slots.find(partition).expect("rows that were checked are here");
            let values = self.values.wrapping_add(at * self.row_len);
            // SAFETY: the push's values are readable for all of its rows, of which this is number
            // `at`, and lie apart from the table's slabs; the kernel is the table's.
            let applied = unsafe { partitions[slot].apply(rule.pushed(), *key, values, memory) };
            debug_assert!(applied.is_ok(), "rows were reserved");
        }
    }
}

pub(super) fn detail_of(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
