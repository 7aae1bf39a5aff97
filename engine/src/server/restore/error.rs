//! Errors of a restore.

use std::{io, path::PathBuf};

use windlass_wire::ServerId;

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A directory to be made is there.
    #[error("{path} exists: name a directory that does not, which is then a new server's")]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// A directory is no server's.
    #[error("{path} is no server's data directory: name what a server had as --data-dir")]
    NoServer {
        /// The directory.
        path: PathBuf,
    },
    /// A server's directory cannot be used.
    #[error("{path} cannot be restored from: {reason}")]
    Source {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Directories of several clusters.
    #[error("{path} is of another cluster than the directories before it: restore one at a time")]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// One server's directory twice.
    #[error("{path} is server {server}'s, as is one before it: name each server's directory once")]
    Twice {
        /// The directory.
        path: PathBuf,
        /// The server.
        server: ServerId,
    },
    /// Copies of one partition in several directories.
    #[error(
        "{path} is of a cluster of which up to {copies} directories have the same partition, each in \
         another state maybe: name the directory of one server alone, with --accept-missing; it has a copy \
         of everything if there were no more servers than copies"
    )]
    Copies {
        /// The directory.
        path: PathBuf,
        /// Copies.
        copies: u8,
    },
    /// Not every server's directory.
    #[error(
        "servers {servers} of the cluster held rows, too: name their data directories as well, or \
         go on without these rows by --accept-missing"
    )]
    Missing {
        /// Their numbers.
        servers: String,
    },
    /// Another number of partitions is wanted.
    #[error(
        "the rows are cut into {held} partitions, which restoring does not change to {wanted}: \
         leave --partitions out, or export the tables and import them into the other cluster"
    )]
    Partitions {
        /// The number there is.
        held: u32,
        /// The number wanted.
        wanted: u32,
    },
    /// Nobody says how many partitions there are.
    #[error(
        "the directories were written by a version that does not say how many partitions the cluster \
         has: say it by --partitions (64, unless the cluster was made with another number)"
    )]
    PartitionsUnknown,
    /// A file is damaged.
    #[error(
        "{path}: {reason} in {file} at offset {offset}: restore that file from a backup, or go on \
         without what was lost by --accept-damage"
    )]
    Damaged {
        /// The shard's directory.
        path: PathBuf,
        /// The file in it.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What was found.
        reason: String,
    },
    /// A new directory cannot be made.
    #[error("cannot make {path}: check that there is room and who may write there")]
    Into {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
