//! What connections cost that nobody uses: memory and descriptors of server and clients, and the time of a client
//! that works among them.

mod counters;
mod crowd;
mod kills;
mod worker;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use windlass_client::{Client, RequestError, TableError};
use windlass_wire::ServerId;

pub use crowd::hold_clients;
pub use kills::KillsResult;

use self::{
    counters::Counters,
    crowd::{Crowd, CrowdError},
    worker::Worker,
};
use crate::{
    process::ProcessError,
    remote::{RemoteError, connect},
    report::Latency,
    train::{ServerOptions, Servers, message::Connection},
};

/// How long a server may take to forget clients that have left.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Memory for rows of the server that is measured, which has next to none.
const SERVER_MEMORY_BYTES: u64 = 256 << 20;

/// What to measure.
#[derive(Clone, Debug)]
pub struct ConnectionsOptions {
    /// Idle clients.
    pub clients: u32,
    /// Processes that hold them. Each connects its clients one after the other, all of them at once.
    pub processes: u32,
    /// Shards of the server.
    pub shards: u16,
    /// How long each of the working client's measurements takes.
    pub slice: Duration,
    /// How often half of the idle clients are killed while the working one pushes.
    pub kills: u32,
}

/// One line of `windlass bench connections --json`. The keys are an interface: they are added to, never
/// renamed. Bytes are those of memory that can be shared with peers and devices, as far as it is resident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionsResult {
    /// `shm`, `tcp` or `verbs`.
    pub transport: String,
    /// Shards of the server.
    pub shards: u16,
    /// Idle clients.
    pub clients: u32,
    /// Seconds until all of them were connected, and each had pushed a row.
    pub connect_s: f64,
    /// Seconds from their end until the server had forgotten them.
    pub leave_s: f64,
    /// Bytes at the server beside them.
    pub server_pinned_bytes: u64,
    /// The same without them.
    pub server_pinned_bytes_alone: u64,
    /// Bytes of all idle clients together.
    pub client_pinned_bytes: u64,
    /// Open descriptors of the server beside them.
    pub server_fds: u64,
    /// The same without them.
    pub server_fds_alone: u64,
    /// Queue pairs of the server with clients, those of the working one included.
    pub queue_pairs: u64,
    /// Median time of the working client's push beside them, in microseconds, to each shard in turn.
    pub active_p50_us: f64,
    /// The same before they came and after they left.
    pub alone_p50_us: f64,
    /// Median time beside them of pushes to one shard only.
    pub active_one_shard_p50_us: f64,
    /// The same without them.
    pub alone_one_shard_p50_us: f64,
    /// What it cost to kill half of the idle clients; absent where none were killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kills: Option<KillsResult>,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionsError {
    /// A process did not start, or ended.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The working client failed.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// An idle client failed.
    #[error(transparent)]
    Crowd(#[from] CrowdError),
    /// A process cannot be looked at.
    #[error("cannot read what process {process} uses from {path}")]
    Counters {
        /// Its id.
        process: u32,
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The server said something else than its statistics.
    #[error("the server's statistics have no number of sessions")]
    Statistics {
        /// What is wrong.
        source: Option<serde_json::Error>,
    },
    /// The server remembers clients that are gone.
    #[error("the server still has {queue_pairs} queue pairs {waited:?} after clients left")]
    Stayed {
        /// How many.
        queue_pairs: u64,
        /// How long that was waited for.
        waited: Duration,
    },
}

impl From<TableError> for ConnectionsError {
    fn from(error: TableError) -> Self {
        Self::Remote(error.into())
    }
}

impl From<RequestError> for ConnectionsError {
    fn from(error: RequestError) -> Self {
        Self::Remote(error.into())
    }
}

/// Starts a server of its own, measures a client that works alone, then beside idle ones, then alone again.
///
/// `by` says how clients connect; its address does not matter.
///
/// # Errors
/// When the server, the working client or an idle one fails.
pub fn measure(
    options: &ConnectionsOptions,
    by: Connection,
) -> Result<ConnectionsResult, ConnectionsError> {
    let servers = Servers::start(&ServerOptions {
        shards: options.shards,
        transports: by.transport.clone().into_iter().collect(),
        memory_bytes: SERVER_MEMORY_BYTES,
        verbs: by.verbs.clone(),
        ..ServerOptions::default()
    })?;
    let connection = Connection { address: servers.address().to_owned(), ..by };
    let client = connect(&connection)?;
    let mut worker = Worker::new(&client)?;
    let mut alone = [Latency::new(), Latency::new()];
    let mut active = [Latency::new(), Latency::new()];
    worker.push_for(options.slice, &mut alone)?;
    let server = servers.process_ids()[0];
    let before = Counters::of(server)?;
    let queue_pairs_before = queue_pairs(&client)?;

    let begun = Instant::now();
    let crowd = Crowd::gather(&connection, options.clients, options.processes)?;
    let connect_s = begun.elapsed().as_secs_f64();
    worker.push_for(options.slice * 2, &mut active)?;
    let beside = Counters::of(server)?;
    let client_pinned_bytes = crowd.pinned_bytes()?;
    let queue_pairs_beside = queue_pairs(&client)?;

    let begun = Instant::now();
    drop(crowd);
    wait_until_forgotten(&client, queue_pairs_before)?;
    let leave_s = begun.elapsed().as_secs_f64();
    worker.push_for(options.slice, &mut alone)?;
    let kills = match options.kills {
        0 => None,
        _ => Some(kills::measure(options, &connection, &client, &mut worker, server)?),
    };
    Ok(ConnectionsResult {
        transport: client.providers()[0].1.name().to_owned(),
        shards: options.shards,
        clients: options.clients,
        connect_s,
        leave_s,
        server_pinned_bytes: beside.pinned_bytes,
        server_pinned_bytes_alone: before.pinned_bytes,
        client_pinned_bytes,
        server_fds: beside.descriptors,
        server_fds_alone: before.descriptors,
        queue_pairs: queue_pairs_beside,
        active_p50_us: active[0].quantile_us(0.5),
        alone_p50_us: alone[0].quantile_us(0.5),
        active_one_shard_p50_us: active[1].quantile_us(0.5),
        alone_one_shard_p50_us: alone[1].quantile_us(0.5),
        kills,
    })
}

/// Waits until the server has only so many queue pairs left.
fn wait_until_forgotten(client: &Client, queue_pairs_left: u64) -> Result<(), ConnectionsError> {
    let begun = Instant::now();
    loop {
        let queue_pairs = queue_pairs(client)?;
        if queue_pairs <= queue_pairs_left {
            return Ok(());
        }
        let waited = begun.elapsed();
        if waited > LEAVE_TIME_MAX {
            return Err(ConnectionsError::Stayed { queue_pairs, waited });
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Queue pairs that the server has with clients: one for each session of each shard.
fn queue_pairs(client: &Client) -> Result<u64, ConnectionsError> {
    let json = client.server_statistics(ServerId(0))?;
    let statistics: serde_json::Value = serde_json::from_str(&json)
        .map_err(|source| ConnectionsError::Statistics { source: Some(source) })?;
    let sessions = statistics.get("sessions").and_then(serde_json::Value::as_u64);
    sessions.ok_or(ConnectionsError::Statistics { source: None })
}
