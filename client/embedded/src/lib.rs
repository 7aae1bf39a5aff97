//! A server inside the trainer's own process: the same engine, the same client, no deployment.
//!
//! ```
//! use windlass_client::{Client, Element, TableSchema};
//! use windlass_embedded::Embedded;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::embedded()?;
//! let table = client.create_table::<f32>("weights", &TableSchema::dense(f32::DTYPE, 1000, 4))?;
//! table.push(&[3, 7], &[1.0; 8], &Default::default())?.wait()?;
//! assert_eq!(table.pull(&[7], &Default::default())?.wait()?, [1.0; 4]);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

use std::ops::Deref;

use windlass_client::{Client, ClientOptions, ConnectError, Provider};
use windlass_engine::{Server, ServerConfig, StartError};

/// A client with the server it is connected to. The server stops when this is dropped.
#[derive(Debug)]
pub struct EmbeddedClient {
    // Declared first, so that it disconnects before its server stops.
    client: Client,
    server: Server,
}

impl EmbeddedClient {
    /// The server.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }
}

impl Deref for EmbeddedClient {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// Why there is no embedded server.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// The server could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The client could not connect to it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Adds the embedded server to [`Client`].
pub trait Embedded {
    /// Starts a server with one shard in this process and connects to it by shared memory.
    ///
    /// # Errors
    /// When the server cannot start or the client cannot connect.
    fn embedded() -> Result<EmbeddedClient, EmbedError>;

    /// As [`Embedded::embedded`], with a configuration of one's own.
    ///
    /// # Errors
    /// As [`Embedded::embedded`].
    fn embedded_with(
        config: ServerConfig,
        options: ClientOptions,
    ) -> Result<EmbeddedClient, EmbedError>;
}

impl Embedded for Client {
    fn embedded() -> Result<EmbeddedClient, EmbedError> {
        let providers = vec![Provider::Shm {}, Provider::Tcp {}];
        let config = ServerConfig { providers, ..ServerConfig::default() };
        Self::embedded_with(config, ClientOptions::default())
    }

    fn embedded_with(
        config: ServerConfig,
        options: ClientOptions,
    ) -> Result<EmbeddedClient, EmbedError> {
        let server = Server::start(config)?;
        let client = Self::connect_with(server.advertised(), options)?;
        Ok(EmbeddedClient { client, server })
    }
}
