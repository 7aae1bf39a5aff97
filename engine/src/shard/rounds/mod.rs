//! Tables in rounds. The pushes of one worker clock are summed until all live workers, or a quorum of them,
//! have finished it; the sum is applied once. A push is acknowledged when its round is applied, on every
//! replica; until then it is in the sums of one server alone, and its client keeps it.

mod close;
mod sum;
mod take;
mod wait;

use std::collections::BTreeMap;

use windlass_replication::{
    Lane, Rounds,
    rounds::{Late, Quorum},
};
use windlass_wire::{Aggregation, PartitionId, TableId, WorkerClock};

use self::sum::Sum;
pub(super) use self::{
    close::{close_rounds, finish_round, note_idle},
    take::push_round,
    wait::{drop_rounds, end_round_waits, forget_round_waits, give_up_rounds},
};
use super::tables::ShardTable;
use crate::{limits::ROUNDS_OPEN_MAX, persist::record::Covered};

/// Bit of a record's tag: it closes its partition's next round.
pub(in crate::shard) const CLOSES: u16 = 2;

/// The lane of a table's pushes: they wait while later ones to other tables are applied.
pub(in crate::shard) const fn lane_of(table: TableId) -> Lane {
    Lane(table.0)
}

/// The open rounds of a table's partitions that this server leads.
#[derive(Debug)]
pub(in crate::shard) struct TableRounds {
    quorum: Quorum,
    late: Late,
    open: BTreeMap<PartitionId, OpenRounds>,
}

/// Those of one partition.
#[derive(Debug)]
struct OpenRounds {
    rounds: Rounds,
    sums: BTreeMap<WorkerClock, Sum>,
    /// Messages that wait for a clock's round.
    waiting: Vec<(WorkerClock, u32)>,
}

impl TableRounds {
    /// Nothing is open.
    pub(in crate::shard) fn new(aggregation: Aggregation) -> Option<Self> {
        let Aggregation::Rounds { quorum, fold_late } = aggregation else { return None };
        Some(Self {
            quorum: if quorum == 0 { Quorum::All } else { Quorum::AtLeast(quorum) },
            late: if fold_late { Late::Fold } else { Late::Drop },
            open: BTreeMap::new(),
        })
    }

    /// The rounds of a partition, which are open after `closed`.
    fn of(&mut self, partition: PartitionId, closed: WorkerClock) -> &mut OpenRounds {
        let (quorum, late) = (self.quorum, self.late);
        self.open.entry(partition).or_insert_with(|| OpenRounds {
            rounds: Rounds::new(quorum, late, closed, ROUNDS_OPEN_MAX),
            sums: BTreeMap::new(),
            waiting: Vec::new(),
        })
    }
}

impl OpenRounds {
    /// The round whose sum has a push of a session, or one after it.
    fn round_with(&self, push: Covered) -> Option<WorkerClock> {
        let mut sums = self.sums.iter();
        sums.find(|(_, sum)| sum.has(push)).map(|(clock, _)| *clock)
    }

    /// The last round in which a session has pushed.
    fn last_of(&self, push: Covered) -> Option<WorkerClock> {
        let mut sums = self.sums.iter().rev();
        sums.find(|(_, sum)| sum.has_pushes_of(push)).map(|(clock, _)| *clock)
    }

    /// Takes out the messages that wait for a round or one before it.
    fn take_waits(&mut self, clock: WorkerClock) -> Vec<u32> {
        let mut over = Vec::new();
        self.waiting.retain(|(at, wait)| {
            if *at <= clock {
                over.push(*wait);
            }
            *at > clock
        });
        over
    }
}

impl ShardTable {
    /// Has a partition's rounds wait for those whom its clock says are live.
    pub(in crate::shard) fn note_workers_of(&mut self, partition: PartitionId) {
        let slot = self.slots.find(partition);
        let (Some(slot), Some(clocks), Some(rounds)) = (slot, &self.clocks, &mut self.rounds)
        else {
            return;
        };
        if let Some(open) = rounds.open.get_mut(&partition) {
            clocks.workers(slot).for_each(|(rank, live)| open.rounds.set_live(rank, live));
        }
    }

    /// Whether a push to one of these keys waits for its round in a partition.
    pub(in crate::shard) fn has_open_sum_of(&self, partition: PartitionId, keys: &[u64]) -> bool {
        let open = self.rounds.as_ref().and_then(|rounds| rounds.open.get(&partition));
        let mut sums = open.into_iter().flat_map(|open| open.sums.values());
        sums.any(|sum| keys.iter().any(|key| sum.has_row(*key)))
    }

    /// Tells the rounds of all partitions that workers came or went.
    pub(in crate::shard) fn note_workers(&mut self) {
        let open = self.rounds.iter().flat_map(|rounds| rounds.open.keys().copied());
        for partition in open.collect::<Vec<_>>() {
            self.note_workers_of(partition);
        }
    }
}
