//! How queue pairs fail, and what does not fail with them.
#![expect(clippy::cast_possible_truncation, reason = "sizes and offsets of these tests are small")]

use std::time::{Duration, Instant};

use super::{
    super::{Tcp, TcpOptions},
    PATIENCE, Pair, connect, region, request, word,
};
use crate::{
    error::{ConnectError, PostError},
    fabric::{
        Access, CompletionStatus, InlineBytes, Operation, QueuePairState, RemoteAddress, Role,
        Transport,
    },
};

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
