//! Checkpoints of pieces that are longer than a block, as those of large sparse partitions are.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod same_rows;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use same_rows::assert_same_rows;
use windlass_client::{
    Client, ClientOptions, Durability, Provider, PullOptions, PushOptions, Table, TableSchema,
};
use windlass_embedded::{Embedded, EmbeddedClient};
use windlass_engine::{
    ServerConfig,
    persist::{limits::CHECKPOINT_BLOCK_BYTES_MAX, manifest::manifest_number},
    table::piece_of,
};
use windlass_wire::DataType;

const WIDTH: u32 = 16 << 10;

fn client(data: &Path) -> EmbeddedClient {
    let config = ServerConfig {
        data_dir: Some(data.to_owned()),
        partitions: 1,
        memory_len_max: 1 << 30,
        providers: vec![Provider::Shm {}],
        ..ServerConfig::default()
    };
    Client::embedded_with(config, ClientOptions::default()).unwrap()
}

fn push(table: &Table<f32>, key: u64, value: f32) {
    let values = vec![value; WIDTH as usize];
    table.push(&[key], &values, &PushOptions::default()).unwrap().wait().unwrap();
}

/// The first value of a row, which all others are equal to.
fn row(table: &Table<f32>, key: u64) -> f32 {
    let row = table.pull(&[key], &PullOptions::default()).unwrap().wait().unwrap();
    assert!(row.iter().all(|value| *value == row[0]), "row {key}");
    row[0]
}

/// The newest manifest's number.
fn published(data: &Path) -> u64 {
    let names = std::fs::read_dir(data.join("shard-0")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| manifest_number(&name)).max().unwrap_or(0)
}

/// A piece of a partition is a 4096th part of its keys: of 8 GiB it is as long as these.
#[test]
fn pieces_longer_than_a_block_are_checkpointed() {
    let keys: Vec<u64> = (0..).filter(|key| piece_of(*key) == 77).take(40).collect();
    assert!(keys.len() * WIDTH as usize * 4 > 2 * CHECKPOINT_BLOCK_BYTES_MAX);
    let data = tempfile::tempdir().unwrap();
    let sparse = TableSchema::sparse(DataType::F32, WIDTH);
    let schema = TableSchema { durability: Durability::Sync {}, ..sparse };
    let all = |table: &Table<f32>| keys.iter().map(|key| row(table, *key)).collect::<Vec<f32>>();
    let expected = {
        let client = client(data.path());
        let table = client.create_table::<f32>("t", &schema).unwrap();
        for (at, key) in keys.iter().enumerate() {
            push(&table, *key, at as f32 + 0.5);
        }
        let before = published(data.path());
        client.checkpoint(client.map().servers[0].id).unwrap();
        let since = Instant::now();
        while published(data.path()) == before {
            assert!(since.elapsed() < Duration::from_secs(20), "no checkpoint succeeds");
            std::thread::sleep(Duration::from_millis(5));
        }
        // Behind the checkpoint, in the log.
        push(&table, keys[3], 100.0);
        all(&table)
    };
    let client = client(data.path());
    assert_same_rows(&all(&client.open_table::<f32>("t").unwrap()), &expected, "after a restart");
}
