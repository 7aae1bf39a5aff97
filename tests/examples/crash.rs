//! Cuts the power at IO points of a workload on a simulated disk and prints what was lost, as JSON.
//! Usage: `cargo run --release -p windlass-tests --example crash -- [POINTS] [SEED]`.
#![allow(clippy::print_stdout, reason = "printing is what this tool does")]

use std::process::ExitCode;

use windlass_tests::crash::{Report, crash};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (points, seed) = match (arguments.next(), arguments.next()) {
        (None, None) => (1000, 1),
        (Some(Ok(points)), None) => (points, 1),
        (Some(Ok(points)), Some(Ok(seed))) => (points, seed),
        _ => {
            eprintln!("usage: crash [POINTS] [SEED], both numbers");
            return ExitCode::FAILURE;
        }
    };
    let Report { points, promised, checkpoints, lost, doubled, silent, refused } =
        crash(points, seed);
    println!(
        "{{\"points\": {points}, \"seed\": {seed}, \"promised\": {promised}, \
         \"checkpoints\": {checkpoints}, \"lost\": {lost}, \"doubled\": {doubled}, \
         \"silent\": {silent}, \"refused\": {refused}}}"
    );
    if lost + doubled + silent + refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
