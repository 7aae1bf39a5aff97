//! Removes rows of sparse tables, with their state. A record removes them at every replica.

use windlass_wire::{
    PartitionId, TableId, TableSchema,
    control::{REMOVED_KEYS_MAX, WhichRows},
};

use super::{
    chain,
    chain::Chain,
    disk::Disk,
    image::removed_entry,
    set_rows::{Changed, Entries, SetError, refused, table_of},
    tables::{TableRows, Tables},
};
use crate::{limits::PRUNED_VALUES_LEN_PER_TURN, table::SparsePartition, update::norm};

const DENSE: &str = "rows of dense tables are not removed: set them to zeros";
const NOT_A_NORM: &str = "a row's norm is compared with a number";

/// Puts the keys of rows to be removed as they are recorded; what that changes. No entry where it is nothing.
pub(super) fn entries_of(
    tables: &mut Tables,
    chain: &Chain,
    disk: &Disk,
    id: TableId,
    partition: PartitionId,
    which: &WhichRows,
) -> Result<Entries, SetError> {
    chain::check_head(chain, disk, partition)?;
    let (table, slot) = table_of(&mut tables.by_id, id, partition)?;
    let TableRows::Sparse(partitions) = &table.rows else { return Err(refused(DENSE)) };
    let (keys, changed) = match which {
        WhichRows::Keys { keys } => {
            let (keys, rest) = keys.0.as_chunks();
            if !rest.is_empty() || keys.is_empty() || keys.len() > REMOVED_KEYS_MAX {
                let text =
                    format!("1 to {REMOVED_KEYS_MAX} keys of 8 bytes each are removed at once");
                return Err(SetError::Refused(text));
            }
            let keys: Vec<u64> = keys.iter().map(|key| u64::from_le_bytes(*key)).collect();
            if let Some(key) = keys.iter().find(|key| table.layout.partition_of(**key) != partition)
            {
                return Err(SetError::Refused(format!(
                    "key {key} is not of partition {partition}"
                )));
            }
            let there = keys.iter().filter(|key| partitions[slot].contains(**key));
            let rows = there.count() as u64;
            (keys, Changed { rows, next: None })
        }
        WhichRows::Below { norm, .. } if norm.is_nan() => return Err(refused(NOT_A_NORM)),
        WhichRows::Below { norm, from } => {
            let (keys, next) = keys_below(&table.entry.schema, &partitions[slot], *norm, *from);
            let rows = keys.len() as u64;
            (keys, Changed { rows, next })
        }
    };
    if table.has_open_sum_of(partition, &keys) {
        return Err(SetError::Summed);
    }
    let mut bytes = Vec::new();
    if !keys.is_empty() {
        removed_entry(id, &keys, &mut bytes);
    }
    Ok(Entries { bytes, changed })
}

/// Keys whose values' norm is below a bound, from a position on, and where to go on looking.
fn keys_below(
    schema: &TableSchema,
    sparse: &SparsePartition,
    bound: f64,
    from: u64,
) -> (Vec<u64>, Option<u64>) {
    let mut found = Vec::new();
    let limit = (PRUNED_VALUES_LEN_PER_TURN / sparse.values_len()).clamp(1, REMOVED_KEYS_MAX);
    let next = sparse.scan(from, limit, &mut found);
    found.iter().for_each(|(_, row)| sparse.fetch_values(*row));
    let mut values = Vec::new();
    found.retain(|(_, row)| {
        values.clear();
        sparse.save_values(*row, &mut values);
        norm(schema.dtype, &values) < bound
    });
    (found.into_iter().map(|(key, _)| key).collect(), next)
}
