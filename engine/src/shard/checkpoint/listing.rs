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
    /// Of a sparse table, the end of its rows when the checkpoint began, the keys listed so far by piece, and
    /// the pieces of which an older block may have keys that are gone.
    rows_end: u64,
    found: Vec<Vec<(u64, u64)>>,
    thinned: ChangedPieces,
}

impl Listing {
    /// The pieces of a dense table: from now on others count as changed.
    pub(super) fn of_dense(table: TableId, dense: &mut DensePartition, extent: Extent) -> Self {
        let changed = dense.changed_mut().take();
        let wanted = match extent {
            Extent::Changed => changed,
            Extent::Full => ChangedPieces::all(dense.piece_count()),
        };
        let thinned = ChangedPieces::default();
        Self { table, wanted, at: 0, rows_end: 0, found: Vec::new(), thinned }
    }

    /// Lists a sparse partition. From now on the partition notes new keys, which are added to the pieces as
    /// those are listed.
    pub(super) fn of_sparse(table: TableId, sparse: &mut SparsePartition, extent: Extent) -> Self {
        let (changed, thinned) = (sparse.changed_mut().take(), sparse.take_thinned());
        sparse.note_fresh(true);
        let wanted = match extent {
            Extent::Changed => changed,
            Extent::Full => ChangedPieces::all(PIECES),
        };
        let found = vec![Vec::new(); index_of(PIECES)];
        Self { table, wanted, at: 0, rows_end: sparse.rows_end(), found, thinned }
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
        // Later rows are noted as new ones, and so are free ones that were given to new keys.
        let (from, last) = self.next_part(self.rows_end);
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
        let listed = (0..).zip(std::mem::take(&mut self.found));
        let copied =
            listed.filter(|(piece, keys)| !keys.is_empty() || self.thinned.contains(*piece));
        queue.extend(copied.map(|(piece, keys)| ((self.table, piece), Piece::Sparse(keys))));
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
        // Pieces that lost all of their keys are copied, too: older blocks have them.
        let lost = piece_of(5);
        let gone: Vec<u64> = (0..60_000).filter(|key| piece_of(*key) == lost).collect();
        assert!(gone.into_iter().all(|key| sparse.remove_row(key)));
        let mut thinned = Listing::of_sparse(TableId(1), &mut sparse, Extent::Changed);
        while !list(&mut thinned, &sparse, &mut queue) {}
        assert!(matches!(&queue[&(TableId(1), lost)], Piece::Sparse(keys) if keys.is_empty()));
        assert_eq!(queue.len(), 1);
        queue.clear();
        let mut none = Listing::of_sparse(TableId(1), &mut sparse, Extent::Changed);
        while !list(&mut none, &sparse, &mut queue) {}
        assert!(queue.is_empty(), "that was told");
    }
}
