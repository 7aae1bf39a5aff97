//! `cargo xtask sanitize`: transport and engine tests under AddressSanitizer and ThreadSanitizer.
//! The first is an unstable flag, which RUSTC_BOOTSTRAP opens on the stable compiler. The second sees
//! how threads synchronise only if the standard library is instrumented too, so it takes a nightly
//! compiler, which builds that from its sources. Both must also see memory come and go: rustix calls
//! the kernel past them, so that a mapping at the address of one long gone looked like a race between
//! two tests that share nothing; here it goes through the C library, which they intercept.

use std::process::{Command, ExitCode};

use crate::{
    counts::Counts,
    need::Need,
    passed::cargo,
    runner::{Outcome, Step},
};

#[derive(Debug, clap::Args)]
pub(crate) struct SanitizeArguments {
    /// Only this one.
    #[arg(long, value_parser = ["address", "thread"])]
    only: Option<String>,
}

const PACKAGES: [&str; 2] = ["windlass-transport", "windlass-engine"];
const STEPS: [Step; 2] = [
    Step {
        name: "address",
        about: "transport and engine tests under AddressSanitizer",
        minutes_max: 25,
        needs: &[],
        command: || {
            let mut command = cargo(&[]);
            sanitize_with(&mut command, "address", &[]);
            command.env("RUSTC_BOOTSTRAP", "1");
            command.env("ASAN_OPTIONS", "detect_stack_use_after_return=1:detect_leaks=1");
            command
        },
    },
    Step {
        name: "thread",
        about: "transport and engine tests under ThreadSanitizer",
        minutes_max: 25,
        needs: &[Need::Nightly],
        command: || {
            let mut command = Command::new("rustup");
            command.args(["run", "nightly", "cargo"]);
            sanitize_with(&mut command, "thread", &["-Zbuild-std"]);
            command.env("TSAN_OPTIONS", "halt_on_error=1");
            command
        },
    },
];

pub(crate) fn sanitize(arguments: &SanitizeArguments) -> ExitCode {
    let mut total = Counts::default();
    for step in &STEPS {
        if arguments.only.as_deref().is_some_and(|only| only != step.name) {
            continue;
        }
        match step.run() {
            Outcome::Ran(counts) => total.add(counts),
            Outcome::Skipped(_) => total.skipped += 1,
        }
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Adds what both have in common to a call of cargo.
fn sanitize_with(command: &mut Command, name: &str, flags: &[&str]) {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    command.arg("test").args(flags).args(["--lib", "--tests", "--target", &target]);
    for package in PACKAGES {
        command.args(["-p", package]);
    }
    command
        .env("RUSTFLAGS", format!("-Zsanitizer={name} --cfg rustix_use_libc"))
        .env("CARGO_TARGET_DIR", format!("target/sanitize-{name}"));
}
