//! Partial transfers, slow peers and early ones.
#![expect(clippy::cast_possible_truncation, reason = "sizes and offsets of these tests are small")]

use std::time::{Duration, Instant};

use super::{
    super::{Tcp, TcpOptions},
    Pair, contents, pattern, region, request, word, xorshift,
};
use crate::fabric::{
    Access, Completion, CompletionStatus, InlineBytes, MemoryRegion, Operation, QueuePairState,
    Role, ScatterList, Transport,
};

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

/// A read that goes in many sends, between which its owner writes every word: what comes of each word is
/// of one time.
#[test]
fn words_that_a_partial_send_cuts_are_sent_as_they_were() {
    const LEN: usize = 1 << 20;
    const FILLS: [u64; 3] = [0x1111_1111_1111_1111, 0x2222_2222_2222_2222, 0x3333_3333_3333_3333];
    for payload_checksums in [false, true] {
        let socket_buffer_len = Some(32 << 10);
        let options = TcpOptions { socket_buffer_len, payload_checksums, ..TcpOptions::LOOPBACK };
        let mut pair = Pair::new(options);
        let (source, remote) = pair.share(1, LEN, Access::READ);
        let (_, elsewhere) = pair.share(0, 4096, Access::ALL);
        let back = region(&mut pair.sides[0], LEN, Access::LOCAL);
        let mut cuts = 0;
        for turn in 0..8 {
            let fill = |fill: u64| {
                for word in 0..LEN as u64 / 8 {
                    source.pages.store_u64(word * 8, fill);
                }
            };
            fill(FILLS[0]);
            // So that what is sent from here on is cut at any byte.
            let odd = InlineBytes::new(&[7; 8][..=turn]);
            let aside = Operation::WriteInline { bytes: odd, remote: elsewhere.at(0) };
            pair.post(1, &[request(0, false, aside)]).unwrap();
            let local = back.slice(0, LEN as u32).into();
            let read = Operation::Read { local, remote: remote.at(0) };
            pair.post(0, &[request(1, true, read)]).unwrap();
            let mut polls = turn;
            while pair.seen[0].is_empty() {
                pair.poll(1);
                polls += 1;
                fill(FILLS[polls % FILLS.len()]);
                pair.poll(0);
            }
            assert_eq!(pair.ends(0), [(1, CompletionStatus::Success)]);
            pair.seen[0].clear();
            let words = (0..LEN as u64 / 8).map(|word| back.pages.load_u64(word * 8));
            let mut before = FILLS[0];
            for (at, word) in words.enumerate() {
                assert!(FILLS.contains(&word), "word {at} is {word:#x}");
                cuts += usize::from(word != before);
                before = word;
            }
        }
        assert!(cuts > 8, "the reads went at once");
    }
}

/// As many writes as senders leave without a completion are more pieces than a queue pair holds: their room
/// comes back though the peer has nothing of its own to say.
#[test]
fn pieces_of_late_writes_leave_room_for_what_completes_them() {
    const WRITES: u64 = 128;
    let options = TcpOptions { writes_in_order: false, ..TcpOptions::LOOPBACK };
    let mut pair = Pair::new(options);
    let (target, remote) = pair.share(1, WRITES as usize * 32, Access::READ_WRITE);
    let bytes = |at: u64| pattern(at, 32);
    let write = |at: u64| {
        let (bytes, remote) = (InlineBytes::new(&bytes(at)), remote.at(at * 32));
        request(at, at + 1 == WRITES, Operation::WriteInline { bytes, remote })
    };
    pair.post(0, &(0..WRITES).map(write).collect::<Vec<_>>()).unwrap();
    pair.until(|pair| !pair.seen[0].is_empty());
    assert_eq!(pair.ends(0), [(WRITES - 1, CompletionStatus::Success)]);
    for at in 0..WRITES {
        assert_eq!(contents(&target, at * 32, 32), bytes(at), "write {at}");
    }
}
