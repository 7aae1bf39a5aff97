//! The line of memory in which a table's clock is published.

use windlass_wire::{ClockLine, WorkerClock};

use crate::shard::arena::Piece;

/// Words of a line.
const WORD: u64 = 8;

/// A clock as its readers see it.
#[derive(Debug)]
pub(in crate::shard) struct Published {
    piece: Piece,
    line: ClockLine,
}

impl Published {
    /// Publishes an open clock in `piece`, which has room for a line.
    pub(in crate::shard) fn new(piece: Piece) -> Self {
        let mut published = Self { piece, line: ClockLine { live: u64::MAX, ..ClockLine::OPEN } };
        published.publish(ClockLine::OPEN);
        published
    }

    /// What is published.
    #[inline]
    pub(in crate::shard) fn line(&self) -> ClockLine {
        self.line
    }

    /// Where: the arena's region, and the offset in it.
    pub(in crate::shard) fn place(&self) -> (usize, u64) {
        (self.piece.region, self.piece.offset)
    }

    /// Publishes an earlier clock at once.
    pub(in crate::shard) fn lower(&mut self, minimum: WorkerClock) {
        let minimum = self.line.minimum.min(minimum.0);
        self.publish(ClockLine { minimum, ..self.line });
    }

    /// Says that rows are about to become readable, whose clock is published.
    pub(in crate::shard) fn gain(&mut self) {
        self.put(ClockLine { gains: self.line.gains + 1, ..self.line });
    }

    /// Publishes another line; returns whether it differs.
    pub(in crate::shard) fn publish(&mut self, line: ClockLine) -> bool {
        self.put(ClockLine { gains: self.line.gains, ..line })
    }

    fn put(&mut self, line: ClockLine) -> bool {
        let moved = line != self.line;
        let words = line.words().into_iter().zip(self.line.words());
        for (at, (word, before)) in (0_u64..).zip(words) {
            if word != before {
                self.piece.pages.store_u64(self.piece.offset + at * WORD, word);
            }
        }
        self.line = line;
        moved
    }
}
