//! The thread that allocates and frees a shard's memory. Mapping, zeroing, pinning and unmapping take up to a
//! second per GiB, too long for a turn.

use std::collections::BTreeMap;

use crossbeam::channel::{Receiver, Sender, unbounded};
use windlass_transport::{
    Access, Pages, Prepared, Registrar, Transport,
    memory::{Lock, PagesOptions},
};
use windlass_wire::{DataType, PartitionId, TableId, UpdateRule};

use super::{
    ShardHandle, arena::ArenaError, chain, command::ShardCommand, growth::Purpose,
    tables::ShardTable,
};
use crate::{
    limits::MEMORY_THREAD_NICE,
    table::{Background, StatePlanes},
};

/// Memory that a shard asks for.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Regions of the arena, of so many bytes.
    pub(super) regions: Vec<usize>,
    /// Optimiser state of partitions.
    pub(super) states: Vec<WantedState>,
}

/// Optimiser state of one partition of a dense table.
#[derive(Debug)]
pub(super) struct WantedState {
    pub(super) table: TableId,
    pub(super) partition: PartitionId,
    rule: UpdateRule,
    dtype: DataType,
    width: usize,
    rows: usize,
}

/// What was made, and was not yet put in use.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) regions: Vec<MadeRegion>,
    pub(super) states: BTreeMap<(TableId, PartitionId), StatePlanes>,
}

/// Zeroed pages, prepared for each transport.
#[derive(Debug)]
pub(super) struct MadeRegion {
    pub(super) pages: Pages,
    pub(super) prepared: Vec<Option<Prepared>>,
}

/// What a shard's memory thread has made for it, or why it could not.
#[derive(Debug)]
pub struct MemoryMade {
    pub(super) made: Result<Made, String>,
    pub(super) purpose: Purpose,
}

/// The thread, which ends once this and its clones are dropped and what it was asked is done.
#[derive(Clone, Debug)]
pub(super) struct MemoryThread {
    jobs: Sender<Job>,
}

enum Job {
    Make { wanted: Wanted, made: Made, purpose: Purpose },
    Run(Box<dyn FnOnce() + Send>),
}

impl MemoryThread {
    /// Starts it, for memory registered with `transports`.
    pub(super) fn start(
        transports: &[Box<dyn Transport>],
        shard: ShardHandle,
    ) -> std::io::Result<Self> {
        let registrars = transports.iter().map(|transport| transport.registrar()).collect();
        let (jobs, to_do) = unbounded();
        let name = format!("windlass-mem-{}", shard.id().0);
        let thread = std::thread::Builder::new().name(name);
        thread.spawn(move || run(&to_do, registrars, &shard))?;
        Ok(Self { jobs })
    }

    /// Has it make more memory, besides what was made before, for a purpose that comes back with it.
    pub(super) fn make(&self, wanted: Wanted, made: Made, purpose: Purpose) {
        self.send(Job::Make { wanted, made, purpose });
    }

    /// Has it drop what takes long to drop, before anything that is asked for later is made.
    pub(super) fn end(&self, ended: impl Send + 'static) {
        self.run(Box::new(move || drop(ended)));
    }

    /// For tests: it does nothing until the other end of `until` is gone.
    pub(super) fn hold(&self, until: Receiver<()>) {
        self.run(Box::new(move || {
            let _ = until.recv();
        }));
    }

    fn send(&self, job: Job) {
        assert!(self.jobs.send(job).is_ok(), "the memory thread lives as long as its shard");
    }
}

impl Background for MemoryThread {
    fn run(&self, work: Box<dyn FnOnce() + Send>) {
        self.send(Job::Run(work));
    }
}

fn run(jobs: &Receiver<Job>, registrars: Vec<Option<Box<dyn Registrar>>>, shard: &ShardHandle) {
    // Shards that share the core go first.
    let _ =
        rustix::process::setpriority_process(Some(rustix::thread::gettid()), MEMORY_THREAD_NICE);
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Make { wanted, made, purpose } => {
                let made = make(wanted, made, &registrars).map_err(|error| chain(&error));
                shard.send(ShardCommand::MemoryMade {
                    made: Box::new(MemoryMade { made, purpose }),
                });
            }
            Job::Run(work) => work(),
        }
    }
}

fn make(
    wanted: Wanted,
    mut made: Made,
    registrars: &[Option<Box<dyn Registrar>>],
) -> Result<Made, ArenaError> {
    for len in wanted.regions {
        let options =
            PagesOptions { sealed_for_peers: true, lock: Lock::Never, ..PagesOptions::default() };
        let mut pages = Pages::allocate(len, options)?;
        pages.populate()?;
        let prepare = |registrar: &Option<Box<dyn Registrar>>| {
            registrar.as_ref().map(|one| one.prepare(&pages, Access::READ)).transpose()
        };
        let prepared: Result<_, _> = registrars.iter().map(prepare).collect();
        let prepared = prepared.map_err(|source| ArenaError::Prepare { source })?;
        made.regions.push(MadeRegion { pages, prepared });
    }
    for state in wanted.states {
        let mut planes = StatePlanes::new(&state.rule, state.dtype, state.rows, state.width);
        planes.populate();
        made.states.insert((state.table, state.partition), planes);
    }
    Ok(made)
}

impl WantedState {
    /// The state of `rows` rows of a table's partition; none where its rule keeps none.
    pub(super) fn of(table: &ShardTable, partition: PartitionId, rows: u64) -> Option<Self> {
        let schema = &table.entry.schema;
        let has_state = schema.rule.state_width() > 0 || schema.rule.row_word().is_some();
        has_state.then(|| Self {
            table: table.entry.id,
            partition,
            rule: schema.rule,
            dtype: schema.dtype,
            width: schema.width as usize,
            rows: usize::try_from(rows).unwrap_or(usize::MAX),
        })
    }
}
