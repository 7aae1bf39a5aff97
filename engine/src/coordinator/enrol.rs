//! Who may join, and by which number: a server proves its number by the secret it had when it was
//! given.

use std::time::Instant;

use windlass_wire::{
    ServerId,
    control::{Peer, RefusalKind},
    coordination::{Instruction, PeerTicket},
    proof::Enrolled,
};

use super::{
    desk::Joining,
    machine::{Machine, not_leading},
};
use crate::refusal::{Refusal, invalid};

impl Machine {
    /// The server that proves this secret gets the number.
    pub(super) fn enrol(&mut self, server: ServerId, joining: &Joining) {
        self.catalogue.enrolled.push(Enrolled { server, secret: joining.secret });
    }

    /// Refuses who does not fit the cluster.
    pub(super) fn may_join(&self, joining: &Joining) -> Result<(), Refusal> {
        if !self.coordinator.leads() {
            return Err(not_leading());
        }
        let map = self.coordinator.map();
        if joining.server.is_some() && joining.cluster != self.catalogue.cluster {
            return Err(invalid(
                "the server's data directory is of another cluster: give it that cluster's \
                 coordinator, or an empty directory",
            ));
        }
        joining.check()?;
        let others = map.servers.iter().filter(|(id, _)| Some(**id) != joining.server);
        let shards = others.map(|(_, entry)| entry.shards).next();
        if shards.is_some_and(|shards| shards != joining.shard_count) {
            let shards = shards.unwrap_or(1);
            return Err(invalid(format!(
                "servers of a cluster have equally many shards: use {shards}"
            )));
        }
        Ok(())
    }

    /// Refuses who claims the number of another server, or one that is in use.
    pub(super) fn may_claim(&mut self, joining: &Joining) -> Result<(), Refusal> {
        let Some(server) = joining.server else { return Ok(()) };
        let enrolled = self.catalogue.enrolled.iter().find(|enrolled| enrolled.server == server);
        let refusal = if !enrolled.is_some_and(|enrolled| enrolled.secret.is(&joining.secret)) {
            let text = format!(
                "number {server} is another server's: give this one the data directory in which it \
                 has joined, or an empty one"
            );
            Refusal::new(RefusalKind::Token {}, text)
        } else if self.members.is_live(server, joining.incarnation, self.config.heartbeat_timeout) {
            let text = format!(
                "server {server} is connected by another process: stop that one; a copy of its data \
                 directory is no server of its own"
            );
            Refusal::new(RefusalKind::NoCoordinator {}, text)
        } else {
            return Ok(());
        };
        if let Some(count) = self.false_claims.due(Instant::now()) {
            let address = &joining.address;
            tracing::warn!(%server, address, count, "a claim to a server's number was refused");
        }
        Err(refusal)
    }

    /// Tells a member what it proves itself by to servers that it has not heard of.
    pub(super) fn introduce(&mut self, connection: u64) {
        let enrolled = &self.catalogue.enrolled;
        let Some(member) = self.members.get_mut(connection) else { return };
        if member.introduced == enrolled.len() {
            return;
        }
        member.introduced = enrolled.len();
        let (cluster, peer) = (
            self.catalogue.cluster,
            Peer { server: member.server, incarnation: member.incarnation },
        );
        let others = enrolled.iter().filter(|other| other.server != peer.server);
        let tickets = others.map(|other| PeerTicket {
            server: other.server,
            ticket: other.secret.ticket_for(cluster, peer),
        });
        let tickets = tickets.collect();
        self.members.tell(connection, Instruction::Introduce { tickets });
    }
}
