//! Who has the token is not every server: a server proves that it is the one, to the coordinator and to
//! the others.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use support::{Server, folder, json, run, stderr, windlass};
use windlass_transport::control::ControlStream;
use windlass_wire::{
    Incarnation, ServerId, ServerSecret, SessionId, Ticket,
    control::{ClientReply, ClientRequest, PROTOCOL_VERSION, Peer, PeerRole, RefusalKind},
};

struct Cluster {
    coordinator: Server,
    servers: Vec<Server>,
}

/// What a data directory says its server is.
struct Identity {
    peer: Peer,
    cluster: u64,
    secret: ServerSecret,
}

fn start(at: &Path) -> Cluster {
    let options = ["--replicas", "2", "--data-dir", "coordinator"];
    let coordinator = Server::start_limited_as("coordinator", at, 1024, &options);
    let servers = ["one", "two"].map(|data| start_server(at, &coordinator, data));
    let cluster = Cluster { coordinator, servers: servers.into() };
    let create = ["table", "create", "t", "--rows", "64", "--durability", "sync"];
    json(at, &[&create[..], &["--json", "--connect", &cluster.coordinator.address]].concat());
    cluster
}

fn start_server(at: &Path, coordinator: &Server, data: &str) -> Server {
    let address = coordinator.address.as_str();
    Server::start(at, &["--coordinator", address, "--data-dir", data, "--transports", "shm"])
}

fn identity(at: &Path, data: &str) -> Identity {
    let bytes = fs::read(at.join(data).join("identity")).unwrap();
    let word = |from: usize| u64::from_le_bytes(bytes[from..from + 8].try_into().unwrap());
    let server = u32::from_le_bytes(bytes[12..16].try_into().unwrap());
    Identity {
        peer: Peer { server: ServerId(server), incarnation: Incarnation(word(24)) },
        cluster: word(16),
        secret: ServerSecret(bytes[32..48].try_into().unwrap()),
    }
}

/// Greets as a server does; the connection and the answer.
fn greet(address: &str, peer: PeerRole) -> (ControlStream, ClientReply) {
    let address = address.trim_start_matches("windlass://");
    let mut stream = ControlStream::connect(address).unwrap();
    let hello = ClientRequest::Hello {
        version: PROTOCOL_VERSION,
        token: String::new(),
        session: SessionId(77),
        incarnation: Incarnation(77),
        rank: None,
        host: String::new(),
        peer: Some(peer),
    };
    let reply = stream.ask(&hello).unwrap();
    (stream, reply)
}

fn claim(cluster: &Cluster, identity: &Identity, secret: ServerSecret) -> ClientReply {
    let (mut stream, _) = greet(&cluster.coordinator.address, PeerRole::Joins {});
    let Peer { server, incarnation } = identity.peer;
    let join = ClientRequest::Join {
        server: Some(server),
        cluster: identity.cluster,
        address: "127.0.0.1:9".to_owned(),
        shard_count: 1,
        incarnation: Incarnation(incarnation.0 + (1 << 40)),
        kept: windlass_wire::coordination::Kept::Whole {},
        secret,
    };
    stream.ask(&join).unwrap()
}

fn is_refused(reply: &ClientReply) -> bool {
    matches!(reply, ClientReply::Refused { status: RefusalKind::Token {}, .. })
}

fn map(at: &Path, cluster: &Cluster) -> Value {
    json(at, &["cluster", "map", "--connect", &cluster.coordinator.address, "--json"])
}

/// The map once both servers have all partitions: from then on it changes only if something happens.
fn settled_map(at: &Path, cluster: &Cluster) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let map = map(at, cluster);
        let chains = map["chains"].as_array().unwrap();
        let is_whole = |chain: &Value| {
            let servers = chain["servers"].as_array().unwrap();
            servers.len() == 2 && chain["tail_joining"] != true
        };
        if !chains.is_empty() && chains.iter().all(is_whole) {
            return map;
        }
        assert!(Instant::now() < deadline, "{map}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn push_and_verify(at: &Path, cluster: &Cluster) {
    let connect = ["--connect", &cluster.coordinator.address, "--json"];
    json(at, &[&["push", "t", "3=1"][..], &connect].concat());
    json(at, &[&["verify"][..], &connect].concat());
}

#[test]
fn a_token_holder_cannot_take_a_servers_place() {
    let folder = folder();
    let at = folder.path();
    let cluster = start(at);
    push_and_verify(at, &cluster);
    let (one, two) = (identity(at, "one"), identity(at, "two"));
    let before = settled_map(at, &cluster);
    let began = Instant::now();
    for secret in [ServerSecret::default(), two.secret, ServerSecret([0xff; 16])] {
        let reply = claim(&cluster, &one, secret);
        assert!(is_refused(&reply), "{reply:?}");
    }
    // Nobody has noticed: no life is fenced, no map made.
    assert_eq!(map(at, &cluster), before);
    push_and_verify(at, &cluster);
    let log = fs::read_to_string(at.join("server.log")).unwrap();
    let told = log.lines().filter(|line| line.contains("claim to a server's number")).count();
    let most = 1 + usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!((1..=most).contains(&told), "{told} lines: {log}");
    assert!(!log.contains("fenced"), "{log}");
}

#[test]
fn servers_are_shown_who_links_with_them() {
    let folder = folder();
    let at = folder.path();
    let cluster = start(at);
    push_and_verify(at, &cluster);
    let (one, two) = (identity(at, "one"), identity(at, "two"));
    let address = &cluster.servers[1].address;
    let right = two.secret.ticket_for(two.cluster, one.peer);
    let link = |peer, ticket| greet(address, PeerRole::Links { peer, ticket });
    for ticket in [Ticket(0), Ticket(right.0 ^ 1), one.secret.ticket_for(one.cluster, one.peer)] {
        let (_, reply) = link(one.peer, ticket);
        assert!(is_refused(&reply), "{reply:?}");
    }
    let later = Peer { incarnation: Incarnation(one.peer.incarnation.0 + 1), ..one.peer };
    let (_, reply) = link(later, right);
    assert!(is_refused(&reply), "a ticket is for one life: {reply:?}");
    let (_, reply) = link(one.peer, right);
    assert!(matches!(reply, ClientReply::Welcome { .. }), "{reply:?}");
    push_and_verify(at, &cluster);
}

#[test]
fn a_copied_data_directory_is_no_second_server() {
    let folder = folder();
    let at = folder.path();
    let mut cluster = start(at);
    push_and_verify(at, &cluster);
    let copied = Command::new("cp").args(["-r", "one", "copy"]).current_dir(at).status().unwrap();
    assert!(copied.success());
    let before = settled_map(at, &cluster);
    let address = cluster.coordinator.address.clone();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--coordinator", &address];
    let second = run(at, &[&serve[..], &["--data-dir", "copy"]].concat());
    let text = stderr(&second);
    assert_eq!(second.status.code(), Some(1), "{text}");
    assert!(text.contains("another process"), "{text}");
    assert_eq!(map(at, &cluster), before, "the first one goes on");
    push_and_verify(at, &cluster);
    // With its own directory it comes back under its number, also after kill -9.
    let number = identity(at, "one").peer.server;
    drop(cluster.servers.remove(0));
    cluster.servers.push(start_server(at, &cluster.coordinator, "one"));
    assert_eq!(identity(at, "one").peer.server, number);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !windlass(at, &["verify", "--connect", &address]).output().unwrap().status.success() {
        assert!(Instant::now() < deadline, "the copies do not agree");
        std::thread::sleep(Duration::from_millis(100));
    }
}
