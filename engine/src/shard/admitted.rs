//! Duplicate suppression for pushes applied without a record: which partitions have not seen the push yet.
//! Every partition is asked before any takes the push, so a refused push changes nothing.

use std::convert::Infallible;

use windlass_replication::{Admission, Push};
use windlass_wire::{Layout, PartitionId, RowRange, Status};

use super::chain::{Chain, SlotPush};

/// Which rows a push is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum RowsOf<'a> {
    Range(RowRange),
    Keys(&'a [u64]),
}

impl RowsOf<'_> {
    fn is_empty(self) -> bool {
        match self {
            Self::Range(rows) => rows.start >= rows.end,
            Self::Keys(keys) => keys.is_empty(),
        }
    }

    /// Calls `each` for the partition of each row, or run of rows, until it fails.
    #[inline]
    fn each_partition<E>(
        self,
        layout: &Layout,
        mut each: impl FnMut(PartitionId) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Range(rows) => {
                layout.pieces_of(rows).try_for_each(|(partition, _)| each(partition))
            }
            Self::Keys(keys) => keys.iter().try_for_each(|key| each(layout.partition_of(*key))),
        }
    }
}

/// What the partitions of the push in hand said. Its memory is used again for the next one.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    /// By partition: the push that was last looked at there, and whether it was new.
    marks: Vec<(u64, bool)>,
    push: u64,
    /// The push in hand is new to all of its partitions, none of which is marked.
    are_all: bool,
    /// The partitions that the push in hand is new to.
    fresh: Vec<PartitionId>,
}

impl Admitted {
    /// Has each partition of a push decide on it. Returns whether some have had it before.
    ///
    /// # Errors
    /// Why the push is refused: no partition has taken it then.
    #[inline]
    pub(super) fn look(
        &mut self,
        chain: &Chain,
        layout: &Layout,
        rows: RowsOf<'_>,
        push: &Push,
    ) -> Result<bool, Status> {
        self.push += 1;
        self.are_all = false;
        self.fresh.clear();
        let mut is_known = false;
        rows.each_partition(layout, |partition| {
            let mark = self.marks.get(partition.0 as usize);
            if mark.is_some_and(|(last, _)| *last == self.push) {
                return Ok(());
            }
            let is_fresh = is_new(chain.look(partition, push, 0))?;
            self.mark(partition, is_fresh);
            if is_fresh {
                self.fresh.push(partition);
            }
            is_known |= !is_fresh;
            Ok(())
        })?;
        Ok(is_known)
    }

    /// Asks all partitions like `look` about a push that is applied without a record, and remembers it
    /// wherever it is new.
    #[inline]
    pub(super) fn admit(
        &mut self,
        chain: &mut Chain,
        layout: &Layout,
        rows: RowsOf<'_>,
        push: SlotPush<'_>,
    ) -> Result<bool, Status> {
        // A push of no rows is new nowhere, and its session may be unknown.
        self.are_all = chain.is_newest_of_all(push)
            || !rows.is_empty()
                && rows
                    .each_partition(layout, |partition| {
                        if chain.is_newest(partition, push) { Ok(()) } else { Err(()) }
                    })
                    .is_ok();
        if self.are_all {
            let mut taker = chain.taker(push);
            let taken = rows.each_partition(layout, |partition| {
                taker.take(partition);
                Ok::<(), Infallible>(())
            });
            let Ok(()) = taken;
            return Ok(false);
        }
        let (slot, its) = push;
        chain.note_taken_of(slot);
        let is_known = self.look(chain, layout, rows, its)?;
        for partition in &self.fresh {
            chain.note_applied(*partition, push);
        }
        Ok(is_known)
    }

    #[inline]
    fn mark(&mut self, partition: PartitionId, is_fresh: bool) {
        let at = partition.0 as usize;
        if at >= self.marks.len() {
            self.marks.resize(at + 1, (0, false));
        }
        self.marks[at] = (self.push, is_fresh);
    }

    /// Whether the push in hand is known to be new to all of its partitions.
    #[inline]
    pub(super) fn is_fresh_to_all(&self) -> bool {
        self.are_all
    }

    /// Whether the push in hand is new to one of its partitions.
    #[inline]
    pub(super) fn is_fresh(&self, partition: PartitionId) -> bool {
        if self.are_all {
            return true;
        }
        let (push, is_fresh) = self.marks[partition.0 as usize];
        debug_assert_eq!(push, self.push, "a partition of the push in hand");
        is_fresh
    }
}

/// Whether a push that is looked at alone is new.
///
/// # Errors
/// Why it is refused.
#[inline]
pub(super) fn is_new(admission: Admission) -> Result<bool, Status> {
    match admission {
        Admission::Apply => Ok(true),
        Admission::Duplicate { .. } | Admission::Pending => Ok(false),
        Admission::Full => Err(Status::TooManySessions),
        Admission::StaleIncarnation => Err(Status::Superseded),
        Admission::Gap { .. } => unreachable!("pushes name no sequence before them"),
    }
}
