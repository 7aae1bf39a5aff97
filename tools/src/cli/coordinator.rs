//! `windlass coordinator`.

use std::{path::PathBuf, thread, time::Duration};

use serde::{Deserialize, Serialize};
use windlass_engine::{CoordinatorConfig, CoordinatorServer, StoreConfig};
use windlass_transport::descriptors;

use super::{
    ExitStatus, Failure, Output, serve,
    stop::{self, STOP_POLL_INTERVAL},
    token,
};
use crate::process::wait_for_parent_to_go;

const AFTER_HELP: &str = "\
Owns the cluster map, the tables and the workers' ranks; servers join by `windlass serve --coordinator`. \
Pushes and pulls go on while it is down; only changes wait for it.

Prints one line when it is ready; with --json, an object with address and store.

Examples:
  windlass coordinator --data-dir /var/lib/windlass-coordinator --replicas 3
  windlass serve --listen 127.0.0.1:7701 --coordinator 127.0.0.1:7800     (three times)";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Listen here; port 0 takes any free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7800")]
    listen: String,
    /// Servers and clients must present the token in this file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Let any machine in without a token
    #[arg(long)]
    insecure: bool,
    /// Keep the map, the tables and the ranks in this directory [default: nowhere, and the cluster
    /// ends with this process]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Keep them in etcd instead: several coordinators with the same etcd and the same flags elect
    /// one that leads, and another takes over when it is gone
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', conflicts_with = "data_dir")]
    etcd: Vec<String>,
    /// What this cluster's keys in etcd begin with
    #[arg(long, value_name = "KEY", default_value = "/windlass", requires = "etcd")]
    etcd_prefix: String,
    /// A data directory that `windlass checkpoint restore` made: a new cluster begins with its tables
    #[arg(long, value_name = "DIR")]
    restored: Option<PathBuf>,
    /// Copies of each partition of a new cluster
    #[arg(long, value_name = "K", default_value_t = 1)]
    replicas: u8,
    /// Servers a new cluster waits for before it serves [default: --replicas]
    #[arg(long, value_name = "N")]
    servers: Option<u32>,
    /// Partitions of a new cluster, a power of two; fixed for its life
    #[arg(long, value_name = "N", default_value_t = CoordinatorConfig::new(1).partitions)]
    partitions: u32,
    /// How long a new cluster remembers clients that are gone, such as 30min; fixed for its life. A client
    /// gives up a push that had no answer for half of that
    #[arg(long, value_name = "TIME", value_parser = super::span::parse_ms, default_value = "1h")]
    session_expiry: u32,
    /// Time between heartbeats of a server, in milliseconds [default: 100 with replicas, else 500]
    #[arg(long, value_name = "MILLISECONDS")]
    heartbeat_interval: Option<u64>,
    /// A server silent for this long is failed, in milliseconds [default: 800 with replicas, else
    /// 10000]
    #[arg(long, value_name = "MILLISECONDS")]
    heartbeat_timeout: Option<u64>,
    /// How long a worker that no server hears any more is still waited for, in milliseconds
    /// [default: 3000]
    #[arg(long, value_name = "MILLISECONDS")]
    worker_timeout: Option<u64>,
    /// Stop when stdin ends, as it does when the parent process is gone
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

/// What `--json` prints when the coordinator is ready.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    /// Where servers and clients connect.
    address: String,
    /// Where the map is kept: `memory`, `file` or `etcd`.
    store: String,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    descriptors::raise_limit();
    // As long as it waits for a pipe or a name server a signal ends the process.
    let config = config(arguments)?;
    let token = arguments.token_file.as_deref().map(token::read).transpose()?;
    let listen = serve::resolve(&arguments.listen)?;
    let stop = stop::on_signals()?;
    let store = match config.store {
        StoreConfig::Memory => "memory",
        StoreConfig::File(_) => "file",
        StoreConfig::Etcd { .. } => "etcd",
    };
    let coordinator = CoordinatorServer::start(listen, token, arguments.insecure, config)
        .map_err(Failure::failed)?;
    if arguments.stop_with_stdin {
        let stop = stop.clone();
        thread::spawn(move || {
            wait_for_parent_to_go();
            stop.request();
        });
    }
    let ready =
        Ready { address: format!("windlass://{}", coordinator.address()), store: store.to_owned() };
    output.result(&ready, || format!("coordinating at {}, store {store}", ready.address))?;
    while !stop.is_requested() && !coordinator.wait_for_stop(STOP_POLL_INTERVAL) {}
    coordinator.stop();
    Ok(())
}

fn config(arguments: &Arguments) -> Result<CoordinatorConfig, Failure> {
    let mut config = CoordinatorConfig {
        partitions: arguments.partitions,
        expected_servers: arguments.servers.unwrap_or(u32::from(arguments.replicas)),
        restored: arguments.restored.clone(),
        session_expiry_ms: arguments.session_expiry,
        ..CoordinatorConfig::new(arguments.replicas)
    };
    if let Some(path) = &arguments.data_dir {
        config.store = StoreConfig::File(path.clone());
    }
    if !arguments.etcd.is_empty() {
        let (endpoints, prefix) = (arguments.etcd.clone(), arguments.etcd_prefix.clone());
        config.store = StoreConfig::Etcd { endpoints, prefix };
    }
    if let Some(interval) = arguments.heartbeat_interval {
        config.heartbeat_interval = Duration::from_millis(interval);
    }
    if let Some(timeout) = arguments.heartbeat_timeout {
        config.heartbeat_timeout = Duration::from_millis(timeout);
    }
    if let Some(timeout) = arguments.worker_timeout {
        config.worker_timeout = Duration::from_millis(timeout);
    }
    config.validate().map_err(|error| Failure::new(ExitStatus::Usage, error))?;
    Ok(config)
}
