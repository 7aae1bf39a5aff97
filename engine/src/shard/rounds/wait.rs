//! Messages whose round does not close here: the partition has moved, or their session is gone.

use windlass_wire::{PartitionId, Status, TableId};

use super::OpenRounds;
use crate::shard::{clocks, port::Port, tables::Tables};

/// Has the clients of everything that waits for a round ask again, by the map that has just come.
/// Before what they sent by the last one is answered they send nothing new, and a round in which
/// several wait so would never close. What they pushed stays in the sums.
pub(in crate::shard) fn end_round_waits(port: &mut Port, tables: &mut Tables) {
    let mut waits = Vec::new();
    for open in tables.by_id.values_mut().filter_map(|table| table.rounds.as_mut()) {
        waits.extend(open.open.values_mut().flat_map(OpenRounds::take_all_waits));
    }
    for wait in waits {
        port.end_wait(wait, Status::StaleEpoch, 0);
    }
    clocks::end_parked_pulls(port, tables);
}

/// What is open of a partition is given up: its clients send it to whoever leads now.
pub(in crate::shard) fn give_up_rounds(
    port: &mut Port,
    tables: &mut Tables,
    partition: PartitionId,
) {
    let mut waits = Vec::new();
    for rounds in tables.by_id.values_mut().filter_map(|table| table.rounds.as_mut()) {
        let open = rounds.open.remove(&partition);
        waits.extend(open.into_iter().flat_map(|mut open| open.take_all_waits()));
    }
    for wait in waits {
        port.end_wait(wait, Status::StaleEpoch, 0);
    }
}

/// Nobody hears any more what a connection has asked for: a client that connects again asks again,
/// and what it pushed stays in the sums.
pub(in crate::shard) fn forget_round_waits(
    port: &mut Port,
    tables: &mut Tables,
    slot: usize,
    life: u64,
) {
    let mut over = Vec::new();
    for open in tables.by_id.values_mut().filter_map(|table| table.rounds.as_mut()) {
        for open in open.open.values_mut() {
            let is_over = |wait: &u32| port.waits.is_of(*wait, slot, life);
            over.extend(open.waiting.iter().map(|(_, wait)| *wait).filter(is_over));
            open.waiting.retain(|(_, wait)| !is_over(wait));
        }
    }
    for wait in over {
        port.end_wait(wait, Status::Superseded, 0);
    }
}

/// A table goes away with its rounds.
pub(in crate::shard) fn drop_rounds(port: &mut Port, tables: &mut Tables, table: TableId) {
    let Some(rounds) = tables.by_id.get_mut(&table).and_then(|table| table.rounds.take()) else {
        return;
    };
    for (_, mut open) in rounds.open {
        for wait in open.take_all_waits() {
            port.end_wait(wait, Status::UnknownTable, 0);
        }
    }
}

impl OpenRounds {
    fn take_all_waits(&mut self) -> Vec<u32> {
        self.waiting.drain(..).map(|(_, wait)| wait).collect()
    }
}
