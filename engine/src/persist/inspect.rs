//! Reading a directory for people and scripts: frames of the log, checkpoints and their blocks.
//! Nothing is changed.

use std::fmt;

use windlass_replication::SessionTable;
use windlass_wire::DataType;

use super::{
    clocks::{CLOCKS, WorkerSeen, workers_of_clock, workers_of_record},
    frame::{Frame, Kind},
    log_files::LogFiles,
    log_walk::{self, BadFrame, Place, Position, TornTail, Visitor},
    manifest::{BadManifest, DataFile, Manifest, data_name, manifest_name, read_manifests},
    record::Record,
    recovery::{BadBlock, Block, read_data_file},
    scan::ScanMemory,
    segment,
    sessions::{SESSIONS, expired_of},
    storage::{Listed, Storage, StorageError},
    watermark::WATERMARK_NAME,
};
use crate::limits::CHAIN_SESSIONS_MAX;

/// One frame of the log.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LogFrame {
    /// Where it lies.
    pub place: Place,
    /// What it is.
    pub kind: Kind,
    /// Its length in bytes.
    pub bytes: usize,
    /// LSN; of a batch, its number; of a superblock, the segment's sequence.
    pub lsn: u64,
    /// Epoch; of a batch, the durable position when it was closed.
    pub epoch: u64,
    /// Partition, of records.
    pub partition: u32,
    /// Table, of records.
    pub table: u32,
    /// Dtype of the delta.
    pub dtype: &'static str,
    /// First row.
    pub row_start: u64,
    /// Number of rows or keys.
    pub row_count: u64,
    /// Sessions covered.
    pub covered: u16,
    /// Worker clocks.
    pub stamps: u16,
    /// What it says of workers: of its stamps, or of an event or a whole clock.
    pub workers: Vec<WorkerSeen>,
    /// Sessions that are forgotten with it, by their numbers.
    pub expired: Vec<u64>,
    /// Bytes of delta.
    pub delta_bytes: usize,
}

/// A log as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LogSummary {
    /// Identity.
    pub log_id: u64,
    /// Frames read.
    pub frames: u64,
    /// Records among them.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Log position of its end.
    pub end: u64,
    /// Where writes were cut off.
    pub torn: Option<TornTail>,
    /// Everything bad.
    pub damage: Vec<BadFrame>,
}

/// A checkpoint as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CheckpointSummary {
    /// Its number.
    pub number: u64,
    /// Seconds since 1970.
    pub published_seconds: u64,
    /// Log position from which the log is needed.
    pub log_position: u64,
    /// Its files.
    pub files: Vec<DataFile>,
    /// Its partitions.
    pub partitions: Vec<PartitionSummary>,
}

/// A partition of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PartitionSummary {
    /// The partition.
    pub partition: u32,
    /// Records after this LSN are needed from the log.
    pub begin_lsn: u64,
    /// No block is newer than this.
    pub end_lsn: u64,
    /// Epoch.
    pub epoch: u64,
}

/// A block of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BlockSummary {
    /// The partition.
    pub partition: u32,
    /// The table.
    pub table: u32,
    /// The section.
    pub section: u16,
    /// Its index.
    pub index: u64,
    /// LSN when it was copied.
    pub lsn: u64,
    /// Its bytes.
    pub bytes: usize,
    /// Sessions whose last pushes it holds, when it is of those.
    pub sessions: usize,
    /// The workers of a range clock, when it is one.
    pub workers: Vec<WorkerSeen>,
}

/// Gives every frame of a directory's log, from where its checkpoint begins.
///
/// # Errors
/// When the directory cannot be read. Damage is no error: it is in the summary.
pub fn inspect_log(
    storage: &mut dyn Storage,
    visit: &mut dyn FnMut(&LogFrame),
) -> Result<LogSummary, StorageError> {
    let (manifests, _) = read_manifests(storage)?;
    let newest = manifests.first();
    let mut memory = ScanMemory::new(storage)?;
    let files = LogFiles::open(storage, newest)?;
    let mut lister = Lister { visit, summary: LogSummary::default() };
    let walked = log_walk::walk(storage, &mut memory, &files, &mut lister)?;
    Ok(LogSummary {
        log_id: files.log_id,
        bytes: walked.bytes,
        end: walked.tail.position,
        torn: walked.torn,
        damage: walked.damage,
        ..lister.summary
    })
}

/// The files of a directory that recovery reads: the newest checkpoint's, manifests that cannot be
/// read, the log behind it and its watermark.
///
/// # Errors
/// When the directory cannot be read.
pub fn needed_files(storage: &mut dyn Storage) -> Result<Vec<Listed>, StorageError> {
    let (manifests, unreadable) = read_manifests(storage)?;
    let newest = manifests.first();
    let log = LogFiles::open(storage, newest)?;
    let mut needed = storage.list()?;
    needed.retain(|file| {
        let name = &file.name;
        let is_of_newest = newest.is_some_and(|newest| {
            *name == manifest_name(newest.number)
                || newest.files.iter().any(|file| *name == data_name(file.number))
        });
        let is_log = segment::file_number(name).is_some();
        is_of_newest
            || name == WATERMARK_NAME
            || unreadable.iter().any(|bad| bad.file == *name)
            || is_log && !log.free.iter().any(|(free, _)| free == name)
    });
    Ok(needed)
}

struct Lister<'a> {
    visit: &'a mut dyn FnMut(&LogFrame),
    summary: LogSummary,
}

impl Visitor for Lister<'_> {
    fn frame(&mut self, place: &Position<'_>, frame: Frame<'_>) -> Result<(), StorageError> {
        let header = &frame.header;
        self.summary.frames += 1;
        self.summary.records += u64::from(header.kind.is_record());
        let workers = Record::from_frame(frame).map(|record| workers_of_record(&record));
        let expired = Record::from_frame(frame)
            .map(|record| expired_of(&record).map(|session| session.0).collect());
        let header = &frame.header;
        (self.visit)(&LogFrame {
            place: place.place(),
            kind: header.kind,
            bytes: frame.bytes.len(),
            lsn: header.lsn,
            epoch: header.epoch,
            partition: header.partition,
            table: header.table,
            dtype: DataType::from_number(header.dtype).map_or("unknown", DataType::name),
            row_start: header.row_start,
            row_count: header.row_count,
            covered: header.covered,
            stamps: header.stamps,
            workers: workers.unwrap_or_default(),
            expired: expired.unwrap_or_default(),
            delta_bytes: frame.delta().len(),
        });
        Ok(())
    }
}

/// The checkpoints of a directory, newest first, and manifests that cannot be read.
///
/// # Errors
/// When the directory cannot be read.
pub fn inspect_checkpoints(
    storage: &mut dyn Storage,
) -> Result<(Vec<CheckpointSummary>, Vec<BadManifest>), StorageError> {
    let (manifests, bad) = read_manifests(storage)?;
    Ok((manifests.iter().map(summarise).collect(), bad))
}

fn summarise(manifest: &Manifest) -> CheckpointSummary {
    CheckpointSummary {
        number: manifest.number,
        published_seconds: manifest.published_seconds,
        log_position: manifest.log_position,
        files: manifest.files.clone(),
        partitions: manifest
            .partitions
            .iter()
            .map(|entry| PartitionSummary {
                partition: entry.partition.0,
                begin_lsn: entry.begin.0,
                end_lsn: entry.end.0,
                epoch: entry.epoch.0,
            })
            .collect(),
    }
}

/// Gives every block of one of a checkpoint's files. Returns how many, or where it is bad.
///
/// # Errors
/// When there is no memory for reading.
pub fn inspect_blocks(
    storage: &mut dyn Storage,
    file: &DataFile,
    visit: &mut dyn FnMut(&BlockSummary),
) -> Result<Result<u64, BadBlock>, StorageError> {
    let mut memory = ScanMemory::new(storage)?;
    Ok(read_data_file(storage, &mut memory, &data_name(file.number), file.length, &mut |block| {
        visit(&BlockSummary {
            partition: block.partition.0,
            table: block.head.table.0,
            section: block.head.section,
            index: block.head.index,
            lsn: block.head.lsn.0,
            bytes: block.bytes.len(),
            sessions: sessions_of_block(block),
            workers: match block.head.section {
                CLOCKS => workers_of_clock(block.bytes),
                _ => Vec::new(),
            },
        });
    }))
}

/// The sessions whose last pushes a block holds.
fn sessions_of_block(block: &Block<'_>) -> usize {
    match block.head.section {
        SESSIONS => {
            SessionTable::decode(block.bytes, CHAIN_SESSIONS_MAX).map_or(0, |table| table.count())
        }
        _ => 0,
    }
}

impl fmt::Display for LogFrame {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { file, offset, .. } = &self.place;
        write!(formatter, "{file}+{offset:<9} {:<12}", format!("{:?}", self.kind))?;
        match self.kind {
            Kind::Batch => write!(
                formatter,
                "number {} of {} bytes, durable up to {}",
                self.lsn, self.row_count, self.epoch
            ),
            Kind::Pad => write!(formatter, "{} bytes", self.bytes),
            Kind::Whole => write!(formatter, "the group from position {} on", self.lsn),
            _ => write!(
                formatter,
                "partition {} lsn {} epoch {} table {} rows {}+{} {} delta {} B, covers {}, \
                 clocks {}",
                self.partition,
                self.lsn,
                self.epoch,
                self.table,
                self.row_start,
                self.row_count,
                self.dtype,
                self.delta_bytes,
                self.covered,
                self.stamps
            ),
        }?;
        self.workers.iter().try_for_each(|seen| write!(formatter, ", {seen}"))?;
        if self.expired.is_empty() {
            return Ok(());
        }
        write!(formatter, ", forgets {} idle sessions", self.expired.len())
    }
}

impl fmt::Display for BlockSummary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, table, section, index, lsn, bytes, sessions, workers } = self;
        write!(
            formatter,
            "partition {partition} table {table} section {section} index {index}: {bytes} B as of \
             lsn {lsn}"
        )?;
        if *sessions > 0 {
            write!(formatter, ", {sessions} sessions")?;
        }
        workers.iter().try_for_each(|seen| write!(formatter, ", {seen}"))
    }
}

impl fmt::Display for LogSummary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "log {:#x}: {} records in {} frames, {} bytes, ends at {}",
            self.log_id, self.records, self.frames, self.bytes, self.end
        )?;
        if let Some(TornTail { place, reason }) = &self.torn {
            write!(formatter, "\ntorn at {}+{}: {reason}", place.file, place.offset)?;
        }
        for BadFrame { place, reason, skipped_bytes, .. } in &self.damage {
            let Place { file, offset, .. } = place;
            write!(
                formatter,
                "\ndamaged at {file}+{offset}: {reason}; {skipped_bytes} bytes lost"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for CheckpointSummary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: u64 = self.files.iter().map(|file| file.length).sum();
        let blocks: u64 = self.files.iter().map(|file| file.blocks).sum();
        write!(
            formatter,
            "checkpoint {}: {} partitions, {blocks} blocks, {bytes} bytes in {} files, \
             published at {}, log from {}",
            self.number,
            self.partitions.len(),
            self.files.len(),
            self.published_seconds,
            self.log_position
        )
    }
}
