//! Whole clusters of the real state machines under one seed: coordinators and their store, servers
//! with leases, replicas and disks, clients that push exactly once and read one-sidedly, a network
//! that delays, breaks and partitions, clocks that drift. Checks the invariants of ARCHITECTURE
//! section 10 that concern chains; a failed seed is printed, shrunk and kept as a fixture.

mod check;
mod client;
mod coordinators;
mod copy;
mod faults;
mod gray;
mod lives;
mod memory;
mod message;
mod mixed;
mod network;
mod options;
mod overlap;
mod random;
mod registry;
mod rounds;
pub mod scale;
mod schedule;
mod server;
mod sessions;
mod settling;
mod shrink;
mod store;
mod strong_reads;
mod turn;
mod worker;
mod world;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub use gray::{Gray, Reach, Trouble};
pub use options::{Mode, Mutation, Options};
pub use schedule::{Fault, FaultKind, Schedule};
pub use shrink::shrink;
pub use world::Outcome;

/// What a range of seeds gave. `cargo xtask simulate --json` prints these fields.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Seeds run.
    pub seeds: u64,
    /// Events handled and inputs given to replicas.
    pub steps: u64,
    /// Strong reads checked.
    pub reads: u64,
    /// Acknowledged pushes lost.
    pub lost: u64,
    /// Pushes applied twice.
    pub doubled: u64,
    /// Reads that were not current, or claims that were not true.
    pub stale: u64,
    /// Replicas that differed.
    pub divergent: u64,
    /// Pushes never acknowledged although everything was healed.
    pub stuck: u64,
    /// Runs that ended in a failed assertion of the state machines.
    pub panicked: u64,
    /// Sessions that were forgotten, and pushes that clients gave up for that.
    pub expired: u64,
    /// See `expired`.
    pub given_up: u64,
    /// Rounds closed at heads.
    pub rounds: u64,
    /// Pushes that came too late for their round.
    pub late: u64,
    /// Times a partition got another head.
    pub moved: u64,
    /// Pushes that were lost as they may be.
    pub excused: u64,
    /// The seeds in which anything was found, lowest first.
    pub failed_seeds: Vec<u64>,
    /// What was found in the first of them, shrunk if asked.
    pub first_failure: Option<String>,
}

/// Runs one seed.
#[must_use]
pub fn run_seed(seed: u64, options: &Options) -> Outcome {
    run_schedule(seed, &Schedule::of(seed, options), options)
}

/// Runs one seed's chances with a schedule of one's own.
#[must_use]
pub fn run_schedule(seed: u64, schedule: &Schedule, options: &Options) -> Outcome {
    let run = || world::World::new(seed, schedule, options).run();
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().cloned();
        let text = text.or_else(|| cause.downcast_ref::<&str>().map(ToString::to_string));
        let note = Some(format!("an assertion failed: {}", text.unwrap_or_default()));
        Outcome { panicked: 1, note, ..Outcome::default() }
    })
}

/// Runs all `seeds` on `options.threads` threads.
#[must_use]
pub fn simulate(seeds: Range<u64>, options: &Options) -> Report {
    let next = AtomicU64::new(seeds.start);
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run_seed(seed, options);
                    let mut report = report.lock().expect("no thread panics holding it");
                    report.add(seed, &outcome);
                }
            });
        }
    });
    let mut report = report.into_inner().expect("no thread panicked holding it");
    report.failed_seeds.sort_unstable();
    if let Some(&seed) = report.failed_seeds.first() {
        report.first_failure = Some(if options.shrink {
            shrink(seed, options)
        } else {
            format!("seed {seed}: {}", run_seed(seed, options).note.unwrap_or_default())
        });
    }
    report
}

impl Report {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.seeds += 1;
        self.steps += outcome.steps;
        self.reads += outcome.reads;
        self.expired += outcome.expired;
        self.given_up += outcome.given_up;
        self.rounds += outcome.rounds;
        self.late += outcome.late;
        self.moved += outcome.moved;
        self.excused += outcome.excused;
        self.lost += outcome.lost;
        self.doubled += outcome.doubled;
        self.stale += outcome.stale;
        self.divergent += outcome.divergent;
        self.stuck += outcome.stuck;
        self.panicked += outcome.panicked;
        if !outcome.is_clean() {
            self.failed_seeds.push(seed);
        }
    }

    /// The report as one line of JSON, with the keys that tools rely on.
    #[must_use]
    pub fn to_json(&self) -> String {
        let failed: Vec<String> = self.failed_seeds.iter().map(u64::to_string).collect();
        format!(
            "{{\"seeds\":{},\"steps\":{},\"reads\":{},\"lost\":{},\"doubled\":{},\"stale\":{},\"divergent\":{},\"stuck\":{},\"panicked\":{},\"expired\":{},\"given_up\":{},\"rounds\":{},\"late\":{},\"moved\":{},\"excused\":{},\"failed_seeds\":[{}]}}",
            self.seeds,
            self.steps,
            self.reads,
            self.lost,
            self.doubled,
            self.stale,
            self.divergent,
            self.stuck,
            self.panicked,
            self.expired,
            self.given_up,
            self.rounds,
            self.late,
            self.moved,
            self.excused,
            failed.join(",")
        )
    }
}
