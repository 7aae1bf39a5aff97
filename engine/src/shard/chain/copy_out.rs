//! A tail feeds a learner: rows in order, a few per turn, on the link that carries the log. Rows and records
//! share one queue, so a copied row includes exactly the records sent before it.

use std::collections::BTreeSet;

use windlass_replication::Time;
use windlass_wire::{Lsn, PartitionId, ServerId, TableId, chain::ChainFrame};

use super::Chain;
use crate::{
    limits::{COPY_BACKLOG_MAX, COPY_ROWS_LEN},
    shard::tables::{ShardTable, TableRows, Tables},
};

/// How far a copy is.
#[derive(Debug)]
pub(super) struct CopyOut {
    pub(super) learner: ServerId,
    start: Lsn,
    /// Tables of which every row was sent.
    done: BTreeSet<TableId>,
    current: Option<Current>,
}

/// The table being sent.
#[derive(Debug)]
struct Current {
    table: TableId,
    /// Of a dense table, the next piece; of a sparse one, the next position of its scan.
    next: u64,
}

/// What the next step of a copy is.
enum Step {
    Rows { table: TableId, index: u64, bytes: Vec<u8> },
    Finished,
}

impl Chain {
    /// A learner was told to copy.
    pub(super) fn start_copy_out(&mut self, partition: PartitionId, learner: ServerId, start: Lsn) {
        let part = self.own_mut(partition);
        let under_way = part.copy_out.as_ref();
        if under_way.is_some_and(|copy| copy.learner == learner && copy.start == start) {
            return;
        }
        let fresh = CopyOut { learner, start, done: BTreeSet::new(), current: None };
        if part.copy_out.replace(fresh).is_none() {
            self.copies_out += 1;
        }
    }

    /// A copy to a peer begins anew if it still wants one.
    pub(super) fn end_copy_out(&mut self, partition: PartitionId, learner: ServerId) {
        let part = self.own_mut(partition);
        if part.copy_out.as_ref().is_some_and(|copy| copy.learner == learner) {
            part.copy_out = None;
            self.copies_out -= 1;
        }
    }
}

/// Sends a little of every copy under way. Returns whether there was room for any.
pub(super) fn copy_out_some(tables: &mut Tables, chain: &mut Chain) -> bool {
    let mut worked = false;
    let count = chain.parts.len();
    for index in 0..count {
        if chain.copies_out == 0 {
            break;
        }
        let Some(part) = chain.parts[index].as_deref() else { continue };
        let Some(copy) = &part.copy_out else { continue };
        let (partition, learner) = (part.partition, copy.learner);
        // While records are held back, memory is ahead of what was sent.
        if part.replica.wakes_at(Time(0)).is_some() {
            continue;
        }
        let link = chain.peers.links.iter().find(|link| link.peer.server == learner);
        let backlog = link.and_then(|link| link.copy_backlog());
        if backlog.is_some_and(|backlog| backlog < COPY_BACKLOG_MAX) {
            copy_out_step(tables, chain, partition);
            worked = true;
        }
    }
    worked
}

fn copy_out_step(tables: &mut Tables, chain: &mut Chain, partition: PartitionId) {
    let Tables { by_id: tables, .. } = tables;
    let part = chain.own_mut(partition);
    let copy = part.copy_out.as_mut().expect("a copy that was found to be under way");
    let epoch = part.replica.epoch();
    let (learner, start) = (copy.learner, copy.start);
    let mut ids: BTreeSet<TableId> = BTreeSet::new();
    ids.extend(tables.keys().copied());
    match copy.step(partition, &ids, |id| tables.get(&id)) {
        Step::Rows { table, index, bytes } => {
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let frame = ChainFrame::CopyRows { partition, epoch, table, index, offset: 0, len };
            if let Some(link) = chain.link_mut(learner) {
                link.push_copy(frame, bytes);
            }
        }
        Step::Finished => {
            let mut clocks = Vec::new();
            for (id, table) in tables.iter() {
                let slot = table.slot(partition);
                if let (Some(slot), Some(clock)) = (slot, table.clocks.as_ref()) {
                    let mut bytes = Vec::new();
                    clock.encode_slot(slot, &mut bytes);
                    clocks.push((*id, bytes));
                }
            }
            let through = part.replica.log().last();
            let mut bytes = Vec::new();
            part.replica.sessions().encode(&mut bytes);
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let frame = ChainFrame::CopyEnd { partition, epoch, start, through, offset: 0, len };
            part.copy_out = None;
            chain.copies_out -= 1;
            if let Some(link) = chain.link_mut(learner) {
                for (table, bytes) in clocks {
                    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                    let of = ChainFrame::CopyClock { partition, epoch, table, offset: 0, len };
                    link.push_copy(of, bytes);
                }
                link.push_copy(frame, bytes);
            }
        }
    }
}

impl CopyOut {
    fn step<'a>(
        &mut self,
        partition: PartitionId,
        ids: &BTreeSet<TableId>,
        table_of: impl Fn(TableId) -> Option<&'a ShardTable>,
    ) -> Step {
        while let Some(id) = ids.difference(&self.done).next().copied() {
            let at = match self.current {
                Some(Current { table, next }) if table == id => next,
                _ => 0,
            };
            let rows = table_of(id).and_then(|table| next_rows(partition, table, at));
            self.current =
                rows.as_ref().and_then(|rows| Some(Current { table: id, next: rows.next? }));
            if self.current.is_none() {
                self.done.insert(id);
            }
            if let Some(Rows { index, bytes, .. }) = rows {
                return Step::Rows { table: id, index, bytes };
            }
        }
        Step::Finished
    }
}

/// Some rows of a table, as they are sent.
struct Rows {
    /// See [`ChainFrame::CopyRows`].
    index: u64,
    bytes: Vec<u8>,
    /// Where the next ones begin, unless these are the last.
    next: Option<u64>,
}

/// The rows of a table from a piece or position on; `None` where the partition has none.
fn next_rows(partition: PartitionId, table: &ShardTable, at: u64) -> Option<Rows> {
    let slot = table.slots.find(partition)?;
    let mut bytes = Vec::new();
    match &table.rows {
        TableRows::Dense(partitions) => {
            let dense = &partitions[slot].0;
            dense.save_piece(at, &mut bytes);
            let next = Some(at + 1).filter(|next| *next < dense.piece_count());
            Some(Rows { index: at, bytes, next })
        }
        TableRows::Sparse(partitions) => {
            let sparse = &partitions[slot];
            let mut found = Vec::new();
            let next = sparse.scan(at, (COPY_ROWS_LEN / sparse.saved_row_len()).max(1), &mut found);
            found.iter().for_each(|(_, row)| sparse.fetch_row(*row));
            found.iter().for_each(|(key, row)| sparse.save_row(*key, *row, &mut bytes));
            // A part without rows, too, says how far the copy is.
            Some(Rows { index: next.map_or(u64::MAX, |next| next - 1), bytes, next })
        }
    }
}
