//! What `windlass cluster status` and `map` print.

use serde::Serialize;
use windlass_wire::{
    ClusterMap, PartitionId, ServerEntry, ServerId,
    coordination::{CoordinatorStatus, EmptiedTable, WorkerEntry},
    map::ServerState,
};

use crate::report::table;

/// Of `status`.
#[derive(Debug, Serialize)]
pub(super) struct StatusResult {
    epoch: u64,
    replicas: u8,
    partitions: u32,
    leads: bool,
    store: String,
    store_error: Option<String>,
    copies_under_way: u32,
    short_partitions: usize,
    down_partitions: usize,
    lost_partitions: usize,
    waiting: Vec<Waiting>,
    emptied: Vec<Emptied>,
    resting: Vec<u32>,
    separated: Vec<[u32; 2]>,
    servers: Vec<ServerStatus>,
    workers: Vec<WorkerStatus>,
}

/// Partitions whose members are all down: any one of these servers brings them back.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Waiting {
    servers: Vec<u32>,
    partitions: usize,
}

/// A table whose rows were in memory only, and went with a server's restart.
#[derive(Debug, Serialize)]
pub(super) struct Emptied {
    table: u32,
    server: u32,
    seconds: u64,
}

#[derive(Debug, Serialize)]
struct ServerStatus {
    server: u32,
    address: String,
    state: &'static str,
    connected: bool,
    shards: u16,
    incarnation: u64,
    heads: usize,
    copies: usize,
    learning: usize,
}

#[derive(Debug, Serialize)]
struct WorkerStatus {
    rank: u32,
    live: bool,
    clock: u64,
}

/// Of `map`.
#[derive(Debug, Serialize)]
pub(super) struct MapResult {
    epoch: u64,
    replicas: u8,
    servers: Vec<MapServer>,
    chains: Vec<MapChain>,
}

#[derive(Debug, Serialize)]
struct MapServer {
    server: u32,
    address: String,
    state: &'static str,
    shards: u16,
    incarnation: u64,
}

#[derive(Debug, Serialize)]
struct MapChain {
    partition: u32,
    epoch: u64,
    servers: Vec<u32>,
    tail_joining: bool,
    learner: Option<u32>,
}

impl StatusResult {
    pub(super) fn new(status: &CoordinatorStatus, map: &ClusterMap) -> Self {
        let replicas = usize::from(map.replicas);
        let servers = map.servers.iter().map(|server| server_status(server, status, map));
        let worker = |entry: &WorkerEntry| WorkerStatus {
            rank: entry.rank.0,
            live: entry.live,
            clock: entry.clock.0,
        };
        let chains = || map.chains.iter();
        let is_down =
            |id: &ServerId| map.server(*id).is_none_or(|server| server.state == ServerState::Down);
        let waits = |servers: &[ServerId]| !servers.is_empty() && servers.iter().all(is_down);
        Self {
            epoch: map.epoch.0,
            replicas: map.replicas,
            partitions: map.partition_count(),
            leads: status.leads,
            store: status.store.clone(),
            store_error: status.store_error.clone(),
            copies_under_way: status.copies_under_way,
            short_partitions: chains().filter(|chain| chain.servers.len() < replicas).count(),
            down_partitions: chains().filter(|chain| waits(&chain.servers)).count(),
            lost_partitions: chains().filter(|chain| chain.servers.is_empty()).count(),
            waiting: waiting(
                chains().map(|chain| &*chain.servers).filter(|servers| waits(servers)),
            ),
            emptied: status.emptied.iter().map(emptied).collect(),
            resting: status.resting.iter().map(|server| server.0).collect(),
            separated: status.separated.iter().map(|pair| [pair.a.0, pair.b.0]).collect(),
            servers: servers.collect(),
            workers: status.workers.iter().map(worker).collect(),
        }
    }

    pub(super) fn to_text(&self) -> String {
        let store = match &self.store_error {
            Some(error) => format!("{}, and it cannot be written: {error}", self.store),
            None => self.store.clone(),
        };
        let waiting = |waiting: &Waiting| {
            let servers: Vec<String> = waiting.servers.iter().map(u32::to_string).collect();
            let count = waiting.partitions;
            format!(", {count} wait for server {} (see cluster accept-loss)", servers.join(" or "))
        };
        let waiting: String = self.waiting.iter().map(waiting).collect();
        let chains = format!(
            "{} of {} short of copies{waiting}, {} lost, {} copies under way",
            self.short_partitions, self.partitions, self.lost_partitions, self.copies_under_way
        );
        let facts = table::facts(&[
            ("epoch", self.epoch.to_string()),
            ("replicas", self.replicas.to_string()),
            ("partitions", chains),
            ("store", store),
            ("live workers", self.workers.iter().filter(|one| one.live).count().to_string()),
        ]);
        let emptied: Vec<String> = self.emptied.iter().map(|one| one.table.to_string()).collect();
        let resting: Vec<String> = self.resting.iter().map(u32::to_string).collect();
        let pairs = self.separated.iter().map(|[a, b]| format!("{a} and {b}"));
        let notes = [
            ("tables of durability memory that a restart has emptied", emptied),
            ("servers without copies for a while, as they were not heard in time", resting),
            ("servers that share no chain for a while, as their link is bad", pairs.collect()),
        ];
        let notes = notes.iter().filter(|(_, what)| !what.is_empty());
        let notes: String =
            notes.map(|(note, what)| format!("\n{note}: {}", what.join(", "))).collect();
        let row = |one: &ServerStatus| {
            let state = if one.connected || one.state == "down" {
                one.state.to_owned()
            } else {
                format!("{}, not connected", one.state)
            };
            vec![
                format!("{} at {}", one.server, one.address),
                state,
                one.heads.to_string(),
                one.copies.to_string(),
                one.learning.to_string(),
            ]
        };
        let servers = table::table(
            &["server", "state", "heads", "copies", "learning"],
            &self.servers.iter().map(row).collect::<Vec<_>>(),
        );
        format!("{facts}{notes}\n{servers}")
    }
}

impl MapResult {
    pub(super) fn new(map: &ClusterMap) -> Self {
        let server = |entry: &ServerEntry| MapServer {
            server: entry.id.0,
            address: entry.address.clone(),
            state: state_name(entry.state),
            shards: entry.shard_count,
            incarnation: entry.incarnation.0,
        };
        let chains = (0..).map(PartitionId).zip(&map.chains);
        Self {
            epoch: map.epoch.0,
            replicas: map.replicas,
            servers: map.servers.iter().map(server).collect(),
            chains: chains
                .map(|(partition, chain)| MapChain {
                    partition: partition.0,
                    epoch: chain.epoch.0,
                    servers: chain.servers.iter().map(|server| server.0).collect(),
                    tail_joining: chain.tail_joining,
                    learner: chain.learner.map(|learner| learner.0),
                })
                .collect(),
        }
    }

    pub(super) fn to_text(&self) -> String {
        let row = |chain: &MapChain| {
            let servers: Vec<String> = chain.servers.iter().map(u32::to_string).collect();
            let path = if servers.is_empty() { "lost".to_owned() } else { servers.join(" > ") };
            let joining = match (chain.tail_joining, chain.learner) {
                (true, _) => "tail synchronises".to_owned(),
                (_, Some(learner)) => format!("{learner} copies"),
                _ => String::new(),
            };
            vec![chain.partition.to_string(), path, joining, chain.epoch.to_string()]
        };
        table::table(
            &["partition", "head > tail", "joining", "since epoch"],
            &self.chains.iter().map(row).collect::<Vec<_>>(),
        )
    }
}

fn waiting<'a>(chains: impl Iterator<Item = &'a [ServerId]>) -> Vec<Waiting> {
    let mut found: Vec<Waiting> = Vec::new();
    for chain in chains {
        let mut servers: Vec<u32> = chain.iter().map(|server| server.0).collect();
        servers.sort_unstable();
        match found.iter_mut().find(|waiting| waiting.servers == servers) {
            Some(waiting) => waiting.partitions += 1,
            None => found.push(Waiting { servers, partitions: 1 }),
        }
    }
    found
}

fn emptied(one: &EmptiedTable) -> Emptied {
    Emptied { table: one.table.0, server: one.server.0, seconds: one.seconds }
}

fn server_status(
    entry: &ServerEntry,
    status: &CoordinatorStatus,
    map: &ClusterMap,
) -> ServerStatus {
    let id: ServerId = entry.id;
    let chains = || map.chains.iter();
    ServerStatus {
        server: id.0,
        address: entry.address.clone(),
        state: state_name(entry.state),
        connected: status.connected.contains(&id),
        shards: entry.shard_count,
        incarnation: entry.incarnation.0,
        heads: chains().filter(|chain| chain.servers.first() == Some(&id)).count(),
        copies: chains().filter(|chain| chain.servers.contains(&id)).count(),
        learning: chains().filter(|chain| chain.learner == Some(id)).count(),
    }
}

fn state_name(state: ServerState) -> &'static str {
    match state {
        ServerState::Up => "up",
        ServerState::Draining => "draining",
        ServerState::Down => "down",
    }
}

#[cfg(test)]
mod tests {
    use windlass_wire::coordination::SeparatedPair;

    use super::*;

    #[test]
    fn status_says_who_gets_no_copies_and_who_shares_no_chain() {
        let pair = |a, b| SeparatedPair { a: ServerId(a), b: ServerId(b) };
        let mut status = CoordinatorStatus {
            leads: true,
            store: "file".to_owned(),
            store_error: None,
            connected: Vec::new(),
            resting: Vec::new(),
            separated: Vec::new(),
            workers: Vec::new(),
            copies_under_way: 0,
            emptied: Vec::new(),
            map: ClusterMap::default(),
        };
        let text = |status: &CoordinatorStatus| StatusResult::new(status, &status.map).to_text();
        assert!(!text(&status).contains("for a while"));
        status.resting = vec![ServerId(4), ServerId(7)];
        status.separated = vec![pair(1, 2), pair(2, 5)];
        let text = text(&status);
        assert!(text.contains("not heard in time: 4, 7\n"), "{text}");
        assert!(text.contains("their link is bad: 1 and 2, 2 and 5\n"), "{text}");
    }
}
