//! What becomes of a request that failed, and what is to be done about a partition that nobody serves, by
//! the newest map known.

use windlass_wire::{PartitionId, Status, map::ServerState};

use super::Core;
use crate::error::RequestError;

impl Core {
    pub(super) fn remedy(&self, partition: PartitionId) -> String {
        let Some(chain) = self.cluster.map.chains.get(partition.0 as usize) else {
            return "start its servers again".to_owned();
        };
        if chain.servers.is_empty() {
            return "no server kept its rows: `windlass cluster accept-loss` begins it empty"
                .to_owned();
        }
        let named = |down: bool| -> Vec<String> {
            let servers = chain.servers.iter().filter_map(|id| self.cluster.map.server(*id));
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

    /// Whether a push or pull with this outcome is sent again once the map is known.
    pub(super) fn is_sent_again(&self, status: Status) -> bool {
        !self.session.options.retry_for.is_zero()
            && match status {
                Status::StaleEpoch | Status::NotHere | Status::ShuttingDown => true,
                // Where others have the rows too, a server whose disk fails leaves the chain.
                Status::Poisoned => self.cluster.map.replicas > 1,
                _ => false,
            }
    }

    /// Whether a read that failed so is worth another try.
    pub(super) fn is_passing(&self, error: &RequestError) -> bool {
        let is_passing = matches!(
            error,
            RequestError::ServerGone { .. }
                | RequestError::NotCurrent { .. }
                | RequestError::PartitionUnavailable { .. }
        );
        is_passing && !self.session.options.retry_for.is_zero()
    }

    /// Nobody has a partition's rows.
    pub(super) fn unavailable(&self, partition: PartitionId) -> RequestError {
        let tried_for = self.session.options.retry_for;
        let remedy = self.remedy(partition);
        RequestError::PartitionUnavailable { partition, tried_for, remedy }
    }
}
