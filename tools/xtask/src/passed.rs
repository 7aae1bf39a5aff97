//! Tasks that are programs of their own: built for release, then given the rest of the command line.

use std::process::{Command, ExitCode};

use crate::{need::Need, softroce};

#[derive(Debug, clap::Args)]
pub(crate) struct CrashArguments {
    /// How many points to cut the power at.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    points: u64,
    /// How many lives a whole server has on disks that lose power, fail or are damaged.
    #[arg(long, value_name = "N", default_value_t = 100)]
    lives: u64,
    /// Seed of the workload and of what each cut leaves.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// `cargo run --release -- demo`.
pub(crate) fn demo(arguments: &[String]) -> ExitCode {
    let mut command = cargo(&["run", "--release", "--quiet", "-p", "windlass", "--", "demo"]);
    command.args(arguments);
    finish(&mut command)
}

/// `cargo run --release -- drill`: real servers killed under load.
pub(crate) fn chaos(arguments: &[String]) -> ExitCode {
    let mut command = cargo(&["run", "--release", "--quiet", "-p", "windlass", "--", "drill"]);
    command.args(arguments);
    finish(&mut command)
}

/// Every criterion bench, or what the arguments of `cargo bench` choose.
pub(crate) fn bench(arguments: &[String]) -> ExitCode {
    let mut command = cargo(&["bench", "-p", "windlass-benches"]);
    command.args(arguments);
    finish(&mut command)
}

pub(crate) fn crash(arguments: &CrashArguments) -> ExitCode {
    let (points, seed) = (arguments.points.to_string(), arguments.seed.to_string());
    let mut words = vec!["--points".to_owned(), points, "--seed".to_owned(), seed];
    words.extend(["--lives".to_owned(), arguments.lives.to_string()]);
    words.extend(arguments.json.then(|| "--json".to_owned()));
    harness("crash", &words)
}

/// A cluster over several hosts.
pub(crate) fn hosts(arguments: &[String]) -> ExitCode {
    if let Err(reason) = Need::Hosts.meet() {
        eprintln!("xtask: {reason}");
        return ExitCode::FAILURE;
    }
    harness("hosts", arguments)
}

/// A program of the `tests` crate. They are examples there, so that `cargo run` in the root has one
/// program only: `windlass`.
pub(crate) fn harness(name: &str, arguments: &[String]) -> ExitCode {
    let mut command = harness_command(name);
    command.arg("--").args(arguments);
    finish(&mut command)
}

pub(crate) fn harness_command(name: &str) -> Command {
    cargo(&["run", "--release", "--quiet", "-p", "windlass-tests", "--example", name])
}

pub(crate) fn softroce(arguments: &[String]) -> ExitCode {
    match softroce::run(arguments) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(status) => u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from),
        Err(error) => {
            eprintln!("xtask softroce: {error}");
            ExitCode::FAILURE
        }
    }
}

pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

pub(crate) fn finish(command: &mut Command) -> ExitCode {
    match command.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: cannot start {}: {error}", command.get_program().to_string_lossy());
            ExitCode::FAILURE
        }
    }
}
