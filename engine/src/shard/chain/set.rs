//! Rows set or removed from outside, by a record at the head: replicas get it as they get pushes.

use windlass_replication::Role;
use windlass_wire::{Durability, PartitionId, TableId};

use super::{Chain, SYNC, append, append::Small, part::Setting, turn};
use crate::{
    persist::{frame::Kind, record::Shape},
    shard::{
        command::Answer,
        disk::Disk,
        image::SET,
        port::Port,
        set_rows::{Changed, Entries, SetError},
        tables::Tables,
    },
};

/// Whether rows of a partition may be set or removed here now: at the head of its chain.
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

/// Appends entries to a chain that is led here; the answer comes once every replica has them.
pub(in crate::shard) fn append_set(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    table: TableId,
    partition: PartitionId,
    entries: Result<Entries, SetError>,
    answer: Answer<Changed, SetError>,
) {
    let Entries { bytes, changed } = match entries {
        Ok(entries) if !entries.bytes.is_empty() => entries,
        other => {
            // An asker that is gone needs no answer.
            let _ = answer.send(other.map(|nothing| nothing.changed));
            return;
        }
    };
    let schema = tables.by_id.get(&table).map(|table| table.entry.schema.durability);
    let tag = SET | if schema == Some(Durability::Sync {}) { SYNC } else { 0 };
    let shape = Shape { delta_bytes: bytes.len(), ..Shape::default() };
    let small = Small { table, kind: Kind::Engine, tag, shape, expired: &[] };
    let part = chain.part_mut(partition);
    if let Some(part) = part {
        let position = part.replica.log().last().next();
        part.setting.push_back(Setting { position, changed, answer });
    }
    let appended = append::append_small(port, tables, chain, partition, &small, |record| {
        record.delta().copy_from_slice(&bytes);
    });
    if appended.is_none()
        && let Some(part) = chain.part_mut(partition)
        && let Some(Setting { answer, .. }) = part.setting.pop_back()
    {
        // As above.
        let _ = answer.send(Err(SetError::Moved));
    }
}
