//! What two instances of one process do to each other's memory and time.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use super::{Shm, ShmOptions, queue_pair::QueuePair};
use crate::{
    descriptors::{
        are_exhausted,
        scarce::{in_a_process_of_its_own, take_all_but},
    },
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
        let (near, far) = (Shm::open(options).unwrap(), Shm::open(options).unwrap());
        let mut pair = Self { near: (near, QueuePairId(0)), far: (far, QueuePairId(0)) };
        pair.connect();
        pair
    }

    /// Makes another queue pair in the place of the one it had.
    fn connect(&mut self) {
        self.dial();
        self.until("they are connected", |pair| pair.states() == [QueuePairState::Ready; 2]);
    }

    /// The far side dials, and the near one has not heard it yet.
    fn dial(&mut self) {
        let Self { near: (near, near_id), far: (far, far_id) } = self;
        let (mine, theirs) = (near.create_queue_pair().unwrap(), far.create_queue_pair().unwrap());
        let (mine_at, theirs_at) = (mine.endpoint().clone(), theirs.endpoint().clone());
        *near_id = near.connect(mine, Role::Passive, &theirs_at).unwrap();
        *far_id = far.begin_connect(theirs, &mine_at).unwrap();
    }

    fn states(&self) -> [QueuePairState; 2] {
        [&self.near, &self.far].map(|(shm, id)| shm.state(*id))
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

/// Whether something is ready that the instance's thread would not sleep over.
fn would_spin(shm: &Shm) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut polls = [PollFd::from_borrowed_fd(shm.wait_descriptor(), PollFlags::IN)];
    poll(&mut polls, Some(&now)).unwrap() > 0
}

#[test]
fn a_listener_without_descriptors_waits_and_listens_again() {
    let test = "shm::tests::a_listener_without_descriptors_waits_and_listens_again";
    in_a_process_of_its_own(test, || {
        let mut pair = Pair::new(ShmOptions::default());
        pair.dial();
        let taken = take_all_but(0);
        pair.until("accepting fails", |pair| pair.near.0.accepts_again_at.is_some());
        assert!(!would_spin(&pair.near.0), "the listener would keep its thread busy");
        let first = pair.near.0.accepts_again_at;
        pair.until("it tries again", |pair| {
            pair.near.0.accepts_again_at.is_some_and(|at| Some(at) > first)
        });
        assert_eq!(pair.states(), [QueuePairState::Connecting; 2]);
        drop(taken);
        pair.until("who waited is let in", |pair| pair.states() == [QueuePairState::Ready; 2]);
        pair.connect();
        assert_eq!(pair.near.0.accepts_again_at, None);
    });
}

/// The kernel drops memory that is handed over when the receiver has no descriptors for it.
#[test]
fn memory_that_finds_no_descriptors_ends_its_queue_pair_and_no_other() {
    let test = "shm::tests::memory_that_finds_no_descriptors_ends_its_queue_pair_and_no_other";
    in_a_process_of_its_own(test, || {
        let mut pair = Pair::new(ShmOptions::default());
        let (near, far) = (pair.near.1, pair.far.1);
        for left in 1..4 {
            pair.dial();
            let taken = take_all_but(left);
            pair.until("both know", |pair| pair.states() == [QueuePairState::Error; 2]);
            drop(taken);
            pair.near.0.disconnect(pair.near.1);
            pair.far.0.disconnect(pair.far.1);
            assert_eq!(pair.near.0.state(near), QueuePairState::Ready);
            assert_eq!(pair.far.0.state(far), QueuePairState::Ready);
            pair.connect();
        }
    });
}

/// Who dials learns why its connection was not made: the welcome brings it three descriptors.
#[test]
fn whoever_has_no_descriptors_for_the_welcome_is_told_so() {
    let test = "shm::tests::whoever_has_no_descriptors_for_the_welcome_is_told_so";
    in_a_process_of_its_own(test, || {
        let mut pair = Pair::new(ShmOptions::default());
        pair.dial();
        // The near side, in the same process, finds room for what the hello brings.
        while pair.near.0.state(pair.near.1) != QueuePairState::Ready {
            pair.near.0.serve();
        }
        let taken = take_all_but(2);
        pair.until("both know", |pair| pair.states() == [QueuePairState::Error; 2]);
        drop(taken);
        let reason = pair.far_end().unwelcome.take().unwrap();
        assert!(are_exhausted(&reason), "{reason}");
    });
}

#[test]
fn a_listener_that_could_not_be_watched_again_is_tried_once_more() {
    let mut pair = Pair::new(ShmOptions::default());
    // As if there had been no descriptors, but for what it is watched as: it cannot be watched twice.
    let now = Instant::now();
    pair.near.0.accepts_again_at = Some(now);
    pair.near.0.accept_again();
    let again = pair.near.0.accepts_again_at.expect("the listener is forgotten");
    assert!(again > now);
    let shm = &pair.near.0;
    epoll::delete(&shm.epoll, &shm.listener.as_ref().unwrap().socket).unwrap();
    pair.connect();
    assert_eq!(pair.near.0.accepts_again_at, None);
}
