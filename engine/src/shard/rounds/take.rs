//! Adds pushes to their rounds.

use std::ops::Range;

use windlass_replication::{Admission, Push, rounds::Placed};
use windlass_wire::{Lsn, PartitionId, Status, WorkerClock};

use super::{lane_of, sum::Sum};
use crate::shard::{
    aggregate::PushedValues,
    chain,
    chain::Chain,
    port::Port,
    push::session_of,
    record::{Gathered, Outcome},
    tables::{ShardTable, Tables},
};

/// What becomes of one push at one partition.
enum Taken {
    /// Its rows are in this round's sum.
    In(WorkerClock),
    /// It is applied, or never will be.
    Over,
    /// It is applied by a record that may not be everywhere yet.
    At(Lsn),
}

/// One partition's part of pushes to a table in rounds.
pub(in crate::shard) fn push_round(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    gathered: &mut Gathered,
    spans: Range<usize>,
    outcomes: &[Outcome],
) {
    let partition = gathered.partition_of(&spans);
    let order = gathered.arrivals(spans.clone(), outcomes);
    for (at, leader) in &order {
        let rows = gathered.rows_of(spans.clone(), *leader);
        match take_into_round(port, tables, chain, partition, *at, rows) {
            Ok(Taken::In(clock)) => wait_for_round(port, tables, partition, *at, clock),
            Ok(Taken::At(lsn)) => chain::wait_for_lsn(port, chain, partition, *at, lsn),
            Ok(Taken::Over) => {}
            Err(status) => port.refuse_later(*at, status),
        }
    }
    gathered.order = order;
}

fn take_into_round(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    partition: PartitionId,
    at: usize,
    rows: impl Iterator<Item = (u32, u64)> + Clone,
) -> Result<Taken, Status> {
    let Port { turn, staging, sessions, statistics, .. } = port;
    let Tables { by_id: tables, clocks: known, .. } = tables;
    let work = &turn.works[at];
    let header = work.header;
    let session = session_of(sessions, work);
    let (covered, rank) = (session.covered(header.sequence), session.owner.rank);
    let values = PushedValues::of(turn, staging, work).expect("a push of rows has values");
    let push = Push { lane: lane_of(header.table), ..session.push(header.sequence) };
    let table = tables.get_mut(&header.table).ok_or(Status::UnknownTable)?;
    let slot = table.slots.find(partition).ok_or(Status::NotHere)?;
    let ShardTable { entry, accumulator, clocks: Some(clocks), rounds: Some(rounds), .. } = table
    else {
        return Err(Status::NoRank);
    };
    let rank = rank.ok_or(Status::NoRank)?;
    clocks.live_clock(slot, rank).ok_or(Status::NoRank)?;
    let open = rounds.of(partition, clocks.closed(slot));
    if let Some(clock) = open.round_with(covered) {
        statistics.duplicates += 1;
        return Ok(Taken::In(clock));
    }
    // Replicas know the last push of a session that is applied, and take those before it to be.
    let last = open.last_of(covered).unwrap_or_default();
    let placed = open.rounds.place(header.clock.max(last));
    if let Placed::TooEarly = placed {
        // No worker that knows how far the rounds are is so far ahead: this one is to join anew.
        return Err(Status::NoRank);
    }
    if let Placed::Into(clock) = placed
        && !is_applied(chain, partition, &push)
    {
        let sum = open.sums.entry(clock).or_insert_with(|| Sum::new(&entry.schema));
        sum.check_room(covered, rows.clone())?;
    }
    if placed == Placed::Dropped && !is_applied(chain, partition, &push) {
        // However often it comes, it is not in any sum: nothing has to be remembered of it.
        statistics.late_dropped += 1;
        return Ok(Taken::Over);
    }
    match admit(chain, partition, &push)? {
        Admission::Apply => {}
        Admission::Duplicate { lsn } => {
            statistics.duplicates += 1;
            return Ok(Taken::At(lsn));
        }
        // Applied, or dropped.
        _ => {
            statistics.duplicates += 1;
            return Ok(Taken::Over);
        }
    }
    let Placed::Into(clock) = placed else {
        unreachable!("a push that is new to the partition was dropped before")
    };
    statistics.late_folded += u64::from(header.clock <= open.rounds.closed());
    if header.clock < clock {
        open.rounds.fold(clock);
        known.unclosed = true;
    }
    let sum = open.sums.entry(clock).or_insert_with(|| Sum::new(&entry.schema));
    sum.add(&entry.schema, accumulator, covered, values, rows);
    Ok(Taken::In(clock))
}

fn wait_for_round(
    port: &mut Port,
    tables: &mut Tables,
    partition: PartitionId,
    at: usize,
    clock: WorkerClock,
) {
    let wait = port.begin_wait(at);
    let table = tables.by_id.get_mut(&port.turn.works[at].header.table);
    let rounds = table.and_then(|table| table.rounds.as_mut());
    let open = rounds.and_then(|rounds| rounds.open.get_mut(&partition));
    open.expect("the push is in a round of it").waiting.push((clock, wait));
    port.waits.add(wait);
}

/// Whether a push, or a later one of its session, is applied to a partition.
fn is_applied(chain: &Chain, partition: PartitionId, push: &Push) -> bool {
    let life = (push.incarnation, push.sequence);
    chain.applied(partition, push.session, push.lane) >= Some(life)
}

/// Whether a push is new to a partition; from now on it is not.
fn admit(chain: &mut Chain, partition: PartitionId, push: &Push) -> Result<Admission, Status> {
    match chain.admit(partition, push).ok_or(Status::NotHere)? {
        Ok(Admission::Full) => Err(Status::TooManySessions),
        Ok(Admission::Gap { .. }) => Err(Status::Full),
        Ok(Admission::StaleIncarnation) => Err(Status::Superseded),
        Ok(admission) => Ok(admission),
        Err(_) => Err(Status::StaleEpoch),
    }
}
