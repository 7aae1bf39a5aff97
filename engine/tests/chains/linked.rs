//! Servers that link themselves over control ports, and again when connections break.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
    time::Duration,
};

use windlass_engine::{
    server::{Peers, PeersConfig},
    shard::{ShardCommand, ShardHandle},
};
use windlass_transport::{Endpoint, control::ControlStream};
use windlass_wire::{
    Blob, ServerId, ServerSecret, Ticket,
    control::{ClientReply, ClientRequest, Peer, PeerRole, Provider},
    coordination::PeerTicket,
};

use super::{cluster::Node, tables, world::World};

/// As much of a server's control port as links need.
struct Port {
    address: String,
    connections: Arc<Mutex<Vec<ControlStream>>>,
}

impl Port {
    fn open(node: &Node, provider: Provider) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (own, shards, open) = (node.peer, node.handles.clone(), connections.clone());
        std::thread::spawn(move || {
            for (number, stream) in (1..).zip(listener.incoming()) {
                let stream = ControlStream::new(stream.unwrap()).unwrap();
                open.lock().unwrap().push(stream.try_clone().unwrap());
                let shards = shards.clone();
                std::thread::spawn(move || serve(stream, number, own, &shards, provider));
            }
        });
        Self { address, connections }
    }

    /// Cuts every connection, as a network does.
    fn cut(&self) {
        for stream in self.connections.lock().unwrap().drain(..) {
            stream.shutdown();
        }
    }
}

fn serve(
    mut stream: ControlStream,
    number: u64,
    own: Peer,
    shards: &[ShardHandle],
    provider: Provider,
) {
    let Ok(Some(ClientRequest::Hello { session, incarnation, peer, .. })) = stream.receive() else {
        return;
    };
    let Some(PeerRole::Links { peer, ticket }) = peer else { panic!("{peer:?} links") };
    assert_eq!(ticket, ticket_at(own.server, peer), "a server proves itself");
    let peer = Some(peer);
    let welcome = ClientReply::Welcome {
        session,
        server: own.server,
        incarnation: own.incarnation,
        started: own.incarnation,
        shard_count: u16::try_from(shards.len()).unwrap(),
        providers: vec![provider],
        notes: Vec::new(),
    };
    stream.send(&welcome).unwrap();
    stream.set_read_timeout(None).unwrap();
    while let Ok(Some(request)) = stream.receive() {
        let reply = match request {
            ClientRequest::OpenMailbox { shard, provider, endpoint } => shards
                [usize::from(shard.0)]
            .ask(|answer| ShardCommand::OpenMailbox {
                session,
                incarnation,
                connection: number,
                rank: None,
                peer,
                provider,
                endpoint: Endpoint(endpoint.0),
                answer,
            })
            .map(|endpoint| ClientReply::Mailbox { endpoint: Blob(endpoint.0) }),
            ClientRequest::AttachMailbox { shard, reply, completion_slots } => shards
                [usize::from(shard.0)]
            .ask(|answer| ShardCommand::AttachMailbox { session, reply, completion_slots, answer })
            .map(|attached| ClientReply::Attached {
                mailbox: attached.region,
                ring_len: attached.ring_len,
                spin_us: 20,
                by_reference_len: attached.by_reference_len,
                kept_keys_max: attached.kept_keys_max,
            }),
            other => panic!("links do not ask {other:?}"),
        };
        let reply = reply.unwrap_or_else(|text| ClientReply::Refused {
            status: windlass_wire::control::RefusalKind::Internal {},
            text,
        });
        if stream.send(&reply).is_err() {
            break;
        }
    }
    for shard in shards {
        shard.send(ShardCommand::CloseSession { session, connection: number });
    }
}

/// As a coordinator would make it.
fn ticket_at(server: ServerId, peer: Peer) -> Ticket {
    let number = u8::try_from(server.0).unwrap();
    ServerSecret([number; 16]).ticket_for(1, peer)
}

fn servers_link_themselves(provider: Provider) {
    let mut world = World::unlinked(provider, 3, tables());
    let ports: Vec<Port> = world.nodes.iter().map(|node| Port::open(node, provider)).collect();
    for (entry, port) in world.map.servers.iter_mut().zip(&ports) {
        entry.address = port.address.clone();
    }
    world.install(|_, _| ());
    let peers: Vec<Peers> = world
        .nodes
        .iter()
        .map(|node| {
            let config = PeersConfig {
                shards: node.handles.clone(),
                providers: vec![provider],
                token: String::new(),
                ended: node.ended.clone(),
            };
            let peers = Peers::start(config).unwrap();
            let others = world.nodes.iter().filter(|other| other.peer != node.peer);
            let tickets = others.map(|other| PeerTicket {
                server: other.peer.server,
                ticket: ticket_at(other.peer.server, node.peer),
            });
            peers.introduce(tickets.collect());
            peers.follow(node.peer, Arc::new(world.map.clone()));
            peers
        })
        .collect();
    world.client.reroute(&world.map);
    world.push(50);
    world.check();
    for port in ports.iter().chain(&ports[..2]) {
        world.push(20);
        port.cut();
        world.push(20);
        std::thread::sleep(Duration::from_millis(5));
    }
    world.check();
    // The others go on, and leave alone who is gone.
    world.nodes.remove(1).kill();
    world.push(20);
    world.remove(ServerId(2));
    for (node, peers) in world.nodes.iter().zip([&peers[0], &peers[2]]) {
        peers.follow(node.peer, Arc::new(world.map.clone()));
    }
    world.push(20);
    world.check();
}

#[test]
fn servers_link_themselves_on_shm() {
    servers_link_themselves(Provider::Shm {});
}

#[test]
fn servers_link_themselves_on_tcp() {
    servers_link_themselves(Provider::Tcp {});
}
