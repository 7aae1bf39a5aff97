//! Running the benches, and asking what they ran on.

use std::{fs, io, process::Command};

use serde::Deserialize;

use super::{
    figures::{Round, Row, Taken},
    list::AreaPlan,
};
use crate::passed::cargo;

/// Why a bench has no figures.
#[derive(Debug, thiserror::Error)]
pub(super) enum BenchError {
    #[error("it cannot be started")]
    Start { source: io::Error },
    #[error("it ended with {status}; it said: {said}")]
    Status { status: std::process::ExitStatus, said: String },
    #[error("it did not print one JSON object")]
    Json { source: serde_json::Error },
}

/// What `windlass bench --json` prints, as far as it is kept.
#[derive(Debug, Deserialize)]
struct Printed {
    limit_name: String,
    #[serde(flatten)]
    round: Round,
}

/// Builds the command as a user would.
pub(super) fn build() -> Result<(), BenchError> {
    let status = cargo(&["build", "--release", "--quiet", "-p", "windlass"])
        .status()
        .map_err(|source| BenchError::Start { source })?;
    if status.success() {
        return Ok(());
    }
    Err(BenchError::Status { status, said: String::new() })
}

/// Runs every bench of an area once a round. The error comes with the command that failed.
pub(super) fn measure(plan: &AreaPlan, rounds: u32) -> Result<Vec<Row>, (String, BenchError)> {
    let commands = plan.benches.iter().map(super::list::Bench::command);
    let mut rows: Vec<Row> = commands
        .map(|command| Row { command, limit_name: String::new(), rounds: Vec::new() })
        .collect();
    for round in 1..=rounds {
        for row in &mut rows {
            eprintln!("{}, round {round} of {rounds}: windlass {}", plan.name, row.command);
            let printed = run(&row.command).map_err(|error| (row.command.clone(), error))?;
            row.limit_name = printed.limit_name;
            row.rounds.push(printed.round);
        }
    }
    Ok(rows)
}

fn run(command: &str) -> Result<Printed, BenchError> {
    let output = Command::new("target/release/windlass")
        .args(command.split(' '))
        .output()
        .map_err(|source| BenchError::Start { source })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(BenchError::Status { status: output.status, said });
    }
    serde_json::from_slice(&output.stdout).map_err(|source| BenchError::Json { source })
}

/// Build and machine; what cannot be found out is `unknown`.
pub(super) fn taken() -> Taken {
    let commit = said("git", &["log", "-1", "--format=%h of %cs"]);
    let changed = said("git", &["status", "--porcelain", "--untracked-files=no"]);
    let mark = if changed == "unknown" { "" } else { "+" };
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.and_then(|rest| rest.split_once(": ")).map_or("unknown", |(_, name)| name);
    Taken {
        build: format!("{commit}{mark}"),
        processor: model.to_owned(),
        processors: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        kernel: said("uname", &["-r"]),
        rustc: said("rustc", &["--version"]),
    }
}

/// The first line that a program prints.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let line = output.ok().and_then(|text| text.lines().next().map(str::to_owned));
    line.unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_with_more_keys_is_read() {
        let line = r#"{"op":"push","transport":"shm","p50_us":0.5,"p99_us":1.0,"p999_us":2.0,
            "rows_per_s":1.0,"bytes_per_s":4.0,"limit_name":"round trip","limit":0.1,"ratio":5.0}"#;
        let printed: Printed = serde_json::from_str(line).expect("it is a result");
        assert_eq!(printed.limit_name, "round trip");
        assert_eq!((printed.round.p50_us, printed.round.ratio), (0.5, 5.0));
    }

    #[test]
    fn a_result_without_a_figure_is_refused() {
        let error = serde_json::from_str::<Printed>(r#"{"limit_name":"memcpy","p50_us":0.5}"#);
        assert!(error.is_err_and(|error| error.to_string().contains("p99_us")));
    }
}
