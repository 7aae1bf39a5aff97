//! The log of one shard: reserve, fill, seal, flush, poll. Nothing here waits, and nothing is
//! allocated per record once the queues have grown.

use std::{collections::VecDeque, time::Duration};

use windlass_wire::{Lsn, PartitionId};

use super::{
    commit::Position,
    frame::{HEADER_BYTES, Header, Kind, Salt, resalt},
    limits::{
        BATCH_BYTES_TARGET, BLOCK_BYTES, RECORD_BYTES_MAX, SEGMENT_BYTES_FIRST, SEGMENT_BYTES_MAX,
        SEQUENCE_JUMP, WRITES_MAX,
    },
    memory::Window,
    partitions::Partitions,
    poison::{Poison, Trouble},
    record::{Draft, Facts, Record, RecordMut, Shape},
    ring::Ring,
    segment::{LogTail, Superblock},
    segments::{Active, Segments},
    storage::{Completion, Outcome, RegionId, Storage, StorageError},
    watermark::{self, Watermark, WatermarkFile},
};

mod batch;
mod error;
mod group;
mod look;

pub use error::{Full, ReserveError};

use batch::PendingBatch;
use group::Group;

/// Marks this submitter's tokens.
pub(crate) const OWNER: u8 = 1;

/// How a log is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Identity, chosen at random when the log is made; ignored when it exists.
    pub log_id: u64,
    /// Length of the longest segment files in bytes.
    pub segment_bytes: u64,
    /// Length of the first ones. Those that follow are longer where the log is, and where they are filled
    /// fast.
    pub segment_bytes_first: u64,
    /// Most bytes of segment files: the bound of the log's disk space, unless a record needs a longer
    /// segment than there is. See [`Log::set_bytes_max`].
    pub bytes_max: u64,
    /// Segments of the length of the next one that are kept ready beyond the one being written.
    pub segments_spare: usize,
    /// Most writes under way. What is sealed meanwhile waits for the next one: group commit.
    pub writes_max: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            log_id: 1,
            segment_bytes: SEGMENT_BYTES_MAX,
            segment_bytes_first: SEGMENT_BYTES_FIRST,
            bytes_max: 64 * SEGMENT_BYTES_MAX,
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
    watermark: WatermarkFile,
    active: Option<Active>,
    /// Since when which segment is being written.
    active_since: (u64, Duration),
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
    /// The group that is being written.
    group: Option<Group>,
    statistics: LogStatistics,
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
    /// Bytes of values in records: what has changed.
    pub delta_bytes: u64,
    /// Bytes of zeros written into new segments.
    pub prepared_bytes: u64,
    /// Reservations refused because the ring, the segments or the queue were full.
    pub refused: u64,
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
        let log_id = if tail.log_id == 0 { config.log_id } else { tail.log_id };
        // Beyond every segment of lives before, whose salts are used up; kept before one is written.
        let sequence = tail.last_sequence + SEQUENCE_JUMP;
        let (number, position) = (tail.watermark, tail.position);
        let first = Watermark { number, log_id, position, sequence };
        let watermark = WatermarkFile::open(storage, first)?;
        let segments = Segments::open(storage, config, tail)?;
        Ok(Self {
            log_id,
            writes_max: config.writes_max.clamp(1, WRITES_MAX),
            ring: Ring::new(ring),
            region,
            segments,
            watermark,
            active: None,
            active_since: (0, Duration::ZERO),
            last_sequence: sequence,
            previous: (tail.end_sequence, tail.end_offset),
            partitions: Partitions::new(),
            batches: VecDeque::with_capacity(64),
            first_batch: tail.last_batch + 1,
            submitted: 0,
            writes: 0,
            durable_cursor: 0,
            durable: Position(tail.position),
            poison: None,
            group: None,
            statistics: LogStatistics::default(),
        })
    }

    /// Makes a partition known, whose last record so far is `last`, durable already.
    pub fn add_partition(&mut self, partition: PartitionId, last: Lsn) {
        self.partitions.add(partition, last);
    }

    /// Forgets a partition that moved away. Its records stay until they are on disk.
    pub fn remove_partition(&mut self, partition: PartitionId) {
        self.partitions.remove(partition);
    }

    /// The longest record this log takes, in bytes.
    #[must_use]
    pub fn record_bytes_max(&self) -> usize {
        let superblock = Superblock::length(self.partitions.count().max(1)) as u64;
        // A batch of one longest record, its frames around it, in a fresh segment and in the ring.
        let room = (self.segments.space.longest_made.min(self.ring.capacity() / 2))
            .saturating_sub(superblock + 2 * BLOCK_BYTES as u64);
        usize::try_from(room).unwrap_or(usize::MAX).min(RECORD_BYTES_MAX)
    }

    /// Sets the bound of the log's disk space. It grows at once, and shrinks when a checkpoint has given
    /// segments back.
    pub fn set_bytes_max(&mut self, bytes: u64) {
        self.segments.set_bytes_max(bytes);
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
        let mut draft = Draft::new(*facts, shape, lsn);
        draft.prepare(self.ring.bytes_mut(cursor, shape.length()));
        let pending = self.batch_mut(batch);
        pending.filling += 1;
        pending.awaited |= facts.durability.waits();
        let position = pending.position + (cursor - pending.start);
        draft.grouped = self.note_grouped(facts, position);
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
        let salt = pending.active.salt;
        let position = Position(pending.position + (cursor - pending.start) + length as u64);
        draft.seal(self.ring.bytes_mut(cursor, length), salt);
        self.statistics.records += 1;
        self.statistics.delta_bytes += draft.shape.delta_bytes as u64;
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
        assert!(self.group.is_none() && !record.is_grouped(), "a record that counts alone");
        let partition = record.partition();
        let last = self.partitions.last(partition);
        if record.lsn() != last.next() && record.kind() != Kind::Begin {
            return Err(ReserveError::Order { partition, last, found: record.lsn() });
        }
        let length = record.bytes().len();
        let (cursor, batch) = self.make_room(partition, length, durability.delay_max(), now)?;
        self.partitions.advance(partition, record.lsn());
        let pending = self.batch_mut(batch);
        pending.awaited |= durability.waits();
        let to = pending.active.salt;
        let position = Position(pending.position + (cursor - pending.start) + length as u64);
        let bytes = self.ring.bytes_mut(cursor, length);
        bytes.copy_from_slice(record.bytes());
        resalt(bytes, salt, to);
        self.statistics.records += 1;
        self.statistics.delta_bytes += record.delta().len() as u64;
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
        assert!(self.group.is_none(), "a skip counts alone");
        let (cursor, batch) = self.make_room(partition, HEADER_BYTES, None, now)?;
        self.partitions.advance(partition, lsn);
        let salt = self.batch_mut(batch).active.salt;
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
        if let Some(batch) = self.batches.back()
            && !batch.ended
            && batch.filling == 0
            && self.may_write(batch)
            && (batch.deadline.is_some_and(|deadline| deadline <= now)
                || batch.length >= BATCH_BYTES_TARGET as u64)
        {
            self.end_batch();
        }
        self.submit(storage);
        self.watermark.renew(storage, self.durable.0, now);
        self.note_pace(now);
        self.segments.step_spares(storage);
        if self.segments.free_count() == 0 && !self.segments.is_preparing() {
            self.poison_when_stuck();
        }
    }

    /// Follows how long segments last: new ones are made accordingly.
    fn note_pace(&mut self, now: Duration) {
        let Some(active) = &self.active else { return };
        let (sequence, since) = self.active_since;
        if active.sequence == sequence {
            return;
        }
        self.active_since = (active.sequence, now);
        // The first one may have been there for long before anything was written.
        if sequence > 0 {
            self.segments.note_filled(self.previous.1, now.saturating_sub(since));
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
        // Whoever waits for room may be waiting for a segment.
        self.segments.step_spares(storage);
    }

    /// At the end of a process, with nothing sealed left: writes down where the log ends. True when that
    /// is on disk.
    pub fn conclude(&mut self, storage: &mut dyn Storage) -> bool {
        self.watermark.write(storage, self.durable.0);
        self.watermark.is_current(self.durable.0)
    }

    /// Takes in a completion that belongs to this log. The code that polls the storage calls it.
    pub fn complete(&mut self, storage: &mut dyn Storage, completion: Completion) {
        match completion.token.owner() {
            super::segments::OWNER => return self.segments.complete(storage, completion),
            watermark::OWNER => return self.watermark.complete(completion),
            _ => {}
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
            Some(batch) => Position(batch.position + batch.length),
            None => self.durable,
        }
    }

    /// A partition's last record.
    #[must_use]
    pub fn last_lsn(&self, partition: PartitionId) -> Lsn {
        self.partitions.last(partition)
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
}

#[cfg(test)]
mod tests;
