//! The settings of a coordinator.

use std::{path::PathBuf, time::Duration};

use crate::limits::{LATENESS_WINDOW, SESSION_EXPIRY_MS_MIN, SUSPECT_AFTER};
use windlass_replication::{
    CoordinatorOptions, LatenessTimings, coordinator::WorkerTimings, membership::SESSION_EXPIRY_MS,
};

/// Configuration of a coordinator. All coordinators of a cluster have the same.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// Partitions of a new cluster, a power of two.
    pub partitions: u32,
    /// Copies of each partition of a new cluster.
    pub replicas: u8,
    /// How long a new cluster remembers sessions that are not connected and push nothing, in
    /// milliseconds; 0 for ever. A client gives up a push that had no answer for half of that.
    pub session_expiry_ms: u32,
    /// Servers that have to join before a new cluster serves.
    pub expected_servers: u32,
    /// Where map, catalogue and ranks are kept.
    pub store: StoreConfig,
    /// A restored server's data directory: a new cluster has its tables and as many partitions.
    pub restored: Option<PathBuf>,
    /// Time between a server's heartbeats.
    pub heartbeat_interval: Duration,
    /// A server silent for this long is failed.
    pub heartbeat_timeout: Duration,
    /// A server whose control connection broke, as it does when its process dies, is failed when it
    /// is not back for this long.
    pub disconnect_timeout: Duration,
    /// A suspected server that does not answer for this long is failed.
    pub probe_timeout: Duration,
    /// A worker that no server has a connection of for this long is retired.
    pub worker_timeout: Duration,
}

/// Where a coordinator keeps what must outlive it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// Nowhere: the cluster ends with the process.
    Memory,
    /// In files of this directory, for one coordinator.
    File(PathBuf),
    /// In etcd, for several coordinators, of which one leads and the others take over.
    Etcd {
        /// Members of the etcd cluster, `HOST:PORT`.
        endpoints: Vec<String>,
        /// What the keys begin with: one for each cluster.
        prefix: String,
    },
}

impl CoordinatorConfig {
    /// The timings for clusters with this many copies. Without a second copy nothing is gained by
    /// failing a server early: nobody could take its partitions over.
    #[must_use]
    pub fn new(replicas: u8) -> Self {
        let is_replicated = replicas > 1;
        let choose = |replicated: u64, alone: u64| {
            Duration::from_millis(if is_replicated { replicated } else { alone })
        };
        Self {
            partitions: 64,
            replicas,
            session_expiry_ms: SESSION_EXPIRY_MS,
            expected_servers: u32::from(replicas.max(1)),
            store: StoreConfig::Memory,
            restored: None,
            heartbeat_interval: choose(100, 500),
            heartbeat_timeout: choose(800, 10_000),
            disconnect_timeout: choose(20, 5_000),
            probe_timeout: choose(250, 5_000),
            worker_timeout: Duration::from_secs(3),
        }
    }

    /// Checks what a new cluster would be.
    ///
    /// # Errors
    /// The first field that is not valid.
    pub fn validate(&self) -> Result<(), CoordinatorConfigError> {
        let max = windlass_wire::map::PARTITIONS_MAX;
        if !self.partitions.is_power_of_two() || self.partitions > max {
            return Err(CoordinatorConfigError::Partitions { partitions: self.partitions, max });
        }
        let max = windlass_replication::membership::REPLICAS_MAX;
        if self.replicas == 0 || usize::from(self.replicas) > max {
            return Err(CoordinatorConfigError::Replicas { replicas: self.replicas, max });
        }
        check_session_expiry(self.session_expiry_ms)?;
        let (servers, replicas) = (self.expected_servers, self.replicas);
        if servers < u32::from(replicas) {
            return Err(CoordinatorConfigError::Servers { servers, replicas });
        }
        let (interval, timeout) = (self.heartbeat_interval, self.heartbeat_timeout);
        if interval.is_zero() || timeout < 2 * interval {
            return Err(CoordinatorConfigError::Heartbeats { interval, timeout });
        }
        Ok(())
    }

    /// How long the stepping thread sleeps at most.
    pub(super) fn tick(&self) -> Duration {
        (self.heartbeat_timeout / 10).min(Duration::from_millis(250))
    }

    pub(super) fn worker_timings(&self) -> WorkerTimings {
        let heartbeat_timeout_us = micros(self.worker_timeout);
        WorkerTimings { heartbeat_timeout_us, ..WorkerTimings::default() }
    }

    pub(super) fn options(&self) -> CoordinatorOptions {
        CoordinatorOptions {
            heartbeat_timeout_us: micros(self.heartbeat_timeout),
            probe_timeout_us: micros(self.probe_timeout),
            disconnect_timeout_us: micros(self.disconnect_timeout),
            // Servers under load are slow to answer each other, and are not dead.
            late_max_us: micros(LATE_MAX),
            answers: LatenessTimings {
                after_us: micros(SUSPECT_AFTER),
                window_us: micros(LATENESS_WINDOW),
            },
            probe_interval_us: micros(PROBE_INTERVAL),
            absence_min_us: micros(ABSENCE_MIN),
            absence_max_us: micros(ABSENCE_MAX),
            absence_forgotten_us: micros(ABSENCE_FORGOTTEN),
            election_grace_us: micros(ELECTION_GRACE),
            // What stood still for half of the timeout says nothing about others' silence.
            tick_gap_max_us: micros(self.heartbeat_timeout / 2),
            servers_at_creation: self.expected_servers as usize,
            ..CoordinatorOptions::default()
        }
    }
}

/// Whether sessions may expire so soon.
pub(crate) fn check_session_expiry(milliseconds: u32) -> Result<(), SessionExpiryError> {
    if milliseconds == 0 || milliseconds >= SESSION_EXPIRY_MS_MIN {
        return Ok(());
    }
    Err(SessionExpiryError { milliseconds })
}

/// A time after which no session can expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "sessions cannot expire after {milliseconds} ms, since clients retry for half of that: use \
     {SESSION_EXPIRY_MS_MIN} ms or more, or 0 for never"
)]
pub struct SessionExpiryError {
    /// The time, in milliseconds.
    pub milliseconds: u32,
}

/// Why a configuration is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoordinatorConfigError {
    /// The number of partitions.
    #[error("{partitions} partitions are not possible: use a power of two from 1 to {max}")]
    Partitions {
        /// The number.
        partitions: u32,
        /// The most.
        max: u32,
    },
    /// The number of copies.
    #[error("{replicas} replicas are not possible: use 1 to {max}")]
    Replicas {
        /// The number.
        replicas: u8,
        /// The most.
        max: usize,
    },
    /// When sessions expire.
    #[error(transparent)]
    SessionExpiry(#[from] SessionExpiryError),
    /// Fewer servers than copies.
    #[error(
        "{servers} servers cannot keep {replicas} copies: wait for at least {replicas} servers"
    )]
    Servers {
        /// The servers.
        servers: u32,
        /// The copies.
        replicas: u8,
    },
    /// The heartbeats.
    #[error(
        "a heartbeat every {interval:?} and a timeout of {timeout:?} would fail servers that live: \
         use a timeout of at least two intervals"
    )]
    Heartbeats {
        /// The interval.
        interval: Duration,
        /// The timeout.
        timeout: Duration,
    },
}

/// By how much, within [`LATENESS_WINDOW`], servers may be late for each other before one of them has to
/// go: chains through them stand still meanwhile.
const LATE_MAX: Duration = Duration::from_millis(800);

/// How often servers that are late for others are probed: often enough to lose as many packets.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// How long a server gets no copies that was failed because it was not heard in time, and twice as long
/// each next time, until it has behaved for long.
const ABSENCE_MIN: Duration = Duration::from_secs(2);
const ABSENCE_MAX: Duration = Duration::from_secs(60);
const ABSENCE_FORGOTTEN: Duration = Duration::from_secs(120);

/// How long servers have to find a new leader before their silence counts.
const ELECTION_GRACE: Duration = Duration::from_secs(3);

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
