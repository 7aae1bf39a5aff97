//! Leaves the settled state: pushes that were applied without records get records or positions, before
//! another server joins and before the log goes on.

use windlass_wire::{ClusterMap, PartitionId, ServerId, Status, map};

use super::is_settled;
use crate::{
    persist::log::{Full, ReserveError},
    shard::{
        chain::{Chain, disk, expiry},
        disk::Disk,
        durable,
        durable::Durable,
        image,
        port::Port,
        push::Refused,
        tables::Tables,
    },
};
/// Before a map is acted on: what was applied without records gets positions, and images of its rows, where
/// others have a part in it from now on.
pub(in crate::shard) fn before_map(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
    map: &ClusterMap,
) {
    chain.lone.taken.end_all(&mut chain.parts);
    let (server, shard, shard_count) = (chain.server, chain.shard, chain.shard_count);
    let is_own = |partition: PartitionId| map::shard_of(partition, shard_count) == shard;
    let chains = (0..).map(PartitionId).zip(&map.chains);
    let mut shared = chains.filter(|(partition, chain)| {
        is_own(*partition)
            && (chain.servers.contains(&server) || chain.learner == Some(server))
            && !is_lone(chain, server)
    });
    if shared.next().is_some() || tables.growth.is_lacking() {
        unsettle(port, tables, chain, disk);
    }
}

/// From now on what is pushed takes records: what was pushed before is in them, or in images.
pub(in crate::shard) fn unsettle(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
) {
    chain.lone.taken.end_all(&mut chain.parts);
    if is_settled(chain)
        && let Some(mut durable) = disk.durable.take()
    {
        image::write_images(port, tables, chain, &mut durable);
        disk.durable = Some(durable);
    }
    name_positions(port, tables, chain);
    chain.lone.settled = None;
}

/// Gives what was pushed without a record a position: behind it comes a record that says nothing.
pub(in crate::shard) fn name_positions(port: &mut Port, tables: &mut Tables, chain: &mut Chain) {
    let count = chain.parts.len();
    for index in 0..count {
        let part = chain.parts[index].as_deref();
        if let Some(part) =
            part.filter(|part| part.replica.has_unrecorded() && part.replica.is_head())
        {
            let partition = part.partition;
            expiry::append_expired(port, tables, chain, partition);
        }
    }
}

/// Brings a settled shard's log to where a partition's replica is, so that its next record may be made in
/// the log.
///
/// # Errors
/// When the log has stopped.
pub(in crate::shard) fn ready_log(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    durable: &mut Durable,
    partition: PartitionId,
) -> Result<(), Refused> {
    loop {
        if durable.log().poison().is_some() {
            return Err(Status::Poisoned.into());
        }
        let now = durable.now();
        let index = chain.index(partition);
        if chain.disk.is_part_behind(index) {
            if disk::log_part(tables, chain, index, durable) {
                durable::wait_for_room(port, tables, chain, durable, Full::Ring, now);
            } else {
                chain.disk.end_behind(index);
            }
            continue;
        }
        let part = chain.parts[index].as_deref_mut().expect("a settled shard's partition");
        let last = part.replica.log().last();
        if durable.log().last_lsn(partition) < last {
            match durable.log_mut().skip(partition, last, now) {
                Ok(()) => {}
                Err(ReserveError::Full(full)) => {
                    durable::wait_for_room(port, tables, chain, durable, full, now);
                    continue;
                }
                Err(_) => return Err(Status::Poisoned.into()),
            }
        }
        // Nobody else waits for them, and the next record is not among them.
        part.records.drain(..).for_each(|held| chain.kept.spare.put(held.words));
        return Ok(());
    }
}

/// Whether a map gives a partition to this server and to no other.
pub(in crate::shard) fn is_lone(chain: &map::Chain, server: ServerId) -> bool {
    chain.servers == [server] && chain.learner.is_none()
}
