//! Opens sessions when control threads ask for it: first a queue pair, then a mailbox on it.

use windlass_transport::{
    Access, Endpoint, Pages, Role,
    error::chain as causes,
    mailbox,
    mailbox::{CompletionWriter, MailboxReader},
    memory::{HugePages, Lock, PagesOptions},
};
use windlass_wire::{
    SessionId,
    control::{Provider, SharedRegion},
    request::order::Gate,
};

use super::{
    chain,
    chain::Chain,
    coded::KeptKeys,
    command::{AttachedMailbox, remote_of, shared_of},
    disconnect,
    port::Port,
    session::{Mailbox, Owner, Route, ShardSession, Watch},
    tables::Tables,
};
use crate::limits::{
    BY_REFERENCE_LEN, COMPLETION_SLOTS, KEPT_KEYS_MAX, KEPT_KEYS_MEMORY_PART, MAILBOX_RING_LEN,
    MAILBOX_RING_LEN_WRITTEN, RECEIVES_POSTED, SESSIONS_MAX,
};

pub(super) fn open_mailbox(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    owner: Owner,
    provider: Provider,
    endpoint: &Endpoint,
) -> Result<Endpoint, String> {
    let transport = port.transport_of(provider)?;
    let session = owner.id;
    if owner.peer.is_some_and(|peer| !chain::admits_peer(chain, peer)) {
        return Err("this server's map does not admit that server: try again".to_owned());
    }
    if port.by_session.len() >= SESSIONS_MAX {
        return Err(format!("the shard has {SESSIONS_MAX} sessions already"));
    }
    disconnect::close_session(port, tables, chain, session);
    let pending = port.transports[transport].create_queue_pair().map_err(|e| causes(&e))?;
    let answer = pending.endpoint().clone();
    let queue_pair = port.transports[transport]
        .connect(pending, Role::Passive, endpoint)
        .map_err(|e| causes(&e))?;
    if let Err(error) = port.transports[transport].post_receive(queue_pair, RECEIVES_POSTED) {
        port.transports[transport].disconnect(queue_pair);
        return Err(causes(&error));
    }
    port.session_lives += 1;
    let slot = port.sessions.insert(ShardSession {
        owner,
        life: port.session_lives,
        gate: Gate::default(),
        deferred_count: 0,
        route: Route {
            transport,
            queue_pair,
            lands_unpolled: port.transports[transport].capabilities().lands_unpolled,
            writes_in_order: port.transports[transport].promises(queue_pair).writes_in_order,
        },
        mailbox: None,
        parked: std::collections::VecDeque::with_capacity(crate::limits::PARKED_MAX),
        shared: Vec::new(),
        watch: Watch { active: true, ..Watch::default() },
        doubted_since: None,
        failed: false,
    });
    tables.hear_workers(session);
    port.by_session.insert(session, slot);
    port.by_queue_pair.insert((transport, queue_pair), slot);
    Ok(answer)
}

pub(super) fn attach_mailbox(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    session: SessionId,
    reply: SharedRegion,
    completion_slots: u32,
) -> Result<AttachedMailbox, String> {
    if completion_slots != COMPLETION_SLOTS {
        return Err(format!("completion rings have {COMPLETION_SLOTS} slots"));
    }
    if reply.len < mailbox::reply_len(completion_slots) as u64 {
        return Err("the reply region is shorter than its completion ring".to_owned());
    }
    let slot = *port.by_session.get(&session).ok_or("open the mailbox first")?;
    // Of all sessions the keys take a bounded part of what the shard may hold.
    let kept_len = port.by_session.len() as u64 * u64::from(KEPT_KEYS_MAX) * 8;
    let may_keep = kept_len <= port.options.memory_len_max / KEPT_KEYS_MEMORY_PART;
    let open = port.sessions[slot].as_mut().expect("a session that is listed has its slot");
    if open.mailbox.is_some() {
        return Err("the mailbox is attached already".to_owned());
    }
    let transport = &mut port.transports[open.route.transport];
    let burdens = transport.capabilities().reads_burden_reader;
    let by_reference_len = match port.options.by_reference_len {
        Some(len) => len,
        None if burdens => u32::MAX,
        None => BY_REFERENCE_LEN,
    };
    let ring_len = if burdens { MAILBOX_RING_LEN_WRITTEN } else { MAILBOX_RING_LEN };
    // A device pins it by itself; elsewhere it takes as much memory as was written.
    let options =
        PagesOptions { huge: HugePages::Never, lock: Lock::Never, ..PagesOptions::default() };
    let pages = Pages::allocate(mailbox::mailbox_len(ring_len), options).map_err(|e| causes(&e))?;
    let region = transport.register(&pages, Access::READ_WRITE).map_err(|e| causes(&e))?;
    let shared = transport.share(open.route.queue_pair, &region).map_err(|e| {
        transport.deregister(&region);
        causes(&e)
    })?;
    pages.close_file();
    let outstanding_max = transport.capabilities().outstanding_max;
    let kept_keys_max = if may_keep { KEPT_KEYS_MAX } else { 0 };
    open.mailbox = Some(Mailbox {
        kept_keys: KeptKeys::new(kept_keys_max),
        reader: MailboxReader::new(pages, ring_len).in_any_order(!open.route.writes_in_order),
        region,
        completions: CompletionWriter::new(remote_of(reply), completion_slots),
        sender: mailbox::Sender::new(open.route.queue_pair, outstanding_max),
    });
    if let Some(peer) = open.owner.peer {
        chain::peer_attached(port, tables, chain, slot, peer);
    }
    Ok(AttachedMailbox { region: shared_of(shared), ring_len, by_reference_len, kept_keys_max })
}

/// Ends parameter memory that no table and no peer needs any more.
pub(super) fn sweep_arena(port: &mut Port, tables: &mut Tables) {
    let is_shared = |region: usize| is_shared(&port.sessions, region);
    let memory = &tables.growth.memory;
    tables.arena.sweep(is_shared, &mut port.transports, |ended| memory.end(ended));
}

/// Whether a session was told of a region of the arena.
pub(super) fn is_shared(sessions: &[Option<ShardSession>], region: usize) -> bool {
    let mut shared = sessions.iter().flatten().flat_map(|session| &session.shared);
    shared.any(|(at, _)| *at == region)
}
