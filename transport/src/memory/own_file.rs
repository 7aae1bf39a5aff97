//! The memfd behind memory allocated here. It is closed once no further peer needs it.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Backing, Pages};

/// A file that can be closed before its memory ends.
#[derive(Debug)]
pub(super) struct OwnFile(Mutex<Option<Arc<OwnedFd>>>);

impl OwnFile {
    pub(super) fn new(file: OwnedFd) -> Self {
        Self(Mutex::new(Some(Arc::new(file))))
    }

    /// The file, unless it was closed.
    pub(super) fn get(&self) -> Option<Arc<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes it once nobody who got it needs it any more.
    pub(super) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Pages {
    /// The memfd behind it, when it was allocated here and not closed.
    #[must_use]
    pub fn fd(&self) -> Option<Arc<OwnedFd>> {
        match &self.mapping.backing {
            Backing::Memfd(file) => file.get(),
            Backing::Peer | Backing::Borrowed => None,
        }
    }

    /// Closes the memfd: the memory stays, also with the peers that have it, and nobody else can be given it. For
    /// memory of one peer, which would cost a descriptor for as long as it is connected.
    pub fn close_file(&self) {
        if let Backing::Memfd(file) = &self.mapping.backing {
            file.close();
        }
    }
}
