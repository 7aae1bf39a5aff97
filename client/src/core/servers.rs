//! The servers of the map: connecting to those that are new or came back, leaving the others.

use std::time::{Duration, Instant};

use windlass_wire::{
    Durability, Incarnation, ServerId, ShardId,
    control::{ClientReply, ClientRequest, Provider},
    map::{ServerEntry, ServerState},
};

use super::{
    Cluster, Core, Links, Recovery,
    backoff::Backoff,
    connect::{Welcome, chain},
    control::Control,
    link::Link,
    requests::Failure,
};
use crate::error::{ConnectError, TableError};

/// A server the client has, or had, a control connection to.
#[derive(Debug)]
pub(crate) struct ServerLink {
    pub(crate) id: ServerId,
    pub(super) incarnation: Incarnation,
    /// The life its process began with.
    started: Incarnation,
    /// `None` while it is out of reach.
    pub(crate) control: Option<Control>,
    pub(crate) provider: Provider,
    pub(crate) shard_count: u16,
    /// Index of its first shard's link.
    pub(crate) first_link: usize,
    /// Why better providers are not used, a sentence each.
    pub(crate) notes: Vec<String>,
    /// It said nothing when it was last asked or greeted.
    pub(super) silent: bool,
    /// The map does not have it any more.
    pub(super) left: bool,
    /// When to connect again.
    pub(super) backoff: Backoff,
}

impl ServerLink {
    /// Asks it, within `limit` or else the client's timeout. Without an answer the connection is given up:
    /// the server ends its links with it, and it is connected to again.
    pub(super) fn ask(
        &mut self,
        request: &ClientRequest,
        limit: Option<Duration>,
    ) -> Result<ClientReply, TableError> {
        let Some(control) = &mut self.control else {
            return Err(TableError::OutOfReach { server: self.id });
        };
        let asked = match limit {
            Some(limit) => control.ask_within(request, limit),
            None => control.ask(request),
        };
        asked.map_err(|error| {
            self.control = None;
            let error = TableError::from(error);
            self.silent = matches!(error, TableError::Timeout { .. });
            error
        })
    }

    /// Indices of its links.
    pub(super) fn links(&self) -> std::ops::Range<usize> {
        self.first_link..self.first_link + usize::from(self.shard_count)
    }
}

impl Core {
    /// Takes in a server of the map, who was greeted; links to its shards are made when something is first sent
    /// there.
    pub(super) fn reach(
        &mut self,
        entry: &ServerEntry,
        mut control: Control,
        welcome: Welcome,
    ) -> Result<(), ConnectError> {
        let address = &entry.address;
        if welcome.server != entry.id || welcome.shard_count == 0 {
            return Err(ConnectError::Unexpected { address: address.clone() });
        }
        let mut notes = welcome.notes;
        let (provider, transport) =
            self.links.choose_provider(&self.session, &welcome.providers, &control, &mut notes)?;
        let known = self.cluster.servers.iter().position(|known| known.id == entry.id);
        let known = known.filter(|at| self.cluster.servers[*at].shard_count == welcome.shard_count);
        let server_at = known.unwrap_or(self.cluster.servers.len());
        // What was in flight is settled by being sent again.
        let before = known.map_or(0..0, |at| self.cluster.servers[at].links());
        for link in before {
            self.links.lose(link);
        }
        self.settle_lost();
        let mut links = Vec::with_capacity(usize::from(welcome.shard_count));
        let blank = self.links.blank(transport)?;
        for shard in (0..welcome.shard_count).map(ShardId) {
            links.push(Link::unmade((entry.id, server_at), shard, transport, blank));
        }
        control.set_limit(self.session.options.timeout);
        let server = ServerLink {
            id: entry.id,
            incarnation: welcome.life.0,
            started: welcome.life.1,
            control: Some(control),
            provider,
            shard_count: welcome.shard_count,
            first_link: known
                .map_or(self.links.all.len(), |at| self.cluster.servers[at].first_link),
            notes,
            silent: false,
            left: false,
            backoff: Backoff::new(Instant::now()),
        };
        match known {
            None => {
                self.links.all.extend(links);
                self.cluster.servers.push(server);
            }
            Some(at) => {
                let before = std::mem::replace(&mut self.cluster.servers[at], server);
                for (at, link) in before.links().zip(links) {
                    let old = std::mem::replace(&mut self.links.all[at], link);
                    self.links.end_registrations(&old);
                }
                self.pending.counters.reconnects += 1;
                if before.started != self.cluster.servers[at].started {
                    self.note_new_process();
                }
            }
        }
        Ok(())
    }

    /// Makes the servers those of the map. Returns whether all of them are reached.
    pub(super) fn reach_servers(&mut self, now: Instant) -> bool {
        for at in 0..self.cluster.servers.len() {
            let entry = self.cluster.map.server(self.cluster.servers[at].id);
            if entry.is_none_or(|entry| entry.state == ServerState::Down) {
                self.cluster.leave(&mut self.links, at);
            }
        }
        let mut reached = true;
        for entry in self.cluster.map.servers.clone() {
            if entry.state == ServerState::Down {
                continue;
            }
            let known = self.cluster.servers.iter().position(|known| known.id == entry.id);
            let (limit, is_due) = match known.map(|at| &self.cluster.servers[at]) {
                Some(server) if !self.links.needs_reaching(server) => continue,
                Some(server) => (server.backoff.limit(), server.backoff.is_due(now)),
                None => (Backoff::new(now).limit(), true),
            };
            if !is_due {
                reached = false;
                continue;
            }
            let greeted = self.session.greet(&entry.address, limit);
            let linked = greeted.and_then(|(mut control, welcome)| {
                control.set_limit(limit);
                self.reach(&entry, control, welcome)
            });
            if let Err(ConnectError::Interrupted) = linked {
                self.session.watching.ended_another();
                return false;
            }
            if let Err(error) = linked {
                tracing::debug!(server = entry.id.0, error = chain(&error), "not reached");
                reached = false;
                let random = self.recovery.random();
                if let Some(at) = known {
                    let server = &mut self.cluster.servers[at];
                    server.backoff.fail(Instant::now(), random);
                    server.silent = matches!(error, ConnectError::Timeout { .. });
                    if server.silent {
                        // The others wait for the next step: who asked for this one has a deadline.
                        break;
                    }
                }
            }
        }
        reached
    }

    /// A server came back as a new process. Where there is one copy of each row, those of tables
    /// that are kept in memory only are gone: going on as if they were zero would be worse than to
    /// say so.
    fn note_new_process(&mut self) {
        if self.cluster.map.replicas > 1 {
            return;
        }
        let mut lost = Vec::new();
        for table in self.tables.iter_mut() {
            if table.entry.schema.durability == (Durability::Memory {}) {
                table.rows_lost = true;
                lost.push(table.entry.id);
            }
        }
        for kept in std::mem::take(&mut self.retries.queue) {
            if lost.contains(&kept.header.table) {
                self.retries.drop_kept(&mut self.pending, &mut self.links, kept, Failure::RowsLost);
            } else {
                self.retries.queue.push_back(kept);
            }
        }
    }
}

impl Cluster {
    /// Ends everything with a server.
    fn leave(&mut self, links: &mut Links, at: usize) {
        if self.servers[at].left {
            return;
        }
        self.servers[at].left = true;
        self.servers[at].control = None;
        for link in self.servers[at].links() {
            links.lose(link);
        }
    }
}

impl Links {
    fn needs_reaching(&self, server: &ServerLink) -> bool {
        server.left || server.control.is_none() || server.links().any(|link| self.all[link].failed)
    }
}

impl Recovery {
    /// A number to spread retries by.
    pub(super) fn random(&mut self) -> u64 {
        self.random = windlass_wire::map::mix(self.random);
        self.random
    }
}
