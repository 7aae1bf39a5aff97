//! Tables of durability `interval`. Pushes are applied at once. When the interval is over, each changed row
//! is logged once as it is then, however often it was pushed. The rows of a partition, of all such tables,
//! are one record, with the sessions it covers: after a crash a partition holds whole pushes.
//!
//! ```text
//! the delta of a record of kind Engine with tag IMAGE, any number of times: an entry, as `entry` draws it
//! ```

mod entry;
mod lengths;

use std::time::Duration;

use entry::{DENSE, ENTRY_LEN, SPARSE, begin_entry, end_entry};
pub(super) use entry::{
    Entry, SET, dense_entry, holds_images, removed_entry, restore_image, sparse_entry,
};
use windlass_wire::{DataType, Durability, PartitionId, RequestHeader, RowRange, Status, TableId};

use super::{
    chain,
    chain::{Chain, epoch_of, is_settled, seal},
    disk::Disk,
    durable,
    durable::Durable,
    port::Port,
    push::Refused,
    reserve,
    tables::{ShardTable, TableRows, Tables},
};
use crate::{
    limits::{
        IMAGE_LEN_MAX, IMAGE_PARTITION_LEN_MAX, IMAGED_PUSH_LEN_MAX, IMAGED_PUSH_ROWS_MAX,
        IMAGES_LEN_PER_TURN,
    },
    persist::{
        commit,
        frame::Kind,
        limits::COVERED_MAX,
        record::{Covered, Facts, Shape},
    },
};

/// Tag of a record of images.
pub(super) const IMAGE: u16 = 1;

/// What is to be imaged, and when.
#[derive(Debug, Default)]
pub(super) struct Images {
    /// Deadline of the next image write, `None` while no row is dirty, and the interval in milliseconds that
    /// it came from.
    due: Option<Duration>,
    due_within: u32,
    /// Upper estimate of the bytes that all images would take now.
    bytes: u64,
    buffer: Vec<u8>,
    partitions: Vec<PartitionId>,
    /// Bytes noted since the last search for partitions with long images, and whether it found some.
    unseen: u64,
    has_long: bool,
    /// Whether rows were taken that no record holds yet.
    writing: bool,
    /// When the current pass over the partitions began, and where it continues.
    pass: Option<Duration>,
    from: PartitionId,
}

impl Images {
    /// Deadline for recording the changed rows; `None` if there are none.
    pub(super) fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Whether rows that change now are covered by the present deadline. Then no clock has to be read.
    fn is_due_within(&self, milliseconds: u32) -> bool {
        self.due.is_some() && self.due_within <= milliseconds
    }

    fn come_due(&mut self, now: Duration, milliseconds: u32) {
        let due = now + Duration::from_millis(milliseconds.into());
        if self.due.is_none_or(|old| due < old) {
            (self.due, self.due_within) = (Some(due), milliseconds);
        }
    }

    /// The next pass over the partitions begins with the first.
    pub(super) fn restart(&mut self) {
        (self.from, self.pass) = (PartitionId(0), None);
    }

    /// Whether rows were taken that no record holds yet.
    pub(super) fn is_writing(&self) -> bool {
        self.writing
    }
}

impl ShardTable {
    /// Whether its rows are recorded as they are, now and then, instead of each push.
    pub(super) fn is_imaged(&self) -> bool {
        let schema = &self.entry.schema;
        matches!(schema.durability, Durability::Interval { .. }) && !self.goes_by_records()
    }

    /// No row counts as changed that was until now.
    pub(super) fn forget_dirty(&mut self) {
        match &mut self.rows {
            TableRows::Dense(partitions) => {
                partitions.iter_mut().for_each(|(dense, _)| drop(dense.take_dirty()));
            }
            TableRows::Sparse(partitions) => {
                partitions.iter_mut().for_each(|sparse| drop(sparse.take_dirty()));
            }
        }
    }

    /// Whether rows of a partition have changed since they were recorded.
    fn is_dirty(&self, slot: usize) -> bool {
        self.dirty_count(slot) > 0
    }
}

/// Pushes of so many rows to such a table were applied.
pub(super) fn note_imaged(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
    table: TableId,
    rows: u64,
) {
    let table = tables.by_id.get(&table).expect("a table that was pushed to");
    let Durability::Interval { milliseconds } = table.entry.schema.durability else {
        unreachable!("only tables of durability `interval` are imaged")
    };
    let bytes = rows * table.row_image_len();
    let Some(mut durable) = disk.durable.take() else { return };
    if !durable.images.is_due_within(milliseconds) {
        let now = durable.now();
        durable.images.come_due(now, milliseconds);
    }
    durable.images.bytes += bytes;
    durable.images.unseen += bytes;
    if durable.images.unseen > IMAGE_PARTITION_LEN_MAX / 2 {
        write_long_images(port, tables, chain, &mut durable);
    }
    if durable.images.bytes > IMAGE_LEN_MAX {
        // Rows pushed again and again are imaged once.
        durable.images.bytes = tables.images_len();
        if durable.images.bytes > IMAGE_LEN_MAX / 2 {
            let now = durable.now();
            durable.images.come_due(now, 0);
            turn_images(port, tables, chain, &mut durable, now);
        }
    }
    disk.durable = Some(durable);
}

/// Records the partitions whose images would be long soon: an image is made in one turn.
fn write_long_images(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    durable: &mut Durable,
) {
    durable.images.unseen = 0;
    if !is_settled(chain) || tables.longest_image_len() <= IMAGE_PARTITION_LEN_MAX / 2 {
        durable.images.has_long = false;
        return;
    }
    let mut partitions = std::mem::take(&mut durable.images.partitions);
    partitions.clear();
    for table in tables.by_id.values().filter(|table| table.is_imaged()) {
        partitions.extend(table.slots.filled().map(|(partition, _)| partition));
    }
    partitions.sort_unstable();
    partitions.dedup();
    partitions.retain(|partition| tables.image_len(*partition) > IMAGE_PARTITION_LEN_MAX / 2);
    let mut written = 0;
    durable.images.has_long = false;
    for partition in &partitions {
        if written >= IMAGES_LEN_PER_TURN {
            durable.images.has_long = true;
            break;
        }
        durable::await_segments(port, tables, chain, durable);
        // As below.
        let _ = write_image(port, tables, chain, durable, *partition);
        written += durable.images.buffer.len();
    }
    durable.images.partitions = partitions;
}

/// Records what is due.
pub(super) fn turn_images(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    durable: &mut Durable,
    now: Duration,
) {
    if durable.images.has_long {
        write_long_images(port, tables, chain, durable);
    }
    durable.checkpoint_wanted |= durable.log().is_nearly_full();
    if durable.images_are_due(now) {
        write_images_up_to(port, tables, chain, durable, IMAGES_LEN_PER_TURN);
    }
}

/// Records every row that changed.
pub(super) fn write_images(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    durable: &mut Durable,
) {
    durable.images.restart();
    write_images_up_to(port, tables, chain, durable, usize::MAX);
}

/// Records rows that changed, partition by partition, until so many bytes are; the others stay
/// due. Returns whether there are no others.
pub(super) fn write_images_up_to(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    durable: &mut Durable,
    budget: usize,
) -> bool {
    if !is_settled(chain) {
        // Each push has its record, and what went before was recorded.
        durable.images = Images::default();
        return true;
    }
    let mut partitions = std::mem::take(&mut durable.images.partitions);
    partitions.clear();
    for table in tables.by_id.values().filter(|table| table.is_imaged()) {
        let held = table.slots.filled();
        partitions
            .extend(held.filter(|(_, slot)| table.is_dirty(*slot)).map(|(partition, _)| partition));
    }
    partitions.sort_unstable();
    partitions.dedup();
    // Where the last turn ended: pushes meanwhile must not bring the first ones up again.
    let begun = *durable.images.pass.get_or_insert(durable.now());
    let from = partitions.partition_point(|partition| *partition < durable.images.from);
    let mut written = 0;
    for partition in &partitions[from..] {
        if written >= budget {
            durable.images.from = *partition;
            durable.images.partitions = partitions;
            return false;
        }
        // A log that has stopped says so itself, and pushes are refused from then on.
        let _ = write_image(port, tables, chain, durable, *partition);
        written += durable.images.buffer.len();
    }
    durable.images.partitions = partitions;
    durable.images.restart();
    tables.end_images(durable, begun);
    true
}

impl Tables {
    /// All that was due when the pass began is recorded; what changed since is due in its turn.
    fn end_images(&self, durable: &mut Durable, begun: Duration) {
        durable.images.bytes = self.images_len();
        let intervals = self.by_id.values().filter(|table| table.is_imaged()).filter_map(|table| {
            let is_dirty = table.slots.filled().any(|(_, slot)| table.is_dirty(slot));
            match table.entry.schema.durability {
                Durability::Interval { milliseconds } if is_dirty => Some(milliseconds),
                _ => None,
            }
        });
        durable.images.due = None;
        if let Some(milliseconds) = intervals.min() {
            durable.images.come_due(begun, milliseconds);
        }
    }

    /// Whether a partition has rows to be imaged: a record that covers later pushes of the sessions
    /// that changed them has to come after them.
    pub(super) fn owes_image(&self, durable: &Durable, partition: PartitionId) -> bool {
        if durable.images.due.is_none() {
            return false;
        }
        self.by_id.values().filter(|table| table.is_imaged()).any(|table| {
            table.slots.find(partition).is_some_and(|slot| table.dirty_count(slot) > 0)
        })
    }
}

/// Records the changed rows of one partition, then its clocks.
pub(super) fn write_image(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    durable: &mut Durable,
    partition: PartitionId,
) -> Result<(), Refused> {
    let mut buffer = std::mem::take(&mut durable.images.buffer);
    durable.images.writing = true;
    buffer.clear();
    for (id, table) in tables.by_id.iter_mut().filter(|(_, table)| table.is_imaged()) {
        if let Some(slot) = table.slots.find(partition) {
            append(*id, &mut table.rows, slot, &mut buffer);
        }
    }
    let covered: Vec<Covered> = chain.unimaged(partition).collect();
    let mut written = Ok(());
    if !(buffer.is_empty() && covered.is_empty()) {
        let mut writer = ImageWriter { port, tables, chain, durable, partition };
        written = writer.record_all(&covered, &buffer);
    }
    if written.is_ok() {
        chain.note_imaged(partition);
    }
    if written == Err(Status::TooLarge.into()) {
        unreachable!("images are recorded before they are longer than a record");
    }
    durable.images.buffer = buffer;
    durable.images.writing = false;
    written
}

/// Writes records of images of one partition into the shard's log.
struct ImageWriter<'a> {
    port: &'a mut Port,
    tables: &'a mut Tables,
    chain: &'a mut Chain,
    durable: &'a mut Durable,
    partition: PartitionId,
}

impl ImageWriter<'_> {
    /// Records images, with the sessions whose pushes are in them.
    fn record_all(&mut self, covered: &[Covered], images: &[u8]) -> Result<(), Refused> {
        let Self { port, tables, chain, durable, partition } = self;
        chain::ready_log(port, tables, chain, durable, *partition)?;
        // Sessions that one record has no room for get records of their own. All of them count together.
        let (others, covered) = covered.split_at(covered.len().saturating_sub(COVERED_MAX));
        let is_group = !others.is_empty() && !durable.log().is_in_group();
        if is_group {
            durable.log_mut().begin_group();
        }
        let mut chunks = others.chunks(COVERED_MAX);
        let recorded = chunks
            .try_for_each(|covered| self.record(covered, &[]))
            .and_then(|()| self.record(covered, images));
        if is_group {
            reserve::end_group(self.port, self.tables, self.chain, self.durable)?;
        }
        recorded
    }

    fn record(&mut self, covered: &[Covered], images: &[u8]) -> Result<(), Refused> {
        let Self { port, tables, chain, durable, partition } = self;
        let facts = Facts {
            kind: Kind::Engine,
            partition: *partition,
            epoch: epoch_of(chain, *partition),
            table: TableId(0),
            dtype: DataType::F32,
            rows: RowRange::default(),
            tag: IMAGE,
            durability: commit::Durability::Interval(0),
        };
        let shape =
            Shape { covered_max: covered.len(), delta_bytes: images.len(), ..Shape::default() };
        let mut reservation = reserve::reserve(port, tables, chain, durable, &facts, shape)?;
        let mut record = durable.log_mut().fill(&mut reservation);
        covered.iter().for_each(|covered| record.cover(*covered));
        record.delta().copy_from_slice(images);
        seal(chain, durable, *partition, reservation, covered);
        Ok(())
    }
}

/// Whether a push may wait for the images of its rows. Long ones are recorded as they are, so that
/// the images of a partition fit a record.
pub(super) fn may_wait(header: &RequestHeader) -> bool {
    !header.sync
        && header.values_len() <= IMAGED_PUSH_LEN_MAX
        && header.row_count <= IMAGED_PUSH_ROWS_MAX
}

/// Appends the changed rows of one table in one partition.
fn append(table: TableId, rows: &mut TableRows, slot: usize, buffer: &mut Vec<u8>) {
    match rows {
        TableRows::Dense(partitions) => {
            let dense = &mut partitions[slot].0;
            for run in dense.take_dirty() {
                let at = begin_entry(table, DENSE, run.start, run.count(), buffer);
                dense.save_rows(run, buffer);
                end_entry(at, buffer);
            }
        }
        TableRows::Sparse(partitions) => {
            let sparse = &mut partitions[slot];
            let rows = sparse.take_dirty();
            if rows.is_empty() {
                return;
            }
            let at = begin_entry(table, SPARSE, 0, rows.len() as u64, buffer);
            for (key, row) in rows {
                sparse.save_row(key, row, buffer);
            }
            end_entry(at, buffer);
        }
    }
}

#[cfg(test)]
mod tests;
