//! Messages whose completion waits for the chain, until every record that they are part of is committed.

use windlass_wire::{PartitionId, Status};

use super::{Chain, part::Setting};
use crate::shard::{port::Port, rounds, set_rows::SetError, tables::Tables};

/// Acknowledges what waited for positions up to `lsn`: the whole chain has them.
pub(super) fn acknowledge_up_to(
    port: &mut Port,
    chain: &mut Chain,
    partition: PartitionId,
    lsn: windlass_wire::Lsn,
) {
    loop {
        let part = chain.own_mut(partition);
        if part.setting.front().is_some_and(|setting| setting.position <= lsn)
            && let Some(Setting { changed, answer, .. }) = part.setting.pop_front()
        {
            // An asker that is gone needs no answer.
            let _ = answer.send(Ok(changed));
            continue;
        }
        match part.waiting.front() {
            Some((position, id)) if *position <= lsn => {
                let id = *id;
                part.waiting.pop_front();
                port.end_wait(id, Status::Done, 0);
            }
            _ => return,
        }
    }
}

/// This replica can no longer tell what becomes of the pushes it took. Their clients ask the chain.
pub(super) fn give_up_waiting(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    partition: PartitionId,
) {
    rounds::give_up_rounds(port, tables, partition);
    end_waiting(port, chain, partition, Status::StaleEpoch);
}

/// Ends with this status everything that waits for a partition.
pub(super) fn end_waiting(
    port: &mut Port,
    chain: &mut Chain,
    partition: PartitionId,
    status: Status,
) {
    loop {
        let part = chain.own_mut(partition);
        for Setting { answer, .. } in part.setting.drain(..) {
            let is_stopped = status == Status::Poisoned;
            let error = if is_stopped { SetError::stopped() } else { SetError::Moved };
            // As above.
            let _ = answer.send(Err(error));
        }
        let Some((_, id)) = part.waiting.pop_front() else { return };
        port.end_wait(id, status, 0);
    }
}
