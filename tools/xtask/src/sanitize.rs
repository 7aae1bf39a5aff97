//! `cargo xtask sanitize`: transport and engine tests under AddressSanitizer and ThreadSanitizer.
//! Both are unstable flags, which RUSTC_BOOTSTRAP opens on the stable compiler.

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
/// The standard library is not instrumented: what it does with its own memory is not a finding.
const THREAD_SUPPRESSIONS: &str = "tools/xtask/tsan-suppressions.txt";

const STEPS: [Step; 2] = [
    Step {
        name: "address",
        about: "transport and engine tests under AddressSanitizer",
        minutes_max: 15,
        needs: &[],
        command: || {
            let mut command = sanitized("address", "-Zsanitizer=address");
            command.env("ASAN_OPTIONS", "detect_stack_use_after_return=1:detect_leaks=1");
            command
        },
    },
    Step {
        name: "thread",
        about: "transport and engine tests under ThreadSanitizer",
        minutes_max: 15,
        needs: &[Need::Part { path: THREAD_SUPPRESSIONS }],
        command: || {
            let flags = "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer";
            let mut command = sanitized("thread", flags);
            // The harness itself hands results between its threads in ways that are not seen through.
            command.args(["--", "--test-threads=1"]);
            let folder = std::env::current_dir().unwrap_or_default();
            let suppressions = folder.join(THREAD_SUPPRESSIONS);
            command.env(
                "TSAN_OPTIONS",
                format!("suppressions={} halt_on_error=1", suppressions.display()),
            );
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

fn sanitized(name: &str, flags: &str) -> Command {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = cargo(&["test", "--lib", "--tests", "--target", &target]);
    for package in PACKAGES {
        command.args(["-p", package]);
    }
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", flags)
        .env("CARGO_TARGET_DIR", format!("target/sanitize-{name}"));
    command
}
