//! Restoring: data directories for the servers of a new cluster, made of those of another one.
//!
//! A shard recovers its partitions from any number of shards' directories. So nothing is converted:
//! every new server gets a copy of all the old ones as an earlier grouping, takes the partitions that
//! the new cluster's map gives it at its first start, with optimiser state and what tells duplicates,
//! publishes a checkpoint of its own, and removes the copies. What cannot change is how many
//! partitions rows are cut into.

mod copy;
mod error;

use std::{collections::BTreeMap, path::PathBuf};

use windlass_wire::{ServerId, TableEntry, TableId};

pub use error::RestoreError;

use self::copy::Source;
use super::{catalogue::Catalogue, data_lock::DataLock, identity::Identity};

/// What is to be restored, and onto what.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// Data directories of all servers of the old cluster, none of which runs.
    pub from: Vec<PathBuf>,
    /// Data directories to be made, one for each server of the new cluster.
    pub into: Vec<PathBuf>,
    /// Partitions of the old cluster, where its directories do not say.
    pub partitions: Option<u32>,
    /// Go on without servers of the old cluster whose directories are not given.
    pub accept_missing: bool,
    /// Go on with damaged files, which a server then serves with `accept_damage` only.
    pub accept_damage: bool,
}

/// What was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The tables.
    pub tables: Vec<TableEntry>,
    /// Partitions, which the new cluster has to have, too.
    pub partitions: u32,
    /// Old shards whose checkpoints and logs were copied.
    pub shards: usize,
    /// Bytes of them.
    pub bytes: u64,
}

/// Makes data directories for the servers of a new cluster. Each is complete or absent. `copied` is
/// told bytes as they are copied, and how many there will be.
///
/// # Errors
/// When the old directories are not those of one whole, sound, stopped cluster, or the new ones cannot
/// be made.
pub fn restore(
    options: &RestoreOptions,
    copied: &mut dyn FnMut(u64, u64),
) -> Result<Restored, RestoreError> {
    for into in &options.into {
        if into.exists() {
            return Err(RestoreError::Exists { path: into.clone() });
        }
    }
    let mut old = Old::default();
    let mut locks = Vec::new();
    let several = options.from.len() > 1;
    for path in &options.from {
        let read = |reason: String| RestoreError::Source { path: path.clone(), reason };
        // Before the lock, which would make the directory.
        let catalogue = Catalogue::read(path).map_err(|error| read(crate::shard::chain(&error)))?;
        let Some(catalogue) = catalogue else {
            return Err(RestoreError::NoServer { path: path.clone() });
        };
        if several && catalogue.copies > 1 {
            return Err(RestoreError::Copies { path: path.clone(), copies: catalogue.copies });
        }
        locks.push(DataLock::take(path).map_err(read)?);
        let identity = Identity::load(path).map_err(|error| read(crate::shard::chain(&error)))?;
        old.add(path, &catalogue, identity)?;
    }
    let partitions = old.partitions(options)?;
    old.check_complete(options)?;
    let sources = copy::sources(&options.from, options.accept_damage)?;
    let bytes: u64 = sources.iter().map(Source::bytes).sum();
    let generation = sources.iter().map(|source| source.generation).max().unwrap_or(0);
    let tables: Vec<TableEntry> = old.tables.into_values().collect();
    let catalogue = Catalogue {
        next_table: old.next_table,
        shard_count: 0,
        generation,
        partitions,
        copies: 1,
        servers: Vec::new(),
        tables: tables.clone(),
        logs: Vec::new(),
    };
    let total = bytes * options.into.len() as u64;
    for into in &options.into {
        copy::make(into, &sources, &catalogue, &mut |bytes| copied(bytes, total))?;
    }
    Ok(Restored { tables, partitions, shards: sources.len(), bytes })
}

/// What the old directories say together.
#[derive(Default)]
struct Old {
    cluster: Option<u64>,
    given: Vec<ServerId>,
    servers: Vec<ServerId>,
    partitions: Option<u32>,
    next_table: u32,
    tables: BTreeMap<TableId, TableEntry>,
}

impl Old {
    fn add(
        &mut self,
        path: &std::path::Path,
        catalogue: &Catalogue,
        identity: Option<Identity>,
    ) -> Result<(), RestoreError> {
        let foreign = || RestoreError::Foreign { path: path.to_owned() };
        if let Some(Identity { server, cluster, .. }) = identity {
            if self.cluster.is_some_and(|known| known != cluster) {
                return Err(foreign());
            }
            if self.given.contains(&server) {
                return Err(RestoreError::Twice { path: path.to_owned(), server });
            }
            self.cluster = Some(cluster);
            self.given.push(server);
        }
        if catalogue.partitions != 0 {
            if self.partitions.is_some_and(|known| known != catalogue.partitions) {
                return Err(foreign());
            }
            self.partitions = Some(catalogue.partitions);
        }
        for table in &catalogue.tables {
            let known = self.tables.entry(table.id).or_insert_with(|| table.clone());
            // A name may have been given to a later table; one number is one table.
            if known.name != table.name || known.schema.kind != table.schema.kind {
                return Err(foreign());
            }
        }
        self.next_table = self.next_table.max(catalogue.next_table);
        self.servers.extend(&catalogue.servers);
        Ok(())
    }

    fn partitions(&self, options: &RestoreOptions) -> Result<u32, RestoreError> {
        match (self.partitions, options.partitions) {
            (Some(held), Some(wanted)) if held != wanted => {
                Err(RestoreError::Partitions { held, wanted })
            }
            (Some(partitions), _) | (None, Some(partitions)) => Ok(partitions),
            (None, None) => Err(RestoreError::PartitionsUnknown),
        }
    }

    /// Rows are lost without the directory of every server that held some.
    fn check_complete(&self, options: &RestoreOptions) -> Result<(), RestoreError> {
        let mut missing: Vec<u32> = self
            .servers
            .iter()
            .filter(|server| !self.given.contains(server))
            .map(|server| server.0)
            .collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() || options.accept_missing {
            return Ok(());
        }
        let missing: Vec<String> = missing.iter().map(u32::to_string).collect();
        Err(RestoreError::Missing { servers: missing.join(", ") })
    }
}

#[cfg(test)]
mod tests;
