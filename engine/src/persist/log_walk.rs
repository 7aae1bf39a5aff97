//! Walking a log from a position to its end, and telling a torn tail from damage.
//!
//! Every batch says up to where the log was durable when it was closed. A bad frame at or behind the
//! highest such position was never promised to anybody: the log ends there. One before it was
//! durable once: it is damage, is reported, and the walk goes on at the next valid frame.

use super::{
    frame::{Frame, FrameError, HEADER_BYTES, Header, Kind},
    limits::{BLOCK_BYTES, FRAME_ALIGNMENT, RECORD_BYTES_MAX},
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

/// Walks the log from a position. `durable` is a position known from elsewhere to have been durable.
pub(crate) fn walk(
    storage: &mut dyn Storage,
    memory: &mut ScanMemory,
    files: &LogFiles,
    from: u64,
    durable: u64,
    visitor: &mut dyn Visitor,
) -> Result<Walked, StorageError> {
    let mut walk = Walk { files, durable, batch_end: 0, walked: Walked::default() };
    walk.walked.tail.log_id = files.log_id;
    walk.walked.tail.last_sequence = files.last_sequence;
    walk.walked.tail.free.clone_from(&files.free);
    walk.walked.tail.position = from;
    let mut stopped = false;
    if let Some(sequence) = files.missing {
        walk.lost(from, format!("segment {sequence} of the log is missing"), visitor);
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
        let (end_sequence, end_offset) =
            (walk.walked.tail.end_sequence, walk.walked.tail.end_offset);
        stopped = matches!(walk.segment(storage, memory, index, from, visitor)?, Step::Stopped);
        let offset = walk.walked.tail.end_offset;
        if offset == 0 {
            // Not even its superblock arrived: the log ends with the segment before.
            walk.walked.tail.end_sequence = end_sequence;
            walk.walked.tail.end_offset = end_offset;
            walk.walked.tail.free.push((link.name.clone(), link.file_bytes));
            continue;
        }
        walk.walked.tail.live.push(LiveSegment {
            name: link.name.clone(),
            base: link.base,
            end: offset,
            file_bytes: link.file_bytes,
        });
    }
    let (position, durable) = (walk.walked.tail.position, walk.durable);
    if position < durable && walk.walked.damage.is_empty() {
        let reason = format!("the log ends here, but was durable up to position {durable}");
        walk.lost(position, reason, visitor);
    }
    Ok(walk.walked)
}

impl Walk<'_> {
    /// Notes that a part of the log is not there at all.
    fn lost(&mut self, position: u64, reason: String, visitor: &mut dyn Visitor) {
        let place = Place { file: "the log".to_owned(), offset: position, position };
        let bad = BadFrame { place, reason, partition: None, lsn: None, skipped_bytes: 0 };
        visitor.damage(&bad);
        self.walked.damage.push(bad);
    }

    fn segment(
        &mut self,
        storage: &mut dyn Storage,
        memory: &mut ScanMemory,
        index: usize,
        from: u64,
        visitor: &mut dyn Visitor,
    ) -> Result<Step, StorageError> {
        let files = self.files;
        let link = &files.chain[index];
        let limit = link.end.unwrap_or(link.file_bytes);
        let mut offset = link.start.max(from.saturating_sub(link.base));
        if limit == 0 {
            self.end_at(link, 0);
            return Ok(Step::Ended);
        }
        match &link.superblock {
            Some(superblock) => visitor.superblock(link.base, superblock),
            None => {
                let bad = BadFrame {
                    place: Place { file: link.name.clone(), offset: 0, position: link.base },
                    reason: "the superblock cannot be read".to_owned(),
                    partition: None,
                    lsn: None,
                    skipped_bytes: link.start,
                };
                // Written with the first batch: durable if that was.
                if self.durable_bound(storage, memory, index, link.start)? <= link.base {
                    self.end_at(link, 0);
                    self.walked.torn = Some(TornTail { place: bad.place, reason: bad.reason });
                    return Ok(Step::Stopped);
                }
                visitor.damage(&bad);
                self.walked.damage.push(bad);
            }
        }
        loop {
            self.end_at(link, offset);
            if offset >= limit {
                return Ok(Step::Ended);
            }
            let (stopped_at, reason) =
                self.frames(storage, memory, link, offset, limit, visitor)?;
            self.end_at(link, stopped_at);
            let Some((reason, header)) = reason else { return Ok(Step::Ended) };
            offset = stopped_at;
            let place = Place { file: link.name.clone(), offset, position: link.base + offset };
            let batches_before = self.walked.tail.last_batch;
            let bound = self.durable_bound(storage, memory, index, offset)?;
            if link.base + offset >= bound {
                // Between two batches, with nothing behind, it is simply the end.
                if link.base + offset < self.batch_end
                    || self.walked.tail.last_batch > batches_before
                    || link.end.is_some()
                {
                    self.walked.torn = Some(TornTail { place, reason });
                }
                return Ok(Step::Stopped);
            }
            let next = resynchronise(storage, memory, link, offset, limit)?;
            let bad = BadFrame {
                place,
                reason,
                partition: header.map(|header| header.partition),
                lsn: header.map(|header| header.lsn),
                skipped_bytes: next.unwrap_or(limit) - offset,
            };
            visitor.damage(&bad);
            self.walked.damage.push(bad);
            offset = next.unwrap_or(limit);
        }
    }

    /// Visits frames until one is bad. Returns where, and why unless the limit was reached.
    #[expect(clippy::type_complexity, reason = "a reason and the header it concerns")]
    fn frames(
        &mut self,
        storage: &mut dyn Storage,
        memory: &mut ScanMemory,
        link: &Link,
        offset: u64,
        limit: u64,
        visitor: &mut dyn Visitor,
    ) -> Result<(u64, Option<(String, Option<Header>)>), StorageError> {
        let mut reader = Reader::new(storage, memory, link.file, offset, limit);
        loop {
            let offset = reader.offset();
            if offset >= limit {
                return Ok((offset, None));
            }
            let bytes = match reader.bytes(HEADER_BYTES) {
                Ok(bytes) => bytes,
                Err(error) => return Ok((offset, Some((error.source.to_string(), None)))),
            };
            let (header, length) = match Header::decode(bytes, link.salt) {
                Ok(decoded) => decoded,
                Err(error) => return Ok((offset, Some((error.to_string(), None)))),
            };
            if length > RECORD_BYTES_MAX {
                let error = FrameError::Length { length };
                return Ok((offset, Some((error.to_string(), None))));
            }
            let bytes = match reader.bytes(length) {
                Ok(bytes) => bytes,
                Err(error) => return Ok((offset, Some((error.source.to_string(), None)))),
            };
            let frame = match Frame::decode(bytes, link.salt) {
                Ok(frame) => frame,
                Err(error) => {
                    let known = header.kind.is_record().then_some(header);
                    return Ok((offset, Some((error.to_string(), known))));
                }
            };
            let position = link.base + offset;
            if let Some(batch) = Batch::from_header(&header) {
                if batch.position != position {
                    let reason = format!("a batch of position {} lies here", batch.position);
                    return Ok((offset, Some((reason, None))));
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

    /// The highest position that anything from here on says was durable.
    fn durable_bound(
        &mut self,
        storage: &mut dyn Storage,
        memory: &mut ScanMemory,
        index: usize,
        offset: u64,
    ) -> Result<u64, StorageError> {
        let mut bound = self.durable;
        let mut last_batch = self.walked.tail.last_batch;
        for (at, link) in self.files.chain.iter().enumerate().skip(index) {
            let start = if at == index { offset } else { link.start };
            let start = start.next_multiple_of(BLOCK_BYTES as u64);
            let limit = link.end.unwrap_or(link.file_bytes);
            let mut reader = Reader::new(storage, memory, link.file, start, limit);
            while reader.offset() < limit {
                // An unreadable part promises nothing; the walk itself reports it.
                let Ok(bytes) = reader.bytes(BLOCK_BYTES) else { break };
                if bytes.len() < BLOCK_BYTES {
                    break;
                }
                if let Ok((header, _)) = Header::decode(bytes, link.salt)
                    && let Some(batch) = Batch::from_header(&header)
                    && batch.position == link.base + reader.offset()
                {
                    bound = bound.max(batch.durable);
                    last_batch = last_batch.max(batch.number);
                }
                reader.advance(BLOCK_BYTES);
            }
        }
        self.durable = bound;
        self.walked.tail.last_batch = last_batch;
        Ok(bound)
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
            let Ok(bytes) = reader.bytes(HEADER_BYTES) else { break };
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
        // An unreadable block: go on behind it.
        start = (start + 1).next_multiple_of(BLOCK_BYTES as u64);
    }
    Ok(None)
}
