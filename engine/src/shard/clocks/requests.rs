//! What requests and sessions do to clocks, and clocks to pulls.

use std::time::Instant;

use windlass_wire::{
    Consistency, RowRange, Rows, SessionId, Status, TableId, WorkerClock, WorkerRank,
    completion::DETAIL_MAX, control::ClockPlace,
};

use super::waiting::WaitingPull;
use crate::{
    refusal::{self, internal, invalid, no_mailbox, unknown_table},
    shard::{
        Shard,
        chain::reaching,
        command::{Answer, shared_of},
        push::Refusal,
        tables::ShardTable,
        work::{Values, Work},
    },
};

impl Shard {
    /// A session works on a table: where its clock is published, and where the worker starts.
    pub(in crate::shard) fn join_clock(
        &mut self,
        session: SessionId,
        table: TableId,
        answer: Answer<ClockPlace, refusal::Refusal>,
    ) {
        // An asker that is gone needs no answer.
        match self.join_here(session, table) {
            Ok((Some(rank), place)) => self.answer_when_recorded(table, rank, place, answer),
            Ok((None, place)) => drop(answer.send(Ok(place))),
            Err(refusal) => drop(answer.send(Err(refusal))),
        }
    }

    /// Hears a worker, of whom records will say that it has joined.
    fn join_here(
        &mut self,
        session: SessionId,
        table: TableId,
    ) -> Result<(Option<WorkerRank>, ClockPlace), refusal::Refusal> {
        let slot = *self.by_session.get(&session).ok_or_else(no_mailbox)?;
        let rank = self.sessions[slot].as_ref().and_then(|open| open.rank);
        let found = self.tables.get_mut(&table).ok_or_else(no_table)?;
        let clocks = found.clocks.as_mut().ok_or_else(no_clocks)?;
        if let Some(rank) = rank {
            clocks.hear_worker(rank, session).map_err(|error| invalid(error.to_string()))?;
        }
        let (region, offset) = clocks.place();
        self.count_silent();
        let region = shared_of(self.shared_region(slot, region).map_err(internal)?);
        Ok((rank, ClockPlace { region, offset, clock: WorkerClock(0) }))
    }

    /// Takes over how far a table's workers may be apart.
    pub(in crate::shard) fn set_consistency(&mut self, table: TableId, consistency: Consistency) {
        let Some(table) = self.tables.get_mut(&table) else { return };
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
        for table in self.tables.values_mut() {
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
        for table in self.tables.values_mut() {
            if let Some(clocks) = &mut table.clocks {
                self.clocks.silent_count -= clocks.hear(session);
            }
        }
    }

    /// Nobody waits for these workers any more.
    pub(in crate::shard) fn retire_workers(
        &mut self,
        leaves: impl Fn(WorkerRank, SessionId) -> bool,
    ) {
        for table in self.tables.values_mut() {
            if let Some(clocks) = &mut table.clocks {
                let (silent, retired) = clocks.retire(&leaves);
                self.clocks.silent_count -= silent;
                self.statistics.workers_retired += retired.len() as u64;
                self.clocks.moved |= clocks.publish();
                self.clocks.unrecorded = true;
                self.clocks.unclosed |= table.rounds.is_some();
                table.note_workers();
            }
        }
    }

    /// The coordinator says that a worker is gone: `unheard` when this concerns it only where it was
    /// never heard. A worker whose session is open here is not: the coordinator was cut off from it.
    pub(in crate::shard) fn give_up_worker(&mut self, gone: WorkerRank, unheard: bool) {
        let clocks = self.tables.values().filter_map(|table| table.clocks.as_ref());
        if { clocks }.any(|clocks| clocks.is_heard(gone)) {
            tracing::warn!(rank = %gone, "a worker that was given up is connected: it stays");
            return;
        }
        if !unheard {
            self.retire_workers(|rank, _| rank == gone);
        }
        for table in self.tables.values_mut() {
            if let Some(clocks) = &mut table.clocks {
                clocks.give_up_worker(gone, unheard);
                self.clocks.unrecorded = true;
            }
        }
    }

    /// Retires workers that were silent for too long.
    pub(in crate::shard) fn expire_workers(&mut self) {
        if self.clocks.silent_count == 0 {
            return;
        }
        let (now, timeout) = (Instant::now(), self.clocks.worker_timeout);
        for (id, table) in &mut self.tables {
            let Some(clocks) = &mut table.clocks else { continue };
            let late = clocks.silent_for(timeout, now);
            if late.is_empty() {
                continue;
            }
            for rank in &late {
                tracing::warn!(table = %id, rank = %rank, "worker is gone: nobody waits for it");
            }
            let (silent, retired) = clocks.retire(|rank, _| late.contains(&rank));
            self.clocks.silent_count -= silent;
            self.statistics.workers_retired += retired.len() as u64;
            self.clocks.moved |= clocks.publish();
            self.clocks.unrecorded = true;
            self.clocks.unclosed |= table.rounds.is_some();
            table.note_workers();
        }
    }

    /// A worker has finished a clock on all rows of a table.
    pub(in crate::shard) fn advance_clock(&mut self, at: usize) -> Result<(), Refusal> {
        let work = self.turn.works[at];
        let rank = self.sessions[work.session].as_ref().and_then(|session| session.rank);
        let Some(table) = self.tables.get(&work.header.table) else {
            return Err((Status::UnknownTable, 0));
        };
        // Where nobody is ever waited for there is nothing to do.
        if table.clocks.is_none() {
            return Ok(());
        }
        let rank = rank.ok_or((Status::NoRank, 0))?;
        if table.rounds.is_some() {
            return self.finish_round(at, rank);
        }
        self.advance_recorded(at, rank)
    }

    /// Whether a pull has to wait for a slower worker.
    pub(in crate::shard) fn must_wait(&self, work: &Work) -> bool {
        let clock = work.header.clock;
        let Some(table) = self.tables.get(&work.header.table) else { return false };
        let Some(clocks) = &table.clocks else { return false };
        let line = clocks.line();
        if !line.must_wait(clock) {
            return false;
        }
        // Some row is behind; these may not be.
        let needed = line.needed(clock);
        let keys = &self.turn.keys[work.keys.0..work.keys.1];
        !each_piece(table, rows_of(work), keys, |slot, rows| !clocks.is_behind(slot, rows, needed))
    }

    /// Keeps a pull aside until the clock allows it.
    pub(in crate::shard) fn park_pull(&mut self, at: usize) {
        let work = self.turn.works[at];
        let keys = &self.turn.keys[work.keys.0..work.keys.1];
        let Some(session) = self.sessions[work.session].as_ref().map(|session| session.id) else {
            return;
        };
        if !self.clocks.waiting.has_room(keys.len()) {
            return self.close(at, Status::TooEarly, 0);
        }
        let mut header = work.header;
        header.kind = header.kind.without_push();
        let keys = self.clocks.waiting.copy_keys(keys);
        let (slot, number) = (work.session, work.number);
        let since = Instant::now();
        self.clocks.waiting.push(WaitingPull { slot, session, number, header, keys, since });
        self.turn.works[at].closed = true;
        self.statistics.pulls_parked += 1;
    }

    /// Takes pulls that need not wait any more into the turn.
    pub(in crate::shard) fn release_pulls(&mut self) {
        if !std::mem::take(&mut self.clocks.moved) {
            return;
        }
        for _ in 0..self.clocks.waiting.pulls.len() {
            let Some(pull) = self.clocks.waiting.pulls.pop_front() else { return };
            let open = self.sessions.get(pull.slot).and_then(Option::as_ref);
            if open.is_none_or(|open| open.id != pull.session) {
                self.clocks.waiting.end(pull.keys);
                continue;
            }
            let keys_at = self.turn.keys.len();
            let has_room = self.turn.has_room(pull.keys.len() as u64 * 8);
            if has_room {
                self.turn.keys.extend_from_slice(&pull.keys);
            }
            let waited_us = u32::try_from(pull.since.elapsed().as_micros()).unwrap_or(DETAIL_MAX);
            let work = Work {
                session: pull.slot,
                number: pull.number,
                header: pull.header,
                keys: (keys_at, self.turn.keys.len()),
                values: Values::None,
                closed: false,
                durable_at: None,
                wait: None,
                pushed: false,
                waited_us: waited_us.max(1),
            };
            if !has_room || self.must_wait(&work) {
                self.clocks.moved |= !has_room;
                self.turn.keys.truncate(keys_at);
                self.clocks.waiting.pulls.push_back(pull);
                continue;
            }
            self.turn.works.push(work);
            self.clocks.waiting.end(pull.keys);
        }
    }

    /// Has the clients of pulls that wait for a round ask again, by the map that has just come.
    pub(in crate::shard) fn end_parked_pulls(&mut self) {
        for _ in 0..self.clocks.waiting.pulls.len() {
            let Some(pull) = self.clocks.waiting.pulls.pop_front() else { return };
            let table = self.tables.get(&pull.header.table);
            if table.is_some_and(|table| table.rounds.is_none()) {
                self.clocks.waiting.pulls.push_back(pull);
                continue;
            }
            let open = self.sessions.get(pull.slot).and_then(Option::as_ref);
            if open.is_some_and(|open| open.id == pull.session) {
                self.complete(pull.slot, pull.number, Status::StaleEpoch, 0);
            }
            self.clocks.waiting.end(pull.keys);
        }
    }

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
        let clocks = self.tables.values().filter_map(|table| table.clocks.as_ref());
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
