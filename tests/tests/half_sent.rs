//! Pushes that fail when some of their parts are on their way: servers may still read the values, so the
//! memory stays and nobody is handed it. A table in rounds keeps what it is sent until the round closes,
//! and has room for so many keys.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    missing_docs,
    reason = "pushes of values that stay with the caller"
)]

use std::time::{Duration, Instant};

use windlass_client::{
    Aggregation, Client, ClientOptions, Consistency, Element, Provider, PushOptions, RequestError,
    Table, TableSchema, WorkerRank,
};
use windlass_engine::{Server, ServerConfig};

const PROVIDERS: [Provider; 2] = [Provider::Shm {}, Provider::Tcp {}];

/// More than a mailbox has room for.
const KEYS: usize = 1 << 20;

fn start(provider: Provider) -> (Server, Client, Table<f64>) {
    let config = ServerConfig {
        providers: vec![provider],
        memory_len_max: 1 << 30,
        ..ServerConfig::default()
    };
    let server = Server::start(config).unwrap();
    let options = ClientOptions {
        rank: Some(WorkerRank(0)),
        timeout: Duration::from_millis(300),
        retry_for: Duration::from_millis(300),
        ..ClientOptions::default()
    };
    let client = Client::connect_with(server.advertised(), options).unwrap();
    let schema = TableSchema {
        aggregation: Aggregation::Rounds { quorum: 0, fold_late: false },
        consistency: Consistency::Sequential {},
        ..TableSchema::sparse(f64::DTYPE, 1)
    };
    let table = client.create_table::<f64>("t", &schema).unwrap();
    (server, client, table)
}

fn keys() -> Vec<u64> {
    (0..KEYS as u64).collect()
}

fn is_full<T: std::fmt::Debug>(pushed: Result<T, RequestError>) {
    assert!(matches!(pushed, Err(RequestError::RoundFull)), "{pushed:?}");
}

#[test]
fn values_are_not_handed_out_while_parts_of_a_failed_push_are_read() {
    for provider in PROVIDERS {
        let (_server, client, table) = start(provider);
        let mut prepared = table.prepare(&keys()).unwrap();
        prepared.values_mut().unwrap().fill(1.0);
        is_full(prepared.push(&PushOptions::default()));
        let handed_out = prepared.values_mut().map(drop);
        assert!(matches!(handed_out, Err(RequestError::Timeout { .. })), "{handed_out:?}");

        let rows = client.allocate::<f64>(KEYS).unwrap();
        // SAFETY: the values are not written until what reads them is over.
        let pushed = unsafe { table.push_shared(&keys(), &rows, 0, &PushOptions::default()) };
        is_full(pushed);

        client.advance_clock().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while let Err(error) = prepared.values_mut() {
            assert!(Instant::now() < until, "the round does not close: {error}");
        }
        let pushed = table.pull(&[0], &Default::default()).unwrap().wait().unwrap();
        assert_eq!(pushed, [1.0], "the first part was sent");
    }
}

#[test]
fn shared_values_say_which_push_still_reads_them() {
    for provider in PROVIDERS {
        let (_server, client, table) = start(provider);
        let rows = client.allocate::<f64>(KEYS).unwrap();
        assert_eq!(rows.unsettled(), None);
        // SAFETY: the values are not written until what reads them is over.
        let pushed = unsafe { table.push_shared(&keys(), &rows, 0, &PushOptions::default()) };
        is_full(pushed);
        let sent = rows.unsettled().expect("parts of the push are under way");
        client.advance_clock().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while let Err(error) = client.wait(sent) {
            assert!(Instant::now() < until, "the round does not close: {error}");
        }
        assert_eq!(rows.unsettled(), None);
    }
}

/// The messages are taken back to be sent again, with the memory that they name.
#[test]
fn memory_of_a_dropped_push_stays_while_parts_of_it_may_be_sent_again() {
    for provider in PROVIDERS {
        let (server, client, table) = start(provider);
        let rows = client.allocate::<f64>(KEYS).unwrap();
        is_full(table.push_rows(&keys(), rows, &PushOptions::default()));
        drop(client.allocate::<f64>(1).unwrap());
        drop(server);
        let ended = client.wait_all();
        assert!(ended.is_err(), "nobody closes the round");
    }
}

/// The client's timeout bounds the whole of a push, not each of its parts.
#[test]
fn a_push_of_many_parts_ends_in_time() {
    for provider in PROVIDERS {
        let config = ServerConfig { providers: vec![provider], ..ServerConfig::default() };
        let server = Server::start(config).unwrap();
        let timeout = Duration::from_millis(10);
        let options = ClientOptions { timeout, ..ClientOptions::default() };
        let patient = Client::connect(server.advertised()).unwrap();
        patient.create_table::<f64>("t", &TableSchema::sparse(f64::DTYPE, 1)).unwrap();
        // Connecting and opening take what they take.
        let mut client = None;
        for _ in 0..1000 {
            client = client.or_else(|| {
                let client = Client::connect_with(server.advertised(), options.clone()).ok()?;
                let table = client.open_table::<f64>("t").ok()?;
                Some((client, table))
            });
        }
        let (_client, table) = client.unwrap();
        let values = vec![1.0; KEYS];
        let pushed = table.push(&keys(), &values, &PushOptions::default()).map(drop);
        assert!(
            matches!(pushed, Err(RequestError::SendTimeout { timeout: told }) if told == timeout),
            "{pushed:?}"
        );
        assert!(pushed.unwrap_err().to_string().contains("only some of its rows"));
    }
}
