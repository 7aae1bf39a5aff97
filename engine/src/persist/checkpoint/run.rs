//! One checkpoint being taken, stage by stage.

use std::time::SystemTime;

use super::{BUFFERS, CheckpointError, rate::Rate};
use crate::persist::{
    commit::Position,
    log::Log,
    manifest::{DataFile, Manifest},
    storage::{FileId, Outcome},
};

#[derive(Debug)]
pub(super) struct Run {
    pub(super) stage: Stage,
    pub(super) submitted: bool,
    pub(super) manifest: Manifest,
    pub(super) full: bool,
    pub(super) file: Option<FileId>,
    pub(super) manifest_file: Option<FileId>,
    pub(super) file_offset: u64,
    pub(super) blocks: u64,
    /// Which partition is being copied, and whether that has begun.
    pub(super) at: usize,
    pub(super) begun: bool,
    pub(super) buffers: [BufferState; BUFFERS],
    pub(super) filling: usize,
    pub(super) rate: Rate,
    /// Log position that must be durable before publication.
    pub(super) target: Position,
    /// Why it is being given up: once nothing is under way any more.
    pub(super) error: Option<CheckpointError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BufferState {
    Free,
    Filled {
        used: usize,
    },
    /// Full, and to be written from `at` on; the file has it at `offset`.
    Ready {
        used: usize,
        offset: u64,
        at: usize,
    },
    /// A piece of it is being written, up to `to`.
    Writing {
        used: usize,
        offset: u64,
        at: usize,
        to: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    OpenData,
    Copy,
    DrainData,
    SyncData,
    CloseData,
    AwaitLog,
    OpenManifest,
    WriteManifest,
    SyncManifest,
    CloseManifest,
    /// What the manifest names has to be there wherever the manifest is.
    SyncNames,
    Rename,
    SyncDirectory,
}

impl Run {
    /// Goes to the next stage after its operation succeeded.
    pub(super) fn advance(&mut self, outcome: Outcome) -> Option<CheckpointError> {
        self.stage = match (self.stage, outcome) {
            (Stage::OpenData, Outcome::Opened(file)) => {
                self.file = Some(file);
                Stage::Copy
            }
            (Stage::SyncData, _) => Stage::CloseData,
            (Stage::CloseData, _) => {
                self.file = None;
                Stage::AwaitLog
            }
            (Stage::OpenManifest, Outcome::Opened(file)) => {
                self.manifest_file = Some(file);
                Stage::WriteManifest
            }
            (Stage::WriteManifest, outcome) => {
                if let Some(error) = short_write(self.manifest.length(), outcome) {
                    return Some(error);
                }
                Stage::SyncManifest
            }
            (Stage::SyncManifest, _) => Stage::CloseManifest,
            (Stage::CloseManifest, _) => Stage::SyncNames,
            (Stage::SyncNames, _) => Stage::Rename,
            (Stage::Rename, _) => Stage::SyncDirectory,
            (Stage::SyncDirectory, _) => {
                self.manifest_file = None;
                Stage::SyncDirectory
            }
            (stage, _) => stage,
        };
        None
    }

    /// Bytes copied so far, those that are not written yet included.
    pub(super) fn copied(&self) -> u64 {
        let BufferState::Filled { used } = self.buffers[self.filling] else {
            return self.file_offset;
        };
        self.file_offset + used as u64
    }

    /// Whether the device holds nothing of it.
    pub(super) fn is_quiet(&self) -> bool {
        let writing = |state: &BufferState| matches!(state, BufferState::Writing { .. });
        !self.submitted && !self.buffers.iter().any(writing)
    }

    pub(super) fn finish_manifest(&mut self, log: &Log) {
        for entry in &mut self.manifest.partitions {
            entry.end = entry.end.max(log.last_lsn(entry.partition));
        }
        let full = self.full;
        let (number, length, blocks) = (self.manifest.number, self.file_offset, self.blocks);
        if !self.manifest.files.iter().any(|file| file.number == number) {
            self.manifest.files.push(DataFile { number, length, blocks, full });
        }
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.manifest.published_seconds = since.map_or(0, |since| since.as_secs());
    }
}

pub(super) fn short_write(wanted: usize, outcome: Outcome) -> Option<CheckpointError> {
    match outcome {
        Outcome::Transferred(written) if written as usize == wanted => None,
        Outcome::Transferred(written) => Some(CheckpointError::ShortWrite { wanted, written }),
        Outcome::Opened(_) | Outcome::Done => None,
    }
}
