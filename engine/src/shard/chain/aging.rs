//! Rows of sparse tables that expire. Each replica stamps rows with its own time as they are pushed. The head of a
//! chain looks at some rows a turn, by position, and removes those that have to go by a record, as if somebody
//! had asked for it: replicas and recoveries remove the same rows between the same pushes.

use crossbeam::channel::bounded;
use windlass_replication::Time;
use windlass_wire::{Expiry, PartitionId, TableId};

use super::{Chain, check_head, set};
use crate::{
    limits::{AGED_PIECES_PER_LOOK, AGED_ROWS_PER_PIECE, AGES_PER_SWEEP},
    shard::{
        disk::Disk,
        image::removed_entry,
        port::Port,
        set_rows::{Changed, Entries},
        tables::{ShardTable, TableRows, Tables},
    },
    table::SparsePartition,
};

/// Time between looks while there are rows to look at, and otherwise.
const LOOK_US: u64 = 10_000;
const REST_US: u64 = 1_000_000;

/// Whoever looks less often than this stood still, and served nobody.
const SERVED_MAX_US: u64 = 5 * REST_US;

/// When rows of a shard are looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::shard) struct Aging {
    /// When to look next.
    next: Time,
    /// Up to when partitions have been told of the time that passed.
    told: Time,
}

/// How far a table's rows have been looked at.
#[derive(Debug, Default)]
pub(in crate::shard) struct Sweep {
    /// By slot of the table.
    places: Vec<Place>,
    /// The slot to be looked at next.
    at: usize,
    /// When rows are looked at for their age again.
    rests_until: Time,
}

/// A partition.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Where the scan goes on.
    from: u64,
    /// All of it has been looked at in this sweep.
    is_done: bool,
}

/// Looks at some rows of each table, when that is due.
pub(super) fn age_rows(port: &mut Port, tables: &mut Tables, chain: &mut Chain, disk: &Disk) {
    let now = chain.time.now;
    if now < tables.aging.next {
        return;
    }
    tables.pass_time(now);
    tables.aging.next = now.after(REST_US);
    let expiring = tables.by_id.values().filter(|table| table.expires());
    let ids: Vec<TableId> = expiring.map(|table| table.entry.id).collect();
    for id in ids {
        let mut pieces = 0;
        while pieces < AGED_PIECES_PER_LOOK
            && let Some(is_crowded) = look_at_one(port, tables, chain, disk, id)
        {
            pieces = if is_crowded { pieces + 1 } else { AGED_PIECES_PER_LOOK };
            tables.aging.next = now.after(LOOK_US);
        }
    }
}

/// Looks at a piece of one partition, and has removed what has to go. `None` if none is to be looked at now;
/// otherwise whether the partition has more rows than it may have.
fn look_at_one(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &Disk,
    id: TableId,
) -> Option<bool> {
    let now = chain.time.now;
    let leads = |partition| check_head(chain, disk, partition).is_ok();
    let partitions = chain.map.partition_count();
    let found = tables.by_id.get_mut(&id)?.find_overdue(now, partitions, leads)?;
    port.statistics.rows_expired += found.keys.len() as u64;
    if !found.keys.is_empty() {
        let mut bytes = Vec::new();
        removed_entry(id, &found.keys, &mut bytes);
        let changed = Changed { rows: found.keys.len() as u64, next: None };
        // Nobody asked.
        let (answer, _) = bounded(1);
        let entries = Ok(Entries { bytes, changed });
        set::append_set(port, tables, chain, id, found.partition, entries, answer);
    }
    Some(found.is_crowded)
}

/// What a look at a piece of a partition found.
#[derive(Debug, PartialEq, Eq)]
struct Overdue {
    partition: PartitionId,
    keys: Vec<u64>,
    /// The partition has more rows than it may have.
    is_crowded: bool,
}

impl Tables {
    /// When to look next; `None` while no table's rows expire.
    pub(super) fn next_aging(&self) -> Option<Time> {
        self.by_id.values().any(ShardTable::expires).then_some(self.aging.next)
    }

    /// Tells partitions whose rows expire of the time that passed. What the server stood still is not service.
    fn pass_time(&mut self, now: Time) {
        let passed_us = now.since(self.aging.told);
        let seconds = passed_us.min(SERVED_MAX_US) / 1_000_000;
        if seconds == 0 {
            return;
        }
        self.aging.told = if passed_us > SERVED_MAX_US {
            now
        } else {
            self.aging.told.after(seconds * 1_000_000)
        };
        for table in self.by_id.values_mut().filter(|table| table.expires()) {
            if let TableRows::Sparse(partitions) = &mut table.rows {
                let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
                partitions.iter_mut().for_each(|sparse| sparse.pass_time(seconds));
            }
        }
    }
}

impl ShardTable {
    /// Whether rows go by themselves.
    pub(in crate::shard) fn expires(&self) -> bool {
        !self.entry.schema.expiry.is_never()
    }

    /// Finds the rows that have to go in a piece of the next partition that is led here and to be looked at.
    fn find_overdue(
        &mut self,
        now: Time,
        partitions: u32,
        leads: impl Fn(PartitionId) -> bool,
    ) -> Option<Overdue> {
        let expiry = self.entry.schema.expiry;
        let rows_max = expiry.rows_max_of_partition(partitions);
        let TableRows::Sparse(partitions) = &self.rows else { return None };
        let sweep = &mut self.sweep;
        sweep.places.resize(partitions.len(), Place::default());
        let ages = expiry.age_s > 0 && now >= sweep.rests_until;
        let is_crowded =
            |slot: usize| rows_max.is_some_and(|max| partitions[slot].row_count() > max);
        let is_led = |slot: &usize| leads(partitions[*slot].partition());
        let to_be_aged = |places: &[Place], slot: usize| ages && !places[slot].is_done;
        let slots = (0..partitions.len()).map(|step| (sweep.at + step) % partitions.len());
        let mut wanted = slots.filter(|slot| is_crowded(*slot) || to_be_aged(&sweep.places, *slot));
        let Some(slot) = wanted.find(is_led) else {
            if ages {
                // The sweep is over.
                let rest_us = u64::from(expiry.age_s / AGES_PER_SWEEP) * 1_000_000;
                sweep.rests_until = now.after(rest_us.max(REST_US));
                sweep.places.iter_mut().for_each(|place| place.is_done = false);
            }
            return None;
        };
        drop(wanted);
        let (sparse, place) = (&partitions[slot], &mut sweep.places[slot]);
        let (rows, next) = ages_of(sparse, place.from);
        place.from = next.unwrap_or(0);
        place.is_done |= next.is_none();
        sweep.at = slot + usize::from(next.is_none());
        let (partition, is_crowded) = (sparse.partition(), is_crowded(slot));
        let mut keys = overdue(rows, expiry, sparse.row_count(), rows_max);
        // Rows that pushes of an open round wait for stay for it.
        keys.retain(|key| !self.has_open_sum_of(partition, &[*key]));
        Some(Overdue { partition, keys, is_crowded })
    }
}

/// Keys of some rows from a position on, each with its age, and where to go on.
fn ages_of(sparse: &SparsePartition, from: u64) -> (Vec<(u32, u64)>, Option<u64>) {
    let mut found = Vec::new();
    let next = sparse.scan(from, AGED_ROWS_PER_PIECE, &mut found);
    found.iter().for_each(|(_, row)| sparse.fetch_age(*row));
    (found.into_iter().map(|(key, row)| (sparse.age_of(row), key)).collect(), next)
}

/// Of some of a partition's rows, given by age and key, those that have to go: the ones that are too old, and of the ones
/// that are too many the oldest, as large a part of these as of all.
fn overdue(
    mut rows: Vec<(u32, u64)>,
    expiry: Expiry,
    row_count: u64,
    rows_max: Option<u64>,
) -> Vec<u64> {
    let excess = rows_max.map_or(0, |max| row_count.saturating_sub(max));
    let share = (rows.len() as u128 * u128::from(excess)).div_ceil(u128::from(row_count.max(1)));
    let share = usize::try_from(share).unwrap_or(usize::MAX);
    // The oldest first.
    rows.sort_unstable_by(|a, b| b.cmp(a));
    let too_old = rows.partition_point(|(age, _)| expiry.age_s > 0 && *age > expiry.age_s);
    rows.truncate(share.max(too_old));
    rows.into_iter().map(|(_, key)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_too_old_go_and_of_too_many_the_oldest() {
        let rows =
            || (1..=8).map(|key| (u32::try_from(key).unwrap() * 10, key)).collect::<Vec<_>>();
        let by = |text: &str, row_count, rows_max| {
            overdue(rows(), text.parse().unwrap(), row_count, rows_max)
        };
        assert_eq!(by("age:60s", 8, None), [8, 7], "what is just as old stays");
        assert_eq!(by("age:1h", 8, None), Vec::<u64>::new());
        assert_eq!(by("rows:6", 8, Some(6)), [8, 7]);
        assert_eq!(by("rows:6", 6, Some(6)), Vec::<u64>::new());
        // A quarter of all rows has to go, so a quarter of these.
        assert_eq!(by("rows:600", 800, Some(600)), [8, 7]);
        assert_eq!(by("rows:800", 801, Some(800)), [8], "somebody goes");
        assert_eq!(by("age:40s,rows:6", 8, Some(6)), [8, 7, 6, 5]);
        assert_eq!(by("age:70s,rows:4", 8, Some(4)), [8, 7, 6, 5]);
        let none = overdue(Vec::new(), "age:1s".parse().unwrap(), 0, None);
        assert!(none.is_empty());
    }
}
