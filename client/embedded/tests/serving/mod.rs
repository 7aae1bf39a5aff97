//! Servers for a test.

use std::path::Path;

use windlass_client::Provider;
use windlass_engine::{Server, ServerConfig};

/// Partitions of each table.
pub(crate) const PARTITIONS: u32 = 8;

/// One server, or three that keep so many replicas, with a data directory if one is given.
pub(crate) fn start(provider: Provider, replicas: u8, data: Option<&Path>) -> Vec<Server> {
    let config = ServerConfig {
        providers: vec![provider],
        memory_len_max: 64 << 20,
        partitions: PARTITIONS,
        shards: 2,
        replicas,
        data_dir: data.map(Path::to_owned),
        expected_servers: if replicas > 1 { 3 } else { 1 },
        ..ServerConfig::default()
    };
    Server::start_together(&config).unwrap()
}
