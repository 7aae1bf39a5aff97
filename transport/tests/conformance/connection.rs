//! Endpoints and regions: who may connect, and when what is shared can be used.

use std::time::Instant;

use windlass_transport::{Access, Completion, Endpoint, QueuePairState, Role, Transport};

use super::harness::{Fixture, Note, PATIENCE, pair, pattern, read, signaled, write_word};

/// Bytes that no provider made are refused, by both roles, at once.
pub fn malformed_endpoints_are_refused<F: Fixture>() {
    let mut transport = F::open().unwrap();
    let count = F::rounds(300);
    for seed in 0..count {
        let len = pattern(seed, 2).iter().map(|byte| usize::from(*byte)).sum::<usize>() + 1;
        let bytes = pattern(seed + 1000, len.min(Endpoint::LEN_MAX));
        let role = if seed % 2 == 0 { Role::Active } else { Role::Passive };
        let pending = transport.create_queue_pair().unwrap();
        let refused = transport.connect(pending, role, &Endpoint(bytes));
        assert!(refused.is_err(), "seed {seed} was taken for an endpoint");
    }
    let own = {
        let pending = transport.create_queue_pair().unwrap();
        let bytes = pending.endpoint().0.clone();
        assert!(bytes.len() <= Endpoint::LEN_MAX);
        transport.disconnect(pending.id());
        bytes
    };
    for len in 0..own.len() {
        let pending = transport.create_queue_pair().unwrap();
        let cut = Endpoint(own[..len].to_vec());
        assert!(transport.connect(pending, Role::Passive, &cut).is_err(), "{len} bytes are enough");
    }
}

/// Who begins to connect need not wait for a peer whose turn comes later in the same thread.
pub fn instances_of_one_thread_connect<F: Fixture>() {
    let (mut active, mut passive) = (F::open().unwrap(), F::open().unwrap());
    let dialling = active.create_queue_pair().unwrap();
    let dialled = passive.create_queue_pair().unwrap();
    let (to, from) = (dialled.endpoint().clone(), dialling.endpoint().clone());
    let expected = passive.connect(dialled, Role::Passive, &from).unwrap();
    let begun = active.begin_connect(dialling, &to).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut completions = [Completion::EMPTY; 4];
    while active.state(begun) != QueuePairState::Ready
        || passive.state(expected) != QueuePairState::Ready
    {
        assert!(Instant::now() < deadline, "the queue pairs never get ready");
        active.poll(&mut completions);
        passive.poll(&mut completions);
    }
    // One that nobody expects ends in an error, at once or when the peer has said so.
    let unwanted = active.create_queue_pair().unwrap();
    let gone = passive.create_queue_pair().unwrap();
    let endpoint = gone.endpoint().clone();
    passive.disconnect(gone.id());
    if let Ok(refused) = active.begin_connect(unwanted, &endpoint)
        && active.state(refused) == QueuePairState::Connecting
    {
        while active.state(refused) != QueuePairState::Error {
            assert!(Instant::now() < deadline, "nobody refuses it");
            active.poll(&mut completions);
            passive.poll(&mut completions);
        }
    }
}

/// An endpoint whose queue pair was given up is refused, or its first request fails.
pub fn stale_endpoints_are_refused<F: Fixture>() {
    pair::<F>(
        |mut side| {
            let pending = side.transport.create_queue_pair().unwrap();
            side.tell(Note::Endpoint(pending.endpoint().clone()));
            let stale = side.hear_endpoint();
            let target = side.hear_region();
            if let Ok(queue_pair) = side.transport.connect(pending, Role::Active, &stale) {
                side.until_dead(queue_pair, target.at(0));
            }
            side.meet();
        },
        |mut side| {
            let bystander = side.transport.create_queue_pair().unwrap();
            let target = side.region(4096, Access::READ_WRITE);
            let shared = side.transport.share(bystander.id(), &target).unwrap();
            let pending = side.transport.create_queue_pair().unwrap();
            side.hear_endpoint();
            side.tell(Note::Endpoint(pending.endpoint().clone()));
            side.transport.disconnect(pending.id());
            side.tell(Note::Region(shared));
            side.meet();
            assert_eq!(target.pages.load_u64(0), 0);
        },
    );
}

/// An endpoint of an instance that has gone is refused, or its first request fails.
pub fn endpoints_of_a_gone_instance_are_refused<F: Fixture>() {
    let stale = {
        let mut gone = F::open().unwrap();
        let pending = gone.create_queue_pair().unwrap();
        pending.endpoint().clone()
    };
    let mut transport = F::open().unwrap();
    let pending = transport.create_queue_pair().unwrap();
    if let Ok(queue_pair) = transport.connect(pending, Role::Active, &stale) {
        let (to_peer, _unheard) = std::sync::mpsc::channel();
        let (_silent, from_peer) = std::sync::mpsc::channel();
        let mut side = super::harness::Side::new(transport, Role::Active, to_peer, from_peer);
        side.until_dead(queue_pair, Default::default());
    }
}

/// Regions may be shared before the peer is there: they can be used once it is.
pub fn regions_shared_before_the_connection_can_be_used<F: Fixture>() {
    const REGIONS: u64 = 20;
    pair::<F>(
        |mut side| {
            let pending = side.transport.create_queue_pair().unwrap();
            side.tell(Note::Endpoint(pending.endpoint().clone()));
            let remote = side.hear_endpoint();
            let targets: Vec<_> = (0..REGIONS).map(|_| side.hear_region()).collect();
            let queue_pair = side.transport.connect(pending, Role::Active, &remote).unwrap();
            for (word, target) in targets.iter().enumerate() {
                side.carry_out(queue_pair, write_word(word as u64 + 1, target.at(0)));
            }
            side.meet();
        },
        |mut side| {
            let pending = side.transport.create_queue_pair().unwrap();
            let remote = side.hear_endpoint();
            let queue_pair = pending.id();
            let endpoint = pending.endpoint().clone();
            let regions: Vec<_> =
                (0..REGIONS).map(|_| side.region(4096, Access::READ_WRITE)).collect();
            let (early, late) = regions.split_at(5);
            let mut shared: Vec<_> = early
                .iter()
                .map(|region| side.transport.share(queue_pair, region).unwrap())
                .collect();
            let queue_pair = side.transport.connect(pending, Role::Passive, &remote).unwrap();
            shared.extend(
                late.iter().map(|region| side.transport.share(queue_pair, region).unwrap()),
            );
            side.tell(Note::Endpoint(endpoint));
            for region in shared {
                side.tell(Note::Region(region));
            }
            side.meet();
            for (word, region) in regions.iter().enumerate() {
                assert_eq!(region.pages.load_u64(0), word as u64 + 1);
            }
        },
    );
}

/// A region shared while requests go on can be used the moment the peer hears of it.
pub fn regions_shared_later_can_be_used_at_once<F: Fixture>() {
    let rounds = F::rounds(400);
    pair::<F>(
        move |mut side| {
            let queue_pair = side.connect();
            let local = side.region(4096, Access::LOCAL);
            for round in 0..rounds {
                let target = side.hear_region();
                side.carry_out(queue_pair, read(local.slice(0, 8), target.at(8)));
                assert_eq!(local.pages.load_u64(0), round);
                side.meet();
            }
        },
        move |mut side| {
            let queue_pair = side.connect();
            for round in 0..rounds {
                let region = side.region(4096, Access::READ);
                region.pages.store_u64(8, round);
                side.share(queue_pair, &region);
                side.meet();
                side.transport.deregister(&region);
            }
        },
    );
}

/// One instance carries many queue pairs; each is its own.
pub fn many_queue_pairs_work_side_by_side<F: Fixture>() {
    let count = if F::SLOW { 16 } else { 100 };
    pair::<F>(
        move |mut side| {
            let queue_pairs: Vec<_> = (0..count).map(|_| side.connect()).collect();
            let targets: Vec<_> = (0..count).map(|_| side.hear_region()).collect();
            for (index, (queue_pair, target)) in queue_pairs.iter().zip(&targets).enumerate() {
                let request = write_word(index as u64 + 1, target.at(0));
                side.post_all(*queue_pair, &[signaled(index as u64, request)]);
            }
            let mut seen: Vec<_> = (0..count)
                .map(|_| {
                    let completion = side.completion();
                    let position = queue_pairs.iter().position(|id| *id == completion.queue_pair);
                    assert_eq!(position.unwrap() as u64, completion.work_id.0);
                    completion.work_id.0
                })
                .collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..count as u64).collect::<Vec<_>>());
            for queue_pair in queue_pairs.iter().step_by(2) {
                side.transport.disconnect(*queue_pair);
            }
            for (queue_pair, target) in queue_pairs.iter().zip(&targets).skip(1).step_by(2) {
                side.carry_out(*queue_pair, write_word(1, target.at(8)));
            }
            side.meet();
        },
        move |mut side| {
            let queue_pairs: Vec<_> = (0..count).map(|_| side.connect()).collect();
            let regions: Vec<_> = queue_pairs
                .iter()
                .map(|queue_pair| {
                    let region = side.region(4096, Access::READ_WRITE);
                    side.share(*queue_pair, &region);
                    region
                })
                .collect();
            side.meet();
            for (index, region) in regions.iter().enumerate() {
                assert_eq!(region.pages.load_u64(0), index as u64 + 1);
                assert_eq!(region.pages.load_u64(8), index as u64 % 2);
            }
        },
    );
}

/// Memory that grants peers nothing is not shared.
pub fn local_memory_is_not_shared<F: Fixture>() {
    let mut transport = F::open().unwrap();
    let pending = transport.create_queue_pair().unwrap();
    let pages = windlass_transport::Pages::allocate(4096, Default::default()).unwrap();
    let local = transport.register(&pages, Access::LOCAL).unwrap();
    assert!(transport.share(pending.id(), &local).is_err());
    transport.disconnect(pending.id());
}
