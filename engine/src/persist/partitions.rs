//! Per partition of a log: the last LSN, the last on disk, and what the successor has.

use windlass_wire::{Lsn, PartitionId};

use super::limits::{PARTITION_NUMBER_MAX, PARTITIONS_PER_LOG_MAX};

const ABSENT: u32 = u32::MAX;

/// The partitions of one log, found by number in constant time.
#[derive(Debug)]
pub(crate) struct Partitions {
    index: Vec<u32>,
    states: Vec<State>,
    held_count: usize,
}

#[derive(Debug)]
struct State {
    partition: PartitionId,
    last: Lsn,
    durable: Lsn,
    /// What the successor has, while there is one.
    replicated: Option<Lsn>,
}

impl Partitions {
    pub(crate) fn new() -> Self {
        Self { index: Vec::new(), states: Vec::new(), held_count: 0 }
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
        self.states.push(State { partition, last, durable: last, replicated: None });
    }

    pub(crate) fn remove(&mut self, partition: PartitionId) {
        let Some(at) = self.find(partition) else { return };
        self.hold(partition, None);
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

    pub(crate) fn durable(&self, partition: PartitionId) -> Lsn {
        self.state(partition).map_or(Lsn(0), |state| state.durable)
    }

    pub(crate) fn advance(&mut self, partition: PartitionId, lsn: Lsn) {
        if let Some(state) = self.state_mut(partition) {
            state.last = lsn;
        }
    }

    pub(crate) fn set_durable(&mut self, partition: PartitionId, lsn: Lsn) {
        if let Some(state) = self.state_mut(partition) {
            state.durable = lsn;
        }
    }

    pub(crate) fn hold(&mut self, partition: PartitionId, replicated: Option<Lsn>) {
        let Some(state) = self.state_mut(partition) else { return };
        let before = state.replicated.is_some();
        state.replicated = replicated;
        match (before, replicated.is_some()) {
            (false, true) => self.held_count += 1,
            (true, false) => self.held_count -= 1,
            _ => {}
        }
    }

    pub(crate) fn any_held(&self) -> bool {
        self.held_count > 0
    }

    /// Whether the successor still needs this record.
    pub(crate) fn holds(&self, partition: PartitionId, lsn: Lsn) -> bool {
        self.state(partition)
            .and_then(|state| state.replicated)
            .is_some_and(|replicated| lsn > replicated)
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
        partitions.hold(PartitionId(4), Some(Lsn(3)));
        assert!(partitions.holds(PartitionId(4), Lsn(4)));
        partitions.remove(PartitionId(4));
        assert!(!partitions.any_held());
        assert_eq!(partitions.last(PartitionId(17)), Lsn(17));
        assert_eq!(partitions.last(PartitionId(900)), Lsn(900));
        assert!(!partitions.contains(PartitionId(4)));
    }
}
