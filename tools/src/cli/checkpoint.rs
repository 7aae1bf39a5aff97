//! `windlass checkpoint {create,list,verify,restore}`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use windlass_engine::{
    persist::inspect::{inspect_blocks, inspect_checkpoints},
    server::restore::{RestoreOptions, restore},
};
use windlass_wire::{Durability, TableEntry};

use super::{
    Failure, Output,
    connection::ConnectionArguments,
    inspect, progress,
    table::{connect, remote},
};
use crate::report::units;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Checkpoint {
    /// Have every server begin a checkpoint; training goes on meanwhile
    Create {
        #[command(flatten)]
        connection: ConnectionArguments,
    },
    /// List the checkpoints in a data directory
    List {
        /// A server's data directory, or one shard's in it
        directory: PathBuf,
    },
    /// Read every block of the newest checkpoints and verify its checksum
    Verify {
        /// A server's data directory, or one shard's in it
        directory: PathBuf,
    },
    /// Make data directories for the servers of a new cluster from those of an old one
    Restore(RestoreArguments),
}

const RESTORE_HELP: &str = "\
The old servers are stopped, or the directories are copies (snapshots) of theirs; nothing in them is \
changed. Name the directories of all of them. Every new directory gets the newest valid checkpoints and \
the logs behind them; a server started with it takes the partitions that are its own in the new cluster, \
with values, optimiser state and what tells repeated pushes. Any number of servers and of --shards will \
do; the number of partitions stays, and so do the tables. Tables of durability memory are there and \
empty. The new cluster has one copy of each partition (--replicas 1).

Examples:
  windlass checkpoint restore a b --into new                      (from two servers onto one)
  windlass serve --data-dir new --shards 4
  windlass checkpoint restore a --into c --into d                 (from one onto two)
  windlass serve --data-dir c --servers 2
  windlass serve --data-dir d --listen 127.0.0.1:7701 --coordinator 127.0.0.1:7700
  windlass coordinator --restored c --servers 2                   (or with a coordinator of its own)";

#[derive(Debug, clap::Args)]
#[command(after_help = RESTORE_HELP)]
pub(crate) struct RestoreArguments {
    /// The data directories of all servers of the old cluster
    #[arg(required = true, value_name = "DIR")]
    from: Vec<PathBuf>,
    /// A data directory to be made, once for each server of the new cluster
    #[arg(long, required = true, value_name = "DIR")]
    into: Vec<PathBuf>,
    /// Partitions of the old cluster, if it was written by a version that did not note it
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// Go on without the rows of old servers whose directories are not named
    #[arg(long)]
    accept_missing: bool,
    /// Go on with damaged files; the new servers need --accept-damage, too
    #[arg(long)]
    accept_damage: bool,
}

/// What `restore --json` prints.
#[derive(Serialize)]
struct RestoredResult<'a> {
    into: &'a [PathBuf],
    tables: Vec<String>,
    /// Tables of durability memory, which are empty.
    empty_tables: Vec<String>,
    partitions: u32,
    shards: usize,
    bytes: u64,
}

#[derive(Serialize)]
struct Begun {
    servers: Vec<u32>,
}

/// What `verify --json` prints of one shard's directory.
#[derive(Serialize)]
struct Verified<'a> {
    directory: &'a Path,
    /// Number of the newest checkpoint, if there is one.
    checkpoint: Option<u64>,
    blocks: u64,
    bytes: u64,
    bad: Vec<String>,
}

pub(crate) fn run(command: &Checkpoint, output: Output) -> Result<(), Failure> {
    match command {
        Checkpoint::Create { connection } => create(connection, output),
        Checkpoint::List { directory } => inspect::list_checkpoints(directory, output),
        Checkpoint::Verify { directory } => verify(directory, output),
        Checkpoint::Restore(arguments) => run_restore(arguments, output),
    }
}

fn run_restore(arguments: &RestoreArguments, output: Output) -> Result<(), Failure> {
    let options = RestoreOptions {
        from: arguments.from.clone(),
        into: arguments.into.clone(),
        partitions: arguments.partitions,
        accept_missing: arguments.accept_missing,
        accept_damage: arguments.accept_damage,
    };
    let bar = progress::bytes(0, "restoring");
    let copied = restore(&options, &mut |bytes, total| {
        bar.set_length(total);
        bar.inc(bytes);
    });
    bar.finish_and_clear();
    let restored = copied.map_err(Failure::failed)?;
    let names = |is_empty: bool| {
        let is_kept =
            |table: &&TableEntry| (table.schema.durability == (Durability::Memory {})) == is_empty;
        restored.tables.iter().filter(is_kept).map(|table| table.name.clone()).collect()
    };
    let result = RestoredResult {
        into: &arguments.into,
        tables: names(false),
        empty_tables: names(true),
        partitions: restored.partitions,
        shards: restored.shards,
        bytes: restored.bytes,
    };
    output.result(&result, || restored_text(&result))
}

fn restored_text(result: &RestoredResult<'_>) -> String {
    #[expect(clippy::cast_precision_loss, reason = "bytes stay below 2^53")]
    let bytes = units::bytes(result.bytes as f64);
    let servers = result.into.len();
    let mut text = format!(
        "{} tables of {} partitions, {bytes} of checkpoints and logs, for {servers} servers: start \
         each with its directory as --data-dir",
        result.tables.len(),
        result.partitions
    );
    if !result.empty_tables.is_empty() {
        let names = result.empty_tables.join(", ");
        text.push_str(&format!("\nof durability memory, and therefore empty: {names}"));
    }
    text
}

fn create(connection: &ConnectionArguments, output: Output) -> Result<(), Failure> {
    let client = connect(connection)?;
    let mut begun = Begun { servers: Vec::new() };
    for server in client.map().servers {
        client.checkpoint(server.id).map_err(remote)?;
        begun.servers.push(server.id.0);
    }
    output.result(&begun, || {
        format!(
            "{} servers begin a checkpoint; `checkpoint list` shows it when it is published",
            begun.servers.len()
        )
    })
}

fn verify(directory: &Path, output: Output) -> Result<(), Failure> {
    let mut bad_count = 0;
    for directory in inspect::shards(directory)? {
        let verified = verify_shard(&directory)?;
        bad_count += verified.bad.len();
        output.result(&verified, || text(&verified))?;
    }
    if bad_count == 0 {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{bad_count} damaged places were found: restore them from a backup, or start the server \
         with --accept-damage to serve what is left"
    )))
}

fn verify_shard(directory: &Path) -> Result<Verified<'_>, Failure> {
    let mut storage = inspect::open(directory)?;
    let (checkpoints, unreadable) =
        inspect_checkpoints(storage.as_mut()).map_err(Failure::failed)?;
    let newest = checkpoints.first();
    let mut verified = Verified {
        directory,
        checkpoint: newest.map(|checkpoint| checkpoint.number),
        blocks: 0,
        bytes: 0,
        bad: unreadable.iter().map(|bad| format!("{}: {}", bad.file, bad.reason)).collect(),
    };
    for file in newest.iter().flat_map(|checkpoint| &checkpoint.files) {
        let read = inspect_blocks(storage.as_mut(), file, &mut |_| {}).map_err(Failure::failed)?;
        verified.bytes += file.length;
        match read {
            Ok(blocks) => {
                verified.blocks += blocks;
                if blocks != file.blocks {
                    let (number, written) = (file.number, file.blocks);
                    verified.bad.push(format!("file {number}: {blocks} blocks, not {written}"));
                }
            }
            Err(bad) => {
                let (number, offset, reason) = (file.number, bad.offset, bad.reason);
                verified.bad.push(format!("file {number} at offset {offset}: {reason}"));
            }
        }
    }
    Ok(verified)
}

fn text(verified: &Verified<'_>) -> String {
    let directory = verified.directory.display();
    let Some(number) = verified.checkpoint else {
        return format!("{directory}: no checkpoint");
    };
    #[expect(clippy::cast_precision_loss, reason = "bytes stay below 2^53")]
    let bytes = units::bytes(verified.bytes as f64);
    let blocks = units::grouped(verified.blocks);
    let mut text = format!("{directory}: checkpoint {number}, {blocks} blocks, {bytes} verified");
    for bad in &verified.bad {
        text.push_str(&format!("\n  bad: {bad}"));
    }
    text
}
