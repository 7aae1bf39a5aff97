//! Recovery after a crash: the newest valid checkpoint of each partition, then the log behind it.
//!
//! The partition is the unit: any number of directories, written by any number of shards or servers,
//! can be read by a shard that wants any set of partitions. Shards recover in parallel, each with
//! its own storages and its own memory.

use std::collections::{BTreeMap, HashMap};

use windlass_wire::{Epoch, Lsn, PartitionId, TableId};

use super::{
    checkpoint::BlockHead,
    log_files::LogFiles,
    log_walk::{self, BadFrame, Place, TornTail},
    manifest::{BadManifest, Manifest, data_name, manifest_name, read_manifests},
    scan::ScanMemory,
    segment::LogTail,
    storage::{self, Storage, StorageError},
};

mod applier;
mod data_file;
mod groups;
mod replay;
mod tail;
mod unusable;

pub use data_file::BadBlock;
pub(crate) use data_file::read_data_file;
pub use replay::{Replay, ReplayError};

use applier::Applier;
use groups::Groups;

/// A block of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Its partition.
    pub partition: PartitionId,
    /// What it is.
    pub head: BlockHead,
    /// Its bytes, 64-aligned.
    pub bytes: &'a [u8],
}

/// A piece of a checkpoint: its partition, table, section and number.
type Piece = (PartitionId, TableId, u16, u64);

/// Blocks that were copied after the log position from which records are replayed, with the LSN up
/// to which they hold everything.
#[derive(Debug, Default)]
pub struct AppliedBlocks {
    blocks: HashMap<Piece, Lsn>,
}

impl AppliedBlocks {
    /// Whether a block already holds the effect of a record.
    #[must_use]
    pub fn contains(
        &self,
        partition: PartitionId,
        table: TableId,
        section: u16,
        index: u64,
        lsn: Lsn,
    ) -> bool {
        self.blocks.get(&(partition, table, section, index)).is_some_and(|applied| lsn <= *applied)
    }

    /// Whether no block is ahead of the log, so that nothing has to be asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

/// How far recovery is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of checkpoint read.
    pub checkpoint_bytes: u64,
    /// Bytes of checkpoint there are.
    pub checkpoint_bytes_total: u64,
    /// Bytes of log read.
    pub log_bytes: u64,
    /// Records applied.
    pub records: u64,
}

/// What to do about damage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryOptions {
    /// Serve damaged partitions without what was lost. Otherwise they are refused.
    pub accept_damage: bool,
}

/// A partition after recovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredPartition {
    /// The last record it holds.
    pub lsn: Lsn,
    /// The newest epoch seen.
    pub epoch: Epoch,
    /// LSN from which the log was replayed; zero without a checkpoint.
    pub checkpoint: Lsn,
    /// Records applied.
    pub records: u64,
    /// What is wrong with it. Not empty: it must not be served, unless damage is accepted.
    pub damage: Vec<Damage>,
}

/// Something lost from a partition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize)]
#[error(
    "partition {partition}: {reason} in {file} at offset {offset}, LSN {lsn}: \
     restore the file or a replica, or start with --accept-damage"
)]
pub struct Damage {
    /// The partition.
    pub partition: u32,
    /// The first LSN that is lost, as far as is known.
    pub lsn: u64,
    /// The file.
    pub file: String,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What was found.
    pub reason: String,
}

/// A directory after recovery.
#[derive(Clone, Debug, Default)]
pub struct RecoveredDirectory {
    /// The checkpoint it goes on from.
    pub manifest: Option<Manifest>,
    /// The checkpoint before it, for when its manifest cannot be read one day.
    pub older: Option<Manifest>,
    /// Manifests that could not be read.
    pub bad_manifests: Vec<BadManifest>,
    /// Where its log goes on.
    pub tail: LogTail,
    /// Where writes were cut off: nothing acknowledged was there.
    pub torn: Option<TornTail>,
    /// Everything bad in its log.
    pub damage: Vec<BadFrame>,
}

/// The result of recovery.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The wanted partitions that were found.
    pub partitions: BTreeMap<PartitionId, RecoveredPartition>,
    /// The directories, in the order given.
    pub directories: Vec<RecoveredDirectory>,
    /// Figures.
    pub progress: Progress,
}

impl Recovered {
    /// Damaged partitions' damage.
    pub fn damage(&self) -> impl Iterator<Item = &Damage> {
        self.partitions.values().flat_map(|partition| &partition.damage)
    }
}

/// Why recovery could not even be tried to the end.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The disk refused.
    #[error("recovery could not read the disk")]
    Storage(#[from] StorageError),
    /// Sound files that this version does not understand: nothing of them is touched.
    #[error("{file} is of another version of windlass: {reason}")]
    Foreign {
        /// The file.
        file: String,
        /// What is not understood.
        reason: String,
    },
}

/// Recovers the partitions the engine wants from directories, oldest generation first. The result
/// must be durable before it is built upon: it is synced here.
///
/// # Errors
/// When a directory cannot be read. Damage is no error: it is in the result, by partition.
pub fn recover(
    storages: &mut [Box<dyn Storage>],
    options: RecoveryOptions,
    replay: &mut dyn Replay,
) -> Result<Recovered, RecoveryError> {
    let mut recovery = Recovery {
        options,
        recovered: Recovered::default(),
        chosen: BTreeMap::new(),
        applied: AppliedBlocks::default(),
        newest: HashMap::new(),
        suspects: Vec::new(),
        blocks: 0,
    };
    for (at, storage) in storages.iter_mut().enumerate() {
        recovery.choose(at, storage.as_mut(), replay)?;
    }
    // One memory for all directories: there may be many, of many servers.
    let mut memory: Option<(usize, ScanMemory)> = None;
    for (at, storage) in storages.iter_mut().enumerate() {
        let memory = ScanMemory::for_storage(&mut memory, at, storage.as_mut())?;
        recovery.load(at, storage.as_mut(), memory, replay)?;
    }
    for (at, storage) in storages.iter_mut().enumerate() {
        let memory = ScanMemory::for_storage(&mut memory, at, storage.as_mut())?;
        recovery.replay(at, storage.as_mut(), memory, replay)?;
    }
    recovery.judge_suspects();
    recovery.judge_blocks();
    let Recovery { mut recovered, chosen, .. } = recovery;
    unusable::name_them(&mut recovered, |id| chosen.get(&id).map(|chosen| chosen.directory));
    Ok(recovered)
}

/// Blocks between two tellings of progress.
const BLOCKS_PER_PROGRESS: u64 = 256;

struct Recovery {
    options: RecoveryOptions,
    recovered: Recovered,
    /// Which directory's checkpoint a partition comes from.
    chosen: BTreeMap<PartitionId, Chosen>,
    applied: AppliedBlocks,
    /// The newest file with each piece, of a directory whose files are being read.
    newest: HashMap<Piece, u64>,
    /// Damage that may concern partitions of which nothing was seen since.
    suspects: Vec<Suspect>,
    /// Blocks seen, for telling progress.
    blocks: u64,
}

#[derive(Clone, Copy)]
struct Chosen {
    directory: usize,
    begin: Lsn,
    first_file: u64,
}

struct Suspect {
    place: Place,
    reason: String,
    /// Partitions that a later frame proved complete.
    proved: Vec<PartitionId>,
}

impl Recovery {
    /// Reads a directory's manifests and decides for whom its checkpoint is the newest.
    fn choose(
        &mut self,
        at: usize,
        storage: &mut dyn Storage,
        replay: &dyn Replay,
    ) -> Result<(), RecoveryError> {
        let (mut manifests, bad_manifests) = read_manifests(storage)?;
        if let Some(bad) = bad_manifests.iter().find(|bad| bad.is_foreign) {
            let (file, reason) = (bad.file.clone(), bad.reason.clone());
            return Err(RecoveryError::Foreign { file, reason });
        }
        manifests.truncate(2);
        let older = if manifests.len() > 1 { manifests.pop() } else { None };
        let manifest = manifests.pop();
        let name = manifest.as_ref().map_or_else(String::new, |used| manifest_name(used.number));
        for BadManifest { file, reason, .. } in bad_manifests.iter().filter(|bad| bad.file > name) {
            // The log is walked from the older one: where it does not reach back, that is damage.
            tracing::warn!(file, reason, used = name, "going on from an older checkpoint");
        }
        for entry in manifest.iter().flat_map(|manifest| &manifest.partitions) {
            if !replay.wants(entry.partition) {
                continue;
            }
            let newer =
                self.chosen.get(&entry.partition).is_none_or(|old| old.begin <= entry.begin);
            if newer {
                let chosen =
                    Chosen { directory: at, begin: entry.begin, first_file: entry.first_file };
                self.chosen.insert(entry.partition, chosen);
                let partition = self.recovered.partitions.entry(entry.partition).or_default();
                *partition = RecoveredPartition {
                    lsn: entry.begin,
                    epoch: entry.epoch,
                    checkpoint: entry.begin,
                    ..RecoveredPartition::default()
                };
            }
        }
        let files = manifest.iter().flat_map(|manifest| &manifest.files);
        self.recovered.progress.checkpoint_bytes_total +=
            files.map(|file| file.length).sum::<u64>();
        let tail = LogTail::default();
        let directory = RecoveredDirectory {
            manifest,
            older,
            bad_manifests,
            tail,
            ..RecoveredDirectory::default()
        };
        self.recovered.directories.push(directory);
        Ok(())
    }

    /// Reads the data files of a directory's checkpoint, the newest first: of a piece that is in several the
    /// newest counts alone. It may lack keys that older ones have.
    fn load(
        &mut self,
        at: usize,
        storage: &mut dyn Storage,
        memory: &mut ScanMemory,
        replay: &mut dyn Replay,
    ) -> Result<(), StorageError> {
        let Some(manifest) = self.recovered.directories[at].manifest.clone() else {
            return Ok(());
        };
        for file in manifest.files.iter().rev() {
            let name = data_name(file.number);
            let before = self.recovered.progress.checkpoint_bytes;
            let mut visit = |block: &Block<'_>| self.restore(at, file.number, &name, block, replay);
            let read = read_data_file(storage, memory, &name, file.length, &mut visit);
            // With what lies between the blocks.
            self.recovered.progress.checkpoint_bytes = before + file.length;
            replay.progress(self.recovered.progress);
            match read {
                Ok(blocks) if blocks == file.blocks => {}
                Ok(blocks) => {
                    let reason = format!("{blocks} blocks where {} were written", file.blocks);
                    self.damage_checkpoint(at, &name, file.length, &reason);
                }
                Err(bad) => self.damage_checkpoint(at, &name, bad.offset, &bad.reason),
            }
        }
        self.newest = HashMap::new();
        Ok(())
    }

    fn restore(
        &mut self,
        at: usize,
        number: u64,
        name: &str,
        block: &Block<'_>,
        replay: &mut dyn Replay,
    ) {
        self.recovered.progress.checkpoint_bytes += block.bytes.len() as u64;
        self.blocks += 1;
        if self.blocks.is_multiple_of(BLOCKS_PER_PROGRESS) {
            replay.progress(self.recovered.progress);
        }
        let Some(chosen) = self.chosen.get(&block.partition) else { return };
        if chosen.directory != at || number < chosen.first_file {
            return;
        }
        let head = &block.head;
        let key = (block.partition, head.table, head.section, head.index);
        if *self.newest.entry(key).or_insert(number) != number {
            return;
        }
        if let Err(error) = replay.restore(block) {
            let reason = format!("the engine refuses a block: {error}");
            self.damage(block.partition, head.lsn.0, name, 0, reason);
            return;
        }
        if head.lsn > chosen.begin {
            self.applied.blocks.insert(key, head.lsn);
        }
    }

    /// Walks a directory's log and applies what the checkpoints do not hold.
    fn replay(
        &mut self,
        at: usize,
        storage: &mut dyn Storage,
        memory: &mut ScanMemory,
        replay: &mut dyn Replay,
    ) -> Result<(), RecoveryError> {
        let directory = &self.recovered.directories[at];
        let mut files = LogFiles::open(storage, directory.manifest.as_ref())?;
        if directory.manifest.is_none()
            && let Some(BadManifest { file, reason, .. }) = directory.bad_manifests.first()
        {
            files.need_beginning(file, reason);
        }
        let (suspects_before, groups) = (self.suspects.len(), Groups::default());
        let mut applier =
            Applier { recovery: self, replay, from: files.from, suspects_before, groups };
        let walked = log_walk::walk(storage, memory, &files, &mut applier)?;
        if let Some(bad) = walked.damage.iter().find(|bad| bad.is_foreign) {
            let (file, reason) = (bad.place.file.clone(), bad.reason.clone());
            return Err(RecoveryError::Foreign { file, reason });
        }
        for BadFrame { place, reason, .. } in &walked.damage {
            tracing::warn!(file = place.file, offset = place.offset, reason, "damage in the log");
        }
        if !storage.report().direct {
            tail::write_again(storage, memory, &files, &walked)?;
        }
        for link in &files.chain {
            // What was read may still be on its way to the disk: it is built upon from now on.
            storage::run(storage, storage::Operation::Sync { file: link.file })?;
            storage::run(storage, storage::Operation::Close { file: link.file })?;
        }
        // So may names: a manifest that only a dead process has seen must not be lost after the log
        // behind it was recycled.
        storage::run(storage, storage::Operation::SyncDirectory)?;
        let directory = &mut self.recovered.directories[at];
        directory.tail = walked.tail;
        directory.torn = walked.torn;
        directory.damage = walked.damage;
        self.recovered.progress.log_bytes += walked.bytes;
        replay.progress(self.recovered.progress);
        Ok(())
    }

    fn damage(
        &mut self,
        partition: PartitionId,
        lsn: u64,
        file: &str,
        offset: u64,
        reason: String,
    ) {
        let damage = Damage { partition: partition.0, lsn, file: file.to_owned(), offset, reason };
        tracing::error!(%damage, "damage");
        self.recovered.partitions.entry(partition).or_default().damage.push(damage);
    }

    fn damage_checkpoint(&mut self, at: usize, name: &str, offset: u64, reason: &str) {
        let concerned: Vec<(PartitionId, Lsn)> = self
            .chosen
            .iter()
            .filter(|(_, chosen)| chosen.directory == at)
            .map(|(partition, chosen)| (*partition, chosen.begin))
            .collect();
        for (partition, lsn) in concerned {
            self.damage(partition, lsn.0, name, offset, reason.to_owned());
        }
    }

    /// A checkpoint is published only when the log is durable beyond its blocks: a block that is
    /// ahead of the log says that the log lost its end.
    fn judge_blocks(&mut self) {
        let mut ahead: BTreeMap<PartitionId, Lsn> = BTreeMap::new();
        for (key, lsn) in &self.applied.blocks {
            let newest = ahead.entry(key.0).or_default();
            *newest = (*newest).max(*lsn);
        }
        for (partition, newest) in ahead {
            let state = self.recovered.partitions.entry(partition).or_default();
            if newest > state.lsn && state.damage.is_empty() {
                let next = state.lsn.next().0;
                let reason = format!("the checkpoint holds LSN {newest}, which the log has lost");
                self.damage(partition, next, "the log", 0, reason);
            }
        }
    }

    /// A partition of which no later frame says that it is complete may have lost something.
    fn judge_suspects(&mut self) {
        for suspect in std::mem::take(&mut self.suspects) {
            let partitions: Vec<PartitionId> = self.recovered.partitions.keys().copied().collect();
            for partition in partitions {
                let state = &self.recovered.partitions[&partition];
                let next = state.lsn.next();
                if suspect.proved.contains(&partition) || !state.damage.is_empty() {
                    continue;
                }
                let Place { file, offset, .. } = &suspect.place;
                let reason =
                    format!("{}, and it may have concerned this partition", suspect.reason);
                self.damage(partition, next.0, file, *offset, reason);
            }
        }
    }
}
