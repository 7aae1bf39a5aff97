//! Installs a new map: cuts off servers that are out, then updates leases, then every replica.

use std::{collections::BTreeSet, sync::Arc};

use windlass_replication::{ChainView, Input, Replica, ReplicaLimits};
use windlass_wire::{ClusterMap, PartitionId, ServerId, SessionId, map, map::shard_of};

use super::{Chain, connect as links, lone, outputs, part::Part, rows, waiting};
use crate::shard::{chain, disconnect, disk::Disk, durable::Durable, port::Port, tables::Tables};

/// A shard that keeps leases with other servers never waits for its disk within a call: they would count
/// it as dead meanwhile.
pub(in crate::shard) fn note_peers(chain: &Chain, durable: Option<&mut Durable>) {
    if let Some(durable) = durable {
        durable.set_in_place(!chain.context.leases.has_peers());
    }
}

/// This life of the server is over: all its links end. What the shard holds stays, until a map
/// says what becomes of it.
pub(in crate::shard) fn fence(port: &mut Port, tables: &mut Tables, chain: &mut Chain) {
    chain.context.leases.begin_life();
    while let Some(link) = chain.peers.links.first() {
        let server = link.peer.server;
        links::link_close(port, chain, server);
    }
    let sessions: Vec<SessionId> = port.by_session.keys().copied().collect();
    for session in sessions {
        disconnect::close_session(port, tables, chain, session);
    }
}

/// Before a new map is acted on: connections of servers that it does not admit end, so that
/// nothing of theirs arrives any more.
pub(in crate::shard) fn fence_peers(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    next: &ClusterMap,
) {
    let out: Vec<ServerId> = chain
        .peers
        .links
        .iter()
        .filter(|link| !chain::admits(next, link.peer))
        .map(|link| link.peer.server)
        .collect();
    for server in out {
        links::link_close(port, chain, server);
    }
    let out = chain.peers.incoming.iter().filter(|incoming| !chain::admits(next, incoming.peer));
    let out: Vec<_> = out
        .filter_map(|incoming| port.sessions[incoming.slot].as_ref().map(|open| open.owner.id))
        .collect();
    for session in out {
        disconnect::close_session(port, tables, chain, session);
    }
}

/// Acts by the map that is in force now.
pub(in crate::shard) fn configure_chains(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
) {
    let map = Arc::clone(&chain.map);
    chain.make_room(map.partition_count());
    lone::before_map(port, tables, chain, disk, &map);
    chain.time.now = chain.context.leases.now();
    chain.context.leases.adopt(chain.time.now, &map, chain.server);
    note_peers(chain, disk.durable.as_deref_mut());
    for partition in (0..map.partition_count()).map(PartitionId) {
        // Rows that are still to be made take no part yet, as if the map had not come.
        if shard_of(partition, chain.shard_count) == chain.shard && !tables.growth.lacks(partition)
        {
            configure_chain(port, tables, chain, partition, &map.chains[partition.0 as usize]);
        }
    }
    rows::fence_stale_rows(tables, chain);
    // Whoever leads now has heard workers that no record speaks of yet.
    tables.clocks.unrecorded = tables.clocks.is_used();
}

/// Rows of these partitions were made: they take part from now on, those aside that still lack some.
pub(in crate::shard) fn configure_grown(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    grown: &BTreeSet<PartitionId>,
) {
    if grown.is_empty() {
        return;
    }
    let map = Arc::clone(&chain.map);
    for &partition in grown {
        if !tables.growth.lacks(partition) {
            configure_chain(port, tables, chain, partition, &map.chains[partition.0 as usize]);
        }
    }
    rows::fence_stale_rows(tables, chain);
    tables.clocks.unrecorded = tables.clocks.is_used();
}

pub(super) fn configure_chain(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    partition: PartitionId,
    next: &map::Chain,
) {
    let index = chain.index(partition);
    let involved = next.servers.contains(&chain.server) || next.learner == Some(chain.server);
    if chain.parts.len() <= index {
        chain.parts.resize_with(index + 1, || None);
    }
    if chain.parts[index].is_none() {
        if !involved {
            return;
        }
        let replica = Replica::new(partition, chain.server, ReplicaLimits::default());
        chain.parts[index] = Some(Box::new(Part::new(partition, replica)));
    }
    let part = chain.own(partition);
    let view = ChainView {
        epoch: next.epoch,
        path: next.servers.clone(),
        tail_synchronised: !next.tail_joining,
        learner: next.learner,
    };
    let changed = part.epoch() != view.epoch;
    let removed = part.replica.removed_tail(&view);
    let was_head = part.replica.is_head();
    let hold_until = chain.context.leases.hold_until(removed);
    if changed {
        for link in &mut chain.peers.links {
            link.forget(partition);
        }
    }
    // A map is always taken.
    let _ = outputs::step(
        port,
        tables,
        chain,
        partition,
        Input::Configure { chain: &view, hold_until },
    );
    if hold_until > chain.time.now && hold_until < chain.time.next_tick {
        chain.time.next_tick = hold_until;
    }
    let part = chain.own_mut(partition);
    let is_head = part.replica.is_head();
    if part.copy_out.as_ref().is_some_and(|copy| next.learner != Some(copy.learner)) {
        part.copy_out = None;
        chain.copies_out -= 1;
    }
    if was_head && !is_head {
        waiting::give_up_waiting(port, tables, chain, partition);
    }
    if !involved {
        forget_records(tables, chain, partition);
    }
}

/// The life before is over: what it had under way is given up, what it holds is kept for the
/// chains to continue from, if it is whole.
pub(in crate::shard) fn begin_life(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
) {
    lone::unsettle(port, tables, chain, disk);
    let peers: Vec<ServerId> = chain.peers.links.iter().map(|link| link.peer.server).collect();
    let incoming = chain.peers.incoming.iter().map(|incoming| incoming.slot);
    let sessions: Vec<_> = incoming
        .filter_map(|slot| port.sessions[slot].as_ref().map(|open| open.owner.id))
        .collect();
    peers.into_iter().for_each(|server| links::link_close(port, chain, server));
    sessions
        .into_iter()
        .for_each(|session| disconnect::close_session(port, tables, chain, session));
    let count = chain.parts.len();
    for index in 0..count {
        let part = chain.parts[index].as_deref();
        let Some(partition) = part.map(|part| part.partition) else { continue };
        waiting::give_up_waiting(port, tables, chain, partition);
        let (server, limits) = (chain.server, ReplicaLimits::default());
        let mut part = chain.parts[index].take().expect("the replica that was just looked at");
        chain.kept.inflight_count -= part.inflight_count;
        chain.copies_out -= usize::from(part.copy_out.is_some());
        let is_whole = part.replica.position().is_some() && !part.broken;
        let replica = if is_whole {
            let (log, sessions) = (part.replica.log().clone(), part.replica.sessions().clone());
            Replica::recover(partition, server, limits, log, sessions)
        } else {
            part.records.drain(..).for_each(|held| chain.kept.spare.put(held.words));
            chain.disk.forget(index);
            Replica::new(partition, server, limits)
        };
        let next = Part {
            records: std::mem::take(&mut part.records),
            fenced: part.fenced,
            dirty: part.dirty,
            ..Part::new(partition, replica)
        };
        chain.parts[index] = Some(Box::new(next));
    }
    rows::fence_stale_rows(tables, chain);
}

/// A partition that is kept elsewhere: its records are of no use here.
fn forget_records(tables: &mut Tables, chain: &mut Chain, partition: PartitionId) {
    let index = chain.index(partition);
    let mut part = chain.parts[index].take().expect("the replica that was just configured");
    chain.kept.inflight_count -= part.inflight_count;
    for held in part.records.drain(..) {
        chain.kept.spare.put(held.words);
    }
    if part.copy_out.is_some() {
        chain.copies_out -= 1;
    }
    chain.disk.forget(index);
    chain.disk.end_copying(partition);
    tables.drop_rows(partition);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use windlass_wire::{Epoch, Lsn};

    use super::*;
    use crate::{
        persist::{
            hooked::{Hooked, Verdict},
            recovery::RecoveredDirectory,
            storage::Operation,
        },
        shard::{Shard, checkpoint::tests::shard, log_size::LogSize},
    };

    /// A flush takes as long as the disk likes, and a lease does not.
    #[test]
    fn a_shard_waits_for_its_disk_only_while_no_server_depends_on_its_leases() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Hooked::open(folder.path(), |_: &Operation| Verdict::CarryOut);
        let notes = Arc::clone(&storage.notes);
        let (found, size) = (RecoveredDirectory::default(), LogSize::new(Some(64 << 20)));
        let mut durable = Durable::open(storage, 1, &found, size, 0).unwrap();
        durable.add_partition(PartitionId(0), Lsn(0));
        let mut shard = shard();
        let Shard { port, tables, chain, disk, .. } = &mut shard;
        note_peers(chain, Some(&mut durable));
        disk.durable = Some(Box::new(durable));
        assert!(notes.may_block.load(Ordering::Relaxed), "it is alone");
        for (epoch, servers, may_block) in
            [(2, vec![0], true), (3, vec![0, 1], false), (4, vec![1, 0], false), (5, vec![0], true)]
        {
            let servers = servers.into_iter().map(ServerId).collect();
            let its = map::Chain { epoch: Epoch(epoch), servers, ..map::Chain::default() };
            let (epoch, chains) = (Epoch(epoch), vec![its]);
            chain.map = Arc::new(ClusterMap { epoch, chains, ..ClusterMap::default() });
            configure_chains(port, tables, chain, disk);
            assert_eq!(notes.may_block.load(Ordering::Relaxed), may_block, "{epoch:?}");
        }
    }
}
