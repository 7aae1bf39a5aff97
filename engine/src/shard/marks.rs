//! Marks rows as current or stale for one-sided readers, and gives rows back, a bounded number of blocks per
//! turn.

use std::collections::VecDeque;

use windlass_wire::{PartitionId, TableId};

use super::{
    chain::Chain,
    command::Answer,
    connect,
    connect::is_shared,
    growth,
    memory::MemoryMade,
    port::Port,
    tables::{TableRows, Tables},
};
use crate::{
    limits::{BLOCKS_MARKED_PER_TURN, BLOCKS_PER_PARTITION_ENDED},
    table::DensePartition,
};

/// What is still to be marked or given back, in order.
#[derive(Debug, Default)]
pub(super) struct Marks {
    queue: VecDeque<Mark>,
}

#[derive(Debug)]
enum Mark {
    /// Rows that stay here.
    Held(TableId, PartitionId),
    /// Rows in a region of the arena that go, once whoever knows the region can see it.
    Left(Box<DensePartition>, usize),
    /// Everything before this is done.
    Done(Answer<()>),
    /// What wants more memory than is left may look again.
    Grow(Box<MemoryMade>),
}

impl Marks {
    /// The rows of a partition are fenced anew, or no more.
    pub(super) fn add(&mut self, table: TableId, partition: PartitionId) {
        self.queue.push_back(Mark::Held(table, partition));
    }

    /// Rows go.
    pub(super) fn leave(&mut self, mut partition: DensePartition, region: usize) {
        partition.blocks_mut().fence(true);
        self.queue.push_back(Mark::Left(Box::new(partition), region));
    }

    /// Whether rows are being given back, and with them memory.
    pub(super) fn gives_back(&self) -> bool {
        self.queue.iter().any(|mark| matches!(mark, Mark::Left(..)))
    }

    /// Goes on with what memory was made for once all that is queued now is done.
    pub(super) fn grow(&mut self, made: MemoryMade) {
        self.queue.push_back(Mark::Grow(Box::new(made)));
    }

    /// Answers once all that is queued now is done.
    pub(super) fn answer(&mut self, answer: Answer<()>) {
        self.queue.push_back(Mark::Done(answer));
    }
}

/// Does a turn's part of it. Returns whether there was any.
pub(super) fn mark_some(port: &mut Port, tables: &mut Tables, chain: &mut Chain) -> bool {
    if tables.marks.queue.is_empty() {
        return false;
    }
    let mut room = BLOCKS_MARKED_PER_TURN;
    let mut has_left = false;
    while room > 0
        && let Some(mark) = tables.marks.queue.pop_front()
    {
        match mark {
            Mark::Held(table, partition) => {
                let Some(found) = tables.by_id.get_mut(&table) else { continue };
                let (slot, TableRows::Dense(partitions)) =
                    (found.slots.find(partition), &mut found.rows)
                else {
                    continue;
                };
                let Some((dense, _)) = slot.map(|slot| &mut partitions[slot]) else { continue };
                room -= dense.blocks_mut().mark_some(room);
                if !dense.blocks().is_marked() {
                    tables.marks.queue.push_front(mark);
                }
            }
            Mark::Left(mut dense, region) => {
                if is_shared(&port.sessions, region) {
                    room -= dense.blocks_mut().mark_some(room);
                    if !dense.blocks().is_marked() {
                        tables.marks.queue.push_front(Mark::Left(dense, region));
                        continue;
                    }
                }
                tables.memory_left += dense.blocks().len();
                tables.arena.release(region);
                tables.growth.memory.end(dense);
                room = room.saturating_sub(BLOCKS_PER_PARTITION_ENDED);
                has_left = true;
            }
            Mark::Done(_) | Mark::Grow(_) if std::mem::take(&mut has_left) => {
                // What has left is dropped before anything new is made.
                connect::sweep_arena(port, tables);
                tables.marks.queue.push_front(mark);
            }
            Mark::Done(answer) => drop(answer.send(Ok(()))),
            Mark::Grow(made) => growth::take_memory(port, tables, chain, *made),
        }
    }
    if has_left {
        connect::sweep_arena(port, tables);
    }
    true
}
