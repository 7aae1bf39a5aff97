//! Servers without control ports: shards in threads, linked and told their maps by the test.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use crossbeam::channel::{Receiver, Sender, unbounded};
use windlass_engine::{
    limits::COMPLETION_SLOTS,
    persist::storage,
    shard::{
        ChainCommand, ChainContext, LinkEnded, PartitionChecksum, PartitionStatus, Reactor,
        Regrouped, ServerEvent, Shard, ShardCommand, ShardHandle, ShardOptions, SharedLeases,
    },
};
use windlass_replication::LeaseTimings;
use windlass_transport::{
    Transport,
    late_run::open_shm,
    shm::ShmOptions,
    tcp::{Tcp, TcpOptions},
};
use windlass_wire::{
    ClusterMap, Epoch, Incarnation, PartitionId, ServerEntry, ServerId, SessionId, ShardId,
    TableEntry, TableId,
    control::{Peer, Provider},
    map::{Chain, ServerState},
};

/// Shards of every server.
pub(crate) const SHARDS: u16 = 2;

/// Partitions of the cluster.
pub(crate) const PARTITIONS: u32 = 8;

/// One server.
pub(crate) struct Node {
    pub(crate) peer: Peer,
    pub(crate) handles: Vec<ShardHandle>,
    pub(crate) events: Receiver<ServerEvent>,
    pub(crate) ended: Receiver<LinkEnded>,
    data: Option<(PathBuf, storage::Provider)>,
    threads: Vec<JoinHandle<()>>,
}

pub(crate) fn transport(provider: Provider) -> Box<dyn Transport> {
    match provider {
        Provider::Shm {} => open_shm(ShmOptions::default()).unwrap(),
        _ => Box::new(Tcp::open(TcpOptions::LOOPBACK).unwrap()),
    }
}

impl Node {
    pub(crate) fn start(server: u32, life: u64, provider: Provider) -> Self {
        Self::start_with(server, life, provider, 1 << 30)
    }

    /// As `start`, with so many bytes of memory for each shard.
    pub(crate) fn start_with(
        server: u32,
        life: u64,
        provider: Provider,
        memory_len_max: u64,
    ) -> Self {
        let (events, told) = unbounded();
        let (ended_sender, ended) = unbounded();
        // Busy machines must not lose leases: nothing here measures how soon a silence is noticed.
        let timings = LeaseTimings { suspect_us: 10_000_000, ..LeaseTimings::default() };
        let leases = Arc::new(SharedLeases::new(timings));
        let (mut handles, mut threads) = (Vec::new(), Vec::new());
        for shard in (0..SHARDS).map(ShardId) {
            let (sender, receiver) = unbounded();
            let context = ChainContext {
                leases: leases.clone(),
                events: events.clone(),
                ended: ended_sender.clone(),
            };
            threads.push(std::thread::spawn(move || {
                let options = ShardOptions {
                    spin_us: 20,
                    by_reference_len: None,
                    memory_len_max,
                    log_len_max: None,
                    worker_timeout_ms: windlass_engine::limits::WORKER_TIMEOUT_MS,
                };
                let transports = vec![transport(provider)];
                let (shard, handle) =
                    Shard::new(shard, ServerId(server), SHARDS, options, transports, context)
                        .unwrap();
                sender.send(handle).unwrap();
                Reactor::of(shard).run();
            }));
            let handle: ShardHandle = receiver.recv().unwrap();
            handles.push(handle);
        }
        let peer = Peer { server: ServerId(server), incarnation: Incarnation(life) };
        Self { peer, handles, events: told, ended, data: None, threads }
    }

    /// As `start`, with what it keeps in a folder of its own: the tables are known before the map.
    pub(crate) fn start_kept(
        server: u32,
        life: u64,
        provider: Provider,
        root: &Path,
        tables: &[TableEntry],
        map: &ClusterMap,
    ) -> Self {
        Self::start_on(
            server,
            life,
            provider,
            &root.join(server.to_string()),
            storage::Provider::Automatic,
            tables,
            map,
        )
    }

    /// As `start_kept`, in this folder, on storage of this kind.
    pub(crate) fn start_on(
        server: u32,
        life: u64,
        provider: Provider,
        data: &Path,
        disk: storage::Provider,
        tables: &[TableEntry],
        map: &ClusterMap,
    ) -> Self {
        let mut node = Self::start(server, life, provider);
        node.data = Some((data.to_owned(), disk));
        let chains = vec![Chain::default(); PARTITIONS as usize];
        node.install(&ClusterMap { chains, ..ClusterMap::default() });
        tables.iter().for_each(|table| node.create(table));
        node.install(map);
        node.recover().unwrap();
        node
    }

    /// Takes up what its folder holds.
    pub(crate) fn recover(&self) -> Result<(), String> {
        let ((data, disk), count) = (self.data.as_ref().unwrap(), self.handles.len());
        let regrouped = Regrouped::new(data, 0, count, *disk, Vec::new());
        let regrouped = Arc::new(regrouped);
        for handle in &self.handles {
            let regrouped = regrouped.clone();
            let accept_damage = false;
            handle.ask(|answer| ShardCommand::Recover { regrouped, accept_damage, answer })?;
        }
        for handle in &self.handles {
            let _: u64 = handle.ask(|answer| ShardCommand::OpenLog { answer })?;
        }
        Ok(())
    }

    /// Makes and gives back no memory until all of these are gone.
    pub(crate) fn hold_memory(&self) -> Vec<Sender<()>> {
        let hold = |handle: &ShardHandle| {
            let (held, until) = unbounded();
            handle.send(ShardCommand::HoldMemory { until });
            held
        };
        self.handles.iter().map(hold).collect()
    }

    /// Bytes that its shards may still use, each.
    pub(crate) fn memory_left(&self) -> Vec<u64> {
        let left = |handle: &ShardHandle| {
            handle.ask(|answer| ShardCommand::Statistics { answer }).unwrap().counted.memory_left
        };
        self.handles.iter().map(left).collect()
    }

    pub(crate) fn drop_table(&self, table: TableId) {
        for handle in &self.handles {
            handle.ask(|answer| ShardCommand::DropTable { table, answer }).unwrap();
        }
    }

    /// Its disk refuses all writes from now on.
    pub(crate) fn fail_disk(&self) {
        for handle in &self.handles {
            handle.send(ShardCommand::Chain(ChainCommand::FailDisk {}));
        }
    }

    /// Ends it with all it has taken on written down.
    pub(crate) fn stop(mut self) {
        for handle in &self.handles {
            handle.ask(|answer| ShardCommand::Stop { answer }).unwrap();
        }
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }

    pub(crate) fn install(&self, map: &ClusterMap) {
        for handle in &self.handles {
            let map = Arc::new(map.clone());
            handle.ask(|answer| ShardCommand::InstallMap { map, answer }).unwrap();
        }
    }

    pub(crate) fn create(&self, table: &TableEntry) {
        for handle in &self.handles {
            let entry = table.clone();
            handle.ask(|answer| ShardCommand::CreateTable { entry, answer }).unwrap();
        }
    }

    /// Takes over what of a table has changed.
    pub(crate) fn alter(&self, table: &TableEntry) {
        for handle in &self.handles {
            let entry = table.clone();
            handle.ask(|answer| ShardCommand::AlterTable { entry, answer }).unwrap();
        }
    }

    /// Links every shard to the equal shard of a peer: this side writes, that side reads.
    pub(crate) fn link(&self, to: &Self, provider: Provider) {
        let session =
            SessionId((self.peer.incarnation.0 << 32) | (u64::from(self.peer.server.0) + 1));
        for (own, its) in self.handles.iter().zip(&to.handles) {
            let peer = to.peer;
            let endpoint = own
                .ask(|answer| {
                    ShardCommand::Chain(ChainCommand::LinkOpen { peer, provider, answer })
                })
                .unwrap();
            let endpoint = its
                .ask(|answer| ShardCommand::OpenMailbox {
                    session,
                    incarnation: self.peer.incarnation,
                    connection: 1,
                    rank: None,
                    peer: Some(self.peer),
                    provider,
                    endpoint,
                    answer,
                })
                .unwrap();
            let reply = loop {
                let endpoint = endpoint.clone();
                let connect = |answer| {
                    ShardCommand::Chain(ChainCommand::LinkConnect { peer, endpoint, answer })
                };
                match own.ask(connect).unwrap() {
                    Some(reply) => break reply,
                    None => std::thread::sleep(Duration::from_millis(1)),
                }
            };
            let attached = its
                .ask(|answer| ShardCommand::AttachMailbox {
                    session,
                    reply,
                    completion_slots: COMPLETION_SLOTS,
                    answer,
                })
                .unwrap();
            let (mailbox, ring_len) = (attached.region, attached.ring_len);
            own.ask(|answer| {
                ShardCommand::Chain(ChainCommand::LinkAttach { peer, mailbox, ring_len, answer })
            })
            .unwrap();
        }
    }

    /// It was fenced, and goes on in a new life with what it holds.
    pub(crate) fn begin_life(&mut self, life: Incarnation) {
        for handle in &self.handles {
            handle.ask(|answer| ShardCommand::Chain(ChainCommand::BeginLife { answer })).unwrap();
        }
        self.peer.incarnation = life;
    }

    /// Ends it as a killed process ends.
    pub(crate) fn kill(mut self) {
        self.die();
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }

    pub(crate) fn die(&self) {
        for handle in &self.handles {
            handle.send(ShardCommand::Die {});
        }
    }

    /// What its replicas say, for a test that fails.
    pub(crate) fn states(&self) -> Vec<PartitionStatus> {
        let states = |handle: &ShardHandle| {
            handle.ask(|answer| ShardCommand::Chain(ChainCommand::States { answer })).unwrap()
        };
        self.handles.iter().flat_map(states).collect()
    }

    pub(crate) fn checksums(&self) -> Vec<PartitionChecksum> {
        let mut all = Vec::new();
        for handle in &self.handles {
            all.extend(
                handle
                    .ask(|answer| ShardCommand::Chain(ChainCommand::Checksums { answer }))
                    .unwrap(),
            );
        }
        all.sort_unstable_by_key(|one| one.partition);
        all
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.die();
    }
}

/// Links every two of them, in both directions.
pub(crate) fn link_all(nodes: &[&Node], provider: Provider) {
    for from in nodes {
        for to in nodes {
            if from.peer != to.peer {
                from.link(to, provider);
            }
        }
    }
}

/// A map in which every partition has the members in `order`, rotated by the partition, so that each
/// server is head, middle and tail somewhere.
pub(crate) fn map(epoch: u64, nodes: &[Peer], order: &[ServerId]) -> ClusterMap {
    let chains = (0..PARTITIONS as usize)
        .map(|partition| {
            let mut servers = order.to_vec();
            servers.rotate_left(partition % order.len());
            Chain { epoch: Epoch(epoch), servers, ..Chain::default() }
        })
        .collect();
    let servers = nodes.iter().map(|peer| ServerEntry {
        id: peer.server,
        incarnation: peer.incarnation,
        address: "127.0.0.1:1".to_owned(),
        shard_count: SHARDS,
        state: ServerState::Up,
    });
    ClusterMap {
        epoch: Epoch(epoch),
        replicas: 3,
        session_expiry_ms: 0,
        servers: servers.collect(),
        chains,
    }
}

/// Panics unless all replicas of every partition are equal, waiting for them to be at one position.
pub(crate) fn assert_equal_replicas(map: &ClusterMap, nodes: &[&Node]) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let sums: Vec<Vec<PartitionChecksum>> = nodes.iter().map(|node| node.checksums()).collect();
        let mut apart = None;
        for partition in (0..PARTITIONS).map(PartitionId) {
            let members = &map.chains[partition.0 as usize].servers;
            let held: Vec<_> = nodes
                .iter()
                .zip(&sums)
                .filter(|(node, _)| members.contains(&node.peer.server))
                .map(|(_, sums)| sums.iter().find(|sum| sum.partition == partition).copied())
                .collect();
            assert_eq!(held.len(), members.len());
            if held.windows(2).any(|pair| pair[0] != pair[1] || pair[0].is_none()) {
                apart = Some(held);
            }
        }
        match apart {
            None => return,
            Some(held) if std::time::Instant::now() > deadline => {
                panic!("replicas differ: {held:?}")
            }
            Some(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    }
}
