//! A table at one shard: its schema turned into kernels, and the partitions held here.

use std::sync::Arc;

use windlass_wire::{
    ClockLine, ClusterMap, Durability, Layout, NotFinitePolicy, PartitionId, ServerId, ShardId,
    Status, TableEntry, TableKind, map::shard_of,
};

use super::places::Found;
use crate::{
    shard::{
        arena::Arena,
        chain::Sweep,
        clocks::{TableClocks, is_clocked},
        marks::Marks,
        memory::{Made, MemoryThread, WantedState},
        push::Refused,
        rounds::TableRounds,
        rule::TableRule,
    },
    table::{BlockGeometry, DensePartition, SparsePartition, StatePlanes},
    update::{Accumulator, FiniteScan, KernelError},
};

/// One table.
#[derive(Debug)]
pub(in crate::shard) struct ShardTable {
    pub(in crate::shard) entry: TableEntry,
    pub(in crate::shard) layout: Layout,
    /// Applies pushes.
    pub(in crate::shard) rule: TableRule,
    pub(in crate::shard) accumulator: Accumulator,
    /// Set when values that are not finite are refused.
    pub(in crate::shard) scan: Option<FiniteScan>,
    pub(in crate::shard) rows: TableRows,
    /// Index into the rows' partitions.
    pub(in crate::shard) slots: Slots,
    /// What [`ShardTable::make_rows`] found; scratch.
    pub(super) found: Found,
    /// Its workers' clocks, if pulls may have to wait.
    pub(in crate::shard) clocks: Option<Box<TableClocks>>,
    /// Its open rounds, if pushes count by rounds.
    pub(in crate::shard) rounds: Option<Box<TableRounds>>,
    /// How far its rows were looked at, if they expire.
    pub(in crate::shard) sweep: Sweep,
}

/// The rows held here.
#[derive(Debug)]
pub(in crate::shard) enum TableRows {
    /// A dense table's partitions, each with its arena region.
    Dense(Vec<(DensePartition, usize)>),
    /// A sparse table's partitions.
    Sparse(Vec<SparsePartition>),
}

/// Why a table could not be made here.
#[derive(Debug, thiserror::Error)]
pub(in crate::shard) enum TableError {
    /// No kernel for its rule and dtype.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// It would pass the shard's memory bound.
    #[error(
        "the table needs {needed} bytes here and {left} are left: raise --memory or add servers"
    )]
    Bound {
        /// Bytes needed.
        needed: u64,
        /// Bytes left.
        left: u64,
    },
}

impl ShardTable {
    /// A table without rows.
    pub(in crate::shard) fn new(
        entry: TableEntry,
        partition_count: u32,
    ) -> Result<Self, TableError> {
        let schema = &entry.schema;
        Ok(Self {
            layout: Layout::new(entry.id, schema.kind, partition_count),
            rule: TableRule::new(schema)?,
            accumulator: Accumulator::new(schema.dtype)?,
            scan: match schema.not_finite {
                NotFinitePolicy::Accept {} => None,
                NotFinitePolicy::Reject {} => Some(FiniteScan::new(schema.dtype)),
            },
            rows: match schema.kind {
                TableKind::Dense { .. } => TableRows::Dense(Vec::new()),
                TableKind::Sparse {} => TableRows::Sparse(Vec::new()),
            },
            slots: Slots::new(partition_count),
            found: Found::default(),
            clocks: None,
            rounds: TableRounds::new(schema.aggregation).map(Box::new),
            sweep: Sweep::default(),
            entry,
        })
    }

    /// Partitions that the map gives to this shard and that are not here.
    pub(in crate::shard) fn missing<'a>(
        &'a self,
        map: &'a ClusterMap,
        server: ServerId,
        shard: ShardId,
        shard_count: u16,
    ) -> impl Iterator<Item = PartitionId> + use<'a> {
        (0..map.partition_count()).map(PartitionId).filter(move |partition| {
            let chain = &map.chains[partition.0 as usize];
            (chain.servers.contains(&server) || chain.learner == Some(server))
                && shard_of(*partition, shard_count) == shard
                && self.slots.find(*partition).is_none()
                && !(self.is_dense() && self.layout.rows_of(*partition).is_empty())
        })
    }

    /// Bytes of parameter memory that a partition takes.
    pub(in crate::shard) fn len_of(&self, partition: PartitionId) -> u64 {
        if !self.is_dense() {
            return 0;
        }
        let rows = self.layout.rows_of(partition).count();
        BlockGeometry::new(self.entry.schema.row_len(), rows).len(rows)
    }

    /// Lengths of the pieces of the arena that [`ShardTable::install`] takes, in its order.
    pub(in crate::shard) fn pieces(&self, partitions: &[PartitionId]) -> impl Iterator<Item = u64> {
        let wants_clock = is_clocked(&self.entry.schema) && self.clocks.is_none();
        let partitions = if self.is_dense() { partitions } else { &[] };
        let rows = partitions.iter().map(|partition| self.len_of(*partition));
        rows.chain(wants_clock.then_some(ClockLine::LEN as u64))
    }

    /// The optimiser state of a partition, to be made by another thread.
    pub(in crate::shard) fn wanted_state(&self, partition: PartitionId) -> Option<WantedState> {
        let rows = self.layout.rows_of(partition).count();
        if self.is_dense() { WantedState::of(self, partition, rows) } else { None }
    }

    /// Takes in partitions that are not here, with zeroed rows. The arena has room for them, and what was
    /// made has their state.
    pub(in crate::shard) fn install(
        &mut self,
        partitions: &[PartitionId],
        arena: &mut Arena,
        made: &mut Made,
    ) {
        for &partition in partitions {
            let schema = &self.entry.schema;
            let slot = match &mut self.rows {
                TableRows::Sparse(partitions) => {
                    let rows = SparsePartition::new(partition, schema);
                    partitions.push(rows.of_table(&self.entry.name));
                    partitions.len() - 1
                }
                TableRows::Dense(partitions) => {
                    let rows = self.layout.rows_of(partition);
                    let state = made.states.remove(&(self.entry.id, partition));
                    // A rule that keeps none.
                    let state = state.unwrap_or_else(|| {
                        StatePlanes::new(&schema.rule, schema.dtype, 0, schema.width as usize)
                    });
                    let len = BlockGeometry::new(schema.row_len(), rows.count()).len(rows.count());
                    let piece = arena.allocate(len);
                    let place = (piece.pages, piece.offset);
                    let dense = DensePartition::new(partition, rows, schema, place, state);
                    partitions.push((dense, piece.region));
                    partitions.len() - 1
                }
            };
            self.slots.insert(partition, slot);
        }
        if is_clocked(&self.entry.schema) {
            self.install_clocks(arena);
        }
    }

    fn install_clocks(&mut self, arena: &mut Arena) {
        let count = match &self.rows {
            TableRows::Dense(partitions) => partitions.len(),
            TableRows::Sparse(partitions) => partitions.len(),
        };
        let clocks = self.clocks.get_or_insert_with(|| {
            let piece = arena.allocate(ClockLine::LEN as u64);
            Box::new(TableClocks::new(piece, &self.entry.schema))
        });
        clocks.grow(count);
    }

    /// Whether every push to it takes a record, also where nobody else has to hold it: records move its
    /// workers' clocks, or close its rounds.
    #[inline]
    pub(in crate::shard) fn goes_by_records(&self) -> bool {
        self.clocks.is_some()
    }

    /// Whether it is kept on disk.
    pub(in crate::shard) fn is_kept(&self) -> bool {
        self.entry.schema.durability != Durability::Memory {}
    }

    /// Whether rows are numbered.
    pub(in crate::shard) fn is_dense(&self) -> bool {
        matches!(self.rows, TableRows::Dense(_))
    }

    /// Has the rows of a partition marked as not current, or the mark taken away. Its clock is hidden, or
    /// shown, at once.
    pub(in crate::shard) fn fence_partition(
        &mut self,
        partition: PartitionId,
        fenced: bool,
        marks: &mut Marks,
    ) {
        let Some(slot) = self.slots.find(partition) else { return };
        if let Some(clocks) = &mut self.clocks {
            clocks.hide(slot, fenced);
        }
        if let TableRows::Dense(partitions) = &mut self.rows {
            partitions[slot].0.blocks_mut().fence(fenced);
            marks.add(self.entry.id, partition);
        }
    }

    /// Every row of a partition is about to be copied here: those that others may not have go at once.
    pub(in crate::shard) fn begin_copy(
        &mut self,
        partition: PartitionId,
        memory_left: &mut u64,
        memory: &MemoryThread,
    ) {
        let Some(slot) = self.slots.find(partition) else { return };
        match &mut self.rows {
            TableRows::Sparse(_) => self.clear_partition(partition, memory_left, memory),
            TableRows::Dense(partitions) => {
                partitions[slot].0.begin_copy();
                if let Some(clocks) = &mut self.clocks {
                    clocks.clear(slot);
                }
            }
        }
    }

    /// Makes every row of a partition as if it had never been pushed to.
    pub(in crate::shard) fn clear_partition(
        &mut self,
        partition: PartitionId,
        memory_left: &mut u64,
        memory: &MemoryThread,
    ) {
        let Some(slot) = self.slots.find(partition) else { return };
        if let Some(clocks) = &mut self.clocks {
            clocks.clear(slot);
        }
        match &mut self.rows {
            TableRows::Dense(partitions) => partitions[slot].0.clear(),
            TableRows::Sparse(partitions) => {
                let fresh = SparsePartition::new(partition, &self.entry.schema);
                let mut fresh = fresh.of_table(&self.entry.name);
                fresh.grow_ahead(Arc::new(memory.clone()));
                let mut old = std::mem::replace(&mut partitions[slot], fresh);
                if old.changed_mut().is_tracked() {
                    partitions[slot].track_changes();
                }
                *memory_left += old.charged_len();
                memory.end(old);
            }
        }
    }

    /// Gives back a partition that is kept elsewhere.
    pub(in crate::shard) fn remove_partition(
        &mut self,
        partition: PartitionId,
        memory_left: &mut u64,
        marks: &mut Marks,
        memory: &MemoryThread,
    ) {
        let Some(slot) = self.slots.remove(partition) else { return };
        if let Some(clocks) = &mut self.clocks {
            clocks.hide(slot, true);
            clocks.remove(slot);
        }
        let moved = match &mut self.rows {
            TableRows::Dense(partitions) => {
                let (dense, region) = partitions.swap_remove(slot);
                marks.leave(dense, region);
                partitions.get(slot).map(|(moved, _)| moved.partition())
            }
            TableRows::Sparse(partitions) => {
                let sparse = partitions.swap_remove(slot);
                *memory_left += sparse.charged_len();
                memory.end(sparse);
                partitions.get(slot).map(SparsePartition::partition)
            }
        };
        if let Some(moved) = moved {
            self.slots.replace(moved, slot);
        }
    }

    /// Gives the table's memory back: that of dense rows bit by bit, in the turns to come.
    pub(in crate::shard) fn release(
        self,
        arena: &mut Arena,
        memory_left: &mut u64,
        marks: &mut Marks,
        memory: &MemoryThread,
    ) {
        if let Some(mut clocks) = self.clocks {
            clocks.open();
            arena.release(clocks.place().0);
        }
        match self.rows {
            TableRows::Dense(partitions) => {
                // Clients may hold their places: they must not take them for current.
                partitions.into_iter().for_each(|(dense, region)| marks.leave(dense, region));
            }
            TableRows::Sparse(partitions) => {
                *memory_left += partitions.iter().map(SparsePartition::charged_len).sum::<u64>();
                memory.end(partitions);
            }
        }
    }

    /// Where a partition is in the rows' vector, if it is here.
    #[inline]
    pub(in crate::shard) fn slot(&self, partition: PartitionId) -> Option<usize> {
        self.slots.find(partition)
    }

    /// Checks that a range of rows exists and is held here.
    pub(in crate::shard) fn check_range(&self, first: u64, count: u64) -> Result<(), Refused> {
        let TableKind::Dense { rows } = self.entry.schema.kind else {
            return Err(Status::OutOfRange.into());
        };
        let end = first.saturating_add(count);
        if end > rows {
            let first_bad = usize::try_from(rows.saturating_sub(first)).unwrap_or(usize::MAX);
            return Err(Refused::at(Status::OutOfRange, first_bad));
        }
        let mut pieces = self.layout.pieces_of(windlass_wire::RowRange::new(first, end));
        match pieces.all(|(partition, _)| self.slots.find(partition).is_some()) {
            true => Ok(()),
            false => Err(Status::NotHere.into()),
        }
    }

    /// Checks that keys ascend, exist and are held here.
    pub(in crate::shard) fn check_keys(&self, keys: &[u64]) -> Result<(), Refused> {
        for (at, pair) in keys.windows(2).enumerate() {
            if pair[0] >= pair[1] {
                let status =
                    if pair[0] == pair[1] { Status::DuplicateKey } else { Status::UnsortedKeys };
                return Err(Refused::at(status, at + 1));
            }
        }
        if let (TableKind::Dense { rows }, Some(last)) = (self.entry.schema.kind, keys.last())
            && *last >= rows
        {
            let first_bad = keys.partition_point(|key| *key < rows);
            return Err(Refused::at(Status::OutOfRange, first_bad));
        }
        if self.slots.is_complete() {
            return Ok(());
        }
        let elsewhere =
            keys.iter().any(|key| self.slots.find(self.layout.partition_of(*key)).is_none());
        if elsewhere { Err(Status::NotHere.into()) } else { Ok(()) }
    }
}

/// Index into a table's partitions by partition.
#[derive(Debug)]
pub(in crate::shard) struct Slots {
    slots: Vec<u32>,
    filled_count: usize,
}

const NONE: u32 = u32::MAX;

impl Slots {
    fn new(partition_count: u32) -> Self {
        Self { slots: vec![NONE; partition_count as usize], filled_count: 0 }
    }

    pub(in crate::shard) fn insert(&mut self, partition: PartitionId, slot: usize) {
        self.slots[partition.0 as usize] = u32::try_from(slot).unwrap_or(NONE);
        self.filled_count += 1;
    }

    fn replace(&mut self, partition: PartitionId, slot: usize) {
        self.slots[partition.0 as usize] = u32::try_from(slot).unwrap_or(NONE);
    }

    fn remove(&mut self, partition: PartitionId) -> Option<usize> {
        let slot = self.find(partition)?;
        self.slots[partition.0 as usize] = NONE;
        self.filled_count -= 1;
        Some(slot)
    }

    /// The partitions that are here, with their indices.
    pub(in crate::shard) fn filled(&self) -> impl Iterator<Item = (PartitionId, usize)> + '_ {
        (0..)
            .map(PartitionId)
            .zip(&self.slots)
            .filter_map(|(partition, slot)| (*slot != NONE).then_some((partition, *slot as usize)))
    }

    /// Whether every partition of the cluster is here.
    pub(in crate::shard) fn is_complete(&self) -> bool {
        self.filled_count == self.slots.len()
    }

    /// The index of a partition that is here.
    #[inline]
    pub(in crate::shard) fn find(&self, partition: PartitionId) -> Option<usize> {
        match self.slots.get(partition.0 as usize) {
            Some(&slot) if slot != NONE => Some(slot as usize),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use windlass_wire::{DataType, TableId, TableSchema};

    use super::*;

    #[test]
    fn a_push_without_memory_for_all_its_rows_makes_none() {
        let schema = TableSchema::sparse(DataType::F32, 4);
        let entry = TableEntry { id: TableId(1), name: "rows".to_owned(), schema };
        let mut table = ShardTable::new(entry, 2).unwrap();
        let partitions = [PartitionId(0), PartitionId(1)];
        table.install(&partitions, &mut Arena::default(), &mut Made::default());
        let count = |table: &ShardTable| -> u64 {
            let TableRows::Sparse(partitions) = &table.rows else { panic!("a sparse table") };
            partitions.iter().map(SparsePartition::row_count).sum()
        };
        let mut memory = 20_000;
        let here: Vec<u64> = (0..20).collect();
        assert_eq!(table.make_rows(&here, &mut memory), Ok(()));
        // Some of these are here, most are new, and there is room for a part of them.
        let many: Vec<u64> = (10..2000).collect();
        let Refused { status, detail: at } = table.make_rows(&many, &mut memory).unwrap_err();
        assert_eq!(status, Status::Full);
        assert!(at > 50, "after many that there was room for: {at}");
        assert_eq!(count(&table), 20, "none of them stays");
        let TableRows::Sparse(partitions) = &table.rows else { panic!("a sparse table") };
        for key in 0..2000 {
            let is_here = partitions.iter().any(|partition| partition.contains(key));
            assert_eq!(is_here, key < 20, "key {key}");
        }
        // What it found room for is there for others, without a byte more.
        let left = memory;
        assert_eq!(table.make_rows(&many[..at as usize], &mut memory), Ok(()));
        assert_eq!((count(&table), memory), (10 + u64::from(at), left));
    }
}
