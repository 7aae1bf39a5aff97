//! What a cluster of some size takes of each of its machines: links, open files and memory, counted by the
//! cluster's own placement. Nothing is connected to.

use serde::{Deserialize, Serialize};
use windlass_engine::limits::{MAILBOX_RING_LEN, SHARDS_MAX};
use windlass_replication::Ring;
use windlass_wire::{
    ClusterMap, Epoch, Incarnation, ServerEntry, ServerId,
    codec::Wire,
    control::Provider,
    map::{Chain, PARTITIONS_MAX, ServerState, suitable_partitions},
};

/// Most workers that are planned for.
const WORKERS_MAX: u32 = 1_000_000;

/// More servers than partitions hold nothing.
const SERVERS_MAX: u32 = PARTITIONS_MAX;

/// Above this many queue pairs at one server, network cards begin to miss their caches.
const QUEUE_PAIRS_MANY: u64 = 4096;

/// A `HOST:PORT` of usual length, for the size of the map.
const ADDRESS: &str = "parameter-server-0000.example:7700";

/// The cluster that is planned.
#[derive(Clone, Copy, Debug)]
pub struct PlanOptions {
    /// Processes that push and pull, each with one client.
    pub workers: u32,
    /// Servers, from 1.
    pub servers: u32,
    /// Shards of each server, from 1.
    pub shards: u16,
    /// Copies of each partition, from 1.
    pub replicas: u8,
    /// Partitions; none for as many as suit servers and shards.
    pub partitions: Option<u32>,
    /// What links go over.
    pub transport: Provider,
}

/// One line of `windlass cluster plan --json`. The keys are an interface: they are added to, never renamed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// `verbs`, `shm` or `tcp`.
    pub transport: String,
    /// Workers.
    pub workers: u32,
    /// Servers.
    pub servers: u32,
    /// Shards of each server.
    pub shards: u16,
    /// Copies of each partition.
    pub replicas: u8,
    /// Partitions.
    pub partitions: u32,
    /// Shards of the cluster that no partition is placed on.
    pub empty_shards: u64,
    /// Bytes of the cluster's map, which each process gets and keeps.
    pub map_bytes: u64,
    /// Of each worker.
    pub worker: Share,
    /// Of the server with the most of it.
    pub server: Share,
    /// Of all processes together; each link counts once.
    pub total_links: u64,
    /// Bytes of rings of all processes together, when all are full.
    pub total_ring_bytes: u64,
    /// Open files that a process may have here: the soft limit, which programs raise, and the hard one.
    pub files_limit: u64,
    /// The hard limit.
    pub files_limit_hard: u64,
    /// What has to be raised or changed, a sentence each.
    pub advice: Vec<String>,
}

/// What one process takes, once it has used every link it may need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Links to shards or from clients; over verbs each is a queue pair.
    pub links: u64,
    /// Links between servers among them.
    pub peer_links: u64,
    /// Open files, those of logs and checkpoints aside.
    pub open_files: u64,
    /// Bytes of the links' rings, when all are full; over verbs they are pinned from the start.
    pub ring_bytes: u64,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// There are no workers, servers, shards or copies.
    #[error("a cluster needs at least one of each: workers, servers, shards and replicas")]
    Nothing,
    /// More of something than a cluster may have, or than can be planned.
    #[error("{given} {what} are too many to plan: at most {most}")]
    TooMany {
        /// The resource.
        what: &'static str,
        /// How many.
        given: u32,
        /// The most.
        most: u32,
    },
    /// More copies than servers.
    #[error("{replicas} copies need as many servers, and there are {servers}")]
    Replicas {
        /// Copies.
        replicas: u8,
        /// Servers.
        servers: u32,
    },
    /// Partitions are no power of two, or too many.
    #[error("{partitions} partitions are not possible: use a power of two up to {PARTITIONS_MAX}")]
    Partitions {
        /// Partitions.
        partitions: u32,
    },
}

/// Descriptors that one link takes at either end; `tools/tests/cli_plan.rs` compares all of these with processes.
fn files_of_a_link(transport: Provider) -> u64 {
    match transport {
        // A socket and the peer's bell.
        Provider::Shm {} => 2,
        Provider::Tcp {} => 1,
        Provider::Verbs {} => 0,
    }
}

/// Of a server's process, its listeners and its coordinator.
const SERVER_FILES: u64 = 7;
/// Of each shard of a server, which offers every transport, and of its memory once it has a link.
const SHARD_FILES: u64 = 8;
/// Of a client's process, beside links and connections.
const CLIENT_FILES: u64 = 5;
/// Control connections between two servers.
const PEER_CONTROLS: u64 = 2;
/// Links between equal shards of two servers: one each way.
const PEER_LINKS: u64 = 2;

impl Plan {
    /// Plans a cluster.
    ///
    /// # Errors
    /// When there can be no such cluster.
    pub fn new(options: &PlanOptions) -> Result<Self, PlanError> {
        let PlanOptions { workers, servers, shards, replicas, transport, .. } = *options;
        if workers == 0 || servers == 0 || shards == 0 || replicas == 0 {
            return Err(PlanError::Nothing);
        }
        for (what, given, most) in [
            ("workers", workers, WORKERS_MAX),
            ("servers", servers, SERVERS_MAX),
            ("shards of a server", u32::from(shards), u32::from(SHARDS_MAX)),
        ] {
            if given > most {
                return Err(PlanError::TooMany { what, given, most });
            }
        }
        if u32::from(replicas) > servers {
            return Err(PlanError::Replicas { replicas, servers });
        }
        let partitions = options.partitions.unwrap_or_else(|| suitable_partitions(servers, shards));
        if !partitions.is_power_of_two() || partitions > PARTITIONS_MAX {
            return Err(PlanError::Partitions { partitions });
        }
        let map = place(options, partitions);
        let link_files = files_of_a_link(transport);
        let ring = u64::from(MAILBOX_RING_LEN);
        let mut plan = Self {
            transport: transport.name().to_owned(),
            workers,
            servers,
            shards,
            replicas,
            partitions,
            empty_shards: 0,
            map_bytes: map.to_bytes().len() as u64,
            worker: Share::default(),
            server: Share::default(),
            total_links: 0,
            total_ring_bytes: 0,
            files_limit: windlass_transport::descriptors::limit() as u64,
            files_limit_hard: windlass_transport::descriptors::limit_hard() as u64,
            advice: Vec::new(),
        };
        for (server, held) in map.shards_used() {
            let used = held.len() as u64;
            plan.worker.links += used;
            let peers = if replicas > 1 { map.peers_of(server).len() as u64 } else { 0 };
            let peer_links = PEER_LINKS * peers * u64::from(shards);
            let links = u64::from(workers) * used + peer_links;
            let share = Share {
                links,
                peer_links,
                open_files: SERVER_FILES
                    + u64::from(shards) * SHARD_FILES
                    // The server that has the coordinator hears all others.
                    + u64::from(servers)
                    + u64::from(workers)
                    + PEER_CONTROLS * peers
                    + link_files * links
                    // Peers read what waits for them in memory of its own.
                    + peer_links
                    + u64::from(shards) * u64::from(peers > 0),
                ring_bytes: ring * links,
            };
            plan.total_links += u64::from(workers) * used + peer_links / 2;
            plan.total_ring_bytes += share.ring_bytes;
            plan.server.take_most(share);
        }
        plan.empty_shards = plan.shard_count() - plan.worker.links;
        plan.worker.open_files = CLIENT_FILES + u64::from(servers) + link_files * plan.worker.links;
        plan.worker.ring_bytes = ring * plan.worker.links;
        plan.total_ring_bytes += u64::from(workers) * plan.worker.ring_bytes;
        plan.advise();
        Ok(plan)
    }

    /// Shards of all servers.
    fn shard_count(&self) -> u64 {
        u64::from(self.servers) * u64::from(self.shards)
    }

    fn advise(&mut self) {
        let wanted = suitable_partitions(self.servers, self.shards);
        if self.empty_shards > 0 {
            let remedy = match wanted > self.partitions {
                true => format!("found the cluster with --partitions {wanted}"),
                false => "use fewer shards, as there are no more partitions".to_owned(),
            };
            let (empty, all) = (self.empty_shards, self.shard_count());
            self.advice.push(format!("{empty} of {all} shards hold nothing: {remedy}"));
        }
        let is_verbs = self.transport == Provider::Verbs {}.name();
        for (who, share) in [("a server", self.server), ("a worker", self.worker)] {
            if share.open_files > self.files_limit_hard {
                self.advice.push(format!(
                    "{who} opens up to {} files, and a process here may have {}: raise the hard limit \
                     (`ulimit -Hn`, LimitNOFILE of systemd) where it runs",
                    share.open_files, self.files_limit_hard
                ));
            }
            if is_verbs && share.links > QUEUE_PAIRS_MANY {
                self.advice.push(format!(
                    "{who} has {} queue pairs: above some thousands network cards are slower, and \
                     `windlass fabric` says how many the device has; use fewer shards or more servers",
                    share.links
                ));
            }
        }
        if is_verbs {
            self.advice.push(format!(
                "rings are pinned, beside the rows: `ulimit -l` has to allow {} MiB more at a server, {} MiB \
                 at a worker (four times that on SoftRoCE)",
                self.server.ring_bytes.div_ceil(1 << 20),
                self.worker.ring_bytes.div_ceil(1 << 20),
            ));
        }
    }
}

impl Share {
    fn take_most(&mut self, other: Self) {
        self.links = self.links.max(other.links);
        self.peer_links = self.peer_links.max(other.peer_links);
        self.open_files = self.open_files.max(other.open_files);
        self.ring_bytes = self.ring_bytes.max(other.ring_bytes);
    }
}

/// The map that a coordinator would found such a cluster with.
fn place(options: &PlanOptions, partitions: u32) -> ClusterMap {
    let ids = || (0..options.servers).map(ServerId);
    let empty = vec![Vec::new(); partitions as usize];
    let replicas = usize::from(options.replicas);
    // Servers and partitions were checked to be some.
    let placed = Ring::new(ids()).place(&empty, replicas).unwrap_or(empty);
    let entry = |id| ServerEntry {
        id,
        incarnation: Incarnation(1),
        address: ADDRESS.to_owned(),
        shard_count: options.shards,
        state: ServerState::Up,
    };
    let chain = |servers| Chain { epoch: Epoch(1), servers, tail_joining: false, learner: None };
    ClusterMap {
        epoch: Epoch(1),
        replicas: options.replicas,
        session_expiry_ms: 0,
        servers: ids().map(entry).collect(),
        chains: placed.into_iter().map(chain).collect(),
    }
}
