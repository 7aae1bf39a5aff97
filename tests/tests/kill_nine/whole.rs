//! How much of a push is whole after a kill of server and clients together, when nobody sends it again: each
//! part of 1 MiB at a server alone, each partition's rows where there are replicas.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use windlass_client::{Client, Element, PullOptions, PushOptions, TableSchema};
use windlass_tests::crash::random::Random;

use super::{connect, durable, number, process::Program};

const ROWS: u64 = 8192;
const WIDTH: u32 = 64;
/// What the client sends at once: 1 MiB of values.
const PART_ROWS: usize = 2048;
const PARTITIONS: usize = 64;
const PUSHERS: u64 = 3;

/// What one client knows of its pushes of each part: of how many it was told, and how many it began.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    acknowledged: i64,
    begun: i64,
}

/// Pushes ones to all rows at once, 4 MiB, until the server is gone.
fn load(address: &str, life: u64, all: &AtomicU64) -> Sent {
    let mut sent = Sent::default();
    let Some(client) = connect(address, life) else { return sent };
    let Ok(table) = client.open_table::<i64>("whole") else { return sent };
    let ones = vec![1; ROWS as usize * WIDTH as usize];
    loop {
        sent.begun += 1;
        let push = table.push(0..ROWS, &ones, &PushOptions::default());
        if push.and_then(|push| push.wait()).is_err() {
            return sent;
        }
        sent.acknowledged += 1;
        all.fetch_add(1, Ordering::Relaxed);
    }
}

/// Every row's value, which all of its values are.
fn rows_of(client: &Client) -> Vec<i64> {
    let table = client.open_table::<i64>("whole").unwrap();
    let values = table.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
    let rows = values.chunks_exact(WIDTH as usize);
    rows.map(|row| {
        assert!(row.iter().all(|value| *value == row[0]), "a row is torn: {row:?}");
        row[0]
    })
    .collect()
}

/// Kills a server of these options again and again; `unit` rows are of one piece.
fn run(options: &[&'static str], kills: u64, unit: usize) {
    let seed = number("WINDLASS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let folder = tempfile::tempdir().unwrap();
    let program = Program::new(folder.path(), options);
    let mut random = Random::new(seed);
    let mut before = vec![0; ROWS as usize];
    let mut sent = Vec::new();
    let (mut acknowledged, mut uneven) = (0, 0);
    for life in 0..=kills {
        let process = program.start(&[]).unwrap();
        let client = connect(&process.address, life).unwrap();
        if life == 0 {
            let schema = durable(TableSchema::dense(i64::DTYPE, ROWS, WIDTH));
            client.create_table::<i64>("whole", &schema).unwrap();
        }
        let rows = rows_of(&client);
        let least: i64 = sent.iter().map(|sent: &Sent| sent.acknowledged).sum();
        let most: i64 = sent.iter().map(|sent: &Sent| sent.begun).sum();
        for (at, (row, old)) in rows.iter().zip(&before).enumerate() {
            let known = *old + least..=*old + most;
            assert!(known.contains(row), "row {at}: {row}, not of {known:?}; seed {seed}");
        }
        for (at, piece) in rows.chunks_exact(unit).enumerate() {
            let is_whole = piece.iter().all(|row| *row == piece[0]);
            assert!(is_whole, "piece {at} after {life} kills, seed {seed}: {piece:?}");
        }
        uneven += u64::from(rows.iter().any(|row| *row != rows[0]));
        acknowledged += least;
        before = rows;
        drop(client);
        if life == kills {
            break;
        }
        let all = Arc::new(AtomicU64::new(0));
        let pushers: Vec<_> = (0..PUSHERS)
            .map(|_| {
                let (address, all) = (process.address.clone(), Arc::clone(&all));
                std::thread::spawn(move || load(&address, life, &all))
            })
            .collect();
        let begun = Instant::now();
        while all.load(Ordering::Relaxed) == 0 && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(random.below(200)));
        process.kill();
        sent = pushers.into_iter().map(|pusher| pusher.join().unwrap()).collect();
    }
    eprintln!("{kills} kills, {acknowledged} pushes acknowledged, {uneven} left parts of a push");
    assert!(acknowledged > 0, "nothing was ever acknowledged");
}

#[test]
fn each_part_of_a_push_is_whole_after_kill_nine() {
    let kills = number("WINDLASS_KILLS").unwrap_or(4);
    run(&["--shards", "1", "--partitions", "64"], kills, PART_ROWS);
}

#[test]
fn each_partition_of_a_push_is_whole_after_kill_nine_of_all_replicas() {
    let options =
        ["--shards", "1", "--partitions", "64", "--replicas", "2", "--servers", "2", "--together"];
    // Servers that share a process come back one after the other, which takes seconds.
    let kills = number("WINDLASS_KILLS").unwrap_or(4).div_ceil(8);
    run(&options, kills, ROWS as usize / PARTITIONS);
}
