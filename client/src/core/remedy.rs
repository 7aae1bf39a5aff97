//! What is to be done about a partition that nobody serves, by the newest map known.

use windlass_wire::{PartitionId, map::ServerState};

use super::Core;

impl Core {
    pub(super) fn remedy(&self, partition: PartitionId) -> String {
        let Some(chain) = self.map.chains.get(partition.0 as usize) else {
            return "start its servers again".to_owned();
        };
        if chain.servers.is_empty() {
            return "no server kept its rows: `windlass cluster accept-loss` begins it empty"
                .to_owned();
        }
        let named = |down: bool| -> Vec<String> {
            let servers = chain.servers.iter().filter_map(|id| self.map.server(*id));
            let servers = servers.filter(|server| (server.state == ServerState::Down) == down);
            servers.map(|server| format!("server {} at {}", server.id, server.address)).collect()
        };
        let up = named(false);
        if up.is_empty() {
            // All of them hold all that was acknowledged.
            return format!("start {} again, which it waits for", named(true).join(" or "));
        }
        format!("check {}, which the map takes for alive", up.join(" and "))
    }
}
