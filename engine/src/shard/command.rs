//! Commands of control threads, carried out between turns.

use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded};
use windlass_transport::{Endpoint, RemoteKey, RemoteRegion, Waker};
use windlass_wire::{
    ClusterMap, Incarnation, PartitionId, SessionId, ShardId, TableEntry, TableId, WorkerRank,
    control::{ClockPlace, PartitionPlace, Peer, Provider, RefusalKind, SharedRegion, WhichRows},
};

use super::{
    Changed, RowsToSet, ServerStatistics, SetError, Shard, acknowledge, chain, clocks, connect,
    disconnect, durable, growth, locate, memory::MemoryMade, open_log, recover, remove_rows,
    rounds, session::Owner, set_rows,
};
use crate::refusal::Refusal;

/// Where a command's answer goes.
pub(crate) type Answer<T, E = String> = Sender<Result<T, E>>;

/// A shard that was asked has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {0} has stopped")]
pub struct ShardStopped(pub ShardId);

impl From<ShardStopped> for String {
    fn from(stopped: ShardStopped) -> Self {
        stopped.to_string()
    }
}

impl From<ShardStopped> for Refusal {
    fn from(stopped: ShardStopped) -> Self {
        Self::new(RefusalKind::ShuttingDown {}, stopped.to_string())
    }
}

/// A mailbox that was made for a session.
#[derive(Clone, Copy, Debug)]
pub struct AttachedMailbox {
    /// Its region.
    pub region: SharedRegion,
    /// Bytes of its ring.
    pub ring_len: u32,
    /// Bytes of values above which the client should send them by reference; `u32::MAX` if never.
    pub by_reference_len: u32,
    /// Keys that the client may have the shard keep.
    pub kept_keys_max: u32,
}

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
    /// Makes a mailbox for a session whose queue pair is connected.
    AttachMailbox {
        /// The session.
        session: SessionId,
        /// The client's reply region.
        reply: SharedRegion,
        /// Slots of its completion ring.
        completion_slots: u32,
        /// The mailbox.
        answer: Answer<AttachedMailbox>,
    },
    /// Ends a session's connection; what it has pushed is remembered for a while.
    CloseSession {
        /// The session.
        session: SessionId,
        /// The control connection that ended: what came by another stays.
        connection: u64,
    },
    /// About its chains.
    Chain(super::ChainCommand),
    /// The life before is fenced: ends all its links. What the shard holds stays.
    Fence {
        /// Answered when the links are gone.
        answer: Answer<()>,
    },
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
    /// Memory that the shard asked for is there.
    MemoryMade {
        /// What was made.
        made: Box<MemoryMade>,
    },
    /// For tests: no memory is made for the shard, and none given back, until the other end is gone.
    HoldMemory {
        /// The end to wait on.
        until: Receiver<()>,
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
        answer: Answer<Vec<PartitionPlace>, Refusal>,
    },
    /// Tells a session where a table's clock is published; one with a rank is waited for from now on.
    JoinClock {
        /// The session.
        session: SessionId,
        /// The table.
        table: TableId,
        /// Where, and the clock the worker starts from.
        answer: Answer<ClockPlace, Refusal>,
    },
    /// Changes how far a table's workers may be apart, or hyper-parameters of its rule.
    AlterTable {
        /// The table as it is from now on.
        entry: TableEntry,
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
        /// Only if it was never heard here.
        unheard: bool,
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
    /// Opens the log behind what was recovered.
    OpenLog {
        /// Its identity.
        answer: Answer<u64>,
    },
    /// Sets rows of one partition of a table, whatever its rule.
    SetRows {
        /// The table.
        table: TableId,
        /// The partition.
        partition: PartitionId,
        /// The rows.
        rows: RowsToSet,
        /// Answered when every replica has them, as safe as the table's durability says.
        answer: Answer<Changed, SetError>,
    },
    /// Removes rows of one partition of a sparse table.
    RemoveRows {
        /// The table.
        table: TableId,
        /// The partition.
        partition: PartitionId,
        /// Which.
        which: WhichRows,
        /// Answered as for [`ShardCommand::SetRows`].
        answer: Answer<Changed, SetError>,
    },
    /// Begins a checkpoint soon, if there is a data directory.
    Checkpoint {},
    /// Reads the counters, and what tables take.
    Statistics {
        /// The shard's.
        answer: Answer<ServerStatistics>,
    },
    /// Ends the shard at once, as if its process had died: nothing more is carried out or said.
    Die {},
    /// Finishes what is in the mailboxes, then stops.
    Stop {
        /// Answered when the shard and its memory are gone.
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
    pub(crate) fn new(id: ShardId, commands: Sender<ShardCommand>, waker: Waker) -> Self {
        Self { id, commands, waker }
    }

    /// The shard.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Wakes the shard's thread.
    #[must_use]
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Sends a command and wakes the shard.
    pub fn send(&self, command: ShardCommand) {
        // A stopped shard drops the command, and with it the answer's sender: the asker sees that.
        let _ = self.commands.send(command);
        self.waker.wake();
    }

    /// Sends the command made by `make`; the answer comes by the channel, which is closed without one when
    /// the shard has stopped.
    pub fn request<T, E>(
        &self,
        make: impl FnOnce(Answer<T, E>) -> ShardCommand,
    ) -> Receiver<Result<T, E>> {
        let (sender, receiver) = bounded(1);
        self.send(make(sender));
        receiver
    }

    /// Sends the command made by `make` and waits for its answer.
    ///
    /// # Errors
    /// What the shard answers, or that it has stopped.
    pub fn ask<T, E: From<ShardStopped>>(
        &self,
        make: impl FnOnce(Answer<T, E>) -> ShardCommand,
    ) -> Result<T, E> {
        self.request(make).recv().unwrap_or_else(|_| Err(ShardStopped(self.id).into()))
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
                let owner = Owner { id: session, incarnation, connection, rank, peer };
                let _ = answer.send(connect::open_mailbox(
                    &mut self.port,
                    &mut self.tables,
                    &mut self.chain,
                    owner,
                    provider,
                    &endpoint,
                ));
            }
            ShardCommand::AttachMailbox { session, reply, completion_slots, answer } => {
                let _ = answer.send(connect::attach_mailbox(
                    &mut self.port,
                    &mut self.tables,
                    &mut self.chain,
                    session,
                    reply,
                    completion_slots,
                ));
            }
            ShardCommand::CloseSession { session, connection } => {
                let slot = self.port.by_session.get(&session);
                let open = slot.and_then(|slot| self.port.sessions[*slot].as_ref());
                if open.is_some_and(|open| open.owner.connection == connection) {
                    disconnect::close_session(
                        &mut self.port,
                        &mut self.tables,
                        &mut self.chain,
                        session,
                    );
                }
            }
            ShardCommand::Chain(command) => chain::carry_out_chain(
                &mut self.port,
                &mut self.tables,
                &mut self.chain,
                &mut self.disk,
                command,
            ),
            ShardCommand::Fence { answer } => {
                chain::fence(&mut self.port, &mut self.tables, &mut self.chain);
                let _ = answer.send(Ok(()));
            }
            ShardCommand::InstallMap { map, answer } => {
                self.install_map(map, answer);
            }
            ShardCommand::CreateTable { entry, answer } => growth::create_table(
                &mut self.port,
                &mut self.tables,
                &mut self.chain,
                entry,
                answer,
            ),
            ShardCommand::MemoryMade { made } => {
                growth::take_memory(&mut self.port, &mut self.tables, &mut self.chain, *made)
            }
            ShardCommand::HoldMemory { until } => self.tables.growth.memory.hold(until),
            ShardCommand::DropTable { table, answer } => {
                self.tables.below = self.tables.below.max(table.0 + 1);
                rounds::drop_rounds(&mut self.port, &mut self.tables, table);
                self.tables.growth.forget_table(table);
                if let Some(table) = self.tables.by_id.remove(&table) {
                    if table.clocks.is_some() {
                        self.tables.clocks.remove_table();
                    }
                    let super::tables::Tables { arena, memory_left, marks, growth, .. } =
                        &mut self.tables;
                    table.release(arena, memory_left, marks, &growth.memory);
                    connect::sweep_arena(&mut self.port, &mut self.tables);
                    self.tables.count_silent();
                }
                self.tables.marks.answer(answer);
            }
            ShardCommand::Locate { session, table, answer } => {
                let _ =
                    answer.send(locate::locate(&mut self.port, &mut self.tables, session, table));
            }
            ShardCommand::JoinClock { session, table, answer } => {
                clocks::join_clock(
                    &mut self.port,
                    &mut self.tables,
                    &mut self.chain,
                    session,
                    table,
                    answer,
                );
            }
            ShardCommand::AlterTable { entry, answer } => {
                let _ = answer.send(self.tables.alter_table(&entry));
            }
            ShardCommand::LeaveClocks { session, answer } => {
                // What it has pushed counts before it goes.
                self.turn_once();
                clocks::retire_workers(&mut self.port, &mut self.tables, |_, of| of == session);
                let _ = answer.send(Ok(()));
            }
            ShardCommand::RetireWorker { rank, unheard } => {
                clocks::give_up_worker(&mut self.port, &mut self.tables, rank, unheard)
            }
            ShardCommand::Recover { regrouped, accept_damage, answer } => {
                let _ = answer.send(recover::recover(
                    &mut self.tables,
                    &self.chain,
                    &mut self.disk,
                    regrouped,
                    accept_damage,
                ));
            }
            ShardCommand::OpenLog { answer } => {
                let _ = answer.send(open_log::open_log(
                    &mut self.port,
                    &mut self.tables,
                    &mut self.chain,
                    &mut self.disk,
                ));
            }
            ShardCommand::SetRows { table, partition, rows, answer } => {
                let (port, tables, chain) = (&mut self.port, &mut self.tables, &mut self.chain);
                let entries =
                    set_rows::entries_of(tables, chain, &self.disk, table, partition, &rows);
                chain::append_set(port, tables, chain, table, partition, entries, answer);
            }
            ShardCommand::RemoveRows { table, partition, which, answer } => {
                let (port, tables, chain) = (&mut self.port, &mut self.tables, &mut self.chain);
                let entries =
                    remove_rows::entries_of(tables, chain, &self.disk, table, partition, &which);
                chain::append_set(port, tables, chain, table, partition, entries, answer);
            }
            ShardCommand::Checkpoint {} => {
                if let Some(durable) = &mut self.disk.durable {
                    durable.checkpoint_wanted = true;
                }
            }
            ShardCommand::Statistics { answer } => {
                let mut statistics = self.port.statistics;
                statistics.sessions = self.port.by_session.len() as u64;
                statistics.sessions_watched = self.port.sessions.watched().len() as u64;
                statistics.messages_waiting = self.port.waits.count();
                statistics.sessions_remembered = self.chain.sessions_remembered();
                statistics.parameter_bytes = self.tables.arena.memory_len();
                statistics.memory_left = self.tables.memory_left;
                if let Some(durable) = &mut self.disk.durable {
                    durable.count(&mut statistics);
                }
                (statistics.chain_held_bytes, statistics.chain_inflight) =
                    chain::chain_backlog(&self.chain);
                let tables = self.tables.usage(|partition| self.chain.leads(partition));
                let _ = answer.send(Ok(ServerStatistics { counted: statistics, tables }));
            }
            ShardCommand::Die {} => self.stopped = true,
            ShardCommand::Stop { answer } => {
                self.drain_all();
                durable::close_disk(
                    &mut self.port,
                    &mut self.tables,
                    &mut self.chain,
                    &mut self.disk,
                );
                acknowledge::acknowledge(
                    &mut self.port,
                    &mut self.tables,
                    &mut self.chain,
                    super::wait::Pace::Turn,
                );
                self.stopped = true;
                self.stop_answer = Some(answer);
            }
        }
    }

    /// Acts by a newer map. That never fails: what there is no memory for is told, and takes part in
    /// nothing. The first map is answered once the rows it gives to this shard are there.
    fn install_map(&mut self, map: Arc<ClusterMap>, answer: Answer<()>) {
        if map.epoch <= self.chain.map.epoch && !self.chain.map.chains.is_empty() {
            let _ = answer.send(Ok(()));
            return;
        }
        let is_first = !self.chain.map.is_founded();
        chain::fence_peers(&mut self.port, &mut self.tables, &mut self.chain, &map);
        self.chain.map = map;
        let (first, other) = if is_first { (Some(answer), None) } else { (None, Some(answer)) };
        chain::begin_empty(&mut self.tables, &mut self.chain);
        growth::follow_map(&mut self.port, &mut self.tables, &mut self.chain, first);
        chain::configure_chains(&mut self.port, &mut self.tables, &mut self.chain, &mut self.disk);
        rounds::end_round_waits(&mut self.port, &mut self.tables);
        if let Some(answer) = other {
            let _ = answer.send(Ok(()));
        }
    }
}

pub(super) fn shared_of(region: RemoteRegion) -> SharedRegion {
    SharedRegion { key: region.key.0, address: region.address, len: region.len }
}

pub(super) fn remote_of(region: SharedRegion) -> RemoteRegion {
    RemoteRegion { key: RemoteKey(region.key), address: region.address, len: region.len }
}
