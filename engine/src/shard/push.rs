//! Carrying out pushes: check everything, then apply. A push is applied whole or not at all.
#![allow(unsafe_code)]

use windlass_wire::{RequestHeader, RequestKind, RowRange, Rows, Status, rule::Merge};

use super::{
    admitted::{Admitted, RowsOf},
    aggregate, chain,
    chain::{Chain, is_settled},
    clocks,
    disk::Disk,
    durable, image,
    image::may_wait,
    port::Port,
    record, rounds,
    scan::check_scan,
    session::ShardSession,
    tables::{ShardTable, TableRows, Tables},
    work::{Work, values_pointer},
    writes::Writes,
};
use crate::limits::KEYS_FETCHED_AHEAD;

/// A request that is refused: the completion's status, and which row or key is at fault, if one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: Status,
    pub(super) detail: u32,
}

impl Refused {
    /// Refused for the row or key at this index.
    pub(super) fn at(status: Status, index: usize) -> Self {
        Self { status, detail: u32::try_from(index).unwrap_or(u32::MAX) }
    }
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self { status, detail: 0 }
    }
}

/// Carries out every push of the turn and completes it.
pub(super) fn push_all(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
    writes: &mut Writes,
) {
    for at in 0..port.turn.works.len() {
        if port.turn.works[at].closed {
            continue;
        }
        let checked =
            port.check_order(at).and_then(|()| check(port, tables, chain, &port.turn.works[at]));
        if let Err(Refused { status, detail }) = checked {
            port.close(at, status, detail);
        }
    }
    let is_settled = is_settled(chain);
    if !is_settled && chain::push_alone(port, tables, chain) {
        return;
    }
    for at in 0..port.turn.works.len() {
        let work = &port.turn.works[at];
        let only_pulls = work.header.kind.pulls() && !work.header.kind.pushes();
        if work.closed || work.pushed || only_pulls {
            continue;
        }
        if port.is_behind_refused(at) {
            port.close(at, Status::StaleEpoch, 0);
            continue;
        }
        let work = &port.turn.works[at];
        if !work.header.kind.pushes() {
            let work = *work;
            match carry_out_other(port, tables, chain, at, &work) {
                Ok(()) => port.close(at, Status::Done, 0),
                Err(Refused { status, detail }) => port.close(at, status, detail),
            }
            continue;
        }
        if !is_settled {
            record::push_records(port, tables, chain, disk, writes, at);
            continue;
        }
        match way_of(tables.table_of(work), &work.header) {
            Way::Records => record::push_records(port, tables, chain, disk, writes, at),
            Way::Refused => port.close(at, Status::NotDurable, 0),
            Way::Images if durable::is_poisoned(disk) => port.close(at, Status::Poisoned, 0),
            Way::Images => {
                let (table, rows) = (work.header.table, port.statistics.rows_pushed);
                push_straight(port, tables, chain, writes, at);
                image::note_imaged(
                    port,
                    tables,
                    chain,
                    disk,
                    table,
                    port.statistics.rows_pushed - rows,
                );
            }
            Way::Memory => push_straight(port, tables, chain, writes, at),
        }
    }
}

/// Carries out a push that takes no record, with others of its table where its rule is for their sum.
fn push_straight(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    writes: &mut Writes,
    at: usize,
) {
    if needs_sum(port, tables, at) {
        aggregate::push_sum(port, tables, chain, writes, at);
    } else {
        let outcome = push_one(port, tables, chain, writes, at);
        port.finish_push(at, outcome);
    }
}

/// Carries out a request that neither pushes nor pulls.
pub(super) fn carry_out_other(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    at: usize,
    work: &Work,
) -> Result<(), Refused> {
    if work.header.kind == RequestKind::AdvanceClock && tables.clocks.is_used() {
        return clocks::advance_clock(port, tables, chain, at);
    }
    if work.header.kind == RequestKind::Idle {
        rounds::note_idle(port, tables, chain, at);
    }
    Ok(())
}

/// Checks a request against its table, its session and the map, before anything is touched.
fn check(port: &Port, tables: &Tables, chain: &Chain, work: &Work) -> Result<(), Refused> {
    let header = &work.header;
    if header.kind == RequestKind::Idle {
        // By another map it says nothing, and comes again.
        return Ok(());
    }
    // The partitions' chains say how old a map may be.
    if header.epoch > chain.map.epoch {
        return Err(Status::StaleEpoch.into());
    }
    if header.kind == RequestKind::Nothing {
        return Ok(());
    }
    let Some(table) = tables.by_id.get(&header.table) else {
        // Other servers may know it before this one is told of it.
        let is_awaited = chain.map.servers.len() > 1 && tables.awaits_table(header.table);
        return Err(if is_awaited { Status::StaleEpoch } else { Status::UnknownTable }.into());
    };
    // What waits for a round under one map is asked for again under the next.
    if table.rounds.is_some() && header.epoch != chain.map.epoch {
        return Err(Status::StaleEpoch.into());
    }
    let says_clock = header.kind.pushes() || header.kind == RequestKind::AdvanceClock;
    if says_clock && table.clocks.as_ref().is_some_and(|clocks| clocks.is_too_far(header.clock)) {
        return Err(Status::ClockTooFar.into());
    }
    if header.kind == RequestKind::AdvanceClock {
        let stale = table.clocks.is_some() && chain::is_clock_stale(chain, header.epoch);
        return if stale { Err(Status::StaleEpoch.into()) } else { Ok(()) };
    }
    let schema = &table.entry.schema;
    if header.dtype != schema.dtype {
        return Err(Status::WrongDtype.into());
    }
    if let Rows::Partition { partition, columns, .. } = header.rows {
        check_scan(table, partition, columns, header.width)?;
        return chain::check_chains(port, chain, table, work);
    }
    if header.width != schema.width {
        return Err(Status::WrongWidth.into());
    }
    match header.rows {
        Rows::Range { first } => {
            table.check_range(first, u64::from(header.row_count))?;
        }
        Rows::Keys => table.check_keys(&port.turn.keys[work.keys.0..work.keys.1])?,
        Rows::Partition { .. } => unreachable!("checked above"),
    }
    if let (Some(scan), Some(values)) = (&table.scan, port.values_pointer(work)) {
        let (rows, width) = (header.row_count as usize, header.width as usize);
        // SAFETY: `values_pointer` points to the readable values of all the rows.
        if !unsafe { scan.is_finite(values, rows * width) } {
            let row_len = width * header.dtype.size();
            let bad = (0..rows).find(|row| {
                // SAFETY: as above, one row of them.
                !unsafe { scan.is_finite(values.wrapping_add(row * row_len), width) }
            });
            return Err(Refused::at(Status::NotFinite, bad.unwrap_or(0)));
        }
    }
    chain::check_chains(port, chain, table, work)
}

impl Port {
    /// Pointer to a push's values: as many as its header says, readable for the rest of the turn.
    pub(super) fn values_pointer(&self, work: &Work) -> Option<*const u8> {
        values_pointer(&self.turn, &self.staging, work)
    }
}

/// Whether other pushes of this turn hit the same table, and its rule is for their sum.
fn needs_sum(port: &Port, tables: &Tables, at: usize) -> bool {
    if at + 1 == port.turn.works.len() {
        return false;
    }
    let work = &port.turn.works[at];
    let (table, rule) = (work.header.table, &tables.table_of(work).entry.schema.rule);
    rule.merge() == Merge::Sum
        && !rule.is_linear()
        && port.turn.works[at + 1..]
            .iter()
            .any(|work| !work.closed && work.header.kind.pushes() && work.header.table == table)
}

/// Applies one push directly.
fn push_one(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    writes: &mut Writes,
    at: usize,
) -> Result<(), Refused> {
    let work = &port.turn.works[at];
    // One of no rows.
    let Some(values) = values_pointer(&port.turn, &port.staging, work) else { return Ok(()) };
    let Port { sessions, .. } = port;
    let Writes { admitted, .. } = writes;
    let Tables { by_id: tables, memory_left, .. } = tables;
    let table = tables.get_mut(&work.header.table).expect("a push that was checked has its table");
    let session = session_of(sessions, work);
    let rows = work.rows(&port.turn.keys);
    if let RowsOf::Keys(keys) = rows {
        table.make_rows(keys, memory_left)?;
    }
    let push = session.push(work.header.sequence);
    let admission = admitted.admit(chain, &table.layout, rows, (work.session, &push));
    port.statistics.duplicates += u64::from(admission?);
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
            applying.sparse_rows(table, keys);
        }
        (TableRows::Sparse(_), RowsOf::Range(_)) => {
            unreachable!("a range of rows of a sparse table is refused")
        }
    }
    Ok(())
}

/// How a push of a settled shard is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Writes records.
    Records,
    /// Applies at once; images of the rows are recorded later.
    Images,
    /// Applies at once and records nothing.
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

    /// Applies rows whose places the table has just found.
    #[inline]
    fn sparse_rows(self, table: &mut ShardTable, keys: &[u64]) {
        let layout = table.layout;
        let (partitions, places, rule) = table.places();
        assert_eq!(keys.len(), places.len(), "a place for each key");
        for (at, (key, place)) in keys.iter().zip(places).enumerate() {
            if let Some(ahead) = places.get(at + KEYS_FETCHED_AHEAD) {
                partitions[ahead.partition].fetch_row(ahead.row);
            }
            if !self.admitted.is_fresh_to_all()
                && !self.admitted.is_fresh(layout.partition_of(*key))
            {
                continue;
            }
            let values = self.values.wrapping_add(at * self.row_len);
            let row = (*key, place.row);
            // SAFETY: the push's values are readable for all of its rows, of which this is number
            // `at`, and lie apart from the table's slabs; the kernel is the table's.
            unsafe { partitions[place.partition].apply_at(rule.pushed(), row, values) };
        }
    }
}
