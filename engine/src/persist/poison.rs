//! Why a log has stopped acknowledging. After a failed or short write, a failed sync or a full disk
//! nobody knows what is on disk, so nothing more is promised: the partitions of the log leave their
//! chains, reads go on, and a restart recovers what was acknowledged.

use std::{io, sync::Arc};

use super::{checkpoint::CheckpointError, storage::StorageError};

/// The reason, cheap to clone: every refused push carries it.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the log stopped at {file} offset {offset} ({trouble}): repair or free the disk, then restart"
)]
pub struct Poison {
    /// The file.
    pub file: Arc<str>,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What happened.
    pub trouble: Trouble,
    /// The system's reason.
    #[source]
    pub source: Arc<io::Error>,
}

/// What a device did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// A write failed.
    #[error("a write failed")]
    Write,
    /// A write ended early.
    #[error("a write ended early")]
    ShortWrite,
    /// No segment could be prepared, because the disk is full.
    #[error("the disk is full")]
    Full,
    /// All segments are in use, and no checkpoint that would give them back succeeds.
    #[error("no room is left, and checkpoints fail")]
    Checkpoints,
    /// No segment could be prepared, for another reason.
    #[error("no new segment could be prepared")]
    Prepare,
}

impl Poison {
    /// From a checkpoint that failed, when only a checkpoint makes room.
    #[must_use]
    pub fn without_checkpoints(error: &CheckpointError) -> Self {
        let (file, source) = match error {
            CheckpointError::Storage(error) => (error.name.as_str(), copy_of(&error.source)),
            other => ("a checkpoint", io::Error::other(other.to_string())),
        };
        let trouble = Trouble::Checkpoints;
        Self { file: file.into(), offset: 0, trouble, source: Arc::new(source) }
    }

    /// From a failed operation.
    #[must_use]
    pub fn new(trouble: Trouble, offset: u64, error: StorageError) -> Self {
        let trouble = if error.is_full() { Trouble::Full } else { trouble };
        Self { file: error.name.into(), offset, trouble, source: Arc::new(error.source) }
    }
}

/// The same error once more: the first one is still to be reported where it happened.
fn copy_of(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
