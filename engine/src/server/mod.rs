//! A server: its shards, its control port, its place in the cluster.

pub(crate) mod catalogue;
mod cluster;
mod config;
mod connection;
mod coordinators;
mod data_lock;
mod durability;
mod emptied;
mod founding;
mod hearing;
mod identity;
mod member;
mod peers;
mod presence;
mod recovering;
pub mod restore;
mod scrub;
mod shards;
mod thread;
mod tickets;
mod together;

use std::{
    net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam::channel::unbounded;
use windlass_transport::descriptors;
use windlass_wire::{
    ServerId, ShardId,
    control::Provider,
    coordination::{Kept, WorkerEntry},
};

pub use config::{ConfigError, ServerConfig};
pub use peers::{Peers, PeersConfig};
pub use scrub::scrub_server;

pub use identity::IdentityError;
pub use thread::ShardThread;

use self::{
    catalogue::{Catalogue, CatalogueError},
    cluster::{Cluster, DataDirectory},
    coordinators::Coordinators,
    data_lock::DataLock,
    founding::{found, kept_on_disk, lease_timings},
    member::{Member, MemberOptions, StartMemberError},
    shards::RunningShard,
};
use crate::{
    control_port::ControlPort,
    coordinator::{RunError, RunningCoordinator, StoreError},
    shard::{ChainContext, ShardError, ShardHandle, SharedLeases, chain},
};

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The control port cannot be used.
    #[error("cannot listen on {address}: choose another address, or stop who uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// No thread could be started.
    #[error("cannot start a thread")]
    Thread {
        /// Why.
        source: std::io::Error,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes, which a server proves itself by")]
    Random {
        /// Why.
        source: std::io::Error,
    },
    /// [`ServerConfig::give_up`] was set before the cluster served.
    #[error("the start was given up")]
    GivenUp,
    /// No transport works.
    #[error("no transport is usable: {notes}")]
    NoTransport {
        /// Why each is not.
        notes: String,
    },
    /// A shard could not be made.
    #[error("shard {shard} cannot start")]
    Shard {
        /// The shard.
        shard: ShardId,
        /// Why.
        source: ShardError,
    },
    /// A shard's thread ended while it started.
    #[error("shard {shard} ended while it started")]
    Died {
        /// The shard.
        shard: ShardId,
    },
    /// The thread it is to share is full.
    #[error("the thread given to this server has {max} shards: give it another")]
    Crowded {
        /// As many as it takes.
        max: usize,
    },
    /// The coordinator does not take this server.
    #[error("cannot join the cluster at {}: {reason}", windlass_transport::text::Shown(.coordinator))]
    Join {
        /// Its address.
        coordinator: String,
        /// Why.
        reason: String,
    },
    /// What this server's own coordinator keeps cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The data directory does not say who this server is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// What the data directory holds cannot be used.
    #[error("cannot serve what the data directory holds: {reason}")]
    Data {
        /// Why.
        reason: String,
    },
}

/// What a server's threads share.
#[derive(Debug)]
struct Shared {
    config: ServerConfig,
    cluster: Arc<Cluster>,
    member: Arc<Member>,
    shards: Vec<ShardHandle>,
    providers: Vec<Provider>,
    notes: Vec<String>,
    stopping: AtomicBool,
    stop_asked: Mutex<bool>,
    stop_signal: Condvar,
    connections_ever: AtomicU64,
}

impl Shared {
    fn server_id(&self) -> ServerId {
        self.member.server()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn request_stop(&self) {
        *self.stop_asked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop_signal.notify_all();
    }
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    advertised: String,
    shards: Vec<RunningShard>,
    port: Option<ControlPort>,
    coordinator: Option<RunningCoordinator>,
    // Declared last: nobody else may have the directory before all threads are gone.
    _lock: Option<DataLock>,
}

/// How long the first map may take to come and be acted on: recovery of what was kept is part of it.
const FIRST_MAP_PATIENCE: Duration = Duration::from_secs(3600);

impl Server {
    /// Starts the shards and the control port, and joins or founds the cluster.
    ///
    /// # Errors
    /// When the configuration is not valid, the port is taken, no transport works, memory is
    /// refused, the data directory cannot be used, or the coordinator does not take this server.
    pub fn start(config: ServerConfig) -> Result<Self, StartError> {
        config.validate()?;
        let listen = |source| StartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let advertised = config.advertise.clone().unwrap_or_else(|| address.to_string());
        let advertised_ip = advertised_ip(&advertised);

        let unusable = |error: CatalogueError| StartError::Data { reason: chain(&error) };
        if config.data_dir.is_some() {
            descriptors::hold_reserve();
        }
        let lock = config.data_dir.as_deref().map(DataLock::take).transpose();
        let lock = lock.map_err(|reason| StartError::Data { reason })?;
        let kept = match &config.data_dir {
            Some(data) => Catalogue::load(data).map_err(unusable)?,
            None => None,
        };
        let generation = match (&config.data_dir, &kept) {
            (Some(data), Some(kept)) => {
                kept.generation_for(data, config.shards).map_err(unusable)?
            }
            _ => 0,
        };
        let kept_nothing = kept.is_none();
        let on_disk =
            kept.as_ref().map_or(Kept::Nothing {}, |kept| kept_on_disk(kept, config.accept_damage));
        let partitions = kept.as_ref().map_or(0, |kept| kept.partitions);
        let logs = kept.as_ref().map_or_else(Vec::new, |kept| kept.logs.clone());
        let copies = kept.as_ref().map_or(0, |kept| kept.copies);
        let coordinator = match config.coordinators.is_empty() {
            true => Some(found(&config, kept)?),
            false => None,
        };
        let data = config.data_dir.clone();
        let (accept_damage, storage) = (config.accept_damage, config.storage);
        // Others have to reach the control port before chains can be created.
        let is_new = kept_nothing || config.coordinators.is_empty() && config.expected_servers > 1;
        let cluster = Arc::new(Cluster::new(data.clone().map(|path| DataDirectory {
            path,
            accept_damage,
            storage,
            generation,
            is_new,
            partitions,
            logs,
            copies,
        })));
        let coordinators = match &coordinator {
            Some(coordinator) => Coordinators::Here(coordinator.desk().clone()),
            None => Coordinators::at(
                config.coordinators.clone(),
                config.token.clone().unwrap_or_default(),
            ),
        };
        // The server learns its number first: its shards are made with it.
        let leases = Arc::new(SharedLeases::new(lease_timings()));
        let (member, downlink) = Member::join(MemberOptions {
            coordinators,
            cluster: cluster.clone(),
            leases: leases.clone(),
            data,
            address: advertised.clone(),
            shard_count: config.shards,
            kept: on_disk,
            give_up: config.give_up.clone(),
        })?;
        let (events, reported) = unbounded();
        let thread = |source| StartError::Thread { source };
        let orders = member.run(downlink, reported).map_err(thread)?;
        let (ended, broken) = unbounded();
        let context = ChainContext { leases, events, ended };
        let started = start_shards(&config, member.server(), &context, advertised_ip);
        let Started { running: shards, providers, notes } = match started {
            Ok(started) => started,
            Err(error) => {
                member.stop();
                return Err(error);
            }
        };
        let handles: Vec<ShardHandle> = shards.iter().map(|shard| shard.handle.clone()).collect();
        let peers = Peers::start(PeersConfig {
            shards: handles.clone(),
            providers: providers.clone(),
            token: config.token.clone().unwrap_or_default(),
            ended: broken,
        })
        .map_err(thread)?;
        cluster.attach(handles.clone(), peers);
        let shared = Arc::new(Shared {
            cluster,
            member,
            shards: handles,
            providers,
            notes,
            stopping: AtomicBool::new(false),
            stop_asked: Mutex::new(false),
            stop_signal: Condvar::new(),
            connections_ever: AtomicU64::new(0),
            config,
        });
        // From here on dropping it stops what runs.
        let mut server =
            Self { shared, address, advertised, shards, port: None, coordinator, _lock: lock };
        server.shared.member.start_obeying(orders).map_err(thread)?;
        server
            .shared
            .cluster
            .wait_for_first_map(FIRST_MAP_PATIENCE, &server.shared.config.give_up)?;
        // What recovery has found to be lost is known before anybody asks.
        server.shared.member.beat();
        let serving = server.shared.clone();
        let token = serving.config.token.clone();
        let port = ControlPort::open(listener, token, move |stream, greeting| {
            connection::serve(&serving, stream, greeting)
        })
        .map_err(thread)?;
        server.port = Some(port);
        Ok(server)
    }

    /// Where the control port listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address that clients connect to, `host:port`.
    #[must_use]
    pub fn advertised(&self) -> &str {
        &self.advertised
    }

    /// The server's number.
    #[must_use]
    pub fn id(&self) -> ServerId {
        self.shared.server_id()
    }

    /// The training workers the cluster knows: who is not live is not waited for.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerEntry> {
        self.shared.cluster.workers()
    }

    /// Whether the server stops because its disk refused a write.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.shared.member.has_failed() && self.shared.member.has_left()
    }

    /// Whether a shard's thread has ended by a panic, which is a bug. The rows of that shard are out of
    /// reach: what is asked of it ends with an error. `windlass serve` does not get as far: there a panic
    /// ends the process.
    #[must_use]
    pub fn has_panicked(&self) -> bool {
        self.shards.iter().any(RunningShard::has_panicked)
    }

    /// Providers on offer, best first, and why others are not.
    #[must_use]
    pub fn providers(&self) -> (&[Provider], &[String]) {
        (&self.shared.providers, &self.shared.notes)
    }

    /// Waits until a client with the right asks the server to shut down, it has left its cluster,
    /// or `timeout` is over. Returns whether it is to stop.
    #[must_use]
    pub fn wait_for_stop(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let asked = self.shared.stop_asked.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self
                .shared
                .stop_signal
                .wait_timeout_while(asked, left.min(LEAVE_POLL_INTERVAL), |asked| !*asked)
                .unwrap_or_else(PoisonError::into_inner);
            if *waited.0 || self.shared.member.has_left() {
                return true;
            }
            if left.is_zero() {
                return false;
            }
        }
    }

    /// Carries out what is in the mailboxes, then ends all threads.
    pub fn stop(mut self) {
        self.stop_now();
    }

    fn stop_now(&mut self) {
        if self.shared.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        self.port = None;
        self.shared.member.stop();
        self.shards.clear();
        self.coordinator = None;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_now();
    }
}

impl From<StartMemberError> for StartError {
    fn from(error: StartMemberError) -> Self {
        match error {
            StartMemberError::Join(error) => {
                Self::Join { coordinator: error.coordinator, reason: error.reason }
            }
            StartMemberError::Identity(error) => Self::Identity(error),
            StartMemberError::GivenUp => Self::GivenUp,
            StartMemberError::Random { source } => Self::Random { source },
        }
    }
}

impl From<RunError> for StartError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Store(source) => Self::Store(source),
            RunError::Thread { source } => Self::Thread { source },
        }
    }
}

/// Time between checks of a waiting server whether it has left its cluster.
const LEAVE_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A server's shards, and by which providers they are reached.
#[derive(Debug, Default)]
struct Started {
    running: Vec<RunningShard>,
    providers: Vec<Provider>,
    notes: Vec<String>,
}

/// Starts all shards; what they are made of is the same for each.
fn start_shards(
    config: &ServerConfig,
    server: ServerId,
    context: &ChainContext,
    advertised: Option<IpAddr>,
) -> Result<Started, StartError> {
    let mut started = Started::default();
    let mut threads: Vec<_> = config.thread.iter().cloned().collect();
    let thread_count = match (threads.len(), config.cores.len()) {
        (0, 0) => usize::from(config.shards),
        (0, cores) => cores.min(usize::from(config.shards)),
        (given, _) => given,
    };
    for shard in (0..config.shards).map(ShardId) {
        let at = usize::from(shard.0) % thread_count;
        if at == threads.len() {
            let name = format!("windlass-shard-{shard}");
            let started = ShardThread::start(&name, config.cores.get(at).copied());
            threads.push(started.map_err(|source| StartError::Thread { source })?);
        }
        let (one, offered, missing) =
            shards::start_shard(shard, server, config, context, &threads[at], advertised)?;
        started.running.push(one);
        (started.providers, started.notes) = (offered, missing);
    }
    Ok(started)
}

/// The address in `host:port`, when it is one.
fn advertised_ip(advertised: &str) -> Option<IpAddr> {
    advertised.to_socket_addrs().ok()?.next().map(|address| address.ip())
}
