//! Versions of a block that one thread writes and anybody reads: how the writer marks it, and how
//! readers tell whether what they read is whole. `windlass_engine` draws where the words lie.

use crate::sync;

mod protocol;

#[cfg(all(test, loom))]
mod loom_tests;

pub use protocol::{FENCED, Look, begin, end, is_unchanged, look};
