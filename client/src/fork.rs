//! Tells a forked child from the process that connected. Both have the client's session, sequences and shared
//! memory. If both used them, servers would take one's pushes for the other's.
//!
//! A handler that the C library calls in each child counts forks, so a check costs one load and no system call.
#![allow(unsafe_code)]

use std::{
    ffi::c_int,
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
};

/// Forks between the first process that asked and this one.
static FORKS: AtomicU64 = AtomicU64::new(0);

static REGISTERED: Once = Once::new();

// SAFETY: as POSIX declares it.
unsafe extern "C" {
    fn pthread_atfork(
        prepare: Option<extern "C" fn()>,
        parent: Option<extern "C" fn()>,
        child: Option<extern "C" fn()>,
    ) -> c_int;
}

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// A process, among itself and those that it was forked from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u64);

impl Process {
    /// The calling process, which its children can tell from themselves from now on.
    #[must_use]
    pub fn current() -> Self {
        REGISTERED.call_once(|| {
            // SAFETY: the handler is a function of this program that only adds to an atomic, which is
            // allowed between `fork` and whatever the child does; it is unregistered by the C library
            // when the library that has it is unloaded.
            let status = unsafe { pthread_atfork(None, None, Some(count_fork)) };
            assert_eq!(status, 0, "no memory for a fork handler");
        });
        Self(FORKS.load(Ordering::Relaxed))
    }

    /// Whether this is the calling process, not one it was forked from.
    #[must_use]
    #[inline]
    pub fn is_current(self) -> bool {
        self.0 == FORKS.load(Ordering::Relaxed)
    }
}

/// A client was used in a forked child of the process that connected it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this client was connected by another process, which this one was forked from: connect again \
     here; the other process goes on with it"
)]
pub struct WrongProcess;
