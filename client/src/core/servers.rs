//! Connects to servers that are new in the map or came back, and leaves the others.

use std::time::Duration;

use windlass_transport::QueuePairState;
use windlass_wire::{
    Incarnation, ServerId,
    control::{ClientReply, ClientRequest, Provider, RefusalKind},
};

use super::{Cluster, Links, Tables, backoff::Backoff, control::Control};
use crate::error::TableError;

/// A server the client has, or had, a control connection to.
#[derive(Debug)]
pub(crate) struct ServerLink {
    pub(crate) id: ServerId,
    pub(super) incarnation: Incarnation,
    /// The life its process began with.
    pub(super) started: Incarnation,
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

impl Cluster {
    /// Ends everything with a server.
    pub(super) fn leave(&mut self, links: &mut Links, at: usize) {
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

impl Cluster {
    /// Looks whether servers are still there.
    pub(super) fn check_servers(&mut self, tables: &mut Tables, links: &mut Links) {
        tables.release_ended_views(links);
        for at in 0..self.servers.len() {
            self.check_server(links, at);
        }
    }

    /// Looks whether a server is still there.
    #[cold]
    pub(super) fn check_server(&mut self, links: &mut Links, at: usize) {
        let server = &mut self.servers[at];
        if server.control.as_ref().is_some_and(Control::is_closed) {
            server.control = None;
        }
        let is_gone = server.control.is_none();
        for link_at in server.links() {
            let link = &links.all[link_at];
            let state = || links.transports[link.transport].state(link.queue_pair);
            let failed =
                link.state.failed || is_gone || link.state.made && state() == QueuePairState::Error;
            if failed {
                links.lose(link_at);
            }
        }
    }
}

impl Links {
    pub(super) fn needs_reaching(&self, server: &ServerLink) -> bool {
        server.left
            || server.control.is_none()
            || server.links().any(|link| self.all[link].state.failed)
    }
}

/// Whether a refusal may be over soon.
pub(super) fn is_passing(kind: RefusalKind) -> bool {
    matches!(
        kind,
        RefusalKind::ShuttingDown {}
            | RefusalKind::NoCoordinator {}
            | RefusalKind::StaleEpoch { .. }
    )
}
