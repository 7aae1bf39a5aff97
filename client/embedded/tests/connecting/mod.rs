//! A client for a test.

use std::time::Duration;

use windlass_client::{Client, ClientOptions};
use windlass_engine::Server;

/// A client that waits for as long as a busy machine may take.
pub(crate) fn connect(server: &Server) -> Client {
    let options = ClientOptions { timeout: Duration::from_secs(60), ..ClientOptions::default() };
    Client::connect_with(server.advertised(), options).unwrap()
}
