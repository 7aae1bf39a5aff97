//! A server's view of its cluster: its own life, the map, the tables, the workers. All of it comes from the
//! coordinator. Without a coordinator the data path goes on with the last view.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam::channel::Sender;
use windlass_wire::{
    ClusterMap, Epoch, Incarnation, ServerId, TableEntry, TableId, TableSchema,
    control::{Peer, RefusalKind},
    coordination::{Instruction, PartitionChecksum, WorkerEntry},
};

use super::{StartError, catalogue::Catalogue, peers::Peers};
use crate::{
    persist::storage,
    refusal::{Refusal, internal, invalid, unknown_table},
    shard::{ChainCommand, KeptLog, ShardCommand, ShardHandle, ShardStopped, chain},
};

/// The state, shared by a server's control threads.
#[derive(Debug)]
pub(super) struct Cluster {
    /// The server and its life. Beside the state: who joins again must be heard while rows are recovered.
    own: Mutex<Peer>,
    state: Mutex<State>,
    changed: Condvar,
    shards: OnceLock<Vec<ShardHandle>>,
    pub(super) peers: OnceLock<Peers>,
    pub(super) data: Option<DataDirectory>,
    /// Epoch of the newest map that every shard acts by.
    applied: AtomicU64,
    /// Tables whose rows in memory went with the restart, which the coordinator is still to be told.
    pub(super) emptied: Mutex<Vec<TableId>>,
}

/// Where what is kept lies.
#[derive(Clone, Debug)]
pub(super) struct DataDirectory {
    pub(super) path: PathBuf,
    pub(super) accept_damage: bool,
    pub(super) storage: storage::Provider,
    /// Which grouping of partitions the shards' directories are of.
    pub(super) generation: u32,
    /// Whether nothing was kept there before.
    pub(super) is_new: bool,
    /// Partitions of the cluster whose rows are kept there; zero when not known.
    pub(super) partitions: u32,
    /// The logs in the shards' directories, as the catalogue had them.
    pub(super) logs: Vec<KeptLog>,
    /// How many directories may have rows of the same partition, as the catalogue had it.
    pub(super) copies: u8,
}

#[derive(Debug)]
pub(super) struct State {
    map: Arc<ClusterMap>,
    /// What became of the first map, and with it of recovery.
    first: Option<Result<(), String>>,
    is_recovered: bool,
    pub(super) tables: BTreeMap<TableId, TableEntry>,
    next_table: u32,
    workers: Vec<WorkerEntry>,
    pub(super) logs: Vec<KeptLog>,
    /// How many directories may have rows of the same partition.
    copies: u8,
}

/// How long clients wait for servers that have not joined yet.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);

/// Time between checks of a waiting start whether it should be given up.
const GIVE_UP_POLL_INTERVAL: Duration = Duration::from_millis(100);

impl Cluster {
    pub(super) fn new(data: Option<DataDirectory>) -> Self {
        let state = State {
            map: Arc::new(ClusterMap::default()),
            first: None,
            is_recovered: false,
            tables: BTreeMap::new(),
            next_table: 1,
            workers: Vec::new(),
            logs: data.as_ref().map_or_else(Vec::new, |data| data.logs.clone()),
            copies: data.as_ref().map_or(0, |data| data.copies),
        };
        Self {
            own: Mutex::new(Peer { server: ServerId(0), incarnation: Incarnation(0) }),
            state: Mutex::new(state),
            changed: Condvar::new(),
            shards: OnceLock::new(),
            peers: OnceLock::new(),
            data,
            applied: AtomicU64::new(0),
            emptied: Mutex::default(),
        }
    }

    /// Gives it the shards, once they are made: with the server's number, which comes by joining.
    pub(super) fn attach(&self, shards: Vec<ShardHandle>, peers: Peers) {
        let is_first = self.shards.set(shards).is_ok() && self.peers.set(peers).is_ok();
        assert!(is_first, "a server's shards are made once");
    }

    /// The server has this number.
    pub(super) fn set_server(&self, server: ServerId) {
        self.own().server = server;
    }

    /// A life begins, and the one before is over: its links are gone when this returns.
    pub(super) fn begin_life(&self, life: Incarnation) {
        // Held until the shards are fenced: no map of the life before comes to them behind that.
        let mut own = self.own();
        let is_first = own.incarnation == Incarnation(0);
        own.incarnation = life;
        if is_first {
            return;
        }
        for shard in self.shards() {
            if let Err(error) = shard.ask(|answer| ShardCommand::Fence { answer }) {
                tracing::error!(error, shard = shard.id().0, "cannot fence a shard");
            }
        }
    }

    /// Has the shards report again what a coordinator may have missed.
    pub(super) fn repeat_reports(&self) {
        for shard in self.shards() {
            shard.send(ShardCommand::Chain(ChainCommand::RepeatReports {}));
        }
    }

    /// What every partition amounts to that this server holds a replica of.
    pub(super) fn checksums(&self) -> Result<Vec<PartitionChecksum>, Refusal> {
        let mut partitions = Vec::new();
        for shard in self.shards() {
            let held = shard
                .ask(|answer| ShardCommand::Chain(ChainCommand::Checksums { answer }))
                .map_err(internal)?;
            partitions.extend(held.into_iter().map(|held| PartitionChecksum {
                partition: held.partition,
                lsn: held.lsn,
                checksum: held.checksum,
            }));
        }
        partitions.sort_unstable_by_key(|held| held.partition);
        Ok(partitions)
    }

    /// Waits until the first map is in force here, and what was kept is recovered.
    pub(super) fn wait_for_first_map(
        &self,
        patience: Duration,
        give_up: &AtomicBool,
    ) -> Result<(), StartError> {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            if let Some(first) = &state.first {
                return first.clone().map_err(|reason| StartError::Data { reason });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if give_up.load(Ordering::Acquire) {
                return Err(StartError::GivenUp);
            }
            if left.is_zero() {
                let reason = "the coordinator sends no map".to_owned();
                return Err(StartError::Data { reason });
            }
            let waited = self.changed.wait_timeout(state, left.min(GIVE_UP_POLL_INTERVAL));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The map in force, waiting for it while servers are still to join.
    pub(super) fn map(&self) -> Result<Arc<ClusterMap>, Refusal> {
        let deadline = Instant::now() + JOIN_PATIENCE;
        let mut state = self.lock();
        while !state.map.is_founded() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let here = state.map.servers.len();
                let text = format!("{here} servers have joined, and more are waited for");
                return Err(Refusal::new(RefusalKind::NoCoordinator {}, text));
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(state.map.clone())
    }

    /// The newest map that every shard acts by.
    pub(super) fn applied(&self) -> Epoch {
        Epoch(self.applied.load(Ordering::Acquire))
    }

    /// All tables.
    pub(super) fn tables(&self) -> Vec<TableEntry> {
        self.lock().tables.values().cloned().collect()
    }

    /// The training workers, as the coordinator last told them.
    pub(super) fn workers(&self) -> Vec<WorkerEntry> {
        self.lock().workers.clone()
    }

    /// The table of a name.
    pub(super) fn find(&self, name: &str) -> Result<TableEntry, Refusal> {
        let found = self.lock().tables.values().find(|table| table.name == name).cloned();
        found.ok_or_else(|| unknown_table(format!("there is no table {name:?}: create it first")))
    }

    /// Carries out what the coordinator says.
    pub(super) fn carry_out(&self, instruction: Instruction) -> Result<(), Refusal> {
        match instruction {
            Instruction::InstallMap { map } => self.install_map(map),
            Instruction::SetTables { partitions, next_table, tables } => {
                self.set_tables(partitions, next_table, tables)
            }
            Instruction::CreateTable { table } => {
                self.check_durability(&table.schema)?;
                // Making memory takes long: maps and clients come in meanwhile.
                self.create_here(&table)?;
                self.list(&mut self.lock(), table)
            }
            Instruction::DropTable { table } => {
                self.strike(&mut self.lock(), table);
                self.drop_here(table);
                Ok(())
            }
            Instruction::AlterTable { table, consistency } => {
                self.alter_here(table, |schema| schema.consistency = consistency)
            }
            Instruction::SetRule { table, rule } => {
                self.alter_here(table, |schema| schema.change_rule(rule))
            }
            Instruction::SetExpiry { table, expiry } => {
                self.alter_here(table, |schema| schema.expiry = expiry)
            }
            Instruction::Introduce { tickets } => self.introduce(tickets),
            Instruction::SetWorkers { workers } => {
                self.set_workers(workers);
                Ok(())
            }
            // Carried out by the member itself.
            Instruction::Ping {} | Instruction::Fence { .. } | Instruction::Leave {} => Ok(()),
        }
    }

    /// Takes over a map, unless it is of another life of this server.
    fn install_map(&self, map: ClusterMap) -> Result<(), Refusal> {
        let mut state = self.lock();
        if map.epoch <= state.map.epoch {
            return Ok(());
        }
        let map = Arc::new(map);
        let own = self.own();
        if !map.admits(own.server, own.incarnation) {
            return Ok(());
        }
        let told = self.map_shards(&map);
        if let (Ok(()), Some(peers)) = (&told, self.peers.get()) {
            peers.follow(*own, map.clone());
        }
        drop(own);
        // Before chains are created there is nothing to recover rows into.
        let is_enough = map.is_founded() || self.data.as_ref().is_none_or(|data| data.is_new);
        let installed = told.and_then(|()| self.install(&mut state, map));
        if state.first.is_none() && (is_enough || installed.is_err()) {
            state.first = Some(installed.clone().map_err(|refusal| refusal.text));
        }
        self.changed.notify_all();
        installed
    }

    /// Makes the tables there are, and drops those that are no more.
    fn set_tables(
        &self,
        partitions: u32,
        next_table: u32,
        tables: Vec<TableEntry>,
    ) -> Result<(), Refusal> {
        let mut state = self.lock();
        let kept = tables.iter().map(|table| self.check_durability(&table.schema));
        if let Some(refusal) = kept.filter_map(Result::err).next() {
            // Whoever takes part without it would keep less than is promised.
            state.first.get_or_insert_with(|| Err(refusal.text.clone()));
            self.changed.notify_all();
            return Err(refusal);
        }
        if state.map.epoch == Epoch(0) {
            // Tables are laid out by the number of partitions, which no map has said yet.
            let nothing = windlass_wire::map::Chain::default();
            let chains = vec![nothing; partitions.next_power_of_two() as usize];
            self.map_shards(&Arc::new(ClusterMap { chains, ..ClusterMap::default() }))?;
        }
        let listed: Vec<TableId> = tables.iter().map(|table| table.id).collect();
        let is_gone = |id: &TableId| id.0 < next_table && !listed.contains(id);
        for id in state.tables.keys().copied().filter(is_gone).collect::<Vec<_>>() {
            state.tables.remove(&id);
            self.drop_here(id);
        }
        for table in tables {
            self.create_here(&table)?;
            // One that was here may have changed meanwhile.
            self.alter_shards(&table)?;
            state.tables.insert(table.id, table);
        }
        state.next_table = state.next_table.max(next_table);
        self.store_catalogue(&state)
    }

    fn alter_here(
        &self,
        table: TableId,
        change: impl FnOnce(&mut TableSchema),
    ) -> Result<(), Refusal> {
        let mut state = self.lock();
        let Some(entry) = state.tables.get_mut(&table) else { return Ok(()) };
        change(&mut entry.schema);
        self.alter_shards(entry)?;
        self.store_catalogue(&state)
    }

    fn alter_shards(&self, table: &TableEntry) -> Result<(), Refusal> {
        self.ask_shards(|answer| ShardCommand::AlterTable { entry: table.clone(), answer })
            .map_err(internal)
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

    /// Strikes a table from the catalogue. It is gone when this is asked for: the coordinator has stored
    /// that, and tells it again at the next start, should it not be stored here.
    fn strike(&self, state: &mut State, id: TableId) {
        if state.tables.remove(&id).is_none() {
            return;
        }
        if let Err(Refusal { text, .. }) = self.store_catalogue(state) {
            tracing::warn!(table = %id, text, "a dropped table stays in the catalogue on disk for now");
        }
    }

    /// Takes over who lives; nobody waits for those who did and no longer do.
    fn set_workers(&self, workers: Vec<WorkerEntry>) {
        let before = std::mem::replace(&mut self.lock().workers, workers.clone());
        let lived = |rank| before.iter().any(|worker| worker.rank == rank && worker.live);
        for worker in workers.iter().filter(|worker| !worker.live) {
            let (rank, unheard) = (worker.rank, !lived(worker.rank));
            for shard in self.shards() {
                shard.send(ShardCommand::RetireWorker { rank, unheard });
            }
        }
    }

    fn create_here(&self, table: &TableEntry) -> Result<(), Refusal> {
        self.ask_shards(|answer| ShardCommand::CreateTable { entry: table.clone(), answer })
            .map_err(|text| Refusal::new(RefusalKind::Full {}, text))
    }

    fn drop_here(&self, table: TableId) {
        let dropped = self.ask_shards(|answer| ShardCommand::DropTable { table, answer });
        if let Err(error) = dropped {
            tracing::warn!(%table, error, "cannot drop a table");
        }
    }

    /// Asks all shards at once, and waits for the last answer; an error of any of them.
    fn ask_shards(
        &self,
        make: impl Fn(Sender<Result<(), String>>) -> ShardCommand,
    ) -> Result<(), String> {
        let asked: Vec<_> =
            self.shards().iter().map(|shard| (shard, shard.request(&make))).collect();
        let answers = asked.into_iter().map(|(shard, answer)| {
            answer.recv().unwrap_or_else(|_| Err(ShardStopped(shard.id()).into()))
        });
        answers.fold(Ok(()), Result::and)
    }

    /// Goes by a map that the shards have, once what is kept here is recovered.
    fn install(&self, state: &mut State, map: Arc<ClusterMap>) -> Result<(), Refusal> {
        // Recovery stores the catalogue.
        let (is_more, is_noted) = (copies_in(&map) > state.copies, state.is_recovered);
        state.copies = state.copies.max(copies_in(&map));
        if !state.is_recovered
            && map.is_founded()
            && let Some(data) = &self.data
        {
            let partitions = map.partition_count();
            if data.partitions != 0 && data.partitions != partitions {
                return Err(invalid(format!(
                    "what the data directory holds is cut into {} partitions, and the cluster has \
                     {partitions}: found the cluster with --partitions {}",
                    data.partitions, data.partitions
                )));
            }
            // The catalogue names the servers that share the partitions with this one.
            state.map = map.clone();
            self.recover(state, data)?;
            state.is_recovered = true;
        }
        self.applied.fetch_max(map.epoch.0, Ordering::AcqRel);
        state.map = map;
        if is_more && is_noted {
            // Before rows come or go. A disk that refuses this will refuse more, and says so.
            if let Err(Refusal { text, .. }) = self.store_catalogue(state) {
                tracing::error!(text, "the catalogue cannot be stored");
            }
        }
        Ok(())
    }

    fn map_shards(&self, map: &Arc<ClusterMap>) -> Result<(), Refusal> {
        self.ask_shards(|answer| ShardCommand::InstallMap { map: map.clone(), answer })
            .map_err(internal)
    }

    /// Writes the tables down, if there is a data directory.
    pub(super) fn store_catalogue(&self, state: &State) -> Result<(), Refusal> {
        let Some(data) = &self.data else { return Ok(()) };
        let map = &state.map;
        let partitions = if map.is_founded() { map.partition_count() } else { data.partitions };
        let catalogue = Catalogue {
            next_table: state.next_table,
            shard_count: self.shard_count(),
            generation: data.generation,
            partitions,
            copies: state.copies,
            servers: map.servers.iter().map(|server| server.id).collect(),
            tables: state.tables.values().cloned().collect(),
            logs: state.logs.clone(),
        };
        catalogue.store(&data.path).map_err(|error| internal(chain(&error)))
    }

    pub(super) fn shards(&self) -> &[ShardHandle] {
        self.shards.get().map_or(&[], Vec::as_slice)
    }

    fn shard_count(&self) -> u16 {
        u16::try_from(self.shards().len()).unwrap_or(u16::MAX)
    }

    fn own(&self) -> MutexGuard<'_, Peer> {
        // As of the state.
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A control thread that panicked leaves whole values: every change is a single step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many directories may have rows of the same partition by a map: one that moves leaves them behind.
fn copies_in(map: &ClusterMap) -> u8 {
    let moves = map.chains.iter().any(|chain| chain.learner.is_some() || chain.tail_joining);
    map.replicas.saturating_add(u8::from(moves))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::mpsc, thread};

    #[test]
    fn a_server_joins_again_while_rows_are_recovered() {
        let cluster = Cluster::new(None);
        let recovering = cluster.lock();
        thread::scope(|scope| {
            let (done, joined) = mpsc::channel();
            let cluster = &cluster;
            scope.spawn(move || {
                cluster.set_server(ServerId(3));
                cluster.begin_life(Incarnation(2));
                done.send(())
            });
            let joined = joined.recv_timeout(Duration::from_secs(10));
            drop(recovering);
            assert_eq!(joined, Ok(()), "joining waits for recovery");
        });
        assert_eq!(*cluster.own(), Peer { server: ServerId(3), incarnation: Incarnation(2) });
    }
}
