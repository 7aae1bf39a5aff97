//! Atomics of the lock-free structures. Those structures name them `super::sync`, so that loom
//! tests can include the same source files once more below a module whose `sync` is [`modelled`]:
//! `RUSTFLAGS="--cfg loom" cargo test -p windlass-transport --lib loom`.

pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// The same, under the model checker.
#[cfg(all(test, loom))]
pub(crate) mod modelled {
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}
