//! Removes files that no checkpoint names any more, a piece at a time. A device that discards the blocks of a long
//! file does nothing else meanwhile, not even the log's writes. A fifth of a millisecond per MiB is common, and
//! removing a whole file discards all of it at once.
//!
//! ```text
//!  open | give a piece back | sync | pause | give the next one back | sync | .. | close | remove
//! ```
//!
//! The sync ends a transaction of the file system's journal, where it has one: pieces given back within
//! one would be discarded together.

use std::{collections::VecDeque, time::Duration};

use super::{CheckpointConfig, OWNER};
use crate::persist::{
    manifest::{Manifest, data_number, manifest_number},
    storage::{Completion, FileId, Operation, Outcome, Storage, StorageError, Token},
};

/// Marks the completions of removals among those of checkpoints.
pub(super) const REMOVAL: u64 = 2;

/// Files to be removed, the first of which is under way.
#[derive(Debug)]
pub(super) struct Removals {
    piece_bytes: u64,
    /// From one piece to the next.
    pause: Duration,
    files: VecDeque<Old>,
    step: Step,
    submitted: bool,
    /// Not before this.
    due: Duration,
}

/// A file that nobody needs.
#[derive(Debug)]
struct Old {
    name: String,
    length: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Open,
    Release { file: FileId, at: u64 },
    Sync { file: FileId, at: u64 },
    Close { file: FileId },
    Remove,
}

#[cfg(test)]
impl super::Checkpointer {
    /// Whether there are files to be removed, be it that the disk is at one.
    pub(in crate::persist) fn is_removing(&self) -> bool {
        !self.removals.is_empty()
    }
}

impl Removals {
    pub(super) fn new(config: &CheckpointConfig) -> Self {
        let piece_bytes = config.release_bytes.max(1);
        // As fast as checkpoints are written, so that old ones do not pile up.
        let nanoseconds = (u128::from(piece_bytes) * 1_000_000_000)
            .checked_div(u128::from(config.bytes_per_second))
            .unwrap_or(0);
        let pause = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        Self {
            piece_bytes,
            pause,
            files: VecDeque::new(),
            step: Step::Open,
            submitted: false,
            due: Duration::ZERO,
        }
    }

    /// Adds a file, behind the others.
    pub(super) fn push(&mut self, name: String, length: u64) {
        self.files.push_back(Old { name, length });
    }

    /// Whether no file is left.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// When [`Removals::step`] has something to do, unless it waits for the disk.
    pub(super) fn due(&self) -> Option<Duration> {
        (!self.submitted && !self.files.is_empty()).then_some(self.due)
    }

    /// Does what is due: at most one operation.
    pub(super) fn step(&mut self, storage: &mut dyn Storage, now: Duration) {
        if self.due().is_none_or(|due| now < due) {
            return;
        }
        let Some(old) = self.files.front() else { return };
        if self.step == Step::Open && old.length <= self.piece_bytes {
            self.step = Step::Remove;
        }
        let name = old.name.clone();
        let operation = match self.step {
            Step::Open => Operation::Open { name, create: false },
            Step::Release { file, at } => {
                self.due = now + self.pause;
                let length = self.piece_bytes.min(old.length - at);
                Operation::Release { file, offset: at, length }
            }
            Step::Sync { file, .. } => Operation::Sync { file },
            Step::Close { file } => Operation::Close { file },
            Step::Remove => Operation::Remove { name },
        };
        // A piece is synced at once: the pause is between pieces.
        self.submitted = storage.submit(Token::new(OWNER, REMOVAL), operation).is_ok();
    }

    /// Goes on behind the operation under way.
    pub(super) fn complete(&mut self, completion: Completion) {
        self.submitted = false;
        let Some(old) = self.files.front() else { return };
        self.step = match completion.result {
            Ok(outcome) => self.behind(old, outcome),
            Err(error) => self.after(&error),
        };
        if self.step == Step::Open {
            self.files.pop_front();
        }
    }

    fn behind(&self, old: &Old, outcome: Outcome) -> Step {
        match (self.step, outcome) {
            (Step::Open, Outcome::Opened(file)) => Step::Release { file, at: 0 },
            (Step::Release { file, at }, _) => Step::Sync { file, at: at + self.piece_bytes },
            (Step::Sync { file, at }, _) if at < old.length => Step::Release { file, at },
            (Step::Sync { file, .. }, _) => Step::Close { file },
            (Step::Close { .. }, _) => Step::Remove,
            (Step::Open | Step::Remove, _) => Step::Open,
        }
    }

    /// Not every file system gives pieces back: then all of it at once. A file that cannot be removed is
    /// left for the next start.
    fn after(&self, error: &StorageError) -> Step {
        tracing::debug!(%error, reason = %error.source, "cleaning up after a checkpoint");
        match self.step {
            Step::Release { file, .. } | Step::Sync { file, .. } => Step::Close { file },
            Step::Open | Step::Close { .. } => Step::Remove,
            Step::Remove => Step::Open,
        }
    }
}

/// The number of the checkpoint that a file is of.
pub(super) fn number_of(name: &str) -> Option<u64> {
    data_number(name).or_else(|| manifest_number(name))
}

/// Whether a file is a left-over that no checkpoint that is kept names.
pub(super) fn is_stale(name: &str, kept: &[Manifest]) -> bool {
    if let Some(number) = data_number(name) {
        return !kept.iter().flat_map(|kept| &kept.files).any(|file| file.number == number);
    }
    manifest_number(name).is_some_and(|number| kept.iter().all(|kept| kept.number != number))
        || (name.starts_with("manifest-") && name.ends_with(".new"))
}

#[cfg(test)]
mod tests {
    use std::{io, os::unix::fs::MetadataExt};

    use super::*;
    use crate::persist::storage::{Listed, Provider, RegionId, StorageReport, open};

    /// Notes what it is asked for.
    #[derive(Debug, Default)]
    struct Asked(Vec<Operation>);

    impl Storage for Asked {
        fn report(&self) -> &StorageReport {
            unreachable!("nobody asks")
        }

        fn register(&mut self, _: windlass_transport::Pages) -> Result<RegionId, StorageError> {
            unreachable!("nobody asks")
        }

        fn list(&mut self) -> Result<Vec<Listed>, StorageError> {
            Ok(Vec::new())
        }

        fn submit(&mut self, _: Token, operation: Operation) -> Result<(), Operation> {
            self.0.push(operation);
            Ok(())
        }

        fn poll(&mut self, _: &mut Vec<Completion>) {}

        fn wait(&mut self, _: Duration) {}
    }

    /// What is asked for until all files are gone, and how long that takes. `refused` fails.
    fn remove_all(removals: &mut Removals, refused: Option<&str>) -> (Vec<Operation>, Duration) {
        let mut storage = Asked::default();
        let mut now = Duration::ZERO;
        while let Some(due) = removals.due() {
            now = now.max(due);
            removals.step(&mut storage, now);
            let operation = storage.0.last().unwrap();
            let result = match operation {
                _ if refused == Some(operation.name()) => Err(StorageError {
                    operation: operation.name(),
                    name: "old".to_owned(),
                    source: io::ErrorKind::Unsupported.into(),
                }),
                Operation::Open { .. } => Ok(Outcome::Opened(FileId(3))),
                _ => Ok(Outcome::Done),
            };
            removals.complete(Completion { token: Token::new(OWNER, REMOVAL), result });
        }
        assert!(removals.is_empty());
        (storage.0, now)
    }

    fn of(bytes_per_second: u64) -> Removals {
        let config =
            CheckpointConfig { bytes_per_second, release_bytes: 1000, ..Default::default() };
        let mut removals = Removals::new(&config);
        removals.push("short".to_owned(), 1000);
        removals.push("old".to_owned(), 2500);
        removals
    }

    #[test]
    fn a_long_file_is_given_back_in_pieces_with_pauses() {
        let file = FileId(3);
        let remove = |name: &str| Operation::Remove { name: name.to_owned() };
        let release = |offset, length| Operation::Release { file, offset, length };
        let sync = || Operation::Sync { file };
        let (asked, took) = remove_all(&mut of(100_000), None);
        assert_eq!(
            asked,
            [
                remove("short"),
                Operation::Open { name: "old".to_owned(), create: false },
                release(0, 1000),
                sync(),
                release(1000, 1000),
                sync(),
                release(2000, 500),
                sync(),
                Operation::Close { file },
                remove("old"),
            ]
        );
        // A hundredth of a second for each piece.
        assert_eq!(took, Duration::from_millis(30));
        assert_eq!(remove_all(&mut of(0), None).1, Duration::ZERO);
    }

    #[test]
    fn space_comes_back_before_the_file_goes() {
        for provider in [Provider::Buffered, Provider::Automatic] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("old");
            std::fs::write(&path, vec![7; 256 << 10]).unwrap();
            let mut storage = open(directory.path(), provider).unwrap();
            let config = CheckpointConfig { release_bytes: 64 << 10, ..Default::default() };
            let mut removals = Removals::new(&config);
            removals.push("old".to_owned(), 256 << 10);
            let mut completions = Vec::new();
            let (mut now, mut sizes) = (Duration::ZERO, Vec::new());
            while !removals.is_empty() {
                if matches!(removals.step, Step::Release { .. })
                    && let Ok(metadata) = std::fs::metadata(&path)
                {
                    assert_eq!(metadata.len(), 256 << 10);
                    sizes.push(metadata.blocks());
                }
                now += Duration::from_millis(1);
                removals.step(storage.as_mut(), now);
                while removals.submitted {
                    storage.poll(&mut completions);
                    completions.drain(..).for_each(|done| removals.complete(done));
                    storage.wait(Duration::from_millis(10));
                }
            }
            sizes.dedup();
            assert_eq!(sizes.len(), 4, "{sizes:?}");
            assert!(sizes.is_sorted_by(|before, after| before > after), "{sizes:?}");
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_file_goes_whatever_is_refused() {
        for refused in ["open", "give back space of", "sync", "close"] {
            let (asked, _) = remove_all(&mut of(0), Some(refused));
            assert!(matches!(asked.last(), Some(Operation::Remove { name }) if name == "old"));
        }
        let (asked, _) = remove_all(&mut of(0), Some("remove"));
        assert_eq!(asked.iter().filter(|asked| asked.name() == "remove").count(), 2);
    }
}
