//! Rows of sparse tables that begin with other values than zeros.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use windlass_client::{
    Client, ClientOptions, DataType, Durability, Element, Initializer, Provider, PullOptions,
    PushOptions, ScanOptions, Table, TableError, TableSchema,
};
use windlass_embedded::{Embedded, EmbeddedClient};
use windlass_engine::ServerConfig;

const WIDTH: u32 = 5;

fn client(data: Option<&std::path::Path>, provider: Provider) -> EmbeddedClient {
    let config = ServerConfig {
        data_dir: data.map(ToOwned::to_owned),
        shards: 3,
        memory_len_max: 1 << 30,
        providers: vec![provider],
        ..ServerConfig::default()
    };
    Client::embedded_with(config, ClientOptions::default()).unwrap()
}

fn schema(initializer: &str) -> TableSchema {
    TableSchema {
        initializer: initializer.parse().unwrap(),
        ..TableSchema::sparse(f32::DTYPE, WIDTH)
    }
}

/// What keys of a table begin with.
fn first(initializer: &str, table: &str, keys: &[u64]) -> Vec<f32> {
    let initializer: Initializer = initializer.parse().unwrap();
    let mut row = [0; WIDTH as usize * 4];
    let row_of = |key: &u64| {
        initializer.of_table(table).fill(*key, DataType::F32, &mut row);
        bytemuck::cast_slice::<u8, [u8; 4]>(&row)
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect::<Vec<_>>()
    };
    keys.iter().flat_map(row_of).collect()
}

fn pull(table: &Table<f32>, keys: &[u64]) -> Vec<f32> {
    table.pull(keys, &PullOptions::default()).unwrap().wait().unwrap()
}

/// Keys of all partitions, of which every third is pushed to.
fn keys() -> (Vec<u64>, Vec<u64>) {
    let keys: Vec<u64> = (0..500).map(|key| key * 7919).chain([u64::MAX]).collect();
    let pushed = keys.iter().step_by(3).copied().collect();
    (keys, pushed)
}

#[test]
fn a_key_without_a_row_has_the_values_that_a_push_goes_on_from() {
    let (keys, pushed) = keys();
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let client = client(None, provider);
        for initializer in ["constant:0.5", "uniform:-1,1,seed=3", "truncated-normal:0,0.02"] {
            let name = format!("{initializer} {provider:?}");
            let table = client.create_table::<f32>(&name, &schema(initializer)).unwrap();
            let mut expected = first(initializer, &name, &keys);
            assert_eq!(pull(&table, &keys), expected, "{name}");
            assert_eq!(
                table.scan(&ScanOptions::default()).unwrap().count(),
                0,
                "a pull makes no rows"
            );
            let gradient: Vec<f32> =
                (0..pushed.len() * WIDTH as usize).map(|at| at as f32).collect();
            for _ in 0..2 {
                table.push(&pushed, &gradient, &PushOptions::default()).unwrap().wait().unwrap();
                let rows = expected.chunks_mut(WIDTH as usize).step_by(3);
                let gradients = gradient.chunks(WIDTH as usize);
                rows.zip(gradients).for_each(|(row, gradient)| {
                    row.iter_mut().zip(gradient).for_each(|(value, gradient)| *value += gradient);
                });
                assert_eq!(pull(&table, &keys), expected, "{name}");
            }
        }
    }
}

#[test]
fn rows_and_keys_without_rows_come_back_after_a_restart() {
    let (keys, pushed) = keys();
    let data = tempfile::tempdir().unwrap();
    let durabilities = [Durability::Sync {}, Durability::Interval { milliseconds: 5 }];
    let mut expected = [Vec::new(), Vec::new()];
    for life in 0..3 {
        let client = client(Some(data.path()), Provider::Shm {});
        for ((durability, name), expected) in
            durabilities.iter().zip(["sync", "interval"]).zip(&mut expected)
        {
            let rule = "adagrad:lr=0.1".parse().unwrap();
            let durability = *durability;
            let schema = TableSchema { durability, rule, ..schema("normal:0,1") };
            let table = client.create_table::<f32>(name, &schema).unwrap();
            let before =
                if life == 0 { first("normal:0,1", name, &keys) } else { expected.clone() };
            assert_eq!(pull(&table, &keys), before, "life {life} of {name}");
            let gradient = vec![1.0; pushed.len() * WIDTH as usize];
            table.push(&pushed, &gradient, &PushOptions::default()).unwrap().wait().unwrap();
            *expected = pull(&table, &keys);
            let untouched = |rows: &[f32]| rows[WIDTH as usize..3 * WIDTH as usize].to_vec();
            assert_eq!(untouched(expected), untouched(&before));
            assert!(expected[0] < before[0], "{} after {}", expected[0], before[0]);
        }
        if life == 1 {
            client.checkpoint(windlass_client::ServerId(0)).unwrap();
        }
    }
}

#[test]
fn what_a_table_cannot_begin_with_is_refused() {
    let client = client(None, Provider::Shm {});
    for (schema, why) in [
        (
            TableSchema {
                initializer: "constant:1".parse().unwrap(),
                ..TableSchema::dense(f32::DTYPE, 9, 1)
            },
            "dense",
        ),
        (schema("normal:0,0"), "deviation above 0"),
        (schema("uniform:1,-1"), "low end"),
    ] {
        let refused = client.create_table::<f32>("refused", &schema).unwrap_err();
        let text = windlass_transport::error::chain(&refused);
        assert!(matches!(refused, TableError::Refused { .. }) && text.contains(why), "{text}");
    }
    let table = client.create_table::<f32>("one", &schema("normal:0,1")).unwrap();
    client.create_table::<f32>("one", &schema("normal:0,1,seed=0")).unwrap();
    let refused = client.create_table::<f32>("one", &schema("normal:0,1,seed=1")).unwrap_err();
    assert!(matches!(refused, TableError::Exists { .. }), "{refused}");
    assert_eq!(table.schema().initializer, "normal:0,1".parse().unwrap());
}
