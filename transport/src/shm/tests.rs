//! What two instances of one process do to each other's memory and time.

use std::time::{Duration, Instant};

use super::{Shm, ShmOptions, queue_pair::QueuePair};
use crate::{
    fabric::{Access, Completion, MemoryRegion, QueuePairId, QueuePairState, Role, Transport},
    memory::{Pages, PagesOptions},
};

/// How long anything may take, but for waiting for a peer.
const SOON: Duration = Duration::from_millis(500);

/// Two instances, each with its end of a queue pair.
struct Pair {
    near: (Shm, QueuePairId),
    far: (Shm, QueuePairId),
}

impl Pair {
    fn new(options: ShmOptions) -> Self {
        let (mut near, mut far) = (Shm::open(options).unwrap(), Shm::open(options).unwrap());
        let (mine, theirs) = (near.create_queue_pair().unwrap(), far.create_queue_pair().unwrap());
        let (mine_at, theirs_at) = (mine.endpoint().clone(), theirs.endpoint().clone());
        let near_id = near.connect(mine, Role::Passive, &theirs_at).unwrap();
        let far_id = far.begin_connect(theirs, &mine_at).unwrap();
        let mut pair = Self { near: (near, near_id), far: (far, far_id) };
        pair.until("they are connected", |pair| {
            let is_ready = |(shm, id): &(Shm, QueuePairId)| shm.state(*id) == QueuePairState::Ready;
            is_ready(&pair.near) && is_ready(&pair.far)
        });
        pair
    }

    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds(self) {
            assert!(Instant::now() < deadline, "it never came that {what}");
            self.near.0.serve();
            self.far.0.serve();
        }
    }

    fn far_end(&mut self) -> &mut QueuePair {
        self.far.0.queue_pairs.find_mut(self.far.1.0).unwrap()
    }

    /// The far side begins a request, and ends it only when it is told to.
    fn stick(&mut self) {
        let fence = self.far.0.post_fence;
        assert!(self.far_end().link.as_mut().unwrap().begin_request(fence));
    }

    fn share(&mut self, access: Access) -> MemoryRegion {
        let pages = Pages::allocate(4096, PagesOptions::default()).unwrap();
        let region = self.near.0.register(&pages, access).unwrap();
        self.near.0.share(self.near.1, &region).unwrap();
        self.until("the region is mapped", |pair| pair.far_end().import(region.id.0).is_some());
        region
    }
}

#[test]
fn nobody_waits_for_a_peer_that_was_stopped_in_a_request() {
    let mut pair = Pair::new(ShmOptions::default());
    let (written, read) = (pair.share(Access::READ_WRITE), pair.share(Access::READ));
    pair.stick();
    let begun = Instant::now();
    pair.near.0.deregister(&read);
    assert!(pair.near.0.is_quiet(), "who only reads does no harm");
    pair.near.0.deregister(&written);
    assert!(!pair.near.0.is_quiet(), "it may still be writing");
    pair.near.0.disconnect(pair.near.1);
    assert!(begun.elapsed() < SOON, "took {:?}", begun.elapsed());
    for _ in 0..10 {
        assert_eq!(pair.near.0.poll(&mut [Completion::EMPTY]), 0);
        assert!(!pair.near.0.is_quiet());
    }
    pair.far_end().link.as_mut().unwrap().end_request();
    assert!(pair.near.0.is_quiet());
}

#[test]
fn a_request_ends_with_the_peer_that_carried_it_out() {
    for disconnects in [false, true] {
        let mut pair = Pair::new(ShmOptions::default());
        let written = pair.share(Access::READ_WRITE);
        pair.stick();
        pair.near.0.deregister(&written);
        if disconnects {
            pair.near.0.disconnect(pair.near.1);
        }
        assert!(!pair.near.0.is_quiet());
        pair.far.0.disconnect(pair.far.1);
        pair.until("peers are quiet", |pair| pair.near.0.is_quiet());
    }
}

#[test]
fn memory_that_its_owner_freed_is_unmapped() {
    let mut pair = Pair::new(ShmOptions::default());
    let mut key = 0;
    for viewed in [false, true] {
        let region = pair.share(Access::READ);
        key = region.id.0;
        let remote = crate::fabric::RemoteRegion {
            key: crate::fabric::RemoteKey(key),
            address: 0,
            len: 4096,
        };
        let far = pair.far.1;
        if viewed {
            assert!(pair.far.0.view(far, remote.at(0), 4096).is_some());
        }
        pair.near.0.deregister(&region);
        pair.until("it is not there any more", |pair| pair.far_end().import(key).is_none());
        assert_eq!(pair.far.0.ended_view(far).is_some(), viewed);
    }
    let far = pair.far.1;
    pair.far.0.release_views(far, crate::fabric::RemoteKey(key));
    assert_eq!(pair.far.0.ended_view(far), None);
}
