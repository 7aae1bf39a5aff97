//! Cuts the power at IO points of a workload on a simulated disk and says what was lost.
//! `cargo xtask crash [--points N] [--seed S] [--json]`.
#![allow(clippy::print_stdout, reason = "printing is what this tool does")]

use std::process::ExitCode;

use windlass_tests::crash::{Report, crash};

const USAGE: &str = "usage: crash [--points N] [--seed S] [--json]";

struct Options {
    points: u64,
    seed: u64,
    json: bool,
}

fn main() -> ExitCode {
    let Some(Options { points, seed, json }) = options() else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let Report { points, promised, checkpoints, lost, doubled, silent, refused } =
        crash(points, seed);
    if json {
        println!(
            "{{\"points\": {points}, \"seed\": {seed}, \"promised\": {promised}, \
             \"checkpoints\": {checkpoints}, \"lost\": {lost}, \"doubled\": {doubled}, \
             \"silent\": {silent}, \"refused\": {refused}}}"
        );
    } else {
        println!(
            "{points} power cuts from seed {seed}: {promised} pushes promised to be on disk, \
             {checkpoints} checkpoints; {lost} pushes lost, {doubled} doubled, {silent} wrong \
             states unreported, {refused} partitions refused without reason"
        );
    }
    if lost + doubled + silent + refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn options() -> Option<Options> {
    let mut options = Options { points: 1000, seed: 1, json: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--points" => options.points = arguments.next()?.parse().ok()?,
            "--seed" => options.seed = arguments.next()?.parse().ok()?,
            "--json" => options.json = true,
            _ => return None,
        }
    }
    Some(options)
}
