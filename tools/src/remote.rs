//! Connecting to servers as every command does, and telling apart why it failed.

use windlass_client::{
    Client, ClientOptions, ConnectError, Provider, RequestError, TableError, WorkerRank,
};

use crate::train::message::Connection;

/// Why the servers did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// No connection was made.
    #[error(
        "cannot connect to {}: check that `windlass serve` runs there, --transport and \
         --token-file",
        windlass_transport::text::Shown(.address)
    )]
    Connect {
        /// The address.
        address: String,
        /// Why.
        source: ConnectError,
    },
    /// A table cannot be created, opened or dropped.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A push or pull failed.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Connects.
pub fn connect(connection: &Connection) -> Result<Client, RemoteError> {
    connect_as(connection, None)
}

/// Connects as a worker of that rank, if there is one.
pub fn connect_as(
    connection: &Connection,
    rank: Option<WorkerRank>,
) -> Result<Client, RemoteError> {
    let defaults = ClientOptions::default();
    let verbs = connection.verbs.config().unwrap_or_else(|_| defaults.verbs.clone());
    let token = connection.token.clone();
    let mut options = ClientOptions { token, rank, verbs, ..defaults };
    if let Some(name) = &connection.transport {
        options.providers.retain(|provider: &Provider| provider.name() == name);
    }
    Client::connect_with(&connection.address, options)
        .map_err(|source| RemoteError::Connect { address: connection.address.clone(), source })
}

impl RemoteError {
    /// Whether the servers are out of reach, rather than of another opinion.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Connect { source, .. } => !matches!(source, ConnectError::Refused { .. }),
            Self::Table(error) => {
                matches!(error, TableError::Control(_) | TableError::Timeout { .. })
            }
            Self::Request(error) => {
                matches!(
                    error,
                    RequestError::ServerGone { .. }
                        | RequestError::PartitionUnavailable { .. }
                        | RequestError::Timeout { .. }
                        | RequestError::SendTimeout { .. }
                )
            }
        }
    }
}
