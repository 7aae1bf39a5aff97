//! A server: its shards, its control port, its place in the cluster.

mod catalogue;
mod cluster;
mod config;
mod connection;
mod peers;
mod shards;

use std::{
    net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs},
    sync::{
        Arc, Condvar, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use windlass_transport::control::{ControlStream, host_identity};
use windlass_wire::{
    Incarnation, ServerId, SessionId, ShardId,
    control::{ClientReply, ClientRequest, Instruction, PROTOCOL_VERSION, Provider, RefusalKind},
    map::{ServerEntry, ServerState},
};

pub use config::{ConfigError, ServerConfig};
pub use peers::{Peers, PeersConfig};

use self::{
    cluster::{Cluster, DataDirectory},
    shards::RunningShard,
};
use crate::{
    limits::CONTROL_CONNECTIONS_MAX,
    shard::{ShardCommand, ShardError, ShardHandle, chain, fresh_number},
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
    /// The coordinator does not take this server.
    #[error("cannot join the cluster at {coordinator}: {reason}")]
    Join {
        /// Its address.
        coordinator: String,
        /// Why.
        reason: String,
    },
}

/// What a server's threads share.
#[derive(Debug)]
struct Shared {
    config: ServerConfig,
    incarnation: Incarnation,
    cluster: Cluster,
    shards: Vec<ShardHandle>,
    providers: Vec<Provider>,
    notes: Vec<String>,
    server: OnceLock<ServerId>,
    stopping: AtomicBool,
    stop_asked: Mutex<bool>,
    stop_signal: Condvar,
    connection_count: AtomicUsize,
    connections_ever: AtomicU64,
}

impl Shared {
    fn server_id(&self) -> ServerId {
        self.server.get().copied().unwrap_or(ServerId(0))
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn request_stop(&self) {
        *self.stop_asked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop_signal.notify_all();
    }

    /// Passes a request on to the coordinator.
    fn ask_coordinator(&self, request: &ClientRequest) -> Result<ClientReply, cluster::Refusal> {
        let coordinator = self.config.join.as_deref().unwrap_or_default();
        let asked = dial(coordinator, self)
            .and_then(|mut stream| stream.ask(request).map_err(|error| chain(&error)));
        asked.map_err(|text| (RefusalKind::NoCoordinator {}, text))
    }
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    advertised: String,
    shards: Vec<RunningShard>,
    listener: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts the shards and the control port, and joins or founds the cluster.
    ///
    /// # Errors
    /// When the configuration is not valid, the port is taken, no transport works, memory is
    /// refused, or the coordinator does not take this server.
    pub fn start(config: ServerConfig) -> Result<Self, StartError> {
        config.validate()?;
        let listener = TcpListener::bind(config.listen)
            .map_err(|source| StartError::Listen { address: config.listen, source })?;
        let address = listener
            .local_addr()
            .map_err(|source| StartError::Listen { address: config.listen, source })?;
        let advertised = config.advertise.clone().unwrap_or_else(|| address.to_string());
        let advertised_ip = advertised_ip(&advertised);

        // A joining server learns its number first: its shards are made with it.
        let incarnation = Incarnation(fresh_number());
        let mut joined = None;
        if let Some(coordinator) = &config.join {
            joined = Some(join(coordinator, &config, &advertised, incarnation)?);
        }
        let server = joined.as_ref().map_or(ServerId(0), |(server, _)| *server);

        let mut running = Vec::new();
        let (mut providers, mut notes) = (Vec::new(), Vec::new());
        for shard in (0..config.shards).map(ShardId) {
            let (one, offered, missing) =
                shards::start_shard(shard, server, &config, advertised_ip)?;
            running.push(one);
            (providers, notes) = (offered, missing);
        }
        let handles: Vec<ShardHandle> = running.iter().map(|shard| shard.handle.clone()).collect();
        let shared = Arc::new(Shared {
            cluster: Cluster::new(
                handles.clone(),
                config.expected_servers,
                config.partitions,
                config
                    .data_dir
                    .clone()
                    .map(|path| DataDirectory { path, accept_damage: config.accept_damage }),
            ),
            shards: handles,
            providers,
            notes,
            incarnation,
            server: OnceLock::from(server),
            stopping: AtomicBool::new(false),
            stop_asked: Mutex::new(false),
            stop_signal: Condvar::new(),
            connection_count: AtomicUsize::new(0),
            connections_ever: AtomicU64::new(0),
            config,
        });
        match joined {
            Some((_, stream)) => obey(&shared, stream)?,
            None => {
                let entry = ServerEntry {
                    id: server,
                    incarnation,
                    address: advertised.clone(),
                    shard_count: shared.config.shards,
                    state: ServerState::Up,
                };
                shared.cluster.join(entry, None).map_err(|(_, reason)| StartError::Join {
                    coordinator: "this server".to_owned(),
                    reason,
                })?;
            }
        }
        let accepting = shared.clone();
        let listener = std::thread::Builder::new()
            .name("windlass-control".to_owned())
            .spawn(move || accept(&accepting, &listener))
            .map_err(|source| StartError::Thread { source })?;
        Ok(Self { shared, address, advertised, shards: running, listener: Some(listener) })
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

    /// Providers on offer, best first, and why others are not.
    #[must_use]
    pub fn providers(&self) -> (&[Provider], &[String]) {
        (&self.shared.providers, &self.shared.notes)
    }

    /// Waits until a client with the right asks the server to shut down, or `timeout` is over.
    /// Returns whether somebody asked.
    #[must_use]
    pub fn wait_for_stop(&self, timeout: Duration) -> bool {
        let asked = self.shared.stop_asked.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .shared
            .stop_signal
            .wait_timeout_while(asked, timeout, |asked| !*asked)
            .unwrap_or_else(PoisonError::into_inner);
        *waited.0
    }

    /// Carries out what is in the mailboxes, then ends all threads.
    pub fn stop(mut self) {
        self.stop_now();
    }

    fn stop_now(&mut self) {
        if self.shared.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        // The listener waits in accept: a connection ends that.
        drop(std::net::TcpStream::connect_timeout(&self.address, Duration::from_secs(1)));
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        for shard in self.shards.drain(..) {
            if let Err(error) = shard.handle.ask(|answer| ShardCommand::Stop { answer }) {
                tracing::debug!(error, "the shard had stopped");
            }
            if shard.thread.join().is_err() {
                tracing::error!(shard = shard.handle.id().0, "a shard panicked");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_now();
    }
}

/// Greets the server at `address` as a client of the cluster.
fn dial(address: &str, shared: &Shared) -> Result<ControlStream, String> {
    let token = shared.config.token.clone().unwrap_or_default();
    greet_as_client(address, token, shared.incarnation)
}

fn greet_as_client(
    address: &str,
    token: String,
    incarnation: Incarnation,
) -> Result<ControlStream, String> {
    let mut stream = ControlStream::connect(address).map_err(|error| chain(&error))?;
    let hello = ClientRequest::Hello {
        version: PROTOCOL_VERSION,
        token,
        session: SessionId(incarnation.0),
        incarnation,
        rank: None,
        host: host_identity(),
        peer: None,
    };
    match stream.ask(&hello) {
        Ok(ClientReply::Welcome { .. }) => Ok(stream),
        Ok(ClientReply::Refused { text, .. }) => Err(text),
        Ok(_) => Err("unexpected answer to hello".to_owned()),
        Err(error) => Err(chain(&error)),
    }
}

/// Asks the coordinator for a place in its cluster.
fn join(
    coordinator: &str,
    config: &ServerConfig,
    advertised: &str,
    incarnation: Incarnation,
) -> Result<(ServerId, ControlStream), StartError> {
    let failed = |reason| StartError::Join { coordinator: coordinator.to_owned(), reason };
    let token = config.token.clone().unwrap_or_default();
    let mut stream = greet_as_client(coordinator, token, incarnation).map_err(failed)?;
    let request = ClientRequest::Join {
        address: advertised.to_owned(),
        shard_count: config.shards,
        incarnation,
    };
    match stream.ask(&request) {
        Ok(ClientReply::Joined { server }) => Ok((server, stream)),
        Ok(ClientReply::Refused { text, .. }) => Err(failed(text)),
        Ok(_) => Err(failed("unexpected answer to join".to_owned())),
        Err(error) => Err(failed(chain(&error))),
    }
}

/// Carries out the coordinator's instructions on a thread of its own.
fn obey(shared: &Arc<Shared>, mut stream: ControlStream) -> Result<(), StartError> {
    let shared = shared.clone();
    std::thread::Builder::new()
        .name("windlass-member".to_owned())
        .spawn(move || {
            // The socket is open: it was used a moment ago.
            let _ = stream.set_read_timeout(None);
            loop {
                match stream.receive::<Instruction>() {
                    Ok(Some(instruction)) => {
                        let reply = match shared.cluster.carry_out(instruction) {
                            Ok(()) => ClientReply::Done {},
                            Err((status, text)) => ClientReply::Refused { status, text },
                        };
                        if stream.send(&reply).is_err() {
                            break;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "the coordinator is gone");
                        break;
                    }
                }
            }
        })
        .map(drop)
        .map_err(|source| StartError::Thread { source })
}

/// Takes control connections, each on a thread of its own.
fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    for stream in listener.incoming() {
        if shared.is_stopping() {
            return;
        }
        let stream = match stream.and_then(ControlStream::new) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "a control connection failed at once");
                continue;
            }
        };
        let count = shared.connection_count.fetch_add(1, Ordering::AcqRel);
        let serving = shared.clone();
        let spawned = if count < CONTROL_CONNECTIONS_MAX {
            std::thread::Builder::new()
                .name("windlass-client".to_owned())
                .stack_size(CONTROL_STACK_LEN)
                .spawn(move || {
                    let peer = stream.peer().to_owned();
                    if let Err(error) = connection::serve(&serving, stream) {
                        tracing::debug!(peer, error = chain(&error), "control connection ended");
                    }
                    serving.connection_count.fetch_sub(1, Ordering::AcqRel);
                })
                .is_ok()
        } else {
            false
        };
        if !spawned {
            shared.connection_count.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!(count, "a control connection was refused: too many");
        }
    }
}

/// Stack of a control thread, in bytes.
const CONTROL_STACK_LEN: usize = 256 << 10;

/// The address in `host:port`, when it is one.
fn advertised_ip(advertised: &str) -> Option<IpAddr> {
    advertised.to_socket_addrs().ok()?.next().map(|address| address.ip())
}
