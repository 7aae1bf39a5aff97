//! Workers of tables that are kept on disk: after kill -9 their clocks go on where they were
//! acknowledged, so that nobody runs ahead of who is slower, and nobody waits for what was finished.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;
use windlass_client::{
    Client, ClientOptions, Consistency, Durability, Element, PullOptions, PushOptions,
    RequestError, Table, TableSchema, WorkerClock, WorkerRank,
};

use crate::process::{Process, Program};

const PARTITIONS: usize = 4;
const ROWS: u64 = 64;
const TAU: u64 = 1;
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a pull waits that must not succeed.
const HELD_BACK: Duration = Duration::from_secs(2);

fn worker(process: &Process, rank: u32, durability: Durability) -> (Client, Table<f64>) {
    let options = ClientOptions {
        rank: Some(WorkerRank(rank)),
        timeout: if rank == 0 { HELD_BACK } else { PATIENCE },
        retry_for: Duration::ZERO,
        ..ClientOptions::default()
    };
    let client = Client::connect_with(&process.address, options).unwrap();
    let schema = TableSchema {
        consistency: Consistency::Bounded { tau: TAU },
        durability,
        ..TableSchema::dense(f64::DTYPE, ROWS, 1)
    };
    let table = client.create_table::<f64>("bounded", &schema).unwrap();
    (client, table)
}

fn finish_round(client: &Client, table: &Table<f64>) {
    let ones = [1.0; ROWS as usize];
    table.push(0..ROWS, &ones, &PushOptions::default()).unwrap().wait().unwrap();
    client.wait(client.advance_clock().unwrap()).unwrap();
}

fn pull(table: &Table<f64>) -> Result<Vec<f64>, RequestError> {
    table.pull(0..ROWS, &PullOptions::default())?.wait()
}

/// The clocks that checkpoint and log hold, of two workers, by partition.
fn kept(program: &Program) -> BTreeMap<u64, [u64; 2]> {
    let mut kept = BTreeMap::<u64, [u64; 2]>::new();
    let mut note = |line: &Value| {
        let seen = line["workers"].as_array().into_iter().flatten();
        for seen in seen.filter(|seen| seen["live"] == true) {
            let (rank, clock) = (seen["worker"].as_u64().unwrap(), seen["clock"].as_u64().unwrap());
            let known = kept.entry(line["partition"].as_u64().unwrap()).or_default();
            let known = &mut known[usize::try_from(rank).unwrap()];
            *known = clock.max(*known);
        }
    };
    for line in program.run(&["inspect", "checkpoints", "data", "--blocks"]) {
        note(&line);
    }
    for line in program.run(&["inspect", "log", "data", "--frames"]) {
        if line["kind"] == "clock_advance" || line["kind"] == "engine" {
            note(&line);
        }
    }
    kept
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} never came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn run(folder: &Path, durability: Durability) {
    let options = ["--shards", "2", "--partitions", "4", "--worker-timeout", "600000"];
    let program = Program::new(folder, &options);
    let mut process = program.start(&[]).unwrap();
    let (fast, fasts) = worker(&process, 0, durability);
    let (slow, slows) = worker(&process, 1, durability);
    fasts.wait_for_workers(2).unwrap();
    let mut clocks = [TAU + 1, 0];
    (0..=TAU).for_each(|_| finish_round(&fast, &fasts));
    drop((fasts, slows));
    let mut clients = vec![fast, slow];
    for life in 1..5 {
        let is_kept = || {
            let kept = kept(&program);
            kept.len() == PARTITIONS && kept.values().all(|kept| *kept == clocks)
        };
        if life == 2 {
            // Of this one, nothing is in the log; of the next life, both hold something.
            clients[0].checkpoint(clients[0].map().servers[0].id).unwrap();
            eventually("a checkpoint", || {
                let listed = program.run(&["inspect", "checkpoints", "data"]);
                listed.iter().all(|shard| !shard["checkpoints"].as_array().unwrap().is_empty())
            });
        }
        if matches!(durability, Durability::Interval { .. }) {
            eventually("clocks on disk", is_kept);
        }
        process.kill();
        for client in clients.drain(..) {
            client.vanish();
        }
        assert!(is_kept(), "{:?}, not {clocks:?} in life {life}", kept(&program));

        process = program.start(&[]).unwrap();
        let (fast, fasts) = worker(&process, 0, durability);
        assert_eq!(fast.clock(), WorkerClock(clocks[0]), "life {life}");
        // The other one has not come back, and is waited for.
        let behind = pull(&fasts).unwrap_err();
        assert!(
            matches!(behind, RequestError::Behind { slowest, needed, .. }
                if slowest == WorkerClock(clocks[1]) && needed == WorkerClock(clocks[1] + 1)),
            "{behind} in life {life}"
        );
        let (slow, slows) = worker(&process, 1, durability);
        assert_eq!(slow.clock(), WorkerClock(clocks[1]), "life {life}");
        finish_round(&slow, &slows);
        clocks[1] += 1;
        let pushed = (clocks[0] + clocks[1]) as f64;
        assert_eq!(pull(&fasts).unwrap(), [pushed; ROWS as usize], "life {life}");
        finish_round(&fast, &fasts);
        clocks[0] += 1;
        drop((fasts, slows));
        clients.extend([fast, slow]);
    }
}

#[test]
fn clocks_of_synced_tables_go_on_after_kill_nine() {
    run(tempfile::tempdir().unwrap().path(), Durability::Sync {});
}

#[test]
fn clocks_of_interval_tables_go_on_after_kill_nine() {
    run(tempfile::tempdir().unwrap().path(), Durability::Interval { milliseconds: 5 });
}
