//! What requests and sessions do to clocks, and clocks to pulls.

use std::time::Instant;

use windlass_wire::{
    Consistency, RowRange, Rows, SessionId, Status, TableId, WorkerClock, WorkerRank,
    completion::DETAIL_MAX, control::ClockPlace,
};

use super::waiting::WaitingPull;
use crate::{
    refusal,
    refusal::{internal, invalid, no_mailbox, unknown_table},
    shard::{
        chain,
        chain::{Chain, reaching},
        command::{Answer, shared_of},
        locate,
        port::Port,
        push::Refusal,
        rounds,
        tables::{ShardTable, Tables},
        work::{Values, Work},
    },
};

/// A session works on a table: where its clock is published, and where the worker starts.
pub(in crate::shard) fn join_clock(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    session: SessionId,
    table: TableId,
    answer: Answer<ClockPlace, refusal::Refusal>,
) {
    // An asker that is gone needs no answer.
    match join_here(port, tables, session, table) {
        Ok((Some(rank), place)) => {
            chain::answer_when_recorded(port, tables, chain, table, rank, place, answer)
        }
        Ok((None, place)) => drop(answer.send(Ok(place))),
        Err(refusal) => drop(answer.send(Err(refusal))),
    }
}

/// Hears a worker, of whom records will say that it has joined.
fn join_here(
    port: &mut Port,
    tables: &mut Tables,
    session: SessionId,
    table: TableId,
) -> Result<(Option<WorkerRank>, ClockPlace), refusal::Refusal> {
    let slot = *port.by_session.get(&session).ok_or_else(no_mailbox)?;
    let rank = port.sessions[slot].as_ref().and_then(|open| open.rank);
    let found = tables.by_id.get_mut(&table).ok_or_else(no_table)?;
    let clocks = found.clocks.as_mut().ok_or_else(no_clocks)?;
    if let Some(rank) = rank {
        clocks.hear_worker(rank, session).map_err(|error| invalid(error.to_string()))?;
    }
    let (region, offset) = clocks.place();
    tables.count_silent();
    let region = shared_of(locate::shared_region(port, tables, slot, region).map_err(internal)?);
    Ok((rank, ClockPlace { region, offset, clock: WorkerClock(0) }))
}

impl Tables {
    /// Takes over how far a table's workers may be apart.
    pub(in crate::shard) fn set_consistency(&mut self, table: TableId, consistency: Consistency) {
        let Some(table) = self.by_id.get_mut(&table) else { return };
        let Some(clocks) = &mut table.clocks else { return };
        table.entry.schema.consistency = consistency;
        self.clocks.moved |= clocks.set_consistency(consistency);
    }

    /// A session's connection is gone: its workers have some time to come back.
    pub(in crate::shard) fn silence_workers(&mut self, session: SessionId) {
        if !self.clocks.is_used() {
            return;
        }
        let now = Instant::now();
        for table in self.by_id.values_mut() {
            if let Some(clocks) = &mut table.clocks {
                self.clocks.silent_count += clocks.silence(session, now);
            }
        }
    }

    /// A session is back.
    pub(in crate::shard) fn hear_workers(&mut self, session: SessionId) {
        if self.clocks.silent_count == 0 {
            return;
        }
        for table in self.by_id.values_mut() {
            if let Some(clocks) = &mut table.clocks {
                self.clocks.silent_count -= clocks.hear(session);
            }
        }
    }
}

/// Nobody waits for these workers any more.
pub(in crate::shard) fn retire_workers(
    port: &mut Port,
    tables: &mut Tables,
    leaves: impl Fn(WorkerRank, SessionId) -> bool,
) {
    for table in tables.by_id.values_mut() {
        if let Some(clocks) = &mut table.clocks {
            let (silent, retired) = clocks.retire(&leaves);
            tables.clocks.silent_count -= silent;
            port.statistics.workers_retired += retired.len() as u64;
            tables.clocks.moved |= clocks.publish();
            tables.clocks.unrecorded = true;
            tables.clocks.unclosed |= table.rounds.is_some();
            table.note_workers();
        }
    }
}

/// The coordinator says that a worker is gone: `unheard` when this concerns it only where it was
/// never heard. A worker whose session is open here is not: the coordinator was cut off from it.
pub(in crate::shard) fn give_up_worker(
    port: &mut Port,
    tables: &mut Tables,
    gone: WorkerRank,
    unheard: bool,
) {
    let clocks = tables.by_id.values().filter_map(|table| table.clocks.as_ref());
    if { clocks }.any(|clocks| clocks.is_heard(gone)) {
        tracing::warn!(rank = %gone, "a worker that was given up is connected: it stays");
        return;
    }
    if !unheard {
        retire_workers(port, tables, |rank, _| rank == gone);
    }
    for table in tables.by_id.values_mut() {
        if let Some(clocks) = &mut table.clocks {
            clocks.give_up_worker(gone, unheard);
            tables.clocks.unrecorded = true;
        }
    }
}

/// Retires workers that were silent for too long.
pub(in crate::shard) fn expire_workers(port: &mut Port, tables: &mut Tables) {
    if tables.clocks.silent_count == 0 {
        return;
    }
    let (now, timeout) = (Instant::now(), tables.clocks.worker_timeout);
    for (id, table) in &mut tables.by_id {
        let Some(clocks) = &mut table.clocks else { continue };
        let late = clocks.silent_for(timeout, now);
        if late.is_empty() {
            continue;
        }
        for rank in &late {
            tracing::warn!(table = %id, rank = %rank, "worker is gone: nobody waits for it");
        }
        let (silent, retired) = clocks.retire(|rank, _| late.contains(&rank));
        tables.clocks.silent_count -= silent;
        port.statistics.workers_retired += retired.len() as u64;
        tables.clocks.moved |= clocks.publish();
        tables.clocks.unrecorded = true;
        tables.clocks.unclosed |= table.rounds.is_some();
        table.note_workers();
    }
}

/// A worker has finished a clock on all rows of a table.
pub(in crate::shard) fn advance_clock(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    at: usize,
) -> Result<(), Refusal> {
    let work = port.turn.works[at];
    let rank = port.sessions[work.session].as_ref().and_then(|session| session.rank);
    let Some(table) = tables.by_id.get(&work.header.table) else {
        return Err((Status::UnknownTable, 0));
    };
    // Where nobody is ever waited for there is nothing to do.
    if table.clocks.is_none() {
        return Ok(());
    }
    let rank = rank.ok_or((Status::NoRank, 0))?;
    if table.rounds.is_some() {
        return rounds::finish_round(port, tables, chain, at, rank);
    }
    chain::advance_recorded(port, tables, chain, at, rank)
}

/// Whether a pull has to wait for a slower worker.
pub(in crate::shard) fn must_wait(port: &Port, tables: &Tables, work: &Work) -> bool {
    let clock = work.header.clock;
    let Some(table) = tables.by_id.get(&work.header.table) else { return false };
    let Some(clocks) = &table.clocks else { return false };
    let line = clocks.line();
    if !line.must_wait(clock) {
        return false;
    }
    // Some row is behind; these may not be.
    let needed = line.needed(clock);
    let keys = &port.turn.keys[work.keys.0..work.keys.1];
    !each_piece(table, rows_of(work), keys, |slot, rows| !clocks.is_behind(slot, rows, needed))
}

/// Keeps a pull aside until the clock allows it.
pub(in crate::shard) fn park_pull(port: &mut Port, tables: &mut Tables, at: usize) {
    let work = port.turn.works[at];
    let keys = &port.turn.keys[work.keys.0..work.keys.1];
    let Some(session) = port.sessions[work.session].as_ref().map(|session| session.id) else {
        return;
    };
    if !tables.clocks.waiting.has_room(keys.len()) {
        return port.close(at, Status::TooEarly, 0);
    }
    let mut header = work.header;
    header.kind = header.kind.without_push();
    let keys = tables.clocks.waiting.copy_keys(keys);
    let (slot, number) = (work.session, work.number);
    let since = Instant::now();
    tables.clocks.waiting.push(WaitingPull { slot, session, number, header, keys, since });
    port.turn.works[at].closed = true;
    port.statistics.pulls_parked += 1;
}

/// Takes pulls that need not wait any more into the turn.
pub(in crate::shard) fn release_pulls(port: &mut Port, tables: &mut Tables) {
    if !std::mem::take(&mut tables.clocks.moved) {
        return;
    }
    for _ in 0..tables.clocks.waiting.pulls.len() {
        let Some(pull) = tables.clocks.waiting.pulls.pop_front() else { return };
        let open = port.sessions.get(pull.slot).and_then(Option::as_ref);
        if open.is_none_or(|open| open.id != pull.session) {
            tables.clocks.waiting.end(pull.keys);
            continue;
        }
        let keys_at = port.turn.keys.len();
        let has_room = port.turn.has_room(pull.keys.len() as u64 * 8);
        if has_room {
            port.turn.keys.extend_from_slice(&pull.keys);
        }
        let waited_us = u32::try_from(pull.since.elapsed().as_micros()).unwrap_or(DETAIL_MAX);
        let work = Work {
            session: pull.slot,
            number: pull.number,
            header: pull.header,
            keys: (keys_at, port.turn.keys.len()),
            values: Values::None,
            closed: false,
            durable_at: None,
            wait: None,
            pushed: false,
            waited_us: waited_us.max(1),
        };
        if !has_room || must_wait(port, tables, &work) {
            tables.clocks.moved |= !has_room;
            port.turn.keys.truncate(keys_at);
            tables.clocks.waiting.pulls.push_back(pull);
            continue;
        }
        port.turn.works.push(work);
        tables.clocks.waiting.end(pull.keys);
    }
}

/// Has the clients of pulls that wait for a round ask again, by the map that has just come.
pub(in crate::shard) fn end_parked_pulls(port: &mut Port, tables: &mut Tables) {
    for _ in 0..tables.clocks.waiting.pulls.len() {
        let Some(pull) = tables.clocks.waiting.pulls.pop_front() else { return };
        let table = tables.by_id.get(&pull.header.table);
        if table.is_some_and(|table| table.rounds.is_none()) {
            tables.clocks.waiting.pulls.push_back(pull);
            continue;
        }
        let open = port.sessions.get(pull.slot).and_then(Option::as_ref);
        if open.is_some_and(|open| open.id == pull.session) {
            port.complete(pull.slot, pull.number, Status::StaleEpoch, 0);
        }
        tables.clocks.waiting.end(pull.keys);
    }
}

impl Tables {
    /// Forgets the pulls of a session that ends.
    pub(in crate::shard) fn forget_pulls(&mut self, session: SessionId) {
        for _ in 0..self.clocks.waiting.pulls.len() {
            let Some(pull) = self.clocks.waiting.pulls.pop_front() else { return };
            if pull.session == session {
                self.clocks.waiting.end(pull.keys);
            } else {
                self.clocks.waiting.pulls.push_back(pull);
            }
        }
    }

    pub(in crate::shard) fn count_silent(&mut self) {
        let clocks = self.by_id.values().filter_map(|table| table.clocks.as_ref());
        self.clocks.silent_count = clocks.map(|clocks| clocks.silent_count()).sum();
    }
}

/// The range of a request, unless it names keys.
fn rows_of(work: &Work) -> Option<RowRange> {
    match work.header.rows {
        Rows::Range { first } => {
            Some(RowRange::new(first, first + u64::from(work.header.row_count)))
        }
        // A scan waits for nobody.
        Rows::Keys | Rows::Partition { .. } => None,
    }
}

/// Calls `piece` with each partition's slot and the rows of it that a request names, until it says
/// no. Rows at an end of their partition reach as far as there are numbers, so that a push of all of
/// a partition covers all of its clock. Returns whether it never said no.
fn each_piece(
    table: &ShardTable,
    range: Option<RowRange>,
    keys: &[u64],
    mut piece: impl FnMut(usize, RowRange) -> bool,
) -> bool {
    let is_dense = table.is_dense();
    let mut rows_piece = |rows: RowRange| {
        let partition = table.layout.partition_of(rows.start);
        let Some(slot) = table.slot(partition) else { return true };
        piece(slot, reaching(rows, is_dense, table.layout.rows_of(partition)))
    };
    if let Some(range) = range {
        return table.layout.pieces_of(range).all(|(_, rows)| rows_piece(rows));
    }
    keys.iter().all(|key| rows_piece(RowRange::new(*key, key.saturating_add(1))))
}

fn no_table() -> refusal::Refusal {
    unknown_table("there is no such table here")
}

fn no_clocks() -> refusal::Refusal {
    invalid("the table's workers have no clocks")
}
