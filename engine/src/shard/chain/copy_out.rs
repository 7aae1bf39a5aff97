//! A tail feeds a learner: rows in order, a few per turn, on the link that carries the log. Rows and records
//! share one queue, so a copied row includes exactly the records sent before it.

use std::collections::{BTreeMap, BTreeSet};

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
    /// Tables of which every row there is was sent, and how many rows that are.
    done: BTreeMap<TableId, u64>,
    current: Option<Current>,
}

/// The table being sent.
#[derive(Debug)]
struct Current {
    table: TableId,
    /// Of a dense table, the next piece; of a sparse one, the next row.
    next: u64,
}

/// What the next step of a copy is.
enum Step {
    Rows { table: TableId, index: u64, bytes: Vec<u8> },
    Nothing,
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
        let fresh = CopyOut { learner, start, done: BTreeMap::new(), current: None };
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
            worked |= copy_out_step(tables, chain, partition);
        }
    }
    worked
}

fn copy_out_step(tables: &mut Tables, chain: &mut Chain, partition: PartitionId) -> bool {
    let Tables { by_id: tables, .. } = tables;
    let part = chain.own_mut(partition);
    let copy = part.copy_out.as_mut().expect("a copy that was found to be under way");
    let epoch = part.replica.epoch();
    let (learner, start) = (copy.learner, copy.start);
    let mut ids: BTreeSet<TableId> = BTreeSet::new();
    ids.extend(tables.keys().copied());
    match copy.step(partition, &ids, |id| tables.get(&id)) {
        Step::Nothing => false,
        Step::Rows { table, index, bytes } => {
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let frame = ChainFrame::CopyRows { partition, epoch, table, index, offset: 0, len };
            if let Some(link) = chain.link_mut(learner) {
                link.push_copy(frame, bytes);
            }
            true
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
            true
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
        let Some(current) = &mut self.current else {
            return self.begin_next(partition, ids, table_of);
        };
        let Some(table) = table_of(current.table) else {
            // It was dropped.
            self.current = None;
            return Step::Nothing;
        };
        let rows = current.next_rows(partition, table);
        match rows {
            Some((index, bytes)) => Step::Rows { table: current.table, index, bytes },
            None => {
                self.done.insert(current.table, row_count(table, partition));
                self.current = None;
                self.begin_next(partition, ids, table_of)
            }
        }
    }

    /// Goes on with a table that has rows which were not sent.
    fn begin_next<'a>(
        &mut self,
        partition: PartitionId,
        ids: &BTreeSet<TableId>,
        table_of: impl Fn(TableId) -> Option<&'a ShardTable>,
    ) -> Step {
        for id in ids {
            let Some(table) = table_of(*id) else { continue };
            let sent = self.done.get(id).copied();
            if sent == Some(row_count(table, partition)) {
                continue;
            }
            let next = match &table.rows {
                TableRows::Dense(_) => 0,
                TableRows::Sparse(_) => sent.unwrap_or(0),
            };
            let mut current = Current { table: *id, next };
            let rows = current.next_rows(partition, table);
            match rows {
                Some((index, bytes)) => {
                    self.current = Some(current);
                    return Step::Rows { table: *id, index, bytes };
                }
                None => drop(self.done.insert(*id, row_count(table, partition))),
            }
        }
        Step::Finished
    }
}

impl Current {
    /// The next rows' bytes and number; `None` when all have been sent.
    fn next_rows(&mut self, partition: PartitionId, table: &ShardTable) -> Option<(u64, Vec<u8>)> {
        let slot = table.slots.find(partition)?;
        match &table.rows {
            TableRows::Dense(partitions) => {
                let dense = &partitions[slot].0;
                if self.next == dense.piece_count() {
                    return None;
                }
                let mut bytes = Vec::new();
                dense.save_piece(self.next, &mut bytes);
                self.next += 1;
                Some((self.next - 1, bytes))
            }
            TableRows::Sparse(partitions) => {
                let sparse = &partitions[slot];
                let rows = (COPY_ROWS_LEN / sparse.saved_row_len()).max(1) as u64;
                let end = sparse.row_count().min(self.next + rows);
                if self.next == end {
                    return None;
                }
                let mut bytes = Vec::new();
                for (key, row) in sparse.keys_of(self.next..end) {
                    sparse.save_row(key, row, &mut bytes);
                }
                self.next = end;
                Some((0, bytes))
            }
        }
    }
}

fn row_count(table: &ShardTable, partition: PartitionId) -> u64 {
    let Some(slot) = table.slots.find(partition) else { return 0 };
    match &table.rows {
        TableRows::Dense(partitions) => partitions[slot].0.rows().count(),
        TableRows::Sparse(partitions) => partitions[slot].row_count(),
    }
}
