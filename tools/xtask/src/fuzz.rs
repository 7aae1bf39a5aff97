//! `cargo xtask fuzz`: every decoder on bytes that a fuzzer finds, for a while each, by cargo-fuzz.
//! `cargo test` gives the same decoders seeded bytes; this is the open-ended search.

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use crate::{counts::Counts, need::Need};

const FOLDER: &str = "tests/fuzz";

#[derive(Debug, clap::Args)]
pub(crate) struct FuzzArguments {
    /// How long each target runs.
    #[arg(long, value_name = "N", default_value_t = 30)]
    seconds: u64,
    /// Only these (names of files in tests/fuzz/fuzz_targets); all of them if none is named.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

pub(crate) fn fuzz(arguments: &FuzzArguments) -> ExitCode {
    if let Err(reason) = Need::CargoTool("cargo-fuzz").meet() {
        eprintln!("xtask: {reason}");
        return ExitCode::FAILURE;
    }
    let known = match targets() {
        Ok(known) => known,
        Err(error) => {
            eprintln!("xtask: cannot list {FOLDER}/fuzz_targets: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(unknown) = arguments.targets.iter().find(|target| !known.contains(target)) {
        eprintln!("xtask: there is no target {unknown}; there are {}", known.join(", "));
        return ExitCode::FAILURE;
    }
    let chosen = if arguments.targets.is_empty() { &known } else { &arguments.targets };
    let mut total = Counts::default();
    for target in chosen {
        eprintln!("--- {target}");
        if run(target, arguments.seconds) {
            total.passed += 1;
        } else {
            total.failed += 1;
            eprintln!("    {target} FAILED: what it failed on is in {FOLDER}/artifacts/{target}");
        }
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Names of the targets, sorted.
fn targets() -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for file in Path::new(FOLDER).join("fuzz_targets").read_dir()? {
        if let Some(name) = file?.path().file_stem().and_then(|stem| stem.to_str()) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn run(target: &str, seconds: u64) -> bool {
    let mut command = Command::new("cargo");
    command
        .args(["fuzz", "run", "--fuzz-dir", FOLDER, "--target-dir", "target/fuzz", target, "--"])
        .arg(format!("-max_total_time={seconds}"))
        .args(["-print_final_stats=1", "-verbosity=0"])
        // The flags of the sanitizer are unstable: this opens them on the stable compiler.
        .env("RUSTC_BOOTSTRAP", "1");
    match command.status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("xtask: cannot start cargo fuzz: {error}");
            false
        }
    }
}
