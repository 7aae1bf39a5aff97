//! Going on behind a recovery, in the shard's own log.

use std::{collections::BTreeMap, sync::Arc};

use windlass_replication::SessionTable;
use windlass_wire::{Lsn, PartitionId, map::shard_of};

use super::{Shard, chain, durable::Durable, log_size::LogSize, regrouped::Regrouped};
use crate::persist::{
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
pub(super) fn open_log(shard: &mut Shard) -> Result<u64, String> {
    let opening = shard.recovered.take().ok_or("nothing was recovered")?;
    let Opening { storage, found, partitions, sessions, regrouped, is_blank } = *opening;
    let log_id = windlass_transport::random::number();
    let (size, held) = (LogSize::new(shard.options.log_len_max), shard.held_len());
    let durable = Durable::open(storage, log_id, &found, size, held);
    let mut durable = durable.map_err(|error| super::chain(&error))?;
    for partition in (0..shard.map.partition_count()).map(PartitionId) {
        if shard_of(partition, shard.shard_count) == shard.id {
            let last = partitions.get(&partition).map_or(Lsn(0), |recovered| recovered.lsn);
            durable.add_partition(partition, last);
        }
    }
    for table in shard.tables.values_mut() {
        table.track_changes();
    }
    if let Some(regrouped) = regrouped {
        durable.set_regrouped(regrouped);
        shard.checkpoint_wanted = true;
    }
    let log_id = durable.log().log_id();
    chain::note_peers(shard.chain.as_deref(), Some(&mut durable));
    shard.durable = Some(Box::new(durable));
    shard.recover_chains(&partitions, sessions, is_blank);
    shard.resume_clocks();
    Ok(log_id)
}
