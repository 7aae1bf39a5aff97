//! Starting the shards of a server, each on its thread with its transports.

use std::{
    net::{IpAddr, SocketAddr},
    thread::JoinHandle,
};

use crossbeam::channel::bounded;
use windlass_transport::{
    Transport,
    shm::{Shm, ShmOptions},
    tcp::{Tcp, TcpOptions},
    verbs::VerbsTransport,
};
use windlass_wire::{ServerId, ShardId, control::Provider};

use super::{ServerConfig, StartError};
use crate::shard::{Shard, ShardHandle, ShardOptions, chain};

/// A shard's thread.
#[derive(Debug)]
pub(super) struct RunningShard {
    pub(super) handle: ShardHandle,
    pub(super) thread: JoinHandle<()>,
}

/// What one shard's transports turned out to be.
pub(super) struct Opened {
    pub(super) transports: Vec<Box<dyn Transport>>,
    pub(super) providers: Vec<Provider>,
    /// Why others are missing, a sentence each.
    pub(super) notes: Vec<String>,
}

/// Opens what can be opened of the wanted providers.
pub(super) fn open_transports(config: &ServerConfig, advertised: Option<IpAddr>) -> Opened {
    let mut opened = Opened { transports: Vec::new(), providers: Vec::new(), notes: Vec::new() };
    for provider in &config.providers {
        let transport: Result<Box<dyn Transport>, _> = match provider {
            Provider::Verbs {} => {
                VerbsTransport::open(config.verbs.clone()).map(|verbs| Box::new(verbs) as _)
            }
            Provider::Shm {} => Shm::open(ShmOptions::default()).map(|shm| Box::new(shm) as _),
            Provider::Tcp {} => {
                let bind = SocketAddr::new(config.listen.ip(), 0);
                let options = TcpOptions { bind, advertised, ..TcpOptions::LOOPBACK };
                Tcp::open(options).map(|tcp| Box::new(tcp) as _)
            }
        };
        match transport {
            Ok(transport) => {
                opened.transports.push(transport);
                opened.providers.push(*provider);
            }
            Err(error) => opened.notes.push(chain(&error)),
        }
    }
    opened
}

/// Starts one shard on a thread of its own; returns it with the providers it has and why it lacks
/// others.
pub(super) fn start_shard(
    id: ShardId,
    server: ServerId,
    config: &ServerConfig,
    advertised: Option<IpAddr>,
) -> Result<(RunningShard, Vec<Provider>, Vec<String>), StartError> {
    let (sender, receiver) = bounded(1);
    let config = config.clone();
    let core = config.cores.get(usize::from(id.0)).copied();
    let thread = std::thread::Builder::new()
        .name(format!("windlass-shard-{id}"))
        .spawn(move || {
            if let Some(core) = core {
                pin_to(core);
            }
            let opened = open_transports(&config, advertised);
            if opened.transports.is_empty() {
                let _ =
                    sender.send(Err(StartError::NoTransport { notes: opened.notes.join("; ") }));
                return;
            }
            let options = ShardOptions {
                spin_us: config.spin_us,
                by_reference_len: config.by_reference_len,
                memory_len_max: config.memory_len_max / u64::from(config.shards),
                worker_timeout_ms: config.worker_timeout_ms,
            };
            match Shard::new(id, server, config.shards, options, opened.transports) {
                Ok((mut shard, handle)) => {
                    let _ = sender.send(Ok((handle, opened.providers, opened.notes)));
                    shard.run();
                }
                Err(source) => {
                    let _ = sender.send(Err(StartError::Shard { shard: id, source }));
                }
            }
        })
        .map_err(|source| StartError::Thread { source })?;
    let started = receiver.recv().unwrap_or(Err(StartError::Died { shard: id }))?;
    let (handle, providers, notes) = started;
    Ok((RunningShard { handle, thread }, providers, notes))
}

/// Keeps this thread on one core. Failing to is worth a warning, not a refusal to serve.
fn pin_to(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    if core >= rustix::thread::CpuSet::MAX_CPU {
        tracing::warn!(core, "no such core");
        return;
    }
    set.set(core);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(core, %error, "cannot pin the shard to its core");
    }
}
