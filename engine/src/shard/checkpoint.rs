//! What a checkpoint copies: rows by piece, workers' clocks, and sessions.

mod listing;
mod parts;

use std::collections::{BTreeMap, HashMap};

use listing::Listing;
use parts::PiecePart;
pub(super) use parts::PieceParts;
use windlass_replication::Lane;
use windlass_wire::{Epoch, Lsn, PartitionId, SessionId, TableId, map::shard_of};

use super::{
    chain,
    chain::Chain,
    port::Port,
    tables::{TableRows, Tables},
};
use crate::{
    persist::{
        checkpoint::{BlockHead, CheckpointSource, Extent, Next},
        clocks::CLOCKS,
        limits::CHECKPOINT_BLOCK_BYTES_MAX,
        log::Log,
        manifest::Manifest,
    },
    table::{SparsePartition, piece_of},
};

/// Sections of a partition's checkpoint.
pub(super) const ROWS: u16 = 1;
pub(super) use crate::persist::sessions::SESSIONS;

/// Pieces in the order in which they are copied: by table and number, the sessions last.
type Queue = BTreeMap<(TableId, u64), Piece>;

const SESSIONS_LAST: (TableId, u64) = (TableId(u32::MAX), 0);

/// A table's clock comes behind its rows.
const CLOCK_INDEX: u64 = u64::MAX;

/// Sessions looked at for one block: of many, a turn takes a part.
const SESSIONS_PER_BLOCK: usize = 2 << 10;

/// What of the partitions is still to be copied.
#[derive(Debug, Default)]
pub(super) struct Copied {
    queues: HashMap<PartitionId, Queue>,
    /// What is not in the queue yet of the partition in hand.
    listings: HashMap<PartitionId, Vec<Listing>>,
    /// Last record of each partition when this turn began: all of them are applied.
    positions: Vec<Lsn>,
    /// The piece in hand, which may take several blocks.
    saved: Saved,
}

/// A piece as it was when it was copied, all of it in one turn, and how far it has been handed out.
#[derive(Debug, Default)]
struct Saved {
    bytes: Vec<u8>,
    at: usize,
    partition: PartitionId,
    table: TableId,
    section: u16,
    index: u64,
    lsn: Lsn,
    epoch: Epoch,
    /// Whether some of it is still to be handed out; a piece may be empty.
    is_pending: bool,
}

impl Saved {
    /// Hands the next block out, if the buffer has room for it.
    fn next_block(&mut self, buffer: &mut [u8]) -> Next {
        assert!(self.is_pending, "nothing is left of the piece");
        let length = (self.bytes.len() - self.at).min(CHECKPOINT_BLOCK_BYTES_MAX);
        let Some(into) = buffer.get_mut(..length) else { return Next::NoRoom };
        into.copy_from_slice(&self.bytes[self.at..][..length]);
        let part = PiecePart { offset: self.at, total: self.bytes.len() };
        self.at += length;
        self.is_pending = self.at < self.bytes.len();
        Next::Block(BlockHead {
            table: self.table,
            section: self.section,
            index: self.index,
            detail: part.detail(length),
            lsn: self.lsn,
            epoch: self.epoch,
            length,
        })
    }
}

/// One block to be.
#[derive(Clone, Debug)]
enum Piece {
    Dense,
    /// The clock of a table.
    Clock,
    /// Keys with their rows.
    Sparse(Vec<(u64, u64)>),
    /// Sessions after this one and its lane, and the number of their block.
    Sessions {
        after: Option<(SessionId, Lane)>,
        index: u64,
    },
}

impl Copied {
    /// What is to be copied of a partition is there no more.
    pub(super) fn forget(&mut self, partition: PartitionId) {
        self.queues.remove(&partition);
        self.listings.remove(&partition);
    }

    /// Goes on listing what is to be copied of a partition; what that counts as, or `None` when all of
    /// it is listed.
    fn list(&mut self, tables: &Tables, partition: PartitionId) -> Option<usize> {
        let listings = self.listings.get_mut(&partition)?;
        let queue = self.queues.get_mut(&partition)?;
        let Some(listing) = listings.last_mut() else {
            self.listings.remove(&partition);
            return None;
        };
        let table = tables.by_id.get(&listing.table());
        let rows = table.and_then(|table| Some((&table.rows, table.slots.find(partition)?)));
        let (cost, is_last) = match rows {
            Some((TableRows::Dense(_), _)) => listing.list_dense(queue),
            Some((TableRows::Sparse(partitions), slot)) => {
                listing.list_sparse(&partitions[slot], queue)
            }
            // Dropped meanwhile.
            None => (0, true),
        };
        if is_last {
            listings.pop();
        }
        Some(cost)
    }

    pub(super) fn note_positions(&mut self, partition_count: u32, log: &Log) {
        self.positions.clear();
        self.positions
            .extend((0..partition_count).map(|partition| log.last_lsn(PartitionId(partition))));
    }
}

/// A shard as a checkpoint sees it.
pub(super) struct Source<'a> {
    pub(super) port: &'a mut Port,
    pub(super) tables: &'a mut Tables,
    pub(super) chain: &'a mut Chain,
    pub(super) copied: &'a mut Copied,
}

impl CheckpointSource for Source<'_> {
    fn partitions(&mut self) -> Vec<PartitionId> {
        let its = &*self.chain;
        (0..its.map.partition_count())
            .map(PartitionId)
            .filter(|partition| {
                let chain = &its.map.chains[partition.0 as usize];
                let holds =
                    chain.servers.contains(&its.server) || chain.learner == Some(its.server);
                shard_of(*partition, its.shard_count) == its.shard
                    && holds
                    && chain::is_checkpointed(its, *partition)
            })
            .collect()
    }

    fn requests(&self) -> u64 {
        if self.chain.disk.awaits_checkpoint() {
            // One replica less keeps the rows until it ends: it does not stand back.
            return 0;
        }
        let statistics = &self.port.statistics;
        statistics.pushes + statistics.pulls + statistics.chain_received_bytes
    }

    fn bytes(&self) -> u64 {
        self.tables.held_len()
    }

    fn begins_anew(&self, partition: PartitionId) -> bool {
        chain::begins_anew(self.chain, partition)
    }

    fn begin(&mut self, partition: PartitionId, extent: Extent) {
        if !chain::is_checkpointed(self.chain, partition) {
            // It was given away, or is being copied anew, since the checkpoint began.
            return;
        }
        let (mut queue, mut listings) = (Queue::new(), Vec::new());
        for (id, table) in &mut self.tables.by_id {
            if !table.is_kept() {
                continue;
            }
            let Some(slot) = table.slots.find(partition) else { continue };
            if table.clocks.is_some() {
                queue.insert((*id, CLOCK_INDEX), Piece::Clock);
            }
            match &mut table.rows {
                TableRows::Dense(partitions) => {
                    if let Some((dense, _)) = partitions.get_mut(slot) {
                        listings.push(Listing::of_dense(*id, dense, extent));
                    }
                }
                TableRows::Sparse(partitions) => {
                    if let Some(sparse) = partitions.get_mut(slot) {
                        listings.push(Listing::of_sparse(*id, sparse, extent));
                    }
                }
            }
        }
        queue.insert(SESSIONS_LAST, Piece::Sessions { after: None, index: 0 });
        self.copied.queues.insert(partition, queue);
        self.copied.listings.insert(partition, listings);
        chain::note_checkpoint_begun(self.chain, partition);
    }

    fn next(&mut self, partition: PartitionId, buffer: &mut [u8]) -> Next {
        if let Some(cost) = self.copied.list(self.tables, partition) {
            return Next::Later { cost };
        }
        if self.copied.saved.is_pending {
            assert_eq!(self.copied.saved.partition, partition, "a piece was not handed out whole");
            return self.copied.saved.next_block(buffer);
        }
        let Some(queue) = self.copied.queues.get_mut(&partition) else { return Next::Done };
        self.tables.queue_fresh(partition, queue);
        let Some((at, piece)) = queue.first_key_value() else {
            self.copied.queues.remove(&partition);
            self.tables.note_fresh(partition, false);
            return Next::Done;
        };
        let (at, rest) = (*at, rest_of(self.chain, partition, piece));
        let mut bytes = std::mem::take(&mut self.copied.saved.bytes);
        bytes.clear();
        let (table, index) = at;
        let (table, section, index) =
            save(self.tables, self.chain, partition, table, index, piece, &mut bytes);
        match rest {
            Some(rest) => queue.insert(at, rest),
            None => queue.remove(&at),
        };
        self.copied.saved = Saved {
            bytes,
            at: 0,
            partition,
            table,
            section,
            index,
            lsn: self.copied.positions.get(partition.0 as usize).copied().unwrap_or_default(),
            epoch: chain::copied_epoch(self.chain, partition),
            is_pending: true,
        };
        self.copied.saved.next_block(buffer)
    }

    fn abandoned(&mut self) {
        self.copied.saved.is_pending = false;
        self.copied.listings.clear();
        for (partition, _) in self.copied.queues.drain() {
            self.tables.note_fresh(partition, false);
        }
        chain::note_checkpoint_ended(self.port, self.tables, self.chain, false);
    }

    fn published(&mut self, _manifest: &Manifest) {
        chain::note_checkpoint_ended(self.port, self.tables, self.chain, true);
    }
}

/// What is left of a piece that goes into several blocks, behind the one that comes next. A session
/// may come and go between two of them: what it has pushed since is in the log.
fn rest_of(chain: &Chain, partition: PartitionId, piece: &Piece) -> Option<Piece> {
    match piece {
        Piece::Sessions { after, index } => {
            let table = chain::chain_sessions(chain, partition)?;
            let after = Some(table.last_of_piece(*after, SESSIONS_PER_BLOCK)?);
            Some(Piece::Sessions { after, index: index + 1 })
        }
        Piece::Dense | Piece::Clock | Piece::Sparse(_) => None,
    }
}

/// Appends a piece's bytes; its table, section and index.
fn save(
    tables: &Tables,
    chain: &Chain,
    partition: PartitionId,
    table: TableId,
    index: u64,
    piece: &Piece,
    into: &mut Vec<u8>,
) -> (TableId, u16, u64) {
    match piece {
        Piece::Clock => {
            if let Some(found) = tables.by_id.get(&table)
                && let (Some(slot), Some(clocks)) = (found.slots.find(partition), &found.clocks)
            {
                clocks.save_slot(slot, into);
            }
            (table, CLOCKS, 0)
        }
        Piece::Sessions { after, index } => {
            if let Some(table) = chain::chain_sessions(chain, partition) {
                table.encode_piece(*after, SESSIONS_PER_BLOCK, into);
            }
            (TableId(0), SESSIONS, *index)
        }
        Piece::Dense => {
            if let Some(found) = tables.by_id.get(&table)
                && let (Some(slot), TableRows::Dense(rows)) =
                    (found.slots.find(partition), &found.rows)
            {
                rows[slot].0.save_piece(index, into);
            }
            (table, ROWS, index)
        }
        Piece::Sparse(keys) => {
            if let Some(found) = tables.by_id.get(&table)
                && let (Some(slot), TableRows::Sparse(rows)) =
                    (found.slots.find(partition), &found.rows)
            {
                // Some may be gone since they were listed; one that is there again was listed again.
                for (key, row) in keys.iter().filter(|(key, row)| rows[slot].has_row(*key, *row)) {
                    rows[slot].save_row(*key, *row, into);
                }
            }
            (table, ROWS, index)
        }
    }
}

impl Tables {
    /// Adds keys that were made since the queue was to its pieces: a piece's block holds every
    /// record up to its LSN, or recovery would skip those of the keys it lacks.
    fn queue_fresh(&mut self, partition: PartitionId, queue: &mut Queue) {
        for (id, sparse) in self.sparse_of(partition) {
            for (key, row) in sparse.take_fresh() {
                if let Some(Piece::Sparse(keys)) = queue.get_mut(&(id, piece_of(key))) {
                    keys.push((key, row));
                }
            }
        }
    }

    /// Notes which keys are new from now on, or no more.
    fn note_fresh(&mut self, partition: PartitionId, noted: bool) {
        for (_, sparse) in self.sparse_of(partition) {
            sparse.note_fresh(noted);
        }
    }

    fn sparse_of(
        &mut self,
        partition: PartitionId,
    ) -> impl Iterator<Item = (TableId, &mut SparsePartition)> {
        self.by_id.iter_mut().filter_map(move |(id, table)| {
            let slot = table.slots.find(partition)?;
            let TableRows::Sparse(partitions) = &mut table.rows else { return None };
            Some((*id, partitions.get_mut(slot)?))
        })
    }
}

#[cfg(test)]
pub(super) mod tests;
