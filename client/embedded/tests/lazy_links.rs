//! A client links to a shard when something is first sent there, and not before.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, Instant};

use windlass_client::{
    Client, ClientOptions, Element, Provider, PullOptions, PushOptions, Table, TableSchema,
};
use windlass_engine::{Server, ServerConfig};

const PROVIDERS: [Provider; 2] = [Provider::Shm {}, Provider::Tcp {}];
const SHARDS: u16 = 8;
const ROWS: u64 = 64;

fn start(provider: Provider, listen: &str) -> Server {
    Server::start(ServerConfig {
        listen: listen.parse().unwrap(),
        providers: vec![provider],
        memory_len_max: 64 << 20,
        shards: SHARDS,
        ..ServerConfig::default()
    })
    .unwrap()
}

fn connect(server: &Server, provider: Provider, retry_for: Duration) -> Client {
    let options =
        ClientOptions { providers: vec![provider], retry_for, ..ClientOptions::default() };
    Client::connect_with(server.advertised(), options).unwrap()
}

/// Links that the server has with clients.
fn links(client: &Client, server: &Server) -> u64 {
    let statistics = client.server_statistics(server.id()).unwrap();
    let from = statistics.find("\"sessions\":").unwrap() + 11;
    let digits: String = statistics[from..].chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

fn push(table: &Table<f32>, row: u64) {
    table.push(row..row + 1, &[1.0], &PushOptions::default()).unwrap().wait().unwrap();
}

#[test]
fn clients_link_to_the_shards_that_they_use() {
    for provider in PROVIDERS {
        let server = start(provider, "127.0.0.1:0");
        let clients: Vec<Client> =
            (0..10).map(|_| connect(&server, provider, Duration::from_secs(5))).collect();
        let schema = TableSchema::dense(f32::DTYPE, ROWS, 1);
        let tables: Vec<Table<f32>> =
            clients.iter().map(|client| client.create_table("t", &schema).unwrap()).collect();
        assert_eq!(links(&clients[0], &server), 0, "{provider:?}: nothing was sent");
        // A row of each partition: neighbours are of different shards.
        for (table, row) in tables.iter().zip(0..) {
            push(table, row);
            push(table, row);
        }
        assert_eq!(links(&clients[0], &server), 10, "{provider:?}: one each");
        for row in 0..ROWS {
            push(&tables[0], row);
        }
        assert_eq!(links(&clients[0], &server), 9 + u64::from(SHARDS), "{provider:?}");
        // A table of one row is at one shard, for those who pull it as well.
        let schema = TableSchema::dense(f32::DTYPE, 1, 1);
        let reader = connect(&server, provider, Duration::from_secs(5));
        let one = reader.create_table::<f32>("one", &schema).unwrap();
        let pulled = one.pull(0..1, &PullOptions::default()).unwrap().wait().unwrap();
        assert_eq!(pulled, [0.0]);
        assert_eq!(links(&reader, &server), 10 + u64::from(SHARDS), "{provider:?}: one more");
        let rows = tables[1].pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
        let sum: f32 = rows.iter().sum();
        assert!((sum - 84.0).abs() < f32::EPSILON, "{provider:?}: {sum}");
        drop((clients, reader));
        server.stop();
    }
}

/// Without links nothing says that a server has gone: the first message finds out.
#[test]
fn a_server_that_goes_before_a_link_is_made_is_told_or_waited_for() {
    for provider in PROVIDERS {
        let server = start(provider, "127.0.0.1:0");
        let address = server.advertised().trim_start_matches("windlass://").to_owned();
        let hasty = connect(&server, provider, Duration::ZERO);
        let patient = connect(&server, provider, Duration::from_secs(20));
        let schema = TableSchema::dense(f32::DTYPE, ROWS, 1);
        let tables = [&hasty, &patient].map(|client| {
            let table = client.create_table::<f32>("t", &schema).unwrap();
            push(&table, 0);
            table
        });
        server.stop();
        let since = Instant::now();
        let pushed = tables[0].push(5..6, &[1.0], &PushOptions::default());
        let refused = pushed.and_then(|pushed| pushed.wait()).unwrap_err();
        assert!(since.elapsed() < Duration::from_secs(10), "{provider:?}: {refused}");

        let server = start(provider, &address);
        let again = connect(&server, provider, Duration::from_secs(5));
        let table = again.create_table::<f32>("t", &schema).unwrap();
        push(&table, 7);
        // Its rows were kept in memory only, and are gone: that is told, and nothing is made up.
        let pushed = tables[1].push(5..6, &[1.0], &PushOptions::default());
        let lost = pushed.and_then(|pushed| pushed.wait()).unwrap_err();
        assert!(matches!(lost, windlass_client::RequestError::RowsLost), "{provider:?}: {lost}");
        let table = patient.open_table::<f32>("t").unwrap();
        push(&table, 5);
        let rows = table.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
        let sum: f32 = rows.iter().sum();
        assert!((sum - 2.0).abs() < f32::EPSILON, "{provider:?}: {sum}");
        drop((hasty, patient, again));
        server.stop();
    }
}
