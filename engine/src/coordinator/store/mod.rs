//! What a coordinator keeps, and where: the map and the catalogue, each replaced whole by
//! compare-and-swap, and who leads.

mod catalogue;
mod etcd;
mod file;
mod memory;

use std::{fmt::Debug, io, path::PathBuf, time::Duration};

use windlass_replication::Membership;

pub(super) use catalogue::Catalogue;
pub(crate) use file::scrub_file_store;
#[cfg(test)]
pub(crate) use file::store_sample;

use super::{CoordinatorConfig, StoreConfig};

/// All that is kept.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) map: Membership,
    pub(super) catalogue: Catalogue,
}

/// One of the things kept. Their bytes begin with their version, 8 bytes: the map's epoch and the
/// catalogue's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Map,
    Catalogue,
}

impl Item {
    pub(super) const ALL: [Self; 2] = [Self::Map, Self::Catalogue];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Catalogue => "catalogue",
        }
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is safe.
    Done,
    /// Another coordinator leads, or has written.
    Deposed,
}

/// Why a store was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused.
    #[error("cannot {step} {path}")]
    Disk {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has the directory.
    #[error("another coordinator uses {path}: stop it, or give this one a directory of its own")]
    Taken {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is used for something else.
    #[error("{path} holds something, and nothing of a coordinator: give an empty directory")]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// No member of etcd was named.
    #[error("no address of etcd is given: name at least one")]
    NoEndpoint,
    /// A member of etcd does not answer.
    #[error("etcd at {endpoint} does not answer")]
    Unreachable {
        /// Its address.
        endpoint: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// etcd refuses.
    #[error("etcd at {endpoint} refuses: {text}")]
    Refused {
        /// Its address.
        endpoint: String,
        /// What it says.
        text: String,
    },
    /// What is stored cannot be read.
    #[error("{what} is damaged or of another version: restore it from a backup")]
    Damaged {
        /// The file or key.
        what: String,
    },
}

/// A place to keep things.
pub(super) trait Store: Debug + Send {
    /// Its name in status and messages.
    fn name(&self) -> &'static str;

    /// Tries to lead, for at most about `patience`; returns the bytes kept once it does, in
    /// the order of [`Item::ALL`], `None` for what was never written.
    fn campaign(&mut self, patience: Duration) -> Result<Option<Vec<Option<Vec<u8>>>>, StoreError>;

    /// Replaces an item if its version is `expected` (zero: never written) and this coordinator
    /// leads. Safe to repeat after an error.
    fn write(&mut self, item: Item, expected: u64, bytes: &[u8]) -> Result<Written, StoreError>;

    /// How long this coordinator leads after a `campaign` or `renew` that succeeded, counted from when it
    /// was called; `None` where nobody else can lead while the process lives.
    fn lease(&self) -> Option<Duration>;

    /// Says that this coordinator is alive; returns whether it leads still.
    fn renew(&mut self) -> Result<bool, StoreError>;

    /// Whether another coordinator waits to lead.
    fn has_standby(&mut self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Lets another one lead.
    fn resign(&mut self);
}

/// Opens what the configuration names.
pub(super) fn open(config: &CoordinatorConfig) -> Result<Box<dyn Store>, StoreError> {
    Ok(match &config.store {
        StoreConfig::Memory => Box::new(memory::MemoryStore::default()),
        StoreConfig::File(path) => Box::new(file::FileStore::open(path)?),
        StoreConfig::Etcd { endpoints, prefix } => {
            Box::new(etcd::EtcdStore::new(endpoints, prefix))
        }
    })
}

/// The version that an item's bytes begin with; zero when they are too short to have one.
pub(super) fn version_of(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |version| u64::from_le_bytes(*version))
}
