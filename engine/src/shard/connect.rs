//! Sessions begin and end: a queue pair, then a mailbox on it, as control threads ask.

use windlass_transport::{
    Access, Endpoint, Pages, Role,
    mailbox::{self, CompletionWriter, MailboxReader},
    memory::{HugePages, Lock, PagesOptions},
};
use windlass_wire::{
    Incarnation, SessionId, WorkerRank,
    control::{Peer, Provider, SharedRegion},
    request::order::Gate,
};

use super::{
    Shard, chain,
    coded::KeptKeys,
    command::{AttachedMailbox, remote_of, shared_of},
    session::{Mailbox, ShardSession},
};
use crate::limits::{
    BY_REFERENCE_LEN, COMPLETION_SLOTS, KEPT_KEYS_MAX, KEPT_KEYS_MEMORY_PART, MAILBOX_RING_LEN,
    MAILBOX_RING_LEN_WRITTEN, RECEIVES_POSTED, SESSIONS_MAX,
};

impl Shard {
    pub(super) fn open_mailbox(
        &mut self,
        (session, incarnation, connection, peer): (SessionId, Incarnation, u64, Option<Peer>),
        rank: Option<WorkerRank>,
        provider: Provider,
        endpoint: &Endpoint,
    ) -> Result<Endpoint, String> {
        let transport = self.transport_of(provider)?;
        if peer.is_some_and(|peer| self.chain.is_none() || !self.admits_peer(peer)) {
            return Err("this server's map does not admit that server: try again".to_owned());
        }
        if self.by_session.len() >= SESSIONS_MAX {
            return Err(format!("the shard has {SESSIONS_MAX} sessions already"));
        }
        self.close_session(session);
        let pending = self.transports[transport].create_queue_pair().map_err(|e| chain(&e))?;
        let answer = pending.endpoint().clone();
        let queue_pair = self.transports[transport]
            .connect(pending, Role::Passive, endpoint)
            .map_err(|e| chain(&e))?;
        if let Err(error) = self.transports[transport].post_receive(queue_pair, RECEIVES_POSTED) {
            self.transports[transport].disconnect(queue_pair);
            return Err(chain(&error));
        }
        self.session_lives += 1;
        let slot = self.sessions.insert(ShardSession {
            id: session,
            incarnation,
            connection,
            life: self.session_lives,
            gate: Gate::default(),
            rank,
            peer,
            deferred_count: 0,
            transport,
            queue_pair,
            lands_unpolled: self.transports[transport].capabilities().lands_unpolled,
            writes_in_order: self.transports[transport].promises(queue_pair).writes_in_order,
            mailbox: None,
            parked: std::collections::VecDeque::with_capacity(crate::limits::PARKED_MAX),
            shared: Vec::new(),
            sleep_epoch: 0,
            active: true,
            doubted_since: None,
            failed: false,
            is_watched: false,
            silent_sweeps: 0,
        });
        self.hear_workers(session);
        self.by_session.insert(session, slot);
        self.by_queue_pair.insert((transport, queue_pair), slot);
        Ok(answer)
    }

    pub(super) fn attach_mailbox(
        &mut self,
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
        let slot = *self.by_session.get(&session).ok_or("open the mailbox first")?;
        // Of all sessions the keys take a bounded part of what the shard may hold.
        let kept_len = self.by_session.len() as u64 * u64::from(KEPT_KEYS_MAX) * 8;
        let may_keep = kept_len <= self.options.memory_len_max / KEPT_KEYS_MEMORY_PART;
        let Some(open) = &mut self.sessions[slot] else { return Err("no session".to_owned()) };
        if open.mailbox.is_some() {
            return Err("the mailbox is attached already".to_owned());
        }
        let transport = &mut self.transports[open.transport];
        let burdens = transport.capabilities().reads_burden_reader;
        let by_reference_len = match self.options.by_reference_len {
            Some(len) => len,
            None if burdens => u32::MAX,
            None => BY_REFERENCE_LEN,
        };
        let ring_len = if burdens { MAILBOX_RING_LEN_WRITTEN } else { MAILBOX_RING_LEN };
        // A device pins it by itself; elsewhere it takes as much memory as was written.
        let options =
            PagesOptions { huge: HugePages::Never, lock: Lock::Never, ..PagesOptions::default() };
        let pages =
            Pages::allocate(mailbox::mailbox_len(ring_len), options).map_err(|e| chain(&e))?;
        let region = transport.register(&pages, Access::READ_WRITE).map_err(|e| chain(&e))?;
        let shared = transport.share(open.queue_pair, &region).map_err(|e| {
            transport.deregister(&region);
            chain(&e)
        })?;
        pages.close_file();
        let outstanding_max = transport.capabilities().outstanding_max;
        let kept_keys_max = if may_keep { KEPT_KEYS_MAX } else { 0 };
        open.mailbox = Some(Mailbox {
            kept_keys: KeptKeys::new(kept_keys_max),
            reader: MailboxReader::new(pages, ring_len).in_any_order(!open.writes_in_order),
            region,
            completions: CompletionWriter::new(remote_of(reply), completion_slots),
            sender: mailbox::Sender::new(open.queue_pair, outstanding_max),
        });
        if let Some(peer) = open.peer {
            self.peer_attached(slot, peer);
        }
        Ok(AttachedMailbox { region: shared_of(shared), ring_len, by_reference_len, kept_keys_max })
    }

    pub(super) fn transport_of(&self, provider: Provider) -> Result<usize, String> {
        let mut transports = self.transports.iter();
        transports
            .position(|transport| transport.capabilities().provider == provider.name())
            .ok_or_else(|| format!("the server has no {} transport", provider.name()))
    }

    pub(super) fn close_session(&mut self, session: SessionId) {
        let Some(slot) = self.by_session.remove(&session) else { return };
        let Some(open) = self.sessions.remove(slot) else { return };
        if let Some(chain) = &mut self.chain {
            chain.end_taking(slot);
        }
        self.by_queue_pair.remove(&(open.transport, open.queue_pair));
        let transport = &mut self.transports[open.transport];
        transport.disconnect(open.queue_pair);
        if let Some(mailbox) = &open.mailbox {
            transport.deregister(&mailbox.region);
        }
        for parked in open.parked {
            self.abandon(parked);
        }
        self.forget_pulls(session);
        self.forget_round_waits(slot, open.life);
        self.silence_workers(session);
        if open.peer.is_some() {
            self.peer_detached(slot);
        }
        // What was posted completes as flushed; what was not never will.
        for work_id in open.mailbox.iter().flat_map(|mailbox| mailbox.sender.unposted()) {
            self.end_outstanding(work_id, false);
        }
        self.sweep_arena();
    }

    /// Ends parameter memory that no table and no peer needs any more.
    pub(super) fn sweep_arena(&mut self) {
        let is_shared = |region: usize| is_shared(&self.sessions, region);
        let memory = &self.growth.memory;
        self.arena.sweep(is_shared, &mut self.transports, |ended| memory.end(ended));
    }
}

/// Whether a session was told of a region of the arena.
pub(super) fn is_shared(sessions: &[Option<ShardSession>], region: usize) -> bool {
    let mut shared = sessions.iter().flatten().flat_map(|session| &session.shared);
    shared.any(|(at, _)| *at == region)
}
