//! A shard: one thread on one core, sole owner of its partitions, mailboxes and queue pairs.
//!
//! Its parts own their state: the `port` sessions and their requests, the `tables` rows, clocks and memory, the `chain`
//! replicas and links, the `disk` log and checkpoints, `writes` the buffers of pushes. Only a turn sees them all; its
//! steps take the parts they need.
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
mod disconnect;
mod disk;
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
mod port;
mod pull;
mod push;
mod reactor;
mod record;
mod recover;
mod regrouped;
mod remove_rows;
mod reserve;
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
mod writes;

use std::time::Duration;

use crossbeam::channel::Receiver;
use windlass_transport::Transport;
use windlass_wire::{ServerId, ShardId};

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
pub use set_rows::{Changed, RowsToSet, SetError};
pub use statistics::{ServerStatistics, ShardStatistics};
pub use tables::TableUsage;
pub(crate) use windlass_transport::error::chain;

use self::{
    chain::Chain, clocks::Clocks, disk::Disk, growth::Growth, port::Port, tables::Tables,
    wait::Pace, writes::Writes,
};

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

/// The parts of a shard. A turn sees them all; its steps are functions of the parts they need.
pub struct Shard {
    inbox: Receiver<ShardCommand>,
    port: Port,
    tables: Tables,
    chain: Chain,
    disk: Disk,
    writes: Writes,
    /// It has been told to stop.
    stopped: bool,
    /// Who is to be told when it is gone.
    stop_answer: Option<command::Answer<()>>,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shard").field("id", &self.chain.shard).finish_non_exhaustive()
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
        transports: Vec<Box<dyn Transport>>,
        context: ChainContext,
    ) -> Result<(Self, ShardHandle), ShardError> {
        assert!(!transports.is_empty(), "a shard needs a transport");
        let (sender, inbox) = crossbeam::channel::unbounded();
        let handle = ShardHandle::new(id, sender, transports[0].waker());
        let port = Port::new(options, transports)?;
        let growth = Growth::new(&port.transports, handle.clone())
            .map_err(|source| ShardError::Thread { source })?;
        let clocks = Clocks::new(Duration::from_millis(u64::from(options.worker_timeout_ms)));
        let shard = Self {
            inbox,
            port,
            tables: Tables::new(growth, clocks, options.memory_len_max),
            chain: Chain::new(context, server, id, shard_count, 0),
            disk: Disk::default(),
            writes: Writes::new(),
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
        let polled = poll::poll_transports(&mut self.port, &mut self.chain);
        chain::note_time(&mut self.port, &mut self.tables, &mut self.chain, &self.disk);
        let worked = self.carry_out_messages(Pace::Turn);
        chain::release_records(&mut self.port, &mut self.tables, &mut self.chain);
        let failed = chain::end_failed_links(&mut self.port, &mut self.chain);
        let kept = durable::turn_disk(
            &mut self.port,
            &mut self.tables,
            &mut self.chain,
            &mut self.disk,
            worked,
        );
        let acknowledged =
            acknowledge::acknowledge(&mut self.port, &mut self.tables, &mut self.chain, Pace::Turn);
        let marked = marks::mark_some(&mut self.port, &mut self.tables, &mut self.chain);
        let summed = chain::sum_some(&self.tables, &mut self.chain);
        if self.port.sessions.is_sweep_due() {
            wait::sweep(&mut self.port);
        }
        polled || worked || failed || kept || acknowledged || marked || summed
    }

    /// Takes what the turn has room for out of the mailboxes and carries it out.
    fn carry_out_messages(&mut self, pace: Pace) -> bool {
        let chained = chain::take_from_peers(
            &mut self.port,
            &mut self.tables,
            &mut self.chain,
            &mut self.disk,
            pace,
        );
        if self.tables.clocks.is_used() {
            clocks::expire_workers(&mut self.port, &mut self.tables);
            clocks::release_pulls(&mut self.port, &mut self.tables);
        }
        drain::drain_mailboxes(&mut self.port, &mut self.tables, &mut self.chain, &mut self.disk);
        let worked = !self.port.turn.is_empty();
        if worked {
            push::push_all(
                &mut self.port,
                &mut self.tables,
                &mut self.chain,
                &mut self.disk,
                &mut self.writes,
            );
            pull::pull_all(&mut self.port, &mut self.tables);
            self.port.turn.end_views(&self.port.sessions, &mut self.port.transports);
            self.port.turn.clear();
        }
        rounds::close_rounds(&mut self.port, &mut self.tables, &mut self.chain);
        let sent = chain::end_chain_turn(
            &mut self.port,
            &mut self.tables,
            &mut self.chain,
            &mut self.disk,
            pace,
        );
        chained || worked || sent
    }
}
