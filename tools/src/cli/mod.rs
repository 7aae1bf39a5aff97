//! The command line: what it understands, and which command runs. A file per command.

mod aggregation;
mod bench;
mod bench_connections;
mod checkpoint;
mod cluster;
mod completions;
pub mod config;
mod connection;
mod consistency;
mod coordinator;
mod demo;
mod doctor;
mod drill;
mod export;
mod fabric;
mod failure;
mod filters;
mod gen_ctr;
mod import;
mod inspect;
mod output;
mod progress;
mod remove;
mod replica;
mod rows;
mod scan;
mod serve;
mod size;
mod span;
mod stop;
mod table;
mod token;
mod train;
mod verify;

use std::{env, ffi::OsString, io::IsTerminal, path::PathBuf, process::ExitCode, str::FromStr};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

pub use failure::{ExitStatus, Failure};
pub use output::Output;

const LONG_ABOUT: &str = "\
A parameter server: pulls cost the server no CPU, pushes cost it only the sum, and no acknowledged \
push is ever lost or applied twice.

Results go to stdout, progress and messages to stderr.";

const AFTER_HELP: &str = "\
Exit codes:
  0    done
  1    the command failed; stderr says why
  2    the command line or the --config file is wrong
  3    no server could be reached, or it went away
  4    input data is malformed (only with --strict)
  130  interrupted

Config file: what flags say, as TOML, in a section per command. Flags beat the file.
  [train.sparse-lr]
  data = \"clicks.svm.gz\"
  l1 = 1.0";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "windlass",
    version,
    about = "A parameter server over RDMA verbs, shared memory and TCP",
    long_about = LONG_ABOUT,
    after_help = AFTER_HELP,
    propagate_version = true,
    disable_help_subcommand = true,
    max_term_width = 100,
)]
pub struct Cli {
    /// Print results as JSON, one object a line
    #[arg(long, global = true, help_heading = "Everywhere")]
    json: bool,

    /// Take what flags say from this TOML file as well; flags beat it
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    config: Option<PathBuf>,

    /// Say more on stderr: -v what happens, -vv every detail
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Everywhere")]
    verbose: u8,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve parameters until stopped
    Serve(serve::Arguments),
    /// Own a cluster's map, for servers that join it
    Coordinator(coordinator::Arguments),
    /// Show and change which servers a cluster has, and what they hold
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Check that the replicas of every partition are equal
    Verify(verify::Arguments),
    /// Watch real training against real servers on this host, in under a minute
    Demo(demo::Arguments),
    /// Kill servers under load on this host, and see what it costs
    Drill(drill::Arguments),
    /// Create, list, show and drop tables
    #[command(subcommand)]
    Table(table::TableCommand),
    /// Push a few rows by hand
    Push(rows::PushArguments),
    /// Pull a few rows by hand
    Pull(rows::PullArguments),
    /// Write tables into a .npy or .safetensors file, or a folder of those
    Export(export::Arguments),
    /// Set tables' rows from a .npy or .safetensors file
    Import(import::Arguments),
    /// Look into a server's data directory
    #[command(subcommand)]
    Inspect(inspect::Inspect),
    /// Begin, list, verify and restore checkpoints of what servers keep on disk
    #[command(subcommand)]
    Checkpoint(checkpoint::Checkpoint),
    /// Verify every checksum of a server's data directory
    Scrub(inspect::ScrubArguments),
    /// Train a model on parameter servers
    #[command(subcommand)]
    Train(train::Train),
    /// Measure pushes and pulls beside the limits of this machine
    Bench(Box<bench::Arguments>),
    /// Generate data
    #[command(subcommand)]
    Gen(Gen),
    /// The RDMA devices of this host
    #[command(subcommand)]
    Fabric(fabric::Fabric),
    /// Check this host for every transport
    Doctor(doctor::Arguments),
    /// Print a completion script for a shell
    Completions(completions::Arguments),
}

#[derive(Debug, Subcommand)]
enum Gen {
    /// Click data that follows a power law, with the true model and the best possible AUC
    Ctr(gen_ctr::Arguments),
}

/// Runs a command line, program name included, and returns the exit code of the process.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match parse(arguments.into_iter().collect()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    start_log(cli.verbose);
    let output = Output::new(cli.json);
    let result = match &cli.command {
        Command::Serve(arguments) => serve::run(arguments, output),
        Command::Coordinator(arguments) => coordinator::run(arguments, output),
        Command::Cluster(command) => cluster::run(command, output),
        Command::Verify(arguments) => verify::run(arguments, output),
        Command::Demo(arguments) => demo::run(arguments, output),
        Command::Table(command) => table::run(command, output),
        Command::Push(arguments) => rows::push(arguments, output),
        Command::Pull(arguments) => rows::pull(arguments, output),
        Command::Export(arguments) => export::run(arguments, output),
        Command::Import(arguments) => import::run(arguments, output),
        Command::Inspect(command) => inspect::run(command, output),
        Command::Checkpoint(command) => checkpoint::run(command, output),
        Command::Scrub(arguments) => inspect::run_scrub(arguments, output),
        Command::Train(command) => train::run(command, output),
        Command::Bench(arguments) => bench::run(arguments, output),
        Command::Gen(Gen::Ctr(arguments)) => gen_ctr::run(arguments, output),
        Command::Fabric(command) => fabric::run(command, output),
        Command::Doctor(arguments) => doctor::run(arguments, output),
        Command::Drill(arguments) => drill::run(arguments, output),
        Command::Completions(arguments) => completions::run(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn parse(arguments: Vec<OsString>) -> Result<Cli, ExitCode> {
    let command = Cli::command();
    let arguments = config::expand(&command, arguments)
        .map_err(|error| Failure::new(ExitStatus::Usage, error).report())?;
    let shown = |error: clap::Error| {
        // Nobody is left to tell when the terminal is gone.
        let _ = error.print();
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
    };
    let matches = command.try_get_matches_from(arguments).map_err(shown)?;
    Cli::from_arg_matches(&matches).map_err(shown)
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let level = Targets::new().with_default(level);
    let filter = match env::var("WINDLASS_LOG").as_deref().map(Targets::from_str) {
        Ok(Ok(asked)) => asked,
        Ok(Err(error)) => {
            eprintln!(
                "windlass: WINDLASS_LOG is not understood ({error}): give a level, or \
                 module=level,... such as windlass_engine=debug"
            );
            level
        }
        Err(_) => level,
    };
    let shown = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let started = tracing_subscriber::registry().with(filter).with(shown).try_init();
    // A second command line in one process, as in tests, keeps the first one's log.
    drop(started);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
