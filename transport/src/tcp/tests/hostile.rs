//! Streams that break the protocol, and connections that say nothing.
#![expect(clippy::cast_possible_truncation, reason = "sizes and offsets of these tests are small")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use windlass_wire::checksum::Checksum;

use super::{
    super::{
        Tcp, TcpOptions,
        endpoint::{Address, Hello, Nonce},
        frame::{HEADER_LEN, Header, Kind},
        limits::STRANGERS_MAX,
    },
    PATIENCE, Pair, contents, pattern, region, request, word, xorshift,
};
use crate::fabric::{
    Access, Completion, CompletionStatus, QueuePairId, QueuePairState, Role, Transport,
};

/// A stream of one's own to a passive queue pair, properly introduced.
fn intruder(tcp: &mut Tcp) -> (TcpStream, QueuePairId) {
    let pending = tcp.create_queue_pair().unwrap();
    let address = Address::decode(pending.endpoint()).unwrap();
    let nonce = Nonce([5; 16]);
    let own = Address {
        socket: address.socket,
        queue_pair: QueuePairId(1),
        nonce,
        promises: address.promises,
    };
    let id = tcp.connect(pending, Role::Passive, &own.encode()).unwrap();
    let mut stream = TcpStream::connect(address.socket).unwrap();
    let hello = Hello {
        dialled: id,
        dialling: QueuePairId(1),
        nonce_dialled: address.nonce,
        nonce_dialling: nonce,
    };
    stream.write_all(&Header { length: 40, ..Header::new(Kind::Hello) }.encode()).unwrap();
    stream.write_all(&hello.encode()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while tcp.state(id) != QueuePairState::Ready {
        tcp.wait(Duration::from_millis(10));
        assert!(Instant::now() < deadline);
    }
    (stream, id)
}

/// Bytes that look more and more like frames.
fn hostile_bytes(state: &mut u64, key: u32) -> Vec<u8> {
    let mut bytes = pattern(xorshift(state), (xorshift(state) % 300) as usize);
    for frame in 0..xorshift(state) % 4 {
        let mut header = pattern(xorshift(state), HEADER_LEN);
        header[0] = (xorshift(state) % 11) as u8;
        header[1] = (xorshift(state) % 5) as u8;
        header[2..4].fill(0);
        header[4..8].copy_from_slice(&(frame as u32 + 1).to_le_bytes());
        header[8..12].fill(0);
        header[12..16].copy_from_slice(&key.to_le_bytes());
        header[16..24].copy_from_slice(&(xorshift(state) % 5000).to_le_bytes());
        let length = [0, 8, 100, 2000, 5000, u32::MAX][(xorshift(state) % 6) as usize];
        header[24..28].copy_from_slice(&length.to_le_bytes());
        let checksum = Checksum::of(&header[..36]).0.to_le_bytes();
        header[36..].copy_from_slice(&checksum);
        if frame == 0 && xorshift(state).is_multiple_of(2) {
            bytes.clear();
        }
        bytes.extend_from_slice(&header);
        bytes.extend(pattern(xorshift(state), (xorshift(state) % 3000) as usize));
    }
    bytes
}

#[test]
fn hostile_streams_cost_only_themselves() {
    let mut pair = Pair::new(TcpOptions::LOOPBACK);
    let (target, remote) = pair.share(1, 8192, Access::ALL);
    let guarded = region(&mut pair.sides[1], 8192, Access::READ);
    guarded.pages.write(0, &pattern(1, 8192));
    let mut state = 2026;
    for round in 1..=2000 {
        let (mut stream, id) = intruder(&mut pair.sides[1]);
        let shared = pair.sides[1].share(id, &guarded).unwrap();
        pair.sides[1].post_receive(id, 2).unwrap();
        let _ = stream.write_all(&hostile_bytes(&mut state, shared.key.0));
        stream.set_nonblocking(true).unwrap();
        let _ = stream.read(&mut [0; 512]);
        if round % 2 == 0 {
            drop(stream);
        }
        pair.post(0, &[request(round, true, word(round, remote.at(0)))]).unwrap();
        pair.until(|pair| pair.ends(0).contains(&(round, CompletionStatus::Success)));
        assert_eq!(target.pages.load_u64(0), round);
        pair.sides[1].disconnect(id);
    }
    assert_eq!(contents(&guarded, 0, 8192), pattern(1, 8192), "read-only memory was written");
    assert_eq!(pair.sides[1].state(pair.ids[1]), QueuePairState::Ready);
}

#[test]
fn a_damaged_payload_ends_the_connection_before_what_follows() {
    for len in [64_usize, 5000] {
        let mut tcp = Tcp::open(TcpOptions::LOOPBACK).unwrap();
        let (mut stream, id) = intruder(&mut tcp);
        let target = region(&mut tcp, 8192, Access::ALL);
        let shared = tcp.share(id, &target).unwrap();
        let mut header = Header::new(Kind::Write);
        (header.number, header.key, header.trailer) = (1, shared.key.0, true);
        header.length = len as u32;
        stream.write_all(&header.encode()).unwrap();
        stream.write_all(&pattern(3, len)).unwrap();
        stream.write_all(&[1, 2, 3, 4]).unwrap();
        let mut commit = Header { address: 8000, length: 8, trailer: false, ..header };
        commit.number = 2;
        stream.write_all(&commit.encode()).unwrap();
        stream.write_all(&[1; 8]).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while tcp.state(id) == QueuePairState::Ready {
            tcp.wait(Duration::from_millis(10));
            tcp.poll(&mut [Completion::EMPTY]);
            assert!(Instant::now() < deadline);
        }
        assert_eq!(target.pages.load_u64(8000), 0);
    }
}

#[test]
fn strangers_are_bounded_and_do_not_keep_peers_out() {
    let options = TcpOptions { dial_timeout: Duration::from_millis(200), ..TcpOptions::LOOPBACK };
    let mut tcp = Tcp::open(options).unwrap();
    let address = Address::decode(tcp.create_queue_pair().unwrap().endpoint()).unwrap().socket;
    let mut streams = Vec::new();
    for _ in 0..2 * STRANGERS_MAX {
        streams.push(TcpStream::connect(address).unwrap());
        tcp.wait(Duration::ZERO);
        assert!(tcp.strangers.len() <= STRANGERS_MAX);
    }
    let (_stream, id) = intruder(&mut tcp);
    assert_eq!(tcp.state(id), QueuePairState::Ready);
    let deadline = Instant::now() + PATIENCE;
    while !tcp.strangers.is_empty() {
        tcp.wait(Duration::from_millis(500));
        assert!(Instant::now() < deadline);
    }
}
