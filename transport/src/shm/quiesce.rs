//! Taking memory back: after a region or queue pair has ended, no peer may still be writing.
//!
//! A peer marks each request it carries out and then looks whether that is still allowed; whoever
//! ends something withdraws the permission and then looks at the marks. Both need a full fence
//! between the two, but the peer's would cost every request, so the one who ends runs
//! `membarrier(2)`, which puts that fence into all running processes that registered for it.

use std::{
    io,
    sync::atomic::{Ordering, compiler_fence, fence},
    time::{Duration, Instant},
};

use rustix::thread::{MembarrierCommand, membarrier};

use super::queue_pair::{Link, QueuePair};

/// How long a peer may take over one request before it is given up: the longest copy takes a small
/// part of it, so such a peer was stopped.
const PATIENCE: Duration = Duration::from_secs(2);

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
    /// Waits until the request that the peer is carrying out now, if it is, has ended; later ones see
    /// what was withdrawn. Gives the peer up when it takes too long.
    pub(super) fn wait_for_peer(&mut self) {
        let mark = self.inbound.posting().load(Ordering::Acquire);
        if mark.is_multiple_of(2) {
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        while self.inbound.posting().load(Ordering::Acquire) == mark {
            // A process that died in the middle never ends its request: the hang-up tells.
            self.drain();
            if self.link.is_none() {
                return;
            }
            if Instant::now() > deadline {
                let error = io::Error::from(io::ErrorKind::TimedOut);
                tracing::warn!(%error, "a peer stopped in the middle of a request");
                self.fail();
                return;
            }
            std::thread::yield_now();
        }
    }
}
