//! Opens and closes links when the server's linker and control threads ask for it.

use std::collections::VecDeque;

use windlass_transport::{
    Access, Endpoint, Pages, QueuePairState, mailbox,
    mailbox::{CompletionReader, MailboxWriter, Sender},
    memory::{HugePages, PagesOptions},
};
use windlass_wire::{
    ServerId,
    control::{Peer, Provider, SharedRegion},
};

use super::{
    Chain, LinkEnded,
    link::{Attached, Link},
    outputs,
    receive::Incoming,
};
use crate::{
    limits::{COMPLETION_SLOTS, RECEIVES_POSTED},
    shard::{
        chain, chain as causes,
        command::{remote_of, shared_of},
        port::Port,
        tables::Tables,
    },
};

/// First step: a queue pair for a link to a peer; any older link to it ends.
pub(in crate::shard) fn link_open(
    port: &mut Port,
    chain: &mut Chain,
    peer: Peer,
    provider: Provider,
) -> Result<Endpoint, String> {
    let transport = port.transport_of(provider)?;
    if !chain::admits_peer(chain, peer) {
        return Err("the map in force does not admit that server".to_owned());
    }
    link_close(port, chain, peer.server);
    let pending = port.transports[transport].create_queue_pair().map_err(|e| causes(&e))?;
    let endpoint = pending.endpoint().clone();
    let mut link = Link::new(peer, transport);
    link.connecting = Some(pending);
    chain.peers.links.push(link);
    Ok(endpoint)
}

/// Second step: connects to the peer's endpoint; the reply region to tell it, or `None` while
/// the peer's shard has not answered: to be asked again.
pub(in crate::shard) fn link_connect(
    port: &mut Port,
    chain: &mut Chain,
    peer: Peer,
    endpoint: &Endpoint,
) -> Result<Option<SharedRegion>, String> {
    let link = find(chain, peer)?;
    let transport = port.transports[link.transport].as_mut();
    if let Some(pending) = link.connecting.take() {
        let begun = transport.begin_connect(pending, endpoint).map_err(|e| causes(&e))?;
        link.queue_pair = Some(begun);
    }
    let queue_pair = link.queue_pair.ok_or("the link was given up")?;
    match transport.state(queue_pair) {
        QueuePairState::Connecting => return Ok(None),
        QueuePairState::Error => return Err("the peer's shard hung up".to_owned()),
        QueuePairState::Ready => {}
    }
    if link.reply.is_some() {
        return Err("the link is connected already".to_owned());
    }
    transport.post_receive(queue_pair, RECEIVES_POSTED).map_err(|e| causes(&e))?;
    let options = PagesOptions { huge: HugePages::Never, ..PagesOptions::default() };
    let reply =
        Pages::allocate(mailbox::reply_len(COMPLETION_SLOTS), options).map_err(|e| causes(&e))?;
    let region = transport.register(&reply, Access::READ_WRITE).map_err(|e| causes(&e))?;
    let shared = transport.share(queue_pair, &region);
    link.reply = Some(region);
    shared.map(|shared| Some(shared_of(shared))).map_err(|e| causes(&e))
}

/// Third step: the peer's mailbox. From now on the link carries messages.
pub(in crate::shard) fn link_attach(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    peer: Peer,
    mailbox: SharedRegion,
    ring_len: u32,
) -> Result<(), String> {
    if !(mailbox::RING_LEN_MIN..=mailbox::RING_LEN_MAX).contains(&ring_len)
        || !ring_len.is_multiple_of(64)
        || mailbox.len < mailbox::mailbox_len(ring_len) as u64
    {
        return Err("the peer's mailbox has an impossible length".to_owned());
    }
    let link = find(chain, peer)?;
    let transport = port.transports[link.transport].as_mut();
    let (Some(queue_pair), Some(reply)) = (link.queue_pair, &link.reply) else {
        return Err("the link is not connected".to_owned());
    };
    let options = PagesOptions { huge: HugePages::Never, ..PagesOptions::default() };
    let mirror = Pages::allocate(ring_len as usize, options).map_err(|e| causes(&e))?;
    let mirror = transport.register(&mirror, Access::LOCAL).map_err(|e| causes(&e))?;
    let outstanding_max = transport.capabilities().outstanding_max;
    link.attached = Some(Attached {
        writer: MailboxWriter::new(mirror.clone(), remote_of(mailbox), ring_len, COMPLETION_SLOTS)
            .in_any_order(!transport.promises(queue_pair).writes_in_order),
        completions: CompletionReader::new(reply.pages.clone(), COMPLETION_SLOTS),
        sender: Sender::new(queue_pair, outstanding_max),
        oldest: 1,
        woken_epoch: 0,
        failed: false,
        owes_wake: false,
        records: VecDeque::new(),
    });
    link.mirror = Some(mirror);
    outputs::peer_connected(port, tables, chain, peer.server);
    Ok(())
}

/// Ends the link to a peer, if there is one.
pub(in crate::shard) fn link_close(port: &mut Port, chain: &mut Chain, server: ServerId) {
    let Some(at) = chain.peers.links.iter().position(|link| link.peer.server == server) else {
        return;
    };
    let mut link = chain.peers.links.swap_remove(at);
    link.close(port.transports[link.transport].as_mut());
}

/// A peer's session has ended.
pub(in crate::shard) fn peer_detached(chain: &mut Chain, slot: usize) {
    let Some(at) = chain.peers.incoming.iter().position(|incoming| incoming.slot == slot) else {
        return;
    };
    let incoming = chain.forget_incoming(at);
    chain.suspect(incoming.peer.server);
}

/// Ends links that failed and tells who can make them anew. Returns whether there were any.
pub(in crate::shard) fn end_failed_links(port: &mut Port, chain: &mut Chain) -> bool {
    let transports = &port.transports;
    let Some(at) = chain.peers.links.iter().position(|link| {
        link.attached.is_some() && !link.is_standing(transports[link.transport].as_ref())
    }) else {
        return false;
    };
    let mut link = chain.peers.links.swap_remove(at);
    link.close(port.transports[link.transport].as_mut());
    let Peer { server, incarnation } = link.peer;
    tracing::info!(shard = chain.shard.0, peer = server.0, "the link to a server broke");
    let ended = LinkEnded { server, incarnation, shard: chain.shard };
    // A server that is stopping links no more.
    let _ = chain.context.ended.send(ended);
    chain.suspect(server);
    true
}

impl Chain {
    pub(super) fn forget_incoming(&mut self, at: usize) -> Incoming {
        let mut incoming = self.peers.incoming.swap_remove(at);
        if let Some(assembly) = incoming.assembly.take() {
            self.kept.spare.put(assembly.words);
        }
        incoming
    }

    /// A connection to a peer broke.
    fn suspect(&mut self, server: ServerId) {
        let mut outputs = Vec::new();
        self.context.leases.link_failed(self.time.now, server, &mut outputs);
        self.carry_out_leases(&mut outputs);
    }
}

fn find(chain: &mut Chain, peer: Peer) -> Result<&mut Link, String> {
    let link = chain.peers.links.iter_mut().find(|link| link.peer == peer);
    link.ok_or_else(|| "the link was replaced".to_owned())
}
