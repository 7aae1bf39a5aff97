//! Fences rows that may not be read. Only rows of a complete replica with a place in its chain may be; all
//! others carry a mark that one-sided readers see.

use windlass_wire::TableId;

use super::{Chain, part::Part};
use crate::shard::tables::{ShardTable, Tables};

/// Has rows marked that are no longer, or not yet, current, and the mark taken from those that are.
pub(in crate::shard) fn fence_stale_rows(tables: &mut Tables, chain: &mut Chain) {
    if !chain.map.is_founded() {
        return;
    }
    let Tables { by_id: tables, clocks, marks, growth, .. } = tables;
    for part in chain.parts.iter_mut().flatten() {
        let stale = !part.replica.is_readable() || part.broken;
        if part.fenced != stale {
            part.fenced = stale;
            clocks.is_stale = true;
            for table in tables.values_mut() {
                table.fence_partition(part.partition, stale, marks);
            }
        }
    }
    let was_settled = chain.is_settled();
    chain.settle(growth.is_lacking());
    if chain.is_settled() && !was_settled {
        // Records have told what changed so far.
        tables.values_mut().for_each(ShardTable::forget_dirty);
    }
}

/// A new table's rows take part in what holds for their partitions.
pub(in crate::shard) fn fence_new_rows(tables: &mut Tables, chain: &mut Chain, table: TableId) {
    let Tables { by_id: tables, clocks, marks, .. } = tables;
    let Some(table) = tables.get_mut(&table) else { return };
    for part in chain.parts.iter().flatten().filter(|part| part.fenced) {
        clocks.is_stale = true;
        table.fence_partition(part.partition, true, marks);
    }
}

impl Chain {
    /// Whether a strong pull may be answered here now: every other member promises to go on only with
    /// this tail.
    pub(super) fn is_strong(&self, part: &Part) -> bool {
        let chain = part.replica.chain();
        let others = chain.path.iter().copied().filter(|member| *member != self.server);
        part.replica.is_strong(self.time.now) && self.context.leases.are_held(chain.epoch, others)
    }
}
