//! The settings of a server.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
};

use windlass_transport::verbs::VerbsConfig;
use windlass_wire::control::Provider;

use super::ShardThread;
use crate::{
    coordinator::{SessionExpiryError, check_session_expiry},
    persist::storage,
};

/// Configuration of one server. Every field has a default that suits one machine.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where the control port listens. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// The address told to clients and other servers, `host:port`; needed when `listen` is
    /// unspecified (0.0.0.0).
    pub advertise: Option<String>,
    /// What clients and joining servers must present; required unless `listen` is loopback or
    /// `insecure` is set.
    pub token: Option<String>,
    /// Allows an address other than loopback without a token.
    pub insecure: bool,
    /// Number of shards: threads that own partitions.
    pub shards: u16,
    /// Cores to pin the shards to, in order, those in excess on the same threads from the first on; empty
    /// gives each a thread and leaves it to the system.
    pub cores: Vec<usize>,
    /// A thread for all of them, which other servers of this process may share, instead of one each:
    /// where there are fewer cores than shards, which else wait for each other's turn on a core.
    pub thread: Option<ShardThread>,
    /// Partitions of a new cluster, a power of two.
    pub partitions: u32,
    /// Copies of each partition of a new cluster.
    pub replicas: u8,
    /// How long a new cluster remembers sessions that are not connected and push nothing, in
    /// milliseconds; 0 for ever. A client gives up a push that had no answer for half of that.
    pub session_expiry_ms: u32,
    /// Servers that have to join before a new cluster serves; this one counts.
    pub expected_servers: u32,
    /// Addresses of the coordinators, `host:port`; without any, this server has the coordinator of
    /// its cluster in its own process, and others name this server.
    pub coordinators: Vec<String>,
    /// Providers to offer, in order of preference.
    pub providers: Vec<Provider>,
    /// Microseconds a shard spins without work before it sleeps.
    pub spin_us: u32,
    /// Bytes of values above which clients leave them in their own memory for shards to read; from
    /// 256 KiB up they never do, but for longer rows. Without, 16 KiB, and never by devices whose
    /// reads keep the reader's core busy (SoftRoCE).
    pub by_reference_len: Option<u32>,
    /// Where logs and checkpoints of tables with durability `interval` or `sync` go; without one,
    /// such tables are refused. Every server needs a directory of its own.
    pub data_dir: Option<std::path::PathBuf>,
    /// How that directory is written.
    pub storage: storage::Provider,
    /// Serve what is left of damaged data, without what was lost.
    pub accept_damage: bool,
    /// How long a worker whose connection is gone is still waited for, in milliseconds.
    pub worker_timeout_ms: u32,
    /// Bytes of rows, state and indices the server may hold, over all shards.
    pub memory_len_max: u64,
    /// Bytes that the logs of all shards may take on the disk. A checkpoint begins when half of them are
    /// taken, or as many as the tables hold: the shorter the logs, the more is written, and the sooner a
    /// server is back. Without, about twice what the tables hold, and small where that is little.
    pub log_len_max: Option<u64>,
    /// Set from elsewhere to have a start given up that waits: for a coordinator, for other servers.
    pub give_up: Arc<AtomicBool>,
    /// Settings of the verbs transport: from the environment, unless they are given here.
    pub verbs: VerbsConfig,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            token: None,
            insecure: false,
            shards: 1,
            cores: Vec::new(),
            thread: None,
            partitions: 64,
            replicas: 1,
            session_expiry_ms: windlass_replication::membership::SESSION_EXPIRY_MS,
            expected_servers: 1,
            coordinators: Vec::new(),
            providers: Provider::ALL.to_vec(),
            spin_us: 50,
            by_reference_len: None,
            data_dir: None,
            storage: storage::Provider::Automatic,
            accept_damage: false,
            worker_timeout_ms: crate::limits::WORKER_TIMEOUT_MS,
            memory_len_max: 4 << 30,
            log_len_max: None,
            give_up: Arc::default(),
            verbs: VerbsConfig::from_environment(),
        }
    }
}

/// Why a configuration is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// An address that others can reach, without a token.
    #[error(
        "listening on {listen} lets other machines in: give a token that clients must present, or \
         allow it with the insecure option"
    )]
    Open {
        /// The address.
        listen: SocketAddr,
    },
    /// An unspecified address that nobody can connect to.
    #[error("listening on {listen} needs an advertised address: clients cannot connect to it")]
    Advertise {
        /// The address.
        listen: SocketAddr,
    },
    /// The number of shards.
    #[error("{shards} shards are not possible: use 1 to {max}")]
    Shards {
        /// The number.
        shards: u16,
        /// The most.
        max: u16,
    },
    /// The number of partitions.
    #[error("{partitions} partitions are not possible: use a power of two from 1 to {max}")]
    Partitions {
        /// The number.
        partitions: u32,
        /// The most.
        max: u32,
    },
    /// Too little room for logs.
    #[error("{len} bytes of log are too few: {shards} shards need at least {min}")]
    LogLength {
        /// Bytes.
        len: u64,
        /// Shards that share them.
        shards: u16,
        /// The least.
        min: u64,
    },
    /// No provider.
    #[error("no transport is allowed: name at least one of verbs, shm, tcp")]
    NoProvider,
    /// The number of servers.
    #[error("a cluster of no servers cannot serve: expect at least 1")]
    NoServer,
    /// When sessions expire.
    #[error(transparent)]
    SessionExpiry(#[from] SessionExpiryError),
    /// The number of copies.
    #[error("{replicas} replicas are not possible: use 1 to {max}")]
    Replicas {
        /// The number.
        replicas: u8,
        /// The most.
        max: usize,
    },
}

impl ServerConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// The first that is not valid.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let listen = self.listen;
        if !listen.ip().is_loopback() && self.token.is_none() && !self.insecure {
            return Err(ConfigError::Open { listen });
        }
        if listen.ip().is_unspecified() && self.advertise.is_none() {
            return Err(ConfigError::Advertise { listen });
        }
        let max = crate::limits::SHARDS_MAX;
        if self.shards == 0 || self.shards > max {
            return Err(ConfigError::Shards { shards: self.shards, max });
        }
        let max = windlass_wire::map::PARTITIONS_MAX;
        if !self.partitions.is_power_of_two() || self.partitions > max {
            return Err(ConfigError::Partitions { partitions: self.partitions, max });
        }
        let (shards, min) = (self.shards, crate::limits::LOG_LEN_MIN * u64::from(self.shards));
        if let Some(len) = self.log_len_max.filter(|len| *len < min) {
            return Err(ConfigError::LogLength { len, shards, min });
        }
        if self.providers.is_empty() {
            return Err(ConfigError::NoProvider);
        }
        if self.expected_servers == 0 {
            return Err(ConfigError::NoServer);
        }
        let max = windlass_replication::membership::REPLICAS_MAX;
        if self.replicas == 0 || usize::from(self.replicas) > max {
            return Err(ConfigError::Replicas { replicas: self.replicas, max });
        }
        check_session_expiry(self.session_expiry_ms)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_address_needs_a_token_or_consent() {
        let open =
            ServerConfig { listen: "192.0.2.1:7700".parse().unwrap(), ..ServerConfig::default() };
        assert!(matches!(open.validate(), Err(ConfigError::Open { .. })));
        assert_eq!(ServerConfig { insecure: true, ..open.clone() }.validate(), Ok(()));
        assert_eq!(ServerConfig { token: Some("t".into()), ..open }.validate(), Ok(()));
        assert_eq!(ServerConfig::default().validate(), Ok(()));
        let short = ServerConfig { log_len_max: Some(1 << 20), ..ServerConfig::default() };
        assert!(matches!(short.validate(), Err(ConfigError::LogLength { .. })));
        let odd = ServerConfig { partitions: 48, ..ServerConfig::default() };
        assert!(matches!(odd.validate(), Err(ConfigError::Partitions { .. })));
    }
}
