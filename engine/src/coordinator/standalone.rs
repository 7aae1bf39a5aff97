//! A coordinator in its own process, behind a control port.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use windlass_transport::{
    control::{ControlError, ControlStream},
    descriptors,
};
use windlass_wire::{
    ServerId,
    control::{ClientReply, ClientRequest},
};

use super::{
    CoordinatorConfig, Desk, Joining, StoreConfig, StoreError,
    running::{RunError, RunningCoordinator},
};
use crate::{
    control_port::ControlPort,
    greeting::Greeting,
    refusal::refused,
    server::catalogue::{Catalogue, ONE_COPY},
    shard::chain,
};

/// Why a coordinator could not start.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorStartError {
    /// An address that others can reach, without a token.
    #[error(
        "listening on {listen} lets other machines in: give a token that servers and clients must \
         present, or allow it with the insecure option"
    )]
    Open {
        /// The address.
        listen: SocketAddr,
    },
    /// The control port cannot be used.
    #[error("cannot listen on {address}: choose another address, or stop who uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The restored directory is none.
    #[error("{path} is no restored data directory: {reason}")]
    Restored {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No thread could be started.
    #[error("cannot start a thread")]
    Thread {
        /// Why.
        source: std::io::Error,
    },
}

/// A running coordinator with its control port. Dropping it stops it.
#[derive(Debug)]
pub struct CoordinatorServer {
    // Declared first: no more connections before the coordinator stops.
    port: ControlPort,
    running: RunningCoordinator,
    stop: Arc<Stop>,
}

#[derive(Debug, Default)]
struct Stop {
    is_asked: Mutex<bool>,
    signal: Condvar,
}

impl CoordinatorServer {
    /// Starts a coordinator that listens on `listen`, for clients and servers that present `token`.
    ///
    /// # Errors
    /// When the port is taken, the address is open without a token, or the store cannot be used.
    pub fn start(
        listen: SocketAddr,
        token: Option<String>,
        is_insecure: bool,
        mut config: CoordinatorConfig,
    ) -> Result<Self, CoordinatorStartError> {
        if !listen.ip().is_loopback() && token.is_none() && !is_insecure {
            return Err(CoordinatorStartError::Open { listen });
        }
        let listener = TcpListener::bind(listen)
            .map_err(|source| CoordinatorStartError::Listen { address: listen, source })?;
        let kept = config.restored.as_deref().map(|path| restored(path, config.replicas));
        let kept = kept.transpose()?.unwrap_or_default();
        if kept.partitions != 0 {
            config.partitions = kept.partitions;
        }
        if matches!(config.store, StoreConfig::File(_)) {
            descriptors::hold_reserve();
        }
        let running = RunningCoordinator::start(config, kept.tables, kept.next_table)?;
        let stop = Arc::new(Stop::default());
        let (desk, stopping) = (running.desk().clone(), stop.clone());
        let port = ControlPort::open(listener, token, move |stream, greeting| {
            serve(stream, &greeting, &desk, &stopping)
        })
        .map_err(|source| CoordinatorStartError::Thread { source })?;
        Ok(Self { port, running, stop })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Whether it leads now.
    #[must_use]
    pub fn leads(&self) -> bool {
        let status = self.running.desk().ask(ClientRequest::CoordinatorStatus {});
        matches!(status, Ok(ClientReply::CoordinatorStatus { status }) if status.leads)
    }

    /// Waits until somebody with the token asks it to shut down, or `timeout` is over. Returns
    /// whether somebody asked.
    #[must_use]
    pub fn wait_for_stop(&self, timeout: Duration) -> bool {
        let asked = self.stop.is_asked.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.stop.signal.wait_timeout_while(asked, timeout, |asked| !*asked);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Stops it; a standby takes over.
    pub fn stop(self) {
        drop(self);
    }
}

impl From<RunError> for CoordinatorStartError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Store(source) => Self::Store(source),
            RunError::Thread { source } => Self::Thread { source },
        }
    }
}

/// The tables of a restored data directory.
fn restored(path: &Path, replicas: u8) -> Result<Catalogue, CoordinatorStartError> {
    let refused = |reason| CoordinatorStartError::Restored { path: path.to_owned(), reason };
    if replicas > 1 {
        return Err(refused(ONE_COPY.to_owned()));
    }
    let read = Catalogue::read(path).map_err(|error| refused(chain(&error)))?;
    read.ok_or_else(|| refused("name one that `checkpoint restore` has made".to_owned()))
}

fn serve(
    mut stream: ControlStream,
    greeting: &Greeting,
    desk: &Desk,
    stop: &Stop,
) -> Result<(), ControlError> {
    // A coordinator has no shards: nobody pushes to it.
    stream.send(&ClientReply::Welcome {
        session: greeting.session,
        server: ServerId(u32::MAX),
        incarnation: greeting.incarnation,
        started: greeting.incarnation,
        shard_count: 0,
        providers: Vec::new(),
        notes: Vec::new(),
    })?;
    let patient = stream.set_read_timeout(greeting.silence_max());
    debug_assert!(patient.is_ok(), "the socket is open");
    while let Some(request) = stream.receive::<ClientRequest>()? {
        match request {
            ClientRequest::Join { .. } => {
                return desk.serve(stream, Joining::from_request(request));
            }
            ClientRequest::Shutdown {} => {
                stream.send(&ClientReply::Done {})?;
                *stop.is_asked.lock().unwrap_or_else(PoisonError::into_inner) = true;
                stop.signal.notify_all();
            }
            request => stream.send(&desk.ask(request).unwrap_or_else(refused))?,
        }
    }
    Ok(())
}
