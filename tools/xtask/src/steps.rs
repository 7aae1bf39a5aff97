//! `cargo xtask test`: the ladder of checks, as a table. Cheap ones first; each bounded in time, with
//! room for a busy machine; all together take half an hour on two quiet cores.

use std::process::{Command, ExitCode};

use crate::{
    counts::Counts,
    need::{Need, on_path},
    passed::{cargo, harness_command},
    runner::{Outcome, Step},
};

#[derive(Debug, clap::Args)]
pub(crate) struct TestArguments {
    /// Run only these steps; see `--list`.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Run all but these steps.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    skip: Vec<String>,
    /// Print the steps and stop.
    #[arg(long)]
    list: bool,
}

const CLIPPY: Need = Need::Component { program: "cargo-clippy", component: "clippy" };
const RUSTFMT: Need = Need::Component { program: "rustfmt", component: "rustfmt" };
const C_COMPILER: Need = Need::Program { name: "cc", package: "gcc" };

/// Test binaries of clients and chains that run over late writes.
const LATE_TESTS: &[&str] =
    &["chains", "filters", "long_pieces", "push_pull", "rounds", "unsorted"];

/// Of those the ones that are about memory, disks and rules: they take as long as all others together.
const NOT_LATE_TESTS: &[&str] =
    &["a_push_that_finds_no_memory", "expiry::", "kept::", "memory::", "rules::"];

const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        about: "formatting",
        minutes_max: 1,
        needs: &[RUSTFMT],
        command: || cargo(&["fmt", "--all", "--check"]),
    },
    Step {
        name: "clippy",
        about: "lints, warnings denied",
        minutes_max: 12,
        needs: &[CLIPPY],
        command: || cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    },
    Step {
        name: "docs",
        about: "documentation of every public item, links included",
        minutes_max: 8,
        needs: &[],
        command: || {
            let mut command = cargo(&["doc", "--workspace", "--no-deps"]);
            command.env("RUSTDOCFLAGS", "-D warnings");
            command
        },
    },
    Step {
        name: "tidy",
        about: "rules of the house that a program can check",
        minutes_max: 8,
        needs: &[],
        command: || cargo(&["test", "-p", "windlass-tidy"]),
    },
    Step {
        name: "unit",
        about: "unit, property, conformance, C client and end-to-end tests",
        minutes_max: 20,
        needs: &[C_COMPILER],
        command: || {
            let mut command = run_tests();
            if !on_path("cargo-nextest") {
                command.args(["--lib", "--bins", "--tests"]);
            }
            command
        },
    },
    Step {
        name: "late",
        about: "clients and chains over writes that show late, in pieces and in any order",
        minutes_max: 6,
        needs: &[],
        command: || {
            let mut command = run_tests();
            for name in LATE_TESTS {
                command.args(["--test", name]);
            }
            command.arg("--");
            for name in NOT_LATE_TESTS {
                command.args(["--skip", name]);
            }
            command.env("WINDLASS_LATE_WRITES", "1");
            command
        },
    },
    Step {
        name: "doctest",
        about: "examples in the documentation",
        minutes_max: 8,
        needs: &[],
        command: || cargo(&["test", "--workspace", "--doc"]),
    },
    Step {
        name: "loom",
        about: "every interleaving of the lock-free structures",
        minutes_max: 8,
        needs: &[Need::Part { path: "transport/src/sync.rs" }],
        command: || {
            let mut command = cargo(&["test", "--release", "-p", "windlass-transport", "loom"]);
            command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", "target/loom");
            command
        },
    },
    Step {
        name: "simulation",
        about: "clusters under seeds: delays, drops, crashes, disk faults",
        minutes_max: 8,
        needs: &[Need::Part { path: "tests/examples/simulate.rs" }],
        command: || simulate(&["--seeds", "10000"]),
    },
    Step {
        name: "gray",
        about: "the same over networks that fail by half: loss, deafness, delay",
        minutes_max: 4,
        needs: &[Need::Part { path: "tests/examples/simulate.rs" }],
        command: || simulate(&["--mode", "gray", "--seeds", "10000"]),
    },
    Step {
        name: "overlap",
        about: "the same with several servers of a chain down at once, and back with what their disks hold",
        minutes_max: 4,
        needs: &[Need::Part { path: "tests/examples/simulate.rs" }],
        command: || simulate(&["--mode", "overlap", "--seeds", "5000"]),
    },
    Step {
        name: "mixed",
        about: "the same with tables of every durability, and servers that fail however few are left",
        minutes_max: 4,
        needs: &[Need::Part { path: "tests/examples/simulate.rs" }],
        command: || simulate(&["--mode", "mixed", "--seeds", "5000"]),
    },
    Step {
        name: "moves",
        about: "the same with one copy of each partition, which moves as servers are drained",
        minutes_max: 4,
        needs: &[Need::Part { path: "tests/examples/simulate.rs" }],
        command: || simulate(&["--one-copy", "--seeds", "5000"]),
    },
    Step {
        name: "settling",
        about: "the same with clients that keep pushes in order by their connections, as the library's do",
        minutes_max: 4,
        needs: &[Need::Part { path: "tests/examples/simulate.rs" }],
        command: || simulate(&["--settles", "--mode", "gray", "--seeds", "10000"]),
    },
    Step {
        name: "frozen",
        about: "the same with machines that stand still, and their clocks with them",
        minutes_max: 4,
        needs: &[Need::Part { path: "tests/examples/simulate.rs" }],
        command: || simulate(&["--mode", "frozen", "--seeds", "5000"]),
    },
    Step {
        name: "store",
        about: "the same with coordinators cut off from their store, and servers that lack memory",
        minutes_max: 4,
        needs: &[Need::Part { path: "tests/examples/simulate.rs" }],
        command: || simulate(&["--mode", "store", "--seeds", "5000"]),
    },
    Step {
        name: "sessions",
        about: "the same with clients that go away, and sessions that expire",
        minutes_max: 4,
        needs: &[Need::Part { path: "tests/examples/simulate.rs" }],
        command: || simulate(&["--mode", "sessions", "--seeds", "3000"]),
    },
    Step {
        name: "workers",
        about: "the same with workers whom coordinators give up that hear nobody, stand still, are replaced",
        minutes_max: 4,
        needs: &[Need::Part { path: "tests/examples/simulate.rs" }],
        command: || simulate(&["--mode", "workers", "--seeds", "5000"]),
    },
    Step {
        name: "crash",
        about: "power cuts at every IO of a workload, and 100 lives of a whole server",
        minutes_max: 6,
        needs: &[Need::Part { path: "tests/examples/crash.rs" }],
        command: || {
            let mut command = harness_command("crash");
            command.args(["--", "--points", "1000", "--lives", "100", "--json"]);
            command
        },
    },
    Step {
        name: "kills",
        about: "a real server killed under load, with its data directory kept",
        minutes_max: 12,
        needs: &[],
        command: || {
            let mut command = cargo(&["test", "-p", "windlass-tests", "--test", "kill_nine"]);
            command.env("WINDLASS_KILLS", "20");
            command
        },
    },
    Step {
        name: "faults",
        about: "real disks that fill up and that fail under a server",
        minutes_max: 6,
        needs: &[
            Need::Program { name: "mkfs.ext4", package: "e2fsprogs" },
            Need::Program { name: "losetup", package: "mount" },
            Need::Program { name: "python3", package: "python3" },
            Need::Mounts,
        ],
        command: || {
            let tests = ["test", "-p", "windlass-tests", "--test", "kill_nine", "--", "--ignored"];
            let mut command = cargo(&tests);
            // One disk at a time: a busy machine writes back slowly.
            command.arg("--test-threads=1");
            command
        },
    },
    Step {
        name: "chaos",
        about: "servers of a replicated cluster killed under load, one after another",
        minutes_max: 8,
        needs: &[],
        command: || {
            cargo(&["run", "--quiet", "-p", "windlass", "--", "drill", "--kills", "100", "--json"])
        },
    },
    Step {
        name: "hosts",
        about: "a cluster over several hosts: killed, stopped, silent, cut off, slow",
        minutes_max: 8,
        needs: &[Need::Hosts],
        command: || {
            // The debug build, which is there already.
            cargo(&["run", "--quiet", "-p", "windlass-tests", "--example", "hosts"])
        },
    },
    Step {
        name: "etcd",
        about: "a standby takes over from a killed coordinator whose map is in etcd",
        minutes_max: 6,
        needs: &[Need::Program { name: "etcd", package: "etcd-server" }],
        command: || {
            let tests = ["test", "-p", "windlass-tests", "--test", "failover", "--", "--ignored"];
            cargo(&tests)
        },
    },
    Step {
        name: "softroce",
        about: "the verbs suite on an RDMA device, in a virtual machine if need be",
        minutes_max: 20,
        needs: &[],
        command: || {
            let mut command =
                Command::new(std::env::current_exe().unwrap_or_else(|_| "xtask".into()));
            command.arg("softroce");
            command
        },
    },
];

/// Runs tests of the workspace.
fn run_tests() -> Command {
    if on_path("cargo-nextest") {
        cargo(&["nextest", "run", "--workspace", "--config-file", "tests/nextest.toml"])
    } else {
        cargo(&["test", "--workspace", "--no-fail-fast"])
    }
}

fn simulate(arguments: &[&str]) -> Command {
    let mut command = harness_command("simulate");
    command.arg("--").args(arguments).arg("--json");
    command
}

/// Runs the whole ladder, or what the arguments choose.
pub(crate) fn test(arguments: &TestArguments) -> ExitCode {
    if arguments.list {
        for step in STEPS {
            println!("{:<12} {} (at most {} minutes)", step.name, step.about, step.minutes_max);
        }
        return ExitCode::SUCCESS;
    }
    for name in arguments.only.iter().chain(&arguments.skip) {
        if !STEPS.iter().any(|step| step.name == name) {
            let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
            eprintln!("xtask test: there is no step {name:?}: use one of {}", names.join(", "));
            return ExitCode::from(2);
        }
    }
    run(STEPS.iter().filter(|step| {
        let is_in = |names: &[String]| names.iter().any(|name| name == step.name);
        (arguments.only.is_empty() || is_in(&arguments.only)) && !is_in(&arguments.skip)
    }))
}

/// Runs the steps with these names.
pub(crate) fn run_named(names: &[&str]) -> ExitCode {
    run(STEPS.iter().filter(|step| names.contains(&step.name)))
}

fn run<'a>(steps: impl Iterator<Item = &'a Step>) -> ExitCode {
    let mut total = Counts::default();
    let mut skipped = Vec::new();
    let mut failed = Vec::new();
    for step in steps {
        match step.run() {
            Outcome::Ran(counts) => {
                if counts.failed > 0 {
                    failed.push(step.name);
                }
                total.add(counts);
            }
            Outcome::Skipped(reason) => {
                total.skipped += 1;
                skipped.push((step.name, reason));
            }
        }
    }
    println!();
    if !skipped.is_empty() {
        println!("Could not run:");
        for (name, reason) in &skipped {
            println!("  {name}: {reason}");
        }
    }
    if !failed.is_empty() {
        println!(
            "Failed steps: {} (again: cargo xtask test --only {})",
            failed.join(", "),
            failed.join(",")
        );
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_the_ladder_is_bounded() {
        for (index, step) in STEPS.iter().enumerate() {
            assert!(STEPS[index + 1..].iter().all(|other| other.name != step.name));
            assert!((1..=20).contains(&step.minutes_max), "{}", step.name);
        }
    }
}
