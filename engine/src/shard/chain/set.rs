//! Rows set from outside, by a record at the head: replicas get them as they get pushes.

use windlass_replication::Role;
use windlass_wire::{Durability, PartitionId, TableId};

use super::{Chain, SYNC, append, append::Small, turn};
use crate::{
    persist::{frame::Kind, record::Shape},
    shard::{
        command::Answer, disk::Disk, image::SET, port::Port, set_rows::SetError, tables::Tables,
    },
};

/// Whether rows of a partition may be set here now: at the head of its chain.
pub(in crate::shard) fn check_head(
    chain: &Chain,
    disk: &Disk,
    partition: PartitionId,
) -> Result<(), SetError> {
    let led = chain.part(partition).filter(|part| part.replica.is_head() && !part.broken);
    let Some(part) = led else { return Err(SetError::Moved) };
    if chain.disk.has_failed() && part.replica.role() == Role::Single {
        // Nobody goes on without this server.
        return Err(SetError::stopped());
    }
    if chain.disk.has_failed() || turn::is_chain_full(chain, disk) {
        return Err(SetError::Moved);
    }
    Ok(())
}

/// Appends the entries to a chain that is led here; the answer comes once every replica has them.
pub(in crate::shard) fn append_set(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    table: TableId,
    partition: PartitionId,
    entries: &[u8],
    answer: Answer<(), SetError>,
) {
    let schema = tables.by_id.get(&table).map(|table| table.entry.schema.durability);
    let tag = SET | if schema == Some(Durability::Sync {}) { SYNC } else { 0 };
    let shape = Shape { delta_bytes: entries.len(), ..Shape::default() };
    let small = Small { table, kind: Kind::Engine, tag, shape, expired: &[] };
    let part = chain.part_mut(partition);
    if let Some(part) = part {
        part.setting.push_back((part.replica.log().last().next(), answer));
    }
    let appended = append::append_small(port, tables, chain, partition, &small, |record| {
        record.delta().copy_from_slice(entries);
    });
    if appended.is_none()
        && let Some(part) = chain.part_mut(partition)
        && let Some((_, answer)) = part.setting.pop_back()
    {
        // An asker that is gone needs no answer.
        let _ = answer.send(Err(SetError::Moved));
    }
}
