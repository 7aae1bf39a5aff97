//! `cargo run --release -p windlass-tests --example simulate -- --seeds 10000 [--start N] [--json]
//! [--no-shrink] [--trace] [--mutation NAME] [--threads N] [--mode
//! pushes|sessions|rounds|workers|gray|overlap|mixed|frozen|store] [--clients MAX] [--one-copy] [--settles] [--workers]`: what `cargo xtask simulate` runs.

#![allow(clippy::print_stdout, reason = "a tool")]

use std::process::ExitCode;

use windlass_tests::simulation::{Mode, Mutation, Options, simulate};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut start, mut seeds, mut json) = (0_u64, 1_000_u64, false);
    let mut options = Options::default();
    let number = |text: Option<String>| -> u64 {
        text.and_then(|text| text.parse().ok()).expect("a number follows the flag")
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seeds" => seeds = number(arguments.next()),
            "--start" => start = number(arguments.next()),
            "--threads" => options.threads = number(arguments.next()).try_into().expect("small"),
            "--clients" => {
                options.clients_max = number(arguments.next()).try_into().expect("small");
            }
            "--one-copy" => options.one_copy = true,
            "--settles" => options.settles = true,
            "--workers" => options.workers = true,
            "--json" => json = true,
            "--trace" => options.trace = true,
            "--mode" => {
                options.mode = match arguments.next().expect("a name follows --mode").as_str() {
                    "pushes" => Mode::Pushes,
                    "sessions" => Mode::Sessions,
                    "rounds" => Mode::Rounds,
                    "workers" => Mode::Workers,
                    "gray" => Mode::Gray,
                    "overlap" => Mode::Overlap,
                    "mixed" => Mode::Mixed,
                    "frozen" => Mode::Frozen,
                    "store" => Mode::Store,
                    other => panic!("there is no mode {other}"),
                }
            }
            "--no-shrink" => options.shrink = false,
            "--mutation" => {
                let name = arguments.next().expect("a name follows --mutation");
                let all = Mutation::ALL.into_iter().chain(Mutation::OF_SESSIONS);
                let all = all
                    .chain(Mutation::OF_ROUNDS)
                    .chain(Mutation::OF_GRAY)
                    .chain(Mutation::OF_WORKERS);
                let all = all.chain(Mutation::OF_MIXED);
                let all = all.chain(Mutation::OF_OVERLAP).chain(Mutation::OF_SETTLING);
                let mut all = all.chain(Mutation::OF_FROZEN).chain(Mutation::OF_STORE);
                let found = all.find(|one| format!("{one:?}") == name);
                options.mutation = Some(found.expect("the name of a mutation"));
            }
            other => panic!("unknown flag {other}: see the head of tests/examples/simulate.rs"),
        }
    }
    let began = std::time::Instant::now();
    let report = simulate(start..start + seeds, &options);
    if json {
        println!("{}", report.to_json());
    } else {
        println!("{report:#?}");
        println!("{:.0} seeds per second", seeds as f64 / began.elapsed().as_secs_f64());
    }
    if let Some(failure) = &report.first_failure {
        eprintln!("{failure}");
    }
    if report.failed_seeds.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
