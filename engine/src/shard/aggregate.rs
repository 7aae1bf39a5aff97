//! Summing the pushes of one turn that hit the same table, so that its rule is applied once to the
//! sum: what makes rules that are not linear independent of how pushes fall into turns' order.
#![allow(unsafe_code)]

use windlass_wire::{RowRange, Rows, Status};

use super::{
    Shard,
    image::may_wait,
    push::{RowsOf, record},
    session::Applied,
    tables::{ShardTable, TableRows},
    work::scans_do_not_push,
};
use crate::{
    limits::{AGGREGATE_LEN_MAX, IMAGE_PARTITION_LEN_MAX},
    table::HashIndex,
};

/// Sums by row of one table.
#[derive(Debug)]
pub(super) struct Aggregator {
    index: HashIndex,
    /// Key of each sum, in order of first appearance.
    keys: Vec<u64>,
    sums: Vec<u64>,
    sum_len: usize,
    /// Sessions with a push to another table that is not carried out yet.
    behind: Vec<usize>,
}

impl Aggregator {
    pub(super) fn new() -> Self {
        Self {
            index: HashIndex::new(),
            keys: Vec::new(),
            sums: Vec::new(),
            sum_len: 0,
            behind: Vec::new(),
        }
    }

    /// Forgets all sums; rows take `sum_len` bytes from now on.
    pub(super) fn start(&mut self, sum_len: usize) {
        self.index.clear();
        self.keys.clear();
        self.sum_len = sum_len;
    }

    /// Keys summed so far, in order of first appearance.
    pub(super) fn keys(&self) -> &[u64] {
        &self.keys
    }

    /// Their sums, beside each other in the same order.
    pub(super) fn sums(&self) -> &[u8] {
        bytemuck::cast_slice(&self.sums)
    }

    /// Bytes of one sum.
    pub(super) fn sum_len(&self) -> usize {
        self.sum_len
    }

    /// Whether a row has a sum.
    pub(super) fn has(&self, key: u64) -> bool {
        self.index.find(key).is_some()
    }

    /// Where the sum of a row is, and whether it is a new one that still has to be set.
    pub(super) fn place_of(&mut self, key: u64) -> (*mut u8, bool) {
        let (row, new) = self.index.find_or_insert(key);
        self.place(key, row, new)
    }

    /// Where the sum of a row is, and whether it is a new one that still has to be set; `None` when
    /// there is no room for a new one.
    fn sum_of(&mut self, key: u64) -> Option<(*mut u8, bool)> {
        let (row, new) = match self.index.find(key) {
            Some(row) => (row, false),
            None if (self.keys.len() + 1) * self.sum_len > AGGREGATE_LEN_MAX.max(self.sum_len) => {
                return None;
            }
            None => self.index.find_or_insert(key),
        };
        Some(self.place(key, row, new))
    }

    fn place(&mut self, key: u64, row: u64, new: bool) -> (*mut u8, bool) {
        if new {
            self.keys.push(key);
            let words = (self.keys.len() * self.sum_len).div_ceil(8);
            if words > self.sums.len() {
                self.sums.resize(words, 0);
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "an index into memory")]
        let offset = row as usize * self.sum_len;
        (self.sums.as_mut_ptr().cast::<u8>().wrapping_add(offset), new)
    }
}

impl Shard {
    /// Carries out this push and later ones of the turn to the same table, as their sum. A session's
    /// pushes stay in order, whatever their tables: duplicates are told by the highest sequence, so a
    /// push that is overtaken would be taken for one.
    pub(super) fn push_sum(&mut self, first: usize) {
        let id = self.turn.works[first].header.table;
        let Some(mut table) = self.tables.remove(&id) else { return };
        let width = table.entry.schema.width as usize;
        self.aggregator.start(width * table.rule.sums().gradient_dtype().size());
        self.aggregator.behind.clear();
        let image_len = if table.is_imaged() { table.row_image_len() } else { 0 };
        for at in first..self.turn.works.len() {
            let work = self.turn.works[at];
            if work.closed || !work.header.kind.pushes() {
                continue;
            }
            if self.aggregator.behind.contains(&work.session) {
                continue;
            }
            // What has to be recorded is not summed with what is only applied; that fits one image.
            let imaged = self.aggregator.keys.len() as u64 * image_len;
            let waits =
                image_len == 0 || (may_wait(&work.header) && imaged <= IMAGE_PARTITION_LEN_MAX);
            if work.header.table != id || !waits {
                self.aggregator.behind.push(work.session);
                continue;
            }
            if self.is_behind_refused(at) {
                self.close(at, Status::StaleEpoch, 0);
                continue;
            }
            let outcome = self.add_to_sums(&mut table, at);
            self.statistics.aggregated += 1;
            self.finish_push(at, outcome);
        }
        self.apply_sums(&mut table);
        self.tables.insert(id, table);
    }

    fn add_to_sums(
        &mut self,
        table: &mut ShardTable,
        at: usize,
    ) -> Result<(), super::push::Refusal> {
        let work = self.turn.works[at];
        let Some(values) = self.values_pointer(&work) else { return Ok(()) };
        let width = work.header.width as usize;
        let row_len = width * work.header.dtype.size();
        let keys_at = work.keys.0;
        let key_of = |shard: &Self, row: usize| match work.header.rows {
            Rows::Range { first } => first + row as u64,
            Rows::Keys => shard.turn.keys[keys_at + row],
            Rows::Partition { .. } => scans_do_not_push(),
        };
        let keys = &self.turn.keys[work.keys.0..work.keys.1];
        table.make_rows(keys, &mut self.memory_left)?;
        let mut duplicates = false;
        for row in 0..work.header.row_count as usize {
            let key = key_of(self, row);
            let partition = table.layout.partition_of(key);
            let session = self.sessions[work.session].as_ref();
            if session.is_some_and(|session| {
                session.applied.contains(partition, self.shard_count, work.header.sequence)
            }) {
                duplicates = true;
                continue;
            }
            let (sum, new) = match self.aggregator.sum_of(key) {
                Some(found) => found,
                None => {
                    // A new start has room for one row at least.
                    self.apply_sums(table);
                    match self.aggregator.sum_of(key) {
                        Some(found) => found,
                        None => unreachable!("an empty aggregator has room for a row"),
                    }
                }
            };
            let pushed = values.wrapping_add(row * row_len);
            if new {
                // SAFETY: `sum` has room for one row of sums in the aggregator; `pushed` is row
                // `row` of the push's readable values, which lie elsewhere.
                unsafe { table.accumulator.set(sum, pushed, width) };
            } else {
                // SAFETY: as above, and the sum was set by an earlier push.
                unsafe { table.accumulator.add(sum, pushed, width) };
            }
        }
        self.statistics.duplicates += u64::from(duplicates);
        let mut none = Applied::default();
        let applied = match &mut self.sessions[work.session] {
            Some(session) => &mut session.applied,
            None => &mut none,
        };
        let rows = match work.header.rows {
            Rows::Range { first } => {
                RowsOf::Range(RowRange::new(first, first + u64::from(work.header.row_count)))
            }
            Rows::Keys => RowsOf::Keys(&self.turn.keys[work.keys.0..work.keys.1]),
            Rows::Partition { .. } => scans_do_not_push(),
        };
        record(applied, self.shard_count, work.header.sequence, table, rows);
        Ok(())
    }

    /// Applies the sums so far and forgets them.
    fn apply_sums(&mut self, table: &mut ShardTable) {
        let sum_len = self.aggregator.sum_len;
        let mut at = 0;
        while at < self.aggregator.keys.len() {
            let key = self.aggregator.keys[at];
            let partition = table.layout.partition_of(key);
            let slot = table.slots.find(partition);
            let sums = self.aggregator.sums.as_ptr().cast::<u8>().wrapping_add(at * sum_len);
            let mut count = 1;
            match &mut table.rows {
                TableRows::Sparse(partitions) => {
                    if let Some(sparse) = slot.and_then(|slot| partitions.get_mut(slot)) {
                        // SAFETY: `sums` is one row of sums of the sum kernel's gradient dtype, in
                        // the aggregator's own memory; the kernel is the table's.
                        let applied = unsafe {
                            sparse.apply(table.rule.sums(), key, sums, &mut self.memory_left)
                        };
                        debug_assert!(applied.is_ok(), "rows were reserved");
                    }
                }
                TableRows::Dense(partitions) => {
                    if let Some((dense, _)) = slot.and_then(|slot| partitions.get_mut(slot)) {
                        let end = dense.rows().end;
                        let keys = &self.aggregator.keys[at..];
                        count = keys
                            .iter()
                            .zip(key..end)
                            .take_while(|(found, expected)| **found == *expected)
                            .count();
                        let rows = RowRange::new(key, key + count as u64);
                        // SAFETY: `sums` is `count` rows of sums beside each other, since rows are
                        // numbered in the order of `keys`; otherwise as above.
                        unsafe { dense.apply(table.rule.sums(), rows, sums) };
                    }
                }
            }
            at += count;
        }
        self.aggregator.start(sum_len);
    }
}
