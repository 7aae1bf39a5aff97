//! A push that had no answer for so long that servers may have forgotten it is given up, with an error
//! that says so; younger ones are sent again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{net::SocketAddr, path::Path, time::Duration};

use windlass_client::{
    Client, ClientOptions, Durability, Element, PushOptions, RequestError, TableSchema,
};
use windlass_engine::{Server, ServerConfig};

const EXPIRY_MS: u32 = 12_000;

fn start(listen: SocketAddr, data: &Path) -> Server {
    let config = ServerConfig {
        listen,
        data_dir: Some(data.to_owned()),
        session_expiry_ms: EXPIRY_MS,
        memory_len_max: 1 << 28,
        ..ServerConfig::default()
    };
    let mut patience = 200;
    loop {
        match Server::start(config.clone()) {
            Ok(server) => return server,
            Err(error) => {
                patience -= 1;
                assert!(patience > 0, "{error}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

#[test]
fn old_pushes_are_given_up() {
    let data = tempfile::tempdir().unwrap();
    let server = start(SocketAddr::from(([127, 0, 0, 1], 0)), data.path());
    let address = server.address();
    let options = ClientOptions { retry_for: Duration::from_secs(60), ..ClientOptions::default() };
    let client = Client::connect_with(server.advertised(), options).unwrap();
    let schema =
        TableSchema { durability: Durability::Sync {}, ..TableSchema::sparse(i64::DTYPE, 1) };
    let table = client.create_table::<i64>("counted", &schema).unwrap();
    let options = PushOptions::default();
    table.push(&[1], &[1], &options).unwrap().wait().unwrap();
    server.stop();
    let old = table.push(&[2], &[1], &options).unwrap();
    std::thread::sleep(Duration::from_millis(u64::from(EXPIRY_MS) / 2 + 100));
    let young = table.push(&[3], &[1], &options).unwrap();
    let server = start(address, data.path());
    let outcome = old.wait();
    let expected = Duration::from_millis(u64::from(EXPIRY_MS));
    let is_given_up =
        matches!(outcome, Err(RequestError::SessionExpired { expiry }) if expiry == expected);
    assert!(is_given_up, "{outcome:?}");
    young.wait().unwrap();
    table.push(&[4], &[1], &options).unwrap().wait().unwrap();
    let rows = table.pull(&[1, 2, 3, 4], &Default::default()).unwrap().wait().unwrap();
    assert_eq!(rows, [1, 0, 1, 1], "what was given up was never sent again");
    drop((table, client));
    server.stop();
}
