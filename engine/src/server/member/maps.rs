//! Which maps the coordinator has sent.

use std::sync::atomic::{AtomicU64, Ordering};

use windlass_wire::Epoch;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct MapsTold {
    /// The newest.
    received: AtomicU64,
    /// The newest that waits to take effect here: until it has, the coordinator sends it again.
    waiting: AtomicU64,
}

impl MapsTold {
    /// Whether a map that came is newer than those that wait.
    pub(super) fn take(&self, epoch: Epoch) -> bool {
        self.received.fetch_max(epoch.0, Ordering::AcqRel);
        self.waiting.fetch_max(epoch.0, Ordering::AcqRel) < epoch.0
    }

    /// One that was not taken may come again.
    pub(super) fn carried_out(&self) {
        self.waiting.store(0, Ordering::Release);
    }

    pub(super) fn newest(&self) -> Epoch {
        Epoch(self.received.load(Ordering::Acquire))
    }
}
