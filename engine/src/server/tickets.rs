//! The tickets by which this server proves its identity, and the check of other servers' tickets.

use std::time::Instant;

use windlass_transport::random;
use windlass_wire::{
    ServerSecret, Ticket,
    control::{Peer, RefusalKind},
    coordination::PeerTicket,
};

use super::{cluster::Cluster, member::Member};
use crate::refusal::Refusal;

/// A secret that nobody can guess.
pub(super) fn new_secret() -> std::io::Result<ServerSecret> {
    random::bytes().map(ServerSecret)
}

impl Cluster {
    /// The coordinator says what this life proves itself by to others.
    pub(super) fn introduce(&self, tickets: Vec<PeerTicket>) -> Result<(), Refusal> {
        let peers = self.peers.get().expect("orders are carried out once there are shards");
        peers.introduce(tickets);
        Ok(())
    }
}

impl Member {
    /// Refuses who says it is a server and cannot prove it.
    pub(super) fn check_ticket(&self, peer: Peer, ticket: Ticket) -> Result<(), Refusal> {
        let (secret, cluster) = self.proves_by();
        if secret.ticket_for(cluster, peer) == ticket {
            return Ok(());
        }
        if let Some(count) = self.false_peers().due(Instant::now()) {
            let server = peer.server;
            tracing::warn!(%server, count, "a connection was no server's, though it said so");
        }
        let text = format!("this is not shown to be server {}: wait for its ticket", peer.server);
        Err(Refusal::new(RefusalKind::Token {}, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_differ() {
        let (one, two) = (new_secret().unwrap(), new_secret().unwrap());
        assert!(!one.is(&two) && !one.is(&ServerSecret::default()));
    }
}
