//! `cargo run -p windlass-tests --example hosts -- [--link-downs N | --sick N]`, as root: a cluster over
//! several hosts, which are network namespaces, each with an address of its own: what `cargo xtask hosts` runs.
//!
//! Under writers, a server is killed, stopped, its cable pulled, cut off from its peers, slowed down, and
//! its host loses packets; each time every acknowledged push must be there exactly once, and the replicas
//! equal. Then the coordinator stands still and hears nobody, alone and beside a standby, and is cut off from
//! etcd. Prints as JSON how long it took each time until a push to every partition was acknowledged again.
//! At last a host of workers vanishes. With `--sick` nothing happens but that a host loses half of what it is
//! sent, so many times.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool, and a test")]

#[path = "../../tests/failover/etcd.rs"]
mod etcd;
mod network;
#[path = "../../tests/failover/processes.rs"]
#[allow(dead_code, reason = "shared with a test that needs more of it")]
mod processes;
#[path = "../../tests/kill_nine/program.rs"]
mod program;
#[path = "../../tests/failover/pusher.rs"]
#[allow(dead_code, reason = "shared with a test that needs more of it")]
mod pusher;
mod scenarios;
mod strong;
#[path = "../../tests/failover/workers.rs"]
#[allow(dead_code, reason = "shared with a test that needs more of it")]
mod workers;

use std::{
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use network::{Built, CLIENTS, Network};

/// What could not be done, in a sentence.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// How long all scenarios may take, and each pulled cable or sick host beyond the second.
const TIME_MAX: Duration = Duration::from_secs(300);
const TIME_MAX_EACH: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["inside", prefix, what, times] => {
            let (network, times) = (Network::named(prefix), times.parse().unwrap());
            match what {
                "--sick" => scenarios::sicken(&network, times),
                _ => scenarios::run(&network, times),
            }
        }
        ["strong", address, server] => strong::pull(address, server.parse().unwrap()),
        ["worker", addresses, rank] => scenarios::work(addresses, rank.parse().unwrap()),
        [what @ ("--link-downs" | "--sick"), times] => outside(what, times.parse().unwrap()),
        [] => outside("--link-downs", 2),
        _ => Err(Failure("see the head of tests/examples/hosts/main.rs".to_owned())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(text)) => {
            eprintln!("hosts: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Builds the hosts, and runs the scenarios in this same program on the clients' host.
fn outside(what: &str, times: u32) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let program = program::copy_into(folder.path());
    let built = Built::build()?;
    let launcher = built.0.launcher(CLIENTS);
    let mut inside = Command::new(&launcher[0])
        .args(&launcher[1..])
        .arg(std::env::current_exe()?)
        .args(["inside", built.0.prefix(), what, &times.to_string()])
        .env("WINDLASS_PROGRAM", program)
        .spawn()?;
    let deadline = Instant::now() + TIME_MAX + TIME_MAX_EACH * times.saturating_sub(2);
    loop {
        if let Some(status) = inside.try_wait()? {
            let failed = || Failure(format!("the scenarios ended with {status}"));
            return status.success().then_some(()).ok_or_else(failed);
        }
        if Instant::now() > deadline {
            inside.kill()?;
            inside.wait()?;
            return Err(Failure("the scenarios took too long: stopped".to_owned()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
