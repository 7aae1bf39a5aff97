//! Checkpoints: fuzzy (pushes go on), incremental (changed blocks only), a bounded piece per turn.
//!
//! ```text
//!  data file:  | CheckpointHeader | block | block | .. | Pad | block | .. | CheckpointEnd | Pad |
//!
//!  CheckpointHeader (header only)      CheckpointBlock                   CheckpointEnd (header only)
//!   lsn        number                   lsn        LSN when copied        lsn        number
//!   row_start  identity of the log      epoch      epoch when copied      row_count  blocks
//!                                       partition, table, dtype
//!                                       row_start  index of the block
//!                                       row_count  the engine's own
//!                                       tag        section
//!                                       delta      the block's bytes
//! ```
//!
//! Why a fuzzy copy is enough: the log is kept from where the checkpoint began, each block says at
//! which LSN it was copied, and recovery applies to a block only the records after that. Before the
//! manifest is published the log is durable beyond every copied block, so that no block is ahead of
//! the log it belongs to.

use std::time::Duration;

use windlass_wire::{Epoch, Lsn, PartitionId};

use super::{
    commit::Position,
    frame::{HEADER_BYTES, Header, Kind, Salt},
    limits::{CHECKPOINT_BLOCK_BYTES_MAX, CHECKPOINT_FILES_MAX, RELEASE_BYTES, STAGING_BYTES},
    log::Log,
    manifest::{
        CheckpointPartition, Manifest, data_name, manifest_name, manifest_number, temporary_name,
    },
    memory::Window,
    poison::Poison,
    storage::{Buffer, Completion, Operation, RegionId, Storage, StorageError, Token},
};

mod copy;
mod pace;
mod rate;
mod removal;
mod run;
mod source;

pub use source::{BlockHead, CheckpointSource, Extent, Next};

use pace::Pace;
use rate::Rate;
use removal::{REMOVAL, Removals, is_stale, number_of};
use run::{BufferState, Run, Stage, short_write};

/// Marks this submitter's tokens.
pub(crate) const OWNER: u8 = 3;

const BUFFERS: usize = 4;
const SINGLE: u64 = 0;
const IGNORED: u64 = 1;
/// Tokens of staging writes: this plus the buffer's index.
const STAGING: u64 = 16;

/// How checkpoints are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointConfig {
    /// Most bytes per second while requests come in, so that pushes keep the disk; zero for no limit.
    /// There is none either where the log would be full before the checkpoint ends.
    pub bytes_per_second: u64,
    /// The same while no requests come in.
    pub idle_bytes_per_second: u64,
    /// An increment becomes full when increments hold more than this many hundredths of the full
    /// file's bytes.
    pub increments_percent: u64,
    /// Files that are no longer needed give their space back in pieces of so many bytes, as fast as
    /// checkpoints are written beside requests: a device may do nothing else while it takes one.
    pub release_bytes: u64,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            bytes_per_second: 64 << 20,
            idle_bytes_per_second: 256 << 20,
            increments_percent: 100,
            release_bytes: RELEASE_BYTES,
        }
    }
}

/// Takes checkpoints of one shard, one at a time.
#[derive(Debug)]
pub struct Checkpointer {
    config: CheckpointConfig,
    window: Window,
    region: RegionId,
    last: Manifest,
    /// The one before, if the last one has all its files: recovery begins there when the last one's
    /// manifest cannot be read and the log still reaches back.
    older: Option<Manifest>,
    next_number: u64,
    force_full: bool,
    run: Option<Run>,
    /// Why the last attempt failed, until somebody asks.
    failure: Option<CheckpointError>,
    removals: Removals,
    pace: Pace,
    bytes_written: u64,
}

/// Where a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointProgress {
    /// None is being taken.
    Idle,
    /// One is being taken.
    Running {
        /// Blocks copied so far.
        blocks: u64,
        /// Bytes written so far.
        bytes: u64,
    },
    /// One was published in this step.
    Published {
        /// Its number.
        number: u64,
    },
}

/// Why a checkpoint was given up. The log keeps everything; the next attempt is a full one.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The disk refused.
    #[error("the checkpoint was given up: free or repair the disk")]
    Storage(#[from] StorageError),
    /// The log has stopped: blocks may hold what it does not.
    #[error("the checkpoint was given up because the log is poisoned")]
    Log(#[from] Poison),
    /// A write ended early.
    #[error("the checkpoint was given up: a write of {wanted} bytes ended after {written}")]
    ShortWrite {
        /// Bytes to write.
        wanted: usize,
        /// Bytes written.
        written: u32,
    },
    /// The engine's block does not fit any buffer.
    #[error("a block of partition {partition} is longer than {CHECKPOINT_BLOCK_BYTES_MAX} bytes")]
    BlockTooLong {
        /// The partition.
        partition: PartitionId,
    },
}

impl Checkpointer {
    /// Goes on after the newest checkpoint, if there is one, and keeps all that are given, newest first.
    ///
    /// # Errors
    /// When there is no memory for staging.
    pub fn open(
        storage: &mut dyn Storage,
        config: CheckpointConfig,
        kept: Vec<Manifest>,
    ) -> Result<Self, StorageError> {
        let window = Window::allocate(BUFFERS * STAGING_BYTES).map_err(|source| StorageError {
            operation: "allocate memory for",
            name: "checkpoints".to_owned(),
            source,
        })?;
        let region = storage.register(window.pages().clone())?;
        let listed = storage.list()?;
        // A failed attempt may have left files of higher numbers.
        let newest = listed.iter().filter_map(|file| number_of(&file.name)).max();
        let newest_manifest = listed.iter().filter_map(|file| manifest_number(&file.name)).max();
        // Unless a newer manifest could not be read: then its files are left for whoever repairs it.
        let mut removals = Removals::new(&config);
        let number = kept.first().map_or(0, |last| last.number);
        if newest_manifest.is_none_or(|newest| newest <= number) {
            for file in listed.into_iter().filter(|file| is_stale(&file.name, &kept)) {
                removals.push(file.name, file.length);
            }
        }
        let mut kept = kept.into_iter();
        let last = kept.next().unwrap_or_default();
        let force_full = last.number == 0;
        Ok(Self {
            config,
            window,
            region,
            next_number: newest.unwrap_or(0).max(last.number) + 1,
            last,
            older: kept.next(),
            force_full,
            run: None,
            failure: None,
            removals,
            pace: Pace::new(),
            bytes_written: 0,
        })
    }

    /// Begins a checkpoint, at the end of a turn, when every sealed record is applied. False when
    /// one is being taken already or the log is poisoned.
    pub fn start(&mut self, log: &Log, source: &mut dyn CheckpointSource, now: Duration) -> bool {
        if self.run.is_some() || log.poison().is_some() {
            return false;
        }
        let number = self.next_number;
        self.next_number += 1;
        // While old files wait to be removed new ones are short: what lies on the disk stays bounded.
        let full = self.force_full || self.increments_too_large();
        let (log_position, log_sequence) = log.checkpoint_position();
        let mut manifest = Manifest {
            number,
            log_position,
            log_sequence,
            log_id: log.log_id(),
            files: if full { Vec::new() } else { self.last.files.clone() },
            ..Manifest::default()
        };
        for partition in source.partitions() {
            manifest.partitions.push(CheckpointPartition {
                partition,
                begin: Lsn(0),
                end: Lsn(0),
                epoch: Epoch(0),
                first_file: number,
            });
        }
        let mut buffers = [BufferState::Free; BUFFERS];
        let header =
            Header { lsn: number, row_start: log.log_id(), ..Header::of(Kind::CheckpointHeader) };
        header.seal(self.window.bytes_mut(0, HEADER_BYTES), Salt::NONE);
        buffers[0] = BufferState::Filled { used: HEADER_BYTES };
        self.run = Some(Run {
            stage: Stage::OpenData,
            submitted: false,
            manifest,
            full,
            file: None,
            manifest_file: None,
            file_offset: 0,
            blocks: 0,
            at: 0,
            begun: false,
            buffers,
            filling: 0,
            rate: Rate::new(now, source.requests(), log.room_bytes()),
            target: Position(0),
            error: None,
        });
        true
    }

    /// Whether a checkpoint is being taken.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.run.is_some()
    }

    /// Whether every block of the checkpoint being taken is copied, and none is published yet.
    #[must_use]
    pub fn has_copied(&self) -> bool {
        let stage = self.run.as_ref().map(|run| run.stage);
        matches!(stage, Some(Stage::DrainData | Stage::SyncData))
    }

    /// The newest checkpoint, if there is one.
    #[must_use]
    pub fn last(&self) -> Option<&Manifest> {
        (self.last.number > 0).then_some(&self.last)
    }

    /// Bytes of data files and manifests so far, those of checkpoints that were given up included.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    /// Why the last attempt failed, until [`Checkpointer::take_failure`] takes it.
    #[must_use]
    pub fn failure(&self) -> Option<&CheckpointError> {
        self.failure.as_ref()
    }

    /// Why the last attempt failed, once.
    pub fn take_failure(&mut self) -> Option<CheckpointError> {
        self.failure.take()
    }

    /// Once per turn: copies at most `budget_bytes`, and sees to the rest of the work.
    pub fn step(
        &mut self,
        storage: &mut dyn Storage,
        log: &mut Log,
        source: &mut dyn CheckpointSource,
        now: Duration,
        budget_bytes: usize,
    ) -> CheckpointProgress {
        self.remove_old(storage, now);
        let Some(mut run) = self.run.take() else { return CheckpointProgress::Idle };
        if run.error.is_none() {
            match self.step_run(&mut run, storage, log, source, now, budget_bytes) {
                Ok(true) => return self.publish(run, log, source),
                Ok(false) => {}
                Err(error) => run.error = Some(error),
            }
        }
        if run.is_quiet()
            && let Some(error) = run.error.take()
        {
            self.give_up(storage, &run, error, source);
            return CheckpointProgress::Idle;
        }
        let (blocks, bytes) = (run.blocks, run.file_offset);
        self.run = Some(run);
        CheckpointProgress::Running { blocks, bytes }
    }

    /// Gives a piece of what is no longer needed back, when one is due. A checkpoint's steps do, too.
    pub fn remove_old(&mut self, storage: &mut dyn Storage, now: Duration) {
        self.removals.step(storage, now);
    }

    /// When [`Checkpointer::remove_old`] has something to do, unless it waits for the disk.
    #[must_use]
    pub fn removal_due(&self) -> Option<Duration> {
        self.removals.due()
    }

    /// The turn's submissions were handed to the device, which took so long.
    pub fn end_turn(&mut self, took: Duration) {
        self.pace.end_turn(took);
    }

    /// Takes in a completion of this checkpointer's own.
    pub fn complete(&mut self, completion: Completion) {
        let value = completion.token.value();
        if value == IGNORED {
            if let Err(error) = completion.result {
                tracing::debug!(%error, "cleaning up after a checkpoint");
            }
            return;
        }
        if value == REMOVAL {
            self.removals.complete(completion);
            return;
        }
        let Some(run) = &mut self.run else { return };
        let mut piece = None;
        if value >= STAGING {
            let index = usize::try_from(value - STAGING).unwrap_or(usize::MAX);
            let Some(state) = run.buffers.get_mut(index) else { return };
            if let BufferState::Writing { used, offset, at, to } = *state {
                piece = Some(to - at);
                *state = match to == used {
                    true => BufferState::Free,
                    false => BufferState::Ready { used, offset, at: to },
                };
            }
        } else {
            run.submitted = false;
        }
        let error = match (completion.result, piece) {
            (Err(error), _) => Some(error.into()),
            (Ok(outcome), Some(length)) => short_write(length, outcome),
            (Ok(outcome), None) => run.advance(outcome),
        };
        run.error = run.error.take().or(error);
    }

    fn step_run(
        &mut self,
        run: &mut Run,
        storage: &mut dyn Storage,
        log: &mut Log,
        source: &mut dyn CheckpointSource,
        now: Duration,
        budget_bytes: usize,
    ) -> Result<bool, CheckpointError> {
        if run.stage == Stage::Copy {
            self.copy(run, storage, log, source, now, budget_bytes)?;
        }
        if run.stage == Stage::DrainData {
            self.write_ready(run, storage);
            if run.buffers.iter().all(|state| *state == BufferState::Free) {
                run.stage = Stage::SyncData;
            }
        }
        if run.stage == Stage::AwaitLog {
            if let Some(poison) = log.poison() {
                return Err(poison.clone().into());
            }
            if log.durable() < run.target {
                log.flush_all(storage);
            } else {
                run.stage = Stage::OpenManifest;
            }
        }
        if run.submitted {
            return Ok(false);
        }
        let number = run.manifest.number;
        let operation = match (run.stage, run.file, run.manifest_file) {
            (Stage::Copy | Stage::DrainData | Stage::AwaitLog, ..) => return Ok(false),
            (Stage::OpenData, ..) => Operation::Open { name: data_name(number), create: true },
            (Stage::SyncData, Some(file), _) => Operation::Sync { file },
            (Stage::CloseData, Some(file), _) => {
                run.target = log.end();
                run.finish_manifest(log);
                Operation::Close { file }
            }
            (Stage::OpenManifest, ..) => {
                Operation::Open { name: temporary_name(number), create: true }
            }
            (Stage::WriteManifest, _, Some(file)) => {
                run.manifest.log_durable = log.durable().0;
                let length = run.manifest.length();
                run.manifest.encode(self.window.bytes_mut(0, length));
                self.bytes_written += length as u64;
                let length = u32::try_from(length).expect("a manifest is short");
                let buffer = Buffer { region: self.region, start: 0, length };
                Operation::Write { file, offset: 0, buffer, durable: false }
            }
            (Stage::SyncManifest, _, Some(file)) => Operation::Sync { file },
            (Stage::CloseManifest, _, Some(file)) => Operation::Close { file },
            (Stage::Rename, ..) => {
                Operation::Rename { from: temporary_name(number), to: manifest_name(number) }
            }
            (Stage::SyncDirectory, None, None) => return Ok(true),
            (Stage::SyncNames | Stage::SyncDirectory, ..) => Operation::SyncDirectory,
            _ => unreachable!("every stage has its file"),
        };
        run.submitted = storage.submit(Token::new(OWNER, SINGLE), operation).is_ok();
        Ok(false)
    }

    fn publish(
        &mut self,
        run: Run,
        log: &mut Log,
        source: &mut dyn CheckpointSource,
    ) -> CheckpointProgress {
        let number = run.manifest.number;
        log.truncate(Position(run.manifest.log_position));
        self.remove_older();
        let last = std::mem::replace(&mut self.last, run.manifest);
        // Where all its files stay, it costs nothing; others would hold twice the space.
        let is_shared = last.files.iter().all(|file| self.last.files.contains(file));
        self.older = (last.number > 0).then_some(last);
        if !is_shared {
            self.remove_older();
        }
        self.force_full = false;
        source.published(&self.last);
        CheckpointProgress::Published { number }
    }

    /// Has the older checkpoint removed, but for what the last one needs.
    fn remove_older(&mut self) {
        let Some(older) = self.older.take() else { return };
        self.removals.push(manifest_name(older.number), older.length() as u64);
        for old in older.files {
            if !self.last.files.iter().any(|file| file.number == old.number) {
                self.removals.push(data_name(old.number), old.length);
            }
        }
    }

    fn give_up(
        &mut self,
        storage: &mut dyn Storage,
        run: &Run,
        error: CheckpointError,
        source: &mut dyn CheckpointSource,
    ) {
        for file in [run.file, run.manifest_file].into_iter().flatten() {
            // A refused submission leaves a file open until the end of the process.
            let _ = storage.submit(Token::new(OWNER, IGNORED), Operation::Close { file });
        }
        tracing::warn!(%error, number = run.manifest.number, "a checkpoint was given up");
        // Renamed, its manifest may have become the newest one in spite of the error.
        if run.stage != Stage::SyncDirectory {
            self.removals.push(data_name(run.manifest.number), run.file_offset);
            self.removals.push(temporary_name(run.manifest.number), 0);
        }
        self.failure = Some(error);
        self.force_full = true;
        source.abandoned();
    }

    fn increments_too_large(&self) -> bool {
        let bytes = |full| -> u64 {
            self.last.files.iter().filter(|file| file.full == full).map(|file| file.length).sum()
        };
        self.last.files.len() >= CHECKPOINT_FILES_MAX
            || self.removals.is_empty()
                && bytes(false) > bytes(true) / 100 * self.config.increments_percent
    }
}
