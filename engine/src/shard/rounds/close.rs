//! Closes rounds that enough workers have finished, and applies them.

use windlass_replication::rounds::{Closed, Placed};
use windlass_wire::{PartitionId, Status, TableId, WorkerRank};

use super::sum::{Closing, closing_record};
use crate::{
    persist::record::Stamp,
    shard::{
        chain,
        chain::{Chain, ClosingRecord, Held},
        port::Port,
        push::Refused,
        tables::Tables,
    },
};

/// A worker of a table in rounds has finished a clock: acknowledged when its round is applied.
pub(in crate::shard) fn finish_round(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    at: usize,
    rank: WorkerRank,
) -> Result<(), Refused> {
    let header = port.turn.works[at].header;
    let (id, clock) = (header.table, header.clock);
    let led = chain::led_partitions(tables, chain, id);
    let table = tables.by_id.get_mut(&id).expect("a request that was checked has its table");
    let (Some(clocks), Some(rounds)) = (&table.clocks, &mut table.rounds) else {
        unreachable!("the table was just found to be in rounds")
    };
    for (partition, slot) in &led {
        clocks.live_clock(*slot, rank).ok_or(Status::NoRank)?;
        // No worker that knows how far the rounds are is so far ahead: this one is to join anew.
        if rounds.of(*partition, clocks.closed(*slot)).rounds.place(clock) == Placed::TooEarly {
            return Err(Status::NoRank.into());
        }
    }
    let wait = port.begin_wait(at);
    let finish = Finish { at, wait, table: id, stamp: Stamp { worker: rank, clock } };
    for (partition, slot) in led {
        finish_round_of(port, tables, chain, finish, partition, slot);
    }
    Ok(())
}

/// A request by which a worker finishes a clock: its place in the turn, and what its message waits by.
#[derive(Clone, Copy)]
struct Finish {
    at: usize,
    wait: u32,
    table: TableId,
    stamp: Stamp,
}

fn finish_round_of(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    finish: Finish,
    partition: PartitionId,
    slot: usize,
) {
    let Finish { at, wait, table: id, stamp } = finish;
    let Stamp { worker: rank, clock } = stamp;
    let table = tables.by_id.get_mut(&id).expect("a request that was checked has its table");
    let (Some(clocks), Some(rounds)) = (&mut table.clocks, &mut table.rounds) else {
        unreachable!("the table was just found to be in rounds")
    };
    let open = rounds.of(partition, clocks.closed(slot));
    if clock > open.rounds.closed() {
        open.rounds.finish(rank, clock);
        open.waiting.push((clock, wait));
        port.waits.add(wait);
        close_rounds_of(port, tables, chain, id, partition);
        return;
    }
    // Its round was closed without it.
    tables.clocks.unclosed |= open.rounds.finish(rank, clock);
    let is_news = clocks.live_clock(slot, rank).is_some_and(|known| known < clock);
    if is_news && chain::append_stamp(port, tables, chain, partition, id, stamp).is_none() {
        port.refuse_later(at, Status::StaleEpoch);
        return;
    }
    if let Some(last) = chain::last_of(chain, partition) {
        chain::wait_for_lsn(port, chain, partition, at, last);
    }
}

/// A worker that has finished a clock waits: for what closes in other partitions, perhaps.
pub(in crate::shard) fn note_idle(port: &mut Port, tables: &mut Tables, chain: &Chain, at: usize) {
    let work = port.turn.works[at];
    let (id, clock) = (work.header.table, work.header.clock);
    let rank = port.sessions[work.session].as_ref().and_then(|session| session.owner.rank);
    let (Some(rank), true) = (rank, work.header.epoch == chain.map.epoch) else { return };
    for (partition, _) in chain::led_partitions(tables, chain, id) {
        let rounds = tables.by_id.get_mut(&id).and_then(|table| table.rounds.as_mut());
        // Where nothing is open nobody waits.
        let open = rounds.and_then(|rounds| rounds.open.get_mut(&partition));
        tables.clocks.unclosed |= open.is_some_and(|open| open.rounds.idle(rank, clock));
    }
}

/// Closes what may be closed, after workers have come or gone, or late pushes have come.
pub(in crate::shard) fn close_rounds(port: &mut Port, tables: &mut Tables, chain: &mut Chain) {
    if !std::mem::take(&mut tables.clocks.unclosed) {
        return;
    }
    let in_rounds = tables.by_id.iter().filter(|(_, table)| table.rounds.is_some());
    for id in in_rounds.map(|(id, _)| *id).collect::<Vec<_>>() {
        for (partition, _) in chain::led_partitions(tables, chain, id) {
            close_rounds_of(port, tables, chain, id, partition);
        }
    }
}

fn close_rounds_of(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    id: TableId,
    partition: PartitionId,
) {
    if let Some(table) = tables.by_id.get_mut(&id) {
        table.note_workers_of(partition);
    }
    while close_next(port, tables, chain, id, partition) {}
}

/// Closes a partition's oldest round, if enough workers have finished it.
fn close_next(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    id: TableId,
    partition: PartitionId,
) -> bool {
    let (epoch, lsn) = match chain.next_record(partition) {
        Some(Ok(next)) => next,
        Some(Err(())) => {
            tables.clocks.unclosed = true;
            return false;
        }
        None => return false,
    };
    let table = tables.by_id.get_mut(&id).expect("rounds are closed of tables that are here");
    let open = table.rounds.as_mut().and_then(|rounds| rounds.open.get_mut(&partition));
    let Some(open) = open else { return false };
    let Some(Closed { clock, finished }) = open.rounds.close() else { return false };
    let (sum, waits) = (open.sums.remove(&clock), open.take_waits(clock));
    let stamps: Vec<Stamp> = finished.into_iter().map(|worker| Stamp { worker, clock }).collect();
    let closing = Closing { partition, epoch, lsn, stamps: &stamps };
    let words = closing_record(table, &closing, sum.as_ref(), |len| chain.take(len));
    port.statistics.rounds_closed += 1;
    let covered = sum.as_ref().map_or(&[][..], |sum| sum.covered());
    let held = Held { lsn, words };
    let record = ClosingRecord { table: id, partition, held, covered, waits: &waits };
    chain::append_round(port, tables, chain, record);
    true
}
