//! When a push may be acknowledged, and the acknowledgements that wait for the disk.

use std::{collections::VecDeque, time::Duration};

/// What an acknowledgement promises about the disk. What it promises about the chain comes on top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Nothing: the record is written sooner or later.
    #[default]
    Memory,
    /// At most this much acknowledged work is lost in a power cut, in milliseconds.
    Interval(u32),
    /// On disk before the acknowledgement.
    Sync,
}

impl Durability {
    /// The one that promises more: a push may ask for more than its table's default.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        match (self, other) {
            (Self::Sync, _) | (_, Self::Sync) => Self::Sync,
            (Self::Interval(a), Self::Interval(b)) => Self::Interval(a.min(b)),
            (Self::Interval(a), Self::Memory) | (Self::Memory, Self::Interval(a)) => {
                Self::Interval(a)
            }
            (Self::Memory, Self::Memory) => Self::Memory,
        }
    }

    /// How long a record may stay in the ring before it is written; `None` for no bound.
    #[must_use]
    pub fn delay_max(self) -> Option<Duration> {
        match self {
            Self::Memory => None,
            Self::Interval(ms) => Some(Duration::from_millis(u64::from(ms))),
            Self::Sync => Some(Duration::ZERO),
        }
    }

    /// Whether acknowledgements wait for the disk.
    #[must_use]
    pub fn waits(self) -> bool {
        self == Self::Sync
    }
}

/// A position in a shard's log: bytes written since it was made. Grows by every record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// Acknowledgements of `sync` pushes, in log order, each released by the completion that makes its
/// record durable. Acknowledgements of other levels never enter.
#[derive(Debug)]
pub struct CommitQueue<T> {
    waiting: VecDeque<(Position, T)>,
    capacity: usize,
}

impl<T> CommitQueue<T> {
    /// A queue of at most `capacity`, which is allocated now.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { waiting: VecDeque::with_capacity(capacity), capacity }
    }

    /// Puts an acknowledgement behind the record that ends at a position, and behind all that are
    /// there already: what was asked for last leaves last.
    ///
    /// # Errors
    /// Gives it back when the queue is full: poll the log, release, retry.
    pub fn push(&mut self, position: Position, acknowledgement: T) -> Result<(), T> {
        if self.waiting.len() == self.capacity {
            return Err(acknowledgement);
        }
        let position = self.waiting.back().map_or(position, |(last, _)| position.max(*last));
        self.waiting.push_back((position, acknowledgement));
        Ok(())
    }

    /// The next acknowledgement whose record is durable, or `None`.
    pub fn release(&mut self, durable: Position) -> Option<T> {
        match self.waiting.front() {
            Some((position, _)) if *position <= durable => {
                self.waiting.pop_front().map(|(_, acknowledgement)| acknowledgement)
            }
            _ => None,
        }
    }

    /// Everything that waits, to be refused: for when the log is poisoned.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.waiting.drain(..).map(|(_, acknowledgement)| acknowledgement)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stricter_level_wins() {
        assert_eq!(Durability::Memory.stricter(Durability::Interval(5)), Durability::Interval(5));
        assert_eq!(
            Durability::Interval(9).stricter(Durability::Interval(5)),
            Durability::Interval(5)
        );
        assert_eq!(Durability::Interval(9).stricter(Durability::Sync), Durability::Sync);
        assert_eq!(Durability::Memory.stricter(Durability::Memory), Durability::Memory);
        let levels = [Durability::Memory, Durability::Interval(7), Durability::Sync];
        assert_eq!(levels.map(Durability::waits), [false, false, true]);
        let delays = [None, Some(Duration::from_millis(7)), Some(Duration::ZERO)];
        assert_eq!(levels.map(Durability::delay_max), delays);
    }

    #[test]
    fn acknowledgements_leave_in_order_and_only_when_durable() {
        let mut queue = CommitQueue::new(2);
        queue.push(Position(64), "a").unwrap();
        queue.push(Position(128), "b").unwrap();
        assert_eq!(queue.push(Position(192), "c"), Err("c"));
        let mut late = CommitQueue::new(2);
        late.push(Position(128), "b").unwrap();
        late.push(Position(64), "late").unwrap();
        assert_eq!(late.release(Position(127)), None);
        assert_eq!(late.release(Position(128)), Some("b"));
        assert_eq!(late.release(Position(128)), Some("late"));
        assert_eq!(queue.release(Position(63)), None);
        assert_eq!(queue.release(Position(100)), Some("a"));
        assert_eq!(queue.release(Position(100)), None);
        assert_eq!(queue.drain().collect::<Vec<_>>(), ["b"]);
    }
}
