//! Making one record of the rows that a turn's pushes bring to one partition of a table: the rows of a
//! single push as they are, those of several as their sum.
#![allow(unsafe_code)]

use windlass_wire::{
    DataType, Durability, PartitionId, RowRange, Rows, TableSchema, WorkerRank, rule::Merge,
};

use super::part::Held;
use crate::{
    persist::{
        commit,
        frame::{Kind, Salt},
        record::{Covered, Draft, Facts, RecordMut, Shape, Stamp},
    },
    shard::{
        aggregate::Aggregator,
        staging::Staging,
        tables::{ShardTable, TableRows},
        work::{Turn, Work, scans_do_not_push, values_pointer},
    },
    update::Accumulator,
};

/// Bit of a record's tag: it must be on the disk of every replica before it is acknowledged.
pub(in crate::shard) const SYNC: u16 = 1;

/// Rows of one push in one partition, beside each other in the push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) struct Span {
    pub(in crate::shard) partition: PartitionId,
    /// Which of the group's pushes.
    pub(in crate::shard) member: u32,
    /// First row, by row of the push.
    pub(in crate::shard) row: u32,
    pub(in crate::shard) count: u32,
}

/// One push of the group.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Member {
    /// Its place in the turn.
    pub(in crate::shard) at: usize,
    pub(in crate::shard) work: Work,
    /// Its values, readable for the rest of the turn.
    pub(in crate::shard) values: *const u8,
    pub(in crate::shard) covered: Covered,
    /// The worker it is of.
    pub(in crate::shard) rank: Option<WorkerRank>,
    /// Whether the partition at hand takes it in.
    pub(in crate::shard) is_in: bool,
}

// The pointer is only followed by the shard that owns the turn.
// SAFETY: `Member` is scratch of one shard, which moves to another thread only between turns, when
// there are no members.
unsafe impl Send for Member {}

/// Buffers used again each turn.
#[derive(Debug, Default)]
pub(in crate::shard) struct Scratch {
    pub(super) members: Vec<Member>,
    pub(super) spans: Vec<Span>,
    pub(super) behind: Vec<usize>,
}

impl Scratch {
    /// Cuts the members' rows at partitions, in the order of partitions, members and rows.
    pub(super) fn cut(&mut self, table: &ShardTable, keys: &[u64]) {
        let Self { members, spans, .. } = self;
        spans.clear();
        for (member, one) in (0_u32..).zip(members.iter()) {
            let work = &one.work;
            let mut row = 0;
            while row < work.header.row_count {
                let (partition, count) = match work.header.rows {
                    Rows::Range { first } => {
                        let first = first + u64::from(row);
                        let partition = table.layout.partition_of(first);
                        let end = table.layout.rows_of(partition).end.max(first + 1);
                        let left = work.header.row_count - row;
                        (partition, u32::try_from(end - first).unwrap_or(left).min(left))
                    }
                    Rows::Keys => {
                        let keys = &keys[work.keys.0 + row as usize..work.keys.1];
                        let partition = table.layout.partition_of(keys[0]);
                        let same = |key: &&u64| table.layout.partition_of(**key) == partition;
                        let count = keys.iter().take_while(same).count();
                        (partition, u32::try_from(count).unwrap_or(u32::MAX))
                    }
                    Rows::Partition { .. } => scans_do_not_push(),
                };
                spans.push(Span { partition, member, row, count });
                row += count;
            }
        }
        let order = |span: &Span| (span.partition, span.member, span.row);
        if !spans.is_sorted_by_key(order) {
            spans.sort_unstable_by_key(order);
        }
    }
}

/// What a record is made of.
pub(super) struct Ingredients<'a> {
    pub(super) table: &'a ShardTable,
    pub(super) members: &'a [Member],
    /// Of one partition.
    pub(super) spans: &'a [Span],
    /// Keys of the turn.
    pub(super) keys: &'a [u64],
    pub(super) facts: Facts,
    /// Clock of the one worker whose rows these are.
    pub(super) stamp: Option<Stamp>,
}

impl<'a> Ingredients<'a> {
    fn spans_in(&self) -> impl Iterator<Item = (&'a Span, &'a Member)> + use<'a> {
        let members = self.members;
        let spans = self.spans.iter().map(move |span| (span, &members[span.member as usize]));
        spans.filter(|(_, member)| member.is_in)
    }

    fn key_of(&self, member: &Member, row: u32) -> u64 {
        match member.work.header.rows {
            Rows::Range { first } => first + u64::from(row),
            Rows::Keys => self.keys[member.work.keys.0 + row as usize],
            Rows::Partition { .. } => scans_do_not_push(),
        }
    }

    fn is_dense(&self) -> bool {
        matches!(self.table.rows, TableRows::Dense(_))
    }
}

/// Whether a record of these pushes must be on disk first.
pub(super) fn is_sync(table: &ShardTable, work: &Work) -> bool {
    work.header.sync || table.entry.schema.durability == (Durability::Sync {})
}

/// Makes the record; `None` when it passes a limit. `take` gives a buffer of so many bytes.
pub(super) fn build(
    mut from: Ingredients<'_>,
    lsn: windlass_wire::Lsn,
    aggregator: &mut Aggregator,
    take: impl FnOnce(usize) -> Vec<u64>,
) -> Option<Held> {
    let mut member_count = 0;
    for member in from.members.iter().filter(|member| member.is_in) {
        member_count += 1;
        if is_sync(from.table, &member.work) {
            from.facts.tag |= SYNC;
        }
    }
    from.facts.durability = commit::Durability::Memory;
    if member_count == 1 {
        let mut rows = from.spans_in();
        let (span, member) = rows.next()?;
        let first = from.key_of(member, span.row);
        let is_range = from.is_dense() && rows.next().is_none() && {
            let last = from.key_of(member, span.row + span.count - 1);
            last - first + 1 == u64::from(span.count)
        };
        let count: u32 = from.spans_in().map(|(span, _)| span.count).sum();
        let rows = is_range.then(|| RowRange::new(first, first + u64::from(count)));
        return copy_one(&from, lsn, count as usize, rows, take);
    }
    sum_up(&mut from, aggregator);
    let keys = aggregator.keys();
    // Of sparse tables only lists of keys are recorded, and behind the highest of those is none.
    let consecutive =
        from.is_dense() && keys.iter().zip(keys[0]..).all(|(key, expected)| *key == expected);
    let rows = consecutive.then(|| RowRange::new(keys[0], keys[0] + keys.len() as u64));
    let sum_len = aggregator.sum_len();
    let delta_bytes = keys.len() * sum_len + from.table.rule.suffix().len();
    let shape = shape_of(member_count, keys.len(), rows, delta_bytes)?;
    fill(&from, lsn, shape, rows, take, |into_keys, into| {
        for (to, key) in into_keys.chunks_exact_mut(8).zip(keys) {
            to.copy_from_slice(&key.to_le_bytes());
        }
        into.copy_from_slice(&aggregator.sums()[..into.len()]);
    })
}

/// The rows of one push, as they came.
fn copy_one(
    from: &Ingredients<'_>,
    lsn: windlass_wire::Lsn,
    count: usize,
    rows: Option<RowRange>,
    take: impl FnOnce(usize) -> Vec<u64>,
) -> Option<Held> {
    let row_len = row_len_of(from);
    let delta_bytes = count * row_len + from.table.rule.suffix().len();
    let shape = shape_of(1, count, rows, delta_bytes)?;
    fill(from, lsn, shape, rows, take, |mut keys, mut into| {
        for (span, member) in from.spans_in() {
            let len = span.count as usize * row_len;
            let (to, rest) = std::mem::take(&mut into).split_at_mut(len);
            into = rest;
            let values = member.values.wrapping_add(span.row as usize * row_len);
            // SAFETY: the push's values are readable for all of its rows, of which these are
            // `span.count` from `span.row` on; the record is the chain's own memory.
            unsafe { std::ptr::copy_nonoverlapping(values, to.as_mut_ptr(), len) };
            if rows.is_none() {
                for row in span.row..span.row + span.count {
                    let (to, rest) = std::mem::take(&mut keys).split_at_mut(8);
                    keys = rest;
                    to.copy_from_slice(&from.key_of(member, row).to_le_bytes());
                }
            }
        }
    })
}

/// The record of a push of this turn alone, of the rows that the facts name, whose delta ends with `rule`; `take` gives memory of a record's
/// length. `None` for what pushes no values.
///
/// # Panics
///
/// When the shape's delta is not as long as the push's values and the rule.
pub(super) fn build_range(
    (facts, shape): (Facts, Shape),
    covered: Covered,
    lsn: windlass_wire::Lsn,
    (turn, staging, work, rule): (&Turn, &Staging, &Work, &[u8]),
    take: impl FnOnce(usize) -> Vec<u64>,
) -> Option<Held> {
    let values = values_pointer(turn, staging, work)?;
    let values_len = shape.delta_bytes - rule.len();
    assert_eq!(values_len as u64, work.header.values_len(), "a delta is the push's values");
    let mut words = take(shape.length());
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    let mut draft = Draft::new(facts, shape, lsn);
    draft.prepare(bytes);
    let mut record = RecordMut::new(bytes, &mut draft);
    let (to, end) = record.delta().split_at_mut(values_len);
    end.copy_from_slice(rule);
    // SAFETY: `values` are readable for the rest of the turn, as many as the header says, which is the length
    // of `to`; the record is the chain's own memory.
    unsafe { std::ptr::copy_nonoverlapping(values, to.as_mut_ptr(), to.len()) };
    record.cover(covered);
    draft.seal(bytes, Salt::NONE);
    Some(Held { lsn, words })
}

/// Sums the members' rows, or for rules whose last push counts, takes the last one of each row.
fn sum_up(from: &mut Ingredients<'_>, aggregator: &mut Aggregator) {
    let schema = &from.table.entry.schema;
    from.facts.dtype = sum_dtype_of(schema);
    aggregator.start(schema.width as usize * from.facts.dtype.size());
    for (span, member) in from.spans_in() {
        for row in span.row..span.row + span.count {
            let key = from.key_of(member, row);
            member.add_row((row, key), (schema, &from.table.accumulator), aggregator);
        }
    }
}

/// The dtype of what pushes to a table are summed to.
pub(in crate::shard) fn sum_dtype_of(schema: &TableSchema) -> DataType {
    match schema.rule.merge() {
        Merge::Sum => Accumulator::sum_dtype(schema.dtype),
        _ => schema.dtype,
    }
}

impl Member {
    /// Adds a row of the push to the sum of its key; of rules whose last push counts, puts it there.
    #[inline]
    pub(in crate::shard) fn add_row(
        &self,
        (row, key): (u32, u64),
        (schema, accumulator): (&TableSchema, &Accumulator),
        sums: &mut Aggregator,
    ) {
        let (width, row_len) = (schema.width as usize, schema.width as usize * schema.dtype.size());
        assert!(row < self.work.header.row_count, "a row of the push");
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

fn row_len_of(from: &Ingredients<'_>) -> usize {
    let schema = &from.table.entry.schema;
    schema.width as usize * schema.dtype.size()
}

fn shape_of(
    covered_max: usize,
    count: usize,
    rows: Option<RowRange>,
    delta_bytes: usize,
) -> Option<Shape> {
    let keys = if rows.is_some() { 0 } else { count };
    let shape = Shape { covered_max, stamps_max: 1, keys, delta_bytes };
    (keys <= crate::persist::limits::KEYS_MAX && shape.is_allowed()).then_some(shape)
}

fn fill(
    from: &Ingredients<'_>,
    lsn: windlass_wire::Lsn,
    shape: Shape,
    rows: Option<RowRange>,
    take: impl FnOnce(usize) -> Vec<u64>,
    write: impl FnOnce(&mut [u8], &mut [u8]),
) -> Option<Held> {
    let facts = Facts {
        kind: if rows.is_some() { Kind::Rows } else { Kind::Keys },
        rows: rows.unwrap_or_default(),
        ..from.facts
    };
    let mut words = take(shape.length());
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    let mut draft = Draft::new(facts, shape, lsn);
    draft.prepare(bytes);
    let mut record = RecordMut::new(bytes, &mut draft);
    let (keys, delta) = match rows {
        Some(_) => (&mut [][..], record.delta()),
        None => record.keys_and_delta(),
    };
    let rule = from.table.rule.suffix();
    let (values, end) = delta.split_at_mut(shape.delta_bytes - rule.len());
    end.copy_from_slice(rule);
    write(keys, values);
    for member in from.members.iter().filter(|member| member.is_in) {
        record.cover(member.covered);
    }
    if let Some(stamp) = from.stamp {
        record.stamp(stamp);
    }
    draft.seal(bytes, Salt::NONE);
    Some(Held { lsn, words })
}
