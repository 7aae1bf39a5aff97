//! A process that has no descriptor left for those who dial.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use super::{
    super::{
        Tcp, TcpOptions,
        wait::{Interest, Source},
    },
    PATIENCE, connect,
};
use crate::{
    descriptors::scarce::{in_a_process_of_its_own, take_all_but},
    fabric::{QueuePairId, QueuePairState, Transport},
};

/// One who dials, and one who listens.
fn sides() -> [Tcp; 2] {
    let mut sides = [TcpOptions::LOOPBACK; 2].map(|options| Tcp::open(options).unwrap());
    // The listener is there, and keeps its descriptor.
    connected(&mut sides);
    sides
}

fn until(sides: &mut [Tcp; 2], what: &str, mut holds: impl FnMut(&[Tcp; 2]) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds(sides) {
        assert!(Instant::now() < deadline, "it never came that {what}");
        sides.iter_mut().for_each(|side| side.wait(Duration::from_millis(5)));
    }
}

fn are_ready(sides: &[Tcp; 2], ids: [QueuePairId; 2]) -> bool {
    sides.iter().zip(ids).all(|(side, id)| side.state(id) == QueuePairState::Ready)
}

fn connected(sides: &mut [Tcp; 2]) {
    let ids = connect(sides);
    until(sides, "they are connected", |sides| are_ready(sides, ids));
}

/// Whether something is ready that the listening side's thread would not sleep over.
fn would_spin(tcp: &Tcp) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut polls = [PollFd::from_borrowed_fd(tcp.wait_descriptor(), PollFlags::IN)];
    poll(&mut polls, Some(&now)).unwrap() > 0
}

#[test]
fn a_listener_without_descriptors_waits_and_listens_again() {
    let test = "tcp::tests::scarce::a_listener_without_descriptors_waits_and_listens_again";
    in_a_process_of_its_own(test, || {
        let mut sides = sides();
        let ids = connect(&mut sides);
        let taken = take_all_but(0);
        until(&mut sides, "accepting fails", |sides| sides[1].accepts_again_at.is_some());
        assert!(!would_spin(&sides[1]), "the listener would keep its thread busy");
        let first = sides[1].accepts_again_at;
        until(&mut sides, "it tries again", |sides| {
            sides[1].accepts_again_at.is_some_and(|at| Some(at) > first)
        });
        assert!(!are_ready(&sides, ids));
        drop(taken);
        until(&mut sides, "who waited is let in", |sides| are_ready(sides, ids));
        connected(&mut sides);
        assert_eq!(sides[1].accepts_again_at, None);
    });
}

#[test]
fn a_listener_that_could_not_be_watched_again_is_tried_once_more() {
    let mut sides = sides();
    sides[1].pause_accepting();
    let first = sides[1].accepts_again_at.unwrap();
    let epoll = rustix::io::dup(sides[1].wait_descriptor()).unwrap();
    epoll::delete(&epoll, sides[1].listener.as_ref().unwrap()).unwrap();
    sides[1].accept_again(first);
    let second = sides[1].accepts_again_at.expect("the listener is forgotten");
    assert!(second > first);
    let listener = sides[1].listener.as_ref().unwrap();
    sides[1].wait_point.add(listener, Source::Listener, Interest::default()).unwrap();
    sides[1].accept_again(first);
    assert_eq!(sides[1].accepts_again_at, Some(second), "not before its time");
    sides[1].accept_again(second);
    connected(&mut sides);
}
