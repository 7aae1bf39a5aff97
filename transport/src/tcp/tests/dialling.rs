//! Dialling without waiting: whoever dials goes on with its other peers meanwhile.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};

use super::{
    super::{Tcp, TcpOptions, endpoint::Address},
    PATIENCE, Pair, request, word,
};
use crate::{
    batch::Batch,
    error::{ConnectError, PostError},
    fabric::{Access, CompletionStatus, Endpoint, QueuePairId, QueuePairState, Role, Transport},
};

/// A listener whose queue is full: the kernel drops what others send to be connected, as a network does.
struct Deaf {
    address: SocketAddr,
    _listener: OwnedFd,
    _queued: TcpStream,
}

impl Deaf {
    fn new() -> Self {
        let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        listen(&listener, 0).unwrap();
        let address = SocketAddr::try_from(getsockname(&listener).unwrap()).unwrap();
        let queued = TcpStream::connect(address).unwrap();
        Self { address, _listener: listener, _queued: queued }
    }

    /// An endpoint there.
    fn endpoint(&self) -> Endpoint {
        let real = Tcp::open(TcpOptions::LOOPBACK).unwrap().create_queue_pair().unwrap();
        let address = Address::decode(real.endpoint()).unwrap();
        Address { socket: self.address, ..address }.encode()
    }
}

/// Sleeps and polls as a shard does until the queue pair has failed.
fn await_failure(tcp: &mut Tcp, id: QueuePairId) {
    let deadline = Instant::now() + PATIENCE;
    while tcp.state(id) == QueuePairState::Connecting {
        assert!(Instant::now() < deadline, "it dials for ever");
        tcp.wait(PATIENCE);
        assert_eq!(tcp.poll(&mut []), 0);
    }
    assert_eq!(tcp.state(id), QueuePairState::Error);
}

#[test]
fn who_dials_a_deaf_host_serves_its_other_peers_and_gives_up() {
    let deaf = Deaf::new();
    let options = TcpOptions { dial_timeout: Duration::from_millis(400), ..TcpOptions::LOOPBACK };
    let mut pair = Pair::new(options);
    let (target, remote) = pair.share(1, 4096, Access::ALL);
    let pending = pair.sides[0].create_queue_pair().unwrap();
    let dialling = pair.sides[0].begin_connect(pending, &deaf.endpoint()).unwrap();
    assert_eq!(pair.sides[0].state(dialling), QueuePairState::Connecting);
    let mut early = Batch::with_capacity(1);
    early.push(request(7, true, word(7, remote.at(0)))).unwrap();
    assert_eq!(pair.sides[0].post_send(dialling, &mut early), Err(PostError::NotConnected));
    pair.post(0, &[request(1, true, word(5, remote.at(8)))]).unwrap();
    pair.until(|pair| !pair.seen[0].is_empty());
    assert_eq!(pair.ends(0), [(1, CompletionStatus::Success)]);
    assert_eq!((target.pages.load_u64(0), target.pages.load_u64(8)), (0, 5));
    await_failure(&mut pair.sides[0], dialling);
    pair.sides[0].disconnect(dialling);
    // Whoever wants to wait does, and hears the reason.
    let pending = pair.sides[0].create_queue_pair().unwrap();
    let refused = pair.sides[0].connect(pending, Role::Active, &deaf.endpoint());
    let Err(ConnectError::Unreachable { source, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(source.kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn who_dials_a_host_that_refuses_hears_it() {
    let gone = Tcp::open(TcpOptions::LOOPBACK).unwrap().create_queue_pair().unwrap();
    let mut tcp = Tcp::open(TcpOptions::LOOPBACK).unwrap();
    let pending = tcp.create_queue_pair().unwrap();
    let id = pending.id();
    // The kernel may say so at once.
    match tcp.begin_connect(pending, gone.endpoint()) {
        Ok(_) => await_failure(&mut tcp, id),
        Err(error) => assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}"),
    }
    assert_eq!(tcp.state(id), QueuePairState::Error);
}

#[test]
fn a_dialled_peer_answers_to_polls_and_to_sleeps() {
    for sleeps in [false, true] {
        let mut sides = [TcpOptions::LOOPBACK; 2].map(|options| Tcp::open(options).unwrap());
        let pending = sides.each_mut().map(|side| side.create_queue_pair().unwrap());
        let endpoints = pending.each_ref().map(|pending| pending.endpoint().clone());
        let [one, two] = pending;
        let active = sides[0].begin_connect(one, &endpoints[1]).unwrap();
        let passive = sides[1].connect(two, Role::Passive, &endpoints[0]).unwrap();
        let mut pair = Pair { sides, ids: [active, passive], seen: [Vec::new(), Vec::new()] };
        let deadline = Instant::now() + PATIENCE;
        while pair
            .sides
            .iter()
            .zip(pair.ids)
            .any(|(side, id)| side.state(id) != QueuePairState::Ready)
        {
            assert!(Instant::now() < deadline, "they are never connected");
            for side in 0..2 {
                if sleeps {
                    pair.sides[side].wait(Duration::from_millis(5));
                }
                pair.poll(side);
            }
        }
        let (target, remote) = pair.share(1, 4096, Access::ALL);
        pair.post(0, &[request(1, true, word(4, remote.at(0)))]).unwrap();
        pair.until(|pair| !pair.seen[0].is_empty());
        assert_eq!(target.pages.load_u64(0), 4);
    }
}
