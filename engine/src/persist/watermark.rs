//! The highest log position known to be on disk, in a file beside the log. Each batch of the log witnesses those
//! before it, but nothing in the log witnesses the last batch or reveals a missing segment behind it. So the
//! watermark is renewed at a bounded rate while the log grows, when it comes to rest, and on close.
//!
//! ```text
//!  file `watermark`:  | slot 0 | slot 1 |     a block each, written in turn: one is always whole
//!
//!  slot: a frame of kind Watermark
//!   lsn         number of the writing, from 1: the highest one counts, in slot `number % 2`
//!   epoch       log position known to be durable
//!   row_start   identity of the log
//!   row_count   sequence behind which the segments of this life of the log are numbered
//! ```
//!
//! The sequence is written before the first segment of a life is: whatever a crash leaves of segments,
//! the next life numbers its own beyond them, and no salt is ever used twice.

use std::time::Duration;

use super::{
    frame::{Frame, FrameError, Header, Kind, Salt},
    limits::{BLOCK_BYTES, WATERMARK_INTERVAL},
    memory::Window,
    storage::{
        self, Buffer, Completion, FileId, Listed, Operation, Outcome, RegionId, Storage,
        StorageError, Token,
    },
};

/// Marks this submitter's tokens.
pub(crate) const OWNER: u8 = 5;

/// Name of the file.
pub(crate) const WATERMARK_NAME: &str = "watermark";

const SLOTS: usize = 2;

/// What one writing says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Watermark {
    /// Number of the writing; zero before the first.
    pub(crate) number: u64,
    pub(crate) log_id: u64,
    /// The log is durable up to here at least.
    pub(crate) position: u64,
    /// Segments of the life that wrote this have higher ones.
    pub(crate) sequence: u64,
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Marked {
    /// It was never written.
    Absent,
    Whole(Watermark),
    /// No slot can be read, and one was written.
    Bad {
        reason: String,
        is_foreign: bool,
    },
}

impl Watermark {
    fn encode(&self, into: &mut [u8]) {
        into.fill(0);
        let header = Header {
            lsn: self.number,
            epoch: self.position,
            row_start: self.log_id,
            row_count: self.sequence,
            ..Header::of(Kind::Watermark)
        };
        header.seal(into, Salt::NONE);
    }

    fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let header = Frame::decode(bytes, Salt::NONE)?.header;
        if header.kind != Kind::Watermark {
            return Err(FrameError::Kind { found: header.kind as u8 });
        }
        Ok(Self {
            number: header.lsn,
            log_id: header.row_start,
            position: header.epoch,
            sequence: header.row_count,
        })
    }
}

/// Reads the file of a directory, through memory of at least two blocks. Blocks.
pub(crate) fn read_watermark(
    storage: &mut dyn Storage,
    listed: &[Listed],
    window: &Window,
    region: RegionId,
) -> Result<Marked, StorageError> {
    if !listed.iter().any(|file| file.name == WATERMARK_NAME) {
        return Ok(Marked::Absent);
    }
    let file = storage::open_file(storage, WATERMARK_NAME, false)?;
    let length = u32::try_from(BLOCK_BYTES).expect("a block is short");
    let (mut newest, mut bad, mut blank) = (Watermark::default(), None, false);
    for slot in 0..SLOTS {
        let offset = (slot * BLOCK_BYTES) as u64;
        let read = storage::read(storage, file, offset, Buffer { region, start: 0, length });
        let bytes = read.as_ref().map_or(&[][..], |count| window.bytes(0, *count as usize));
        match (&read, Watermark::decode(bytes)) {
            (Err(error), _) => bad = Some((error.source.to_string(), false)),
            (_, Ok(mark)) if mark.number > newest.number => newest = mark,
            (_, Ok(_)) => {}
            (_, Err(_)) if bytes.iter().all(|&byte| byte == 0) => blank = true,
            (_, Err(error)) => bad = Some((error.to_string(), error.is_foreign())),
        }
    }
    storage::run(storage, Operation::Close { file })?;
    Ok(match bad {
        Some((reason, true)) => Marked::Bad { reason, is_foreign: true },
        // Nothing but damage leaves both slots bad: they are written in turn.
        Some((reason, _)) if newest.number == 0 && !blank => {
            Marked::Bad { reason, is_foreign: false }
        }
        _ if newest.number == 0 => Marked::Absent,
        _ => Marked::Whole(newest),
    })
}

/// The file, being renewed.
#[derive(Debug)]
pub(crate) struct WatermarkFile {
    file: FileId,
    window: Window,
    region: RegionId,
    /// The newest writing that is on disk.
    written: Watermark,
    writing: Option<Watermark>,
    /// The next one is not before this.
    next: Duration,
}

impl WatermarkFile {
    /// Begins a life of the log that `first` describes, whose number is that of the newest writing so
    /// far. Durable when this returns. Blocks.
    pub(crate) fn open(
        storage: &mut dyn Storage,
        mut first: Watermark,
    ) -> Result<Self, StorageError> {
        let window = Window::allocate(BLOCK_BYTES).map_err(|source| StorageError {
            operation: "allocate memory for",
            name: WATERMARK_NAME.to_owned(),
            source,
        })?;
        let region = storage.register(window.pages().clone())?;
        let is_new = first.number == 0;
        let file = storage::open_file(storage, WATERMARK_NAME, is_new)?;
        let (writing, next) = (None, Duration::ZERO);
        let mut this = Self { file, window, region, written: first, writing, next };
        // A new file gets both slots, so that later writes change no metadata.
        for _ in 0..if is_new { SLOTS } else { 1 } {
            first.number += 1;
            let write = this.operation(first);
            let length = BLOCK_BYTES as u64;
            match storage::run(storage, write)? {
                Outcome::Transferred(count) if u64::from(count) == length => this.written = first,
                _ => {
                    return Err(StorageError {
                        operation: "write",
                        name: WATERMARK_NAME.to_owned(),
                        source: std::io::ErrorKind::WriteZero.into(),
                    });
                }
            }
        }
        if is_new {
            storage::run(storage, Operation::Sync { file })?;
            storage::run(storage, Operation::SyncDirectory)?;
        }
        Ok(this)
    }

    /// When [`WatermarkFile::renew`] has something to do, the log being durable up to `durable`.
    pub(crate) fn due(&self, durable: u64) -> Option<Duration> {
        (self.writing.is_none() && durable > self.written.position).then_some(self.next)
    }

    /// Says that the log is durable up to `durable`, if that is due.
    pub(crate) fn renew(&mut self, storage: &mut dyn Storage, durable: u64, now: Duration) {
        if self.due(durable).is_some_and(|due| due <= now) {
            self.next = now + WATERMARK_INTERVAL;
            self.write(storage, durable);
        }
    }

    /// Says so now, unless that is said already or a writing is under way.
    pub(crate) fn write(&mut self, storage: &mut dyn Storage, durable: u64) {
        if self.due(durable).is_none() {
            return;
        }
        let mark = Watermark { number: self.written.number + 1, position: durable, ..self.written };
        let operation = self.operation(mark);
        if storage.submit(Token::new(OWNER, 0), operation).is_ok() {
            self.writing = Some(mark);
        }
    }

    /// Takes in the end of a writing. One that failed is repeated when the next is due.
    pub(crate) fn complete(&mut self, completion: Completion) {
        let mark = self.writing.take().expect("one writing is under way");
        match completion.result {
            Ok(Outcome::Transferred(count)) if count as usize == BLOCK_BYTES => self.written = mark,
            Ok(_) => tracing::warn!("a write of the log's watermark ended early"),
            Err(error) => {
                tracing::warn!(%error, reason = %error.source, "cannot renew the log's watermark");
            }
        }
    }

    /// Whether the file says that the log is durable up to `durable`.
    pub(crate) fn is_current(&self, durable: u64) -> bool {
        self.written.position >= durable
    }

    fn operation(&mut self, mark: Watermark) -> Operation {
        mark.encode(self.window.bytes_mut(0, BLOCK_BYTES));
        let length = u32::try_from(BLOCK_BYTES).expect("a block is short");
        let buffer = Buffer { region: self.region, start: 0, length };
        let offset = mark.number % SLOTS as u64 * BLOCK_BYTES as u64;
        Operation::Write { file: self.file, offset, buffer, durable: true }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::persist::storage::{Provider, open};

    fn read(directory: &Path) -> Marked {
        let mut storage = open(directory, Provider::Buffered).unwrap();
        let window = Window::allocate(2 * BLOCK_BYTES).unwrap();
        let region = storage.register(window.pages().clone()).unwrap();
        let listed = storage.list().unwrap();
        read_watermark(storage.as_mut(), &listed, &window, region).unwrap()
    }

    /// Opens the file of a directory and writes these positions, one after the other.
    fn write(directory: &Path, first: Watermark, positions: &[u64]) {
        let mut storage = open(directory, Provider::Buffered).unwrap();
        let mut file = WatermarkFile::open(storage.as_mut(), first).unwrap();
        let mut completions = Vec::new();
        for position in positions {
            file.write(storage.as_mut(), *position);
            while !file.is_current(*position) {
                storage.wait(Duration::from_millis(10));
                storage.poll(&mut completions);
                completions.drain(..).for_each(|done| file.complete(done));
            }
        }
    }

    fn flip(directory: &Path, offsets: &[usize]) {
        let path = directory.join(WATERMARK_NAME);
        let mut bytes = std::fs::read(&path).unwrap();
        offsets.iter().for_each(|offset| bytes[*offset] ^= 4);
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert_eq!(read(folder), Marked::Absent);
        let mut first = Watermark { number: 0, log_id: 9, position: 0, sequence: 128 };
        write(folder, first, &[4096, 8192]);
        let newest = Watermark { number: 4, position: 8192, ..first };
        assert_eq!(read(folder), Marked::Whole(newest));
        // Number 4 lies in slot 0, number 3 in slot 1.
        flip(folder, &[100]);
        assert_eq!(read(folder), Marked::Whole(Watermark { number: 3, position: 4096, ..first }));
        // The bad slot is the next one to be written.
        (first.number, first.sequence) = (3, 256);
        write(folder, first, &[]);
        assert_eq!(read(folder), Marked::Whole(Watermark { number: 4, ..first }));
        flip(folder, &[100, 5000]);
        assert!(matches!(read(folder), Marked::Bad { is_foreign: false, .. }));
        std::fs::write(folder.join(WATERMARK_NAME), [0; 4096]).unwrap();
        assert_eq!(read(folder), Marked::Absent, "made, and never written");
    }

    #[test]
    fn it_is_renewed_at_a_bounded_rate_and_only_when_the_log_has_grown() {
        let folder = tempfile::tempdir().unwrap();
        let mut storage = open(folder.path(), Provider::Buffered).unwrap();
        let mut file = WatermarkFile::open(storage.as_mut(), Watermark::default()).unwrap();
        let mut completions = Vec::new();
        let mut written = 0;
        for step in 0..1000_u32 {
            let now = WATERMARK_INTERVAL * step / 100;
            file.renew(storage.as_mut(), u64::from(step.min(500)) * 4096, now);
            while file.writing.is_some() {
                storage.poll(&mut completions);
                written += completions.len();
                completions.drain(..).for_each(|done| file.complete(done));
            }
        }
        assert!((5..=7).contains(&written), "{written} in five intervals of growth");
        assert!(file.is_current(500 * 4096));
        assert_eq!(file.due(500 * 4096), None);
    }
}
