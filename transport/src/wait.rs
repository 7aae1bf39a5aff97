//! Sleeping on one or several transports at once, and on a disk beside them.

use std::{os::fd::BorrowedFd, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::fabric::Transport;

/// Most transports one thread waits on together: one per provider.
pub const TRANSPORTS_MAX: usize = 3;

/// Most descriptors one thread sleeps on: its transports' and one more.
pub const DESCRIPTORS_MAX: usize = TRANSPORTS_MAX + 1;

/// Sleeps until one of the transports may have something to poll, or the time is over. Panics when
/// there are more than [`TRANSPORTS_MAX`].
pub fn wait_any(transports: &mut [Box<dyn Transport>], timeout: Duration) {
    wait_any_or(transports, None, timeout);
}

/// As [`wait_any`], and until `other` is readable, if there is one: a disk that is being waited for.
pub fn wait_any_or(
    transports: &mut [Box<dyn Transport>],
    other: Option<BorrowedFd<'_>>,
    timeout: Duration,
) {
    assert!(transports.len() <= TRANSPORTS_MAX, "too many transports in one thread");
    let mut quiet = true;
    for transport in transports.iter_mut() {
        quiet &= transport.arm();
    }
    if quiet {
        let mut descriptors = transports.iter().map(|one| one.wait_descriptor()).chain(other);
        match descriptors.next() {
            None => std::thread::sleep(timeout),
            Some(first) => {
                let mut all = [first; DESCRIPTORS_MAX];
                let mut count = 1;
                for descriptor in descriptors {
                    all[count] = descriptor;
                    count += 1;
                }
                sleep_on(&all[..count], timeout);
            }
        }
    }
    for transport in transports.iter_mut() {
        transport.disarm();
    }
}

/// Sleeps until one of at most [`DESCRIPTORS_MAX`] descriptors is readable or the time is over.
/// Interruptions by signals end it early.
pub fn sleep_on(descriptors: &[BorrowedFd<'_>], timeout: Duration) {
    let Some(first) = descriptors.first() else { return };
    let fill = PollFd::from_borrowed_fd(*first, PollFlags::IN);
    let mut polls: [PollFd<'_>; DESCRIPTORS_MAX] = std::array::from_fn(|_| fill.clone());
    for (poll, descriptor) in polls.iter_mut().zip(descriptors) {
        *poll = PollFd::from_borrowed_fd(*descriptor, PollFlags::IN);
    }
    let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    // An interruption is a spurious return, which every caller expects; nothing else can fail with
    // valid descriptors.
    let _ = rustix::event::poll(&mut polls[..descriptors.len()], Some(&timeout));
}
