//! A shard: one thread on one core, sole owner of its partitions, mailboxes and queue pairs.
//!
//! One turn, an event a file: take commands (`command`), poll the transports, drain
//! mailboxes (`drain`, `burst`, `fetch`), carry out pushes (`push`, `aggregate`) and pulls (`pull`), keep
//! workers' clocks and the pulls that wait for them (`clocks`), write
//! completions (`acknowledge`), mark rows for one-sided readers (`marks`). Memory comes and goes by another
//! thread (`growth`, `memory`). When all of that found nothing for a while, its thread sleeps
//! (`reactor`, `wait`). Every step does bounded work.

mod acknowledge;
mod admitted;
mod aggregate;
mod arena;
mod burst;
mod chain;
mod checkpoint;
mod clocks;
mod coded;
mod command;
mod connect;
mod drain;
mod durable;
mod fetch;
mod growth;
mod held_back;
mod ids_hash;
mod image;
mod kept_logs;
mod locate;
mod log_size;
mod marks;
mod memory;
mod open_log;
mod poll;
mod pull;
mod push;
mod reactor;
mod record;
mod recover;
mod regrouped;
mod rounds;
mod rule;
mod scan;
mod session;
mod sessions;
mod set_rows;
mod staging;
mod statistics;
mod stopwatch;
mod tables;
mod wait;
mod work;

use std::{collections::HashMap, sync::Arc, time::Duration};

use crossbeam::channel::Receiver;
use windlass_transport::{Completion, QueuePairId, Transport};
use windlass_wire::{ClusterMap, ServerId, SessionId, ShardId, TableId};

pub use chain::{
    ChainCommand, ChainContext, LinkEnded, PartitionChecksum, PartitionStatus, ServerEvent,
    SharedLeases,
};
pub(crate) use command::Answer;
pub use command::{AttachedMailbox, ShardCommand, ShardHandle, ShardStopped};
pub use kept_logs::KeptLog;
pub use memory::MemoryMade;
pub use reactor::Reactor;
pub use recover::RecoverySummary;
pub use regrouped::Regrouped;
pub use set_rows::{RowsToSet, SetError};
pub use statistics::ShardStatistics;
pub(crate) use windlass_transport::error::chain;

use self::{
    aggregate::Aggregator, arena::Arena, chain::Chain, clocks::Clocks, durable::Durable,
    growth::Growth, ids_hash::IdMap, marks::Marks, sessions::Sessions, staging::Staging,
    tables::ShardTable, wait::Pace, work::Turn,
};
use crate::limits::COMPLETIONS_PER_POLL;

/// How a shard behaves; the same for all shards of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardOptions {
    /// How long it spins without finding work before it sleeps, in microseconds.
    pub spin_us: u32,
    /// Bytes of values above which clients leave them for the shard to read; without, what suits the
    /// transport.
    pub by_reference_len: Option<u32>,
    /// Bytes of rows, state and indices it may hold.
    pub memory_len_max: u64,
    /// Bytes that its log may take on the disk; without, about twice what it holds.
    pub log_len_max: Option<u64>,
    /// How long a worker whose connection is gone is still waited for, in milliseconds.
    pub worker_timeout_ms: u32,
}

/// Everything one shard owns.
pub struct Shard {
    id: ShardId,
    server: ServerId,
    shard_count: u16,
    options: ShardOptions,
    inbox: Receiver<ShardCommand>,
    transports: Vec<Box<dyn Transport>>,
    map: Arc<ClusterMap>,
    tables: IdMap<TableId, ShardTable>,
    /// Tables with smaller numbers were made here, or dropped.
    tables_below: u32,
    arena: Arena,
    /// Rows that are being made, and rows that are being marked or given back.
    growth: Growth,
    marks: Marks,
    staging: Staging,
    memory_left: u64,
    sessions: Sessions,
    by_session: HashMap<SessionId, usize>,
    /// Connections of sessions so far.
    session_lives: u64,
    by_queue_pair: IdMap<(usize, QueuePairId), usize>,
    /// Workers' clocks, and pulls that wait for them.
    clocks: Clocks,
    turn: Turn,
    /// Buffers for the keys of parked requests.
    spare_keys: Vec<Vec<u64>>,
    /// Log and checkpoints, when the server has a data directory. In a box, because it is taken out
    /// while the shard works with it.
    durable: Option<Box<Durable>>,
    /// What was recovered, until all shards of the server are: then its log is opened.
    recovered: Option<Box<open_log::Opening>>,
    /// What it takes to be part of chains, and the part itself from the first map on.
    chain_context: Option<ChainContext>,
    chain: Option<Box<Chain>>,
    checkpoint_wanted: bool,
    /// Messages whose completion waits for chains or rounds, and buffers of pushes carried out together.
    waits: chain::Waits,
    admitted: admitted::Admitted,
    aggregator: Aggregator,
    gathered: record::Gathered,
    outcomes: Vec<record::Outcome>,
    completions: Box<[Completion]>,
    statistics: ShardStatistics,
    tells_in_flight: u32,
    /// It has been told to stop.
    stopped: bool,
    /// Who is to be told when it is gone.
    stop_answer: Option<command::Answer<()>>,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shard").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why a shard could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// No memory for staging.
    #[error("cannot allocate the shard's staging memory")]
    Staging {
        /// Why.
        source: windlass_transport::error::AllocateError,
    },
    /// No thread to make parameter memory.
    #[error("cannot start the thread that makes the shard's memory")]
    Thread {
        /// Why.
        source: std::io::Error,
    },
    /// A transport refused to register memory.
    #[error("the {provider} transport cannot register the shard's staging memory")]
    Register {
        /// The transport.
        provider: &'static str,
        /// Why.
        source: windlass_transport::error::RegisterError,
    },
}

impl Shard {
    /// A shard without tables and sessions, and the handle to command it by. `transports` must not
    /// be empty.
    ///
    /// # Errors
    /// When there is no memory for its staging area, or it cannot be registered.
    pub fn new(
        id: ShardId,
        server: ServerId,
        shard_count: u16,
        options: ShardOptions,
        mut transports: Vec<Box<dyn Transport>>,
    ) -> Result<(Self, ShardHandle), ShardError> {
        assert!(!transports.is_empty(), "a shard needs a transport");
        let staging = Staging::new(&mut transports)?;
        let (sender, inbox) = crossbeam::channel::unbounded();
        let handle = ShardHandle::new(id, sender, transports[0].waker());
        let growth = Growth::new(&transports, handle.clone())
            .map_err(|source| ShardError::Thread { source })?;
        let shard = Self {
            id,
            server,
            shard_count,
            options,
            inbox,
            transports,
            map: Arc::new(ClusterMap::default()),
            tables: IdMap::default(),
            tables_below: 0,
            arena: Arena::default(),
            growth,
            marks: Marks::default(),
            staging,
            memory_left: options.memory_len_max,
            sessions: Sessions::default(),
            by_session: HashMap::new(),
            session_lives: 0,
            by_queue_pair: IdMap::default(),
            clocks: Clocks::new(Duration::from_millis(u64::from(options.worker_timeout_ms))),
            turn: Turn::new(),
            spare_keys: Vec::new(),
            durable: None,
            recovered: None,
            chain_context: None,
            chain: None,
            checkpoint_wanted: false,
            waits: chain::Waits::default(),
            admitted: admitted::Admitted::default(),
            aggregator: Aggregator::new(),
            gathered: record::Gathered::default(),
            outcomes: Vec::new(),
            completions: vec![Completion::EMPTY; COMPLETIONS_PER_POLL].into_boxed_slice(),
            statistics: ShardStatistics::default(),
            tells_in_flight: 0,
            stopped: false,
            stop_answer: None,
        };
        Ok((shard, handle))
    }

    /// One turn; returns whether it found anything to do.
    pub fn turn(&mut self) -> bool {
        let commanded = self.take_commands();
        self.turn_once() || commanded
    }

    /// A turn without commands.
    fn turn_once(&mut self) -> bool {
        let polled = self.poll_transports();
        self.note_time();
        let worked = self.carry_out_messages(Pace::Turn);
        self.release_records();
        let failed = self.end_failed_links();
        let kept = self.turn_disk(worked);
        let acknowledged = self.acknowledge(Pace::Turn);
        let marked = marks::mark_some(self);
        let summed = chain::sum_some(self);
        if self.sessions.is_sweep_due() {
            wait::sweep(self);
        }
        polled || worked || failed || kept || acknowledged || marked || summed
    }

    /// Takes what the turn has room for out of the mailboxes and carries it out.
    fn carry_out_messages(&mut self, pace: Pace) -> bool {
        let chained = self.take_from_peers(pace);
        if self.clocks.is_used() {
            self.expire_workers();
            self.release_pulls();
        }
        self.drain_mailboxes();
        let worked = !self.turn.is_empty();
        if worked {
            self.push_all();
            self.pull_all();
            self.turn.end_views(&self.sessions, &mut self.transports);
            self.turn.clear();
        }
        self.close_rounds();
        let sent = self.end_chain_turn(pace);
        chained || worked || sent
    }
}
