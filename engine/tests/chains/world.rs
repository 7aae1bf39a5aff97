//! A cluster and what a coordinator does with it: members die, are fenced, and join, while a client
//! pushes. What the client was told is compared with what replicas hold.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use windlass_engine::shard::ServerEvent;
use windlass_wire::{
    ClusterMap, Epoch, Incarnation, PartitionId, ServerId, TableEntry,
    control::{Peer, Provider},
    map::{Chain, ServerEntry, ServerState},
};

use super::{
    assert_exact,
    client::Client,
    cluster::{Node, PARTITIONS, SHARDS, assert_equal_replicas, link_all, map},
    push_some,
};

/// How long anything may take that has to come about.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) provider: Provider,
    pub(crate) tables: Vec<TableEntry>,
    /// Where servers keep their folders, if they keep anything.
    pub(crate) root: Option<PathBuf>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) map: ClusterMap,
    pub(crate) client: Client,
    pub(crate) pushed: u64,
    /// Whether nothing is pushed while a server joins.
    pub(crate) is_quiet: bool,
}

impl World {
    /// Servers `1..=count`, all of them members of all chains.
    pub(crate) fn start(provider: Provider, count: u32, tables: Vec<TableEntry>) -> Self {
        let world = Self::unlinked(provider, count, tables);
        link_all(&world.nodes.iter().collect::<Vec<_>>(), provider);
        world
    }

    /// As `start`, but nobody talks to anybody.
    pub(crate) fn unlinked(provider: Provider, count: u32, tables: Vec<TableEntry>) -> Self {
        let nodes: Vec<Node> =
            (1..=count).map(|id| Node::start(id, u64::from(id) * 10, provider)).collect();
        let peers: Vec<_> = nodes.iter().map(|node| node.peer).collect();
        let ids: Vec<_> = peers.iter().map(|peer| peer.server).collect();
        let map = map(1, &peers, &ids);
        for node in &nodes {
            node.install(&map);
            tables.iter().for_each(|table| node.create(table));
        }
        let mut client = Client::new(77, &map, &tables);
        nodes.iter().for_each(|node| client.connect(node, provider));
        Self { provider, tables, root: None, nodes, map, client, pushed: 0, is_quiet: false }
    }

    /// As `start`, with folders below `root`.
    pub(crate) fn start_kept(
        provider: Provider,
        count: u32,
        tables: Vec<TableEntry>,
        root: &Path,
    ) -> Self {
        let peer = |id| Peer { server: ServerId(id), incarnation: Incarnation(u64::from(id) * 10) };
        let peers: Vec<_> = (1..=count).map(peer).collect();
        let ids: Vec<_> = peers.iter().map(|peer| peer.server).collect();
        let map = map(1, &peers, &ids);
        let start = |peer: &Peer| {
            let (server, life) = (peer.server.0, peer.incarnation.0);
            Node::start_kept(server, life, provider, root, &tables, &map)
        };
        let nodes: Vec<Node> = peers.iter().map(start).collect();
        link_all(&nodes.iter().collect::<Vec<_>>(), provider);
        let mut client = Client::new(77, &map, &tables);
        nodes.iter().for_each(|node| client.connect(node, provider));
        let root = Some(root.to_owned());
        Self { provider, tables, root, nodes, map, client, pushed: 0, is_quiet: false }
    }

    /// Ends all servers, and starts `last`, alone in all chains, with what its folder holds.
    pub(crate) fn restart_all(&mut self, last: u32, life: u64, end: impl Fn(Node)) {
        self.nodes.drain(..).for_each(end);
        let peer = Peer { server: ServerId(last), incarnation: Incarnation(life) };
        let epoch = self.map.epoch.next();
        self.map = map(epoch.0, &[peer], &[peer.server]);
        self.start_again(last, life);
        self.client.reroute(&self.map);
    }

    fn start_again(&mut self, server: u32, life: u64) {
        let root = self.root.as_ref().unwrap();
        let node = Node::start_kept(server, life, self.provider, root, &self.tables, &self.map);
        self.client.disconnect(ServerId(server));
        self.client.connect(&node, self.provider);
        self.nodes.push(node);
    }

    /// A server that was down comes back with its folder, and becomes the tail of every chain.
    pub(crate) fn rejoin(&mut self, server: u32, life: u64) {
        self.start_again(server, life);
        self.admit(ServerId(server), false);
    }

    pub(crate) fn push(&mut self, count: u64) {
        push_some(&mut self.client, count, self.pushed);
        self.pushed += count;
    }

    pub(crate) fn node(&self, server: ServerId) -> &Node {
        self.nodes.iter().find(|node| node.peer.server == server).unwrap()
    }

    /// A map one epoch on, in force everywhere.
    pub(crate) fn install(&mut self, change: impl Fn(&mut Chain, Epoch)) {
        self.map.epoch = self.map.epoch.next();
        let epoch = self.map.epoch;
        self.map.chains.iter_mut().for_each(|chain| change(chain, epoch));
        self.nodes.iter().for_each(|node| node.install(&self.map));
    }

    /// Ends a server as a killed process ends, and goes on without it.
    pub(crate) fn kill(&mut self, server: ServerId) {
        let at = self.nodes.iter().position(|node| node.peer.server == server).unwrap();
        self.nodes.remove(at).kill();
        self.push(20);
        self.remove(server);
    }

    /// Takes a server out of the map.
    pub(crate) fn remove(&mut self, server: ServerId) {
        self.map.servers.retain(|entry| entry.id != server);
        self.install(|chain, epoch| {
            chain.servers.retain(|member| *member != server);
            chain.learner = chain.learner.filter(|learner| *learner != server);
            chain.epoch = epoch;
        });
        self.client.reroute(&self.map);
    }

    /// A server comes, with nothing, and becomes the tail of every chain while pushes go on.
    pub(crate) fn join(&mut self, server: u32, life: u64) {
        let node = Node::start(server, life, self.provider);
        self.nodes.push(node);
        self.admit(ServerId(server), true);
    }

    /// Takes a running server in as a learner of every chain, and at last as their tail.
    pub(crate) fn admit(&mut self, server: ServerId, is_new: bool) {
        self.introduce(server, is_new);
        self.take_in(server);
    }

    /// Takes a running server in as a learner of every chain.
    pub(crate) fn introduce(&mut self, server: ServerId, is_new: bool) {
        let peer = self.node(server).peer;
        self.map.servers.push(ServerEntry {
            id: server,
            incarnation: peer.incarnation,
            address: "127.0.0.1:1".to_owned(),
            shard_count: SHARDS,
            state: ServerState::Up,
        });
        self.install(|chain, _| chain.learner = Some(server));
        if is_new {
            self.tables.iter().for_each(|table| self.node(server).create(table));
            self.client.connect(self.nodes.last().unwrap(), self.provider);
        }
        for node in self.nodes.iter().filter(|node| node.peer != peer) {
            node.link(self.node(server), self.provider);
            self.node(server).link(node, self.provider);
        }
    }

    /// Makes a learner of every chain their tail, once it has caught up.
    pub(crate) fn take_in(&mut self, server: ServerId) {
        self.await_all(server, |event| match event {
            ServerEvent::CaughtUp { partition, .. } => Some(partition),
            _ => None,
        });
        self.install(|chain, epoch| {
            chain.servers.push(server);
            (chain.learner, chain.tail_joining, chain.epoch) = (None, true, epoch);
        });
        self.await_all(server, |event| match event {
            ServerEvent::Synchronised { partition, .. } => Some(partition),
            _ => None,
        });
        self.install(|chain, _| chain.tail_joining = false);
    }

    /// Pushes until a server has said something about every partition.
    fn await_all(&mut self, server: ServerId, of: impl Fn(ServerEvent) -> Option<PartitionId>) {
        let deadline = Instant::now() + PATIENCE;
        let mut said = std::collections::BTreeSet::new();
        while said.len() < PARTITIONS as usize {
            said.extend(self.node(server).events.try_iter().filter_map(&of));
            for node in self.nodes.iter().filter(|node| node.peer.server != server) {
                let rejected = |event| matches!(event, ServerEvent::Rejected { .. });
                assert!(!node.events.try_iter().any(rejected), "what caught up is taken in");
            }
            if self.client.unacknowledged() < 40 && !self.is_quiet {
                self.push(3);
            }
            self.client.poll();
            if self.client.is_stale {
                self.client.reroute(&self.map);
            }
            if Instant::now() > deadline {
                for node in &self.nodes {
                    let (peer, ended) = (node.peer, node.ended.try_iter().collect::<Vec<_>>());
                    eprintln!("{peer:?}: ended {ended:?}, {:#?}", node.states());
                }
                panic!("server {server} said so of {said:?} only");
            }
        }
    }

    /// Every push is there once, and replicas are equal.
    pub(crate) fn check(&mut self) {
        self.client.settle_by(&self.map);
        // Who had nothing under way has not been told of the last map, and pulls are refused for an old one.
        self.client.reroute(&self.map);
        assert_equal_replicas(&self.map, &self.nodes.iter().collect::<Vec<_>>());
        assert_exact(&mut self.client, self.pushed);
    }
}
