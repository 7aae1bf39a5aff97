//! Tables that are kept on disk come back, rows, optimiser state and duplicate suppression alike.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod same_rows;

use same_rows::assert_same_rows;
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
    restart("adam:lr=0.01");
    restart("row-adagrad:lr=0.01");
}

fn restart(rule: &str) {
    let data = tempfile::tempdir().unwrap();
    let keys: Vec<u64> = (0..3000).map(|key| key * 7919).collect();
    let dense_keys: Vec<u64> = (0..500).map(|row| row * 2).collect();
    let rule = rule.parse().unwrap();
    let mut expected = (Vec::new(), Vec::new());
    let sparse_schema = TableSchema { rule, ..TableSchema::sparse(f32::DTYPE, 3) };
    // It goes through all lives: what optimisers remember shows in what is pushed after a restart.
    let uninterrupted = Client::embedded().unwrap();
    let reference = uninterrupted.create_table::<f32>("s", &sparse_schema).unwrap();
    for life in 0..4 {
        let client = client(data.path(), 2);
        let interval = Durability::Interval { milliseconds: 5 };
        let sparse =
            client.create_table::<f32>("s", &kept(sparse_schema.clone(), interval)).unwrap();
        let schema = kept(TableSchema::dense(f64::DTYPE, 1000, 5), interval);
        let dense = client.create_table::<f64>("d", &schema).unwrap();
        let memory = client
            .create_table::<i64>("forgotten", &TableSchema::dense(i64::DTYPE, 10, 1))
            .unwrap();
        if life > 0 {
            assert_same_rows(&all(&sparse, &keys), &expected.0, &format!("sparse, life {life}"));
            assert_same_rows(
                &all(&dense, &dense_keys),
                &expected.1,
                &format!("dense, life {life}"),
            );
            assert_eq!(all(&memory, &[3]), [0], "what is in memory only is gone");
        }
        for round in 0..20 {
            let gradient: Vec<f32> =
                (0..keys.len() * 3).map(|at| ((at + round + life) % 17) as f32 - 8.0).collect();
            for table in [&sparse, &reference] {
                table.push(&keys, &gradient, &PushOptions::default()).unwrap().wait().unwrap();
            }
            let values = vec![round as f64; dense_keys.len() * 5];
            dense.push(&dense_keys, &values, &PushOptions::default()).unwrap().wait().unwrap();
            dense.push(0..1000, &vec![0.5; 5000], &PushOptions::default()).unwrap().wait().unwrap();
        }
        memory.push(&[3], &[1], &PushOptions::default()).unwrap().wait().unwrap();
        if life == 1 {
            client.checkpoint(client.map().servers[0].id).unwrap();
        }
        expected = (all(&sparse, &keys), all(&dense, &dense_keys));
        assert_eq!(expected.0, all(&reference, &keys), "life {life}");
    }
}

/// Pushes that meet in a turn become one record: sums of half floats in `f32`, the last assignment,
/// rows that overlap in part, as ranges and as keys.
#[test]
fn pushes_that_meet_are_recorded_as_one() {
    let data = tempfile::tempdir().unwrap();
    let mut expected = None;
    for life in 0..3_u32 {
        let client = client(data.path(), 2);
        let rule = "assign".parse().unwrap();
        let sync = |schema| kept(schema, Durability::Sync {});
        let sums = client
            .create_table::<f32>("sums", &sync(TableSchema::dense(f32::DTYPE, 400, 3)))
            .unwrap();
        let halves = client
            .create_table::<half::bf16>("halves", &sync(TableSchema::sparse(half::bf16::DTYPE, 2)))
            .unwrap();
        let schema = TableSchema { rule, ..TableSchema::dense(i64::DTYPE, 300, 1) };
        let last = client.create_table::<i64>("last", &sync(schema)).unwrap();
        let state = || {
            let every: Vec<u64> = (0..300).collect();
            (all(&sums, &every), all(&halves, &every), all(&last, &every))
        };
        if let Some(expected) = &expected {
            assert_eq!(&state(), expected, "life {life}");
        }
        let before = state();
        std::thread::scope(|scope| {
            for worker in 0..3_u64 {
                let address = client.server().advertised().to_owned();
                scope.spawn(move || {
                    let client = Client::connect(&address).unwrap();
                    let sums = client.open_table::<f32>("sums").unwrap();
                    let halves = client.open_table::<half::bf16>("halves").unwrap();
                    let keys: Vec<u64> = (0..50).map(|at| at * 6 + worker * 2 % 3).collect();
                    let ones = vec![half::bf16::ONE; 100];
                    let options = PushOptions::default();
                    let mut pending = (Vec::new(), Vec::new());
                    for round in 0..20 {
                        let start = worker * 30 + round;
                        let range = start..start + 200;
                        pending.0.push(sums.push(range, &[1.0; 600], &options).unwrap());
                        pending.0.push(sums.push(&keys, &[2.0; 150], &options).unwrap());
                        pending.1.push(halves.push(&keys, &ones, &options).unwrap());
                    }
                    pending.0.into_iter().for_each(|push| push.wait().unwrap());
                    pending.1.into_iter().for_each(|push| push.wait().unwrap());
                });
            }
            let mut pending = Vec::new();
            for round in 0..60_u64 {
                let rows = round..round + 200;
                let values = vec![i64::try_from(round).unwrap(); 200];
                pending.push(last.push(rows, &values, &PushOptions::default()).unwrap());
            }
            pending.into_iter().for_each(|push| push.wait().unwrap());
        });
        let after = state();
        for row in 0..300_u64 {
            let at = usize::try_from(row).unwrap();
            let (mut sum, mut half) = (before.0[at * 3], before.1[at * 2].to_f32());
            for worker in 0..3_u64 {
                let ranges = (0..20).map(|round| worker * 30 + round);
                sum += ranges.filter(|start| (*start..start + 200).contains(&row)).count() as f32;
                if row % 6 == worker * 2 % 3 {
                    sum += 40.0;
                    half += 20.0;
                }
            }
            assert_eq!(after.0[at * 3..at * 3 + 3], [sum; 3], "row {row}, life {life}");
            assert_eq!(after.1[at * 2].to_f32(), half, "row {row}, life {life}");
            let newest = i64::try_from(row.min(59)).unwrap();
            let newest = if row < 259 { newest } else { 0 };
            assert_eq!(after.2[at], newest, "row {row}, life {life}");
        }
        expected = Some(after);
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

/// Each life groups the partitions anew; rows, state and duplicate suppression move along, and the
/// directories of older groupings go once the new one has checkpoints.
#[test]
fn scattered_rows_of_many_pushes_fit_their_images() {
    const ROWS: u64 = 1 << 18;
    let data = tempfile::tempdir().unwrap();
    let interval = Durability::Interval { milliseconds: 1000 };
    let adam = "adam:lr=0.5".parse().unwrap();
    let schema = TableSchema { rule: adam, ..TableSchema::dense(f32::DTYPE, ROWS, 1) };
    // Longer pushes than the middle one are recorded themselves.
    let pushes: Vec<Vec<u64>> =
        [15_000, 1 << 14, 70_000].map(|count| (0..count).map(|row| row * 3 + 1).collect()).to_vec();
    let expected = {
        let client = client(data.path(), 1);
        let table = client.create_table::<f32>("t", &kept(schema, interval)).unwrap();
        let pending: Vec<_> = (0..12)
            .map(|at| {
                let keys = &pushes[at % 3];
                let values = vec![at as f32 - 4.5; keys.len()];
                table.push(keys, &values, &PushOptions::default()).unwrap()
            })
            .collect();
        pending.into_iter().for_each(|push| push.wait().unwrap());
        all(&table, &pushes[2])
    };
    let client = client(data.path(), 1);
    let rows = all(&client.open_table::<f32>("t").unwrap(), &pushes[2]);
    assert_same_rows(&rows, &expected, "after a restart");
}

/// The image of a partition is made in one turn, so it must not grow with the table or the interval.
#[test]
fn images_of_one_partition_stay_short() {
    let data = tempfile::tempdir().unwrap();
    let config = || ServerConfig {
        data_dir: Some(data.path().to_owned()),
        partitions: 1,
        memory_len_max: 1 << 30,
        providers: vec![Provider::Shm {}],
        ..ServerConfig::default()
    };
    let (rows, pushes, width) = (500, 64, 128);
    {
        let client = Client::embedded_with(config(), ClientOptions::default()).unwrap();
        let schema = TableSchema::dense(f32::DTYPE, rows * pushes, width);
        let durability = Durability::Interval { milliseconds: 60_000 };
        let table = client.create_table::<f32>("t", &kept(schema, durability)).unwrap();
        let values = vec![1.0; 500 * 128];
        for push in 0..pushes {
            let at = push * rows..(push + 1) * rows;
            table.push(at, &values, &PushOptions::default()).unwrap().wait().unwrap();
        }
        // 16 MiB long before they are due: each record is of less than 1 MiB and one push.
        let json = client.server_statistics(client.map().servers[0].id).unwrap();
        let (_, rest) = json.split_once("\"log_records\":").unwrap();
        let records: u64 = rest.split(',').next().unwrap().parse().unwrap();
        assert!(records >= 14, "{records} records");
    }
    let client = Client::embedded_with(config(), ClientOptions::default()).unwrap();
    let table = client.open_table::<f32>("t").unwrap();
    let values = table.pull(0..rows * pushes, &PullOptions::default()).unwrap().wait().unwrap();
    assert!(values.iter().all(|value| *value == 1.0));
}

#[test]
fn bursts_of_long_pushes_are_kept_and_seen_in_order() {
    let data = tempfile::tempdir().unwrap();
    let (rows, width, bursts) = (200_u64, 128, 12);
    let keys: Vec<u64> = (0..rows).map(|key| key * 3).collect();
    let values = vec![1.0; 200 * 128];
    let expected = {
        let client = client(data.path(), 1);
        let sync = Durability::Sync {};
        let sparse = kept(TableSchema::sparse(f32::DTYPE, width), sync);
        let sparse = client.create_table::<f32>("s", &sparse).unwrap();
        let dense = kept(TableSchema::dense(f32::DTYPE, rows, width), sync);
        let dense = client.create_table::<f32>("d", &dense).unwrap();
        let mut count = 0.0;
        for burst in 0..bursts {
            let (mut pushes, mut pulls) = (Vec::new(), Vec::new());
            for at in 0..12 {
                pushes.push(sparse.push(&keys, &values, &PushOptions::default()).unwrap());
                pushes.push(dense.push(0..rows, &values, &PushOptions::default()).unwrap());
                count += 1.0;
                if (at + burst) % 4 == 0 {
                    pulls.push((count, sparse.pull(&keys, &PullOptions::default()).unwrap()));
                }
            }
            for (count, pull) in pulls {
                assert!(pull.wait().unwrap().iter().all(|value| *value == count), "{burst}");
            }
            pushes.into_iter().for_each(|push| push.wait().unwrap());
        }
        assert_eq!(all(&dense, &[7]), vec![count; width as usize]);
        count
    };
    let client = client(data.path(), 1);
    for name in ["s", "d"] {
        let table = client.open_table::<f32>(name).unwrap();
        let keys = if name == "s" { &keys } else { &(0..rows).collect::<Vec<u64>>() };
        assert!(all(&table, keys).iter().all(|value| *value == expected), "{name}");
    }
}

#[test]
fn a_table_that_cannot_be_stored_is_not_made() {
    let data = tempfile::tempdir().unwrap();
    let schema = kept(TableSchema::dense(i64::DTYPE, 8, 1), Durability::Sync {});
    let client_of = || client(data.path(), 1);
    let first = client_of();
    let kept_table = first.create_table::<i64>("kept", &schema).unwrap();
    // Whoever writes the catalogue anew finds a directory in its way.
    let way = data.path().join("catalogue.new");
    std::fs::create_dir(&way).unwrap();
    assert!(first.create_table::<i64>("t", &schema).is_err());
    assert!(first.open_table::<i64>("t").is_err(), "its rows would be lost");
    kept_table.push(&[3], &[7], &PushOptions::default()).unwrap().wait().unwrap();
    std::fs::remove_dir(&way).unwrap();
    let table = first.create_table::<i64>("t", &schema).unwrap();
    table.push(&[5], &[9], &PushOptions::default()).unwrap().wait().unwrap();
    drop((table, kept_table, first));
    let second = client_of();
    assert_eq!(all(&second.open_table::<i64>("t").unwrap(), &[5]), [9]);
    assert_eq!(all(&second.open_table::<i64>("kept").unwrap(), &[3]), [7]);
}

#[test]
fn another_number_of_shards_takes_everything_over() {
    let data = tempfile::tempdir().unwrap();
    let keys: Vec<u64> = (0..2000).map(|key| key * 7919).collect();
    let mut expected: Option<(Vec<f32>, Vec<f64>)> = None;
    for shards in [2, 1, 3, 3, 4, 2] {
        let client = client(data.path(), shards);
        let rule = "adam:lr=0.01".parse().unwrap();
        let schema = kept(TableSchema::sparse(f32::DTYPE, 3), Durability::Sync {});
        let sparse = client.create_table::<f32>("s", &TableSchema { rule, ..schema }).unwrap();
        let schema =
            kept(TableSchema::dense(f64::DTYPE, 1000, 2), Durability::Interval { milliseconds: 5 });
        let dense = client.create_table::<f64>("d", &schema).unwrap();
        let rows: Vec<u64> = (0..1000).collect();
        if let Some(expected) = &expected {
            assert_same_rows(
                &all(&sparse, &keys),
                &expected.0,
                &format!("sparse, {shards} shards"),
            );
            assert_same_rows(&all(&dense, &rows), &expected.1, &format!("dense, {shards} shards"));
        }
        let gradient: Vec<f32> = (0..6000_u16).map(|at| f32::from(at % 17) - 8.0).collect();
        sparse.push(&keys, &gradient, &PushOptions::default()).unwrap().wait().unwrap();
        dense.push(0..1000, &vec![0.5; 2000], &PushOptions::default()).unwrap().wait().unwrap();
        expected = Some((all(&sparse, &keys), all(&dense, &rows)));
    }
    let newest = || {
        let entries = std::fs::read_dir(data.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.starts_with("shard-")).collect();
        names.sort();
        names
    };
    let client = client(data.path(), 2);
    client.checkpoint(client.map().servers[0].id).unwrap();
    while newest() != ["shard-000004-0000", "shard-000004-0001"] {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_push_that_finds_no_memory_midway_changes_nothing() {
    let data = tempfile::tempdir().unwrap();
    let config = ServerConfig {
        data_dir: Some(data.path().to_owned()),
        memory_len_max: 4 << 20,
        providers: vec![Provider::Shm {}],
        ..ServerConfig::default()
    };
    let client = Client::embedded_with(config, ClientOptions::default()).unwrap();
    let schema = kept(TableSchema::sparse(f32::DTYPE, 4096), Durability::Sync {});
    let table = client.create_table::<f32>("t", &schema).unwrap();
    // Each partition that a key is new to takes a slab of 16 rows: too many for all of these.
    let keys: Vec<u64> = (0..64).collect();
    let values = vec![1.0; keys.len() * 4096];
    for _ in 0..2 {
        let pushed = table.push(&keys, &values, &PushOptions::default()).unwrap().wait();
        assert!(pushed.is_err(), "{pushed:?}");
        assert!(all(&table, &keys).iter().all(|value| *value == 0.0), "a part of it was applied");
    }
    let other = Client::connect(client.server().advertised()).unwrap();
    let table = other.open_table::<f32>("t").unwrap();
    let fits = &keys[..1];
    table.push(fits, &values[..4096], &PushOptions::default()).unwrap().wait().unwrap();
    assert_same_rows(&all(&table, fits), &values[..4096], "keys that fit");
}
