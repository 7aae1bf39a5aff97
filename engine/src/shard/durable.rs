//! Pushes to tables that are kept on disk: each is written as one record for each partition it
//! touches, applied from the record's own bytes, and acknowledged when its durability says so.
#![allow(unsafe_code)]

use std::{
    os::fd::BorrowedFd,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use windlass_wire::{PartitionId, RowRange, Status};

use super::{
    ShardStatistics, chain,
    chain::Chain,
    checkpoint::{Copied, Source},
    disk::Disk,
    held_back::HeldBack,
    image,
    image::Images,
    log_size::LogSize,
    port::{Port, Unwritten},
    regrouped::Regrouped,
    stopwatch::Stopwatch,
    tables::{ShardTable, TableRows, Tables},
};
use crate::{
    limits::{IMAGES_LEN_PER_TURN, LOG_RING_LEN, SESSIONS_MAX},
    persist::{
        checkpoint::{CheckpointConfig, CheckpointProgress},
        limits::OVERLAP_BYTES_MIN,
        log::{Full, Log},
        memory::Window,
        persistence::Persistence,
        poison::{Poison, Trouble},
        recovery::RecoveredDirectory,
        storage::{Storage, StorageError},
    },
    update::Kernel,
};

/// How long a full log is waited for at a time.
const ROOM_WAIT: Duration = Duration::from_millis(1);

/// How long pushes are gathered for one write while more keep coming.
const LINGER: Duration = Duration::from_micros(20);

/// Bytes of a checkpoint copied in one turn.
const CHECKPOINT_BYTES_PER_TURN: usize = 256 << 10;

/// How long a stopping shard waits for its disk.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Acknowledgements that may wait for the disk at once.
pub(super) const UNWRITTEN_MAX: usize = SESSIONS_MAX * 64;

/// A shard's log and checkpoints, and who waits for them.
pub(super) struct Durable {
    persistence: Persistence,
    started: Instant,
    /// When the first push came that no write was begun for.
    gathering_since: Option<Duration>,
    /// A checkpoint is to begin as soon as may be.
    pub(super) checkpoint_wanted: bool,
    /// Acknowledgements that have been released since a turn last took pushes.
    pub(super) released_count: usize,
    pub(super) copied: Copied,
    /// Whom to tell of the first checkpoint, when the shard began in another's directories.
    regrouped: Option<Arc<Regrouped>>,
    /// Directories of an older grouping are being removed.
    removal: Option<JoinHandle<()>>,
    pub(super) images: Images,
    /// Whether rows that a running checkpoint holds are in the log, too.
    imaged: Imaged,
    pub(super) held: HeldBack,
    log_size: LogSize,
}

/// How far the images of rows that a checkpoint holds are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Imaged {
    #[default]
    No,
    /// Some of them are recorded.
    Begun,
    Done,
}

impl Durable {
    /// Goes on where recovery of the directory ended, with tables of so many bytes.
    pub(super) fn open(
        storage: Box<dyn Storage>,
        log_id: u64,
        recovered: &RecoveredDirectory,
        log_size: LogSize,
        held: u64,
    ) -> Result<Self, StorageError> {
        let config = log_size.config(log_id, held);
        let ring = Window::allocate(LOG_RING_LEN).map_err(|source| StorageError {
            operation: "allocate",
            name: "the log's ring".to_owned(),
            source,
        })?;
        let checkpoint = CheckpointConfig::default();
        Ok(Self {
            persistence: Persistence::open(storage, &config, checkpoint, ring, recovered)?,
            started: Instant::now(),
            gathering_since: None,
            checkpoint_wanted: false,
            released_count: 0,
            regrouped: None,
            removal: None,
            images: Images::default(),
            imaged: Imaged::default(),
            copied: Copied::default(),
            held: HeldBack::default(),
            log_size,
        })
    }

    /// Registers a partition, whose last record was `last`.
    pub(super) fn add_partition(&mut self, partition: PartitionId, last: windlass_wire::Lsn) {
        self.persistence.log.add_partition(partition, last);
    }

    /// Whether the next write should wait for more pushes of the same burst: acknowledgements leave
    /// together, so the pushes that follow them arrive together too.
    fn lingers(&mut self, now: Duration) -> bool {
        let since = *self.gathering_since.get_or_insert(now);
        let bytes = self.persistence.log.open_bytes();
        now.saturating_sub(since) < LINGER && bytes < OVERLAP_BYTES_MIN
    }

    /// Has the disk begin with what is sealed, if it is idle, while the rest of a turn is summed.
    pub(super) fn begin_part(&mut self) {
        if !self.log().is_writing() && self.log().open_bytes() >= OVERLAP_BYTES_MIN {
            self.persistence.flush(self.now());
            self.persistence.begin();
        }
    }

    /// Whether the disk may be waited for within a call.
    pub(super) fn set_in_place(&mut self, may: bool) {
        self.persistence.set_in_place(may);
    }

    /// Becomes readable when the disk has something to report.
    pub(super) fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.persistence.storage().wait_descriptor()
    }

    /// Adds what the log and the checkpoints count.
    pub(super) fn count(&mut self, statistics: &mut ShardStatistics) {
        let log = &self.persistence.log;
        let counted = log.statistics();
        let (waiting, waiting_max) = log.ring_use();
        statistics.log_records = counted.records;
        statistics.log_writes = counted.writes;
        statistics.log_bytes = counted.bytes_written;
        statistics.log_value_bytes = counted.delta_bytes;
        statistics.log_prepared_bytes = counted.prepared_bytes;
        statistics.checkpoint_bytes = self.persistence.checkpointer().bytes_written();
        let log = &self.persistence.log;
        statistics.log_waiting_bytes = waiting;
        statistics.log_waiting_bytes_max = waiting_max;
        statistics.log_segments = log.segment_count() as u64;
        statistics.logs_preparing = u64::from(log.is_preparing());
        statistics.logs_stopped = u64::from(log.poison().is_some());
        let newest = self.persistence.checkpointer().last();
        statistics.checkpoints = newest.map_or(0, |manifest| manifest.number);
    }

    /// The first checkpoint makes directories of an older grouping unneeded.
    pub(super) fn set_regrouped(&mut self, regrouped: Arc<Regrouped>) {
        self.regrouped = Some(regrouped);
    }

    pub(super) fn log(&self) -> &Log {
        &self.persistence.log
    }

    /// Whether images are to be recorded. That goes on while the log is nearly full and takes no pushes:
    /// what was pushed before has to be on the disk in its time. Its last segments are those of the
    /// checkpoint that brings others back.
    pub(super) fn images_are_due(&self, now: Duration) -> bool {
        let has_room = !self.log().is_all_but_full() || self.log().poison().is_some();
        has_room && self.images.due().is_some_and(|due| due <= now)
    }

    /// Writes what was recorded.
    #[cfg(test)]
    pub(super) fn turn_alone(&mut self) {
        self.persistence.flush_all();
        self.persistence.poll();
        self.persistence.wait(ROOM_WAIT);
        self.persistence.poll();
    }

    pub(super) fn log_mut(&mut self) -> &mut Log {
        &mut self.persistence.log
    }

    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// One turn of the disk: writes what is due, releases acknowledgements, copies a piece of a
/// checkpoint. Returns whether the disk had anything to report: more may follow from that.
pub(super) fn turn_disk(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
    worked: bool,
) -> bool {
    let Some(mut durable) = disk.durable.take() else { return false };
    let now = durable.now();
    image::turn_images(port, tables, chain, &mut durable, now);
    if durable.held.is_any() {
        // Whatever its levels say, what is in the log stands in the way.
        durable.persistence.flush_all();
        durable.checkpoint_wanted |= durable.log().is_nearly_full();
    }
    if !(worked && durable.lingers(now)) {
        durable.gathering_since = None;
        durable.persistence.flush(now);
    }
    let position = durable.persistence.poll();
    let mut moved = durable.persistence.has_polled();
    while let Some(waiting) = port.unwritten.release(position) {
        port.acknowledge_waiting(waiting, Status::Done);
        durable.released_count += 1;
        moved = true;
    }
    let is_poisoned = durable.persistence.log.poison().is_some();
    if is_poisoned && !port.unwritten.is_empty() {
        let waiting: Vec<Unwritten> = port.unwritten.drain().collect();
        for waiting in waiting {
            port.acknowledge_waiting(waiting, Status::Poisoned);
        }
    }
    if is_poisoned {
        chain::note_disk_failed(port, chain);
    } else if moved {
        chain::note_durable(port, tables, chain, position);
    }
    step_checkpoint(port, tables, chain, &mut durable, now);
    disk.durable = Some(durable);
    moved
}

/// Whether acknowledgements wait for the disk.
pub(super) fn is_writing(port: &Port, chain: &Chain, disk: &Disk) -> bool {
    disk.durable.as_ref().is_some_and(|durable| {
        let is_chain_writing = chain.disk.is_writing();
        !port.unwritten.is_empty() || is_chain_writing && durable.log().is_writing()
    })
}

/// Stops the log as a failed write does.
pub(super) fn fail_disk(disk: &mut Disk) {
    if let Some(durable) = &mut disk.durable {
        let source = std::io::Error::other("the disk was told to fail");
        let error = StorageError { operation: "write", name: "the log".to_owned(), source };
        durable.log_mut().stop(Poison::new(Trouble::Write, 0, error));
    }
}

/// Whether the disk has something under way, or due soon: the shard must not sleep long.
pub(super) fn disk_deadline(disk: &Disk) -> Option<Duration> {
    let durable = disk.durable.as_ref()?;
    let log = &durable.persistence.log;
    // Whatever is under way wakes the shard by the storage's descriptor, where there is one.
    let blind = durable.wait_descriptor().is_none() && log.is_writing();
    if durable.persistence.is_checkpointing() || blind || durable.held.is_any() {
        return Some(ROOM_WAIT);
    }
    let removal = durable.persistence.removal_due();
    let deadline = log.deadline().into_iter().chain(durable.images.due()).chain(removal).min()?;
    Some(deadline.saturating_sub(durable.now()))
}

/// Keeps everything before a stop.
pub(super) fn close_disk(port: &mut Port, tables: &mut Tables, chain: &mut Chain, disk: &mut Disk) {
    chain::log_all_records(port, tables, chain, disk);
    if let Some(mut durable) = disk.durable.take() {
        image::write_images(port, tables, chain, &mut durable);
        if !durable.persistence.close(CLOSE_TIMEOUT) {
            tracing::error!(shard = chain.shard.0, "the log could not be written to its end");
        }
        disk.durable = Some(durable);
    }
    turn_disk(port, tables, chain, disk, false);
    let removal = disk.durable.as_mut().and_then(|durable| durable.removal.take());
    // One that panicked has said so.
    let _ = removal.map(JoinHandle::join);
}

/// Does a bounded piece of a checkpoint.
fn step_checkpoint(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    durable: &mut Durable,
    now: Duration,
) {
    // Blocks must not hold records that the log does not.
    let is_behind = chain.disk.is_behind();
    if durable.persistence.log.poison().is_some() || is_behind {
        return;
    }
    durable.checkpoint_wanted |= chain.disk.take_wish();
    let running = durable.persistence.is_checkpointing();
    let held = tables.held_len();
    let log = &mut durable.persistence.log;
    log.set_bytes_max(durable.log_size.bytes_max(held));
    let long =
        log.wants_checkpoint() || durable.log_size.wants_checkpoint(log.kept_bytes(), held, now);
    if !running && !long && !durable.checkpoint_wanted {
        port.remove_old(durable, now);
        return;
    }
    let begun = Stopwatch::start();
    chain.note_taken();
    let mut copied = std::mem::take(&mut durable.copied);
    chain.disk.take_uncopied().for_each(|partition| copied.forget(partition));
    copied.note_positions(chain.map.partition_count(), &durable.persistence.log);
    let mut source = Source { port, tables, chain, copied: &mut copied };
    if !running {
        if durable.persistence.start_checkpoint(&mut source, now) {
            durable.imaged = Imaged::No;
            durable.log_size.note_checkpoint(now);
            durable.checkpoint_wanted = false;
        }
    } else if durable.imaged != Imaged::Begun {
        let progress =
            durable.persistence.step_checkpoint(&mut source, now, CHECKPOINT_BYTES_PER_TURN);
        if matches!(progress, CheckpointProgress::Published { .. })
            && let Some(regrouped) = durable.regrouped.take()
        {
            durable.removal = regrouped.published();
        }
    }
    durable.copied = copied;
    if durable.persistence.checkpointer().has_copied() && durable.imaged == Imaged::No {
        durable.imaged = Imaged::Begun;
        durable.images.restart();
    }
    // The checkpoint goes on when all of them are in the log.
    if durable.imaged == Imaged::Begun
        && image::write_images_up_to(port, tables, chain, durable, IMAGES_LEN_PER_TURN)
    {
        durable.imaged = Imaged::Done;
    }
    if let Some(error) = durable.persistence.checkpointer().take_failure() {
        tracing::error!(shard = chain.shard.0, error = super::chain(&error), "checkpoint failed");
    }
    port.statistics.note_checkpoint_turn(begun.took());
}

impl Port {
    /// Between checkpoints, removes a piece of what they have left behind.
    fn remove_old(&mut self, durable: &mut Durable, now: Duration) {
        if durable.persistence.removal_due().is_some_and(|due| due <= now) {
            let begun = Stopwatch::start();
            durable.persistence.remove_old(now);
            self.statistics.note_checkpoint_turn(begun.took());
        }
    }
}

/// Lets the disk make room in a full log.
pub(super) fn wait_for_room(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    durable: &mut Durable,
    full: Full,
    now: Duration,
) {
    port.statistics.log_waits += 1;
    if full == Full::Segments {
        durable.checkpoint_wanted = true;
    }
    durable.persistence.flush_all();
    durable.persistence.poll();
    // A checkpoint must not end before the rows being recorded are: it may hold them. Nor may one hold
    // a part of a group.
    if !durable.images.is_writing() && !durable.log().is_in_group() {
        step_checkpoint(port, tables, chain, durable, now);
    }
    durable.persistence.wait(ROOM_WAIT);
    let waited = durable.now().saturating_sub(now).as_micros();
    port.statistics.log_wait_us += u64::try_from(waited).unwrap_or(0);
}

/// Waits until the log has segments to spare: the last ones are for the images that a checkpoint
/// needs to end, and only its end brings segments back. Pushes are held back well before.
pub(super) fn await_segments(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    durable: &mut Durable,
) {
    while durable.log().is_all_but_full() && durable.log().poison().is_none() {
        let now = durable.now();
        wait_for_room(port, tables, chain, durable, Full::Segments, now);
    }
}

/// Whether the log has stopped.
pub(super) fn is_poisoned(disk: &Disk) -> bool {
    disk.durable.as_ref().is_some_and(|durable| durable.log().poison().is_some())
}

/// Applies gradients to consecutive rows of one partition.
///
/// # Safety
/// `gradient` points to the readable values of all the rows, of the kernel's dtype, outside its memory;
/// the kernel is one of the table's.
pub(super) unsafe fn apply_range(
    table: &mut ShardTable,
    kernel: &Kernel,
    rows: RowRange,
    gradient: *const u8,
) {
    let slot = table.slots.find(table.layout.partition_of(rows.start));
    let slot = slot.expect("rows that are applied are here");
    let TableRows::Dense(partitions) = &mut table.rows else {
        unreachable!("a sparse table has no ranges of rows")
    };
    // SAFETY: the caller's promise; the kernel is the table's.
    unsafe { partitions[slot].0.apply(kernel, rows, gradient) };
}

/// Applies a gradient to one row of the partition at `slot`; false when it is new and there is no memory for it.
///
/// # Safety
/// `gradient` points to the readable values of one row, of the kernel's dtype, outside its memory;
/// the kernel is one of the table's.
pub(super) unsafe fn apply_key(
    table: &mut ShardTable,
    slot: usize,
    kernel: &Kernel,
    key: u64,
    gradient: *const u8,
    memory: &mut u64,
) -> bool {
    match &mut table.rows {
        TableRows::Dense(partitions) => {
            // SAFETY: the caller's promise; the kernel is the table's.
            unsafe { partitions[slot].0.apply(kernel, RowRange::new(key, key + 1), gradient) };
            true
        }
        TableRows::Sparse(partitions) => {
            // SAFETY: the caller's promise; the kernel is the table's.
            unsafe { partitions[slot].apply(kernel, key, gradient, memory) }.is_ok()
        }
    }
}
