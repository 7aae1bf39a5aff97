//! Servers by the connections they joined over, and what is sent to them.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam::channel::Sender;
use windlass_wire::{
    Incarnation, ServerId,
    control::ClientReply,
    coordination::{Instruction, Order},
};

use super::desk::{Downward, SharedOrder};

/// One connection.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) server: ServerId,
    pub(super) incarnation: Incarnation,
    /// Whether it was told that it is in.
    pub(super) is_joined: bool,
    /// Whether it was told that this life is over.
    is_fenced: bool,
    /// When it last said something.
    pub(super) heard_at: Instant,
    /// Of how many servers it knows what it proves itself by to them.
    pub(super) introduced: usize,
    /// Whether it is in this process.
    is_local: bool,
    downward: Sender<Downward>,
}

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Members {
    by_connection: BTreeMap<u64, Member>,
}

impl Members {
    /// Adds a connection of a server that has not been taken in yet.
    pub(super) fn insert(
        &mut self,
        connection: u64,
        server: ServerId,
        incarnation: Incarnation,
        is_local: bool,
        downward: Sender<Downward>,
    ) {
        // A server has one: what an older one says is void.
        self.by_connection.retain(|_, member| member.server != server);
        let member = Member {
            server,
            incarnation,
            is_joined: false,
            is_fenced: false,
            heard_at: Instant::now(),
            introduced: 0,
            is_local,
            downward,
        };
        self.by_connection.insert(connection, member);
    }

    /// Forgets a connection; returns whose it was.
    pub(super) fn remove(&mut self, connection: u64) -> Option<Member> {
        self.by_connection.remove(&connection)
    }

    /// Closes all connections: their servers look for the new leader.
    pub(super) fn clear(&mut self) {
        self.by_connection.clear();
    }

    pub(super) fn get(&self, connection: u64) -> Option<&Member> {
        self.by_connection.get(&connection)
    }

    pub(super) fn get_mut(&mut self, connection: u64) -> Option<&mut Member> {
        self.by_connection.get_mut(&connection)
    }

    /// Whether another life of a server is connected, may go on, and was heard of late.
    pub(super) fn is_live(&self, server: ServerId, not: Incarnation, silence: Duration) -> bool {
        self.by_connection.values().any(|member| {
            member.server == server
                && member.incarnation != not
                && member.is_joined
                && !member.is_fenced
                && member.heard_at.elapsed() < silence
        })
    }

    /// Tells a life of a server that it is over.
    pub(super) fn fence(&mut self, connection: u64, instruction: Instruction) {
        if let Some(member) = self.by_connection.get_mut(&connection) {
            member.is_fenced = true;
        }
        self.tell(connection, instruction);
    }

    /// The connection of a server.
    pub(super) fn connection_of(&self, server: ServerId) -> Option<u64> {
        let found = self.by_connection.iter().find(|(_, member)| member.server == server);
        found.map(|(&connection, _)| connection)
    }

    /// Connections and what is known of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Member)> {
        self.by_connection.iter().map(|(&connection, member)| (connection, member))
    }

    /// Connections of servers that are in.
    pub(super) fn joined(&self) -> Vec<u64> {
        let joined = self.by_connection.iter().filter(|(_, member)| member.is_joined);
        joined.map(|(&connection, _)| connection).collect()
    }

    /// Whether a server is in.
    pub(super) fn is_joined(&self, server: ServerId) -> bool {
        self.by_connection.values().any(|member| member.is_joined && member.server == server)
    }

    /// Answers a join; from now on the server is in.
    pub(super) fn welcome(&mut self, connection: u64, reply: ClientReply) {
        if let Some(member) = self.by_connection.get_mut(&connection) {
            member.is_joined = true;
        }
        self.send(connection, Downward::Reply(Box::new(reply)));
    }

    /// Answers a join with no, and closes the connection.
    pub(super) fn refuse(downward: &Sender<Downward>, reply: ClientReply) {
        // The peer may have gone.
        let _ = downward.try_send(Downward::Reply(Box::new(reply)));
    }

    /// Sends an instruction that wants no answer.
    pub(super) fn tell(&mut self, connection: u64, instruction: Instruction) {
        self.order(connection, &shared(0, instruction));
    }

    /// Sends an instruction to every server that is in.
    pub(super) fn tell_all(&mut self, instruction: Instruction) {
        let order = shared(0, instruction);
        for connection in self.joined() {
            self.order(connection, &order);
        }
    }

    /// Lets servers elsewhere hear of the coordinator. The one in this process knows that it lives.
    pub(super) fn beat(&mut self) {
        let remote = |member: &Member| member.is_joined && !member.is_local;
        let Some(first) = self.by_connection.values().position(remote) else { return };
        let order = shared(0, Instruction::Ping {});
        let connections: Vec<u64> = { self.by_connection.iter().skip(first) }
            .filter(|(_, member)| remote(member))
            .map(|(&connection, _)| connection)
            .collect();
        for connection in connections {
            self.order(connection, &order);
        }
    }

    /// Sends an order.
    pub(super) fn order(&mut self, connection: u64, order: &Arc<SharedOrder>) {
        self.send(connection, Downward::Order(order.clone()));
    }

    fn send(&mut self, connection: u64, what: Downward) {
        let Some(member) = self.by_connection.get(&connection) else { return };
        if member.downward.try_send(what).is_err() {
            // It takes nothing any more. Without a sender the writer ends and closes the socket;
            // the reader then reports the end.
            let server = member.server;
            tracing::warn!(%server, "a server does not read what it is told");
            if let Some(member) = self.by_connection.get_mut(&connection) {
                member.downward = crossbeam::channel::bounded(1).0;
            }
        }
    }
}

/// An order for several.
pub(super) fn shared(number: u64, instruction: Instruction) -> Arc<SharedOrder> {
    SharedOrder::new(Order { number, instruction })
}
