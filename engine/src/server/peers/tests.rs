//! A peer that answers late, when another thread has linked with it already.

use std::net::{TcpListener, TcpStream};

use windlass_transport::{Endpoint, control::ControlStream, fabric::Waker};
use windlass_wire::{
    Blob, Incarnation,
    control::{ClientReply, ClientRequest, SharedRegion},
    map::{Chain, ServerEntry},
};

use super::*;

const PEER: Peer = Peer { server: ServerId(2), incarnation: Incarnation(7) };

/// A shard that answers as a real one does, and notes what it was told.
fn shard(told: Arc<Mutex<Vec<&'static str>>>) -> ShardHandle {
    let (sender, commands) = unbounded();
    std::thread::spawn(move || {
        for command in commands {
            let ShardCommand::Chain(command) = command else { panic!("a link's command") };
            let (name, answered) = match command {
                ChainCommand::LinkOpen { answer, .. } => {
                    ("open", answer.send(Ok(Endpoint(Vec::new()))).is_ok())
                }
                ChainCommand::LinkConnect { answer, .. } => {
                    ("connect", answer.send(Ok(Some(SharedRegion::default()))).is_ok())
                }
                ChainCommand::LinkAttach { answer, .. } => ("attach", answer.send(Ok(())).is_ok()),
                ChainCommand::LinkClose { .. } => ("close", true),
                other => panic!("{other:?}"),
            };
            assert!(answered, "{name}: nobody waits for the answer");
            told.lock().unwrap().push(name);
        }
    });
    ShardHandle::new(ShardId(0), sender, Waker::new(|| {}))
}

fn map(address: String, own: Peer) -> Arc<ClusterMap> {
    let entry = |peer: Peer| ServerEntry {
        id: peer.server,
        incarnation: peer.incarnation,
        address: address.clone(),
        shard_count: 1,
        state: ServerState::Up,
    };
    let servers = vec![entry(own), entry(PEER)];
    let chain = Chain { servers: vec![own.server, PEER.server], ..Chain::default() };
    Arc::new(ClusterMap { replicas: 2, servers, chains: vec![chain], ..ClusterMap::default() })
}

fn accept(listener: &TcpListener) -> ControlStream {
    let (stream, _): (TcpStream, _) = listener.accept().unwrap();
    let mut stream = ControlStream::new(stream).unwrap();
    assert!(matches!(stream.receive().unwrap(), Some(ClientRequest::Hello { .. })));
    stream
}

fn welcome(stream: &mut ControlStream) {
    let welcome = ClientReply::Welcome {
        session: windlass_wire::SessionId(1),
        server: PEER.server,
        incarnation: PEER.incarnation,
        started: PEER.incarnation,
        shard_count: 1,
        providers: vec![Provider::Tcp {}],
        notes: Vec::new(),
    };
    stream.send(&welcome).unwrap();
}

/// Links as a peer does.
fn link(stream: &mut ControlStream) {
    welcome(stream);
    assert!(matches!(stream.receive().unwrap(), Some(ClientRequest::OpenMailbox { .. })));
    stream.send(&ClientReply::Mailbox { endpoint: Blob(Vec::new()) }).unwrap();
    assert!(matches!(stream.receive().unwrap(), Some(ClientRequest::AttachMailbox { .. })));
    let attached = ClientReply::Attached {
        mailbox: SharedRegion::default(),
        ring_len: 64,
        spin_us: 0,
        by_reference_len: u32::MAX,
        kept_keys_max: 0,
    };
    stream.send(&attached).unwrap();
}

#[test]
fn a_link_outlives_the_late_answer_to_a_life_before() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let told = Arc::new(Mutex::new(Vec::new()));
    let (_ended, broken) = unbounded();
    let config = PeersConfig {
        shards: vec![shard(Arc::clone(&told))],
        providers: vec![Provider::Tcp {}],
        token: String::new(),
        ended: broken,
    };
    let peers = Peers::start(config).unwrap();
    let lives = [1, 2].map(|life| Peer { server: ServerId(1), incarnation: Incarnation(life) });
    peers.follow(lives[0], map(address.clone(), lives[0]));
    let mut late = accept(&listener);
    peers.follow(lives[1], map(address, lives[1]));
    let mut linked = accept(&listener);
    link(&mut linked);
    while told.lock().unwrap().last() != Some(&"attach") {
        std::thread::yield_now();
    }
    welcome(&mut late);
    let next = late.receive::<ClientRequest>();
    assert!(!matches!(next, Ok(Some(_))), "the life before asks for a link: {next:?}");
    assert_eq!(*told.lock().unwrap(), ["close", "open", "connect", "attach"]);
    assert!(!linked.is_closed());
}
