//! Taking pushes into their rounds.

use windlass_replication::{Admission, Push, rounds::Placed};
use windlass_wire::{Lsn, PartitionId, Status, WorkerClock};

use super::{lane_of, sum::Sum};
use crate::{
    persist::record::Covered,
    shard::{
        Shard,
        chain::{Chain, Member, Span},
        tables::ShardTable,
    },
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

impl Shard {
    /// One partition's part of pushes to a table in rounds.
    pub(in crate::shard) fn push_round(
        &mut self,
        partition: PartitionId,
        members: &[Member],
        spans: &[Span],
    ) {
        for spans in spans.chunk_by(|one, next| one.member == next.member) {
            let member = &members[spans[0].member as usize];
            match self.take_into_round(partition, member, spans) {
                Ok(Taken::In(clock)) => self.wait_for_round(partition, member, clock),
                Ok(Taken::At(lsn)) => self.wait_for_lsn(partition, member.at, lsn),
                Ok(Taken::Over) => {}
                Err(status) => self.refuse_later(member.at, status),
            }
        }
    }

    fn take_into_round(
        &mut self,
        partition: PartitionId,
        member: &Member,
        spans: &[Span],
    ) -> Result<Taken, Status> {
        let Self { tables, chain, turn, statistics, clocks: known, .. } = self;
        let chain = chain.as_mut().expect("a shard without a chain takes no pushes");
        let header = member.work.header;
        let table = tables.get_mut(&header.table).ok_or(Status::UnknownTable)?;
        let slot = table.slots.find(partition).ok_or(Status::NotHere)?;
        let ShardTable { entry, accumulator, clocks: Some(clocks), rounds: Some(rounds), .. } =
            table
        else {
            return Err(Status::NoRank);
        };
        let rank = member.rank.ok_or(Status::NoRank)?;
        clocks.live_clock(slot, rank).ok_or(Status::NoRank)?;
        let open = rounds.of(partition, clocks.closed(slot));
        if let Some(clock) = open.round_with(member.covered) {
            statistics.duplicates += 1;
            return Ok(Taken::In(clock));
        }
        // Replicas know the last push of a session that is applied, and take those before it to be.
        let last = open.last_of(member.covered).unwrap_or_default();
        let placed = open.rounds.place(header.clock.max(last));
        if let Placed::TooEarly = placed {
            // No worker that knows how far the rounds are is so far ahead: this one is to join anew.
            return Err(Status::NoRank);
        }
        if let Placed::Into(clock) = placed
            && !is_applied(chain, partition, member)
        {
            let sum = open.sums.entry(clock).or_insert_with(|| Sum::new(&entry.schema));
            sum.check_room(&turn.keys, member, spans)?;
        }
        if placed == Placed::Dropped && !is_applied(chain, partition, member) {
            // However often it comes, it is not in any sum: nothing has to be remembered of it.
            statistics.late_dropped += 1;
            return Ok(Taken::Over);
        }
        match admit(chain, partition, member)? {
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
        let Placed::Into(clock) = placed else { return Ok(Taken::Over) };
        statistics.late_folded += u64::from(header.clock <= open.rounds.closed());
        if header.clock < clock {
            open.rounds.fold(clock);
            known.unclosed = true;
        }
        let sum = open.sums.entry(clock).or_insert_with(|| Sum::new(&entry.schema));
        sum.add((&entry.schema, accumulator), &turn.keys, member, spans);
        Ok(Taken::In(clock))
    }

    fn wait_for_round(&mut self, partition: PartitionId, member: &Member, clock: WorkerClock) {
        let Some(wait) = self.begin_wait(member.at) else { return };
        let table = self.tables.get_mut(&member.work.header.table);
        let rounds = table.and_then(|table| table.rounds.as_mut());
        if let Some(open) = rounds.and_then(|rounds| rounds.open.get_mut(&partition)) {
            open.waiting.push((clock, wait));
            self.waits.add(wait);
        }
    }
}

/// Whether a push, or a later one of its session, is applied to a partition.
fn is_applied(chain: &Chain, partition: PartitionId, member: &Member) -> bool {
    let Covered { session, incarnation, sequence } = member.covered;
    let lane = lane_of(member.work.header.table);
    chain.applied(partition, session, lane) >= Some((incarnation, sequence))
}

/// Whether a push is new to a partition; from now on it is not.
fn admit(chain: &mut Chain, partition: PartitionId, member: &Member) -> Result<Admission, Status> {
    let Covered { session, incarnation, sequence } = member.covered;
    let lane = lane_of(member.work.header.table);
    let push = Push { session, incarnation, lane, sequence, previous: None };
    match chain.admit(partition, &push).ok_or(Status::NotHere)? {
        Ok(Admission::Full) => Err(Status::TooManySessions),
        Ok(Admission::Gap { .. }) => Err(Status::Full),
        Ok(Admission::StaleIncarnation) => Err(Status::Superseded),
        Ok(admission) => Ok(admission),
        Err(_) => Err(Status::StaleEpoch),
    }
}
