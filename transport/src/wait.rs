//! Sleeping on one or several transports at once.

use std::{os::fd::BorrowedFd, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::fabric::Transport;

/// Most transports one thread waits on together: one per provider, and a spare.
pub const TRANSPORTS_MAX: usize = 4;

/// Sleeps until one of the transports may have something to poll, or the time is over. Panics when
/// there are more than [`TRANSPORTS_MAX`].
pub fn wait_any(transports: &mut [Box<dyn Transport>], timeout: Duration) {
    assert!(transports.len() <= TRANSPORTS_MAX, "too many transports in one thread");
    let mut quiet = true;
    for transport in transports.iter_mut() {
        quiet &= transport.arm();
    }
    if quiet {
        match &*transports {
            [] => std::thread::sleep(timeout),
            [one] => sleep_on(&[one.wait_descriptor()], timeout),
            [one, two] => sleep_on(&[one.wait_descriptor(), two.wait_descriptor()], timeout),
            several => {
                let first = several[0].wait_descriptor();
                let mut descriptors = [first; TRANSPORTS_MAX];
                for (descriptor, transport) in descriptors.iter_mut().zip(several) {
                    *descriptor = transport.wait_descriptor();
                }
                sleep_on(&descriptors[..several.len()], timeout);
            }
        }
    }
    for transport in transports.iter_mut() {
        transport.disarm();
    }
}

/// Sleeps until one of at most [`TRANSPORTS_MAX`] descriptors is readable or the time is over.
/// Interruptions by signals end it early.
pub fn sleep_on(descriptors: &[BorrowedFd<'_>], timeout: Duration) {
    let Some(first) = descriptors.first() else { return };
    let fill = PollFd::from_borrowed_fd(*first, PollFlags::IN);
    let mut polls: [PollFd<'_>; TRANSPORTS_MAX] = std::array::from_fn(|_| fill.clone());
    for (poll, descriptor) in polls.iter_mut().zip(descriptors) {
        *poll = PollFd::from_borrowed_fd(*descriptor, PollFlags::IN);
    }
    let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    // An interruption is a spurious return, which every caller expects; nothing else can fail with
    // valid descriptors.
    let _ = rustix::event::poll(&mut polls[..descriptors.len()], Some(&timeout));
}
