//! What the engine lets a checkpoint copy.

use windlass_wire::{Epoch, Lsn, PartitionId, TableId};

use crate::persist::manifest::Manifest;

/// What the engine lets a checkpoint copy. All calls come from the shard's own thread.
pub trait CheckpointSource {
    /// The partitions of this shard.
    fn partitions(&mut self) -> Vec<PartitionId>;

    /// Counts requests: while it grows, a checkpoint leaves the disk to them.
    fn requests(&self) -> u64 {
        0
    }

    /// Upper bound of the bytes of all partitions' blocks.
    fn bytes(&self) -> u64 {
        u64::MAX
    }

    /// Whether what earlier checkpoints hold of the partition is void: all its blocks are copied.
    fn begins_anew(&self, _partition: PartitionId) -> bool {
        false
    }

    /// The checkpoint has come to a partition: [`CheckpointSource::next`] will ask for all its blocks,
    /// or for those that changed since they were copied last. Those are fixed now; a block that changes
    /// from now on may be copied in this checkpoint or in the next. Called at the end of a turn, when
    /// every sealed record is applied; not for all partitions in one.
    fn begin(&mut self, partition: PartitionId, extent: Extent);

    /// Copies the next block into the buffer, which is 64-aligned. Values and optimiser state of
    /// the same rows belong in one block: a block is the unit that is consistent.
    fn next(&mut self, partition: PartitionId, buffer: &mut [u8]) -> Next;

    /// The checkpoint failed: blocks handed out are not safe. The next one asks for all.
    fn abandoned(&mut self) {}

    /// The checkpoint was published.
    fn published(&mut self, _manifest: &Manifest) {}
}

/// Which blocks a checkpoint wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All.
    Full,
    /// Those that changed.
    Changed,
}

/// What [`CheckpointSource::next`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It copied a block.
    Block(BlockHead),
    /// The next block is longer than the buffer: ask again with an empty one. At most
    /// [`CHECKPOINT_BLOCK_BYTES_MAX`](crate::persist::limits::CHECKPOINT_BLOCK_BYTES_MAX).
    NoRoom,
    /// It looked for the next block and has to go on in a later call; that took as long as copying so
    /// many bytes.
    Later {
        /// Bytes, at least one.
        cost: usize,
    },
    /// There are no more.
    Done,
}

/// What a block is; opaque here but for the LSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHead {
    /// The table, or zero.
    pub table: TableId,
    /// Which kind of state: rows, sessions, range clocks, schema; the engine's numbers.
    pub section: u16,
    /// Which block of that section.
    pub index: u64,
    /// The engine's own.
    pub detail: u64,
    /// The last record whose effect is in the block.
    pub lsn: Lsn,
    /// Epoch in force.
    pub epoch: Epoch,
    /// Bytes copied.
    pub length: usize,
}
