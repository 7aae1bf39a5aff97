//! Walking a log from a position to its end, and telling a torn tail from damage.
//!
//! Every batch says up to where the log was durable when it was closed. A bad frame at or behind the
//! highest such position was never promised to anybody: the log ends there. One before it was
//! durable once: it is damage, is reported, and the walk goes on at the next valid frame. The end itself
//! is held against the log's watermark. What cannot be read at all is damage, wherever it is: nobody
//! knows what it was.

use super::{
    frame::{Frame, FrameError, HEADER_BYTES, Header, Kind},
    limits::{BLOCK_BYTES, FRAME_ALIGNMENT, RECORD_BYTES_MAX, SEQUENCE_JUMP_BLIND},
    log_files::{Link, LogFiles},
    scan::{Reader, ScanMemory},
    segment::{Batch, LiveSegment, LogTail, Superblock},
    storage::{Storage, StorageError},
};

/// Where something lies.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Place {
    /// The file.
    pub file: String,
    /// Offset in it, in bytes.
    pub offset: u64,
    /// Position in the log, or in the checkpoint's file, in bytes.
    pub position: u64,
}

/// Something in the middle of the log that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BadFrame {
    /// Where.
    pub place: Place,
    /// What was found.
    pub reason: String,
    /// Partition, table and LSN of the record, when its header can still be read.
    pub partition: Option<u32>,
    /// See `partition`.
    pub lsn: Option<u64>,
    /// Bytes skipped to the next valid frame.
    pub skipped_bytes: u64,
    /// Whether it is sound, and of another version of windlass.
    #[serde(skip)]
    pub is_foreign: bool,
}

impl BadFrame {
    /// Something bad of which no more is known than the file.
    pub(crate) fn of_file(file: &str, position: u64, reason: String) -> Self {
        Self::at(Place { file: file.to_owned(), offset: 0, position }, reason)
    }

    /// A part of the log that is not there, and of which nothing tells in which file it was.
    fn of_log(position: u64, reason: String) -> Self {
        Self::at(Place { file: "the log".to_owned(), offset: position, position }, reason)
    }

    fn at(place: Place, reason: String) -> Self {
        Self { place, reason, partition: None, lsn: None, skipped_bytes: 0, is_foreign: false }
    }
}

/// The end of a log in the middle of writes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TornTail {
    /// Where the valid part ends.
    pub place: Place,
    /// What was found there.
    pub reason: String,
}

/// What a walk tells.
pub(crate) trait Visitor {
    /// A valid frame of any kind.
    fn frame(&mut self, place: &Position<'_>, frame: Frame<'_>) -> Result<(), StorageError>;
    /// A segment begins, and this is known of partitions at its start.
    fn superblock(&mut self, _position: u64, _superblock: &Superblock) {}
    /// Damage, after which frames follow.
    fn damage(&mut self, _bad: &BadFrame) {}
}

/// Where a frame lies, without owning the name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position<'a> {
    pub(crate) file: &'a str,
    pub(crate) offset: u64,
    pub(crate) position: u64,
}

impl Position<'_> {
    pub(crate) fn place(&self) -> Place {
        Place { file: self.file.to_owned(), offset: self.offset, position: self.position }
    }
}

/// What a walk found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Walked {
    pub(crate) tail: LogTail,
    pub(crate) torn: Option<TornTail>,
    pub(crate) damage: Vec<BadFrame>,
    pub(crate) bytes: u64,
    /// Everything before this position was durable for certain.
    pub(crate) durable: u64,
}

/// Where frames end, and why.
struct Break {
    reason: String,
    /// The header of the frame it is in, if that is sound.
    header: Option<Header>,
    /// Whether no torn write looks so.
    is_damage: bool,
    is_foreign: bool,
}

impl Break {
    fn of(error: &FrameError, header: Option<Header>) -> Self {
        let (reason, is_foreign) = (error.to_string(), error.is_foreign());
        Self { reason, header, is_damage: is_foreign, is_foreign }
    }

    fn unread(error: &StorageError, header: Option<Header>) -> Self {
        let reason = format!("it cannot be read: {}", error.source);
        Self { reason, header, is_damage: true, is_foreign: false }
    }
}

struct Walk<'a> {
    files: &'a LogFiles,
    /// Known to have been durable: from batches seen, or from a checkpoint.
    durable: u64,
    /// Log position at which the last batch seen ends.
    batch_end: u64,
    walked: Walked,
}

enum Step {
    Ended,
    Stopped,
}

/// Walks the log from where it is needed.
pub(crate) fn walk(
    storage: &mut dyn Storage,
    memory: &mut ScanMemory,
    files: &LogFiles,
    visitor: &mut dyn Visitor,
) -> Result<Walked, StorageError> {
    let from = files.from;
    let mut walk = Walk { files, durable: files.durable, batch_end: 0, walked: Walked::default() };
    let blind = if files.watermark.is_none() { SEQUENCE_JUMP_BLIND } else { 0 };
    walk.walked.tail.log_id = files.log_id;
    walk.walked.tail.last_sequence = files.last_sequence + blind;
    walk.walked.tail.watermark = files.watermark.map_or(0, |mark| mark.number);
    walk.walked.tail.free.clone_from(&files.free);
    walk.walked.tail.position = from;
    let mut stopped = false;
    let mut last_end = None;
    if let Some(missing) = &files.missing {
        walk.note(BadFrame::of_log(from, missing.clone()), visitor);
    }
    for (index, link) in files.chain.iter().enumerate() {
        let end = link.base + link.end.unwrap_or(link.file_bytes);
        if end <= from && index + 1 < files.chain.len() {
            walk.walked.tail.free.push((link.name.clone(), link.file_bytes));
            continue;
        }
        if stopped {
            // Behind a torn tail: void, and said to be so by the next superblock.
            walk.walked.tail.free.push((link.name.clone(), link.file_bytes));
            continue;
        }
        let before = walk.walked.tail.clone();
        stopped = matches!(walk.segment(storage, memory, index, visitor)?, Step::Stopped);
        let tail = &mut walk.walked.tail;
        let offset = tail.end_offset;
        last_end = Some(Place { file: link.name.clone(), offset, position: link.base + offset });
        if tail.end_offset == 0 || stopped && tail.end_offset == link.start {
            // Not even its first batch arrived: the log ends with the segment before.
            (tail.end_sequence, tail.end_offset) = (before.end_sequence, before.end_offset);
            tail.position = before.position;
            tail.free.push((link.name.clone(), link.file_bytes));
            continue;
        }
        let (name, base, end) = (link.name.clone(), link.base, tail.end_offset);
        tail.live.push(LiveSegment { name, base, end, file_bytes: link.file_bytes });
    }
    // It may hold what comes behind everything that was found.
    for bad in &files.damage {
        walk.note(bad.clone(), visitor);
    }
    let (position, durable) = (walk.walked.tail.position, walk.durable);
    if position < durable {
        let reason = format!(
            "the log ends at position {position}, but was durable up to {durable}: {} bytes of what \
             was acknowledged are missing",
            durable - position
        );
        walk.note(
            match last_end {
                Some(end) => BadFrame::at(Place { position, ..end }, reason),
                None => BadFrame::of_log(position, reason),
            },
            visitor,
        );
        // Whoever goes on without them begins behind: checkpoints and watermarks name positions.
        walk.walked.tail.position = durable;
    }
    walk.walked.durable = durable;
    Ok(walk.walked)
}

impl Walk<'_> {
    fn note(&mut self, bad: BadFrame, visitor: &mut dyn Visitor) {
        visitor.damage(&bad);
        self.walked.damage.push(bad);
    }

    fn segment(
        &mut self,
        storage: &mut dyn Storage,
        memory: &mut ScanMemory,
        index: usize,
        visitor: &mut dyn Visitor,
    ) -> Result<Step, StorageError> {
        let files = self.files;
        let from = files.from;
        let link = &files.chain[index];
        let limit = link.end.unwrap_or(link.file_bytes);
        let mut offset = link.start.max(from.saturating_sub(link.base));
        if limit == 0 {
            self.end_at(link, 0);
            return Ok(Step::Ended);
        }
        match &link.superblock {
            Ok(superblock) => visitor.superblock(link.base, superblock),
            Err(head) => {
                let reason = format!("the superblock cannot be used: {}", head.reason);
                let bad = BadFrame {
                    skipped_bytes: link.start,
                    is_foreign: head.is_foreign,
                    ..BadFrame::of_file(&link.name, link.base, reason)
                };
                // Written with the first batch: durable if that was.
                let (bound, unread) = self.durable_bound(storage, memory, index, link.start)?;
                if !head.is_damage && unread.is_none() && bound <= link.base {
                    self.end_at(link, 0);
                    self.walked.torn = Some(TornTail { place: bad.place, reason: bad.reason });
                    return Ok(Step::Stopped);
                }
                self.note(bad, visitor);
            }
        }
        loop {
            self.end_at(link, offset);
            if offset >= limit {
                return Ok(Step::Ended);
            }
            let (stopped_at, found) = self.frames(storage, memory, link, offset, limit, visitor)?;
            self.end_at(link, stopped_at);
            let Some(mut found) = found else { return Ok(Step::Ended) };
            offset = stopped_at;
            let place = Place { file: link.name.clone(), offset, position: link.base + offset };
            let batches_before = self.walked.tail.last_batch;
            let (bound, unread) = self.durable_bound(storage, memory, index, offset)?;
            if let Some(unread) = unread
                && !found.is_damage
            {
                found.is_damage = true;
                found.reason = format!("{}, and behind it {unread}", found.reason);
            }
            if !found.is_damage && link.base + offset >= bound {
                // Between two batches, with nothing behind, it is simply the end.
                if link.base + offset < self.batch_end
                    || self.walked.tail.last_batch > batches_before
                    || link.end.is_some()
                {
                    self.walked.torn = Some(TornTail { place, reason: found.reason });
                }
                return Ok(Step::Stopped);
            }
            let next = resynchronise(storage, memory, link, offset, limit)?;
            let is_last = link.end.is_none() && index + 1 == files.chain.len();
            if !found.is_damage && found.header.is_none() && next.is_none() && is_last {
                // Nothing of the rest is here: how much that is, the end of the walk tells.
                return Ok(Step::Stopped);
            }
            let bad = BadFrame {
                place,
                reason: found.reason,
                partition: found.header.map(|header| header.partition),
                lsn: found.header.map(|header| header.lsn),
                skipped_bytes: next.unwrap_or(limit) - offset,
                is_foreign: found.is_foreign,
            };
            self.note(bad, visitor);
            offset = next.unwrap_or(limit);
        }
    }

    /// Visits frames until one is bad. Returns where, and why unless the limit was reached.
    fn frames(
        &mut self,
        storage: &mut dyn Storage,
        memory: &mut ScanMemory,
        link: &Link,
        offset: u64,
        limit: u64,
        visitor: &mut dyn Visitor,
    ) -> Result<(u64, Option<Break>), StorageError> {
        let mut reader = Reader::new(storage, memory, link.file, offset, limit);
        loop {
            let offset = reader.offset();
            if offset >= limit {
                return Ok((offset, None));
            }
            let (header, length) = match reader.bytes(HEADER_BYTES) {
                Ok(bytes) => match Header::decode(bytes, link.salt) {
                    Ok(decoded) => decoded,
                    Err(error) => return Ok((offset, Some(Break::of(&error, None)))),
                },
                Err(error) => return Ok((offset, Some(Break::unread(&error, None)))),
            };
            if length > RECORD_BYTES_MAX {
                return Ok((offset, Some(Break::of(&FrameError::Length { length }, None))));
            }
            let known = header.kind.is_record().then_some(header);
            let frame = match reader.bytes(length) {
                Ok(bytes) => match Frame::decode(bytes, link.salt) {
                    Ok(frame) => frame,
                    Err(error) => return Ok((offset, Some(Break::of(&error, known)))),
                },
                Err(error) => return Ok((offset, Some(Break::unread(&error, known)))),
            };
            let position = link.base + offset;
            if let Some(batch) = Batch::from_header(&header) {
                if batch.position != position {
                    let reason = format!("a batch of position {} lies here", batch.position);
                    let (header, is_damage, is_foreign) = (None, false, false);
                    let found = Break { reason, header, is_damage, is_foreign };
                    return Ok((offset, Some(found)));
                }
                self.durable = self.durable.max(batch.durable);
                self.batch_end = position.saturating_add(batch.length);
                self.walked.tail.last_batch = self.walked.tail.last_batch.max(batch.number);
            }
            visitor.frame(&Position { file: &link.name, offset, position }, frame)?;
            self.walked.bytes += length as u64;
            reader.advance(length);
        }
    }

    fn end_at(&mut self, link: &Link, offset: u64) {
        self.walked.tail.position = link.base + offset;
        self.walked.tail.end_sequence = link.sequence;
        self.walked.tail.end_offset = offset;
    }

    /// The highest position that anything from here on says was durable, and what of it cannot be read.
    fn durable_bound(
        &mut self,
        storage: &mut dyn Storage,
        memory: &mut ScanMemory,
        index: usize,
        offset: u64,
    ) -> Result<(u64, Option<String>), StorageError> {
        let (mut bound, mut unread) = (self.durable, None);
        let mut last_batch = self.walked.tail.last_batch;
        for (at, link) in self.files.chain.iter().enumerate().skip(index) {
            let start = if at == index { offset } else { link.start };
            let start = start.next_multiple_of(BLOCK_BYTES as u64);
            let limit = link.end.unwrap_or(link.file_bytes);
            let mut reader = Reader::new(storage, memory, link.file, start, limit);
            while reader.offset() < limit {
                let offset = reader.offset();
                let bytes = match reader.bytes(BLOCK_BYTES) {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        let (name, source) = (&link.name, error.source);
                        unread =
                            Some(format!("offset {offset} of {name} cannot be read: {source}"));
                        break;
                    }
                };
                if bytes.len() < BLOCK_BYTES {
                    break;
                }
                if let Ok((header, _)) = Header::decode(bytes, link.salt)
                    && let Some(batch) = Batch::from_header(&header)
                    && batch.position == link.base + offset
                {
                    bound = bound.max(batch.durable);
                    last_batch = last_batch.max(batch.number);
                }
                reader.advance(BLOCK_BYTES);
            }
        }
        self.durable = bound;
        self.walked.tail.last_batch = last_batch;
        Ok((bound, unread))
    }
}

/// The next place after a bad frame where a valid one starts.
fn resynchronise(
    storage: &mut dyn Storage,
    memory: &mut ScanMemory,
    link: &Link,
    offset: u64,
    limit: u64,
) -> Result<Option<u64>, StorageError> {
    let mut start = offset + FRAME_ALIGNMENT as u64;
    while start < limit {
        let mut reader = Reader::new(storage, memory, link.file, start, limit);
        loop {
            let at = reader.offset();
            if at >= limit {
                return Ok(None);
            }
            let Ok(bytes) = reader.bytes(HEADER_BYTES) else {
                // An unreadable block: go on behind it.
                start = (at + 1).next_multiple_of(BLOCK_BYTES as u64);
                break;
            };
            if bytes.len() < HEADER_BYTES {
                return Ok(None);
            }
            if let Ok((header, length)) = Header::decode(bytes, link.salt)
                && length <= RECORD_BYTES_MAX
                && header.kind != Kind::Superblock
            {
                // A header alone counts: if its body is bad, that is the next damage, with a name.
                return Ok(Some(at));
            }
            reader.advance(FRAME_ALIGNMENT);
        }
    }
    Ok(None)
}
