//! From pushes to records: what a turn brings to one table becomes one record for each partition it
//! touches. The record holds the sum of the rows pushed, covers every push in it, and is applied
//! from where it lies, so that what is on disk, at a successor and in memory is the same.
//!
//! `gather` finds out which rows of which pushes meet, `write` makes one record and applies it.

mod gather;
mod write;

use windlass_wire::Status;

use super::{
    Shard,
    admitted::RowsOf,
    chain::{is_settled, ready_log},
    durable::Durable,
    push::{Refusal, session_of},
};
use crate::persist::{commit::Position, log::ReserveError};

pub(super) use {gather::Gathered, write::copy_values};

/// What came of one push: the position of the log its acknowledgement waits for, if it does.
pub(super) type Outcome = Result<Option<Position>, Refusal>;

/// Pushes from which a sum is written in two parts, the first while the second is summed: of fewer, telling
/// the device takes as long as the second part.
const PART_PUSHES_MIN: usize = 4;

impl Shard {
    /// Carries out this push and later ones of the turn to the same table, by records: those of a settled
    /// shard are made in its log, all others are held for whoever has to have them as well. A session's
    /// pushes stay in order, whatever their tables: duplicates are told by the highest sequence.
    pub(super) fn push_records(&mut self, first: usize) {
        if let Some(chain) = &mut self.chain {
            chain.note_taken();
        }
        let mut gathered = std::mem::take(&mut self.gathered);
        // Whoever has a push in this turn is watched.
        let watched = self.sessions.watched().iter().copied();
        let refused = watched
            .filter(|slot| self.sessions[*slot].as_ref().is_some_and(|open| open.gate.is_closed()));
        gathered.pick(&self.turn.works, first, &self.turn.keys, refused);
        let mut outcomes = std::mem::take(&mut self.outcomes);
        outcomes.clear();
        for member in &gathered.members {
            outcomes.push(self.make_ready(*member).map(|()| None));
        }
        if outcomes.iter().any(Result::is_err) {
            self.refuse_behind(&gathered.members, &mut outcomes);
        }
        let table = self.table_of(&self.turn.works[first]);
        let (is_in_rounds, is_held) = (table.rounds.is_some(), table.goes_by_records());
        gathered.cut(&self.turn.works, &self.turn.keys, &table.layout);
        if is_settled(self.chain.as_deref()) && !is_held {
            self.write_to_log(&mut gathered, &mut outcomes);
        } else {
            let mut start = 0;
            while let Some(spans) = gathered.next_partition(start) {
                start = spans.end;
                if is_in_rounds {
                    self.push_round(&mut gathered, spans, &outcomes);
                } else {
                    self.write_record(None, &mut gathered, spans, &mut outcomes);
                }
            }
        }
        let pushes = gathered.members.len();
        self.statistics.aggregated += if pushes > 1 { pushes as u64 } else { 0 };
        for (at, outcome) in gathered.members.iter().zip(&outcomes) {
            if let Ok(position) = outcome {
                self.turn.works[*at].durable_at = *position;
            }
            self.finish_push(*at, outcome.map(|_| ()));
        }
        self.gathered = gathered;
        self.outcomes = outcomes;
    }

    /// Makes the records of pushes in the log, and applies them from there.
    fn write_to_log(&mut self, gathered: &mut Gathered, outcomes: &mut [Outcome]) {
        let refuse_all = |outcomes: &mut [Outcome], refusal| {
            outcomes.iter_mut().for_each(|outcome| *outcome = Err(refusal));
        };
        let Some(mut durable) = self.durable.take() else {
            // The server was started without a data directory.
            return refuse_all(outcomes, (Status::NotDurable, 0));
        };
        self.await_segments(&mut durable);
        if let Err(refusal) = self.ready_log_for(&mut durable, gathered) {
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
            self.write_record(Some(&mut durable), gathered, spans, outcomes);
            if gathered.members.len() >= PART_PUSHES_MIN && start < half && end >= half {
                durable.begin_part();
            }
            start = end;
        }
        if is_group {
            let end = self.end_group(&mut durable).map(Some);
            for outcome in outcomes.iter_mut().filter(|outcome| matches!(outcome, Ok(Some(_)))) {
                *outcome = end;
            }
        }
        self.durable = Some(durable);
    }

    /// All records of the group are written: from now on its pushes wait for all of it to be on disk.
    pub(super) fn end_group(&mut self, durable: &mut Durable) -> Result<Position, Refusal> {
        loop {
            let now = durable.now();
            match durable.log_mut().end_group(now) {
                Ok(end) => return Ok(end),
                Err(ReserveError::Full(full)) => self.wait_for_room(durable, full, now),
                Err(_) => return Err((Status::Poisoned, 0)),
            }
        }
    }

    /// Refuses pushes behind one of their session that was refused and will be sent again.
    fn refuse_behind(&self, members: &[usize], outcomes: &mut [Outcome]) {
        let session = |member: usize| self.turn.works[member].session;
        for at in 0..members.len() {
            if outcomes[at].is_ok() {
                continue;
            }
            for (member, outcome) in members.iter().zip(&mut *outcomes) {
                if session(*member) == session(members[at]) && *member > members[at] {
                    *outcome = Err((Status::StaleEpoch, 0));
                }
            }
        }
    }

    /// Has the log take the next record of each partition that the pushes touch.
    fn ready_log_for(&mut self, durable: &mut Durable, gathered: &Gathered) -> Result<(), Refusal> {
        for spans in gathered.spans.chunk_by(|one, next| one.partition == next.partition) {
            ready_log(self, durable, spans[0].partition)?;
        }
        Ok(())
    }

    /// Whether a push can be carried out; makes the rows of its new keys, so that what is written can be
    /// applied.
    fn make_ready(&mut self, member: usize) -> Result<(), Refusal> {
        let Self { turn, tables, sessions, chain, admitted, memory_left, .. } = self;
        let work = &turn.works[member];
        let table =
            tables.get_mut(&work.header.table).expect("a push that was checked has its table");
        let chain = chain.as_ref().expect("a shard without a chain takes no pushes");
        if work.header.sync && !table.is_kept() {
            return Err((Status::NotDurable, 0));
        }
        let rows = work.rows(&turn.keys);
        if table.rounds.is_none() {
            let push = session_of(sessions, work).push(work.header.sequence);
            admitted.look(chain, &table.layout, rows, &push).map_err(|status| (status, 0))?;
        }
        match rows {
            RowsOf::Keys(keys) => table.make_rows(keys, memory_left),
            RowsOf::Range(_) => Ok(()),
        }
    }
}
