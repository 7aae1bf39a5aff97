//! New rows for a shard, of a new table or by a new map. Their memory is made on another thread; the shard
//! goes on with its turns meanwhile, and puts them in use when it is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use windlass_transport::{Transport, error::chain as causes};
use windlass_wire::{PartitionId, TableEntry, TableId};

use super::{
    ShardHandle,
    arena::Arena,
    chain,
    chain::{Chain, ServerEvent},
    command::Answer,
    connect,
    memory::{Made, MemoryMade, MemoryThread, Wanted},
    port::Port,
    tables::{ShardTable, TableError, TableRows, Tables},
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
    /// Whether the rows are kept on disk, so that new ones are tracked as well.
    pub(super) tracks_changes: bool,
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
    /// Starts the thread that makes memory for `handle`'s shard.
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
            tracks_changes: false,
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
pub(super) fn create_table(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    entry: TableEntry,
    answer: Answer<()>,
) {
    let id = entry.id;
    if tables.by_id.contains_key(&id) {
        let _ = answer.send(Ok(()));
        return;
    }
    let waiting = tables.growth.making.entry(id).or_default();
    waiting.push(answer);
    if waiting.len() > 1 {
        return;
    }
    match ShardTable::new(entry, chain.map.partition_count().max(1)) {
        Ok(table) => grow_table(port, tables, chain, Box::new(table), Made::default()),
        Err(error) => end_create(port, tables, id, Err(causes(&error))),
    }
}

/// Takes over rows that the map in force gives to the shard, as far as there is memory for them; answers
/// once that is done.
pub(super) fn follow_map(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    answer: Option<Answer<()>>,
) {
    tables.growth.first.extend(answer);
    // Rows of sparse tables are made one by one, by pushes.
    let sparse: Vec<(TableId, Vec<PartitionId>)> = tables
        .by_id
        .iter()
        .filter(|(_, table)| !table.is_dense())
        .map(|(id, table)| (*id, missing(chain, table).collect()))
        .collect();
    put_all_in_use(tables, sparse, &mut Made::default());
    if !tables.growth.is_mapping {
        grow_for_map(port, tables, chain, Made::default());
        return;
    }
    // What is being made is looked through when it comes.
    tables.growth.lacking = lacking(tables, chain);
    tables.growth.refused.clear();
}

/// Memory is there, or there is none.
pub(super) fn take_memory(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    MemoryMade { made, purpose }: MemoryMade,
) {
    match (purpose, made) {
        (Purpose::Table(table), Ok(made)) => grow_table(port, tables, chain, table, made),
        (Purpose::Table(table), Err(text)) => end_create(port, tables, table.entry.id, Err(text)),
        (Purpose::Map, Ok(made)) => {
            tables.growth.is_mapping = false;
            grow_for_map(port, tables, chain, made);
        }
        (Purpose::Map, Err(text)) => {
            tables.growth.is_mapping = false;
            tables.growth.lacking = lacking(tables, chain);
            let refused = tables.growth.lacking.clone();
            end_mapping(port, tables, chain, refused, &text);
        }
    }
}

fn grow_table(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    mut table: Box<ShardTable>,
    mut made: Made,
) {
    let id = table.entry.id;
    if !tables.growth.is_making(id) {
        tables.growth.memory.end(made);
        return;
    }
    let missing: Vec<PartitionId> = missing(chain, &table).collect();
    let needed = missing.iter().map(|partition| table.len_of(*partition)).sum();
    let left = tables.memory_left;
    if needed > left && tables.marks.gives_back() {
        let purpose = Purpose::Table(table);
        tables.marks.grow(MemoryMade { made: Ok(made), purpose });
        return;
    }
    if needed > left {
        tables.growth.memory.end(made);
        let error = TableError::Bound { needed, left };
        end_create(port, tables, id, Err(causes(&error)));
        return;
    }
    if let Err(error) = adopt(port, tables, &mut made) {
        end_create(port, tables, id, Err(error));
        return;
    }
    let wanted = wanted(&tables.arena, [(&*table, missing.as_slice())], &made);
    if !wanted.is_empty() {
        tables.growth.memory.make(wanted, made, Purpose::Table(table));
        return;
    }
    put_in_use(tables, &mut table, &missing, &mut made);
    tables.growth.memory.end(made);
    if table.clocks.is_some() {
        tables.clocks.add_table();
    }
    tables.by_id.insert(id, *table);
    tables.below = tables.below.max(id.0 + 1);
    chain::fence_new_rows(tables, chain, id);
    end_create(port, tables, id, Ok(()));
}

fn end_create(port: &mut Port, tables: &mut Tables, id: TableId, result: Result<(), String>) {
    retire_unused(port, tables);
    for answer in tables.growth.making.remove(&id).into_iter().flatten() {
        let _ = answer.send(result.clone());
    }
}

fn grow_for_map(port: &mut Port, tables: &mut Tables, chain: &mut Chain, mut made: Made) {
    tables.growth.lacking = lacking(tables, chain);
    if !choose(tables, chain).1.is_empty() && tables.marks.gives_back() {
        tables.growth.is_mapping = true;
        tables.marks.grow(MemoryMade { made: Ok(made), purpose: Purpose::Map });
        return;
    }
    if let Err(text) = adopt(port, tables, &mut made) {
        let refused = tables.growth.lacking.clone();
        end_mapping(port, tables, chain, refused, &text);
        return;
    }
    let (taken, refused) = choose(tables, chain);
    let chosen: Vec<(TableId, Vec<PartitionId>)> = tables
        .by_id
        .iter()
        .map(|(id, table)| {
            (*id, missing(chain, table).filter(|partition| taken.contains(partition)).collect())
        })
        .collect();
    let plan = chosen.iter().map(|(id, missing)| (&tables.by_id[id], missing.as_slice()));
    let wanted = wanted(&tables.arena, plan, &made);
    if !wanted.is_empty() {
        tables.growth.is_mapping = true;
        tables.growth.memory.make(wanted, made, Purpose::Map);
        return;
    }
    put_all_in_use(tables, chosen, &mut made);
    tables.growth.memory.end(made);
    let left = tables.memory_left;
    let text = format!("{left} bytes of memory are left for it: raise --memory or add servers");
    end_mapping(port, tables, chain, refused, &text);
}

/// Ends the mapping: all rows are here except those of `refused`, which were refused for `reason`.
fn end_mapping(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    refused: BTreeSet<PartitionId>,
    reason: &str,
) {
    retire_unused(port, tables);
    let grown = std::mem::replace(&mut tables.growth.lacking, refused.clone());
    tables.growth.refused = refused;
    let mut result = Ok(());
    for partition in &tables.growth.refused {
        tracing::error!(%partition, reason, "there is no memory for a partition");
        // Other servers can hold what others have; what only this one's disk has is to be recovered.
        if chain::recovers(chain, *partition) {
            result = Err(format!("there is no memory for partition {partition}: {reason}"));
        }
    }
    for answer in tables.growth.first.drain(..) {
        let _ = answer.send(result.clone());
    }
    chain::configure_grown(port, tables, chain, &grown);
    report_refused(tables, chain);
}

/// The partitions that the map gives to this shard and some rows of which are not here.
fn lacking(tables: &Tables, chain: &Chain) -> BTreeSet<PartitionId> {
    tables.by_id.values().flat_map(|table| missing(chain, table)).collect()
}

/// A table's partitions that the map gives to this shard and that are not here.
fn missing<'a>(
    chain: &'a Chain,
    table: &'a ShardTable,
) -> impl Iterator<Item = PartitionId> + use<'a> {
    table.missing(&chain.map, chain.server, chain.shard, chain.shard_count)
}

/// Which of the partitions that are lacking there is room for.
fn choose(tables: &Tables, chain: &Chain) -> (BTreeSet<PartitionId>, BTreeSet<PartitionId>) {
    let mut needed: BTreeMap<PartitionId, u64> = BTreeMap::new();
    for table in tables.by_id.values() {
        for partition in missing(chain, table) {
            *needed.entry(partition).or_default() += table.len_of(partition);
        }
    }
    let mut left = tables.memory_left;
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
    arena: &Arena,
    plan: impl IntoIterator<Item = (&'a ShardTable, &'a [PartitionId])>,
    made: &Made,
) -> Wanted {
    let (mut lens, mut states) = (Vec::new(), Vec::new());
    for (table, missing) in plan {
        lens.extend(table.pieces(missing));
        let wanted = missing.iter().filter_map(|partition| table.wanted_state(*partition));
        states.extend(
            wanted.filter(|state| !made.states.contains_key(&(state.table, state.partition))),
        );
    }
    Wanted { regions: arena.lacks(&lens), states }
}

/// Registers the regions that were made; the ones left over are dropped elsewhere.
fn adopt(port: &mut Port, tables: &mut Tables, made: &mut Made) -> Result<(), String> {
    for region in std::mem::take(&mut made.regions) {
        if let Err(error) = tables.arena.adopt(region, &mut port.transports) {
            tables.growth.memory.end(std::mem::take(made));
            return Err(causes(&error));
        }
    }
    Ok(())
}

fn put_all_in_use(tables: &mut Tables, plan: Vec<(TableId, Vec<PartitionId>)>, made: &mut Made) {
    for (id, missing) in plan {
        let mut table =
            tables.by_id.remove(&id).expect("rows are planned for tables that are here");
        put_in_use(tables, &mut table, &missing, made);
        tables.by_id.insert(id, table);
    }
}

fn put_in_use(
    tables: &mut Tables,
    table: &mut ShardTable,
    missing: &[PartitionId],
    made: &mut Made,
) {
    let len: u64 = missing.iter().map(|partition| table.len_of(*partition)).sum();
    tables.memory_left -= len;
    table.install(missing, &mut tables.arena, made);
    if let TableRows::Sparse(partitions) = &mut table.rows {
        let memory = Arc::new(tables.growth.memory.clone());
        for partition in partitions {
            partition.grow_ahead(memory.clone());
        }
    }
    if tables.growth.tracks_changes {
        table.track_changes();
    }
}

/// Regions that were made and found no use, since the map changed meanwhile, go again.
fn retire_unused(port: &mut Port, tables: &mut Tables) {
    tables.arena.retire_unused();
    connect::sweep_arena(port, tables);
}

impl Wanted {
    fn is_empty(&self) -> bool {
        self.regions.is_empty() && self.states.is_empty()
    }
}

/// Tells what the map gives to this shard and it cannot hold: rows that there is no memory for, and
/// replicas that lack some record.
pub(super) fn report_refused(tables: &Tables, chain: &Chain) {
    let refused = tables.growth.refused();
    for partition in refused.chain(chain::cannot_go_on(chain)) {
        let epoch = chain.map.chains[partition.0 as usize].epoch;
        chain.tell(ServerEvent::CannotHold { partition, epoch });
    }
}
