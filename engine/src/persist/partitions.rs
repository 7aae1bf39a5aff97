//! Per partition of a log: the last LSN.

use windlass_wire::{Lsn, PartitionId};

use super::limits::{PARTITION_NUMBER_MAX, PARTITIONS_PER_LOG_MAX};

const ABSENT: u32 = u32::MAX;

/// The partitions of one log, found by number in constant time.
#[derive(Debug)]
pub(crate) struct Partitions {
    index: Vec<u32>,
    states: Vec<State>,
}

#[derive(Debug)]
struct State {
    partition: PartitionId,
    last: Lsn,
}

impl Partitions {
    pub(crate) fn new() -> Self {
        Self { index: Vec::new(), states: Vec::new() }
    }

    pub(crate) fn add(&mut self, partition: PartitionId, last: Lsn) {
        assert!(partition.0 < PARTITION_NUMBER_MAX, "partition {partition} is out of bounds");
        assert!(self.states.len() < PARTITIONS_PER_LOG_MAX, "too many partitions for one log");
        assert!(!self.contains(partition), "partition {partition} was added twice");
        let slot = usize::try_from(partition.0).expect("bounded above");
        if self.index.len() <= slot {
            self.index.resize(slot + 1, ABSENT);
        }
        self.index[slot] = u32::try_from(self.states.len()).expect("bounded above");
        self.states.push(State { partition, last });
    }

    pub(crate) fn remove(&mut self, partition: PartitionId) {
        let Some(at) = self.find(partition) else { return };
        self.states.swap_remove(at);
        self.index[partition.0 as usize] = ABSENT;
        if let Some(moved) = self.states.get(at) {
            self.index[moved.partition.0 as usize] = u32::try_from(at).expect("bounded in add");
        }
    }

    pub(crate) fn contains(&self, partition: PartitionId) -> bool {
        self.find(partition).is_some()
    }

    pub(crate) fn count(&self) -> usize {
        self.states.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PartitionId, Lsn)> + '_ {
        self.states.iter().map(|state| (state.partition, state.last))
    }

    pub(crate) fn last(&self, partition: PartitionId) -> Lsn {
        self.state(partition).map_or(Lsn(0), |state| state.last)
    }

    pub(crate) fn advance(&mut self, partition: PartitionId, lsn: Lsn) {
        if let Some(state) = self.state_mut(partition) {
            state.last = lsn;
        }
    }

    fn find(&self, partition: PartitionId) -> Option<usize> {
        let at = *self.index.get(partition.0 as usize)?;
        (at != ABSENT).then_some(at as usize)
    }

    fn state(&self, partition: PartitionId) -> Option<&State> {
        self.find(partition).map(|at| &self.states[at])
    }

    fn state_mut(&mut self, partition: PartitionId) -> Option<&mut State> {
        self.find(partition).map(|at| &mut self.states[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_keeps_the_others_findable() {
        let mut partitions = Partitions::new();
        for number in [4, 900, 17] {
            partitions.add(PartitionId(number), Lsn(u64::from(number)));
        }
        partitions.remove(PartitionId(4));
        assert_eq!(partitions.last(PartitionId(17)), Lsn(17));
        assert_eq!(partitions.last(PartitionId(900)), Lsn(900));
        assert!(!partitions.contains(PartitionId(4)));
    }
}
