//! Recovery from a data directory of another number of shards. The old directories are removed once every
//! shard has a checkpoint of its own.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread::JoinHandle,
};

use super::KeptLog;
use crate::persist::{directories::ShardDirectory, storage::Provider};

/// A data directory, and the shards that still need the directories of older generations in it.
#[derive(Debug)]
pub struct Regrouped {
    pub(super) data: PathBuf,
    pub(super) generation: u32,
    pub(super) provider: Provider,
    /// The logs that the catalogue names.
    pub(super) logs: Vec<KeptLog>,
    waiting: AtomicUsize,
}

impl Regrouped {
    /// For so many shards that recover from `data` and go on in `generation`, through such storage.
    #[must_use]
    pub fn new(
        data: &Path,
        generation: u32,
        shard_count: usize,
        provider: Provider,
        logs: Vec<KeptLog>,
    ) -> Self {
        let waiting = AtomicUsize::new(shard_count);
        Self { data: data.to_owned(), generation, provider, logs, waiting }
    }

    /// A shard's first checkpoint is published. After the last of them the old directories are
    /// removed, by a thread of their own, as files may be long: it has to end before the server does,
    /// or the next one finds directories that are about to go.
    pub(super) fn published(&self) -> Option<JoinHandle<()>> {
        if self.waiting.fetch_sub(1, Ordering::AcqRel) > 1 {
            return None;
        }
        let (data, generation) = (self.data.clone(), self.generation);
        let remove = move || match ShardDirectory::remove(&data, |old| old < generation) {
            Ok(()) => tracing::info!(generation, "the directories of older groupings are removed"),
            Err(error) => {
                tracing::warn!(%error, "cannot remove the directories of older groupings")
            }
        };
        let thread = std::thread::Builder::new().name("windlass-remove".into());
        let started = thread.spawn(remove);
        if let Err(error) = &started {
            tracing::warn!(%error, "older groupings are removed at a later start");
        }
        started.ok()
    }
}
