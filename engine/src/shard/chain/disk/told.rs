//! Tells replicas what the disk held at start, what has reached it since, and that it has failed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use windlass_replication::{
    Input, LogIndex, Output, Position, Replica, ReplicaLimits, Role, SessionTable,
};
use windlass_wire::{Lsn, PartitionId, Status};

use super::{Base, LAST_TURNS_MAX, log_records};
use crate::{
    limits::CHAIN_SESSIONS_MAX,
    persist::{commit::Position as LogPosition, recovery::RecoveredPartition},
    shard::{
        chain,
        chain::{Chain, ServerEvent, configure, outputs, part::Part, rows, waiting},
        disk::Disk,
        durable,
        port::Port,
        tables::Tables,
    },
};
/// Tells replicas what has reached the disk.
pub(in crate::shard) fn note_durable(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    position: LogPosition,
) {
    let disk = &mut chain.disk;
    let mut touched = std::mem::take(&mut disk.touched);
    while let Some(written) = disk.written.front().filter(|front| front.position <= position) {
        let part = &mut disk.parts[written.index];
        if part.life == written.life {
            part.durable = written.lsn;
            if part.base == Base::Held && !touched.contains(&written.index) {
                touched.push(written.index);
            }
        }
        disk.written.pop_front();
    }
    for index in touched.drain(..) {
        tell_durable(port, tables, chain, index);
    }
    chain.disk.touched = touched;
}

pub(in crate::shard) fn tell_durable(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    index: usize,
) {
    let Some(part) = chain.parts[index].as_deref() else { return };
    let (partition, lsn) = (part.partition, chain.disk.parts[index].durable);
    // What the disk says is always taken.
    let _ = outputs::step(port, tables, chain, partition, Input::Durable { lsn });
}

/// A checkpoint is published, or was given up.
pub(in crate::shard) fn note_checkpoint_ended(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    is_published: bool,
) {
    let count = chain.disk.parts.len();
    for index in 0..count {
        let part = &mut chain.disk.parts[index];
        if part.base != (Base::Begun { taken: true }) {
            continue;
        }
        if !is_published {
            part.base = Base::Begun { taken: false };
            continue;
        }
        part.base = Base::Held;
        tell_durable(port, tables, chain, index);
        let part = chain.parts[index].as_deref();
        let Some(part) = part else { continue };
        if let Some(output @ Output::CaughtUp { .. }) = part.replica.pending_report() {
            outputs::carry_out_output(port, tables, chain, part.partition, output);
        }
    }
}

/// The log has stopped: nobody knows what is on disk, so this server leaves its chains.
pub(in crate::shard) fn note_disk_failed(port: &mut Port, chain: &mut Chain) {
    if std::mem::replace(&mut chain.disk.has_failed, true) {
        return;
    }
    chain.disk.written.clear();
    chain.tell(ServerEvent::DiskFailed {});
    let count = chain.parts.len();
    for index in 0..count {
        let part = chain.parts[index].as_deref();
        let alone = part.filter(|part| part.replica.role() == Role::Single);
        if let Some(partition) = alone.map(|part| part.partition) {
            waiting::end_waiting(port, chain, partition, Status::Poisoned);
        }
    }
}

/// Goes on from what the disk holds: partitions whose only replica this is have it, all others
/// begin anew once they have been copied.
pub(in crate::shard) fn recover_chains(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    recovered: &BTreeMap<PartitionId, RecoveredPartition>,
    mut sessions: BTreeMap<PartitionId, SessionTable>,
    is_blank: bool,
) {
    let count = chain.parts.len();
    for index in 0..count {
        let part = chain.parts[index].as_deref();
        let Some(partition) = part.map(|part| part.partition) else { continue };
        let is_new = part.is_some_and(|part| {
            part.replica.position() == Some(Position::default()) && part.copy_in.is_none()
        });
        let recovers = chain::recovers(chain, partition);
        let found = recovered.get(&partition).filter(|_| recovers && is_new);
        if !is_new || !(is_blank || recovers) {
            chain.disk.forget(index);
            chain.disk.note_behind(index);
            continue;
        }
        let lsn = found.map_or(Lsn(0), |found| found.lsn);
        let on_disk = chain.disk.part_mut(index);
        (on_disk.base, on_disk.logged, on_disk.durable) = (Base::Held, lsn, lsn);
        if lsn == Lsn(0) {
            continue;
        }
        // Nobody else goes on from here: the disk lacks the rows of tables in memory that others may hold at this
        // position. A cluster that was restored counts its epochs anew, too.
        let epoch = chain.map.chains[partition.0 as usize].epoch;
        let epochs = [Position { epoch, lsn }];
        let log = LogIndex::recovered(lsn.next(), lsn, &epochs);
        let none = || SessionTable::new(CHAIN_SESSIONS_MAX);
        let sessions = sessions.remove(&partition).unwrap_or_else(none);
        let limits = ReplicaLimits::default();
        let replica = Replica::recover(partition, chain.server, limits, log, sessions);
        let fenced = chain.parts[index].as_deref().is_some_and(|part| part.fenced);
        let next = Part { fenced, ..Part::new(partition, replica) };
        chain.parts[index] = Some(Box::new(next));
        let map = Arc::clone(&chain.map);
        configure::configure_chain(
            port,
            tables,
            chain,
            partition,
            &map.chains[partition.0 as usize],
        );
    }
    rows::fence_stale_rows(tables, chain);
}

/// Called when the shard stops: writes all records to the log, as far as its disk takes them.
pub(in crate::shard) fn log_all_records(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
) {
    for _ in 0..LAST_TURNS_MAX {
        log_records(tables, chain, disk);
        if !chain.disk.is_behind() {
            return;
        }
        durable::turn_disk(port, tables, chain, disk, false);
        std::thread::sleep(Duration::from_millis(1));
    }
}
