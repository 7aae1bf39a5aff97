//! Hyper-parameters that change while a table is in use.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use windlass_client::{
    Aggregation, Client, ClientOptions, Durability, Element, Provider, PullOptions, PushOptions,
    Table, TableError, TableSchema, WorkerRank,
};
use windlass_embedded::Embedded;
use windlass_engine::{Server, ServerConfig};

const ROWS: u64 = 50;

fn schemas() -> [TableSchema; 2] {
    let rule = "sgd:lr=0.5".parse().unwrap();
    [TableSchema::dense(f32::DTYPE, ROWS, 3), TableSchema::sparse(f32::DTYPE, 3)]
        .map(|schema| TableSchema { rule, ..schema })
}

fn push(table: &Table<f32>) {
    let rows: Vec<u64> = (0..ROWS).collect();
    let values = vec![1.0; rows.len() * 3];
    table.push(&rows, &values, &PushOptions::default()).unwrap().wait().unwrap();
}

fn assert_all(table: &Table<f32>, expected: f32) {
    let rows: Vec<u64> = (0..ROWS).collect();
    let pulled = table.pull(&rows, &PullOptions::default()).unwrap().wait().unwrap();
    assert!(pulled.iter().all(|value| *value == expected), "{expected}: {pulled:?}");
}

#[test]
fn pushes_go_by_the_values_that_were_set_before_them() {
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let config = ServerConfig {
            providers: vec![provider],
            shards: 3,
            memory_len_max: 1 << 30,
            ..ServerConfig::default()
        };
        let server = Server::start(config).unwrap();
        let client = Client::connect(server.advertised()).unwrap();
        let other = Client::connect(server.advertised()).unwrap();
        for (schema, name) in schemas().iter().zip(["dense", "sparse"]) {
            let table = client.create_table::<f32>(name, schema).unwrap();
            push(&table);
            assert_all(&table, -0.5);
            let changed = table.set_hyper_parameters("learning_rate=0.25").unwrap();
            assert_eq!(changed.schema.rule, "sgd:lr=0.25".parse().unwrap());
            assert_eq!(table.schema().rule, changed.schema.rule);
            push(&table);
            assert_all(&table, -0.75);
            other.set_hyper_parameters(name, "lr=2").unwrap();
            push(&table);
            assert_all(&table, -2.75);
            assert_eq!(client.table_entry(name).unwrap().schema.rule, "sgd:lr=2".parse().unwrap());

            for wrong in ["speed=1", "lr=0", "lr=-1", "lr=nan", "momentum=0.9", "", "lr=1,speed=1"]
            {
                let refused = client.set_hyper_parameters(name, wrong).unwrap_err();
                assert!(matches!(refused, TableError::Refused { .. }), "{wrong}: {refused}");
            }
            push(&table);
            assert_all(&table, -4.75);
            // A program that starts again asks for what it once created, or for what there is.
            client.create_table::<f32>(name, schema).unwrap();
            let now = TableSchema { rule: "sgd:lr=2".parse().unwrap(), ..schema.clone() };
            client.create_table::<f32>(name, &now).unwrap();
            let third = TableSchema { rule: "sgd:lr=3".parse().unwrap(), ..schema.clone() };
            let refused = client.create_table::<f32>(name, &third).unwrap_err();
            assert!(matches!(refused, TableError::Exists { .. }), "{refused}");
        }
        let unknown = client.set_hyper_parameters("none", "lr=1").unwrap_err();
        assert!(matches!(unknown, TableError::Unknown { .. }), "{unknown}");
    }
}

#[test]
fn limits_of_gradients_and_weights_are_set_and_taken_away() {
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let config = ServerConfig {
            providers: vec![provider],
            shards: 2,
            memory_len_max: 1 << 30,
            ..ServerConfig::default()
        };
        let server = Server::start(config).unwrap();
        let client = Client::connect(server.advertised()).unwrap();
        for (schema, name) in schemas().into_iter().zip(["dense", "sparse"]) {
            let rule = "sgd:lr=0.5,clip=0.25,min=-0.2".parse().unwrap();
            let table = client.create_table::<f32>(name, &TableSchema { rule, ..schema }).unwrap();
            push(&table);
            assert_all(&table, -0.125);
            push(&table);
            assert_all(&table, -0.2);
            // A row of three ones is as long as the root of three.
            table.set_hyper_parameters("clip=inf,clip_norm=1,min=-inf").unwrap();
            push(&table);
            #[expect(clippy::cast_possible_truncation, reason = "the kernel rounds it once, too")]
            let scale = (1.0 / 3.0_f64.sqrt()) as f32;
            assert_all(&table, -0.2 - 0.5 * scale);
            table.set_hyper_parameters("clip_norm=inf,max=-1").unwrap();
            push(&table);
            assert_all(&table, f32::min(-1.0, -0.2 - 0.5 * scale - 0.5));
            let refused = table.set_hyper_parameters("min=0").unwrap_err().to_string();
            assert!(refused.contains("from min on"), "{refused}");
        }
    }
}

#[test]
fn changed_values_and_what_was_pushed_by_each_outlive_a_restart() {
    let levels =
        [Durability::Sync {}, Durability::Interval { milliseconds: 5 }, Durability::Memory {}];
    for durability in levels {
        let data = tempfile::tempdir().unwrap();
        let mut values = [0.0_f32; 2];
        for life in 0..4_u16 {
            let config = ServerConfig {
                data_dir: Some(data.path().to_owned()),
                // Recovery onto other numbers of shards, too.
                shards: 1 + life % 3,
                memory_len_max: 1 << 30,
                providers: vec![Provider::Shm {}],
                ..ServerConfig::default()
            };
            let client = Client::embedded_with(config, ClientOptions::default()).unwrap();
            for ((schema, name), value) in schemas().iter().zip(["d", "s"]).zip(&mut values) {
                let schema = TableSchema { durability, ..schema.clone() };
                let table = client.create_table::<f32>(name, &schema).unwrap();
                if durability == (Durability::Memory {}) {
                    *value = 0.0;
                }
                assert_all(&table, *value);
                let mut rate = if life == 0 { 0.5 } else { 0.125 };
                for next in [0.25, 1.0, 0.125] {
                    push(&table);
                    *value -= rate;
                    rate = next;
                    table.set_hyper_parameters(&format!("lr={next}")).unwrap();
                }
                push(&table);
                *value -= rate;
                assert_all(&table, *value);
            }
            if life == 1 {
                client.checkpoint(client.map().servers[0].id).unwrap();
            }
        }
    }
}

#[test]
fn a_round_counts_by_the_values_of_its_end() {
    let config = ServerConfig { memory_len_max: 1 << 30, ..ServerConfig::default() };
    let server = Server::start(config).unwrap();
    let options = ClientOptions { rank: Some(WorkerRank(0)), ..ClientOptions::default() };
    let client = Client::connect_with(server.advertised(), options).unwrap();
    for (schema, name) in schemas().into_iter().zip(["dense", "sparse"]) {
        let aggregation = Aggregation::Rounds { quorum: 0, fold_late: false };
        let schema = TableSchema { aggregation, ..schema };
        let table = client.create_table::<f32>(name, &schema).unwrap();
        let mut value = 0.0;
        for rate in [0.25, 1.0] {
            let rows: Vec<u64> = (0..ROWS).collect();
            let pushed = table.push(&rows, &vec![1.0; rows.len() * 3], &PushOptions::default());
            table.set_hyper_parameters(&format!("lr={rate}")).unwrap();
            client.advance_clock().unwrap();
            pushed.unwrap().wait().unwrap();
            value -= rate;
            assert_all(&table, value);
        }
    }
}
