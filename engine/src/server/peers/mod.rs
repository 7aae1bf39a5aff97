//! Links this server's shards with the equal shards of its peers: the servers that it shares chains with, and its
//! witnesses. Each peer has a thread, because a stopped peer may not answer for any length of time. One more thread
//! distributes the events of shards and maps.

mod link;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{Builder, JoinHandle},
};

use crossbeam::channel::{Receiver, Sender, select, unbounded};
use windlass_wire::{
    ClusterMap, ServerId, ShardId, Ticket,
    control::{Peer, Provider},
    coordination::PeerTicket,
    map::ServerState,
};

use self::link::Linker;
use crate::shard::{Answer, ChainCommand, LinkEnded, ShardCommand, ShardHandle, ShardStopped};

/// Everything needed to link a server with its peers.
#[derive(Debug)]
pub struct PeersConfig {
    /// The server's shards, in order.
    pub shards: Vec<ShardHandle>,
    /// The providers they have, best first.
    pub providers: Vec<Provider>,
    /// The cluster's token, or empty.
    pub token: String,
    /// Where the shards tell of links that broke: [`crate::shard::ChainContext::ended`].
    pub ended: Receiver<LinkEnded>,
}

/// The links. Dropping it ends them.
#[derive(Debug)]
pub struct Peers {
    orders: Option<Sender<Following>>,
    tickets: Tickets,
    thread: Option<JoinHandle<()>>,
}

/// What this server proves itself by to each of the others.
#[derive(Clone, Debug, Default)]
struct Tickets {
    by_server: Arc<Mutex<BTreeMap<ServerId, Ticket>>>,
}

impl Tickets {
    /// The one for a server; one that proves nothing before the coordinator has told of it.
    fn at(&self, server: ServerId) -> Ticket {
        self.lock().get(&server).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServerId, Ticket>> {
        // Whole values in any case.
        self.by_server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The life of this server that a map admits.
#[derive(Debug)]
struct Following {
    own: Peer,
    map: Arc<ClusterMap>,
}

/// What lets a peer's thread command the shards. It may wait for its peer when that is not wanted any more,
/// or is linked with anew: what it says later would end links that another thread has made since.
#[derive(Clone, Debug)]
struct Mandate {
    holds: Arc<Mutex<bool>>,
}

impl Mandate {
    fn new() -> Self {
        Self { holds: Arc::new(Mutex::new(true)) }
    }

    /// Gives a shard a command and waits for its answer.
    fn ask<T>(
        &self,
        shard: &ShardHandle,
        make: impl FnOnce(Answer<T>) -> ChainCommand,
    ) -> Result<T, String> {
        let holds = self.lock();
        if !*holds {
            return Err("the peer is not wanted any more".to_owned());
        }
        let answer = shard.request(|answer| ShardCommand::Chain(make(answer)));
        drop(holds);
        answer.recv().unwrap_or_else(|_| Err(ShardStopped(shard.id()).into()))
    }

    /// What shards are sent from now on comes after all that the thread has said.
    fn end(&self) {
        *self.lock() = false;
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One peer and the thread that links with it.
#[derive(Debug)]
struct Worker {
    own: Peer,
    peer: Peer,
    address: String,
    mandate: Mandate,
    broken: Sender<ShardId>,
}

impl Peers {
    /// Starts without any link.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(config: PeersConfig) -> io::Result<Self> {
        let (orders, received) = unbounded();
        let tickets = Tickets::default();
        let told = tickets.clone();
        let thread = Builder::new().name("windlass-peers".to_owned()).spawn(move || {
            Dispatcher { config, tickets: told, workers: BTreeMap::new() }.run(&received);
        })?;
        Ok(Self { orders: Some(orders), tickets, thread: Some(thread) })
    }

    /// Takes over what this life proves itself by to others. To be called before a map that names them.
    pub fn introduce(&self, tickets: Vec<PeerTicket>) {
        *self.tickets.lock() = tickets.into_iter().map(|one| (one.server, one.ticket)).collect();
    }

    /// Links with those that this server hears by a map, and with nobody else. To be
    /// called after every shard has taken the map over, and only with maps that admit `own`.
    pub fn follow(&self, own: Peer, map: Arc<ClusterMap>) {
        if let Some(orders) = &self.orders {
            // The thread lives as long as this.
            let _ = orders.send(Following { own, map });
        }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that links servers panicked");
        }
    }
}

struct Dispatcher {
    config: PeersConfig,
    tickets: Tickets,
    workers: BTreeMap<ServerId, Worker>,
}

impl Dispatcher {
    fn run(&mut self, orders: &Receiver<Following>) {
        loop {
            select! {
                recv(orders) -> order => match order {
                    Ok(order) => self.follow(&order),
                    Err(_) => break,
                },
                recv(self.config.ended) -> ended => match ended {
                    Ok(ended) => self.broken(&ended),
                    // All shards are gone.
                    Err(_) => break,
                },
            }
        }
        // Threads end by themselves: one may be waiting for its peer's answer.
        self.workers.clear();
    }

    fn broken(&self, ended: &LinkEnded) {
        let peer = Peer { server: ended.server, incarnation: ended.incarnation };
        if let Some(worker) = self.workers.get(&ended.server).filter(|worker| worker.peer == peer) {
            // It may be on its way out.
            let _ = worker.broken.send(ended.shard);
        }
    }

    fn follow(&mut self, order: &Following) {
        let wanted = neighbours(&order.map, order.own.server);
        let is_wanted = |(server, worker): &(&ServerId, &Worker)| {
            worker.own == order.own
                && wanted.get(server) == Some(&(worker.peer, worker.address.clone()))
        };
        let unwanted = self.workers.iter().filter(|entry| !is_wanted(entry));
        for server in unwanted.map(|(server, _)| *server).collect::<Vec<_>>() {
            if let Some(worker) = self.workers.remove(&server) {
                worker.mandate.end();
            }
            for shard in &self.config.shards {
                shard.send(ShardCommand::Chain(ChainCommand::LinkClose { server }));
            }
        }
        for (server, (peer, address)) in wanted {
            if self.workers.contains_key(&server) {
                continue;
            }
            match self.start_worker(order.own, peer, address) {
                Ok(worker) => drop(self.workers.insert(server, worker)),
                Err(error) => tracing::error!(%error, peer = server.0, "no thread to link with"),
            }
        }
    }

    fn start_worker(&self, own: Peer, peer: Peer, address: String) -> io::Result<Worker> {
        let (broken, told) = unbounded();
        let mandate = Mandate::new();
        let mut linker = Linker {
            own,
            peer,
            address: address.clone(),
            token: self.config.token.clone(),
            shards: self.config.shards.clone(),
            providers: self.config.providers.clone(),
            tickets: self.tickets.clone(),
            mandate: mandate.clone(),
            broken: told,
        };
        Builder::new()
            .name(format!("windlass-link-{}", peer.server))
            .spawn(move || linker.run())?;
        Ok(Worker { own, peer, address, mandate, broken })
    }
}

/// Servers that this one hears, in force, and where they are.
fn neighbours(map: &ClusterMap, own: ServerId) -> BTreeMap<ServerId, (Peer, String)> {
    let entries = map.peers_of(own).into_iter().filter_map(|server| map.server(server));
    let in_force = entries.filter(|entry| entry.state != ServerState::Down);
    let wanted = in_force.map(|entry| {
        let peer = Peer { server: entry.id, incarnation: entry.incarnation };
        (entry.id, (peer, entry.address.clone()))
    });
    wanted.collect()
}

#[cfg(test)]
mod tests;
