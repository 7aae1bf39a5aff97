//! What control threads ask of a shard, between its turns.

use std::{sync::Arc, time::Instant};

use crossbeam::channel::{Sender, bounded};
use windlass_transport::{
    Access, Endpoint, Pages, RemoteKey, RemoteRegion, Role, Waker,
    mailbox::{self, CompletionWriter, MailboxReader},
    memory::{HugePages, PagesOptions},
};
use windlass_wire::{
    ClusterMap, Consistency, Incarnation, SessionId, ShardId, TableEntry, TableId, WorkerRank,
    control::{ClockPlace, PartitionPlace, Peer, Provider, SharedRegion},
};

use super::{
    Shard, ShardStatistics, chain,
    session::{Applied, Detached, Mailbox, ShardSession},
    tables::ShardTable,
};
use crate::limits::{
    COMPLETION_SLOTS, MAILBOX_RING_LEN, RECEIVES_POSTED, SESSION_EXPIRY_S, SESSIONS_MAX,
};

/// Where a command's answer goes.
pub(super) type Answer<T> = Sender<Result<T, String>>;

/// One command.
#[derive(Debug)]
pub enum ShardCommand {
    /// Makes a queue pair for a session; answers its endpoint.
    OpenMailbox {
        /// The session.
        session: SessionId,
        /// Its life.
        incarnation: Incarnation,
        /// The control connection it comes by.
        connection: u64,
        /// The worker it is, if it is one.
        rank: Option<WorkerRank>,
        /// The server it is, when it is no client.
        peer: Option<Peer>,
        /// By which provider.
        provider: Provider,
        /// The client's endpoint.
        endpoint: Endpoint,
        /// The shard's.
        answer: Answer<Endpoint>,
    },
    /// Makes a mailbox for a session whose queue pair is connected; answers its region.
    AttachMailbox {
        /// The session.
        session: SessionId,
        /// The client's reply region.
        reply: SharedRegion,
        /// Slots of its completion ring.
        completion_slots: u32,
        /// The mailbox's region.
        answer: Answer<SharedRegion>,
    },
    /// Ends a session's connection; its duplicate suppression is kept for a while.
    CloseSession {
        /// The session.
        session: SessionId,
        /// The control connection that ended: what came by another stays.
        connection: u64,
    },
    /// About its chains.
    Chain(super::ChainCommand),
    /// Takes over a new map.
    InstallMap {
        /// The map.
        map: Arc<ClusterMap>,
        /// Answered when done.
        answer: Answer<()>,
    },
    /// Makes a table.
    CreateTable {
        /// The table.
        entry: TableEntry,
        /// Answered when done.
        answer: Answer<()>,
    },
    /// Drops a table.
    DropTable {
        /// The table.
        table: TableId,
        /// Answered when done.
        answer: Answer<()>,
    },
    /// Tells a session where rows lie.
    Locate {
        /// The session.
        session: SessionId,
        /// The table.
        table: TableId,
        /// The places.
        answer: Answer<Vec<PartitionPlace>>,
    },
    /// Tells a session where a table's clock is published; one with a rank is waited for from now on.
    JoinClock {
        /// The session.
        session: SessionId,
        /// The table.
        table: TableId,
        /// Where, and the clock the worker starts from.
        answer: Answer<ClockPlace>,
    },
    /// Changes how far a table's workers may be apart.
    AlterTable {
        /// The table.
        table: TableId,
        /// How stale pulls may be.
        consistency: Consistency,
        /// Answered when done.
        answer: Answer<()>,
    },
    /// Nobody waits for a session's workers any more.
    LeaveClocks {
        /// The session.
        session: SessionId,
        /// Answered when done.
        answer: Answer<()>,
    },
    /// Nobody waits for a worker any more.
    RetireWorker {
        /// Its rank.
        rank: WorkerRank,
    },
    /// Recovers from a data directory, once map and tables are there.
    Recover {
        /// The directory, and which grouping of partitions to go on in.
        regrouped: Arc<super::Regrouped>,
        /// Whether to go on without what is damaged.
        accept_damage: bool,
        /// What was found.
        answer: Answer<super::RecoverySummary>,
    },
    /// Begins a checkpoint soon, if there is a data directory.
    Checkpoint {},
    /// Reads the counters.
    Statistics {
        /// The counters.
        answer: Answer<ShardStatistics>,
    },
    /// Finishes what is in the mailboxes, then stops.
    Stop {
        /// Answered when done.
        answer: Answer<()>,
    },
}

/// How control threads reach a shard.
#[derive(Clone, Debug)]
pub struct ShardHandle {
    id: ShardId,
    commands: Sender<ShardCommand>,
    waker: Waker,
}

impl ShardHandle {
    pub(super) fn new(id: ShardId, commands: Sender<ShardCommand>, waker: Waker) -> Self {
        Self { id, commands, waker }
    }

    /// The shard.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Sends a command and wakes the shard.
    pub fn send(&self, command: ShardCommand) {
        // A stopped shard drops the command, and with it the answer's sender: the asker sees that.
        let _ = self.commands.send(command);
        self.waker.wake();
    }

    /// Sends the command made by `make` and waits for its answer.
    ///
    /// # Errors
    /// What the shard answers, or that it has stopped.
    pub fn ask<T>(&self, make: impl FnOnce(Answer<T>) -> ShardCommand) -> Result<T, String> {
        let (sender, receiver) = bounded(1);
        self.send(make(sender));
        receiver.recv().unwrap_or_else(|_| Err(format!("shard {} has stopped", self.id)))
    }
}

impl Shard {
    /// Carries out the commands that wait; returns whether there were any.
    pub(super) fn take_commands(&mut self) -> bool {
        let mut commanded = false;
        while let Ok(command) = self.inbox.try_recv() {
            commanded = true;
            self.carry_out(command);
        }
        commanded
    }

    fn carry_out(&mut self, command: ShardCommand) {
        // An asker that is gone needs no answer.
        match command {
            ShardCommand::OpenMailbox {
                session,
                incarnation,
                connection,
                rank,
                peer,
                provider,
                endpoint,
                answer,
            } => {
                let who = (session, incarnation, connection, peer);
                let _ = answer.send(self.open_mailbox(who, rank, provider, &endpoint));
            }
            ShardCommand::AttachMailbox { session, reply, completion_slots, answer } => {
                let _ = answer.send(self.attach_mailbox(session, reply, completion_slots));
            }
            ShardCommand::CloseSession { session, connection } => {
                let slot = self.by_session.get(&session);
                let open = slot.and_then(|slot| self.sessions[*slot].as_ref());
                if open.is_some_and(|open| open.connection == connection) {
                    self.close_session(session);
                }
            }
            ShardCommand::Chain(command) => self.carry_out_chain(command),
            ShardCommand::InstallMap { map, answer } => {
                let _ = answer.send(self.install_map(map));
            }
            ShardCommand::CreateTable { entry, answer } => {
                let _ = answer.send(self.create_table(entry));
            }
            ShardCommand::DropTable { table, answer } => {
                if let Some(table) = self.tables.remove(&table) {
                    if table.clocks.is_some() {
                        self.clocks.remove_table();
                    }
                    table.release(&mut self.arena, &mut self.memory_left);
                    self.sweep_arena();
                    self.count_silent();
                }
                let _ = answer.send(Ok(()));
            }
            ShardCommand::Locate { session, table, answer } => {
                let _ = answer.send(self.locate(session, table));
            }
            ShardCommand::JoinClock { session, table, answer } => {
                let _ = answer.send(self.join_clock(session, table));
            }
            ShardCommand::AlterTable { table, consistency, answer } => {
                self.alter_table(table, consistency);
                let _ = answer.send(Ok(()));
            }
            ShardCommand::LeaveClocks { session, answer } => {
                // What it has pushed counts before it goes.
                self.turn_once();
                self.retire_workers(|_, of| of == session);
                let _ = answer.send(Ok(()));
            }
            ShardCommand::RetireWorker { rank } => self.retire_workers(|of, _| of == rank),
            ShardCommand::Recover { regrouped, accept_damage, answer } => {
                let _ = answer.send(self.recover(regrouped, accept_damage));
            }
            ShardCommand::Checkpoint {} => self.checkpoint_wanted = true,
            ShardCommand::Statistics { answer } => {
                let mut statistics = self.statistics;
                statistics.sessions = self.by_session.len() as u64;
                statistics.parameter_bytes = self.arena.memory_len();
                statistics.memory_left = self.memory_left;
                if let Some(durable) = &mut self.durable {
                    durable.count(&mut statistics);
                }
                let _ = answer.send(Ok(statistics));
            }
            ShardCommand::Stop { answer } => {
                self.drain_all();
                self.close_disk();
                self.acknowledge();
                self.stopped = true;
                let _ = answer.send(Ok(()));
            }
        }
    }

    fn open_mailbox(
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
        let applied = match self.detached.remove(&session) {
            Some(detached) if detached.incarnation == incarnation => detached.applied,
            _ => Applied::default(),
        };
        let slot = self.sessions.iter().position(Option::is_none).unwrap_or_else(|| {
            self.sessions.push(None);
            self.sessions.len() - 1
        });
        self.session_lives += 1;
        self.sessions[slot] = Some(ShardSession {
            id: session,
            incarnation,
            connection,
            life: self.session_lives,
            refuses: false,
            rank,
            peer,
            deferred_count: 0,
            transport,
            queue_pair,
            lands_unpolled: self.transports[transport].capabilities().lands_unpolled,
            applied,
            mailbox: None,
            parked: std::collections::VecDeque::with_capacity(crate::limits::PARKED_MAX),
            shared: Vec::new(),
            sleep_epoch: 0,
            active: true,
            doubts: 0,
            failed: false,
        });
        self.hear_workers(session);
        self.by_session.insert(session, slot);
        self.by_queue_pair.insert((transport, queue_pair), slot);
        Ok(answer)
    }

    fn attach_mailbox(
        &mut self,
        session: SessionId,
        reply: SharedRegion,
        completion_slots: u32,
    ) -> Result<SharedRegion, String> {
        if completion_slots != COMPLETION_SLOTS {
            return Err(format!("completion rings have {COMPLETION_SLOTS} slots"));
        }
        if reply.len < mailbox::reply_len(completion_slots) as u64 {
            return Err("the reply region is shorter than its completion ring".to_owned());
        }
        let slot = *self.by_session.get(&session).ok_or("open the mailbox first")?;
        let Some(open) = &mut self.sessions[slot] else { return Err("no session".to_owned()) };
        if open.mailbox.is_some() {
            return Err("the mailbox is attached already".to_owned());
        }
        let transport = &mut self.transports[open.transport];
        let options = PagesOptions { huge: HugePages::Never, ..PagesOptions::default() };
        let pages = Pages::allocate(mailbox::mailbox_len(MAILBOX_RING_LEN), options)
            .map_err(|e| chain(&e))?;
        let region = transport.register(&pages, Access::READ_WRITE).map_err(|e| chain(&e))?;
        let shared = transport.share(open.queue_pair, &region).map_err(|e| {
            transport.deregister(&region);
            chain(&e)
        })?;
        let outstanding_max = transport.capabilities().outstanding_max;
        open.mailbox = Some(Mailbox {
            reader: MailboxReader::new(pages, MAILBOX_RING_LEN),
            region,
            completions: CompletionWriter::new(remote_of(reply), completion_slots),
            sender: mailbox::Sender::new(open.queue_pair, outstanding_max),
        });
        if let Some(peer) = open.peer {
            self.peer_attached(slot, peer);
        }
        Ok(shared_of(shared))
    }

    pub(super) fn transport_of(&self, provider: Provider) -> Result<usize, String> {
        let mut transports = self.transports.iter();
        transports
            .position(|transport| transport.capabilities().provider == provider.name())
            .ok_or_else(|| format!("the server has no {} transport", provider.name()))
    }

    pub(super) fn close_session(&mut self, session: SessionId) {
        let Some(slot) = self.by_session.remove(&session) else { return };
        let Some(open) = self.sessions[slot].take() else { return };
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
        self.silence_workers(session);
        if open.peer.is_some() {
            self.peer_detached(slot);
        }
        // What was posted completes as flushed; what was not never will.
        for work_id in open.mailbox.iter().flat_map(|mailbox| mailbox.sender.unposted()) {
            self.end_outstanding(work_id, false);
        }
        self.sweep_arena();
        if open.applied.is_empty() {
            return;
        }
        let now = Instant::now();
        self.detached
            .retain(|_, detached| now.duration_since(detached.since).as_secs() < SESSION_EXPIRY_S);
        if self.detached.len() >= SESSIONS_MAX {
            let oldest = self.detached.iter().min_by_key(|(_, detached)| detached.since);
            if let Some(oldest) = oldest.map(|(session, _)| *session) {
                self.detached.remove(&oldest);
            }
        }
        let (incarnation, applied) = (open.incarnation, open.applied);
        self.detached.insert(open.id, Detached { incarnation, applied, since: now });
    }

    /// Ends parameter memory that no table and no peer needs any more.
    pub(super) fn sweep_arena(&mut self) {
        let sessions = &self.sessions;
        let is_shared = |region: usize| {
            let mut shared = sessions.iter().flatten().flat_map(|session| &session.shared);
            shared.any(|(at, _)| *at == region)
        };
        self.arena.sweep(is_shared, &mut self.transports);
    }

    fn install_map(&mut self, map: Arc<ClusterMap>) -> Result<(), String> {
        if map.epoch <= self.map.epoch {
            return Ok(());
        }
        self.fence_peers(&map);
        self.map = map;
        let shard = (self.id, self.shard_count);
        for table in self.tables.values_mut() {
            table
                .install(
                    &self.map,
                    self.server,
                    shard,
                    &mut self.arena,
                    &mut self.transports,
                    &mut self.memory_left,
                )
                .map_err(|e| chain(&e))?;
        }
        self.configure_chains();
        Ok(())
    }

    fn create_table(&mut self, entry: TableEntry) -> Result<(), String> {
        if self.tables.contains_key(&entry.id) {
            return Ok(());
        }
        let id = entry.id;
        let mut table =
            ShardTable::new(entry, self.map.partition_count().max(1)).map_err(|e| chain(&e))?;
        let installed = table.install(
            &self.map,
            self.server,
            (self.id, self.shard_count),
            &mut self.arena,
            &mut self.transports,
            &mut self.memory_left,
        );
        if let Err(error) = installed {
            table.release(&mut self.arena, &mut self.memory_left);
            self.sweep_arena();
            return Err(chain(&error));
        }
        if self.durable.is_some() {
            table.track_changes();
        }
        if table.clocks.is_some() {
            self.clocks.add_table();
        }
        self.tables.insert(id, table);
        self.fence_new_rows();
        Ok(())
    }
}

pub(super) fn shared_of(region: RemoteRegion) -> SharedRegion {
    SharedRegion { key: region.key.0, address: region.address, len: region.len }
}

pub(super) fn remote_of(region: SharedRegion) -> RemoteRegion {
    RemoteRegion { key: RemoteKey(region.key), address: region.address, len: region.len }
}
