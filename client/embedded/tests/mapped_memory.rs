//! What a server has mapped of the memory of clients on its host: what they have, and no more than it may.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, Instant};

use windlass_client::{
    Client, ClientOptions, Element, Provider, PullOptions, PushOptions, RequestError, Rows,
    TableSchema,
};
use windlass_embedded::{Embedded, EmbeddedClient};
use windlass_engine::ServerConfig;

const ROWS: u64 = 1 << 17;
const WIDTH: u32 = 8;
const COUNT: usize = 1 << 20;

fn client() -> EmbeddedClient {
    let config = ServerConfig {
        providers: vec![Provider::Shm {}],
        memory_len_max: 64 << 20,
        ..ServerConfig::default()
    };
    let options = ClientOptions { providers: vec![Provider::Shm {}], ..ClientOptions::default() };
    Client::embedded_with(config, options).unwrap()
}

fn rows(client: &Client) -> Rows<f32> {
    let mut rows = client.allocate::<f32>(COUNT).unwrap();
    rows.fill(1.0);
    rows
}

/// Shared mappings of this process, of both the client and the server in it.
fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("memfd:windlass")).count()
}

#[test]
fn memory_that_clients_free_goes_and_what_they_share_is_bounded() {
    let client = client();
    let schema = TableSchema::dense(f32::DTYPE, ROWS, WIDTH);
    let table = client.create_table::<f32>("pushed", &schema).unwrap();
    let push = |rows| {
        let pending = table.push_rows(0..ROWS, rows, &PushOptions::default()).unwrap();
        let (rows, outcome) = pending.wait_rows();
        (rows, outcome)
    };
    let (_, outcome) = push(rows(&client));
    outcome.unwrap();
    let before = mappings();
    for _ in 0..20 {
        let (back, outcome) = push(rows(&client));
        outcome.unwrap();
        drop(back.unwrap());
    }
    // The last one's end may be on its way.
    let deadline = Instant::now() + Duration::from_secs(10);
    while mappings() > before {
        assert!(Instant::now() < deadline, "{} mappings, {before} before", mappings());
        std::thread::sleep(Duration::from_millis(1));
    }

    // What is alive counts, until it is more than the server maps.
    let mut alive = Vec::new();
    let error = loop {
        let (back, outcome) = push(rows(&client));
        alive.extend(back);
        assert!(alive.len() * COUNT * 4 < 512 << 20, "the server maps whatever is shared");
        if let Err(error) = outcome {
            break error;
        }
    };
    assert!(matches!(error, RequestError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("--memory"), "{error}");
    let pushed = 20 + alive.len();
    drop(alive);
    let (_, outcome) = push(rows(&client));
    outcome.unwrap();
    let mut row = vec![0.0; WIDTH as usize];
    table.pull_into(5..6, &mut row, &PullOptions::default()).unwrap();
    assert_eq!(row, vec![(pushed + 1) as f32; WIDTH as usize]);
}
