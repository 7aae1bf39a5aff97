//! Links are made when something is first sent to their shard: a client of one table links to those that hold it.

use windlass_transport::{
    Access, Pages,
    memory::{HugePages, Lock, PagesOptions},
};

use super::{
    Cluster, Core, Links, Session,
    connect::chain,
    link::{Blank, Link},
    tables::is_passing,
};
use crate::error::ConnectError;

/// Memory of rings: locked by who needs that, which is the device. What is not used takes no place.
pub(super) const RING_PAGES: PagesOptions =
    PagesOptions { huge: HugePages::Never, lock: Lock::Never, sealed_for_peers: false };

impl Core {
    /// Makes a link before what is sent by it is laid out. What fails fails again when it is sent.
    pub(super) fn prepare_link(&mut self, at: usize) {
        let is_due = self.links.all.get(at).is_some_and(|link| link.is_open() && !link.made);
        if is_due
            && !self.recovery.settling
            && let Err(error) = self.links.make_link(&mut self.cluster, &mut self.session, at)
        {
            tracing::debug!(error = chain(&error), "a link is not made");
        }
    }
}

impl Links {
    /// What links by a transport have before they are made.
    pub(super) fn blank(&mut self, transport: usize) -> Result<&Blank, ConnectError> {
        if self.blanks.len() <= transport {
            self.blanks.resize_with(transport + 1, || None);
        }
        let blank = match self.blanks[transport].take() {
            Some(blank) => blank,
            None => {
                let pages = Pages::allocate(Blank::LEN, RING_PAGES)?;
                pages.close_file();
                Blank { region: self.transports[transport].register(&pages, Access::LOCAL)? }
            }
        };
        Ok(self.blanks[transport].insert(blank))
    }

    /// Makes a link that is not made yet. A link whose server is gone fails by it; where the server refuses, or there
    /// is no room here, it stays as it is, and the next message tries again.
    #[inline]
    pub(super) fn make_link(
        &mut self,
        cluster: &mut Cluster,
        session: &mut Session,
        at: usize,
    ) -> Result<(), ConnectError> {
        if self.all[at].made { Ok(()) } else { self.make_link_now(cluster, session, at) }
    }

    #[cold]
    fn make_link_now(
        &mut self,
        cluster: &mut Cluster,
        session: &mut Session,
        at: usize,
    ) -> Result<(), ConnectError> {
        let Link { server, server_at, shard, transport, .. } = self.all[at];
        let provider = cluster.servers[server_at].provider;
        let Some(mut control) = cluster.servers[server_at].control.take() else {
            self.lose(at);
            return Err(ConnectError::Unlinked { server });
        };
        let made = self.link(&mut control, (server, server_at), (provider, transport), shard);
        match made {
            Ok(link) => {
                let before = std::mem::replace(&mut self.all[at], link);
                self.all[at].order = before.order;
                cluster.servers[server_at].control = Some(control);
                Ok(())
            }
            Err(error) => {
                if matches!(error, ConnectError::Interrupted) {
                    session.watching.ended_another();
                }
                let is_over = match &error {
                    // What is still to come would be taken for the next answer.
                    ConnectError::Control(_)
                    | ConnectError::Timeout { .. }
                    | ConnectError::Interrupted
                    | ConnectError::Unexpected { .. } => true,
                    ConnectError::Refused { kind, .. } => is_passing(*kind),
                    _ => control.is_closed(),
                };
                if is_over {
                    tracing::debug!(server = server.0, error = chain(&error), "a server is gone");
                    cluster.check_server(self, server_at);
                } else {
                    cluster.servers[server_at].control = Some(control);
                }
                Err(error)
            }
        }
    }
}
