//! What a checkpoint copies of a shard: rows by piece, and what suppresses duplicates.

use std::collections::{HashMap, VecDeque};

use windlass_wire::{
    Durability, Incarnation, Lsn, PartitionId, Sequence, SessionId, TableId, map::shard_of,
};

use super::{Shard, tables::TableRows};
use crate::{
    persist::{
        checkpoint::{BlockHead, CheckpointSource, Extent, Next},
        log::Log,
    },
    table::{DensePartition, PIECES, SparsePartition, piece_of},
};

/// Sections of a partition's checkpoint.
pub(super) const ROWS: u16 = 1;
pub(super) const SESSIONS: u16 = 2;

/// Bytes of one session in its section: session, incarnation, sequence.
pub(super) const SESSION_LEN: usize = 24;

/// What of the partitions is still to be copied.
#[derive(Debug, Default)]
pub(super) struct Copied {
    queues: HashMap<PartitionId, VecDeque<Piece>>,
    /// Last record of each partition when this turn began: all of them are applied.
    positions: Vec<Lsn>,
    /// A piece that did not fit the buffer it was asked for with.
    buffer: Vec<u8>,
}

/// One block to be.
#[derive(Clone, Debug)]
enum Piece {
    Dense { table: TableId, piece: u64 },
    Sparse { table: TableId, piece: u64, keys: Vec<(u64, u64)> },
    Sessions,
}

impl Copied {
    pub(super) fn note_positions(&mut self, partition_count: u32, log: &Log) {
        self.positions.clear();
        self.positions
            .extend((0..partition_count).map(|partition| log.last_lsn(PartitionId(partition))));
    }
}

/// A shard as a checkpoint sees it.
pub(super) struct Source<'a> {
    pub(super) shard: &'a mut Shard,
    pub(super) copied: &'a mut Copied,
}

impl CheckpointSource for Source<'_> {
    fn partitions(&mut self) -> Vec<PartitionId> {
        let shard = &self.shard;
        (0..shard.map.partition_count())
            .map(PartitionId)
            .filter(|partition| {
                shard_of(*partition, shard.shard_count) == shard.id
                    && shard.map.chains[partition.0 as usize].servers.contains(&shard.server)
            })
            .collect()
    }

    fn begin(&mut self, partition: PartitionId, extent: Extent) {
        let mut queue = VecDeque::new();
        for (id, table) in &mut self.shard.tables {
            if table.entry.schema.durability == (Durability::Memory {}) {
                continue;
            }
            let Some(slot) = table.slots.find(partition) else { continue };
            match &mut table.rows {
                TableRows::Dense(partitions) => {
                    if let Some((dense, _)) = partitions.get_mut(slot) {
                        let pieces = dense_pieces(dense, extent);
                        queue.extend(
                            pieces.into_iter().map(|piece| Piece::Dense { table: *id, piece }),
                        );
                    }
                }
                TableRows::Sparse(partitions) => {
                    if let Some(sparse) = partitions.get_mut(slot) {
                        queue_sparse(*id, sparse, extent, &mut queue);
                    }
                }
            }
        }
        queue.push_back(Piece::Sessions);
        self.copied.queues.insert(partition, queue);
    }

    fn next(&mut self, partition: PartitionId, buffer: &mut [u8]) -> Next {
        let Some(queue) = self.copied.queues.get_mut(&partition) else { return Next::Done };
        let Some(piece) = queue.front() else {
            self.copied.queues.remove(&partition);
            return Next::Done;
        };
        let mut bytes = std::mem::take(&mut self.copied.buffer);
        bytes.clear();
        let (table, section, index) = self.shard.save(partition, piece, &mut bytes);
        let fits = bytes.len() <= buffer.len();
        if fits {
            buffer[..bytes.len()].copy_from_slice(&bytes);
            queue.pop_front();
        }
        let length = bytes.len();
        self.copied.buffer = bytes;
        if !fits {
            return Next::NoRoom;
        }
        Next::Block(BlockHead {
            table,
            section,
            index,
            detail: 0,
            lsn: self.copied.positions.get(partition.0 as usize).copied().unwrap_or_default(),
            epoch: self.shard.map.epoch,
            length,
        })
    }

    fn abandoned(&mut self) {
        self.copied.queues.clear();
    }
}

impl Shard {
    /// Appends a piece's bytes; its table, section and index.
    fn save(
        &self,
        partition: PartitionId,
        piece: &Piece,
        into: &mut Vec<u8>,
    ) -> (TableId, u16, u64) {
        match piece {
            Piece::Sessions => {
                for (session, incarnation, sequence) in self.sequences_of(partition) {
                    into.extend_from_slice(&session.0.to_le_bytes());
                    into.extend_from_slice(&incarnation.0.to_le_bytes());
                    into.extend_from_slice(&sequence.0.to_le_bytes());
                }
                (TableId(0), SESSIONS, 0)
            }
            Piece::Dense { table, piece } => {
                if let Some(found) = self.tables.get(table)
                    && let (Some(slot), TableRows::Dense(rows)) =
                        (found.slots.find(partition), &found.rows)
                {
                    rows[slot].0.save_piece(*piece, into);
                }
                (*table, ROWS, *piece)
            }
            Piece::Sparse { table, piece, keys } => {
                if let Some(found) = self.tables.get(table)
                    && let (Some(slot), TableRows::Sparse(rows)) =
                        (found.slots.find(partition), &found.rows)
                {
                    for (key, row) in keys {
                        rows[slot].save_row(*key, *row, into);
                    }
                }
                (*table, ROWS, *piece)
            }
        }
    }

    /// The highest sequence applied to a partition, of every session that has any.
    fn sequences_of(
        &self,
        partition: PartitionId,
    ) -> impl Iterator<Item = (SessionId, Incarnation, Sequence)> + '_ {
        let open = self.sessions.iter().flatten();
        let open = open.map(|session| (session.id, session.incarnation, &session.applied));
        let detached = self.detached.iter();
        let detached =
            detached.map(|(id, detached)| (*id, detached.incarnation, &detached.applied));
        open.chain(detached).filter_map(move |(id, incarnation, applied)| {
            let sequence = applied.sequence(partition, self.shard_count);
            (sequence > Sequence(0)).then_some((id, incarnation, sequence))
        })
    }
}

fn dense_pieces(dense: &mut DensePartition, extent: Extent) -> Vec<u64> {
    let changed = dense.changed_mut().take();
    match extent {
        Extent::Changed => changed,
        Extent::Full => (0..dense.piece_count()).collect(),
    }
}

fn queue_sparse(
    table: TableId,
    sparse: &mut SparsePartition,
    extent: Extent,
    queue: &mut VecDeque<Piece>,
) {
    let changed = sparse.changed_mut().take();
    let mut wanted = vec![extent == Extent::Full; usize::try_from(PIECES).unwrap_or(0)];
    for piece in changed {
        wanted[index_of(piece)] = true;
    }
    let mut keys: Vec<(u64, u64)> =
        sparse.keys().filter(|(key, _)| wanted[index_of(piece_of(*key))]).collect();
    keys.sort_unstable_by_key(|(key, row)| (piece_of(*key), *row));
    for keys in keys.chunk_by(|a, b| piece_of(a.0) == piece_of(b.0)) {
        let piece = piece_of(keys[0].0);
        queue.push_back(Piece::Sparse { table, piece, keys: keys.to_vec() });
    }
}

#[expect(clippy::cast_possible_truncation, reason = "below PIECES")]
const fn index_of(piece: u64) -> usize {
    piece as usize
}
