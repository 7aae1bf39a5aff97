//! Pushes to tables that are kept on disk: each is written as one record for each partition it
//! touches, applied from the record's own bytes, and acknowledged when its durability says so.
#![allow(unsafe_code)]

use std::{path::Path, time::Duration, time::Instant};

use windlass_wire::{Durability, PartitionId, RowRange, Rows, Status};

use super::{
    Shard,
    checkpoint::{Copied, Source},
    push::Refusal,
    tables::{ShardTable, TableRows},
    work::Work,
};
use crate::{
    limits::{LOG_RING_LEN, SESSIONS_MAX},
    persist::{
        checkpoint::CheckpointConfig,
        commit::{self, CommitQueue, Position},
        frame::Kind,
        log::{LogConfig, ReserveError, Sealed},
        memory::Window,
        persistence::Persistence,
        record::{Covered, Facts, Shape},
        recovery::RecoveredDirectory,
        storage::{Storage, StorageError},
    },
};

/// How long a full log is waited for at a time.
const ROOM_WAIT: Duration = Duration::from_millis(1);

/// Bytes of a checkpoint copied in one turn.
const CHECKPOINT_BYTES_PER_TURN: usize = 256 << 10;

/// How long a stopping shard waits for its disk.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Acknowledgements that may wait for the disk at once.
const WAITING_MAX: usize = SESSIONS_MAX * 64;

/// An acknowledgement that waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    slot: usize,
    /// Life of the connection.
    life: u64,
    number: u32,
}

/// A shard's log and checkpoints, and who waits for them.
pub(super) struct Durable {
    persistence: Persistence,
    waiting: CommitQueue<Waiting>,
    started: Instant,
    pub(super) copied: Copied,
    /// Rows of a push by partition: position in the push, sorted by partition.
    order: Vec<(u32, u32)>,
}

impl Durable {
    /// Goes on where recovery of the directory ended.
    pub(super) fn open(
        storage: Box<dyn Storage>,
        log_id: u64,
        recovered: &RecoveredDirectory,
    ) -> Result<Self, StorageError> {
        let config = LogConfig { log_id, ..LogConfig::default() };
        let ring = Window::allocate(LOG_RING_LEN).map_err(|source| StorageError {
            operation: "allocate",
            name: "the log's ring".to_owned(),
            source,
        })?;
        let checkpoint = CheckpointConfig::default();
        Ok(Self {
            persistence: Persistence::open(storage, &config, checkpoint, ring, recovered)?,
            waiting: CommitQueue::new(WAITING_MAX),
            started: Instant::now(),
            copied: Copied::default(),
            order: Vec::new(),
        })
    }

    /// Registers a partition, whose last record was `last`.
    pub(super) fn add_partition(&mut self, partition: PartitionId, last: windlass_wire::Lsn) {
        self.persistence.log.add_partition(partition, last);
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The directory of a shard.
pub(super) fn shard_directory(data: &Path, shard: windlass_wire::ShardId) -> std::path::PathBuf {
    data.join(format!("shard-{shard}"))
}

impl Shard {
    /// Whether pushes to a table are kept on disk.
    pub(super) fn is_kept(&self, work: &Work) -> bool {
        self.tables
            .get(&work.header.table)
            .is_some_and(|table| table.entry.schema.durability != Durability::Memory {})
    }

    /// Writes and applies one push. Returns the position its acknowledgement waits for, if it does.
    pub(super) fn push_kept(&mut self, work: &Work) -> Result<Option<Position>, Refusal> {
        let Some(values) = self.values_pointer(work) else { return Ok(None) };
        let Some(mut durable) = self.durable.take() else { return Err((Status::NotDurable, 0)) };
        let mut order = std::mem::take(&mut durable.order);
        self.group_by_partition(work, &mut order);
        let mut outcome = Ok(None);
        let mut at = 0;
        while at < order.len() && outcome.is_ok() {
            let partition = order[at].0;
            let end = at + order[at..].iter().take_while(|row| row.0 == partition).count();
            let written = self.push_record(&mut durable, work, values, &order[at..end]);
            outcome = written.map(|position| position.or(outcome.unwrap_or(None)));
            at = end;
        }
        durable.order = order;
        self.durable = Some(durable);
        outcome
    }

    /// One turn of the disk: writes what is due, releases acknowledgements, copies a piece of a
    /// checkpoint. Returns whether anything was released.
    pub(super) fn turn_disk(&mut self) -> bool {
        let Some(mut durable) = self.durable.take() else { return false };
        let now = durable.now();
        durable.persistence.flush(now);
        let position = durable.persistence.poll();
        let mut released = false;
        while let Some(waiting) = durable.waiting.release(position) {
            self.acknowledge_waiting(waiting, Status::Done);
            released = true;
        }
        if durable.persistence.log.poison().is_some() && !durable.waiting.is_empty() {
            let waiting: Vec<Waiting> = durable.waiting.drain().collect();
            for waiting in waiting {
                self.acknowledge_waiting(waiting, Status::Poisoned);
            }
        }
        self.step_checkpoint(&mut durable, now);
        self.durable = Some(durable);
        released
    }

    /// Whether acknowledgements wait for the disk.
    pub(super) fn is_writing(&self) -> bool {
        self.durable.as_ref().is_some_and(|durable| !durable.waiting.is_empty())
    }

    /// Whether the disk has something under way, or due soon: the shard must not sleep long.
    pub(super) fn disk_deadline(&self) -> Option<Duration> {
        let durable = self.durable.as_ref()?;
        let log = &durable.persistence.log;
        if durable.persistence.is_checkpointing() || (!log.is_idle() && log.deadline().is_none()) {
            return Some(ROOM_WAIT);
        }
        log.deadline().map(|deadline| deadline.saturating_sub(durable.now()))
    }

    /// Keeps everything before a stop.
    pub(super) fn close_disk(&mut self) {
        if let Some(durable) = &mut self.durable
            && !durable.persistence.close(CLOSE_TIMEOUT)
        {
            tracing::error!(shard = self.id.0, "the log could not be written to its end");
        }
        self.turn_disk();
    }

    /// Completes a request when the log is durable up to `position`.
    pub(super) fn complete_at(&mut self, slot: usize, number: u32, position: Position) {
        let Some(life) = self.sessions[slot].as_ref().map(|session| session.life) else { return };
        let Some(durable) = &mut self.durable else { return };
        let waiting = Waiting { slot, life, number };
        if durable.waiting.push(position, waiting).is_err() {
            unreachable!("sessions have fewer requests in flight than the queue has room for");
        }
    }

    fn acknowledge_waiting(&mut self, waiting: Waiting, status: Status) {
        // Its slot may be another connection's by now.
        let session = self.sessions.get(waiting.slot).and_then(Option::as_ref);
        if session.is_some_and(|session| session.life == waiting.life) {
            self.complete(waiting.slot, waiting.number, status, 0);
        }
    }

    fn step_checkpoint(&mut self, durable: &mut Durable, now: Duration) {
        if durable.persistence.log.poison().is_some() {
            return;
        }
        let running = durable.persistence.is_checkpointing();
        if !running && !durable.persistence.log.wants_checkpoint() && !self.checkpoint_wanted {
            return;
        }
        let mut copied = std::mem::take(&mut durable.copied);
        copied.note_positions(self.map.partition_count(), &durable.persistence.log);
        let mut source = Source { shard: self, copied: &mut copied };
        if !running {
            durable.persistence.start_checkpoint(&mut source, now);
            self.checkpoint_wanted = false;
        } else {
            durable.persistence.step_checkpoint(&mut source, now, CHECKPOINT_BYTES_PER_TURN);
        }
        durable.copied = copied;
        if let Some(error) = durable.persistence.checkpointer().take_failure() {
            tracing::error!(shard = self.id.0, error = super::chain(&error), "checkpoint failed");
        }
    }

    /// Sorts the rows of a push by partition, keeping their order within each.
    fn group_by_partition(&self, work: &Work, order: &mut Vec<(u32, u32)>) {
        order.clear();
        let Some(table) = self.tables.get(&work.header.table) else { return };
        match work.header.rows {
            Rows::Range { first } => order.extend(
                (0..work.header.row_count)
                    .map(|row| (table.layout.partition_of(first + u64::from(row)).0, row)),
            ),
            Rows::Keys => {
                let keys = &self.turn.keys[work.keys.0..work.keys.1];
                order.extend(
                    (0..).zip(keys).map(|(row, key)| (table.layout.partition_of(*key).0, row)),
                );
                if !order.is_sorted_by_key(|row| row.0) {
                    order.sort_unstable();
                }
            }
        }
    }

    /// Writes the rows of one partition as one record and applies it.
    fn push_record(
        &mut self,
        durable: &mut Durable,
        work: &Work,
        values: *const u8,
        rows: &[(u32, u32)],
    ) -> Result<Option<Position>, Refusal> {
        let header = work.header;
        let (Some(first), Some(table)) = (rows.first(), self.tables.get(&header.table)) else {
            return Ok(None);
        };
        let partition = PartitionId(first.0);
        let Some(session) = &self.sessions[work.session] else { return Ok(None) };
        let covered = Covered {
            session: session.id,
            incarnation: session.incarnation,
            sequence: header.sequence,
        };
        let durability = if header.sync {
            commit::Durability::Sync
        } else {
            durability_of(table.entry.schema.durability)
        };
        if session.applied.contains(partition, self.shard_count, header.sequence) {
            self.statistics.duplicates += 1;
            // Its record may still be on its way to the disk: wait for all there is.
            return Ok(durability.waits().then(|| durable.persistence.log.end()));
        }
        let row_len = header.width as usize * header.dtype.size();
        let range = match header.rows {
            Rows::Range { first: row } => {
                let start = row + u64::from(first.1);
                Some(RowRange::new(start, start + rows.len() as u64))
            }
            Rows::Keys => None,
        };
        let facts = Facts {
            kind: if range.is_some() { Kind::Rows } else { Kind::Keys },
            partition,
            epoch: self.map.epoch,
            table: header.table,
            dtype: header.dtype,
            rows: range.unwrap_or_default(),
            tag: 0,
            durability,
        };
        let shape = Shape {
            covered_max: 1,
            stamps_max: 0,
            keys: if range.is_some() { 0 } else { rows.len() },
            delta_bytes: rows.len() * row_len,
        };
        self.make_rows(work, rows)?;
        let sealed = {
            let mut reservation = self.reserve(durable, &facts, shape)?;
            let mut record = durable.persistence.log.fill(&mut reservation);
            record.cover(covered);
            let (keys, delta) = match range {
                Some(_) => (&mut [][..], record.delta()),
                None => record.keys_and_delta(),
            };
            for (at, (_, row)) in rows.iter().enumerate() {
                let row = *row as usize;
                if range.is_none() {
                    let key = self.turn.keys[work.keys.0 + row];
                    keys[at * 8..at * 8 + 8].copy_from_slice(&key.to_le_bytes());
                }
                let to = &mut delta[at * row_len..(at + 1) * row_len];
                // SAFETY: the push's values are readable for all of its rows, of which this is
                // number `row`; the record is memory of the log.
                unsafe {
                    std::ptr::copy_nonoverlapping(
                        values.wrapping_add(row * row_len),
                        to.as_mut_ptr(),
                        row_len,
                    );
                }
            }
            durable.persistence.log.seal(reservation)
        };
        self.apply_sealed(durable, work, &sealed, shape, range, rows);
        if let Some(session) = &mut self.sessions[work.session] {
            session.applied.insert(partition, self.shard_count, header.sequence);
        }
        Ok(durability.waits().then_some(sealed.position))
    }

    /// Applies a record from where it lies in the log.
    fn apply_sealed(
        &mut self,
        durable: &Durable,
        work: &Work,
        sealed: &Sealed,
        shape: Shape,
        range: Option<RowRange>,
        rows: &[(u32, u32)],
    ) {
        let bytes = durable.persistence.log.sealed_bytes(sealed);
        let delta = bytes[shape.delta_start()..].as_ptr();
        let Some(table) = self.tables.get_mut(&work.header.table) else { return };
        let row_len = work.header.width as usize * work.header.dtype.size();
        if let Some(range) = range {
            // SAFETY: the record holds the values of all rows of the range, in the log's memory.
            unsafe { apply_range(table, range, delta) };
            return;
        }
        for (at, (_, row)) in rows.iter().enumerate() {
            let key = self.turn.keys[work.keys.0 + *row as usize];
            let value = delta.wrapping_add(at * row_len);
            // SAFETY: the record holds one row of values for each key, in the log's memory.
            unsafe { apply_key(table, key, value, &mut self.memory_left) };
        }
    }

    /// Makes the rows of new keys, so that what is written can be applied.
    fn make_rows(&mut self, work: &Work, rows: &[(u32, u32)]) -> Result<(), Refusal> {
        let Some(table) = self.tables.get_mut(&work.header.table) else { return Ok(()) };
        let TableRows::Sparse(partitions) = &mut table.rows else { return Ok(()) };
        for (partition, row) in rows {
            let slot = table.slots.find(PartitionId(*partition));
            let Some(sparse) = slot.and_then(|slot| partitions.get_mut(slot)) else { continue };
            let key = self.turn.keys[work.keys.0 + *row as usize];
            if sparse.row_of_or_new(key, &mut self.memory_left).is_err() {
                return Err((Status::Full, *row));
            }
        }
        Ok(())
    }

    /// Room for a record, waiting for the disk if it is behind: that is what slows pushes down.
    fn reserve(
        &mut self,
        durable: &mut Durable,
        facts: &Facts,
        shape: Shape,
    ) -> Result<crate::persist::log::Reservation, Refusal> {
        if !shape.is_allowed() {
            return Err((Status::TooLarge, 0));
        }
        loop {
            let now = durable.now();
            match durable.persistence.log.reserve(facts, shape, now) {
                Ok(reservation) => return Ok(reservation),
                Err(ReserveError::Full(full)) => {
                    self.statistics.log_waits += 1;
                    if full == crate::persist::log::Full::Segments {
                        self.checkpoint_wanted = true;
                    }
                    durable.persistence.flush_all();
                    durable.persistence.poll();
                    self.step_checkpoint(durable, now);
                    durable.persistence.wait(ROOM_WAIT);
                }
                Err(ReserveError::TooLong { .. }) => return Err((Status::TooLarge, 0)),
                Err(ReserveError::Poisoned(_) | ReserveError::Order { .. }) => {
                    return Err((Status::Poisoned, 0));
                }
            }
        }
    }
}

/// Applies gradients to consecutive rows of one partition.
///
/// # Safety
/// `gradient` points to the readable values of all the rows, of the table's dtype, outside its memory.
pub(super) unsafe fn apply_range(table: &mut ShardTable, rows: RowRange, gradient: *const u8) {
    let slot = table.slots.find(table.layout.partition_of(rows.start));
    let TableRows::Dense(partitions) = &mut table.rows else { return };
    if let Some((dense, _)) = slot.and_then(|slot| partitions.get_mut(slot)) {
        // SAFETY: the caller's promise; the kernel is the table's.
        unsafe { dense.apply(&table.kernel, rows, gradient) };
    }
}

/// Applies a gradient to one row; false when it is new and there is no memory for it.
///
/// # Safety
/// `gradient` points to the readable values of one row, of the table's dtype, outside its memory.
pub(super) unsafe fn apply_key(
    table: &mut ShardTable,
    key: u64,
    gradient: *const u8,
    memory: &mut u64,
) -> bool {
    let slot = table.slots.find(table.layout.partition_of(key));
    match &mut table.rows {
        TableRows::Dense(partitions) => {
            let Some((dense, _)) = slot.and_then(|slot| partitions.get_mut(slot)) else {
                return true;
            };
            // SAFETY: the caller's promise; the kernel is the table's.
            unsafe { dense.apply(&table.kernel, RowRange::new(key, key + 1), gradient) };
            true
        }
        TableRows::Sparse(partitions) => {
            let Some(sparse) = slot.and_then(|slot| partitions.get_mut(slot)) else { return true };
            // SAFETY: the caller's promise; the kernel is the table's.
            unsafe { sparse.apply(&table.kernel, key, gradient, memory) }.is_ok()
        }
    }
}

fn durability_of(durability: Durability) -> commit::Durability {
    match durability {
        Durability::Memory {} => commit::Durability::Memory,
        Durability::Interval { milliseconds } => commit::Durability::Interval(milliseconds),
        Durability::Sync {} => commit::Durability::Sync,
    }
}
