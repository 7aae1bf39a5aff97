//! Development tasks: `cargo xtask --help`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "results of a task go to stdout")]

mod check;
mod counts;
mod fuzz;
mod header;
mod need;
mod passed;
mod results;
mod runner;
mod sanitize;
mod softroce;
mod steps;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// Development tasks of Windlass. Everything a reviewer or CI checks is one of these.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Every check there is, from formatting to SoftRoCE; ends with a line `N passed, N failed`.
    Test(steps::TestArguments),
    /// The quick part of `test`: formatting, clippy, documentation and tidiness.
    Check,
    /// The demo, built for release.
    Demo(PassedOn),
    /// The benches that compare with the limits of this machine.
    Bench(PassedOn),
    /// The tables of benches/RESULTS.md, measured anew; `--from FILE` only writes them.
    Results(results::ResultsArguments),
    /// Transport and engine tests under AddressSanitizer and ThreadSanitizer.
    Sanitize(sanitize::SanitizeArguments),
    /// Every decoder on bytes that a fuzzer finds: `--seconds N` each.
    Fuzz(fuzz::FuzzArguments),
    /// Whole clusters of the real state machines under seeds.
    Simulate(PassedOn),
    /// Power cuts at every IO of a workload, on a simulated disk; prints JSON.
    Crash(passed::CrashArguments),
    /// Real servers killed under load, and others put in their place; prints JSON with `--json`.
    Chaos(PassedOn),
    /// A cluster over network namespaces, as root: `--link-downs N`, or `--sick N`; prints JSON.
    Hosts(PassedOn),
    /// A command, or the whole verbs suite, where an RDMA device exists.
    #[command(disable_help_flag = true)]
    Softroce(PassedOn),
    /// The C header, written anew from the sources.
    Header(header::HeaderArguments),
}

/// Whatever the task is given, it gets as it stands.
#[derive(Debug, clap::Args)]
struct PassedOn {
    /// Arguments of the task itself.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Tasks name files from the root, wherever they are started.
    let root = root();
    if let Err(error) = std::env::set_current_dir(&root) {
        eprintln!("xtask: cannot enter {}: {error}", root.display());
        return ExitCode::FAILURE;
    }
    match arguments.task {
        Task::Test(arguments) => steps::test(&arguments),
        Task::Check => check::check(),
        Task::Demo(passed) => passed::demo(&passed.arguments),
        Task::Bench(passed) => passed::bench(&passed.arguments),
        Task::Results(arguments) => results::results(&arguments),
        Task::Sanitize(arguments) => sanitize::sanitize(&arguments),
        Task::Fuzz(arguments) => fuzz::fuzz(&arguments),
        Task::Simulate(passed) => passed::harness("simulate", &passed.arguments),
        Task::Crash(arguments) => passed::crash(&arguments),
        Task::Chaos(passed) => passed::chaos(&passed.arguments),
        Task::Hosts(passed) => passed::hosts(&passed.arguments),
        Task::Softroce(passed) => passed::softroce(&passed.arguments),
        Task::Header(arguments) => header::header(&arguments),
    }
}

/// The work tree. Read at run time: a program in a copied `target` folder would otherwise run the tree in
/// which it was compiled.
pub(crate) fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    Path::new(&manifest).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
