//! Decides by the newest map what happens to a failed request, and what to do about a partition that nobody
//! serves.

use windlass_wire::{PartitionId, Status, map::ServerState};

use super::{
    Cluster, Pending, RequestId, Session,
    requests::{Failure, Reply},
    servers::is_passing,
};
use crate::error::{FilterRefusal, RequestError, TableError};

impl Cluster {
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

    /// Nobody has a partition's rows.
    pub(super) fn unavailable(&self, session: &Session, partition: PartitionId) -> RequestError {
        let tried_for = session.options.retry_for;
        let remedy = self.remedy(partition);
        RequestError::PartitionUnavailable { partition, tried_for, remedy }
    }
}

impl Session {
    /// Whether a push or pull with this outcome is sent again once the map is known.
    pub(super) fn is_sent_again(&self, cluster: &Cluster, status: Status) -> bool {
        !self.options.retry_for.is_zero()
            && match status {
                Status::StaleEpoch | Status::NotHere | Status::ShuttingDown => true,
                // Where others have the rows too, a server whose disk fails leaves the chain.
                Status::Poisoned => cluster.map.replicas > 1,
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
        is_passing && !self.options.retry_for.is_zero()
    }

    /// Whether an operation that failed so may succeed once servers are reached again.
    pub(super) fn may_pass(&self, error: &TableError) -> bool {
        !self.options.retry_for.is_zero()
            && match error {
                TableError::Control(_)
                | TableError::Timeout { .. }
                | TableError::OutOfReach { .. } => true,
                TableError::Refused { kind, .. } => is_passing(*kind),
                _ => false,
            }
    }
}

impl Pending {
    /// What a failure is to the user.
    pub(super) fn error_of(
        &self,
        cluster: &Cluster,
        session: &Session,
        id: RequestId,
        failure: Failure,
    ) -> RequestError {
        match failure {
            Failure::Gone { server } => RequestError::ServerGone { server },
            Failure::NotCurrent { server } => RequestError::NotCurrent { server },
            Failure::Unavailable { partition } => cluster.unavailable(session, partition),
            Failure::RowsLost => RequestError::RowsLost,
            Failure::Refused { status: Status::NotFinite, .. } => {
                let request = self.requests.find(id);
                let pulls = request.is_some_and(|request| !matches!(request.reply, Reply::None));
                if pulls { FilterRefusal::RowNotFinite.into() } else { RequestError::NotFinite }
            }
            Failure::Expired { expiry } => RequestError::SessionExpired { expiry },
            Failure::Refused { server, status } => {
                RequestError::Refused { server, status, rows: self.refused.of(id) }
            }
        }
    }
}
