//! Runs of whole test suites over writes that show late, in pieces and in any order, and reads that take bytes
//! backwards: `WINDLASS_LATE_WRITES=SEED` in the environment of a build for tests.
//!
//! Every TCP queue pair then does so, and shared memory gives way to one over loopback: it has no such writes.

use crate::{
    error::OpenError,
    fabric::Transport,
    shm::{Shm, ShmOptions},
    tcp::{Tcp, TcpOptions},
};

/// Opens shared memory, or what stands for it in such a run.
///
/// # Errors
/// As [`Shm::open`] and [`Tcp::open`].
pub fn open_shm(options: ShmOptions) -> Result<Box<dyn Transport>, OpenError> {
    if seed().is_some() {
        return Ok(Box::new(Tcp::open_as("shm", TcpOptions::LOOPBACK)?));
    }
    Ok(Box::new(Shm::open(options)?))
}

/// What the order of writes is drawn from, in such a run.
#[cfg(feature = "test-support")]
pub(crate) fn seed() -> Option<u64> {
    static SEED: std::sync::LazyLock<Option<u64>> = std::sync::LazyLock::new(|| {
        let seed = std::env::var("WINDLASS_LATE_WRITES").ok()?;
        Some(seed.parse().expect("WINDLASS_LATE_WRITES is a number"))
    });
    *SEED
}

/// Only builds for tests have such runs.
#[cfg(not(feature = "test-support"))]
pub(crate) const fn seed() -> Option<u64> {
    None
}
