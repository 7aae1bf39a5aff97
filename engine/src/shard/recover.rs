//! Recovery of a shard: takes in the checkpoint's blocks and the log's records before it serves.
#![allow(unsafe_code)]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use windlass_replication::{SessionTable, session as chained};
use windlass_transport::error::chain as causes;
use windlass_wire::{PartitionId, RowRange, SessionId};

use super::{
    chain,
    chain::Chain,
    checkpoint::{PieceParts, ROWS, SESSIONS},
    clocks::apply_record,
    disk::Disk,
    durable::{apply_key, apply_range},
    image::{holds_images, restore_image},
    kept_logs,
    open_log::Opening,
    regrouped::Regrouped,
    tables::{ShardTable, TableRows, Tables},
};
use crate::{
    limits::CHAIN_SESSIONS_MAX,
    persist::{
        clocks::CLOCKS,
        directories::ShardDirectory,
        frame::Kind,
        record::{Covered, Record},
        recovery,
        recovery::{
            AppliedBlocks, Block, Progress, Recovered, RecoveryOptions, Replay, ReplayError,
        },
        sessions::expired_of,
        storage,
    },
    table::piece_of,
};

/// What a shard's recovery found, for the log and for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoverySummary {
    /// Bytes of checkpoint read.
    pub checkpoint_bytes: u64,
    /// Bytes of log read.
    pub log_bytes: u64,
    /// Records applied.
    pub records: u64,
    /// Milliseconds it took.
    pub milliseconds: u64,
    /// What is wrong, a sentence each; their partitions accept no pushes.
    pub damage: Vec<String>,
    /// How the disk is written.
    pub storage: String,
    /// Partitions that were here before and go on from what the disk holds.
    pub resumed: usize,
}

/// Recovers the shard's partitions from the data directory. The tables have to be made before;
/// [`super::open_log`] goes on in the shard's own part of it.
///
/// # Errors
/// When the directory cannot be used, or holds damage and `accept_damage` is not set.
pub(super) fn recover(
    tables: &mut Tables,
    chain: &Chain,
    disk: &mut Disk,
    regrouped: Arc<Regrouped>,
    accept_damage: bool,
) -> Result<RecoverySummary, String> {
    let started = Instant::now();
    let (data, generation) = (&regrouped.data, regrouped.generation);
    let sources = ShardDirectory::sources(data, generation, chain.shard);
    let sources = sources.map_err(|error| format!("cannot read {}: {error}", data.display()))?;
    let mut storages = Vec::with_capacity(sources.len());
    for source in &sources {
        let storage = storage::open(&source.path, regrouped.provider);
        storages.push(storage.map_err(|error| causes(&error))?);
    }
    let options = RecoveryOptions { accept_damage };
    let mut replay = ShardReplay {
        tables: &mut *tables,
        chain,
        told: started,
        sessions: BTreeMap::new(),
        parts: PieceParts::default(),
        void: Vec::new(),
    };
    let recovered =
        recovery::recover(&mut storages, options, &mut replay).map_err(|error| causes(&error))?;
    let ShardReplay { sessions, void, .. } = replay;
    if let Some(partition) = void.first() {
        return Err(format!(
            "partition {partition} was being copied here when the server ended: another server \
             has it, or restore it from a backup"
        ));
    }
    let Some(storage) = storages.pop() else { return Err("no directory".to_owned()) };
    let mut damage: Vec<String> = recovered.damage().map(ToString::to_string).collect();
    damage.extend(unattributed(chain, &recovered));
    let mut partitions = (0..chain.map.partition_count()).map(PartitionId);
    if partitions.any(|partition| chain::recovers(chain, partition))
        && tables.by_id.values().any(ShardTable::is_kept)
    {
        let ids = recovered.directories.iter().map(|directory| directory.tail.log_id);
        let found: Vec<(ShardDirectory, u64)> = sources.iter().cloned().zip(ids).collect();
        damage.extend(kept_logs::vanished(&regrouped, chain.shard, &found));
    }
    if !damage.is_empty() && !accept_damage {
        return Err(damage.join("; "));
    }
    let mut summary = RecoverySummary {
        checkpoint_bytes: recovered.progress.checkpoint_bytes,
        log_bytes: recovered.progress.log_bytes,
        records: recovered.progress.records,
        milliseconds: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        damage,
        storage: storage.report().to_string(),
        resumed: 0,
    };
    let found = recovered.directories.last().cloned().unwrap_or_default();
    let is_blank = found.tail.log_id == 0 && sources.len() == 1;
    if !is_blank {
        let partitions = (0..chain.map.partition_count()).map(PartitionId);
        summary.resumed = partitions.filter(|partition| chain::recovers(chain, *partition)).count();
    }
    disk.recovered = Some(Box::new(Opening {
        storage,
        found,
        partitions: recovered.partitions,
        sessions,
        regrouped: (sources.len() > 1).then_some(regrouped),
        is_blank,
    }));
    Ok(summary)
}

/// Damage that names no partition, while there are partitions of which nothing else was found:
/// it may have been their first record.
fn unattributed(chain: &Chain, recovered: &Recovered) -> Vec<String> {
    let mut own = (0..chain.map.partition_count()).map(PartitionId);
    let is_unseen = own.any(|partition| {
        chain::recovers(chain, partition) && !recovered.partitions.contains_key(&partition)
    });
    let bad = recovered.directories.iter().flat_map(|directory| &directory.damage);
    bad.filter(|bad| is_unseen && bad.partition.is_none())
        .map(|bad| {
            let (file, offset) = (&bad.place.file, bad.place.offset);
            format!(
                "partitions without any record left: {} in {file} at offset {offset}, LSN 1: \
                 restore the file or a replica, or start with --accept-damage",
                bad.reason
            )
        })
        .collect()
}

impl ShardTable {
    /// Notes which pieces change from now on, if the table is kept on disk, also of partitions that
    /// have come since it was last asked.
    pub(super) fn track_changes(&mut self) {
        if !self.is_kept() {
            return;
        }
        let imaged = self.is_imaged();
        match &mut self.rows {
            TableRows::Dense(partitions) => {
                for (dense, _) in partitions {
                    if dense.changed_mut().is_tracked() {
                        continue;
                    }
                    dense.track_changes();
                    if imaged {
                        dense.track_dirty();
                    }
                }
            }
            TableRows::Sparse(partitions) => {
                for sparse in partitions {
                    if sparse.changed_mut().is_tracked() {
                        continue;
                    }
                    sparse.track_changes();
                    if imaged {
                        sparse.track_dirty();
                    }
                }
            }
        }
    }
}

/// A shard taking its past in.
struct ShardReplay<'a> {
    tables: &'a mut Tables,
    chain: &'a Chain,
    /// What tells duplicates.
    sessions: BTreeMap<PartitionId, SessionTable>,
    /// The piece in hand, of which some blocks may still come.
    parts: PieceParts,
    /// Partitions whose rows no checkpoint holds yet.
    void: Vec<PartitionId>,
    /// When progress was shown last.
    told: Instant,
}

/// How often the progress of a recovery is shown.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

impl Replay for ShardReplay<'_> {
    fn wants(&self, partition: PartitionId) -> bool {
        chain::recovers(self.chain, partition)
    }

    fn progress(&mut self, progress: Progress) {
        if self.told.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        self.told = Instant::now();
        // A warning so that it is seen: until this is over nobody is served.
        tracing::warn!(
            shard = self.chain.shard.0,
            checkpoint_mib = progress.checkpoint_bytes >> 20,
            of_mib = progress.checkpoint_bytes_total >> 20,
            log_mib = progress.log_bytes >> 20,
            records = progress.records,
            "still recovering"
        );
    }

    fn restore(&mut self, block: &Block<'_>) -> Result<(), ReplayError> {
        let mut parts = std::mem::take(&mut self.parts);
        let restored = match parts.take(&block.head, block.bytes) {
            Ok(None) => Ok(()),
            Ok(Some(bytes)) => self.restore_piece(&Block { bytes, ..*block }),
            Err(error) => Err(error),
        };
        self.parts = parts;
        restored
    }

    fn apply(&mut self, record: &Record<'_>, applied: &AppliedBlocks) -> Result<(), ReplayError> {
        let partition = record.partition();
        if record.kind() == Kind::Begin {
            self.begin_anew(partition);
            return Ok(());
        }
        let lane = chain::lane_of(record);
        let covered: Vec<chained::Covered> = record
            .covered()
            .map(|Covered { session, incarnation, sequence }| chained::Covered {
                session,
                incarnation,
                lane,
                sequence,
            })
            .collect();
        let expired: Vec<SessionId> = expired_of(record).collect();
        self.sessions_of(partition).apply(record.lsn(), &covered, &expired);
        if holds_images(record) {
            return restore_image(self.tables, record, applied);
        }
        if !applied.contains(partition, record.table(), CLOCKS, 0, record.lsn())
            && let Some(table) = self.tables.by_id.get_mut(&record.table())
        {
            apply_record(table, record);
        }
        if !matches!(record.kind(), Kind::Rows | Kind::Keys) {
            return Ok(());
        }
        let id = record.table();
        let Some(table) = self.tables.by_id.get_mut(&id) else { return Ok(()) };
        let schema = &table.entry.schema;
        let row_len = schema.width as usize * record.dtype().size();
        let Some((kernel, values)) = table.rule.of_record(record) else {
            return Err(ReplayError::Schema(id));
        };
        check_record(record, values, row_len)?;
        let lsn = record.lsn();
        let delta = values.as_ptr();
        if record.kind() == Kind::Rows {
            let rows = record.rows();
            for (piece_rows, piece) in pieces_of(table, partition, rows) {
                if applied.contains(partition, id, ROWS, piece, lsn) {
                    continue;
                }
                #[expect(clippy::cast_possible_truncation, reason = "rows of a record in memory")]
                let at = (piece_rows.start - rows.start) as usize;
                // SAFETY: `check_record` found the values of all rows of the range in the delta, of
                // the table's dtype; the delta is memory of the reader.
                unsafe {
                    apply_range(table, &kernel, piece_rows, delta.wrapping_add(at * row_len))
                };
            }
            return Ok(());
        }
        for (at, key) in record.keys().enumerate() {
            let Some(slot) = table.slots.find(table.layout.partition_of(key)) else { continue };
            let piece = match &table.rows {
                TableRows::Sparse(_) => piece_of(key),
                TableRows::Dense(partitions) => {
                    let dense = &partitions[slot].0;
                    if !dense.rows().contains(key) {
                        return Err(ReplayError::Elsewhere { key, partition });
                    }
                    (key - dense.rows().start) / dense.piece_rows()
                }
            };
            if applied.contains(partition, id, ROWS, piece, lsn) {
                continue;
            }
            // SAFETY: `check_record` found one row of values for each key in the delta.
            let done = unsafe {
                apply_key(
                    table,
                    slot,
                    &kernel,
                    key,
                    delta.wrapping_add(at * row_len),
                    &mut self.tables.memory_left,
                )
            };
            if !done {
                return Err(ReplayError::Memory);
            }
        }
        Ok(())
    }
}

impl ShardReplay<'_> {
    /// Takes a piece in, of which all blocks have come.
    fn restore_piece(&mut self, block: &Block<'_>) -> Result<(), ReplayError> {
        if block.head.section == SESSIONS {
            let piece = SessionTable::decode(block.bytes, CHAIN_SESSIONS_MAX)?;
            self.sessions_of(block.partition).merge(&piece);
            return Ok(());
        }
        if block.head.section == CLOCKS {
            return self.restore_clock(block);
        }
        if block.head.section != ROWS {
            return Err(ReplayError::UnknownSection(block.head.section));
        }
        // A table that was dropped since: nobody misses its rows.
        let Some(table) = self.tables.by_id.get_mut(&block.head.table) else { return Ok(()) };
        let Some(slot) = table.slots.find(block.partition) else { return Ok(()) };
        let restored = match &mut table.rows {
            TableRows::Dense(partitions) => {
                partitions[slot].0.restore_piece(block.head.index, block.bytes)
            }
            TableRows::Sparse(partitions) => {
                let sparse = &mut partitions[slot];
                let row_len = sparse.saved_row_len();
                let memory = &mut self.tables.memory_left;
                block.bytes.len().is_multiple_of(row_len)
                    && block.bytes.chunks_exact(row_len).all(|row| sparse.restore_row(row, memory))
            }
        };
        if restored {
            Ok(())
        } else {
            let (table, index) = (block.head.table, block.head.index);
            Err(ReplayError::Piece { table, index })
        }
    }

    /// A table's clock in a partition. A table that was dropped since, or made anew without clocks, has
    /// nobody who waits; one that was dropped while it was copied had none left.
    fn restore_clock(&mut self, block: &Block<'_>) -> Result<(), ReplayError> {
        let Some(table) = self.tables.by_id.get_mut(&block.head.table) else { return Ok(()) };
        let (slot, clocks) = (table.slots.find(block.partition), &mut table.clocks);
        let (Some(slot), Some(clocks)) = (slot, clocks) else { return Ok(()) };
        if block.bytes.is_empty() || clocks.restore_slot(slot, block.bytes) {
            return Ok(());
        }
        Err(ReplayError::Clock(block.head.table))
    }

    fn sessions_of(&mut self, partition: PartitionId) -> &mut SessionTable {
        let none = || SessionTable::new(CHAIN_SESSIONS_MAX);
        self.sessions.entry(partition).or_insert_with(none)
    }

    /// What was taken in of a partition is void: another server's rows took its place.
    fn begin_anew(&mut self, partition: PartitionId) {
        self.sessions.remove(&partition);
        let Tables { by_id: tables, memory_left, growth, .. } = &mut *self.tables;
        for table in tables.values_mut() {
            table.clear_partition(partition, memory_left, &growth.memory);
        }
        if !self.void.contains(&partition) {
            self.void.push(partition);
        }
    }
}

/// Whether a record's rows and values fit its table.
fn check_record(record: &Record<'_>, values: &[u8], row_len: usize) -> Result<(), ReplayError> {
    let rows = match record.kind() {
        Kind::Rows => usize::try_from(record.rows().count()).ok(),
        _ => Some(record.keys().len()),
    };
    let fits = rows.and_then(|rows| rows.checked_mul(row_len)) == Some(values.len());
    if fits { Ok(()) } else { Err(ReplayError::Schema(record.table())) }
}

/// A range cut at the pieces of its partition.
fn pieces_of(table: &ShardTable, partition: PartitionId, rows: RowRange) -> Vec<(RowRange, u64)> {
    let TableRows::Dense(partitions) = &table.rows else { return Vec::new() };
    let Some(slot) = table.slots.find(partition) else { return Vec::new() };
    let dense = &partitions[slot].0;
    let Some(rows) = dense.rows().intersection(rows) else { return Vec::new() };
    let first = (rows.start - dense.rows().start) / dense.piece_rows();
    let last = (rows.end - 1 - dense.rows().start) / dense.piece_rows();
    (first..=last)
        .filter_map(|piece| Some((dense.rows_of_piece(piece).intersection(rows)?, piece)))
        .collect()
}
