//! A table's clocks: one range clock per partition, moved only by its chain's records, so on every replica it
//! matches the rows. Which workers were heard lately is known to this server alone; a head decides by it what
//! to record.

use windlass_replication::{RangeClock, RangeClockLimits};
use windlass_wire::{RowRange, SessionId, WorkerClock, WorkerRank};

use super::{
    members::{JoinError, Member, latest},
    table::{SlotClock, TableClocks},
};
use crate::persist::clocks::WorkerEvent;

impl TableClocks {
    /// Rows of a partition are not current from now on, or are about to become it: whoever reads them
    /// then sees how far they are.
    pub(in crate::shard) fn hide(&mut self, slot: usize, hidden: bool) {
        if let Some(clock) = self.clocks.get_mut(slot) {
            self.is_stale |= clock.hidden != hidden;
            let is_gained = clock.hidden && !hidden;
            clock.hidden = hidden;
            if !hidden && let Some(minimum) = clock.minimum(self.in_rounds) {
                self.published.lower(minimum);
            }
            if is_gained {
                self.published.gain();
            }
        }
    }

    /// A partition begins anew, until a copy says where it is.
    pub(in crate::shard) fn clear(&mut self, slot: usize) {
        if let Some(clock) = self.clocks.get_mut(slot) {
            *clock = SlotClock { hidden: clock.hidden, ..SlotClock::new() };
            self.is_stale = true;
        }
    }

    /// A session is heard as the table's worker `rank`; heads record it.
    pub(in crate::shard) fn hear_worker(
        &mut self,
        rank: WorkerRank,
        session: SessionId,
    ) -> Result<(), JoinError> {
        let known = self.members.get(&rank).filter(|member| member.live);
        if known.is_some_and(|known| known.session != session && known.silent_since.is_none()) {
            return Err(JoinError::Taken { rank });
        }
        let member = Member { session, live: true, silent_since: None };
        self.members.insert(rank, member);
        Ok(())
    }

    /// The coordinator says that a worker is gone: `unheard` when this concerns only one that was
    /// never heard here.
    pub(in crate::shard) fn give_up_worker(&mut self, rank: WorkerRank, unheard: bool) {
        let gone = Member { session: SessionId(0), live: false, silent_since: None };
        let member = self.members.entry(rank).or_insert(gone);
        if !unheard {
            (member.live, member.silent_since) = (false, None);
        }
    }

    /// What the head of these slots' partitions has to record, so that records say what was heard.
    pub(in crate::shard) fn unrecorded(&self, heads: &[usize]) -> Vec<(usize, WorkerEvent)> {
        let mut events = Vec::new();
        let ranges = || heads.iter().map(|slot| (*slot, &self.clocks[*slot].range));
        for (&rank, member) in &self.members {
            if !member.live {
                let live = ranges().filter(|(_, range)| range.is_live(rank));
                events.extend(live.map(|(slot, _)| (slot, WorkerEvent::Retired { rank })));
            } else if ranges().any(|(_, range)| !range.is_live(rank)) {
                // Its own last clock, or that of the slowest if it is later; where nobody is live,
                // the latest anybody had.
                let floor = ranges().filter_map(|(_, range)| range.minimum()).min();
                let floor = floor.or_else(|| ranges().filter_map(|(_, range)| latest(range)).max());
                let own = ranges().map(|(_, range)| range.least_of(rank)).max();
                let closed = heads.iter().map(|slot| self.closed(*slot)).max();
                let clock = own.max(floor).max(closed).unwrap_or_default();
                let joined = WorkerEvent::Joined { rank, session: member.session, clock };
                let dead = ranges().filter(|(_, range)| !range.is_live(rank));
                events.extend(dead.map(|(slot, _)| (slot, joined)));
            }
        }
        events
    }

    /// Whether a worker is waited for in a partition, and the clock it has finished there.
    pub(in crate::shard) fn live_clock(
        &self,
        slot: usize,
        rank: WorkerRank,
    ) -> Option<WorkerClock> {
        let range = &self.clocks.get(slot)?.range;
        range.is_live(rank).then(|| range.least_of(rank))
    }

    /// The clock a worker that joined here starts from: the least it has in these slots.
    pub(in crate::shard) fn start_of(&self, heads: &[usize], rank: WorkerRank) -> WorkerClock {
        let known = heads.iter().filter_map(|slot| self.live_clock(*slot, rank)).min();
        // Other servers' shards are heads, and say it.
        known.unwrap_or_else(|| {
            let ranges = self.clocks.iter().map(|slot| &slot.range);
            ranges.map(|range| range.least_of(rank)).max().unwrap_or_default()
        })
    }

    /// A record says something of a worker.
    pub(in crate::shard) fn apply_event(&mut self, slot: usize, event: WorkerEvent) {
        let clock = &mut self.clocks[slot];
        self.is_stale = true;
        match event {
            WorkerEvent::Joined { rank, session, clock: at } => {
                // A clock without room waits for nobody new; it is the same on every replica.
                let revived = clock.range.revive(rank, at);
                debug_assert!(revived.is_ok(), "members are bounded");
                // What was heard of an earlier life of the worker is over.
                if self
                    .members
                    .get(&rank)
                    .is_some_and(|known| !known.live && known.session != session)
                {
                    self.members.remove(&rank);
                }
            }
            WorkerEvent::Retired { rank } => clock.range.retire(rank),
        }
    }

    /// A record's stamp: a worker has pushed rows of a partition.
    pub(in crate::shard) fn apply_stamp(
        &mut self,
        slot: usize,
        rank: WorkerRank,
        rows: RowRange,
        clock: WorkerClock,
    ) {
        let slot = &mut self.clocks[slot];
        let stamped = slot.range.tick(rank, rows, clock);
        debug_assert!(stamped.is_ok(), "heads stamp for workers that joined");
        self.is_stale = true;
    }

    /// A round of a partition is applied, and all before it.
    pub(in crate::shard) fn close_round(&mut self, slot: usize, clock: WorkerClock) {
        let slot = &mut self.clocks[slot];
        slot.closed = slot.closed.max(clock);
        self.is_stale = true;
    }

    /// The last round of a partition that is applied.
    pub(in crate::shard) fn closed(&self, slot: usize) -> WorkerClock {
        self.clocks[slot].closed
    }

    /// The workers of a partition, and whether each is waited for.
    pub(in crate::shard) fn workers(
        &self,
        slot: usize,
    ) -> impl Iterator<Item = (WorkerRank, bool)> + '_ {
        self.clocks[slot].range.workers()
    }

    /// A partition's clock, for a learner:
    ///
    /// ```text
    /// 0              8
    /// | closed round | range clock ...
    /// ```
    pub(in crate::shard) fn encode_slot(&self, slot: usize, into: &mut Vec<u8>) {
        let clock = &self.clocks[slot];
        into.extend_from_slice(&clock.closed.0.to_le_bytes());
        clock.range.encode(into);
    }

    /// Takes a partition's clock over from another replica; false when the bytes are none.
    pub(in crate::shard) fn decode_slot(&mut self, slot: usize, bytes: &[u8]) -> bool {
        let Some((closed, bytes)) = bytes.split_first_chunk() else { return false };
        if !self.restore_slot(slot, bytes) {
            return false;
        }
        self.clocks[slot].closed = WorkerClock(u64::from_le_bytes(*closed));
        true
    }

    /// Takes a range clock over as a partition's; false when the bytes are none.
    pub(in crate::shard) fn restore_slot(&mut self, slot: usize, bytes: &[u8]) -> bool {
        let Ok(range) = RangeClock::decode(bytes, RangeClockLimits::default()) else {
            return false;
        };
        self.clocks[slot].range = range;
        self.is_stale = true;
        true
    }
}
