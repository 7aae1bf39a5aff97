//! Taking memory back: after a region or queue pair has ended, no peer may still be writing.
//!
//! A peer marks each request it carries out and then looks whether that is still allowed; whoever
//! ends something withdraws the permission and then looks at the marks. Both need a full fence
//! between the two, but the peer's would cost every request, so the one who ends runs
//! `membarrier(2)`, which puts that fence into all running processes that registered for it.
//!
//! Nobody waits for a peer that is in the middle of a request, which may have been stopped: what it was
//! doing is noted, and whoever wants to use the memory for something else asks whether it is over.

use std::{
    io,
    os::fd::OwnedFd,
    sync::atomic::{Ordering, compiler_fence, fence},
};

use rustix::thread::{MembarrierCommand, membarrier};

use super::{
    Shm, message,
    queue_pair::{Link, QueuePair},
    segment::ChannelPage,
};

/// Which side of the pair of fences pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PostFence {
    /// The kernel fences this process when a peer asks for it.
    Compiler,
    /// The kernel cannot: each request pays.
    Processor,
}

impl PostFence {
    /// Registers this process.
    pub(super) fn register() -> Self {
        match membarrier(MembarrierCommand::RegisterGlobalExpedited) {
            Ok(()) => Self::Compiler,
            Err(_) => Self::Processor,
        }
    }
}

impl Link {
    /// Marks that a request is being carried out, and says whether the peer still allows it.
    #[inline]
    pub(super) fn begin_request(&mut self, post_fence: PostFence) -> bool {
        self.mark = self.mark.wrapping_add(1);
        self.outbound.posting().store(self.mark, Ordering::Relaxed);
        match post_fence {
            PostFence::Compiler => compiler_fence(Ordering::SeqCst),
            PostFence::Processor => fence(Ordering::SeqCst),
        }
        self.outbound.closed().load(Ordering::Relaxed) == 0
    }

    /// Ends what `begin_request` began, whatever came of it.
    #[inline]
    pub(super) fn end_request(&mut self) {
        self.mark = self.mark.wrapping_add(1);
        self.outbound.posting().store(self.mark, Ordering::Release);
    }
}

/// Fences every process that may be carrying out a request. Called after a permission was withdrawn
/// and before marks are looked at.
pub(super) fn fence_peers() {
    fence(Ordering::SeqCst);
    // Where neither exists peers could not register, and fence by themselves.
    if membarrier(MembarrierCommand::GlobalExpedited).is_err() {
        let _ = membarrier(MembarrierCommand::Global);
    }
}

impl QueuePair {
    /// Notes the request that the peer is carrying out now, if it is; later ones see what was
    /// withdrawn.
    pub(super) fn await_peer(&mut self) {
        let mark = self.inbound.posting().load(Ordering::Acquire);
        self.awaited = (!mark.is_multiple_of(2)).then_some(mark);
    }

    /// Whether the request that was noted has ended.
    fn is_quiet(&mut self) -> bool {
        let Some(mark) = self.awaited else { return true };
        if self.inbound.posting().load(Ordering::Acquire) != mark {
            self.awaited = None;
        } else {
            // A process that died in the middle never ends its request: the hang-up tells.
            self.drain();
        }
        self.awaited.is_none()
    }

    /// What is left of it, when the peer has not ended its request yet.
    pub(super) fn leave(mut self) -> Option<Leaving> {
        let mark = self.awaited.take()?;
        Some(Leaving { inbound: self.inbound, mark, socket: self.link.take()?.socket })
    }
}

/// A queue pair that was disconnected while its peer was carrying out a request.
#[derive(Debug)]
pub(super) struct Leaving {
    inbound: ChannelPage,
    mark: u32,
    socket: OwnedFd,
}

impl Leaving {
    fn is_quiet(&self) -> bool {
        let ended = self.inbound.posting().load(Ordering::Acquire) != self.mark;
        ended
            || loop {
                match message::receive(&self.socket) {
                    Ok(Some(_)) => {}
                    Ok(None) => break true,
                    Err(error) => break error.kind() != io::ErrorKind::WouldBlock,
                }
            }
    }
}

impl Shm {
    /// Forgets those whose requests have ended.
    pub(super) fn forget_quiet(&mut self) {
        self.leaving.retain(|leaving| !leaving.is_quiet());
    }

    pub(super) fn peers_are_quiet(&mut self) -> bool {
        self.forget_quiet();
        self.leaving.is_empty() && self.queue_pairs.values_mut().all(QueuePair::is_quiet)
    }
}
