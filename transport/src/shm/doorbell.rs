//! Waking a sleeper without a system call while it is awake. The sleeper announces itself, then
//! looks once more for work; the ringer publishes work, then looks for the announcement. Between
//! each one's store and load stands a full fence, so at least one of them sees the other.

use super::sync::{AtomicU32, Ordering, fence};

/// Announces a sleep. The caller looks for work once more before it sleeps.
#[inline]
pub(super) fn announce(sleeping: &AtomicU32) {
    sleeping.store(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// Takes the announcement back.
#[inline]
pub(super) fn withdraw(sleeping: &AtomicU32) {
    sleeping.store(0, Ordering::Relaxed);
}

/// Whether the peer has to be woken, asked after work for it was published.
#[inline]
pub(super) fn must_ring(sleeping: &AtomicU32) -> bool {
    fence(Ordering::SeqCst);
    sleeping.load(Ordering::Relaxed) != 0
}
