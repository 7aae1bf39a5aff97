//! kill -9 of a real server under load, at random moments: every acknowledged push is there exactly
//! once after the restart, every other at most once, and optimiser state is a serial oracle's bit
//! for bit. `WINDLASS_KILLS` says how many kills, `WINDLASS_SEED` repeats a run's choices.
#![allow(
    clippy::cast_possible_truncation,
    clippy::type_complexity,
    reason = "an oracle computes as the kernels do, and its numbers are small"
)]
#![allow(clippy::unwrap_used, missing_docs)]

mod clocks;
mod damage;
mod faults;
mod interval;
mod ledger;
mod oracle;
mod process;
mod program;
mod regrouped;
mod trained;
mod vanished;
mod whole;
mod worker;

use std::time::{Duration, Instant};

use windlass_client::{Client, ClientOptions, Durability, Provider, TableSchema};
use windlass_tests::crash::random::Random;

use interval::Interval;
use ledger::{Found, Ledger};
use process::Program;
use trained::Trained;

const PUSHERS: u64 = 2;

/// Few partitions, so that pieces of checkpoints hold many keys.
const OPTIONS: [&str; 4] = ["--shards", "2", "--partitions", "4"];

#[test]
fn acknowledged_pushes_survive_kill_nine_exactly_once() {
    let kills: u64 = number("WINDLASS_KILLS").unwrap_or(10);
    let seed = number("WINDLASS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("WINDLASS_SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let program = Program::new(folder.path(), &OPTIONS);
    let mut random = Random::new(seed);
    let (mut ledger, mut trained, mut found) =
        (Ledger::default(), Trained::default(), Found::default());
    let (mut interval, mut sent) = (Interval::default(), interval::Sent::default());
    let (mut pushes, mut wrong_rows, mut trained_pushes) = (Vec::new(), 0, 0);
    let (mut recovering, mut slowest_start) = (Duration::ZERO, Duration::ZERO);
    for life in 0..=kills {
        if life > 0 && random.one_in(5) {
            // Also while it recovers: that has to be repeatable.
            let starting = program.spawn(&[]);
            std::thread::sleep(Duration::from_millis(random.below(60)));
            starting.kill();
        }
        let started = Instant::now();
        let process = program.start(&[]).unwrap();
        slowest_start = slowest_start.max(started.elapsed());
        recovering += started.elapsed();
        let client = connect(&process.address, life).unwrap();
        if life == 0 {
            Ledger::create(&client);
            Trained::create(&client);
            Interval::create(&client);
        }
        ledger.verify(&client, &mut found);
        wrong_rows += trained.verify(&client, &pushes);
        wrong_rows += interval.verify(&client, &sent);
        drop(client);
        if wrong_rows + found.lost + found.doubled + found.risen > 0 {
            let kept = folder.keep();
            panic!("{wrong_rows} wrong rows, {found:?} after {life} kills, seed {seed}: {kept:?}");
        }
        if life == kills {
            break;
        }
        let address = process.address.clone();
        let ledgers: Vec<_> = (0..PUSHERS)
            .map(|_| {
                let (address, seed, first) = (address.clone(), random.word(), ledger.reserve());
                std::thread::spawn(move || ledger::load(&address, life, seed, first))
            })
            .collect();
        let trainer = {
            let (address, seed) = (address.clone(), random.word());
            std::thread::spawn(move || trained::load(&address, life, seed))
        };
        let hot = std::thread::spawn(move || interval::load(&address, life));
        std::thread::sleep(Duration::from_millis(30 + random.below(400)));
        process.kill();
        for pusher in ledgers {
            ledger.note(pusher.join().unwrap(), &mut found);
        }
        pushes = trainer.join().unwrap();
        sent = hot.join().unwrap();
        interval.note(&sent);
        trained_pushes += pushes.len();
    }
    eprintln!(
        "{kills} kills: {} keys acknowledged, all there once; {} unanswered, of which {} are there; \
         {trained_pushes} pushes of adagrad and adam as the oracle has them, {} rows by sums; starts \
         took {:?} on average, {slowest_start:?} at most",
        found.acknowledged,
        found.unanswered,
        found.unanswered_present,
        trained.summed,
        recovering / u32::try_from(kills + 1).unwrap(),
    );
    eprintln!(
        "interval:5: {} pushes acknowledged, whole ones in every partition; of {} per kill and \
         partition the last 5 ms and a write are gone",
        interval.counted,
        interval.forgotten / (4 * i64::try_from(kills.max(1)).unwrap()),
    );
    assert!(found.acknowledged > 0, "nothing was ever acknowledged");
    assert!(trained_pushes > 0, "nothing was ever pushed to the trained tables");
}

/// Shared memory and TCP in turns; `None` when the server is gone already.
fn connect(address: &str, life: u64) -> Option<Client> {
    let provider = if life.is_multiple_of(2) { Provider::Shm {} } else { Provider::Tcp {} };
    let options = ClientOptions {
        providers: vec![provider],
        timeout: Duration::from_secs(10),
        // A client ends with its server, so that every life of it begins with what it found.
        retry_for: Duration::ZERO,
        ..ClientOptions::default()
    };
    Client::connect_with(address, options).ok()
}

fn durable(schema: TableSchema) -> TableSchema {
    TableSchema { durability: Durability::Sync {}, ..schema }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}
