//! The segment files of one log: which is written, which are kept for recovery, which are free, and
//! the preparation of new ones, step by step and never blocking.
//!
//! A new file is reserved, written full of zeros and synced before use: a write into it later
//! changes no metadata, so that one flush makes it durable.

use std::{collections::VecDeque, io, time::Duration};

use super::{
    frame::Salt,
    limits::{BLOCK_BYTES, SEGMENT_BYTES_MIN, SEGMENTS_MAX},
    log::LogConfig,
    memory::Window,
    segment::{LogTail, file_name, file_number},
    storage::{
        Buffer, Completion, FileId, Operation, Outcome, RegionId, Storage, StorageError, Token,
    },
};

mod space;

use space::Space;

/// Marks this submitter's tokens.
pub(crate) const OWNER: u8 = 2;

const ZERO_BYTES: usize = 256 << 10;

/// A token whose completion nobody waits for.
const IGNORED: u64 = 1;
/// The token of the one step of preparation under way.
const PREPARE: u64 = 0;

/// All segments of a log.
#[derive(Debug)]
pub(crate) struct Segments {
    pub(crate) space: Space,
    /// Bytes of free ones that have room for the longest record so far.
    bytes_spare: u64,
    /// Bytes of zeros written into new ones.
    pub(crate) bytes_prepared: u64,
    spare_target: u64,
    zeros: RegionId,
    /// Keeps the zeros mapped.
    _zeros: Window,
    slots: Vec<Slot>,
    free: VecDeque<usize>,
    preparing: Option<Preparing>,
    /// Operations under way that remove a half-prepared file.
    removing: u32,
    next_number: u32,
    failure: Option<StorageError>,
}

#[derive(Debug)]
struct Slot {
    name: String,
    file: FileId,
    bytes: u64,
    /// Log positions of its first byte and of its end, while it holds records.
    holds: Option<(u64, Option<u64>)>,
}

#[derive(Debug)]
struct Preparing {
    name: String,
    bytes: u64,
    file: Option<FileId>,
    step: Step,
    /// Whether the step's operation is under way.
    submitted: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Open,
    Allocate,
    Zero { offset: u64 },
    Sync,
    SyncDirectory,
}

/// The segment being written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Active {
    pub(crate) slot: usize,
    pub(crate) file: FileId,
    pub(crate) sequence: u64,
    pub(crate) salt: Salt,
    pub(crate) base: u64,
    /// Where the next batch goes, in bytes of the file.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl Segments {
    /// Takes over what recovery found, and prepares at least two free segments. Blocks.
    pub(crate) fn open(
        storage: &mut dyn Storage,
        config: &LogConfig,
        tail: &LogTail,
    ) -> Result<Self, StorageError> {
        let zero_window = Window::allocate(ZERO_BYTES).map_err(|source| StorageError {
            operation: "allocate memory for",
            name: "a new segment".to_owned(),
            source,
        })?;
        let zeros = storage.register(zero_window.pages().clone())?;
        let mut segments = Self {
            space: Space::new(config),
            bytes_spare: 0,
            bytes_prepared: 0,
            spare_target: config.segments_spare.max(1) as u64,
            zeros,
            _zeros: zero_window,
            slots: Vec::with_capacity(64),
            free: VecDeque::with_capacity(64),
            preparing: None,
            removing: 0,
            next_number: 0,
            failure: None,
        };
        for live in &tail.live {
            let holds = Some((live.base, Some(live.base + live.end)));
            segments.adopt(storage, &live.name, live.file_bytes, holds)?;
        }
        for (name, bytes) in &tail.free {
            // Only a file that was fully prepared keeps the promise of no metadata writes.
            let is_whole = *bytes >= SEGMENT_BYTES_MIN && bytes.is_multiple_of(BLOCK_BYTES as u64);
            if is_whole && segments.space.fits(*bytes) {
                segments.adopt(storage, name, *bytes, None)?;
            } else {
                super::storage::run(storage, Operation::Remove { name: name.clone() })?;
                segments.note_number(name);
            }
        }
        segments.count_spare();
        let wanted = segments.spare_target.max(2);
        let mut completions = Vec::new();
        loop {
            if segments.preparing.is_some() || segments.lacks_spare(wanted) {
                segments.step(storage, wanted);
            }
            // Whoever waits for an operation of its own next must not meet the end of one of these.
            if segments.preparing.is_none() && segments.removing == 0 {
                break;
            }
            storage.poll(&mut completions);
            for completion in completions.drain(..) {
                segments.complete(storage, completion);
            }
            if segments.is_waiting() {
                storage.wait(Duration::from_millis(100));
            }
        }
        if segments.free.is_empty()
            && let Some(failure) = segments.failure.take()
        {
            return Err(failure);
        }
        Ok(segments)
    }

    /// Whether an operation is under way.
    fn is_waiting(&self) -> bool {
        self.removing > 0 || self.preparing.as_ref().is_some_and(|preparing| preparing.submitted)
    }

    fn adopt(
        &mut self,
        storage: &mut dyn Storage,
        name: &str,
        bytes: u64,
        holds: Option<(u64, Option<u64>)>,
    ) -> Result<(), StorageError> {
        let file = super::storage::open_file(storage, name, false)?;
        self.note_number(name);
        self.add(Slot { name: name.to_owned(), file, bytes, holds });
        Ok(())
    }

    fn add(&mut self, slot: Slot) {
        self.space.add(slot.bytes, slot.holds.is_some());
        if slot.holds.is_none() {
            self.free.push_back(self.slots.len());
        }
        self.slots.push(slot);
    }

    fn note_number(&mut self, name: &str) {
        if let Some(number) = file_number(name) {
            self.next_number = self.next_number.max(number + 1);
        }
    }

    /// Makes a free segment that has room for so many bytes the one being written, or `None` when there
    /// is none.
    pub(crate) fn activate(
        &mut self,
        log_id: u64,
        sequence: u64,
        base: u64,
        needed: u64,
    ) -> Option<Active> {
        let needed = needed.min(self.space.longest_made);
        let at = self.free.iter().position(|slot| self.slots[*slot].bytes >= needed)?;
        let slot = self.free.remove(at)?;
        self.slots[slot].holds = Some((base, None));
        self.space.used += self.slots[slot].bytes;
        self.count_spare();
        Some(Active {
            slot,
            file: self.slots[slot].file,
            sequence,
            salt: Salt::of_segment(log_id, sequence),
            base,
            offset: 0,
            bytes: self.slots[slot].bytes,
        })
    }

    /// Ends the segment being written.
    pub(crate) fn finish(&mut self, active: &Active) {
        self.slots[active.slot].holds = Some((active.base, Some(active.base + active.offset)));
    }

    /// Gives back segments that end at or before a log position.
    pub(crate) fn recycle(&mut self, position: u64) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if matches!(slot.holds, Some((_, Some(end))) if end <= position) {
                slot.holds = None;
                self.space.used -= slot.bytes;
                self.free.push_back(index);
            }
        }
        self.count_spare();
        self.space.shrink();
        // Space may have come back with them.
        self.failure = None;
    }

    pub(crate) fn name(&self, slot: usize) -> &str {
        &self.slots[slot].name
    }

    /// Why no segment can be prepared.
    pub(crate) fn take_failure(&mut self) -> Option<StorageError> {
        self.failure.take()
    }

    /// Whether a free segment will be there without anybody's help.
    pub(crate) fn is_preparing(&self) -> bool {
        self.preparing.is_some()
    }

    pub(crate) fn free_count(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn count(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn set_bytes_max(&mut self, bytes: u64) {
        self.space.set_max(bytes);
    }

    /// Whether a free segment has room for this many bytes.
    pub(crate) fn has_free(&self, needed: u64) -> bool {
        let needed = needed.min(self.space.longest_made);
        // Those counted have room for the most that was ever needed.
        (needed <= self.space.needed && self.bytes_spare > 0)
            || self.free.iter().any(|slot| self.slots[*slot].bytes >= needed)
    }

    /// Sees to it that there will be a segment with room for so many bytes. False when only records that
    /// are no longer needed, or a disk that takes more, can bring one.
    pub(crate) fn ask_for(&mut self, needed: u64) -> bool {
        let needed = needed.min(self.space.longest_made);
        if needed > self.space.needed {
            self.space.needed = needed;
            self.count_spare();
        }
        self.preparing.as_ref().is_some_and(|preparing| preparing.bytes >= needed)
            || self.may_grow()
    }

    /// Notes how many bytes filled a segment, and in how much time.
    pub(crate) fn note_filled(&mut self, bytes: u64, took: Duration) {
        self.space.note_filled(bytes, took);
    }

    /// Whether another one may be prepared.
    fn may_grow(&self) -> bool {
        let preparing = self.preparing.as_ref().map_or(0, |preparing| preparing.bytes);
        self.failure.is_none()
            && self.slots.len() < SEGMENTS_MAX
            && (self.space.fits(preparing + self.space.next()) || self.space.is_too_short())
    }

    fn lacks_spare(&self, wanted: u64) -> bool {
        self.bytes_spare < wanted * self.space.next() && self.may_grow()
    }

    fn count_spare(&mut self) {
        let lengths = self.free.iter().map(|slot| self.slots[*slot].bytes);
        self.bytes_spare = lengths.filter(|bytes| *bytes >= self.space.needed).sum();
    }

    /// Prepares one more segment when fewer than wanted are free, a bounded piece at a time.
    pub(crate) fn step(&mut self, storage: &mut dyn Storage, wanted: u64) {
        if self.preparing.is_none() && self.lacks_spare(wanted) {
            let name = file_name(self.next_number);
            self.next_number += 1;
            let bytes = self.space.next();
            self.preparing =
                Some(Preparing { name, bytes, file: None, step: Step::Open, submitted: false });
        }
        let Some(preparing) = &mut self.preparing else { return };
        if preparing.submitted {
            return;
        }
        let Some(operation) = operation_of(preparing, self.zeros) else { return };
        preparing.submitted = storage.submit(Token::new(OWNER, PREPARE), operation).is_ok();
    }

    /// As [`Segments::step`], up to the configured number of spares.
    pub(crate) fn step_spares(&mut self, storage: &mut dyn Storage) {
        self.step(storage, self.spare_target);
    }

    /// Goes on with a preparation.
    pub(crate) fn complete(&mut self, storage: &mut dyn Storage, completion: Completion) {
        if completion.token.value() == IGNORED {
            self.removing -= 1;
            if let Err(error) = completion.result {
                tracing::debug!(%error, "cleaning up after a failed preparation");
            }
            return;
        }
        let Some(preparing) = &mut self.preparing else { return };
        preparing.submitted = false;
        let file_bytes = preparing.bytes;
        let next = match (preparing.step, completion.result) {
            (_, Err(error)) => Err(error),
            (Step::Open, Ok(Outcome::Opened(file))) => {
                preparing.file = Some(file);
                Ok(Some(Step::Allocate))
            }
            (Step::Allocate, Ok(_)) => Ok(Some(Step::Zero { offset: 0 })),
            (Step::Zero { offset }, Ok(Outcome::Transferred(bytes))) => {
                self.bytes_prepared += u64::from(bytes);
                if u64::from(bytes) == chunk(offset, file_bytes) {
                    let offset = offset + u64::from(bytes);
                    let done = offset == file_bytes;
                    Ok(Some(if done { Step::Sync } else { Step::Zero { offset } }))
                } else {
                    Err(StorageError {
                        operation: "fill",
                        name: preparing.name.clone(),
                        source: io::ErrorKind::StorageFull.into(),
                    })
                }
            }
            (Step::Sync, Ok(_)) => Ok(Some(Step::SyncDirectory)),
            (Step::SyncDirectory, Ok(_)) => Ok(None),
            (Step::Open | Step::Zero { .. }, Ok(_)) => Err(StorageError {
                operation: "prepare",
                name: preparing.name.clone(),
                source: io::ErrorKind::InvalidData.into(),
            }),
        };
        match next {
            Ok(Some(step)) => preparing.step = step,
            Ok(None) => {
                if let Some(Preparing { name, file: Some(file), .. }) = self.preparing.take() {
                    self.add(Slot { name, file, bytes: file_bytes, holds: None });
                    self.count_spare();
                }
            }
            Err(error) => self.give_up(storage, error),
        }
    }

    /// Frees the space of a half-prepared file, and remembers why.
    fn give_up(&mut self, storage: &mut dyn Storage, error: StorageError) {
        tracing::warn!(%error, reason = %error.source, "cannot prepare a log segment");
        if let Some(preparing) = self.preparing.take() {
            let close = preparing.file.map(|file| Operation::Close { file });
            let remove = Operation::Remove { name: preparing.name };
            for operation in close.into_iter().chain([remove]) {
                // Refused submissions leave a file that the next start removes.
                let is_under_way = storage.submit(Token::new(OWNER, IGNORED), operation).is_ok();
                self.removing += u32::from(is_under_way);
            }
        }
        self.failure = Some(error);
    }
}

fn chunk(offset: u64, file_bytes: u64) -> u64 {
    (file_bytes - offset).min(ZERO_BYTES as u64)
}

fn operation_of(preparing: &Preparing, zeros: RegionId) -> Option<Operation> {
    let file_bytes = preparing.bytes;
    Some(match (preparing.step, preparing.file) {
        (Step::Open, _) => Operation::Open { name: preparing.name.clone(), create: true },
        (Step::Allocate, Some(file)) => Operation::Allocate { file, length: file_bytes },
        (Step::Zero { offset }, Some(file)) => Operation::Write {
            file,
            offset,
            buffer: Buffer {
                region: zeros,
                start: 0,
                length: u32::try_from(chunk(offset, file_bytes)).ok()?,
            },
            durable: false,
        },
        (Step::Sync, Some(file)) => Operation::Sync { file },
        (Step::SyncDirectory, _) => Operation::SyncDirectory,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_zeroed_to_its_end_and_not_beyond() {
        let file_bytes = ZERO_BYTES as u64 + (64 << 10);
        assert_eq!(chunk(0, file_bytes), ZERO_BYTES as u64);
        assert_eq!(chunk(ZERO_BYTES as u64, file_bytes), 64 << 10);
        assert_eq!(chunk(file_bytes, file_bytes), 0);
    }
}
