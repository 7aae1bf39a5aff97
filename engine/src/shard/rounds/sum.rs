//! The sum of one round in one partition, and the record that closes it.

use windlass_wire::{DataType, Epoch, Lsn, PartitionId, RowRange, Status, TableSchema};

use super::CLOSES;
use crate::{
    limits::CHAIN_RECORD_VALUES_MAX,
    persist::{
        commit,
        frame::{Kind, Salt},
        limits::{COVERED_MAX, KEYS_MAX},
        record::{Covered, Draft, Facts, RecordMut, Shape, Stamp},
    },
    shard::{
        aggregate::{Aggregator, PushedValues, sum_dtype_of},
        tables::ShardTable,
    },
    update::Accumulator,
};

/// Pushes of a round, summed by row; of rules whose last push counts, the last of each row.
#[derive(Debug)]
pub(super) struct Sum {
    rows: Aggregator,
    dtype: DataType,
    /// The highest sequence of each session in it.
    covered: Vec<Covered>,
}

impl Sum {
    pub(super) fn new(schema: &TableSchema) -> Self {
        let dtype = sum_dtype_of(schema);
        let mut rows = Aggregator::new();
        rows.start(schema.width as usize * dtype.size());
        Self { rows, dtype, covered: Vec::new() }
    }

    /// Whether a session's push, or a later one of it, is in it.
    pub(super) fn has(&self, push: Covered) -> bool {
        let life = (push.incarnation, push.sequence);
        self.of(push).is_some_and(|one| (one.incarnation, one.sequence) >= life)
    }

    /// Whether any push of this life of a session is in it.
    pub(super) fn has_pushes_of(&self, push: Covered) -> bool {
        self.of(push).is_some_and(|one| one.incarnation == push.incarnation)
    }

    fn of(&self, push: Covered) -> Option<&Covered> {
        self.covered.iter().find(|one| one.session == push.session)
    }

    /// Whether a push's rows fit the record of the round beside those that are in it.
    pub(super) fn check_room(
        &self,
        push: Covered,
        rows: impl Iterator<Item = (u32, u64)> + Clone,
    ) -> Result<(), Status> {
        if self.covered.len() >= COVERED_MAX && self.of(push).is_none() {
            return Err(Status::Full);
        }
        let fits = |count: usize| {
            count <= KEYS_MAX && (count * self.rows.sum_len()) as u64 <= CHAIN_RECORD_VALUES_MAX
        };
        let (held, pushed) = (self.rows.keys().len(), rows.clone().count());
        let new = || rows.filter(|(_, key)| !self.rows.has(*key)).count();
        if fits(held + pushed) || fits(held + new()) { Ok(()) } else { Err(Status::TooLarge) }
    }

    /// Adds a push's rows of one partition.
    pub(super) fn add(
        &mut self,
        schema: &TableSchema,
        accumulator: &Accumulator,
        push: Covered,
        values: PushedValues,
        rows: impl Iterator<Item = (u32, u64)>,
    ) {
        for (row, key) in rows {
            values.add_row(row, key, schema, accumulator, &mut self.rows);
        }
        match self.covered.iter_mut().find(|one| one.session == push.session) {
            Some(one) => *one = push,
            None => self.covered.push(push),
        }
    }

    /// Whether a push to a row is in it.
    pub(super) fn has_row(&self, key: u64) -> bool {
        self.rows.has(key)
    }

    /// The pushes in it.
    pub(super) fn covered(&self) -> &[Covered] {
        &self.covered
    }
}

/// What the record of a round says beside its rows.
pub(super) struct Closing<'a> {
    pub(super) partition: PartitionId,
    pub(super) epoch: Epoch,
    pub(super) lsn: Lsn,
    /// Workers that have finished the round.
    pub(super) stamps: &'a [Stamp],
}

/// The record that closes a round: with its sum, if anybody pushed anything.
pub(super) fn closing_record(
    table: &ShardTable,
    closing: &Closing<'_>,
    sum: Option<&Sum>,
    take: impl FnOnce(usize) -> Vec<u64>,
) -> Vec<u64> {
    let keys = sum.map_or(&[][..], |sum| sum.rows.keys());
    let consecutive = keys.first().is_some_and(|first| {
        table.is_dense() && keys.iter().zip(*first..).all(|(key, expected)| *key == expected)
    });
    let kind = match (keys.is_empty(), consecutive) {
        (true, _) => Kind::ClockAdvance,
        (false, true) => Kind::Rows,
        (false, false) => Kind::Keys,
    };
    let rows = match kind {
        Kind::Rows => RowRange::new(keys[0], keys[0] + keys.len() as u64),
        _ => RowRange::default(),
    };
    let covered = sum.map_or(&[][..], Sum::covered);
    let values_len = sum.map_or(0, |sum| keys.len() * sum.rows.sum_len());
    let (rule, tag) = match sum {
        Some(_) => (table.rule.suffix(), table.rule.tag()),
        None => (&[][..], 0),
    };
    let shape = Shape {
        covered_max: covered.len(),
        stamps_max: closing.stamps.len(),
        keys: if kind == Kind::Keys { keys.len() } else { 0 },
        delta_bytes: values_len + rule.len(),
    };
    let facts = Facts {
        kind,
        partition: closing.partition,
        epoch: closing.epoch,
        table: table.entry.id,
        dtype: sum.map_or(DataType::I8, |sum| sum.dtype),
        rows,
        tag: CLOSES | tag,
        durability: commit::Durability::Memory,
    };
    let mut words = take(shape.length());
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    let mut draft = Draft::new(facts, shape, closing.lsn);
    draft.prepare(bytes);
    let mut record = RecordMut::new(bytes, &mut draft);
    if let Some(sum) = sum {
        let (values, end) = record.delta().split_at_mut(values_len);
        values.copy_from_slice(&sum.rows.sums()[..values_len]);
        end.copy_from_slice(rule);
    }
    if kind == Kind::Keys {
        for (to, key) in record.keys_and_delta().0.chunks_exact_mut(8).zip(keys) {
            to.copy_from_slice(&key.to_le_bytes());
        }
    }
    covered.iter().for_each(|one| record.cover(*one));
    closing.stamps.iter().for_each(|stamp| record.stamp(*stamp));
    draft.seal(bytes, Salt::NONE);
    words
}
