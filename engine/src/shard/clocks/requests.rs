//! How requests and sessions move clocks.

use std::time::Instant;

use windlass_wire::{
    Consistency, SessionId, Status, TableId, WorkerClock, WorkerRank, control::ClockPlace,
};

use super::Clocks;
use crate::{
    refusal::{Refusal, internal, invalid, no_mailbox, unknown_table},
    shard::{
        chain,
        chain::Chain,
        command::{Answer, shared_of},
        locate,
        port::Port,
        push::Refused,
        rounds,
        tables::{ShardTable, Tables},
    },
};

/// A session works on a table: where its clock is published, and where the worker starts.
pub(in crate::shard) fn join_clock(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    session: SessionId,
    table: TableId,
    answer: Answer<ClockPlace, Refusal>,
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
) -> Result<(Option<WorkerRank>, ClockPlace), Refusal> {
    let slot = *port.by_session.get(&session).ok_or_else(no_mailbox)?;
    let rank = port.sessions[slot].as_ref().and_then(|open| open.owner.rank);
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

/// Retires workers, so that nobody waits for them any more.
pub(in crate::shard) fn retire_workers(
    port: &mut Port,
    tables: &mut Tables,
    leaves: impl Fn(WorkerRank, SessionId) -> bool,
) {
    for table in tables.by_id.values_mut() {
        retire_from(port, &mut tables.clocks, table, &leaves);
    }
}

/// Retires workers from one table.
fn retire_from(
    port: &mut Port,
    shared: &mut Clocks,
    table: &mut ShardTable,
    leaves: impl Fn(WorkerRank, SessionId) -> bool,
) {
    let Some(clocks) = &mut table.clocks else { return };
    let (silent, retired) = clocks.retire(leaves);
    shared.silent_count -= silent;
    port.statistics.workers_retired += retired.len() as u64;
    shared.moved |= clocks.publish();
    shared.unrecorded = true;
    shared.unclosed |= table.rounds.is_some();
    table.note_workers();
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
        let clocks = table.clocks.as_ref();
        let late = clocks.map_or_else(Vec::new, |clocks| clocks.silent_for(timeout, now));
        for rank in &late {
            tracing::warn!(table = %id, rank = %rank, "worker is gone: nobody waits for it");
        }
        if !late.is_empty() {
            retire_from(port, &mut tables.clocks, table, |rank, _| late.contains(&rank));
        }
    }
}

/// A worker has finished a clock on all rows of a table.
pub(in crate::shard) fn advance_clock(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    at: usize,
) -> Result<(), Refused> {
    let work = port.turn.works[at];
    let rank = port.sessions[work.session].as_ref().and_then(|session| session.owner.rank);
    let table = tables.by_id.get(&work.header.table);
    let table = table.expect("a request that was checked has its table");
    // Where nobody is ever waited for there is nothing to do.
    if table.clocks.is_none() {
        return Ok(());
    }
    let rank = rank.ok_or(Status::NoRank)?;
    if table.rounds.is_some() {
        return rounds::finish_round(port, tables, chain, at, rank);
    }
    chain::advance_recorded(port, tables, chain, at, rank)
}

impl Tables {
    pub(in crate::shard) fn count_silent(&mut self) {
        let clocks = self.by_id.values().filter_map(|table| table.clocks.as_ref());
        self.clocks.silent_count = clocks.map(|clocks| clocks.silent_count()).sum();
    }
}

fn no_table() -> Refusal {
    unknown_table("there is no such table here")
}

fn no_clocks() -> Refusal {
    invalid("the table's workers have no clocks")
}
