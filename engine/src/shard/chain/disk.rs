//! Records of tables kept on disk. Every member writes them to its own log while they travel down the chain,
//! and tells its replica once they are durable. A partition that was copied in begins anew in the log, and is
//! on disk once a checkpoint holds what was copied.

mod records;
mod told;

use std::collections::VecDeque;

use windlass_replication::{SessionTable, Time};
use windlass_wire::{Durability, Epoch, Lsn, PartitionId, TableId};

use self::records::{begin, write_records};
pub(in crate::shard) use self::told::{
    log_all_records, note_checkpoint_ended, note_disk_failed, note_durable, recover_chains,
};
use super::{Chain, ServerEvent, part::Part};
use crate::{
    persist::{
        commit::{Durability as Level, Position as LogPosition},
        log::ReserveError,
    },
    shard::{disk::Disk, durable::Durable, tables::Tables},
};

/// Delay before a failed checkpoint is retried or a failed disk is reported again, in microseconds.
const RETRY_US: u64 = 1_000_000;

/// Most turns that a stopping shard takes to write its last records.
const LAST_TURNS_MAX: u32 = 30_000;

/// What log and checkpoints of this server hold of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Base {
    /// The disk holds nothing of what is in memory.
    #[default]
    Missing,
    /// The log says that the partition begins anew, and a checkpoint that holds its rows is still to be
    /// published; `taken` once it is under way.
    Begun { taken: bool },
    /// The disk holds everything that the records here build on.
    Held,
}

/// How far one partition is on disk.
#[derive(Clone, Copy, Debug, Default)]
struct OnDisk {
    base: Base,
    /// The last record that was given to the log, or is not for it.
    logged: Lsn,
    /// The last of them that is on disk.
    durable: Lsn,
    /// Counts beginnings: what was written before one says nothing of what comes after it.
    life: u32,
    is_behind: bool,
}

/// Records that reached the log together.
#[derive(Clone, Copy, Debug)]
struct Written {
    position: LogPosition,
    index: usize,
    lsn: Lsn,
    life: u32,
}

/// What of the shard's chains is on disk.
#[derive(Debug, Default)]
pub(in crate::shard) struct ChainDisk {
    /// The disk's state of each part, by the part's index.
    parts: Vec<OnDisk>,
    /// Parts with records that were not given to the log.
    behind: Vec<usize>,
    /// In the order of the log.
    written: VecDeque<Written>,
    touched: Vec<usize>,
    /// The log has stopped: this server is of no use to its chains.
    has_failed: bool,
    retry_at: Time,
    /// Partitions of whose rows a running checkpoint is to copy no more.
    uncopied: Vec<PartitionId>,
    /// A partition waits for a checkpoint that is not under way.
    wants_checkpoint: bool,
}

impl ChainDisk {
    #[inline]
    fn part_mut(&mut self, index: usize) -> &mut OnDisk {
        if self.parts.len() <= index {
            self.parts.resize(index + 1, OnDisk::default());
        }
        &mut self.parts[index]
    }

    /// A part may have records that are not in the log.
    #[inline]
    pub(super) fn note_behind(&mut self, index: usize) {
        if !std::mem::replace(&mut self.part_mut(index).is_behind, true) {
            self.behind.push(index);
        }
    }

    /// Whether the log has to get something of a part before its next record.
    pub(super) fn is_part_behind(&mut self, index: usize) -> bool {
        let part = self.part_mut(index);
        part.is_behind || part.base == Base::Missing
    }

    /// The log has got all of a part's records.
    pub(super) fn end_behind(&mut self, index: usize) {
        self.part_mut(index).is_behind = false;
        self.behind.retain(|behind| *behind != index);
    }

    /// A part's next record was made in the log.
    pub(super) fn note_logged(&mut self, index: usize, lsn: Lsn) {
        self.part_mut(index).logged = lsn;
    }

    /// What memory holds of a partition is no longer what the disk holds.
    pub(super) fn forget(&mut self, index: usize) {
        let part = self.part_mut(index);
        *part = OnDisk {
            life: part.life.wrapping_add(1),
            is_behind: part.is_behind,
            ..OnDisk::default()
        };
    }

    /// A partition's rows are no longer what they were: a running checkpoint copies no more of them.
    pub(super) fn end_copying(&mut self, partition: PartitionId) {
        if !self.uncopied.contains(&partition) {
            self.uncopied.push(partition);
        }
    }

    /// Whether a checkpoint is to begin soon, once.
    pub(in crate::shard) fn take_wish(&mut self) -> bool {
        std::mem::take(&mut self.wants_checkpoint)
    }

    /// Partitions of whose rows a running checkpoint is to copy no more, once.
    pub(in crate::shard) fn take_uncopied(&mut self) -> impl Iterator<Item = PartitionId> + '_ {
        self.uncopied.drain(..)
    }

    /// The first record that the log still has to get; `None` when it waits for none.
    pub(super) fn needed_from(&self, index: usize) -> Option<Lsn> {
        let part = self.parts.get(index)?;
        (part.base != Base::Missing && !self.has_failed).then(|| part.logged.next())
    }

    /// Whether records wait for room in the log.
    pub(in crate::shard) fn is_behind(&self) -> bool {
        !self.behind.is_empty() && !self.has_failed
    }

    /// Whether a checkpoint has to end before a copied partition counts as caught up.
    pub(in crate::shard) fn awaits_checkpoint(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.base, Base::Begun { .. }))
    }

    /// Whether records are on their way to the disk.
    pub(in crate::shard) fn is_writing(&self) -> bool {
        !self.written.is_empty()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }
}

/// A record has joined a replica's log.
#[inline]
pub(super) fn keep_record(chain: &mut Chain, partition: PartitionId) {
    let index = chain.index(partition);
    chain.disk.note_behind(index);
}

/// Gives the log what has come since, as far as it has room.
pub(super) fn log_records(tables: &mut Tables, chain: &mut Chain, disk: &mut Disk) {
    if chain.disk.behind.is_empty() || chain.disk.has_failed {
        return;
    }
    let keeps = tables.keeps_records();
    let Some(mut durable) = disk.durable.take() else {
        if !keeps {
            pass_over(chain);
        }
        return;
    };
    if keeps {
        let mut behind = std::mem::take(&mut chain.disk.behind);
        behind.retain(|index| {
            let is_behind = log_part(tables, chain, *index, &mut durable);
            chain.disk.parts[*index].is_behind = is_behind;
            is_behind
        });
        chain.disk.behind = behind;
    } else {
        pass_over(chain);
    }
    disk.durable = Some(durable);
}

/// The epoch of what a checkpoint copies of a partition now: not before that of its last record, nor
/// before that of a [`Kind::Begin`] in the log. Recovery takes a later one for the beginning of
/// another life, and discards the rows.
pub(in crate::shard) fn copied_epoch(chain: &Chain, partition: PartitionId) -> Epoch {
    let part = chain.part(partition);
    part.map_or(chain.map.epoch, Part::copied_epoch)
}

/// What suppresses duplicates in a replicated partition.
pub(in crate::shard) fn chain_sessions(
    chain: &Chain,
    partition: PartitionId,
) -> Option<&SessionTable> {
    Some(chain.part(partition)?.replica.sessions())
}

/// No table is kept on disk: no record is for the log.
fn pass_over(chain: &mut Chain) {
    let Chain { disk, parts, .. } = chain;
    for index in disk.behind.drain(..) {
        let part = &mut disk.parts[index];
        part.is_behind = false;
        if let Some(replica) = parts[index].as_deref() {
            part.logged = replica.replica.log().last();
        }
    }
}

/// Gives the log one part's records; whether some still wait for room.
pub(super) fn log_part(
    tables: &mut Tables,
    chain: &mut Chain,
    index: usize,
    durable: &mut Durable,
) -> bool {
    let now = durable.now();
    let Tables { by_id: tables, .. } = tables;
    let Chain { disk, parts, .. } = chain;
    let on_disk = &mut disk.parts[index];
    let Some(part) = parts[index].as_deref() else { return false };
    if part.broken {
        return false;
    }
    let log = durable.log_mut();
    let level_of = |table: TableId| match tables.get(&table)?.entry.schema.durability {
        Durability::Memory {} => None,
        Durability::Interval { milliseconds } => Some(Level::Interval(milliseconds)),
        Durability::Sync {} => Some(Level::Sync),
    };
    let (first, last) = (on_disk.logged, part.replica.log().last());
    let result = if on_disk.base == Base::Missing {
        // While rows are copied in, there is nothing that a log could begin with.
        if part.copy_in.is_some() || part.replica.position().is_none() {
            return false;
        }
        let begun = begin(part, log, now);
        if begun.is_ok() {
            on_disk.base = Base::Begun { taken: false };
            (on_disk.logged, on_disk.durable) = (last, last);
            disk.wants_checkpoint = true;
        }
        begun.map(|_| None)
    } else {
        write_records(part, &mut on_disk.logged, log, now, level_of)
    };
    if let Ok(Some(position)) = result {
        let (lsn, life) = (on_disk.logged, on_disk.life);
        disk.written.push_back(Written { position, index, lsn, life });
    }
    match result {
        Ok(_) => false,
        Err(ReserveError::Full(full)) => {
            let position = log.end();
            if on_disk.logged > first {
                let (lsn, life) = (on_disk.logged, on_disk.life);
                disk.written.push_back(Written { position, index, lsn, life });
            }
            disk.wants_checkpoint |= full == crate::persist::log::Full::Segments;
            true
        }
        Err(ReserveError::Poisoned(_)) => false,
        Err(error) => {
            tracing::error!(partition = %part.partition, %error, "a partition begins anew in the log");
            disk.forget(index);
            true
        }
    }
}

/// Whether a learner may be called caught up: what it copied is on disk, where tables are.
pub(super) fn has_base(tables: &Tables, chain: &Chain, partition: PartitionId) -> bool {
    if !tables.keeps_records() {
        return true;
    }
    let part = chain.disk.parts.get(chain.index(partition));
    !chain.disk.has_failed && part.is_some_and(|part| part.base == Base::Held)
}

/// Whether a checkpoint takes a partition in.
pub(in crate::shard) fn is_checkpointed(chain: &Chain, partition: PartitionId) -> bool {
    let part = chain.disk.parts.get(chain.index(partition));
    part.is_some_and(|part| part.base != Base::Missing)
        && chain.part(partition).is_some_and(|part| !part.broken)
}

/// Whether what older checkpoints hold of a partition is void.
pub(in crate::shard) fn begins_anew(chain: &Chain, partition: PartitionId) -> bool {
    let part = chain.disk.parts.get(chain.index(partition));
    part.is_some_and(|part| matches!(part.base, Base::Begun { .. }))
}

/// A checkpoint has begun to copy a partition.
pub(in crate::shard) fn note_checkpoint_begun(chain: &mut Chain, partition: PartitionId) {
    let index = chain.index(partition);
    if let Base::Begun { taken } = &mut chain.disk.part_mut(index).base {
        *taken = true;
    }
}

/// Now and then: what failed is tried again.
pub(super) fn tick_disk(chain: &mut Chain) {
    if chain.time.now < chain.disk.retry_at {
        return;
    }
    chain.disk.retry_at = chain.time.now.after(RETRY_US);
    if chain.disk.has_failed {
        chain.tell(ServerEvent::DiskFailed {});
    }
    let waits = |part: &OnDisk| part.base == (Base::Begun { taken: false });
    chain.disk.wants_checkpoint |= chain.disk.parts.iter().any(waits);
}
