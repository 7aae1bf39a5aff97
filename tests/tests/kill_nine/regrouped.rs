//! A server that groups its partitions anew removes the directories of the grouping before, and is killed
//! while it does. What is left of them is no directory of anybody's.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use windlass_client::{Element, PullOptions, PushOptions, ServerId, TableSchema};

use crate::{connect, durable, process::Program};

const ROWS: u64 = 64;
/// Numbers of shards in turn.
const SHARDS: [&str; 3] = ["3", "2", "4"];
const LIVES: usize = 6;
/// Files in each directory besides the server's own, so that removing one takes a while.
const OTHERS: usize = 5_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Names below a data directory that begin so.
fn names(data: &Path, beginning: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().file_name());
    let names = entries.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(beginning)).collect()
}

#[test]
fn a_kill_while_old_directories_are_removed_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::new(folder.path(), &["--partitions", "16"]);
    let data = program.data();
    let mut inside = 0;
    for life in 0..LIVES {
        let process = program.start(&["--shards", SHARDS[life % SHARDS.len()]]).unwrap();
        let client = connect(&process.address, life as u64).unwrap();
        if life == 0 {
            client
                .create_table::<i64>("t", &durable(TableSchema::dense(i64::DTYPE, ROWS, 1)))
                .unwrap();
        }
        let table = client.open_table::<i64>("t").unwrap();
        let rows = table.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
        assert_eq!(rows, [life as i64; ROWS as usize], "life {life}");
        table.push(0..ROWS, &[1; ROWS as usize], &PushOptions::default()).unwrap().wait().unwrap();
        // After the first of a grouping the directories of the one before go.
        client.checkpoint(ServerId(0)).unwrap();
        drop((table, client));
        let from = Instant::now();
        // On a busy machine the removal may be over before it is seen.
        let shards: usize = SHARDS[life % SHARDS.len()].parse().unwrap();
        let is_over = || names(&data, "shard-").len() == shards;
        while names(&data, "removed-").is_empty() && !is_over() {
            assert!(from.elapsed() < PATIENCE, "nothing is removed: {}", process.said());
        }
        process.kill();
        inside += usize::from(!names(&data, "removed-").is_empty());
        for name in names(&data, "shard-") {
            for at in 0..OTHERS {
                fs::write(data.join(&name).join(format!("other-{at}")), []).unwrap();
            }
        }
    }
    assert!(inside > 0, "no kill came while anything was removed");
}
