//! Newtypes for every integer with a meaning. Each is a plain little-endian integer on the wire and
//! on disk; none is ever a `usize` there.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
    };
}

id! {
    /// A row's name within its table. Dense tables use `0..rows`.
    Key(u64)
}
id! {
    /// A table's number within its cluster. Never reused.
    TableId(u32)
}
id! {
    /// A partition's number: the unit of placement, ordering, replication and recovery.
    PartitionId(u32)
}
id! {
    /// A server's number within its cluster. Never reused.
    ServerId(u32)
}
id! {
    /// A shard's number within its server: one thread on one core.
    ShardId(u16)
}
id! {
    /// A client session's number, unique in the cluster. Survives reconnects and failovers.
    SessionId(u64)
}
id! {
    /// Distinguishes lives of a session, a server or a mailbox, so that a stale endpoint is refused.
    Incarnation(u64)
}
id! {
    /// A request's position in its session, from 1. Strictly increasing.
    Sequence(u64)
}
id! {
    /// A worker's rank in the training job.
    WorkerRank(u32)
}
id! {
    /// A worker's logical clock: the number of rounds it has finished.
    WorkerClock(u64)
}
id! {
    /// A position in one partition's log, from 1. Zero is before the first record.
    Lsn(u64)
}
id! {
    /// The number of the cluster map in force. Anything stamped with an older one is refused.
    Epoch(u64)
}
id! {
    /// What a request returns at once and a later request may name as one it runs after.
    Timestamp(u64)
}

impl Sequence {
    /// The sequence after this one.
    #[must_use]
    #[inline]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Lsn {
    /// No log gets this far: what a peer says is no position when it is higher. Positions can be counted on
    /// from without a thought of their end.
    pub const MAX: Self = Self(u64::MAX >> 1);

    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Rows `start..end` of one table; empty when `start == end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RowRange {
    /// First row.
    pub start: u64,
    /// One past the last row.
    pub end: u64,
}

impl RowRange {
    /// Rows `start..end`. Panics when `start > end`: ranges made from foreign bytes are checked first.
    #[must_use]
    #[inline]
    pub fn new(start: u64, end: u64) -> Self {
        assert!(start <= end, "row range {start}..{end} is reversed");
        Self { start, end }
    }

    /// Number of rows.
    #[must_use]
    #[inline]
    pub fn count(self) -> u64 {
        self.end - self.start
    }

    /// Whether there is no row.
    #[must_use]
    #[inline]
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether `row` is in the range.
    #[must_use]
    pub fn contains(self, row: u64) -> bool {
        self.start <= row && row < self.end
    }

    /// The rows both ranges have, or `None`.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        (start < end).then_some(Self { start, end })
    }
}

impl fmt::Display for RowRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}..{}", self.start, self.end)
    }
}
