//! Opens the shard's own log after recovery.

use std::{collections::BTreeMap, sync::Arc};

use windlass_replication::SessionTable;
use windlass_transport::error::chain as causes;
use windlass_wire::{Lsn, PartitionId, map::shard_of};

use super::{
    chain,
    chain::Chain,
    disk::Disk,
    durable::{Durable, UNWRITTEN_MAX},
    log_size::LogSize,
    port::Port,
    regrouped::Regrouped,
    tables::Tables,
};
use crate::persist::{
    commit::CommitQueue,
    recovery::{RecoveredDirectory, RecoveredPartition},
    storage::Storage,
};

/// A shard's directory behind its recovery, and what of that goes on with its log.
pub(super) struct Opening {
    pub(super) storage: Box<dyn Storage>,
    pub(super) found: RecoveredDirectory,
    pub(super) partitions: BTreeMap<PartitionId, RecoveredPartition>,
    pub(super) sessions: BTreeMap<PartitionId, SessionTable>,
    /// The directories of older groupings, where there are some.
    pub(super) regrouped: Option<Arc<Regrouped>>,
    /// Whether nothing was kept there before.
    pub(super) is_blank: bool,
}

/// Opens the log behind what was recovered; its identity. Only when every shard of the server has
/// recovered: a start that fails for one of them changes nothing in the directories of the others.
pub(super) fn open_log(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
) -> Result<u64, String> {
    let opening = disk.recovered.take().ok_or("nothing was recovered")?;
    let Opening { storage, found, partitions, sessions, regrouped, is_blank } = *opening;
    let log_id = windlass_transport::random::number();
    let (size, held) = (LogSize::new(port.options.log_len_max), tables.held_len());
    let durable = Durable::open(storage, log_id, &found, size, held);
    let mut durable = durable.map_err(|error| causes(&error))?;
    for partition in (0..chain.map.partition_count()).map(PartitionId) {
        if shard_of(partition, chain.shard_count) == chain.shard {
            let last = partitions.get(&partition).map_or(Lsn(0), |recovered| recovered.lsn);
            durable.add_partition(partition, last);
        }
    }
    tables.growth.tracks_changes = true;
    for table in tables.by_id.values_mut() {
        table.track_changes();
    }
    if let Some(regrouped) = regrouped {
        durable.set_regrouped(regrouped);
        durable.checkpoint_wanted = true;
    }
    port.unwritten = CommitQueue::new(UNWRITTEN_MAX);
    let log_id = durable.log().log_id();
    chain::note_peers(chain, Some(&mut durable));
    disk.durable = Some(Box::new(durable));
    chain::recover_chains(port, tables, chain, &partitions, sessions, is_blank);
    tables.resume_clocks();
    Ok(log_id)
}
