//! Rule 5: eight-byte atomics.

use std::{sync::mpsc::channel, thread};

use windlass_transport::{
    Access, CompletionStatus, MemoryRegion, Opcode, Operation, QueuePairId, RemoteAddress, Role,
    Transport,
};

use super::harness::{Fixture, Note, Side, pair};

fn fetch_add(local: &MemoryRegion, remote: RemoteAddress, add: u64) -> Operation {
    Operation::FetchAdd { local: local.slice(0, 8), remote, add }
}

fn old_value<T: Transport>(
    side: &mut Side<T>,
    queue_pair: QueuePairId,
    local: &MemoryRegion,
    operation: Operation,
) -> u64 {
    side.post(queue_pair, 1, operation);
    assert_eq!(side.succeeds(1).opcode, Opcode::Atomic);
    local.pages.load_u64(0)
}

/// Old values come back; a swap happens only when the value is the expected one; sums wrap.
pub fn atomics_return_what_was_there<F: Fixture>() {
    pair::<F>(
        |mut side| {
            let queue_pair = side.connect();
            let local = side.region(4096, Access::LOCAL);
            let target = side.hear_region();
            let word = target.at(16);
            let swap = |expected, desired| Operation::CompareSwap {
                local: local.slice(0, 8),
                remote: word,
                expected,
                desired,
            };
            let mut ask = |operation| old_value(&mut side, queue_pair, &local, operation);
            assert_eq!(ask(fetch_add(&local, word, 5)), 0);
            assert_eq!(ask(fetch_add(&local, word, u64::MAX)), 5);
            assert_eq!(ask(swap(3, 9)), 4);
            assert_eq!(ask(swap(4, 9)), 4);
            assert_eq!(ask(fetch_add(&local, word, 0)), 9);
            side.meet();
        },
        |mut side| {
            let queue_pair = side.connect();
            let target = side.region(4096, Access::ALL);
            side.share(queue_pair, &target);
            side.meet();
            assert_eq!(target.pages.load_u64(16), 9);
            assert_eq!(target.pages.load_u64(8), 0);
            assert_eq!(target.pages.load_u64(24), 0);
        },
    );
}

/// Two peers add to one word and nothing is lost; the old values are all different.
pub fn contended_atomics_lose_nothing<F: Fixture>() {
    let rounds = F::rounds(5000);
    let mut channels = Vec::new();
    let mut peers = Vec::new();
    for _ in 0..2 {
        let (to_owner, from_peer) = channel();
        let (to_peer, from_owner) = channel();
        channels.push((to_peer, from_peer));
        let transport = F::open().unwrap();
        peers.push(thread::spawn(move || {
            let mut side = Side::new(transport, Role::Active, to_owner, from_owner);
            let queue_pair = side.connect();
            let local = side.region(4096, Access::LOCAL);
            let target = side.hear_region();
            assert_eq!(side.hear_word(), 5, "both peers begin together");
            let mut last = None;
            for _ in 0..rounds {
                let adding = fetch_add(&local, target.at(0), 1);
                let old = old_value(&mut side, queue_pair, &local, adding);
                assert!(last.is_none_or(|last| old > last), "a sum came back twice");
                last = Some(old);
            }
            side.meet();
        }));
    }
    let (to_second, from_second) = channels.pop().unwrap();
    let (to_first, from_first) = channels.pop().unwrap();
    let mut owner = Side::new(F::open().unwrap(), Role::Passive, to_first, from_first);
    let counter = owner.region(4096, Access::ALL);
    let queue_pair = owner.connect();
    owner.share(queue_pair, &counter);
    let first = owner.rewire(to_second, from_second);
    let queue_pair = owner.connect();
    owner.share(queue_pair, &counter);
    owner.tell(Note::Word(5));
    let second = owner.rewire(first.0, first.1);
    owner.tell(Note::Word(5));
    owner.meet();
    owner.rewire(second.0, second.1);
    owner.meet();
    assert_eq!(counter.pages.load_u64(0), 2 * rounds);
    for peer in peers {
        peer.join().unwrap();
    }
}

/// Misaligned atomics are refused, at once or by the peer, and change nothing.
pub fn misaligned_atomics_are_refused<F: Fixture>() {
    pair::<F>(
        |mut side| {
            let queue_pair = side.connect();
            let local = side.region(4096, Access::LOCAL);
            let target = side.hear_region();
            let status = side.fails(queue_pair, fetch_add(&local, target.at(4), 1));
            assert!(
                matches!(
                    status,
                    None | Some(CompletionStatus::RemoteOperation | CompletionStatus::RemoteAccess)
                ),
                "refused as {status:?}"
            );
            side.meet();
        },
        |mut side| {
            let queue_pair = side.connect();
            let target = side.region(4096, Access::ALL);
            side.share(queue_pair, &target);
            side.meet();
            assert_eq!(side.bytes(&target, 0, 64), [0; 64]);
        },
    );
}
