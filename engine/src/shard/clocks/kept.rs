//! Clocks in records and checkpoints, and their recovery.

use std::time::Instant;

use windlass_wire::{RowRange, SessionId, WorkerRank};

use super::{members::Member, table::TableClocks};
use crate::{
    persist::{
        clocks::{CLOCK_LEN_MAX, WORKER, WorkerEvent},
        frame::Kind,
        record::Record,
    },
    shard::{
        chain::reaching,
        rounds::CLOSES,
        tables::{ShardTable, Tables},
    },
};

impl TableClocks {
    /// Appends a partition's clock as it is kept on disk.
    pub(in crate::shard) fn save_slot(&self, slot: usize, into: &mut Vec<u8>) {
        if let Some(clock) = self.clocks.get(slot) {
            clock.range.encode_within(CLOCK_LEN_MAX, into);
        }
    }

    /// Goes on from clocks that were recovered: nobody is heard yet, and who was waited for is for as
    /// long as a worker may be silent.
    fn resume(&mut self, now: Instant) {
        let mut live: Vec<WorkerRank> = Vec::new();
        for slot in &self.clocks {
            live.extend(slot.range.workers().filter(|(_, live)| *live).map(|(rank, _)| rank));
        }
        live.sort_unstable();
        live.dedup();
        for rank in live {
            let member = Member { session: SessionId(0), live: true, silent_since: Some(now) };
            self.members.insert(rank, member);
        }
        self.publish();
    }
}

impl Tables {
    /// Goes on from the clocks that recovery has found.
    pub(in crate::shard) fn resume_clocks(&mut self) {
        let now = Instant::now();
        for table in self.by_id.values_mut() {
            if let Some(clocks) = &mut table.clocks {
                clocks.resume(now);
            }
        }
        self.count_silent();
    }
}

/// Applies what a record says of workers to the clock of its partition. Returns whether it says
/// anything.
pub(in crate::shard) fn apply_record(table: &mut ShardTable, record: &Record<'_>) -> bool {
    let Some(slot) = table.slot(record.partition()) else { return false };
    let is_dense = table.is_dense();
    let whole = table.layout.rows_of(record.partition());
    let Some(clocks) = &mut table.clocks else { return false };
    if record.kind() == Kind::Engine {
        if record.tag() & WORKER == 0 {
            return false;
        }
        let event = WorkerEvent::decode(record.delta());
        event.inspect(|event| clocks.apply_event(slot, *event));
        return event.is_some();
    }
    let closes = record.tag() & CLOSES != 0;
    let mut any = false;
    for stamp in record.stamps() {
        any = true;
        if closes {
            clocks.close_round(slot, stamp.clock);
        }
        let mut apply = |rows| clocks.apply_stamp(slot, stamp.worker, rows, stamp.clock);
        match record.kind() {
            // Who has finished a round has on all rows.
            _ if closes => apply(windlass_replication::ALL_ROWS),
            Kind::ClockAdvance => apply(windlass_replication::ALL_ROWS),
            Kind::Rows => apply(reaching(record.rows(), is_dense, whole)),
            Kind::Keys => record.keys().for_each(|key| {
                apply(reaching(RowRange::new(key, key.saturating_add(1)), is_dense, whole));
            }),
            _ => {}
        }
    }
    any
}
