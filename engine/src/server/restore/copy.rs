//! Copies the files that recovery needs from old directories, under new numbers.

use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use windlass_wire::ShardId;

use super::{Catalogue, RestoreError};
use crate::{
    persist::{directories::ShardDirectory, inspect::needed_files, scrub::scrub, storage},
    private_files::{self, FILE_MODE},
    shard::chain,
};

/// One old shard's directory.
pub(super) struct Source {
    pub(super) generation: u32,
    path: PathBuf,
    files: Vec<(String, u64)>,
}

impl Source {
    /// Bytes of its files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, length)| length).sum()
    }
}

/// All shards' directories of servers, and what recovery reads of each, every byte of it verified.
pub(super) fn sources(from: &[PathBuf], accept_damage: bool) -> Result<Vec<Source>, RestoreError> {
    let mut sources = Vec::new();
    for server in from {
        let unreadable = |reason: String| RestoreError::Source { path: server.clone(), reason };
        let listed = ShardDirectory::list(server).map_err(|error| unreadable(error.to_string()))?;
        for directory in listed {
            let mut storage = storage::open_to_read(&directory.path)
                .map_err(|error| unreadable(chain(&error)))?;
            let report = scrub(storage.as_mut()).map_err(|error| unreadable(chain(&error)))?;
            if let Some(bad) = report.bad.into_iter().next()
                && !accept_damage
            {
                let (file, offset, reason) = (bad.file, bad.offset, bad.reason);
                return Err(RestoreError::Damaged { path: directory.path, file, offset, reason });
            }
            let files =
                needed_files(storage.as_mut()).map_err(|error| unreadable(chain(&error)))?;
            let files = files.into_iter().map(|file| (file.name, file.length)).collect();
            sources.push(Source { generation: directory.generation, path: directory.path, files });
        }
    }
    Ok(sources)
}

/// Makes one new server's data directory, whole or not at all.
pub(super) fn make(
    into: &Path,
    sources: &[Source],
    catalogue: &Catalogue,
    copied: &mut dyn FnMut(u64),
) -> Result<(), RestoreError> {
    let mut partial = into.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let failed = |source: io::Error| RestoreError::Into { path: into.to_owned(), source };
    let made = fill(&partial, sources, catalogue, copied).and_then(|()| {
        fs::rename(&partial, into)?;
        // A relative name of one part has an empty parent: the folder this process is in.
        match into.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => File::open(parent)?.sync_all(),
            None => File::open(".")?.sync_all(),
        }
    });
    made.map_err(|error| {
        // The cause matters more than what is left of the attempt.
        let _ = fs::remove_dir_all(&partial);
        failed(error)
    })
}

fn fill(
    at: &Path,
    sources: &[Source],
    catalogue: &Catalogue,
    copied: &mut dyn FnMut(u64),
) -> io::Result<()> {
    // What an earlier attempt left is of no use.
    match fs::remove_dir_all(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => private_files::make_directory(at)?,
    }
    let mut numbers: BTreeMap<u32, u16> = BTreeMap::new();
    for source in sources {
        let number = numbers.entry(source.generation).or_default();
        let directory = ShardDirectory::of(at, source.generation, ShardId(*number));
        *number = number.checked_add(1).ok_or_else(|| io::Error::other("too many shards"))?;
        private_files::make_directory(&directory.path)?;
        for (name, length) in &source.files {
            let to = directory.path.join(name);
            fs::copy(source.path.join(name), &to)?;
            let file = File::open(&to)?;
            file.set_permissions(Permissions::from_mode(FILE_MODE))?;
            file.sync_all()?;
            copied(*length);
        }
        File::open(&directory.path)?.sync_all()?;
    }
    catalogue.store(at).map_err(io::Error::other)
}
