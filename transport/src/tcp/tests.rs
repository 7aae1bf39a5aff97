//! What the conformance suite cannot ask of every provider: partial transfers, hostile streams,
//! strangers, silence. Two instances in one thread, polled in turn, so that every run is the same.
#![expect(clippy::cast_possible_truncation, reason = "sizes and offsets of these tests are small")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use windlass_wire::checksum::Checksum;

use super::{
    Tcp, TcpOptions,
    endpoint::{Address, Hello, Nonce},
    frame::{HEADER_LEN, Header, Kind},
    limits::STRANGERS_MAX,
};
use crate::{
    batch::Batch,
    error::{ConnectError, PostError},
    fabric::*,
    memory::{Pages, PagesOptions},
};

const PATIENCE: Duration = Duration::from_secs(30);

fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len).map(|_| xorshift(&mut state).to_le_bytes()[2]).collect()
}

fn region(tcp: &mut Tcp, len: usize, access: Access) -> MemoryRegion {
    let options = PagesOptions { lock: crate::memory::Lock::Never, ..PagesOptions::default() };
    tcp.register(&Pages::allocate(len, options).unwrap(), access).unwrap()
}

fn contents(region: &MemoryRegion, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    region.pages.read(offset, &mut bytes);
    bytes
}

fn request(work_id: u64, signaled: bool, operation: Operation) -> SendRequest {
    SendRequest { work_id: WorkId(work_id), signaled, operation }
}

fn word(word: u64, remote: RemoteAddress) -> Operation {
    Operation::WriteInline { bytes: InlineBytes::word(word), remote }
}

/// Two connected instances and what they have reported.
struct Pair {
    sides: [Tcp; 2],
    ids: [QueuePairId; 2],
    seen: [Vec<Completion>; 2],
}

impl Pair {
    fn new(options: TcpOptions) -> Self {
        let mut sides = [Tcp::open(options).unwrap(), Tcp::open(options).unwrap()];
        let ids = connect(&mut sides);
        let mut pair = Self { sides, ids, seen: [Vec::new(), Vec::new()] };
        pair.until(|pair| {
            (0..2).all(|side| pair.sides[side].state(pair.ids[side]) == QueuePairState::Ready)
        });
        pair
    }

    fn poll(&mut self, side: usize) {
        let mut completions = [Completion::EMPTY; 8];
        let count = self.sides[side].poll(&mut completions);
        self.seen[side].extend(&completions[..count]);
    }

    fn until(&mut self, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            self.poll(0);
            self.poll(1);
            assert!(Instant::now() < deadline, "it never came: {:?}", self.seen);
        }
    }

    fn post(&mut self, side: usize, requests: &[SendRequest]) -> Result<(), PostError> {
        let mut batch = Batch::with_capacity(requests.len());
        for request in requests {
            batch.push(*request).unwrap();
        }
        self.sides[side].post_send(self.ids[side], &mut batch)
    }

    fn share(&mut self, side: usize, len: usize, access: Access) -> (MemoryRegion, RemoteRegion) {
        let region = region(&mut self.sides[side], len, access);
        let shared = self.sides[side].share(self.ids[side], &region).unwrap();
        (region, shared)
    }

    fn ends(&self, side: usize) -> Vec<(u64, CompletionStatus)> {
        self.seen[side].iter().map(|end| (end.work_id.0, end.status)).collect()
    }
}

fn connect(sides: &mut [Tcp; 2]) -> [QueuePairId; 2] {
    let [active, passive] = sides;
    let (one, two) = (active.create_queue_pair().unwrap(), passive.create_queue_pair().unwrap());
    let endpoints = [one.endpoint().clone(), two.endpoint().clone()];
    let passive_id = passive.connect(two, Role::Passive, &endpoints[0]).unwrap();
    let active_id = active.connect(one, Role::Active, &endpoints[1]).unwrap();
    [active_id, passive_id]
}

/// Long scattered writes and reads both ways at once, through socket buffers far too small.
fn crossing_streams(payload_checksums: bool) {
    const LEN: usize = 3 << 20;
    let options = TcpOptions {
        socket_buffer_len: Some(100 << 10),
        payload_checksums,
        ..TcpOptions::LOOPBACK
    };
    let mut pair = Pair::new(options);
    let mut regions = Vec::new();
    for side in 0..2 {
        let source = region(&mut pair.sides[side], LEN, Access::LOCAL);
        source.pages.write(0, &pattern(side as u64 + 7, LEN));
        let (target, remote) = pair.share(side, LEN, Access::ALL);
        let back = region(&mut pair.sides[side], LEN, Access::LOCAL);
        regions.push((source, target, remote, back));
    }
    let mut state = 99;
    for side in 0..2 {
        let remote = regions[1 - side].2;
        let mut requests = Vec::new();
        let mut offset = 0_u32;
        while (offset as usize) < LEN {
            let mut cut = |offset: u32| {
                let wish = [8, 100, 1024, 5000, 200_000][(xorshift(&mut state) % 5) as usize];
                u32::min(wish + (xorshift(&mut state) % 9) as u32, LEN as u32 - offset)
            };
            let (one, two) = (cut(offset), cut(offset));
            let two = two.min(LEN as u32 - offset - one);
            let list = |region: &MemoryRegion| {
                let mut list = ScatterList::from(region.slice(u64::from(offset), one));
                list.push(region.slice(u64::from(offset + one), two));
                list
            };
            let at = remote.at(u64::from(offset));
            let local = list(&regions[side].0);
            requests.push(request(1, true, Operation::Write { local, remote: at }));
            let local = list(&regions[side].3);
            requests.push(request(2, true, Operation::Read { local, remote: at }));
            offset += one + two;
        }
        let mut rest = requests.as_slice();
        while !rest.is_empty() {
            let now = &rest[..rest.len().min(100)];
            let before = pair.seen[side].len();
            pair.post(side, now).unwrap();
            if side == 1 || rest.len() > 100 {
                pair.until(|pair| pair.seen[side].len() == before + now.len());
            }
            rest = &rest[now.len()..];
        }
    }
    pair.until(|pair| {
        pair.ends(0).len() % 2 == 0
            && pair.sides[0].state(pair.ids[0]) == QueuePairState::Ready
            && contents(&regions[0].3, 0, LEN) == pattern(7, LEN)
    });
    for side in 0..2 {
        assert_eq!(contents(&regions[1 - side].1, 0, LEN), pattern(side as u64 + 7, LEN));
        assert_eq!(contents(&regions[side].3, 0, LEN), pattern(side as u64 + 7, LEN));
        assert!(pair.seen[side].iter().all(|end| end.status == CompletionStatus::Success));
        // Each write completes before the read posted after it.
        assert!(pair.ends(side).chunks(2).all(|ends| ends[0].0 == 1 && ends[1].0 == 2));
    }
}

#[test]
fn partial_transfers_continue_where_they_stopped() {
    crossing_streams(false);
}

#[test]
fn partial_transfers_keep_their_payload_checksums() {
    crossing_streams(true);
}

#[test]
fn a_refusal_costs_one_queue_pair_and_changes_nothing() {
    let mut pair = Pair::new(TcpOptions::LOOPBACK);
    let other = connect(&mut pair.sides);
    let (target, remote) = pair.share(1, 4096, Access::READ_WRITE);
    let shared_elsewhere = pair.sides[1].share(other[1], &target).unwrap();
    assert_ne!(shared_elsewhere.key, remote.key, "keys are good on one queue pair only");
    pair.post(
        0,
        &[
            request(1, true, word(5, remote.at(0))),
            request(2, false, word(6, remote.at(8))),
            request(3, false, word(7, shared_elsewhere.at(16))),
            request(4, false, word(8, remote.at(24))),
        ],
    )
    .unwrap();
    pair.until(|pair| pair.seen[0].len() == 3);
    let expected = [
        (1, CompletionStatus::Success),
        (3, CompletionStatus::RemoteAccess),
        (4, CompletionStatus::Flushed),
    ];
    assert_eq!(pair.ends(0), expected);
    let words = [0, 8, 16, 24].map(|offset| target.pages.load_u64(offset));
    assert_eq!(words, [5, 6, 0, 0]);
    assert_eq!(pair.sides[0].state(pair.ids[0]), QueuePairState::Error);
    assert_eq!(pair.sides[1].state(pair.ids[1]), QueuePairState::Error);
    pair.ids = other;
    pair.post(0, &[request(9, true, word(9, shared_elsewhere.at(32)))]).unwrap();
    pair.until(|pair| pair.ends(0).contains(&(9, CompletionStatus::Success)));
    assert_eq!(target.pages.load_u64(32), 9);
}

#[test]
fn an_immediate_waits_for_a_receive_and_gives_up_in_the_end() {
    let options = TcpOptions { silence_max: Duration::from_millis(150), ..TcpOptions::LOOPBACK };
    let mut pair = Pair::new(options);
    let immediate = |immediate| Operation::WriteWithImmediate {
        bytes: InlineBytes::new(&[]),
        remote: RemoteAddress::default(),
        immediate,
    };
    pair.post(0, &[request(1, true, immediate(11)), request(2, true, immediate(12))]).unwrap();
    for _ in 0..100 {
        pair.poll(0);
        pair.poll(1);
    }
    assert!(pair.seen[1].is_empty());
    pair.sides[1].post_receive(pair.ids[1], 1).unwrap();
    pair.until(|pair| pair.seen[0].len() == 2);
    assert_eq!(pair.seen[1].len(), 1);
    assert_eq!(pair.seen[1][0].immediate, 11);
    let expected = [(1, CompletionStatus::Success), (2, CompletionStatus::ReceiverNotReady)];
    assert_eq!(pair.ends(0), expected);
}

#[test]
fn a_peer_that_is_slow_to_poll_is_not_taken_for_dead() {
    const LEN: usize = 32 << 20;
    let options = TcpOptions { silence_max: Duration::from_millis(300), ..TcpOptions::LOOPBACK };
    let mut pair = Pair::new(options);
    let (target, remote) = pair.share(1, LEN, Access::ALL);
    let source = region(&mut pair.sides[0], LEN, Access::LOCAL);
    source.pages.write(0, &pattern(3, LEN));
    let local = source.slice(0, LEN as u32).into();
    pair.post(0, &[request(1, true, Operation::Write { local, remote: remote.at(0) })]).unwrap();
    let until = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < until {
        pair.poll(0);
        pair.sides[0].wait(Duration::from_millis(50));
    }
    pair.until(|pair| !pair.seen[0].is_empty());
    assert_eq!(pair.ends(0), [(1, CompletionStatus::Success)]);
    assert_eq!(contents(&target, 0, LEN), pattern(3, LEN));
}

#[test]
fn memory_deregistered_under_a_transfer_ends_it() {
    const LEN: usize = 32 << 20;
    let mut pair = Pair::new(TcpOptions::LOOPBACK);
    let (target, remote) = pair.share(1, LEN, Access::ALL);
    let back = region(&mut pair.sides[0], LEN, Access::LOCAL);
    let local = back.slice(0, LEN as u32).into();
    pair.post(0, &[request(1, true, Operation::Read { local, remote: remote.at(0) })]).unwrap();
    pair.poll(1);
    pair.sides[1].deregister(&target);
    drop(target);
    pair.until(|pair| !pair.seen[0].is_empty());
    assert_ne!(pair.seen[0][0].status, CompletionStatus::Success);
}

#[test]
fn a_disconnected_peer_is_noticed_in_wait() {
    let mut pair = Pair::new(TcpOptions::LOOPBACK);
    let (_, remote) = pair.share(1, 4096, Access::ALL);
    pair.sides[1].disconnect(pair.ids[1]);
    let started = Instant::now();
    while pair.sides[0].state(pair.ids[0]) == QueuePairState::Ready {
        pair.sides[0].wait(PATIENCE);
        pair.poll(0);
    }
    assert!(started.elapsed() < PATIENCE);
    let refused = pair.post(0, &[request(1, true, word(1, remote.at(0)))]);
    assert_eq!(refused, Err(PostError::QueuePairError));
}

#[test]
fn a_peer_that_dials_early_is_kept_for_later() {
    let options = TcpOptions::LOOPBACK;
    let mut sides = [Tcp::open(options).unwrap(), Tcp::open(options).unwrap()];
    let one = sides[0].create_queue_pair().unwrap();
    let two = sides[1].create_queue_pair().unwrap();
    let endpoints = [one.endpoint().clone(), two.endpoint().clone()];
    let active = sides[0].connect(one, Role::Active, &endpoints[1]).unwrap();
    for _ in 0..1000 {
        assert_eq!(sides[1].poll(&mut [Completion::EMPTY]), 0);
    }
    assert_eq!(sides[1].state(two.id()), QueuePairState::Connecting);
    let passive = sides[1].connect(two, Role::Passive, &endpoints[0]).unwrap();
    let mut pair = Pair { sides, ids: [active, passive], seen: [Vec::new(), Vec::new()] };
    assert_eq!(pair.sides[1].state(passive), QueuePairState::Ready);
    let (target, remote) = pair.share(1, 4096, Access::ALL);
    pair.post(0, &[request(1, true, word(4, remote.at(0)))]).unwrap();
    pair.until(|pair| pair.seen[0].len() == 1);
    assert_eq!(target.pages.load_u64(0), 4);
}

#[test]
fn a_peer_that_has_gone_cannot_be_reached() {
    let options = TcpOptions::LOOPBACK;
    let endpoint = {
        let mut gone = Tcp::open(options).unwrap();
        gone.create_queue_pair().unwrap().endpoint().clone()
    };
    let mut tcp = Tcp::open(options).unwrap();
    let pending = tcp.create_queue_pair().unwrap();
    let id = pending.id();
    let refused = tcp.connect(pending, Role::Active, &endpoint);
    assert!(matches!(refused, Err(ConnectError::Unreachable { .. })));
    assert_eq!(tcp.state(id), QueuePairState::Error);
}

/// A stream of one's own to a passive queue pair, properly introduced.
fn intruder(tcp: &mut Tcp) -> (TcpStream, QueuePairId) {
    let pending = tcp.create_queue_pair().unwrap();
    let address = Address::decode(pending.endpoint()).unwrap();
    let nonce = Nonce([5; 16]);
    let own = Address { socket: address.socket, queue_pair: QueuePairId(1), nonce };
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
        if frame == 0 && xorshift(state) % 2 == 0 {
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
    for round in 1..=400 {
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
