//! All servers of a cluster in one process.

use super::{Server, ServerConfig, StartError};

impl Server {
    /// Founds a cluster and starts all of its [`ServerConfig::expected_servers`] in this process, each
    /// with a port of its own, which it advertises ([`ServerConfig::advertise`] has to be unset), and, under
    /// the data directory, a folder named by its number. The first has the coordinator: stop it last.
    /// [`ServerConfig::thread`] has all of their shards share a thread.
    ///
    /// # Errors
    /// As [`Server::start`]; those that had started are gone then.
    pub fn start_together(config: &ServerConfig) -> Result<Vec<Self>, StartError> {
        let mut servers: Vec<Self> = Vec::new();
        for number in 0..config.expected_servers {
            let mut one = config.clone();
            one.data_dir = config.data_dir.as_ref().map(|root| root.join(number.to_string()));
            if let Some(first) = servers.first() {
                one.listen.set_port(0);
                one.coordinators = vec![first.advertised().to_owned()];
            }
            servers.push(Self::start(one)?);
        }
        Ok(servers)
    }
}
