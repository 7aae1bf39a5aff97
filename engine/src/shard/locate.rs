//! Telling sessions where rows and clocks lie, for their one-sided reads.

use windlass_transport::{RemoteRegion, error::chain as causes};
use windlass_wire::{SessionId, TableId, control::PartitionPlace};

use super::{
    command::shared_of,
    port::Port,
    tables::{TableRows, Tables},
};
use crate::refusal::{Refusal, internal, invalid, no_mailbox, unknown_table};

/// The places of a dense table's partitions here.
pub(super) fn locate(
    port: &mut Port,
    tables: &mut Tables,
    session: SessionId,
    table: TableId,
) -> Result<Vec<PartitionPlace>, Refusal> {
    let slot = *port.by_session.get(&session).ok_or_else(no_mailbox)?;
    let dense = |table: &TableId| match tables.by_id.get(table).map(|table| &table.rows) {
        None => Err(unknown_table("there is no such table here")),
        Some(TableRows::Sparse(_)) => Err(invalid("rows of sparse tables have no fixed place")),
        Some(TableRows::Dense(partitions)) => Ok(partitions),
    };
    let regions: Vec<usize> = dense(&table)?.iter().map(|(_, region)| *region).collect();
    let mut shared = Vec::with_capacity(regions.len());
    for region in regions {
        shared.push(shared_region(port, tables, slot, region).map_err(internal)?);
    }
    let TableRows::Dense(partitions) = &tables.by_id[&table].rows else {
        return Err(unknown_table("there is no such table here"));
    };
    let mut places = Vec::with_capacity(partitions.len());
    for ((dense, _), shared) in partitions.iter().zip(shared) {
        let geometry = dense.blocks().geometry();
        places.push(PartitionPlace {
            partition: dense.partition(),
            region: shared_of(shared),
            offset: dense.blocks().offset(),
            first_row: dense.rows().start,
            row_count: dense.rows().count(),
            block_rows: geometry.block_rows,
            block_stride: geometry.block_stride,
        });
    }
    Ok(places)
}

/// A region of the arena, as a session calls it.
pub(super) fn shared_region(
    port: &mut Port,
    tables: &mut Tables,
    slot: usize,
    region: usize,
) -> Result<RemoteRegion, String> {
    let open = port.sessions[slot].as_mut().expect("whoever asks has a session");
    if let Some((_, shared)) = open.shared.iter().find(|(at, _)| *at == region) {
        return Ok(*shared);
    }
    let registered =
        tables.arena.registered(region, open.route.transport).ok_or("the region is gone")?;
    let shared = port.transports[open.route.transport]
        .share(open.route.queue_pair, registered)
        .map_err(|e| causes(&e))?;
    open.shared.push((region, shared));
    Ok(shared)
}
