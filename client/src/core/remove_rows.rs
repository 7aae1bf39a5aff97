//! Removes rows of sparse tables, some of one partition at a time, through the partition's current head.

use windlass_wire::{
    Blob, Layout, PartitionId, TableKind,
    control::{ClientReply, ClientRequest, REMOVED_KEYS_MAX, WhichRows},
};

use super::{
    Core, TableIndex,
    set_rows::{ask_leader, refused},
};
use crate::error::TableError;

/// Removes the rows of keys; how many there were.
pub(crate) fn remove_keys(
    core: &mut Core,
    table: TableIndex,
    keys: &[u64],
) -> Result<u64, TableError> {
    let layout = sparse_layout(core, table)?;
    let mut order: Vec<(PartitionId, u64)> =
        keys.iter().map(|key| (layout.partition_of(*key), *key)).collect();
    order.sort_unstable();
    order.dedup();
    let mut removed = 0;
    for of_one in order.chunk_by(|one, next| one.0 == next.0) {
        for piece in of_one.chunks(REMOVED_KEYS_MAX) {
            let keys = piece.iter().flat_map(|(_, key)| key.to_le_bytes());
            let which = WhichRows::Keys { keys: Blob(keys.collect()) };
            removed += remove(core, table, piece[0].0, which)?.0;
        }
    }
    Ok(removed)
}

/// Removes rows whose values' norm is below a bound; how many there were.
pub(crate) fn remove_below(
    core: &mut Core,
    table: TableIndex,
    norm: f64,
) -> Result<u64, TableError> {
    sparse_layout(core, table)?;
    let mut removed = 0;
    for partition in (0..core.cluster.map.partition_count()).map(PartitionId) {
        let mut from = Some(0);
        while let Some(at) = from {
            let (rows, next) = remove(core, table, partition, WhichRows::Below { norm, from: at })?;
            removed += rows;
            from = next;
        }
    }
    Ok(removed)
}

fn remove(
    core: &mut Core,
    table: TableIndex,
    partition: PartitionId,
    which: WhichRows,
) -> Result<(u64, Option<u64>), TableError> {
    let table = core.tables[table].entry.id;
    match ask_leader(core, partition, &ClientRequest::RemoveRows { table, partition, which })? {
        ClientReply::RowsRemoved { rows, next } => Ok((rows, next)),
        _ => Err(TableError::Unexpected),
    }
}

/// Where the rows of a sparse table are.
fn sparse_layout(core: &Core, table: TableIndex) -> Result<Layout, TableError> {
    let entry = &core.tables[table].entry;
    if entry.schema.kind != (TableKind::Sparse {}) {
        let text = format!(
            "{:?} is dense, and rows of dense tables are not removed: set them to zeros",
            entry.name
        );
        return Err(refused(text));
    }
    Ok(Layout::new(entry.id, entry.schema.kind, core.cluster.map.partition_count()))
}
