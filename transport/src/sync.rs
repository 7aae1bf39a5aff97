//! Atomics of the lock-free structures: the standard ones, or loom's when a model checker runs them
//! (`RUSTFLAGS="--cfg loom" cargo test -p windlass-transport --lib loom`).

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
