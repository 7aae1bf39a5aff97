//! Sleeping on one or several transports at once.

use std::{os::fd::BorrowedFd, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::fabric::Transport;

/// Most transports one thread waits on together: one per provider.
pub const TRANSPORTS_MAX: usize = 3;

/// Most descriptors one thread sleeps on.
pub const DESCRIPTORS_MAX: usize = 64;

/// Sleeps until one of the transports may have something to poll, or the time is over. Panics when
/// there are more than [`TRANSPORTS_MAX`].
pub fn wait_any(transports: &mut [Box<dyn Transport>], timeout: Duration) {
    assert!(transports.len() <= TRANSPORTS_MAX, "too many transports in one thread");
    let mut quiet = true;
    for transport in transports.iter_mut() {
        quiet &= transport.arm();
    }
    if quiet {
        sleep_on(transports.iter().map(|one| one.wait_descriptor()), timeout);
    }
    for transport in transports.iter_mut() {
        transport.disarm();
    }
}

/// Sleeps until one of at most [`DESCRIPTORS_MAX`] descriptors is readable or the time is over; those
/// beyond are not waited for. Interruptions by signals end it early.
pub fn sleep_on<'a>(descriptors: impl IntoIterator<Item = BorrowedFd<'a>>, timeout: Duration) {
    let mut descriptors = descriptors.into_iter();
    let Some(first) = descriptors.next() else { return std::thread::sleep(timeout) };
    let fill = PollFd::from_borrowed_fd(first, PollFlags::IN);
    let mut polls: [PollFd<'_>; DESCRIPTORS_MAX] = std::array::from_fn(|_| fill.clone());
    let mut count = 1;
    for (poll, descriptor) in polls[1..].iter_mut().zip(descriptors) {
        *poll = PollFd::from_borrowed_fd(descriptor, PollFlags::IN);
        count += 1;
    }
    let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    // An interruption is a spurious return, which every caller expects; nothing else can fail with
    // valid descriptors.
    let _ = rustix::event::poll(&mut polls[..count], Some(&timeout));
}
