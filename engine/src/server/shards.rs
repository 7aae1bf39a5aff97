//! Starting the shards of a server, each on its thread with its transports.

use std::net::{IpAddr, SocketAddr};

use crossbeam::channel::bounded;
use windlass_transport::{
    Transport,
    late_run::open_shm,
    shm::ShmOptions,
    tcp::{Tcp, TcpOptions},
    verbs::VerbsTransport,
};
use windlass_wire::{ServerId, ShardId, control::Provider};

use super::{ServerConfig, ShardThread, StartError, thread::Seat};
use crate::limits::{CLIENT_MAPPED_LEN_MIN, SHARDS_PER_THREAD_MAX};
use crate::shard::{ChainContext, Shard, ShardCommand, ShardHandle, ShardOptions, chain};

/// A shard, and its place on a thread. Dropping it stops the shard.
#[derive(Debug)]
pub(super) struct RunningShard {
    pub(super) handle: ShardHandle,
    seat: Seat,
}

impl RunningShard {
    /// Whether its thread has ended by a panic.
    pub(super) fn has_panicked(&self) -> bool {
        self.seat.has_panicked()
    }
}

impl Drop for RunningShard {
    /// Carries out what is in its mailboxes; its thread ends, too, unless others run on it.
    fn drop(&mut self) {
        if let Err(error) = self.handle.ask(|answer| ShardCommand::Stop { answer }) {
            tracing::debug!(error, "the shard had stopped");
        }
    }
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
            Provider::Shm {} => {
                let mapped_len_max = config.memory_len_max.max(CLIENT_MAPPED_LEN_MIN);
                let options = ShmOptions { mapped_len_max, ..ShmOptions::default() };
                open_shm(options)
            }
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

/// Starts one shard on its thread; returns it with the providers it has and why it lacks others.
pub(super) fn start_shard(
    id: ShardId,
    server: ServerId,
    config: &ServerConfig,
    context: &ChainContext,
    thread: &ShardThread,
    advertised: Option<IpAddr>,
) -> Result<(RunningShard, Vec<Provider>, Vec<String>), StartError> {
    let seat = thread.take_seat().ok_or(StartError::Crowded { max: SHARDS_PER_THREAD_MAX })?;
    let (sender, receiver) = bounded(1);
    let (config, context) = (config.clone(), context.clone());
    seat.make(move || {
        let opened = open_transports(&config, advertised);
        if opened.transports.is_empty() {
            let notes = opened.notes.join("; ");
            let _ = sender.send(Err(StartError::NoTransport { notes }));
            return None;
        }
        let options = ShardOptions {
            spin_us: config.spin_us,
            by_reference_len: config.by_reference_len,
            memory_len_max: config.memory_len_max / u64::from(config.shards),
            log_len_max: config.log_len_max.map(|len| len / u64::from(config.shards)),
            worker_timeout_ms: config.worker_timeout_ms,
        };
        let made = Shard::new(id, server, config.shards, options, opened.transports, context);
        let (shard, told) = match made {
            Ok((shard, handle)) => (Some(shard), Ok((handle, opened.providers, opened.notes))),
            Err(source) => (None, Err(StartError::Shard { shard: id, source })),
        };
        let _ = sender.send(told);
        shard
    });
    let started = receiver.recv().unwrap_or(Err(StartError::Died { shard: id }))?;
    let (handle, providers, notes) = started;
    seat.set_waker(handle.waker().clone());
    Ok((RunningShard { handle, seat }, providers, notes))
}
