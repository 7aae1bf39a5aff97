//! What a replica knows of its log without holding it: which positions, of which epochs, how far
//! durable and how far committed.

use std::collections::VecDeque;

use windlass_wire::{Epoch, Lsn};

/// A record's name across replicas: two logs that have it agree on everything up to it, because an
/// epoch has one head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The epoch of the head that appended it.
    pub epoch: Epoch,
    /// Its place in the log; 0 is before the first record.
    pub lsn: Lsn,
}

/// Changes of epoch a replica remembers to compare logs with; older positions need a block copy.
pub const EPOCH_CHANGES_MAX: usize = 64;

/// The index of one partition's log.
#[derive(Clone, Debug)]
pub struct LogIndex {
    /// The first record still held by the engine's log (or in its segments).
    first: Lsn,
    last: Lsn,
    committed: Lsn,
    durable: Lsn,
    /// The last record that must be durable before it is committed.
    sync_last: Lsn,
    /// (epoch, its first record), oldest first. Positions before the first entry are unknown.
    epochs: VecDeque<Position>,
}

impl Default for LogIndex {
    fn default() -> Self {
        Self::new(Position::default())
    }
}

impl LogIndex {
    /// A log that continues after `start`.
    #[must_use]
    pub fn new(start: Position) -> Self {
        let mut epochs = VecDeque::with_capacity(EPOCH_CHANGES_MAX);
        epochs.push_back(start);
        Self {
            first: start.lsn.next(),
            last: start.lsn,
            committed: start.lsn,
            durable: start.lsn,
            sync_last: Lsn(0),
            epochs,
        }
    }

    /// A log recovered from disk: records from `first`, whose epochs are `epochs` (each with its first
    /// record, oldest first, at least one), up to `last`. Nothing of it is known to be committed.
    #[must_use]
    pub fn recovered(first: Lsn, last: Lsn, epochs: &[Position]) -> Self {
        assert!(!epochs.is_empty(), "a recovered log knows the epoch it starts in");
        let skip = epochs.len().saturating_sub(EPOCH_CHANGES_MAX);
        Self {
            first,
            last,
            committed: Lsn(0),
            durable: last,
            sync_last: Lsn(0),
            epochs: epochs[skip..].iter().copied().collect(),
        }
    }

    /// Takes in the next record.
    #[inline]
    pub(crate) fn push(&mut self, lsn: Lsn, epoch: Epoch, sync: bool) {
        assert_eq!(lsn, self.last.next(), "records come one by one");
        let known = self.epochs.back().expect("an index knows an epoch").epoch;
        assert!(epoch >= known, "epochs of a log never go down");
        if epoch > known {
            if self.epochs.len() == EPOCH_CHANGES_MAX {
                self.epochs.pop_front();
            }
            self.epochs.push_back(Position { epoch, lsn });
        }
        self.last = lsn;
        if sync {
            self.sync_last = lsn;
        }
    }

    /// The last record.
    #[must_use]
    #[inline]
    pub fn position(&self) -> Position {
        let epoch = self.epochs.back().expect("an index knows an epoch").epoch;
        Position { epoch, lsn: self.last }
    }

    /// Whether a log that ends with `position` is a prefix of this one, and the rest is still held.
    #[must_use]
    pub fn continues(&self, position: Position) -> bool {
        if position.lsn > self.last || position.lsn.next() < self.first {
            return false;
        }
        let known = self.epochs.iter().rev().find(|change| change.lsn <= position.lsn);
        known.is_some_and(|change| change.epoch == position.epoch)
    }

    /// How far this replica alone could let the log be committed: all of it, or, when records that
    /// must be durable are not, what is durable.
    #[must_use]
    #[inline]
    pub fn ready(&self) -> Lsn {
        if self.sync_last > self.durable { self.durable } else { self.last }
    }

    /// The first record held.
    #[must_use]
    #[inline]
    pub fn first(&self) -> Lsn {
        self.first
    }

    /// The last record.
    #[must_use]
    #[inline]
    pub fn last(&self) -> Lsn {
        self.last
    }

    /// The last record known to be on every replica.
    #[must_use]
    #[inline]
    pub fn committed(&self) -> Lsn {
        self.committed
    }

    /// The changes of epoch remembered, oldest first: what a checkpoint keeps for `recovered`.
    pub fn epochs(&self) -> impl Iterator<Item = Position> + '_ {
        self.epochs.iter().copied()
    }

    #[inline]
    pub(crate) fn commit(&mut self, lsn: Lsn) {
        assert!(lsn <= self.last, "only what is held is committed");
        self.committed = self.committed.max(lsn);
    }

    pub(crate) fn set_durable(&mut self, lsn: Lsn) {
        self.durable = self.durable.max(lsn.min(self.last));
    }

    pub(crate) fn release(&mut self, first: Lsn) {
        self.first = self.first.max(first.min(self.last.next()));
    }
}
