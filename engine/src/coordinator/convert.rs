//! Converts the coordinator's map to that of servers and clients, and servers' reports to the coordinator's inputs.

use windlass_replication::{
    Membership,
    membership::{JoiningPhase, PartitionEntry},
};
use windlass_wire::{ServerId, coordination::LatePeer, map};

/// Peers that a server hears late, with microseconds.
pub(super) fn late_micros(late: &[LatePeer]) -> Vec<(ServerId, u64)> {
    late.iter().map(|peer| (peer.server, u64::from(peer.late_ms) * 1_000)).collect()
}

/// The map as it is sent.
pub(super) fn wire_map(map: &Membership) -> map::ClusterMap {
    let servers = map.servers.iter().map(|(&id, entry)| map::ServerEntry {
        id,
        incarnation: entry.incarnation,
        address: entry.address.clone(),
        shard_count: entry.shards,
        state: entry.state,
    });
    map::ClusterMap {
        epoch: map.epoch,
        replicas: map.replicas,
        session_expiry_ms: map.session_expiry_ms,
        servers: servers.collect(),
        chains: map.partitions.iter().map(chain).collect(),
    }
}

fn chain(entry: &PartitionEntry) -> map::Chain {
    let view = entry.view();
    map::Chain {
        epoch: view.epoch,
        servers: view.path,
        tail_joining: entry.joining.is_some_and(|joining| joining.phase == JoiningPhase::Tail),
        learner: view.learner,
    }
}

#[cfg(test)]
mod tests {
    use windlass_replication::{Change, membership::Joining};
    use windlass_wire::{Epoch, Incarnation, PartitionId, ServerId, coordination::Kept};

    use super::*;

    #[test]
    fn chains_say_how_far_a_joining_server_is() {
        let (one, two) = (ServerId(1), ServerId(2));
        let mut map = Membership::new(2, 2).draft();
        for server in [one, two] {
            let address = format!("10.0.0.{server}:7700");
            let join = Change::Join {
                server,
                incarnation: Incarnation(9),
                address,
                shards: 4,
                kept: Kept::Whole {},
            };
            map.apply(join).unwrap();
        }
        map.apply(Change::Create { partition: PartitionId(0), members: vec![one] }).unwrap();
        let wire = wire_map(&map);
        assert_eq!((wire.epoch, wire.servers.len()), (Epoch(1), 2));
        assert_eq!(wire.chains[0].servers, [one]);
        assert!(wire.chains[1].servers.is_empty());
        map.partitions[0].joining = Some(Joining { server: two, phase: JoiningPhase::Copying });
        assert_eq!(wire_map(&map).chains[0].learner, Some(two));
        map.partitions[0].joining = Some(Joining { server: two, phase: JoiningPhase::Tail });
        let chain = &wire_map(&map).chains[0];
        assert_eq!((chain.servers.as_slice(), chain.tail_joining), ([one, two].as_slice(), true));
        map.partitions[0].lost = true;
        assert!(wire_map(&map).chains[0].servers.is_empty());
    }
}
