//! Clients that only pull, out of memory that they share with their server: when it is killed nothing
//! fails by itself, and the rows can be read as they were last.

use std::time::{Duration, Instant};

use windlass_client::{
    Client, ClientOptions, Element, Provider, PullOptions, PushOptions, RequestError, Table,
    TableSchema,
};

use super::processes::{Cluster, eventually};
use super::{REPLICAS, is_whole};

/// In several blocks and partitions.
const ROWS: usize = 4096;

const PATIENCE: Duration = Duration::from_secs(120);

fn connect(address: &str, retry_for: Duration) -> Client {
    let options = ClientOptions {
        providers: vec![Provider::Shm {}],
        retry_for,
        timeout: PATIENCE,
        ..ClientOptions::default()
    };
    Client::connect_with(address, options).unwrap()
}

fn push(table: &Table<i64>) {
    let ones = [1; ROWS];
    table.push(0..ROWS as u64, &ones, &PushOptions::default()).unwrap().wait().unwrap();
}

/// A short pull and a long one.
fn pull(table: &Table<i64>) -> Result<[i64; 2], RequestError> {
    let (mut first, mut all) = ([0], [0; ROWS]);
    table.pull_into(0..1, &mut first, &PullOptions::default())?;
    table.pull_into(0..ROWS as u64, &mut all, &PullOptions::default())?;
    assert!(all.iter().all(|value| *value == all[0]), "nothing is pushed meanwhile");
    Ok([first[0], all[0]])
}

#[test]
fn who_only_pulls_sees_what_was_acknowledged_after_its_servers_were_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), &["--replicas", "3", "--partitions", "4"]);
    for _ in 0..REPLICAS {
        cluster.add_server();
    }
    let await_whole = |cluster: &Cluster| {
        eventually("three servers have all copies", || {
            let map = cluster.map();
            (is_whole(&map), map)
        });
    };
    await_whole(&cluster);
    let writer = connect(&cluster.addresses(), PATIENCE);
    let pushed = writer.create_table("t", &TableSchema::dense(i64::DTYPE, ROWS as u64, 1)).unwrap();
    let reader = connect(&cluster.addresses(), PATIENCE);
    let pulled = reader.open_table::<i64>("t").unwrap();
    let mut acknowledged = 0;
    for victim in 0..REPLICAS as u64 {
        for _ in 0..10 {
            push(&pushed);
            acknowledged += 1;
            assert_eq!(pull(&pulled).unwrap(), [acknowledged; 2]);
        }
        cluster.kill(victim);
        push(&pushed);
        acknowledged += 1;
        assert_eq!(pull(&pulled).unwrap(), [acknowledged; 2], "server {victim} was killed");
        cluster.add_server();
        await_whole(&cluster);
    }
}

#[test]
fn who_only_pulls_sees_what_was_acknowledged_after_its_server_was_stopped_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), &["--replicas", "3", "--partitions", "4"]);
    for _ in 0..REPLICAS {
        cluster.add_server();
    }
    eventually("three servers have all copies", || {
        let map = cluster.map();
        (is_whole(&map), map)
    });
    let writer = connect(&cluster.addresses(), PATIENCE);
    let pushed = writer.create_table("t", &TableSchema::dense(i64::DTYPE, ROWS as u64, 1)).unwrap();
    let reader = connect(&cluster.addresses(), PATIENCE);
    let pulled = reader.open_table::<i64>("t").unwrap();
    push(&pushed);
    assert_eq!(pull(&pulled).unwrap(), [1; 2]);
    let impatient = connect(&cluster.addresses(), Duration::ZERO);
    let once = impatient.open_table::<i64>("t").unwrap();
    assert_eq!(pull(&once).unwrap(), [1; 2]);
    // Of four partitions each server is the tail of some.
    for (stopped, acknowledged) in [(0, 2), (1, 3)] {
        cluster.stop_for_a_while(stopped);
        push(&pushed);
        let since = Instant::now();
        let mut rows = [0; ROWS];
        while rows != [acknowledged; ROWS] {
            assert!(since.elapsed() < Duration::from_secs(5), "it reads a stopped server's memory");
            pulled.pull_into(0..ROWS as u64, &mut rows, &PullOptions::default()).unwrap();
        }
        println!("server {stopped} was stopped: seen after {:?}", since.elapsed());
        // Who tries nothing again is told, and not given what the server had.
        while once.pull_into(0..ROWS as u64, &mut rows, &PullOptions::default()).is_ok() {
            assert!(
                since.elapsed() < Duration::from_secs(5),
                "old rows are given without an error"
            );
        }
        assert_eq!(pull(&pulled).unwrap(), [acknowledged; 2]);
        cluster.kill(stopped);
    }
}

#[test]
fn who_only_pulls_is_told_that_the_only_copy_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), &["--partitions", "4"]);
    let number = cluster.add_server();
    let client = connect(cluster.address(number), Duration::ZERO);
    let table = client.create_table("t", &TableSchema::dense(i64::DTYPE, ROWS as u64, 1)).unwrap();
    push(&table);
    assert_eq!(pull(&table).unwrap(), [1; 2]);
    cluster.kill(number);
    let killed = Instant::now();
    let error = loop {
        match pull(&table) {
            Ok(_) => assert!(killed.elapsed() < PATIENCE, "it reads the dead server's memory"),
            Err(error) => break error,
        }
    };
    let is_told = matches!(
        error,
        RequestError::ServerGone { .. } | RequestError::PartitionUnavailable { .. }
    );
    assert!(is_told, "{error:?}");
}
