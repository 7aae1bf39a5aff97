//! What a shard holds: its storage, its log and its checkpointer, polled together.

use std::time::Duration;

use super::{
    checkpoint::{
        self, CheckpointConfig, CheckpointError, CheckpointProgress, CheckpointSource, Checkpointer,
    },
    commit::Position,
    limits::{CHECKPOINT_FAILURES_MAX, CHECKPOINT_RETRY_MS},
    log::{Log, LogConfig},
    memory::Window,
    poison::Poison,
    recovery::RecoveredDirectory,
    storage::{Completion, Storage, StorageError},
};

/// Persistence of one shard.
#[derive(Debug)]
pub struct Persistence {
    storage: Box<dyn Storage>,
    /// Reserve, fill and seal here.
    pub log: Log,
    checkpointer: Checkpointer,
    completions: Vec<Completion>,
    polled: bool,
    /// Checkpoints that failed since one was published, and when the last of them did.
    failures: u32,
    failed_at: Option<Duration>,
}

impl Persistence {
    /// Goes on where recovery of the shard's own directory ended; `RecoveredDirectory::default()`
    /// for a new one. Blocks until the log has its first segments.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(
        mut storage: Box<dyn Storage>,
        log: &LogConfig,
        checkpoint: CheckpointConfig,
        ring: Window,
        recovered: &RecoveredDirectory,
    ) -> Result<Self, StorageError> {
        let log = Log::open(storage.as_mut(), log, ring, &recovered.tail)?;
        let kept = recovered.manifest.iter().chain(&recovered.older).cloned().collect();
        let checkpointer = Checkpointer::open(storage.as_mut(), checkpoint, kept)?;
        Ok(Self {
            storage,
            log,
            checkpointer,
            completions: Vec::with_capacity(64),
            polled: false,
            failures: 0,
            failed_at: None,
        })
    }

    /// Once per turn, after sealing: writes what should be written now.
    pub fn flush(&mut self, now: Duration) {
        self.log.flush(self.storage.as_mut(), now);
    }

    /// Whether the disk may be waited for within a call, however long it takes.
    pub fn set_in_place(&mut self, may: bool) {
        self.storage.set_in_place(may);
    }

    /// Tells the device what was flushed, ahead of the next poll, which does so anyway.
    pub fn begin(&mut self) {
        self.storage.begin();
    }

    /// Once per turn: takes in what the disk has done. Returns the log's durable position, which
    /// releases acknowledgements.
    pub fn poll(&mut self) -> Position {
        self.storage.poll(&mut self.completions);
        self.polled = !self.completions.is_empty();
        for completion in self.completions.drain(..) {
            match completion.token.owner() {
                checkpoint::OWNER => self.checkpointer.complete(completion),
                _ => self.log.complete(self.storage.as_mut(), completion),
            }
        }
        self.log.durable()
    }

    /// Whether the last poll found anything. If so, there may be more to submit: do not sleep yet.
    #[must_use]
    pub fn has_polled(&self) -> bool {
        self.polled
    }

    /// Begins a checkpoint: at the end of a turn, when every sealed record is applied. Not right after
    /// one that failed, unless the log needs it to go on.
    pub fn start_checkpoint(&mut self, source: &mut dyn CheckpointSource, now: Duration) -> bool {
        let retry = Duration::from_millis(CHECKPOINT_RETRY_MS);
        let is_early = self.failed_at.is_some_and(|failed| now.saturating_sub(failed) < retry);
        if is_early && !self.log.is_nearly_full() {
            return false;
        }
        // Ends the open batch, so that the log is needed from here and not from its start.
        self.log.flush_all(self.storage.as_mut());
        self.checkpointer.start(&self.log, source, now)
    }

    /// Once per turn: copies at most `budget_bytes` of the checkpoint being taken.
    pub fn step_checkpoint(
        &mut self,
        source: &mut dyn CheckpointSource,
        now: Duration,
        budget_bytes: usize,
    ) -> CheckpointProgress {
        let Self { storage, log, checkpointer, .. } = self;
        let was_running = checkpointer.is_running();
        let progress = checkpointer.step(storage.as_mut(), log, source, now, budget_bytes);
        // Here, so that what the device makes of it counts as the checkpoint's.
        checkpointer.end_turn(storage.begin());
        if let CheckpointProgress::Published { .. } = progress {
            (self.failures, self.failed_at) = (0, None);
        } else if was_running && progress == CheckpointProgress::Idle {
            self.failures += 1;
            self.failed_at = Some(now);
            self.stop_without_checkpoints();
        }
        progress
    }

    /// Between checkpoints: removes what they have left behind, a piece at a time.
    pub fn remove_old(&mut self, now: Duration) {
        self.checkpointer.remove_old(self.storage.as_mut(), now);
        self.storage.begin();
    }

    /// When [`Persistence::remove_old`] has something to do, unless it waits for the disk.
    #[must_use]
    pub fn removal_due(&self) -> Option<Duration> {
        self.checkpointer.removal_due()
    }

    /// Whoever waits for room in a full log waits for a checkpoint. When none succeeds, the log stops
    /// instead, and says why.
    fn stop_without_checkpoints(&mut self) {
        if self.failures < CHECKPOINT_FAILURES_MAX || !self.log.is_nearly_full() {
            return;
        }
        match self.checkpointer.failure() {
            // Nothing is wrong with the disk: a later attempt may find one.
            Some(CheckpointError::Storage(error)) if error.is_for_want_of_descriptors() => {}
            Some(error) => self.log.stop(Poison::without_checkpoints(error)),
            None => {}
        }
    }

    /// Writes everything sealed as soon as may be, whatever its level.
    pub fn flush_all(&mut self) {
        self.log.flush_all(self.storage.as_mut());
    }

    /// Whether a checkpoint is being taken.
    #[must_use]
    pub fn is_checkpointing(&self) -> bool {
        self.checkpointer.is_running()
    }

    /// The checkpointer, for its state.
    #[must_use]
    pub fn checkpointer(&mut self) -> &mut Checkpointer {
        &mut self.checkpointer
    }

    /// The storage, for its report and for sleeping on.
    #[must_use]
    pub fn storage(&self) -> &dyn Storage {
        self.storage.as_ref()
    }

    /// Sleeps until the disk has something to report.
    pub fn wait(&mut self, timeout: Duration) {
        self.storage.wait(timeout);
    }

    /// Writes everything sealed and waits for it, at the end of a process. False when the log is
    /// poisoned, or the disk does not answer in time.
    pub fn close(&mut self, timeout: Duration) -> bool {
        let step = Duration::from_millis(50);
        let mut waited = Duration::ZERO;
        loop {
            self.log.flush_all(self.storage.as_mut());
            self.poll();
            let is_written = self.log.is_idle() && self.log.poison().is_none();
            if is_written && self.log.conclude(self.storage.as_mut()) {
                return true;
            }
            if self.log.poison().is_some() || waited >= timeout {
                return is_written;
            }
            self.storage.wait(step);
            waited += step;
        }
    }
}

#[cfg(test)]
#[path = "persistence_tests.rs"]
mod tests;
