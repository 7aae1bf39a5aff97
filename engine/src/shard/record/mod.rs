//! From pushes to records. The pushes of one turn to one table become one record per partition. The record
//! holds the sum of the rows pushed, covers every push in it, and is applied from where it lies, so that what
//! is on disk, at a successor and in memory is the same.
//!
//! `gather` finds out which rows of which pushes meet, `write` makes one record and applies it.

mod fill;
mod gather;
mod write;

pub(super) use fill::copy_values;
pub(super) use gather::Gathered;
use windlass_wire::Status;

use super::{
    admitted::RowsOf,
    chain,
    chain::{Chain, is_settled},
    disk::Disk,
    durable,
    durable::Durable,
    port::Port,
    push::{Refused, session_of},
    reserve, rounds,
    tables::Tables,
    writes::Writes,
};
use crate::persist::commit::Position;

/// What came of one push: the position of the log its acknowledgement waits for, if it does.
pub(super) type Outcome = Result<Option<Position>, Refused>;

/// Pushes from which a sum is written in two parts, the first while the second is summed: of fewer, telling
/// the device takes as long as the second part.
const PART_PUSHES_MIN: usize = 4;

/// Carries out this push and later ones of the turn to the same table, by records: those of a settled
/// shard are made in its log, all others are held for whoever has to have them as well. A session's
/// pushes stay in order, whatever their tables: duplicates are told by the highest sequence.
pub(super) fn push_records(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
    writes: &mut Writes,
    first: usize,
) {
    chain.note_taken();
    let mut gathered = std::mem::take(&mut writes.gathered);
    // Whoever has a push in this turn is watched.
    let watched = port.sessions.watched().iter().copied();
    let refused = watched
        .filter(|slot| port.sessions[*slot].as_ref().is_some_and(|open| open.gate.is_closed()));
    gathered.pick(&port.turn.works, first, &port.turn.keys, refused);
    let mut outcomes = std::mem::take(&mut writes.outcomes);
    outcomes.clear();
    for member in &gathered.members {
        outcomes.push(make_ready(port, tables, chain, writes, *member).map(|()| None));
    }
    if outcomes.iter().any(Result::is_err) {
        port.refuse_behind(&gathered.members, &mut outcomes);
    }
    let table = tables.table_of(&port.turn.works[first]);
    let (is_in_rounds, is_held) = (table.rounds.is_some(), table.goes_by_records());
    gathered.cut(&port.turn.works, &port.turn.keys, &table.layout);
    if is_settled(chain) && !is_held {
        write_to_log(port, tables, chain, disk, &mut gathered, &mut outcomes);
    } else {
        let mut start = 0;
        while let Some(spans) = gathered.next_partition(start) {
            start = spans.end;
            if is_in_rounds {
                rounds::push_round(port, tables, chain, &mut gathered, spans, &outcomes);
            } else {
                write::write_record(port, tables, chain, None, &mut gathered, spans, &mut outcomes);
            }
        }
    }
    let pushes = gathered.members.len();
    port.statistics.aggregated += if pushes > 1 { pushes as u64 } else { 0 };
    for (at, outcome) in gathered.members.iter().zip(&outcomes) {
        if let Ok(position) = outcome {
            port.turn.works[*at].durable_at = *position;
        }
        port.finish_push(*at, outcome.map(|_| ()));
    }
    writes.gathered = gathered;
    writes.outcomes = outcomes;
}

/// Makes the records of pushes in the log, and applies them from there.
fn write_to_log(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
    gathered: &mut Gathered,
    outcomes: &mut [Outcome],
) {
    let refuse_all = |outcomes: &mut [Outcome], refusal| {
        outcomes.iter_mut().for_each(|outcome| *outcome = Err(refusal));
    };
    let Some(mut durable) = disk.durable.take() else {
        // The server was started without a data directory.
        return refuse_all(outcomes, Status::NotDurable.into());
    };
    durable::await_segments(port, tables, chain, &mut durable);
    if let Err(refusal) = ready_log_for(port, tables, chain, &mut durable, gathered) {
        refuse_all(outcomes, refusal);
    }
    // The records of several partitions count together: a push is on disk whole or not at all.
    let is_group = match (gathered.spans.first(), gathered.spans.last()) {
        (Some(first), Some(last)) => first.partition != last.partition,
        _ => false,
    };
    if is_group {
        durable.log_mut().begin_group();
    }
    let mut start = 0;
    let half = gathered.spans.len() / 2;
    while let Some(spans) = gathered.next_partition(start) {
        let end = spans.end;
        write::write_record(port, tables, chain, Some(&mut durable), gathered, spans, outcomes);
        if gathered.members.len() >= PART_PUSHES_MIN && start < half && end >= half {
            durable.begin_part();
        }
        start = end;
    }
    if is_group {
        let end = reserve::end_group(port, tables, chain, &mut durable).map(Some);
        for outcome in outcomes.iter_mut().filter(|outcome| matches!(outcome, Ok(Some(_)))) {
            *outcome = end;
        }
    }
    disk.durable = Some(durable);
}

impl Port {
    /// Refuses pushes behind one of their session that was refused and will be sent again.
    fn refuse_behind(&self, members: &[usize], outcomes: &mut [Outcome]) {
        let session = |member: usize| self.turn.works[member].session;
        for at in 0..members.len() {
            if outcomes[at].is_ok() {
                continue;
            }
            for (member, outcome) in members.iter().zip(&mut *outcomes) {
                if session(*member) == session(members[at]) && *member > members[at] {
                    *outcome = Err(Status::StaleEpoch.into());
                }
            }
        }
    }
}

/// Has the log take the next record of each partition that the pushes touch.
fn ready_log_for(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    durable: &mut Durable,
    gathered: &Gathered,
) -> Result<(), Refused> {
    for spans in gathered.spans.chunk_by(|one, next| one.partition == next.partition) {
        chain::ready_log(port, tables, chain, durable, spans[0].partition)?;
    }
    Ok(())
}

/// Whether a push can be carried out; makes the rows of its new keys, so that what is written can be
/// applied.
fn make_ready(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    writes: &mut Writes,
    member: usize,
) -> Result<(), Refused> {
    let Port { turn, sessions, .. } = port;
    let Writes { admitted, .. } = writes;
    let Tables { by_id: tables, memory_left, .. } = tables;
    let work = &turn.works[member];
    let table = tables.get_mut(&work.header.table).expect("a push that was checked has its table");
    if work.header.sync && !table.is_kept() {
        return Err(Status::NotDurable.into());
    }
    let rows = work.rows(&turn.keys);
    if table.rounds.is_none() {
        let push = session_of(sessions, work).push(work.header.sequence);
        admitted.look(chain, &table.layout, rows, &push)?;
    }
    match rows {
        RowsOf::Keys(keys) => table.make_rows(keys, memory_left),
        RowsOf::Range(_) => Ok(()),
    }
}
