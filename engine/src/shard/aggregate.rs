//! Sums the pushes of one turn to the same table and applies the rule once to the sum. So the result of a
//! rule that is not linear does not depend on the order of pushes within a turn.
#![allow(unsafe_code)]

use windlass_wire::{DataType, RowRange, Status, TableSchema, rule::Merge};

use super::{
    admitted::RowsOf,
    chain::Chain,
    port::Port,
    push::{Refused, Way, session_of, way_of},
    staging::Staging,
    tables::{ShardTable, TableRows, Tables},
    work::{Turn, Work, values_pointer},
    writes::Writes,
};
use crate::{
    limits::{AGGREGATE_LEN_MAX, IMAGE_PARTITION_LEN_MAX},
    table::HashIndex,
    update::Accumulator,
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
        let (row, new) = self.index.find_or_insert(key, self.keys.len() as u64);
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
            None => self.index.find_or_insert(key, self.keys.len() as u64),
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

    /// Applies the sums so far and forgets them.
    fn apply(&mut self, table: &mut ShardTable, memory: &mut u64) {
        let sum_len = self.sum_len;
        let mut at = 0;
        while at < self.keys.len() {
            let key = self.keys[at];
            table.look_ahead(&self.keys, at);
            let partition = table.layout.partition_of(key);
            let slot = table.slots.find(partition).expect("rows that were checked are here");
            let sums = self.sums.as_ptr().cast::<u8>().wrapping_add(at * sum_len);
            let mut count = 1;
            match &mut table.rows {
                TableRows::Sparse(partitions) => {
                    let sparse = &mut partitions[slot];
                    // SAFETY: `sums` is one row of sums of the sum kernel's gradient dtype, in
                    // the aggregator's own memory; the kernel is the table's.
                    let applied = unsafe { sparse.apply(table.rule.sums(), key, sums, memory) };
                    debug_assert!(applied.is_ok(), "rows were reserved");
                }
                TableRows::Dense(partitions) => {
                    let dense = &mut partitions[slot].0;
                    let expected = self.keys[at..].iter().zip(key..dense.rows().end);
                    count = expected.take_while(|(found, expected)| **found == *expected).count();
                    let rows = RowRange::new(key, key + count as u64);
                    // SAFETY: `sums` is `count` rows of sums beside each other, since rows are
                    // numbered in the order of `keys`; otherwise as above.
                    unsafe { dense.apply(table.rule.sums(), rows, sums) };
                }
            }
            at += count;
        }
        self.start(sum_len);
    }
}

/// The dtype of what pushes to a table are summed to.
pub(super) fn sum_dtype_of(schema: &TableSchema) -> DataType {
    match schema.rule.merge() {
        Merge::Sum => Accumulator::sum_dtype(schema.dtype),
        _ => schema.dtype,
    }
}

/// The values of one push, row by row.
#[derive(Clone, Copy, Debug)]
pub(super) struct PushedValues {
    /// Readable for the rest of the turn.
    values: *const u8,
    row_count: u32,
}

impl PushedValues {
    /// Those of a push of this turn; `None` of one without rows.
    pub(super) fn of(turn: &Turn, staging: &Staging, work: &Work) -> Option<Self> {
        let values = values_pointer(turn, staging, work)?;
        Some(Self { values, row_count: work.header.row_count })
    }

    /// Adds a row to the sum of its key; of rules whose last push counts, puts it there.
    #[inline]
    pub(super) fn add_row(
        &self,
        row: u32,
        key: u64,
        schema: &TableSchema,
        accumulator: &Accumulator,
        sums: &mut Aggregator,
    ) {
        let (width, row_len) = (schema.width as usize, schema.width as usize * schema.dtype.size());
        assert!(row < self.row_count, "a row of the push");
        assert_eq!(sums.sum_len(), width * sum_dtype_of(schema).size(), "sums of this table");
        let (sum, new) = sums.place_of(key);
        let pushed = self.values.wrapping_add(row as usize * row_len);
        // SAFETY: `sum` has room for one row of sums in the aggregator and was set unless it is
        // new; `pushed` is row `row` of the push's readable values, which lie elsewhere.
        unsafe {
            if schema.rule.merge() != Merge::Sum {
                std::ptr::copy_nonoverlapping(pushed, sum, row_len);
            } else if new {
                accumulator.set(sum, pushed, width);
            } else {
                accumulator.add(sum, pushed, width);
            }
        }
    }
}

/// Carries out this push and later ones of the turn to the same table, as their sum. A session's
/// pushes stay in order, whatever their tables: duplicates are told by the highest sequence, so a
/// push that is overtaken would be taken for one.
pub(super) fn push_sum(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    writes: &mut Writes,
    first: usize,
) {
    let header = port.turn.works[first].header;
    let (id, table) = (header.table, &tables.by_id[&header.table]);
    let (way, image_len) = (way_of(table, &header), table.row_image_len());
    let sum_len = header.width as usize * table.rule.sums().gradient_dtype().size();
    writes.aggregator.start(sum_len);
    writes.aggregator.behind.clear();
    for at in first..port.turn.works.len() {
        let work = port.turn.works[at];
        if work.closed || work.pushed || !work.header.kind.pushes() {
            continue;
        }
        if writes.aggregator.behind.contains(&work.session) {
            continue;
        }
        // What is recorded otherwise is not summed with it; what is recorded later fits one image.
        let imaged = writes.aggregator.keys.len() as u64 * image_len;
        let fits = way != Way::Images || imaged <= IMAGE_PARTITION_LEN_MAX;
        let is_same = || way_of(&tables.by_id[&id], &work.header) == way;
        if work.header.table != id || !fits || !is_same() {
            writes.aggregator.behind.push(work.session);
            continue;
        }
        if port.is_behind_refused(at) {
            port.close(at, Status::StaleEpoch, 0);
            continue;
        }
        let outcome = add_to_sums(port, tables, chain, writes, at);
        port.statistics.aggregated += 1;
        port.finish_push(at, outcome);
    }
    let Writes { aggregator, .. } = writes;
    let Tables { by_id: tables, memory_left, .. } = tables;
    let table = tables.get_mut(&id).expect("a push that was checked has its table");
    aggregator.apply(table, memory_left);
}

fn add_to_sums(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    writes: &mut Writes,
    at: usize,
) -> Result<(), Refused> {
    let Port { turn, staging, sessions, .. } = port;
    let Writes { admitted, .. } = writes;
    let Tables { by_id: tables, memory_left, .. } = tables;
    let work = &turn.works[at];
    // One of no rows.
    let Some(values) = values_pointer(turn, staging, work) else { return Ok(()) };
    let table = tables.get_mut(&work.header.table).expect("a push that was checked has its table");
    let (width, row_len) = (work.header.width as usize, work.row_len());
    let rows = work.rows(&turn.keys);
    if let RowsOf::Keys(keys) = rows {
        table.make_rows(keys, memory_left)?;
    }
    let push = session_of(sessions, work).push(work.header.sequence);
    let admission = admitted.admit(chain, &table.layout, rows, (work.session, &push));
    port.statistics.duplicates += u64::from(admission?);
    for row in 0..work.header.row_count as usize {
        let key = match rows {
            RowsOf::Range(rows) => rows.start + row as u64,
            RowsOf::Keys(keys) => keys[row],
        };
        if !admitted.is_fresh(table.layout.partition_of(key)) {
            continue;
        }
        let (sum, new) = writes.aggregator.sum_of(key).unwrap_or_else(|| {
            writes.aggregator.apply(table, memory_left);
            writes.aggregator.sum_of(key).expect("an empty aggregator has room for a row")
        });
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
    Ok(())
}
