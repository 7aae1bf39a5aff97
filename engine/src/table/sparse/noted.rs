//! What is noted of changes: for checkpoints by piece and by new key, for images by row.

use super::{PIECES, SparsePartition};
use crate::table::{ChangedPieces, DirtyRows};

/// Keys that came and went.
#[derive(Debug, Default)]
pub(super) struct NotedKeys {
    /// Pieces that lost keys since they were copied into a checkpoint last.
    pub(super) thinned: ChangedPieces,
    /// Rows made since a checkpoint listed the keys it is going to copy.
    pub(super) fresh: Option<Vec<u64>>,
}

impl NotedKeys {
    /// A piece has lost a key.
    pub(super) fn thin(&mut self, piece: u64) {
        if !self.thinned.is_tracked() {
            self.thinned = ChangedPieces::none(PIECES);
        }
        self.thinned.set(piece, piece + 1);
    }
}

impl SparsePartition {
    /// From now on changes are noted by piece; all pieces count as changed.
    pub fn track_changes(&mut self) {
        self.changed = ChangedPieces::all(PIECES);
    }

    /// From now on changes are noted by row.
    pub fn track_dirty(&mut self) {
        self.dirty.track();
    }

    /// The rows that changed.
    #[must_use]
    pub fn dirty(&self) -> &DirtyRows {
        &self.dirty
    }

    /// Takes the keys, with their rows, whose rows changed.
    pub fn take_dirty(&mut self) -> Vec<(u64, u64)> {
        let mut rows = Vec::new();
        self.dirty.take(u64::MAX, |run| rows.push(run.start..run.end));
        rows.into_iter().flat_map(|rows| self.keys_of(rows)).collect()
    }

    /// The pieces that changed.
    #[must_use]
    pub fn changed_mut(&mut self) -> &mut ChangedPieces {
        &mut self.changed
    }

    /// Takes the pieces that lost keys since they were taken last, whether or not changes are noted.
    pub fn take_thinned(&mut self) -> ChangedPieces {
        std::mem::take(&mut self.noted.thinned)
    }

    /// Notes new keys from now on, or no more.
    pub fn note_fresh(&mut self, noted: bool) {
        self.noted.fresh = noted.then(Vec::new);
    }

    /// Takes the keys, with their rows, that were made since they were taken last and are still there.
    pub fn take_fresh(&mut self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let rows = self.noted.fresh.as_mut().map(std::mem::take).unwrap_or_default();
        let rows = rows.into_iter().filter(|row| !self.rows.is_free(*row));
        rows.map(|row| (self.key_of(row), row))
    }
}
