//! `windlass serve`.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use windlass_engine::{
    limits::SHARDS_PER_THREAD_MAX,
    persist::storage,
    server::{Server, ServerConfig, ShardThread, StartError},
};
use windlass_transport::descriptors;
use windlass_wire::{control::Provider, map::suitable_partitions};

use super::{
    ExitStatus, Failure, Output, size,
    stop::{self, STOP_POLL_INTERVAL},
    token,
};
use crate::{process::wait_for_parent_to_go, verbs_flags::VerbsFlags};

const AFTER_HELP: &str = "\
Prints one line when it is ready (with --json, an object with the address), serves until SIGTERM or \
ctrl-c, and then finishes what it has taken on.

An address that other machines can reach needs --token-file, which clients must match, or an explicit \
--insecure.

Examples:
  windlass serve --dev
  windlass serve --data-dir /var/lib/windlass
  windlass serve --replicas 3 --together
  windlass serve --listen 10.0.0.1:7700 --token-file token --servers 2
  windlass serve --listen 10.0.0.2:7700 --token-file token --coordinator 10.0.0.1:7700";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Listen here; port 0 takes any free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7700")]
    listen: String,
    /// The address told to clients, if they cannot use the one listened on
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Clients and joining servers must present the token in this file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Let any machine in without a token
    #[arg(long)]
    insecure: bool,
    /// For development: refuse to be anything but a cluster of one's own with its coordinator in this
    /// process, which only this machine can reach; what serve is by default
    #[arg(long, conflicts_with_all = ["coordinator", "advertise", "insecure"])]
    dev: bool,
    /// Threads that own partitions
    #[arg(long, value_name = "N", default_value_t = 1)]
    shards: u16,
    /// Pin the shards to these cores, in order; with fewer cores, shards share a thread on each
    /// [default: a thread each, left to the system]
    #[arg(long, value_name = "CORE", value_delimiter = ',')]
    cores: Vec<usize>,
    /// Join the cluster of these coordinators, or of the server that founded it, instead of founding one
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', alias = "join")]
    coordinator: Vec<String>,
    /// Servers a new cluster waits for before it serves, this one included [default: --replicas]
    #[arg(long, value_name = "N", conflicts_with = "coordinator")]
    servers: Option<u32>,
    /// Start all --servers of the new cluster in this process, their shards on one thread: chains for a
    /// machine with few cores, which go down together
    #[arg(long, conflicts_with_all = ["coordinator", "advertise"])]
    together: bool,
    /// Copies of each partition of a new cluster
    #[arg(long, value_name = "K", default_value_t = 1, conflicts_with = "coordinator")]
    replicas: u8,
    /// Partitions of a new cluster, a power of two; fixed for its life [default: 64, or four for each
    /// shard of its --servers, if that is more]
    #[arg(long, value_name = "N", conflicts_with = "coordinator")]
    partitions: Option<u32>,
    /// How long a new cluster remembers clients that are gone, such as 30min; fixed for its life. A client
    /// gives up a push that had no answer for half of that
    #[arg(long, value_name = "TIME", value_parser = super::span::parse_ms, default_value = "1h", conflicts_with = "coordinator")]
    session_expiry: u32,
    /// Transports to offer, best first
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = super::connection::provider,
          default_value = "verbs,shm,tcp")]
    transports: Vec<Provider>,
    /// How long a shard spins without work before it sleeps, in microseconds
    #[arg(long, value_name = "MICROSECONDS", default_value_t = ServerConfig::default().spin_us)]
    spin_us: u32,
    /// Clients leave values larger than this in their memory, for the server to read; from 256KiB up they
    /// always write them. Without, 16KiB, and by SoftRoCE, whose reads cost the reader, always written
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    by_reference: Option<u64>,
    /// Memory for rows and optimiser state, over all shards
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "4GiB")]
    memory: u64,
    /// Disk space for the logs of all shards, at least 512MiB for each. Short ones make a server write
    /// more and come back sooner [default: about twice what durable tables hold]
    #[arg(long, value_name = "SIZE", value_parser = size::parse, requires = "data_dir")]
    log_size: Option<u64>,
    /// Keep logs and checkpoints of durable tables in this directory, which is the server's own
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Serve what is left of damaged data, without what was lost
    #[arg(long, requires = "data_dir")]
    accept_damage: bool,
    /// How long a worker whose connection is gone is still waited for, in milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value_t = ServerConfig::default().worker_timeout_ms)]
    worker_timeout: u32,
    #[command(flatten)]
    verbs: VerbsFlags,
    /// Stop when stdin ends, as it does when the parent process is gone
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

/// What `--json` prints when the server is ready.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// Where clients connect.
    pub(crate) address: String,
    server: u32,
    transports: Vec<String>,
    /// Why better transports are not on offer.
    notes: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    descriptors::raise_limit();
    // As long as it waits for a pipe or a name server a signal ends the process.
    let config = config(arguments)?;
    let stop = stop::on_signals()?;
    let config = ServerConfig { give_up: stop.flag(), ..config };
    let servers = match start(arguments, config) {
        Err(failure) if stop.is_requested() => {
            tracing::info!(%failure, "asked to stop before the cluster served");
            return Ok(());
        }
        started => started?,
    };
    let server = &servers[0];
    if arguments.stop_with_stdin {
        let stop = stop.clone();
        thread::spawn(move || {
            wait_for_parent_to_go();
            stop.request();
        });
    }
    let (providers, notes) = server.providers();
    let ready = Ready {
        address: format!("windlass://{}", server.advertised()),
        server: server.id().0,
        transports: providers.iter().map(|provider| provider.name().to_owned()).collect(),
        notes: notes.to_vec(),
    };
    for note in notes {
        tracing::info!("{note}");
    }
    output.result(&ready, || {
        format!("serving at {} by {}", ready.address, ready.transports.join(", "))
    })?;
    while !stop.is_requested()
        && !servers[1..].iter().any(|server| server.wait_for_stop(Duration::ZERO))
        && !server.wait_for_stop(STOP_POLL_INTERVAL)
    {}
    tracing::info!("finishing what is under way");
    let has_failed = servers.iter().any(Server::has_failed);
    // The first has the coordinator.
    servers.into_iter().rev().for_each(Server::stop);
    if has_failed {
        return Err(Failure::failed(
            "the disk refused a write, and the cluster goes on without this server: repair or free \
             the disk, then start it again",
        ));
    }
    Ok(())
}

/// One server, or all of a cluster with --together; the first is the one that is listened for.
fn start(arguments: &Arguments, config: ServerConfig) -> Result<Vec<Server>, Failure> {
    if !arguments.together {
        return Ok(vec![Server::start(config).map_err(Failure::failed)?]);
    }
    let shards = u64::from(config.expected_servers) * u64::from(config.shards);
    if shards > SHARDS_PER_THREAD_MAX as u64 {
        return Err(Failure::new(
            ExitStatus::Usage,
            format!(
                "--together puts {shards} shards on one thread, which takes {SHARDS_PER_THREAD_MAX}: \
                 give fewer --servers or --shards"
            ),
        ));
    }
    let thread = ShardThread::start("windlass-shards", config.cores.first().copied())
        .map_err(|error| Failure::failed(StartError::Thread { source: error }))?;
    Server::start_together(&ServerConfig { thread: Some(thread), ..config })
        .map_err(Failure::failed)
}

fn config(arguments: &Arguments) -> Result<ServerConfig, Failure> {
    let listen = resolve(&arguments.listen)?;
    if arguments.dev && !listen.ip().is_loopback() {
        return Err(Failure::new(
            ExitStatus::Usage,
            format!(
                "--dev is for this machine only, and others can reach {listen}: leave one of them out"
            ),
        ));
    }
    let servers = arguments.servers.unwrap_or(u32::from(arguments.replicas));
    let config = ServerConfig {
        listen,
        advertise: arguments.advertise.clone(),
        token: arguments.token_file.as_deref().map(token::read).transpose()?,
        insecure: arguments.insecure,
        shards: arguments.shards,
        cores: arguments.cores.clone(),
        thread: None,
        partitions: arguments
            .partitions
            .unwrap_or_else(|| suitable_partitions(servers, arguments.shards)),
        replicas: arguments.replicas,
        session_expiry_ms: arguments.session_expiry,
        expected_servers: servers,
        coordinators: arguments.coordinator.iter().map(|at| without_scheme(at)).collect(),
        providers: arguments.transports.clone(),
        spin_us: arguments.spin_us,
        by_reference_len: arguments.by_reference.map(|len| u32::try_from(len).unwrap_or(u32::MAX)),
        memory_len_max: arguments.memory,
        log_len_max: arguments.log_size,
        data_dir: arguments.data_dir.clone(),
        storage: storage::Provider::Automatic,
        accept_damage: arguments.accept_damage,
        worker_timeout_ms: arguments.worker_timeout,
        give_up: Arc::default(),
        verbs: arguments.verbs.config().map_err(|error| Failure::new(ExitStatus::Usage, error))?,
    };
    // The library's errors name its fields; these name the flags.
    let usage = |text: String| Failure::new(ExitStatus::Usage, text);
    let listen = config.listen;
    if !listen.ip().is_loopback() && config.token.is_none() && !config.insecure {
        return Err(usage(format!(
            "--listen {listen} lets other machines in: add --token-file FILE, which clients must \
             match, or --insecure to let anybody in"
        )));
    }
    if listen.ip().is_unspecified() && config.advertise.is_none() {
        return Err(usage(format!(
            "--listen {listen} is no address that clients can connect to: add --advertise HOST:PORT"
        )));
    }
    config.validate().map_err(|error| Failure::new(ExitStatus::Usage, error))?;
    Ok(config)
}

pub(super) fn resolve(address: &str) -> Result<SocketAddr, Failure> {
    let address = without_scheme(address);
    let wrong = |error: io::Error| {
        Failure::new(
            ExitStatus::Usage,
            format!(
                "--listen {address} is no HOST:PORT of this machine ({error}): try 127.0.0.1:7700"
            ),
        )
    };
    let mut addresses = address.to_socket_addrs().map_err(wrong)?;
    addresses.next().ok_or_else(|| wrong(io::ErrorKind::AddrNotAvailable.into()))
}

fn without_scheme(address: &str) -> String {
    address.strip_prefix("windlass://").unwrap_or(address).to_owned()
}
