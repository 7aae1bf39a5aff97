//! Batches: one write of the log each, from its first reservation to the end of its write.

use std::time::Duration;

use windlass_wire::PartitionId;

use super::{Full, Log, OWNER, ReserveError};
use crate::persist::{
    commit::Position,
    frame::{HEADER_BYTES, Header, Kind},
    limits::{BATCH_BYTES_TARGET, BATCHES_MAX, BLOCK_BYTES},
    poison::{Poison, Trouble},
    ring::Room,
    segment::{Batch, Superblock},
    segments::Active,
    storage::{Buffer, Operation, Storage, Token},
};

/// A batch between its first reservation and the release of its write.
#[derive(Debug)]
pub(super) struct PendingBatch {
    /// Ring cursor of its first byte, the superblock's if it starts a segment.
    pub(super) start: u64,
    /// Bytes of superblock before the Batch frame.
    superblock: u64,
    pub(super) length: u64,
    pub(super) active: Active,
    /// Log position of its first byte.
    pub(super) position: u64,
    /// Reservations not yet sealed.
    pub(super) filling: u32,
    /// When it has to be written at the latest; `None` for whenever it is convenient.
    pub(super) deadline: Option<Duration>,
    /// Whether an acknowledgement waits for it.
    pub(super) awaited: bool,
    pub(super) ended: bool,
    pub(super) written: bool,
}

impl Log {
    pub(super) fn batch_mut(&mut self, number: u64) -> &mut PendingBatch {
        let index = usize::try_from(number - self.first_batch).expect("a batch in the queue");
        &mut self.batches[index]
    }

    pub(super) fn make_room(
        &mut self,
        partition: PartitionId,
        length: usize,
        delay: Option<Duration>,
        now: Duration,
    ) -> Result<(u64, u64), ReserveError> {
        if let Some(poison) = &self.poison {
            return Err(poison.clone().into());
        }
        assert!(self.partitions.contains(partition), "partition {partition} was not added");
        if length > self.record_bytes_max() {
            let limit_bytes = self.record_bytes_max();
            return Err(ReserveError::TooLong { length, limit_bytes });
        }
        if let Err(full) = self.open_batch(length as u64) {
            self.statistics.refused += 1;
            if let Some(batch) = self.batches.back_mut() {
                // Whatever its levels say, it now stands in the way.
                batch.deadline = Some(now);
            }
            return Err(full.into());
        }
        let cursor = self.ring.take(length as u64);
        let number = self.first_batch + self.batches.len() as u64 - 1;
        let batch = self.batches.back_mut().expect("open_batch left one");
        batch.length += length as u64;
        if let Some(delay) = delay {
            let deadline = now + delay;
            batch.deadline = Some(batch.deadline.map_or(deadline, |old| old.min(deadline)));
        }
        Ok((cursor, number))
    }

    /// Sees to it that the last batch is open and has room for `length` more bytes.
    fn open_batch(&mut self, length: u64) -> Result<(), Full> {
        if let Some(batch) = self.batches.back()
            && !batch.ended
        {
            let end = batch.position - batch.active.base + batch.length + length;
            let fits_segment = end.next_multiple_of(BLOCK_BYTES as u64) <= batch.active.bytes;
            let small = batch.length < BATCH_BYTES_TARGET as u64;
            match self.ring.room(length) {
                Room::Here if fits_segment && small => return Ok(()),
                Room::Full => return Err(Full::Ring),
                Room::Here | Room::AfterGap => self.end_batch(),
            }
        }
        if self.batches.len() >= BATCHES_MAX {
            return Err(Full::Writes);
        }
        self.begin_batch(length)
    }

    fn begin_batch(&mut self, length: u64) -> Result<(), Full> {
        if self.ring.used() == 0 {
            self.ring.rewind();
            self.durable_cursor = self.ring.tail();
        }
        let block = BLOCK_BYTES as u64;
        let header = HEADER_BYTES as u64;
        let needed = (header + length).next_multiple_of(block);
        let fits = |active: &Active| active.offset + needed <= active.bytes;
        let fresh = !self.active.as_ref().is_some_and(fits);
        let superblock = if fresh { Superblock::length(self.partitions.count()) as u64 } else { 0 };
        let room = self.ring.room(superblock + header + length);
        if room == Room::Full {
            return Err(Full::Ring);
        }
        if fresh {
            self.next_segment(superblock + needed)?;
        }
        if room == Room::AfterGap {
            self.ring.leave_gap();
        }
        let active = self.active.expect("a segment is active");
        let start = self.ring.take(superblock + header);
        if fresh {
            self.write_superblock(start, superblock, &active);
        }
        // Completed when the batch is submitted; until then it can be walked over.
        let frame = self.ring.bytes_mut(start + superblock, HEADER_BYTES);
        Header::of(Kind::Batch).seal(frame, active.salt);
        self.batches.push_back(PendingBatch {
            start,
            superblock,
            length: superblock + header,
            active,
            position: active.base + active.offset,
            filling: 0,
            deadline: None,
            awaited: false,
            ended: false,
            written: false,
        });
        Ok(())
    }

    /// Goes on in a free segment that has room for so many bytes.
    fn next_segment(&mut self, needed: u64) -> Result<(), Full> {
        if !self.segments.has_free(needed) {
            self.poison_without_segments();
            let is_made = self.segments.ask_for(needed);
            return Err(if is_made { Full::Preparing } else { Full::Segments });
        }
        let base = match self.active.take() {
            Some(active) => {
                self.segments.finish(&active);
                self.previous = (active.sequence, active.offset);
                active.base + active.offset
            }
            None => self.durable.0,
        };
        self.last_sequence += 1;
        self.active = self.segments.activate(self.log_id, self.last_sequence, base, needed);
        Ok(())
    }

    /// Nothing is free, nothing is being prepared because that failed: only a restart helps. Asked
    /// when the next record goes into a segment that is not there.
    fn poison_without_segments(&mut self) {
        // Without a descriptor nothing has happened to the disk: the next step tries again.
        if let Some(failure) = self.segments.take_failure()
            && !failure.is_for_want_of_descriptors()
        {
            self.stop(Poison::new(Trouble::Prepare, 0, failure));
        }
    }

    /// The same before there is such a record, once none fits any more.
    pub(super) fn poison_when_stuck(&mut self) {
        let exhausted = self
            .active
            .as_ref()
            .is_none_or(|active| active.offset + 2 * BLOCK_BYTES as u64 > active.bytes);
        if exhausted {
            self.poison_without_segments();
        }
    }

    fn write_superblock(&mut self, cursor: u64, length: u64, active: &Active) {
        let superblock = Superblock {
            log_id: self.log_id,
            sequence: active.sequence,
            base: active.base,
            previous_sequence: self.previous.0,
            previous_end: self.previous.1,
            file_bytes: active.bytes,
            partitions: Vec::new(),
        };
        let length = usize::try_from(length).expect("superblocks are short");
        let bytes = self.ring.bytes_mut(cursor, length);
        superblock.encode(self.partitions.iter(), bytes);
    }

    /// Pads the open batch to whole blocks. Its Batch frame is written when it is submitted.
    pub(super) fn end_batch(&mut self) {
        let Some(batch) = self.batches.back_mut() else { return };
        let padding = batch.length.next_multiple_of(BLOCK_BYTES as u64) - batch.length;
        if padding > 0 {
            let cursor = self.ring.take(padding);
            let length = usize::try_from(padding).expect("less than a block");
            let bytes = self.ring.bytes_mut(cursor, length);
            bytes[HEADER_BYTES..].fill(0);
            Header::of(Kind::Pad).seal(bytes, batch.active.salt);
            batch.length += padding;
            self.statistics.padding_bytes += padding;
        }
        batch.ended = true;
        if let Some(active) = &mut self.active {
            active.offset += batch.length;
        }
    }

    pub(super) fn submit(&mut self, storage: &mut dyn Storage) {
        while self.writes < self.writes_max {
            let Some(batch) = self.batches.get(self.submitted) else { return };
            if !batch.ended || batch.filling > 0 {
                return;
            }
            let number = self.first_batch + self.submitted as u64;
            let frame = Batch {
                number,
                durable: self.durable.0,
                position: batch.position + batch.superblock,
                length: batch.length - batch.superblock,
            };
            let cursor = batch.start + batch.superblock;
            frame.encode(self.ring.bytes_mut(cursor, HEADER_BYTES), batch.active.salt);
            let operation = Operation::Write {
                file: batch.active.file,
                offset: batch.position - batch.active.base,
                buffer: Buffer {
                    region: self.region,
                    start: self.ring.page_offset(batch.start),
                    length: u32::try_from(batch.length).expect("batches are far below 4 GiB"),
                },
                durable: true,
            };
            self.statistics.bytes_written += batch.length;
            let token = Token::new(OWNER, number);
            let submitted = match batch.awaited {
                true => storage.submit_awaited(token, operation),
                false => storage.submit(token, operation),
            };
            if submitted.is_err() {
                self.statistics.bytes_written -= batch.length;
                return;
            }
            self.statistics.writes += 1;
            self.submitted += 1;
            self.writes += 1;
        }
    }

    pub(super) fn advance_durable(&mut self) {
        while self.batches.front().is_some_and(|batch| batch.written) {
            let Some(batch) = self.batches.pop_front() else { break };
            self.first_batch += 1;
            self.submitted -= 1;
            self.durable_cursor = batch.start + batch.length;
            self.durable = Position(batch.position + batch.length);
        }
        self.ring.release(self.durable_cursor);
    }
}
