//! `windlass inspect {log,checkpoints}` and `windlass scrub`: a server's data directory, read for
//! people and scripts. Nothing in it is changed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;
use windlass_engine::persist::{
    inspect::{
        BlockSummary, CheckpointSummary, LogFrame, LogSummary, inspect_blocks, inspect_checkpoints,
        inspect_log,
    },
    scrub::{ScrubReport, scrub},
    storage::{self, Storage},
};
use windlass_engine::server::scrub_server;

use super::{ExitStatus, Failure, Output};
use crate::report::{table, units};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Inspect {
    /// Summarise the log from its checkpoint on, or list its frames
    Log {
        /// A server's data directory, or one shard's in it
        directory: PathBuf,
        /// Print every frame
        #[arg(long)]
        frames: bool,
    },
    /// List the checkpoints
    #[command(alias = "checkpoint")]
    Checkpoints {
        /// A server's data directory, or one shard's in it
        directory: PathBuf,
        /// Print every block of the newest one
        #[arg(long)]
        blocks: bool,
    },
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads all that a start would read, the catalogue and the coordinator's map among it, and verifies every checksum. Exits with 1 if anything is bad. A log\nthat ends in the middle of a write is normal after a crash. What is bad is read again before it is reported,\nso that files which a running server gives back meanwhile are no damage."
)]
pub(crate) struct ScrubArguments {
    /// A server's data directory, or one shard's in it
    directory: PathBuf,
}

/// One directory with what was found in it, as `--json` prints it.
#[derive(Serialize)]
struct Found<'a, T> {
    directory: &'a Path,
    #[serde(flatten)]
    found: T,
}

#[derive(Serialize)]
struct Checkpoints {
    checkpoints: Vec<CheckpointSummary>,
    unreadable: Vec<String>,
}

pub(crate) fn run(command: &Inspect, output: Output) -> Result<(), Failure> {
    match command {
        Inspect::Log { directory, frames } => {
            for directory in shards(directory)? {
                log(&directory, *frames, output)?;
            }
        }
        Inspect::Checkpoints { directory, blocks } => {
            if *blocks {
                for directory in shards(directory)? {
                    list_blocks(&directory, output)?;
                }
            }
            list_checkpoints(directory, output)?;
        }
    }
    Ok(())
}

pub(super) fn list_checkpoints(directory: &Path, output: Output) -> Result<(), Failure> {
    for directory in shards(directory)? {
        checkpoints(&directory, output)?;
    }
    Ok(())
}

pub(crate) fn run_scrub(arguments: &ScrubArguments, output: Output) -> Result<(), Failure> {
    let mut bad_count = 0;
    if !is_shard(&arguments.directory) && arguments.directory.is_dir() {
        let report = scrub_server(&arguments.directory);
        bad_count += report.bad.len();
        let directory = &arguments.directory;
        let found = Found { directory, found: &report };
        output.result(&found, || scrub_text(directory, &report))?;
    }
    let listed = shards(&arguments.directory);
    // What is bad already may be that there are none.
    for directory in if bad_count == 0 { listed? } else { listed.unwrap_or_default() } {
        let report = scrub(open(&directory)?.as_mut()).map_err(Failure::failed)?;
        bad_count += report.bad.len();
        let found = Found { directory: &directory, found: &report };
        output.result(&found, || scrub_text(&directory, &report))?;
    }
    if bad_count == 0 {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{bad_count} damaged places were found: restore them from another replica or a backup, or \
         start the server with --accept-damage to serve what is left"
    )))
}

fn log(directory: &Path, frames: bool, output: Output) -> Result<(), Failure> {
    let mut storage = open(directory)?;
    let mut failed = Ok(());
    let mut visit = |frame: &LogFrame| {
        if frames && failed.is_ok() {
            failed = output.result(frame, || frame.to_string());
        }
    };
    let summary: LogSummary = inspect_log(storage.as_mut(), &mut visit).map_err(Failure::failed)?;
    failed?;
    let found = Found { directory, found: &summary };
    output.result(&found, || format!("{}: {summary}", directory.display()))
}

fn list_blocks(directory: &Path, output: Output) -> Result<(), Failure> {
    let mut storage = open(directory)?;
    let (checkpoints, _) = inspect_checkpoints(storage.as_mut()).map_err(Failure::failed)?;
    for file in checkpoints.first().iter().flat_map(|newest| &newest.files) {
        let mut failed = Ok(());
        let mut visit = |block: &BlockSummary| {
            if failed.is_ok() {
                failed = output.result(block, || block.to_string());
            }
        };
        // Where it is bad is for `scrub` to say.
        let _ = inspect_blocks(storage.as_mut(), file, &mut visit).map_err(Failure::failed)?;
        failed?;
    }
    Ok(())
}

fn checkpoints(directory: &Path, output: Output) -> Result<(), Failure> {
    let (checkpoints, bad) =
        inspect_checkpoints(open(directory)?.as_mut()).map_err(Failure::failed)?;
    let unreadable: Vec<String> =
        bad.iter().map(|bad| format!("{}: {}", bad.file, bad.reason)).collect();
    let rows: Vec<Vec<String>> = checkpoints.iter().map(row).collect();
    let found = Found { directory, found: Checkpoints { checkpoints, unreadable } };
    output.result(&found, || {
        let header = ["checkpoint", "published", "files", "bytes", "partitions"];
        let mut text = format!("{}\n{}", directory.display(), table::table(&header, &rows));
        for line in &found.found.unreadable {
            text.push_str(&format!("\nunreadable: {line}"));
        }
        text
    })
}

#[expect(clippy::cast_precision_loss, reason = "bytes stay below 2^53")]
fn row(checkpoint: &CheckpointSummary) -> Vec<String> {
    let bytes: u64 = checkpoint.files.iter().map(|file| file.length).sum();
    vec![
        checkpoint.number.to_string(),
        units::moment(checkpoint.published_seconds),
        checkpoint.files.len().to_string(),
        units::bytes(bytes as f64),
        checkpoint.partitions.len().to_string(),
    ]
}

fn scrub_text(directory: &Path, report: &ScrubReport) -> String {
    #[expect(clippy::cast_precision_loss, reason = "bytes stay below 2^53")]
    let bytes = units::bytes(report.bytes as f64);
    let mut text = format!(
        "{}: {bytes}, {} records and {} blocks verified, {} bad",
        directory.display(),
        units::grouped(report.records),
        units::grouped(report.blocks),
        report.bad.len()
    );
    if report.torn {
        text.push_str("; the log ends in the middle of a write");
    }
    for bad in &report.bad {
        text.push_str(&format!("\n  {} at {}: {}", bad.file, bad.offset, bad.reason));
    }
    text
}

/// The shards' directories of a server, or the directory itself if it is one shard's.
pub(super) fn shards(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let wrong = |text: String| Failure::new(ExitStatus::Usage, text);
    if !directory.is_dir() {
        return Err(wrong(format!(
            "{} is no directory: give what `windlass serve --data-dir` was given",
            directory.display()
        )));
    }
    if is_shard(directory) {
        return Ok(vec![directory.to_owned()]);
    }
    let failed = |error| Failure::failed(format!("cannot list {}: {error}", directory.display()));
    let mut shards = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() && is_shard(&path) {
            shards.push(path);
        }
    }
    if shards.is_empty() {
        return Err(wrong(format!(
            "{} holds no shard's data: give what `windlass serve --data-dir` was given",
            directory.display()
        )));
    }
    shards.sort();
    Ok(shards)
}

/// Each shard of each generation has a directory of its own.
fn is_shard(directory: &Path) -> bool {
    directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with("shard-"))
}

pub(super) fn open(directory: &Path) -> Result<Box<dyn Storage>, Failure> {
    storage::open_to_read(directory).map_err(Failure::failed)
}
