//! `windlass checkpoint {create,list,verify}`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use windlass_engine::persist::inspect::{inspect_blocks, inspect_checkpoints};

use super::{
    Failure, Output,
    connection::ConnectionArguments,
    inspect,
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
    }
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
