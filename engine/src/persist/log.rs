//! The log of one shard: reserve, fill, seal, flush, poll. Nothing here waits, and nothing is
//! allocated per record once the queues have grown.

use std::{collections::VecDeque, time::Duration};

use windlass_wire::{Lsn, PartitionId};

use super::{
    commit::Position,
    frame::{HEADER_BYTES, Header, Kind, Salt, resalt},
    limits::{
        BATCH_BYTES_TARGET, BATCHES_MAX, BLOCK_BYTES, RECORD_BYTES_MAX, SEGMENT_BYTES_MIN,
        SEQUENCE_JUMP, WRITES_MAX,
    },
    memory::Window,
    partitions::Partitions,
    poison::{Poison, Trouble},
    record::{Draft, Facts, Record, RecordMut, Shape},
    ring::{Ring, Room},
    segment::{Batch, LogTail, Superblock},
    segments::{Active, Segments},
    storage::{Buffer, Completion, Operation, Outcome, RegionId, Storage, StorageError, Token},
};

/// Marks this submitter's tokens.
pub(crate) const OWNER: u8 = 1;

/// How a log is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Identity, chosen at random when the log is made; ignored when it exists.
    pub log_id: u64,
    /// Length of a segment file in bytes.
    pub segment_bytes: u64,
    /// Most segment files: the bound of the log's disk space.
    pub segments_max: usize,
    /// Segments kept ready beyond the one being written.
    pub segments_spare: usize,
    /// Most writes under way. What is sealed meanwhile waits for the next one: group commit.
    pub writes_max: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            log_id: 1,
            segment_bytes: 64 << 20,
            segments_max: 64,
            segments_spare: 2,
            writes_max: 2,
        }
    }
}

/// The log.
#[derive(Debug)]
pub struct Log {
    log_id: u64,
    writes_max: usize,
    ring: Ring,
    region: RegionId,
    segments: Segments,
    active: Option<Active>,
    last_sequence: u64,
    /// Where the last finished segment ended.
    previous: (u64, u64),
    partitions: Partitions,
    batches: VecDeque<PendingBatch>,
    /// Number of the first batch in the queue.
    first_batch: u64,
    /// Batches at the front of the queue that were submitted.
    submitted: usize,
    /// Of those, writes not yet completed.
    writes: usize,
    /// Ring cursor up to which everything is on disk.
    durable_cursor: u64,
    durable: Position,
    poison: Option<Poison>,
    statistics: LogStatistics,
}

/// A batch between its first reservation and the release of its write.
#[derive(Debug)]
struct PendingBatch {
    /// Ring cursor of its first byte, the superblock's if it starts a segment.
    start: u64,
    /// Bytes of superblock before the Batch frame.
    superblock: u64,
    length: u64,
    active: Active,
    /// Log position of its first byte.
    position: u64,
    /// Reservations not yet sealed.
    filling: u32,
    records: u32,
    /// When it has to be written at the latest; `None` for whenever it is convenient.
    deadline: Option<Duration>,
    ended: bool,
    written: bool,
}

/// A place in the ring, to be filled and sealed. Dropping it would stop the log: seal or abandon.
#[derive(Debug)]
#[must_use = "a reservation that is neither sealed nor abandoned holds up the log"]
pub struct Reservation {
    cursor: u64,
    batch: u64,
    draft: Draft,
}

impl Reservation {
    /// The LSN the record has.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.draft.lsn
    }
}

/// A sealed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Its LSN.
    pub lsn: Lsn,
    /// Where it ends in the log: acknowledgements wait for [`Log::durable`] to reach this.
    pub position: Position,
    /// Offset of its bytes in the pages of the ring, for the write to the chain's successor.
    pub page_offset: u64,
    /// Its length in bytes.
    pub length: usize,
    /// What its header is salted with.
    pub salt: Salt,
}

/// Figures for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStatistics {
    /// Records sealed.
    pub records: u64,
    /// Writes submitted.
    pub writes: u64,
    /// Bytes submitted, padding included.
    pub bytes_written: u64,
    /// Bytes of padding among them.
    pub padding_bytes: u64,
    /// Reservations refused because the ring, the segments or the queue were full.
    pub refused: u64,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Disk or successor are behind. Poll; take no more pushes meanwhile.
    #[error("the log ring is full: the disk or the chain's successor is behind")]
    Ring,
    /// Too many writes are waiting.
    #[error("too many log writes are waiting for the disk")]
    Writes,
    /// The next segment is still being prepared.
    #[error("the next log segment is still being prepared")]
    Preparing,
    /// All segments hold records that no checkpoint covers: a checkpoint is needed.
    #[error("all log segments are in use: the log waits for a checkpoint")]
    Segments,
}

/// Why a record cannot be reserved.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReserveError {
    /// No room now: back-pressure. Retry after the next poll.
    #[error("no room in the log")]
    Full(#[from] Full),
    /// The log has stopped.
    #[error("the log is poisoned")]
    Poisoned(#[from] Poison),
    /// It never fits; split it.
    #[error("a record of {length} bytes is longer than {limit_bytes}: split the push")]
    TooLong {
        /// Length of the record.
        length: usize,
        /// The most this log takes.
        limit_bytes: usize,
    },
    /// A replicated record that does not follow the last one.
    #[error("record {found} of partition {partition} does not follow {last}: catch up first")]
    Order {
        /// The partition.
        partition: PartitionId,
        /// The last LSN here.
        last: Lsn,
        /// The record's.
        found: Lsn,
    },
}

impl Log {
    /// A log that goes on where recovery ended, or a new one. Blocks until segments are ready.
    ///
    /// # Errors
    /// When no segment can be prepared.
    pub fn open(
        storage: &mut dyn Storage,
        config: &LogConfig,
        ring: Window,
        tail: &LogTail,
    ) -> Result<Self, StorageError> {
        let region = storage.register(ring.pages().clone())?;
        let segments = Segments::open(
            storage,
            config.segment_bytes.max(SEGMENT_BYTES_MIN),
            config.segments_max,
            config.segments_spare,
            tail,
        )?;
        let mut log = Self {
            log_id: if tail.log_id == 0 { config.log_id } else { tail.log_id },
            writes_max: config.writes_max.clamp(1, WRITES_MAX),
            ring: Ring::new(ring),
            region,
            segments,
            active: None,
            last_sequence: tail.last_sequence + SEQUENCE_JUMP,
            previous: (tail.end_sequence, tail.end_offset),
            partitions: Partitions::new(),
            batches: VecDeque::with_capacity(64),
            first_batch: tail.last_batch + 1,
            submitted: 0,
            writes: 0,
            durable_cursor: 0,
            durable: Position(tail.position),
            poison: None,
            statistics: LogStatistics::default(),
        };
        log.claim_sequence(storage)?;
        Ok(log)
    }

    /// Writes the first superblock of this life, alone and durably: whatever a crash leaves of the
    /// batches behind it, the next life sees the sequence and uses another salt.
    fn claim_sequence(&mut self, storage: &mut dyn Storage) -> Result<(), StorageError> {
        let failed = |source: std::io::ErrorKind| StorageError {
            operation: "claim",
            name: "the first segment of the log".to_owned(),
            source: source.into(),
        };
        self.next_segment().map_err(|_| failed(std::io::ErrorKind::StorageFull))?;
        let Some(active) = &mut self.active else {
            return Err(failed(std::io::ErrorKind::StorageFull));
        };
        let length = Superblock::length(0) as u64;
        active.offset = length;
        let active = *active;
        let cursor = self.ring.take(length);
        self.write_superblock(cursor, length, &active);
        let length = u32::try_from(length).expect("one block");
        let start = self.ring.page_offset(cursor);
        let buffer = Buffer { region: self.region, start, length };
        let write = Operation::Write { file: active.file, offset: 0, buffer, durable: true };
        let outcome = super::storage::run(storage, write)?;
        if outcome != Outcome::Transferred(length) {
            return Err(failed(std::io::ErrorKind::WriteZero));
        }
        self.durable = Position(active.base + u64::from(length));
        self.durable_cursor = self.ring.tail();
        self.release();
        Ok(())
    }

    /// Makes a partition known, whose last record so far is `last`, durable already.
    pub fn add_partition(&mut self, partition: PartitionId, last: Lsn) {
        self.partitions.add(partition, last);
    }

    /// Forgets a partition that moved away. Its records stay until they are released.
    pub fn remove_partition(&mut self, partition: PartitionId) {
        self.partitions.remove(partition);
        self.release();
    }

    /// The longest record this log takes, in bytes.
    #[must_use]
    pub fn record_bytes_max(&self) -> usize {
        let superblock = Superblock::length(self.partitions.count().max(1)) as u64;
        // A batch of one longest record, its frames around it, in a fresh segment and in the ring.
        let room = (self.segments_bytes().min(self.ring.capacity() / 2))
            .saturating_sub(superblock + 2 * BLOCK_BYTES as u64);
        usize::try_from(room).unwrap_or(usize::MAX).min(RECORD_BYTES_MAX)
    }

    fn segments_bytes(&self) -> u64 {
        self.segments.file_bytes()
    }

    /// Takes room for the next record of a partition and gives it its LSN. Several reservations may
    /// be open at once, of one partition too; the order of LSNs is that of reservation. `now` is
    /// any monotonic time, the same as [`Log::flush`] gets.
    ///
    /// # Errors
    /// When there is no room now, none ever, or the log is poisoned.
    pub fn reserve(
        &mut self,
        facts: &Facts,
        shape: Shape,
        now: Duration,
    ) -> Result<Reservation, ReserveError> {
        let lsn = self.partitions.last(facts.partition).next();
        let (cursor, batch) =
            self.make_room(facts.partition, shape.length(), facts.durability.delay_max(), now)?;
        self.partitions.advance(facts.partition, lsn);
        let draft = Draft::new(*facts, shape, lsn);
        draft.prepare(self.ring.bytes_mut(cursor, shape.length()));
        self.batch_mut(batch).filling += 1;
        Ok(Reservation { cursor, batch, draft })
    }

    /// The reserved record, to be filled.
    pub fn fill<'a>(&'a mut self, reservation: &'a mut Reservation) -> RecordMut<'a> {
        let length = reservation.draft.shape.length();
        RecordMut::new(self.ring.bytes_mut(reservation.cursor, length), &mut reservation.draft)
    }

    /// Completes a record. From now on its bytes are constant until they are released: they may be
    /// applied and sent from [`Sealed::page_offset`].
    pub fn seal(&mut self, reservation: Reservation) -> Sealed {
        let Reservation { cursor, batch, draft } = reservation;
        let length = draft.shape.length();
        let pending = self.batch_mut(batch);
        pending.filling -= 1;
        pending.records += 1;
        let salt = pending.active.salt;
        let position = Position(pending.position + (cursor - pending.start) + length as u64);
        draft.seal(self.ring.bytes_mut(cursor, length), salt);
        self.statistics.records += 1;
        Sealed {
            lsn: draft.lsn,
            position,
            page_offset: self.ring.page_offset(cursor),
            length,
            salt,
        }
    }

    /// Gives a reservation up: a record that changes nothing takes its LSN.
    pub fn abandon(&mut self, mut reservation: Reservation) -> Sealed {
        reservation.draft.void();
        self.seal(reservation)
    }

    /// Takes in a record received from the predecessor, which was checked with `salt`. Its body is
    /// not summed again.
    ///
    /// # Errors
    /// As [`Log::reserve`], and when it does not follow the partition's last record.
    pub fn append(
        &mut self,
        record: &Record<'_>,
        salt: Salt,
        durability: super::commit::Durability,
        now: Duration,
    ) -> Result<Sealed, ReserveError> {
        let partition = record.partition();
        let last = self.partitions.last(partition);
        if record.lsn() != last.next() && record.kind() != Kind::Begin {
            return Err(ReserveError::Order { partition, last, found: record.lsn() });
        }
        let length = record.bytes().len();
        let (cursor, batch) = self.make_room(partition, length, durability.delay_max(), now)?;
        self.partitions.advance(partition, record.lsn());
        let pending = self.batch_mut(batch);
        pending.records += 1;
        let to = pending.active.salt;
        let position = Position(pending.position + (cursor - pending.start) + length as u64);
        let bytes = self.ring.bytes_mut(cursor, length);
        bytes.copy_from_slice(record.bytes());
        resalt(bytes, salt, to);
        self.statistics.records += 1;
        let page_offset = self.ring.page_offset(cursor);
        Ok(Sealed { lsn: record.lsn(), position, page_offset, length, salt: to })
    }

    /// Notes that LSNs up to `lsn` of a partition were used for records that are not logged.
    ///
    /// # Errors
    /// As [`Log::reserve`].
    pub fn skip(
        &mut self,
        partition: PartitionId,
        lsn: Lsn,
        now: Duration,
    ) -> Result<(), ReserveError> {
        assert!(lsn > self.partitions.last(partition), "a skip goes forward");
        let (cursor, batch) = self.make_room(partition, HEADER_BYTES, None, now)?;
        self.partitions.advance(partition, lsn);
        let pending = self.batch_mut(batch);
        pending.records += 1;
        let salt = pending.active.salt;
        let header = Header { lsn: lsn.0, partition: partition.0, ..Header::of(Kind::Skip) };
        header.seal(self.ring.bytes_mut(cursor, HEADER_BYTES), salt);
        Ok(())
    }

    /// Once per turn: closes the open batch if something in it should go to disk now, and submits
    /// what is closed. Also prepares segments ahead.
    pub fn flush(&mut self, storage: &mut dyn Storage, now: Duration) {
        if self.poison.is_some() {
            return;
        }
        let slot_free = self.writes < self.writes_max;
        if let Some(batch) = self.batches.back()
            && !batch.ended
            && batch.filling == 0
            && slot_free
            && (batch.deadline.is_some_and(|deadline| deadline <= now)
                || batch.length >= BATCH_BYTES_TARGET as u64)
        {
            self.end_batch();
        }
        self.submit(storage);
        self.segments.step_spares(storage);
        if self.segments.free_count() == 0 && !self.segments.is_preparing() {
            self.poison_when_stuck();
        }
    }

    /// As [`Log::flush`], whatever the levels say: before a pause, a checkpoint or the end.
    pub fn flush_all(&mut self, storage: &mut dyn Storage) {
        if self.poison.is_some() {
            return;
        }
        if let Some(batch) = self.batches.back()
            && !batch.ended
            && batch.filling == 0
        {
            self.end_batch();
        }
        self.submit(storage);
    }

    /// When [`Log::flush`] has to be called next at the latest, on the clock it is given.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.batches.back().filter(|batch| !batch.ended).and_then(|batch| batch.deadline)
    }

    /// Takes in a completion of this log's own. Called by whoever polls the storage.
    pub fn complete(&mut self, storage: &mut dyn Storage, completion: Completion) {
        if completion.token.owner() == super::segments::OWNER {
            self.segments.complete(storage, completion);
            return;
        }
        self.writes -= 1;
        let number = completion.token.value();
        let Some(index) = number.checked_sub(self.first_batch) else { return };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let Some(batch) = self.batches.get_mut(index) else { return };
        let offset = batch.position - batch.active.base;
        match completion.result {
            Ok(Outcome::Transferred(bytes)) if u64::from(bytes) == batch.length => {
                batch.written = true;
            }
            Ok(_) => {
                let error = StorageError {
                    operation: "write",
                    name: self.segments.name(batch.active.slot).to_owned(),
                    source: std::io::ErrorKind::WriteZero.into(),
                };
                self.stop(Poison::new(Trouble::ShortWrite, offset, error));
            }
            Err(error) => self.stop(Poison::new(Trouble::Write, offset, error)),
        }
        if self.poison.is_none() {
            self.advance_durable();
        }
    }

    /// Everything up to here is on disk.
    #[must_use]
    pub fn durable(&self) -> Position {
        self.durable
    }

    /// The end of what is reserved.
    #[must_use]
    pub fn end(&self) -> Position {
        match self.batches.back() {
            Some(batch) if batch.ended => Position(batch.position + batch.length),
            Some(batch) => Position(batch.position + (self.ring.tail() - batch.start)),
            None => self.durable,
        }
    }

    /// A partition's last record on disk.
    #[must_use]
    pub fn durable_lsn(&self, partition: PartitionId) -> Lsn {
        self.partitions.durable(partition)
    }

    /// A partition's last record.
    #[must_use]
    pub fn last_lsn(&self, partition: PartitionId) -> Lsn {
        self.partitions.last(partition)
    }

    /// Keeps records of a partition after `lsn` in the ring until [`Log::replicated`] passes them:
    /// a chain's successor reads them there.
    pub fn hold(&mut self, partition: PartitionId, lsn: Lsn) {
        self.partitions.hold(partition, Some(lsn));
    }

    /// The successor has everything of a partition up to `lsn`.
    pub fn replicated(&mut self, partition: PartitionId, lsn: Lsn) {
        self.partitions.hold(partition, Some(lsn));
        self.release();
    }

    /// The partition has no successor any more.
    pub fn unhold(&mut self, partition: PartitionId) {
        self.partitions.hold(partition, None);
        self.release();
    }

    /// Records of a partition still in the ring from `lsn` on, in order, each with its offset in the
    /// pages: for resending, while no reservation is open. Records before the first one given have
    /// to come from elsewhere.
    pub fn held(
        &self,
        partition: PartitionId,
        lsn: Lsn,
    ) -> impl Iterator<Item = (Lsn, u64, &[u8])> + '_ {
        let mut cursor = self.ring.released();
        let end = self.sealed_end();
        std::iter::from_fn(move || {
            loop {
                cursor = self.ring.after_gap(cursor);
                if cursor >= end {
                    return None;
                }
                let here = cursor;
                let lying = self.ring.lying(here);
                cursor += lying.length;
                if lying.partition == partition.0
                    && lying.lsn >= lsn.0
                    && Kind::from_number(lying.kind).is_some_and(Kind::is_record)
                {
                    let length = usize::try_from(lying.length).unwrap_or(0);
                    let bytes = self.ring.bytes(here, length);
                    return Some((Lsn(lying.lsn), self.ring.page_offset(here), bytes));
                }
            }
        })
    }

    /// The bytes of a record just sealed, to be applied straight from the ring. Panics when it was
    /// released meanwhile.
    #[must_use]
    pub fn sealed_bytes(&self, sealed: &Sealed) -> &[u8] {
        self.ring.at_page_offset(sealed.page_offset, sealed.length)
    }

    /// Why the log has stopped, if it has.
    #[must_use]
    pub fn poison(&self) -> Option<&Poison> {
        self.poison.as_ref()
    }

    /// Stops the log, as a failed write does.
    pub fn stop(&mut self, poison: Poison) {
        if self.poison.is_none() {
            tracing::error!(%poison, reason = %poison.source, "the log is poisoned");
            self.poison = Some(poison);
        }
    }

    /// Segments that end before a log position may be used again: a published checkpoint covers
    /// them.
    pub fn truncate(&mut self, position: Position) {
        self.segments.recycle(position.0.min(self.durable.0));
    }

    /// Identity of the log.
    #[must_use]
    pub fn log_id(&self) -> u64 {
        self.log_id
    }

    /// From where a checkpoint that begins now needs the log: position, and sequence of the segment
    /// it lies in.
    pub(crate) fn checkpoint_position(&self) -> (u64, u64) {
        match self.batches.back() {
            // The batch may begin before what is applied; recovery skips by LSN.
            Some(batch) if !batch.ended => (batch.position, batch.active.sequence),
            Some(batch) => (batch.position + batch.length, batch.active.sequence),
            None => (self.durable.0, self.active.map_or(self.previous.0, |active| active.sequence)),
        }
    }

    /// Bytes of ring in use, and in all.
    #[must_use]
    pub fn ring_use(&self) -> (u64, u64) {
        (self.ring.used(), self.ring.capacity())
    }

    /// Whether more than half of the allowed segments hold records: time for a checkpoint.
    #[must_use]
    pub fn wants_checkpoint(&self) -> bool {
        let used = self.segments.count() - self.segments.free_count();
        used * 2 > self.segments.count_max()
    }

    /// Figures for metrics.
    #[must_use]
    pub fn statistics(&self) -> LogStatistics {
        self.statistics
    }

    /// Whether everything sealed is on disk.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.batches.is_empty()
    }

    fn batch_mut(&mut self, number: u64) -> &mut PendingBatch {
        let index = usize::try_from(number - self.first_batch).expect("a batch in the queue");
        &mut self.batches[index]
    }

    fn make_room(
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
            self.next_segment()?;
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
            records: 0,
            deadline: None,
            ended: false,
            written: false,
        });
        Ok(())
    }

    fn next_segment(&mut self) -> Result<(), Full> {
        if self.segments.free_count() == 0 {
            self.poison_when_stuck();
            let room = self.segments.count() < self.segments.count_max();
            return Err(if room { Full::Preparing } else { Full::Segments });
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
        self.active = self.segments.activate(self.log_id, self.last_sequence, base);
        Ok(())
    }

    /// Nothing is free, nothing is being prepared because that failed: only a restart helps.
    fn poison_when_stuck(&mut self) {
        let exhausted = self
            .active
            .as_ref()
            .is_none_or(|active| active.offset + 2 * BLOCK_BYTES as u64 > active.bytes);
        if exhausted && let Some(failure) = self.segments.take_failure() {
            self.stop(Poison::new(Trouble::Prepare, 0, failure));
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
    fn end_batch(&mut self) {
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

    fn submit(&mut self, storage: &mut dyn Storage) {
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
            if storage.submit(Token::new(OWNER, number), operation).is_err() {
                self.statistics.bytes_written -= batch.length;
                return;
            }
            self.statistics.writes += 1;
            self.submitted += 1;
            self.writes += 1;
        }
    }

    fn advance_durable(&mut self) {
        while self.batches.front().is_some_and(|batch| batch.written) {
            let Some(batch) = self.batches.pop_front() else { break };
            self.first_batch += 1;
            self.submitted -= 1;
            let end = batch.start + batch.length;
            let mut cursor = batch.start;
            while cursor < end {
                let lying = self.ring.lying(cursor);
                cursor += lying.length;
                if Kind::from_number(lying.kind)
                    .is_some_and(|kind| kind.is_record() || kind == Kind::Skip)
                {
                    self.partitions.set_durable(PartitionId(lying.partition), Lsn(lying.lsn));
                }
            }
            self.durable_cursor = end;
            self.durable = Position(batch.position + batch.length);
        }
        self.release();
    }

    /// Gives back what is on disk and with every successor.
    fn release(&mut self) {
        if !self.partitions.any_held() {
            self.ring.release(self.durable_cursor);
            return;
        }
        let mut cursor = self.ring.released();
        loop {
            cursor = self.ring.after_gap(cursor);
            if cursor >= self.durable_cursor {
                break;
            }
            let lying = self.ring.lying(cursor);
            let is_record = Kind::from_number(lying.kind).is_some_and(Kind::is_record);
            if is_record && self.partitions.holds(PartitionId(lying.partition), Lsn(lying.lsn)) {
                break;
            }
            cursor += lying.length;
        }
        self.ring.release(cursor.min(self.durable_cursor).max(self.ring.released()));
    }

    /// Ring cursor up to which all frames are sealed.
    fn sealed_end(&self) -> u64 {
        self.batches
            .iter()
            .find(|batch| batch.filling > 0)
            .map_or(self.ring.tail(), |batch| batch.start)
    }
}
