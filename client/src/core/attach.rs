//! Linking to a shard: a queue pair, and the regions that both sides show each other. That is done when
//! something is first sent there: a client of one table links to the shards that hold it.

use std::{collections::VecDeque, io::ErrorKind};

use windlass_transport::{
    Access, Endpoint, MemoryRegion, Pages, QueuePairId, RemoteKey, RemoteRegion, Role,
    error::{ConnectError as LinkError, chain},
    mailbox::{self, CompletionReader, MailboxWriter, Sender},
    memory::{HugePages, Lock, PagesOptions},
};
use windlass_wire::{
    Blob, ServerId, ShardId,
    control::{ClientReply, ClientRequest, Provider, SharedRegion},
};

use super::{
    Cluster, Links, Session,
    control::Control,
    greet::ask,
    key_lists::KeyLists,
    link::{Blank, Link, LinkState, Mailbox, Sleeps, Terms},
    memory::SharedRegions,
    servers::is_passing,
    trouble::Recovery,
    vigil::Vigil,
};
use crate::error::ConnectError;

/// Slots of a completion ring; the server has the same bound.
const COMPLETION_SLOTS: u32 = 1024;

/// Receives kept posted for the server's wake-ups: it sends one per sleep of this side.
const RECEIVES_POSTED: u32 = 64;

/// Memory of rings: locked by who needs that, which is the device. What is not used takes no place.
pub(super) const RING_PAGES: PagesOptions =
    PagesOptions { huge: HugePages::Never, lock: Lock::Never, sealed_for_peers: false };

/// The client's side of a mailbox.
struct Attached {
    reply: MemoryRegion,
    writer: MailboxWriter,
    by_reference_len: u32,
    kept_keys_max: u32,
}

impl Links {
    /// Links to a shard of a server over its control connection.
    pub(super) fn link(
        &mut self,
        control: &mut Control,
        (server, server_at): (ServerId, usize),
        (provider, at): (Provider, usize),
        shard: ShardId,
    ) -> Result<Link, ConnectError> {
        let queue_pair = self.open_queue_pair(control, provider, at, shard)?;
        let mut registered = Vec::with_capacity(2);
        let attached = self.attach(control, at, queue_pair, shard, &mut registered);
        if attached.is_err() {
            let transport = self.transports[at].as_mut();
            transport.disconnect(queue_pair);
            for region in &registered {
                transport.deregister(region);
            }
        }
        let Attached { reply, writer, by_reference_len, kept_keys_max } = attached?;
        let capabilities = self.transports[at].capabilities();
        let lands_unpolled = capabilities.lands_unpolled;
        let outstanding_max = capabilities.outstanding_max;
        Ok(Link {
            server,
            server_at,
            shard,
            transport: at,
            queue_pair,
            mailbox: Mailbox {
                writer,
                completions: CompletionReader::new(reply.pages.clone(), COMPLETION_SLOTS),
                reply,
                sender: Sender::new(queue_pair, outstanding_max),
            },
            in_flight: VecDeque::with_capacity(COMPLETION_SLOTS as usize),
            shared: SharedRegions::default(),
            terms: Terms {
                by_reference_len: u64::from(by_reference_len),
                lands_unpolled,
                promises: self.transports[at].promises(queue_pair),
            },
            key_lists: KeyLists::new(kept_keys_max),
            vigil: Vigil::default(),
            sleeps: Sleeps::default(),
            state: LinkState::MADE,
            doubted_since: None,
        })
    }

    fn open_queue_pair(
        &mut self,
        control: &mut Control,
        provider: Provider,
        at: usize,
        shard: ShardId,
    ) -> Result<QueuePairId, ConnectError> {
        let address = control.peer().to_owned();
        let link_error = |source| ConnectError::Link { address: address.clone(), source };
        let transport = self.transports[at].as_mut();
        let pending = transport.create_queue_pair().map_err(link_error)?;
        let (id, endpoint) = (pending.id(), Blob(pending.endpoint().0.clone()));
        let open = ClientRequest::OpenMailbox { shard, provider, endpoint };
        let connected = match ask(control, &open) {
            Ok(ClientReply::Mailbox { endpoint }) => transport
                .connect(pending, Role::Active, &Endpoint(endpoint.0))
                .map_err(link_error)
                .and_then(|queue_pair| {
                    let posted = transport.post_receive(queue_pair, RECEIVES_POSTED);
                    posted.map_err(|_| ConnectError::Unexpected { address: address.clone() })?;
                    Ok(queue_pair)
                }),
            Ok(_) => Err(ConnectError::Unexpected { address }),
            Err(error) => Err(error),
        };
        if connected.is_err() {
            transport.disconnect(id);
        }
        connected
    }

    /// Exchanges regions with the shard. What was registered for it is in `registered` even when
    /// that fails.
    fn attach(
        &mut self,
        control: &mut Control,
        at: usize,
        queue_pair: QueuePairId,
        shard: ShardId,
        registered: &mut Vec<MemoryRegion>,
    ) -> Result<Attached, ConnectError> {
        let address = control.peer().to_owned();
        let transport = self.transports[at].as_mut();
        let reply = Pages::allocate(mailbox::reply_len(COMPLETION_SLOTS), RING_PAGES)?;
        let reply = transport.register(&reply, Access::READ_WRITE)?;
        registered.push(reply.clone());
        let reply_shared = transport.share(queue_pair, &reply)?;
        reply.pages.close_file();
        let attach = ClientRequest::AttachMailbox {
            shard,
            reply: SharedRegion {
                key: reply_shared.key.0,
                address: reply_shared.address,
                len: reply_shared.len,
            },
            completion_slots: COMPLETION_SLOTS,
        };
        let ClientReply::Attached { mailbox, ring_len, by_reference_len, kept_keys_max, .. } =
            ask(control, &attach)?
        else {
            return Err(ConnectError::Unexpected { address });
        };
        if !(mailbox::RING_LEN_MIN..=mailbox::RING_LEN_MAX).contains(&ring_len)
            || !ring_len.is_multiple_of(64)
            || mailbox.len < mailbox::mailbox_len(ring_len) as u64
        {
            return Err(ConnectError::Unexpected { address });
        }
        let mirror = Pages::allocate(ring_len as usize, RING_PAGES)?;
        mirror.close_file();
        let mirror = transport.register(&mirror, Access::LOCAL)?;
        registered.push(mirror.clone());
        let remote = RemoteRegion {
            key: RemoteKey(mailbox.key),
            address: mailbox.address,
            len: mailbox.len,
        };
        let one_write = transport.capabilities().prefers_one_write;
        let any_order = !transport.promises(queue_pair).writes_in_order;
        let writer = MailboxWriter::new(mirror, remote, ring_len, COMPLETION_SLOTS)
            .in_one_write(one_write)
            .in_any_order(any_order);
        Ok(Attached { reply, writer, by_reference_len, kept_keys_max })
    }

    /// Ends what was registered for a link that is gone.
    pub(super) fn end_registrations(&mut self, link: &Link) {
        if !link.state.made {
            return;
        }
        let transport = self.transports[link.transport].as_mut();
        transport.deregister(&link.mailbox.reply);
        transport.deregister(link.mailbox.writer.mirror());
    }

    /// Makes a link before what is sent by it is laid out. What fails fails again when it is sent.
    pub(super) fn prepare_link(
        &mut self,
        cluster: &mut Cluster,
        session: &mut Session,
        recovery: &Recovery,
        at: usize,
    ) {
        let is_due = self.all.get(at).is_some_and(|link| link.is_open() && !link.state.made);
        if is_due
            && !recovery.settling
            && let Err(error) = self.make_link(cluster, session, at)
        {
            tracing::debug!(error = chain(&error), "a link is not made");
        }
    }

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
        if self.all[at].state.made { Ok(()) } else { self.make_link_now(cluster, session, at) }
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
                self.all[at].state.order = before.state.order;
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
                    ConnectError::Link { source, .. } => has_ended(source) || control.is_closed(),
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

/// Whether a server ended since it told where to connect to: it listens there as long as it lives. It may still
/// hold the control connection.
fn has_ended(error: &LinkError) -> bool {
    match error {
        LinkError::Stale => true,
        LinkError::Unreachable { source, .. } => source.kind() == ErrorKind::ConnectionRefused,
        _ => false,
    }
}
