//! What a server knows of its cluster: the map, the tables, and, at the coordinator, the servers
//! that joined.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use windlass_replication::ring::Ring;
use windlass_transport::control::ControlStream;
use windlass_wire::{
    Aggregation, ClusterMap, Consistency, Durability, Epoch, ServerId, TableEntry, TableId,
    TableSchema, UpdateRule,
    control::{ClientReply, Instruction, RefusalKind},
    map::{Chain, ServerEntry},
    schema::validate_table_name,
};

use super::catalogue::Catalogue;
use crate::{
    limits::TABLES_MAX,
    persist::limits::CHECKPOINT_BLOCK_BYTES_MAX,
    shard::{RecoverySummary, Regrouped, ShardCommand, ShardHandle, chain},
};

/// A refusal for the asker.
pub(super) type Refusal = (RefusalKind, String);

/// The state, shared by a server's control threads.
#[derive(Debug)]
pub(super) struct Cluster {
    state: Mutex<State>,
    changed: Condvar,
    shards: Vec<ShardHandle>,
    expected_servers: u32,
    partitions: u32,
    data: Option<DataDirectory>,
}

/// Where what is kept lies.
#[derive(Clone, Debug)]
pub(super) struct DataDirectory {
    pub(super) path: PathBuf,
    pub(super) accept_damage: bool,
}

#[derive(Debug)]
struct State {
    map: Arc<ClusterMap>,
    tables: BTreeMap<TableId, TableEntry>,
    next_table: u32,
    /// Which grouping of partitions the shards' directories are of.
    generation: u32,
    /// Servers so far; the map is published once all expected ones are there.
    servers: Vec<ServerEntry>,
    /// Connections to the other servers, at the coordinator.
    peers: Vec<(ServerId, ControlStream)>,
}

/// Most bytes of a row and its state in a table that is kept on disk: one piece of a checkpoint.
const KEPT_ROW_LEN_MAX: u64 = CHECKPOINT_BLOCK_BYTES_MAX as u64 / 2;

/// How long a table waits for servers that have not joined yet.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);

impl Cluster {
    pub(super) fn new(
        shards: Vec<ShardHandle>,
        expected_servers: u32,
        partitions: u32,
        data: Option<DataDirectory>,
    ) -> Self {
        let state = State {
            map: Arc::new(ClusterMap::default()),
            tables: BTreeMap::new(),
            next_table: 1,
            generation: 0,
            servers: Vec::new(),
            peers: Vec::new(),
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Self { state, changed, shards, expected_servers, partitions, data }
    }

    /// The map in force, waiting for it while servers are still to join.
    pub(super) fn map(&self) -> Result<Arc<ClusterMap>, Refusal> {
        Ok(self.ready()?.map.clone())
    }

    /// All tables.
    pub(super) fn tables(&self) -> Vec<TableEntry> {
        self.lock().tables.values().cloned().collect()
    }

    /// The table of a name.
    pub(super) fn find(&self, name: &str) -> Result<TableEntry, Refusal> {
        let found = self.lock().tables.values().find(|table| table.name == name).cloned();
        found.ok_or_else(|| {
            (RefusalKind::UnknownTable {}, format!("there is no table {name:?}: create it first"))
        })
    }

    /// At the coordinator: adds a server, and publishes the map when all are there. `peer` is the
    /// connection to it, unless it is this server itself.
    pub(super) fn join(
        &self,
        mut entry: ServerEntry,
        peer: Option<ControlStream>,
    ) -> Result<ServerId, Refusal> {
        let mut state = self.lock();
        if state.map.epoch > Epoch(0) {
            let text = format!(
                "the cluster has its {} servers already: start it with more expected servers",
                self.expected_servers
            );
            return Err((RefusalKind::Full {}, text));
        }
        let id = ServerId(u32::try_from(state.servers.len()).unwrap_or(u32::MAX));
        entry.id = id;
        state.servers.push(entry);
        if let Some(mut peer) = peer {
            if peer.send(&ClientReply::Joined { server: id }).is_err() {
                state.servers.pop();
                return Err((RefusalKind::Internal {}, "the server went away".to_owned()));
            }
            state.peers.push((id, peer));
        }
        if state.servers.len() == self.expected_servers as usize {
            let map = self.first_map(&state.servers)?;
            let instruction = Instruction::InstallMap { map: map.clone() };
            instruct(&mut state.peers, &instruction)?;
            self.install(&mut state, Arc::new(map))?;
        }
        Ok(id)
    }

    /// Takes over a map.
    pub(super) fn install_map(&self, map: ClusterMap) -> Result<(), Refusal> {
        let mut state = self.lock();
        self.install(&mut state, Arc::new(map))
    }

    /// At the coordinator: creates a table on every server, or returns the equal one there is.
    pub(super) fn create(&self, name: &str, schema: &TableSchema) -> Result<TableEntry, Refusal> {
        let invalid = |error: &dyn std::error::Error| (RefusalKind::Invalid {}, chain(error));
        validate_table_name(name).map_err(|error| invalid(&error))?;
        schema.validate().map_err(|error| invalid(&error))?;
        let mut state = self.ready()?;
        if let Some(found) = state.tables.values().find(|table| table.name == name) {
            return if is_same(&found.schema, schema) {
                Ok(found.clone())
            } else {
                let text =
                    format!("table {name:?} exists with another schema: drop it first, or open it");
                Err((RefusalKind::TableExists {}, text))
            };
        }
        check_features(schema)?;
        self.check_durability(schema)?;
        if state.tables.len() >= TABLES_MAX {
            return Err((RefusalKind::Full {}, format!("there are {TABLES_MAX} tables already")));
        }
        let id = TableId(state.next_table);
        let table = TableEntry { id, name: name.to_owned(), schema: schema.clone() };
        let created = self.create_here(&table).and_then(|()| {
            instruct(&mut state.peers, &Instruction::CreateTable { table: table.clone() })
        });
        let created = created.and_then(|()| self.list(&mut state, table.clone()));
        if let Err(refusal) = created {
            self.drop_here(id);
            // The other servers may have it or not; dropping what is not there does nothing.
            let _ = instruct(&mut state.peers, &Instruction::DropTable { table: id });
            return Err(refusal);
        }
        Ok(table)
    }

    /// At the coordinator: drops a table everywhere.
    pub(super) fn drop_table(&self, name: &str) -> Result<(), Refusal> {
        let id = self.find(name)?.id;
        let mut state = self.lock();
        self.strike(&mut state, id)?;
        self.drop_here(id);
        instruct(&mut state.peers, &Instruction::DropTable { table: id })
    }

    /// At another server: carries out what the coordinator says.
    pub(super) fn carry_out(&self, instruction: Instruction) -> Result<(), Refusal> {
        match instruction {
            Instruction::InstallMap { map } => self.install_map(map),
            Instruction::CreateTable { table } => {
                self.check_durability(&table.schema)?;
                self.create_here(&table)?;
                self.list(&mut self.lock(), table)
            }
            Instruction::DropTable { table } => {
                self.strike(&mut self.lock(), table)?;
                self.drop_here(table);
                Ok(())
            }
            Instruction::Ping {} => Ok(()),
            Instruction::AlterTable { table, consistency } => {
                let mut state = self.lock();
                self.alter_here(&mut state, table, consistency)
            }
            Instruction::RetireWorker { rank } => {
                for shard in &self.shards {
                    shard.send(ShardCommand::RetireWorker { rank });
                }
                Ok(())
            }
        }
    }

    /// At the coordinator: changes how far a table's workers may be apart, everywhere.
    pub(super) fn alter(
        &self,
        name: &str,
        consistency: Consistency,
    ) -> Result<TableEntry, Refusal> {
        let found = self.find(name)?;
        let eventual = Consistency::Eventual {};
        if found.schema.consistency == eventual || consistency == eventual {
            let text = format!(
                "table {name:?}: workers keep clocks or not from its creation on; create it with                  sequential or bounded:N to change N later, and use a large N instead of eventual"
            );
            return Err((RefusalKind::Invalid {}, text));
        }
        let mut state = self.ready()?;
        let table = found.id;
        self.alter_here(&mut state, table, consistency)?;
        instruct(&mut state.peers, &Instruction::AlterTable { table, consistency })?;
        let altered = state.tables.get(&table).cloned();
        altered.ok_or_else(|| (RefusalKind::UnknownTable {}, format!("table {name:?} is dropped")))
    }

    fn alter_here(
        &self,
        state: &mut State,
        table: TableId,
        consistency: Consistency,
    ) -> Result<(), Refusal> {
        let Some(entry) = state.tables.get_mut(&table) else { return Ok(()) };
        entry.schema.consistency = consistency;
        for shard in &self.shards {
            shard
                .ask(|answer| ShardCommand::AlterTable { table, consistency, answer })
                .map_err(|text| (RefusalKind::Internal {}, text))?;
        }
        self.store_catalogue(state)
    }

    /// Lists a table in the catalogue. One that could not be stored is not listed: after a restart
    /// nobody would know whose its records are.
    fn list(&self, state: &mut State, table: TableEntry) -> Result<(), Refusal> {
        let id = table.id;
        state.next_table = state.next_table.max(id.0 + 1);
        state.tables.insert(id, table);
        self.store_catalogue(state).inspect_err(|_| {
            state.tables.remove(&id);
        })
    }

    /// Strikes a table from the catalogue, or leaves it there when that cannot be stored.
    fn strike(&self, state: &mut State, id: TableId) -> Result<(), Refusal> {
        let Some(table) = state.tables.remove(&id) else { return Ok(()) };
        self.store_catalogue(state).inspect_err(|_| {
            state.tables.insert(id, table);
        })
    }

    fn create_here(&self, table: &TableEntry) -> Result<(), Refusal> {
        for shard in &self.shards {
            let entry = table.clone();
            shard
                .ask(|answer| ShardCommand::CreateTable { entry, answer })
                .map_err(|text| (RefusalKind::Full {}, text))?;
        }
        Ok(())
    }

    fn drop_here(&self, table: TableId) {
        for shard in &self.shards {
            if let Err(error) = shard.ask(|answer| ShardCommand::DropTable { table, answer }) {
                tracing::warn!(%table, error, "cannot drop a table");
            }
        }
    }

    fn install(&self, state: &mut State, map: Arc<ClusterMap>) -> Result<(), Refusal> {
        for shard in &self.shards {
            let map = map.clone();
            shard
                .ask(|answer| ShardCommand::InstallMap { map, answer })
                .map_err(|text| (RefusalKind::Internal {}, text))?;
        }
        if state.map.epoch == Epoch(0)
            && let Some(data) = &self.data
        {
            self.recover(state, data)?;
        }
        state.map = map;
        self.changed.notify_all();
        Ok(())
    }

    /// Takes the tables of the data directory back, and their rows.
    fn recover(&self, state: &mut State, data: &DataDirectory) -> Result<(), Refusal> {
        let failed = |error: &dyn std::error::Error| (RefusalKind::Internal {}, chain(error));
        let shard_count = u16::try_from(self.shards.len()).unwrap_or(u16::MAX);
        if let Some(catalogue) = Catalogue::load(&data.path).map_err(|error| failed(&error))? {
            state.generation = catalogue
                .generation_for(&data.path, shard_count)
                .map_err(|error| failed(&error))?;
            state.next_table = catalogue.next_table;
            for table in catalogue.tables {
                self.create_here(&table)?;
                state.tables.insert(table.id, table);
            }
        }
        let generation = state.generation;
        let regrouped = Arc::new(Regrouped::new(&data.path, generation, self.shards.len()));
        let summaries: Vec<Result<RecoverySummary, String>> = std::thread::scope(|scope| {
            let recovering: Vec<_> = self
                .shards
                .iter()
                .map(|shard| {
                    let (regrouped, accept_damage) = (regrouped.clone(), data.accept_damage);
                    scope.spawn(move || {
                        shard.ask(|answer| ShardCommand::Recover {
                            regrouped,
                            accept_damage,
                            answer,
                        })
                    })
                })
                .collect();
            let died = || Err("recovery ended early".to_owned());
            recovering.into_iter().map(|shard| shard.join().unwrap_or_else(|_| died())).collect()
        });
        for (shard, summary) in self.shards.iter().zip(summaries) {
            let summary = summary.map_err(|text| (RefusalKind::Internal {}, text))?;
            tracing::info!(
                shard = shard.id().0,
                records = summary.records,
                checkpoint_bytes = summary.checkpoint_bytes,
                log_bytes = summary.log_bytes,
                milliseconds = summary.milliseconds,
                storage = summary.storage,
                "recovered"
            );
            for damage in summary.damage {
                tracing::error!(shard = shard.id().0, damage, "served without what was lost");
            }
        }
        self.store_catalogue(state)
    }

    /// Refuses tables that cannot be kept as they ask.
    fn check_durability(&self, schema: &TableSchema) -> Result<(), Refusal> {
        if schema.durability == (Durability::Memory {}) {
            return Ok(());
        }
        if self.data.is_none() {
            let text =
                "the server has no data directory: start it with one, or use durability memory";
            return Err((RefusalKind::Invalid {}, text.to_owned()));
        }
        let state_len = schema.rule.state_width() as u64
            * u64::from(schema.width)
            * UpdateRule::state_value_size(schema.dtype) as u64;
        if schema.row_len() + state_len > KEPT_ROW_LEN_MAX {
            let text = format!(
                "a row and its optimiser state take {} bytes, and checkpoints hold at most \
                 {KEPT_ROW_LEN_MAX}: use narrower rows, or durability memory",
                schema.row_len() + state_len
            );
            return Err((RefusalKind::Invalid {}, text));
        }
        Ok(())
    }

    /// Writes the tables down, if there is a data directory.
    fn store_catalogue(&self, state: &State) -> Result<(), Refusal> {
        let Some(data) = &self.data else { return Ok(()) };
        let catalogue = Catalogue {
            next_table: state.next_table,
            shard_count: u16::try_from(self.shards.len()).unwrap_or(u16::MAX),
            generation: state.generation,
            tables: state.tables.values().cloned().collect(),
        };
        catalogue.store(&data.path).map_err(|error| (RefusalKind::Internal {}, chain(&error)))
    }

    fn first_map(&self, servers: &[ServerEntry]) -> Result<ClusterMap, Refusal> {
        let ring = Ring::new(servers.iter().map(|server| server.id));
        let nowhere = vec![Vec::new(); self.partitions as usize];
        let chains =
            ring.place(&nowhere, 1).map_err(|error| (RefusalKind::Internal {}, chain(&error)))?;
        Ok(ClusterMap {
            epoch: Epoch(1),
            replicas: 1,
            servers: servers.to_vec(),
            chains: chains
                .into_iter()
                .map(|servers| Chain { epoch: Epoch(1), servers, ..Chain::default() })
                .collect(),
        })
    }

    /// The state once there is a map.
    fn ready(&self) -> Result<MutexGuard<'_, State>, Refusal> {
        let deadline = Instant::now() + JOIN_PATIENCE;
        let mut state = self.lock();
        while state.map.epoch == Epoch(0) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (here, all) = (state.servers.len(), self.expected_servers);
                let text = format!("{here} of {all} servers have joined: start the others");
                return Err((RefusalKind::NoCoordinator {}, text));
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(state)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A control thread that panicked leaves whole values: every change is a single step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a table is the one asked for. How far its workers may be apart may have been changed since
/// it was made; whether they keep clocks never is.
fn is_same(found: &TableSchema, asked: &TableSchema) -> bool {
    let eventual = Consistency::Eventual {};
    let both = [found.consistency, asked.consistency];
    let consistency = if both.contains(&eventual) { asked.consistency } else { found.consistency };
    *found == TableSchema { consistency, ..asked.clone() }
}

/// Refuses what a schema can say and the server does not do: keeping quiet would be lying.
fn check_features(schema: &TableSchema) -> Result<(), Refusal> {
    let missing = if schema.replicas > 1 {
        "replicas: this version keeps one copy of each partition; use replicas 1"
    } else if schema.aggregation != (Aggregation::Immediate {}) {
        "rounds: this version applies each turn's sum; use aggregation immediate"
    } else {
        return Ok(());
    };
    Err((RefusalKind::Invalid {}, missing.to_owned()))
}

/// Has every other server carry out an instruction.
fn instruct(
    peers: &mut [(ServerId, ControlStream)],
    instruction: &Instruction,
) -> Result<(), Refusal> {
    for (server, peer) in peers {
        let refusal = |text: String| (RefusalKind::Internal {}, format!("server {server}: {text}"));
        match peer.ask(instruction) {
            Ok(ClientReply::Done {}) => {}
            Ok(ClientReply::Refused { status, text }) => {
                return Err((status, format!("server {server}: {text}")));
            }
            Ok(other) => return Err(refusal(format!("unexpected answer {other:?}"))),
            Err(error) => return Err(refusal(chain(&error))),
        }
    }
    Ok(())
}
