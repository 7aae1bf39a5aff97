//! Tables that are kept on disk come back, rows, optimiser state and duplicate suppression alike.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use windlass_client::{
    Client, ClientOptions, Durability, Element, Provider, PullOptions, PushOptions, Table,
    TableError, TableSchema,
};
use windlass_embedded::{Embedded, EmbeddedClient};
use windlass_engine::ServerConfig;

fn client(data: &std::path::Path, shards: u16) -> EmbeddedClient {
    let config = ServerConfig {
        data_dir: Some(data.to_owned()),
        shards,
        memory_len_max: 1 << 30,
        providers: vec![Provider::Shm {}],
        ..ServerConfig::default()
    };
    Client::embedded_with(config, ClientOptions::default()).unwrap()
}

fn kept(schema: TableSchema, durability: Durability) -> TableSchema {
    TableSchema { durability, ..schema }
}

fn all<T: Element>(table: &Table<T>, keys: &[u64]) -> Vec<T> {
    table.pull(keys, &PullOptions::default()).unwrap().wait().unwrap()
}

#[test]
fn rows_and_state_come_back_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let keys: Vec<u64> = (0..3000).map(|key| key * 7919).collect();
    let dense_keys: Vec<u64> = (0..500).map(|row| row * 2).collect();
    let adam = "adam:lr=0.01".parse().unwrap();
    let mut expected = (Vec::new(), Vec::new());
    for life in 0..4 {
        let client = client(data.path(), 2);
        let schema = kept(TableSchema::sparse(f32::DTYPE, 3), Durability::Sync {});
        let sparse =
            client.create_table::<f32>("s", &TableSchema { rule: adam, ..schema }).unwrap();
        let schema =
            kept(TableSchema::dense(f64::DTYPE, 1000, 5), Durability::Interval { milliseconds: 5 });
        let dense = client.create_table::<f64>("d", &schema).unwrap();
        let memory = client
            .create_table::<i64>("forgotten", &TableSchema::dense(i64::DTYPE, 10, 1))
            .unwrap();
        if life > 0 {
            assert_eq!(all(&sparse, &keys), expected.0, "life {life}");
            assert_eq!(all(&dense, &dense_keys), expected.1, "life {life}");
            assert_eq!(all(&memory, &[3]), [0], "what is in memory only is gone");
        }
        for round in 0..20 {
            let gradient: Vec<f32> =
                (0..keys.len() * 3).map(|at| ((at + round + life) % 17) as f32 - 8.0).collect();
            sparse.push(&keys, &gradient, &PushOptions::default()).unwrap().wait().unwrap();
            let values = vec![round as f64; dense_keys.len() * 5];
            dense.push(&dense_keys, &values, &PushOptions::default()).unwrap().wait().unwrap();
            dense.push(0..1000, &vec![0.5; 5000], &PushOptions::default()).unwrap().wait().unwrap();
        }
        memory.push(&[3], &[1], &PushOptions::default()).unwrap().wait().unwrap();
        if life == 1 {
            client.checkpoint(client.map().servers[0].id).unwrap();
        }
        expected = (all(&sparse, &keys), all(&dense, &dense_keys));
    }
}

#[test]
fn the_disk_has_to_be_there_for_tables_that_ask_for_it() {
    let client = Client::embedded().unwrap();
    let schema = kept(TableSchema::dense(f32::DTYPE, 10, 1), Durability::Sync {});
    assert!(matches!(client.create_table::<f32>("t", &schema), Err(TableError::Refused { .. })));
    let memory = client.create_table::<f32>("m", &TableSchema::dense(f32::DTYPE, 10, 1)).unwrap();
    let sync = PushOptions { sync: true, ..PushOptions::default() };
    assert!(memory.push(&[1], &[1.0], &sync).unwrap().wait().is_err());
}

#[test]
fn another_number_of_shards_is_told() {
    let data = tempfile::tempdir().unwrap();
    drop(client(data.path(), 2));
    let config =
        ServerConfig { data_dir: Some(data.path().to_owned()), shards: 1, ..Default::default() };
    let error = windlass_engine::Server::start(config).unwrap_err();
    assert!(error.to_string().contains("--shards 2"), "{error}");
}
