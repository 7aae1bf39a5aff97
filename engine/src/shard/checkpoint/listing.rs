//! Which pieces a checkpoint copies: fixed when it begins, listed a bounded part at a time. Listing the
//! keys of a sparse partition takes longer than a turn may.

use windlass_wire::TableId;

use super::{Piece, Queue};
use crate::{
    persist::checkpoint::Extent,
    table::{ChangedPieces, DensePartition, PIECES, SparsePartition, piece_of},
};

/// What listing one piece or one key counts as, in bytes copied.
const COST: usize = 64;

/// Pieces or keys in one part.
const PART: u64 = 2 << 10;

/// The pieces of one table in one partition, as far as they are not in the queue yet.
#[derive(Debug)]
pub(super) struct Listing {
    table: TableId,
    /// Pieces to be copied.
    wanted: ChangedPieces,
    /// Where the next part begins: by piece of a dense table, by row of a sparse one.
    at: u64,
    /// Of a sparse table, its rows when the checkpoint began, and the keys listed so far by piece.
    rows: u64,
    found: Vec<Vec<(u64, u64)>>,
}

impl Listing {
    /// The pieces of a dense table: from now on others count as changed.
    pub(super) fn of_dense(table: TableId, dense: &mut DensePartition, extent: Extent) -> Self {
        let changed = dense.changed_mut().take();
        let wanted = match extent {
            Extent::Changed => changed,
            Extent::Full => ChangedPieces::all(dense.piece_count()),
        };
        Self { table, wanted, at: 0, rows: 0, found: Vec::new() }
    }

    /// Lists a sparse partition. From now on the partition notes new keys, which are added to the pieces as
    /// those are listed.
    pub(super) fn of_sparse(table: TableId, sparse: &mut SparsePartition, extent: Extent) -> Self {
        let changed = sparse.changed_mut().take();
        sparse.note_fresh(true);
        let wanted = match extent {
            Extent::Changed => changed,
            Extent::Full => ChangedPieces::all(PIECES),
        };
        let rows = sparse.row_count();
        let found = vec![Vec::new(); index_of(PIECES)];
        Self { table, wanted, at: 0, rows, found }
    }

    pub(super) fn table(&self) -> TableId {
        self.table
    }

    /// Lists the next part of a dense table's pieces; what that counts as, and whether it was the last.
    pub(super) fn list_dense(&mut self, queue: &mut Queue) -> (usize, bool) {
        let (from, last) = self.next_part(self.wanted.count());
        let pieces = (from..self.at).filter(|piece| self.wanted.contains(*piece));
        queue.extend(pieces.map(|piece| ((self.table, piece), Piece::Dense)));
        (index_of(self.at - from) * COST, last)
    }

    /// Lists the next part of a sparse table's keys. Its pieces are listed with the last part.
    pub(super) fn list_sparse(
        &mut self,
        sparse: &SparsePartition,
        queue: &mut Queue,
    ) -> (usize, bool) {
        // Later rows are noted as new ones.
        let (from, last) = self.next_part(self.rows);
        for (key, row) in sparse.keys_of(from..self.at) {
            let piece = piece_of(key);
            if self.wanted.contains(piece) {
                self.found[index_of(piece)].push((key, row));
            }
        }
        let cost = index_of(self.at - from) * COST;
        if !last {
            return (cost, false);
        }
        let filled =
            (0..).zip(std::mem::take(&mut self.found)).filter(|(_, keys)| !keys.is_empty());
        queue.extend(filled.map(|(piece, keys)| ((self.table, piece), Piece::Sparse(keys))));
        (cost, true)
    }

    /// Goes on by a part of `count` in all; where that began, and whether it was the last.
    fn next_part(&mut self, count: u64) -> (u64, bool) {
        let from = self.at;
        self.at = count.min(from + PART);
        (from, self.at == count)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "at most PIECES or PART")]
const fn index_of(number: u64) -> usize {
    number as usize
}

#[cfg(test)]
mod tests {
    use windlass_wire::{DataType, PartitionId, TableSchema};

    use super::*;

    fn list(listing: &mut Listing, sparse: &SparsePartition, queue: &mut Queue) -> bool {
        listing.list_sparse(sparse, queue).1
    }

    #[test]
    fn every_key_is_listed_once_while_others_are_made() {
        let schema = TableSchema::sparse(DataType::F32, 1);
        let mut sparse = SparsePartition::new(PartitionId(0), &schema);
        let mut memory = u64::MAX;
        sparse.track_changes();
        for key in 0..20_000 {
            sparse.row_of_or_new(key, &mut memory).unwrap();
        }
        let mut listing = Listing::of_sparse(TableId(1), &mut sparse, Extent::Full);
        let mut queue = Queue::new();
        assert!(!list(&mut listing, &sparse, &mut queue));
        // The index grows meanwhile.
        for key in 20_000..60_000 {
            sparse.row_of_or_new(key, &mut memory).unwrap();
        }
        let mut parts = 1;
        while !list(&mut listing, &sparse, &mut queue) {
            assert!(queue.is_empty());
            parts += 1;
        }
        assert_eq!(parts, 9);
        let mut keys = Vec::new();
        for ((_, number), piece) in &queue {
            let Piece::Sparse(rows) = piece else { panic!("a piece of keys") };
            assert!(rows.iter().all(|(key, row)| piece_of(*key) == *number && row == key));
            keys.extend(rows.iter().map(|(key, _)| *key));
        }
        keys.sort_unstable();
        assert!(keys.into_iter().eq(0..20_000));
        assert_eq!(sparse.take_fresh().count(), 40_000);
        let mut none = Listing::of_sparse(TableId(1), &mut sparse, Extent::Changed);
        queue.clear();
        while !list(&mut none, &sparse, &mut queue) {}
        assert!(queue.is_empty(), "nothing has changed since");
    }
}
