//! Rows that come to a shard: those of a new table, and those a new map gives it. Their memory is made on
//! another thread; the shard goes on with its turns meanwhile, and puts them in use when it is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use windlass_transport::Transport;
use windlass_wire::{PartitionId, TableEntry, TableId};

use super::{
    Shard, ShardHandle, chain,
    chain::ServerEvent,
    command::Answer,
    memory::{Made, MemoryMade, MemoryThread, Wanted},
    tables::{ShardTable, TableError, TableRows},
};

/// What is being made, and who waits for it.
#[derive(Debug)]
pub(super) struct Growth {
    pub(super) memory: MemoryThread,
    /// Tables that are being made.
    making: BTreeMap<TableId, Vec<Answer<()>>>,
    /// Partitions that the map gives to this shard while some of their rows are not here: they take part
    /// in nothing.
    lacking: BTreeSet<PartitionId>,
    /// Those of them that there is no memory for.
    refused: BTreeSet<PartitionId>,
    /// Whether rows for the map in force are being made.
    is_mapping: bool,
    /// Who waits for all rows of the first map.
    first: Vec<Answer<()>>,
}

/// What memory is made for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// This table.
    Table(Box<ShardTable>),
    /// Partitions that the map gives to the shard.
    Map,
}

impl Growth {
    /// Nothing yet, and a thread to make memory for `handle`'s shard.
    pub(super) fn new(
        transports: &[Box<dyn Transport>],
        handle: ShardHandle,
    ) -> std::io::Result<Self> {
        Ok(Self {
            memory: MemoryThread::start(transports, handle)?,
            making: BTreeMap::new(),
            lacking: BTreeSet::new(),
            refused: BTreeSet::new(),
            is_mapping: false,
            first: Vec::new(),
        })
    }

    /// Whether a table is being made here.
    pub(super) fn is_making(&self, table: TableId) -> bool {
        self.making.contains_key(&table)
    }

    /// Whether rows of a partition are still to be made.
    pub(super) fn lacks(&self, partition: PartitionId) -> bool {
        self.lacking.contains(&partition)
    }

    /// Whether rows of any partition are.
    pub(super) fn is_lacking(&self) -> bool {
        !self.lacking.is_empty()
    }

    /// Partitions that the map gives to this shard and that it has no memory for.
    pub(super) fn refused(&self) -> impl Iterator<Item = PartitionId> + '_ {
        self.refused.iter().copied()
    }

    /// A table that is being made is not wanted any more.
    pub(super) fn forget_table(&mut self, table: TableId) {
        for answer in self.making.remove(&table).into_iter().flatten() {
            let _ = answer.send(Err("the table was dropped while it was made".to_owned()));
        }
    }
}

/// Makes a table; answers once it is there.
pub(super) fn create_table(shard: &mut Shard, entry: TableEntry, answer: Answer<()>) {
    let id = entry.id;
    if shard.tables.contains_key(&id) {
        let _ = answer.send(Ok(()));
        return;
    }
    let waiting = shard.growth.making.entry(id).or_default();
    waiting.push(answer);
    if waiting.len() > 1 {
        return;
    }
    match ShardTable::new(entry, shard.map.partition_count().max(1)) {
        Ok(table) => grow_table(shard, Box::new(table), Made::default()),
        Err(error) => end_create(shard, id, Err(chain(&error))),
    }
}

/// Takes over rows that the map in force gives to the shard, as far as there is memory for them; answers
/// once that is done.
pub(super) fn follow_map(shard: &mut Shard, answer: Option<Answer<()>>) {
    shard.growth.first.extend(answer);
    // Rows of sparse tables are made one by one, by pushes.
    let sparse: Vec<(TableId, Vec<PartitionId>)> = shard
        .tables
        .iter()
        .filter(|(_, table)| !table.is_dense())
        .map(|(id, table)| (*id, missing(shard, table).collect()))
        .collect();
    put_all_in_use(shard, sparse, &mut Made::default());
    if !shard.growth.is_mapping {
        grow_for_map(shard, Made::default());
        return;
    }
    // What is being made is looked through when it comes.
    shard.growth.lacking = lacking(shard);
    shard.growth.refused.clear();
}

/// Memory is there, or there is none.
pub(super) fn take_memory(shard: &mut Shard, MemoryMade { made, purpose }: MemoryMade) {
    match (purpose, made) {
        (Purpose::Table(table), Ok(made)) => grow_table(shard, table, made),
        (Purpose::Table(table), Err(text)) => end_create(shard, table.entry.id, Err(text)),
        (Purpose::Map, Ok(made)) => {
            shard.growth.is_mapping = false;
            grow_for_map(shard, made);
        }
        (Purpose::Map, Err(text)) => {
            shard.growth.is_mapping = false;
            shard.growth.lacking = lacking(shard);
            let refused = shard.growth.lacking.clone();
            end_mapping(shard, refused, &text);
        }
    }
}

fn grow_table(shard: &mut Shard, mut table: Box<ShardTable>, mut made: Made) {
    let id = table.entry.id;
    if !shard.growth.is_making(id) {
        shard.growth.memory.end(made);
        return;
    }
    let missing: Vec<PartitionId> = missing(shard, &table).collect();
    let needed = missing.iter().map(|partition| table.len_of(*partition)).sum();
    let left = shard.memory_left;
    if needed > left && shard.marks.gives_back() {
        let purpose = Purpose::Table(table);
        shard.marks.grow(MemoryMade { made: Ok(made), purpose });
        return;
    }
    if needed > left {
        shard.growth.memory.end(made);
        let error = TableError::Bound { needed, left };
        end_create(shard, id, Err(chain(&error)));
        return;
    }
    if let Err(error) = adopt(shard, &mut made) {
        end_create(shard, id, Err(error));
        return;
    }
    let wanted = wanted(shard, [(&*table, missing.as_slice())], &made);
    if !wanted.is_empty() {
        shard.growth.memory.make(wanted, made, Purpose::Table(table));
        return;
    }
    put_in_use(shard, &mut table, &missing, &mut made);
    shard.growth.memory.end(made);
    if table.clocks.is_some() {
        shard.clocks.add_table();
    }
    shard.tables.insert(id, *table);
    shard.tables_below = shard.tables_below.max(id.0 + 1);
    shard.fence_new_rows(id);
    end_create(shard, id, Ok(()));
}

fn end_create(shard: &mut Shard, id: TableId, result: Result<(), String>) {
    retire_unused(shard);
    for answer in shard.growth.making.remove(&id).into_iter().flatten() {
        let _ = answer.send(result.clone());
    }
}

fn grow_for_map(shard: &mut Shard, mut made: Made) {
    shard.growth.lacking = lacking(shard);
    if !choose(shard).1.is_empty() && shard.marks.gives_back() {
        shard.growth.is_mapping = true;
        shard.marks.grow(MemoryMade { made: Ok(made), purpose: Purpose::Map });
        return;
    }
    if let Err(text) = adopt(shard, &mut made) {
        let refused = shard.growth.lacking.clone();
        end_mapping(shard, refused, &text);
        return;
    }
    let (taken, refused) = choose(shard);
    let tables: Vec<(TableId, Vec<PartitionId>)> = shard
        .tables
        .iter()
        .map(|(id, table)| {
            (*id, missing(shard, table).filter(|partition| taken.contains(partition)).collect())
        })
        .collect();
    let plan = tables.iter().map(|(id, missing)| (&shard.tables[id], missing.as_slice()));
    let wanted = wanted(shard, plan, &made);
    if !wanted.is_empty() {
        shard.growth.is_mapping = true;
        shard.growth.memory.make(wanted, made, Purpose::Map);
        return;
    }
    put_all_in_use(shard, tables, &mut made);
    shard.growth.memory.end(made);
    let left = shard.memory_left;
    let text = format!("{left} bytes of memory are left for it: raise --memory or add servers");
    end_mapping(shard, refused, &text);
}

/// All rows are here but those of `refused`, for `reason`.
fn end_mapping(shard: &mut Shard, refused: BTreeSet<PartitionId>, reason: &str) {
    retire_unused(shard);
    let grown = std::mem::replace(&mut shard.growth.lacking, refused.clone());
    shard.growth.refused = refused;
    let mut result = Ok(());
    for partition in &shard.growth.refused {
        tracing::error!(%partition, reason, "there is no memory for a partition");
        // Other servers can hold what others have; what only this one's disk has is to be recovered.
        if shard.recovers(*partition) {
            result = Err(format!("there is no memory for partition {partition}: {reason}"));
        }
    }
    for answer in shard.growth.first.drain(..) {
        let _ = answer.send(result.clone());
    }
    shard.configure_grown(&grown);
    report_refused(shard);
}

/// The partitions that the map gives to this shard and some rows of which are not here.
fn lacking(shard: &Shard) -> BTreeSet<PartitionId> {
    shard.tables.values().flat_map(|table| missing(shard, table)).collect()
}

/// A table's partitions that the map gives to this shard and that are not here.
fn missing<'a>(
    shard: &'a Shard,
    table: &'a ShardTable,
) -> impl Iterator<Item = PartitionId> + use<'a> {
    table.missing(&shard.map, shard.server, (shard.id, shard.shard_count))
}

/// Which of the partitions that are lacking there is room for.
fn choose(shard: &Shard) -> (BTreeSet<PartitionId>, BTreeSet<PartitionId>) {
    let mut needed: BTreeMap<PartitionId, u64> = BTreeMap::new();
    for table in shard.tables.values() {
        for partition in missing(shard, table) {
            *needed.entry(partition).or_default() += table.len_of(partition);
        }
    }
    let mut left = shard.memory_left;
    let (mut taken, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for (partition, len) in needed {
        match left.checked_sub(len) {
            Some(less) => {
                left = less;
                taken.insert(partition);
            }
            None => drop(refused.insert(partition)),
        }
    }
    (taken, refused)
}

/// Memory that has to be made for the partitions of tables, besides what was made.
fn wanted<'a>(
    shard: &Shard,
    tables: impl IntoIterator<Item = (&'a ShardTable, &'a [PartitionId])>,
    made: &Made,
) -> Wanted {
    let (mut lens, mut states) = (Vec::new(), Vec::new());
    for (table, missing) in tables {
        lens.extend(table.pieces(missing));
        let wanted = missing.iter().filter_map(|partition| table.wanted_state(*partition));
        states.extend(
            wanted.filter(|state| !made.states.contains_key(&(state.table, state.partition))),
        );
    }
    Wanted { regions: shard.arena.lacks(&lens), states }
}

/// Registers the regions that were made; the ones left over are dropped elsewhere.
fn adopt(shard: &mut Shard, made: &mut Made) -> Result<(), String> {
    for region in std::mem::take(&mut made.regions) {
        if let Err(error) = shard.arena.adopt(region, &mut shard.transports) {
            shard.growth.memory.end(std::mem::take(made));
            return Err(chain(&error));
        }
    }
    Ok(())
}

fn put_all_in_use(shard: &mut Shard, tables: Vec<(TableId, Vec<PartitionId>)>, made: &mut Made) {
    for (id, missing) in tables {
        let Some(mut table) = shard.tables.remove(&id) else { continue };
        put_in_use(shard, &mut table, &missing, made);
        shard.tables.insert(id, table);
    }
}

fn put_in_use(shard: &mut Shard, table: &mut ShardTable, missing: &[PartitionId], made: &mut Made) {
    let len: u64 = missing.iter().map(|partition| table.len_of(*partition)).sum();
    shard.memory_left -= len;
    table.install(missing, &mut shard.arena, made);
    if let TableRows::Sparse(partitions) = &mut table.rows {
        let memory = Arc::new(shard.growth.memory.clone());
        for partition in partitions {
            partition.grow_ahead(memory.clone());
        }
    }
    if shard.durable.is_some() {
        table.track_changes();
    }
}

/// Regions that were made and found no use, since the map changed meanwhile, go again.
fn retire_unused(shard: &mut Shard) {
    shard.arena.retire_unused();
    shard.sweep_arena();
}

impl Wanted {
    fn is_empty(&self) -> bool {
        self.regions.is_empty() && self.states.is_empty()
    }
}

/// Tells what the map gives to this shard and there is no memory for.
pub(super) fn report_refused(shard: &Shard) {
    let Some(chain) = &shard.chain else { return };
    for partition in shard.growth.refused() {
        let epoch = shard.map.chains[partition.0 as usize].epoch;
        chain.tell(ServerEvent::CannotHold { partition, epoch });
    }
}
