//! Where a server's shards keep their files: one directory per shard and generation.
//!
//! ```text
//!  DATA/shard-0/             segments, checkpoint files, manifest of shard 0, generation 0
//!  DATA/shard-1/             .. of shard 1
//!  DATA/shard-000001-0000/   after a start with another grouping of partitions: generation 1
//! ```
//!
//! A server that starts with the same grouping goes on in its generation. One with another grouping
//! begins a new generation: each shard recovers its partitions from the directories of all older
//! ones, oldest first, and those are removed once every shard of the new one has published a
//! checkpoint. A crash before that is harmless: each partition is then recovered from its newest
//! checkpoint, wherever it lies, and from all logs behind it.

use std::{
    io,
    path::{Path, PathBuf},
};

use windlass_wire::ShardId;

/// One shard's directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShardDirectory {
    /// Which grouping of partitions, from 0.
    pub generation: u32,
    /// The shard of that grouping.
    pub shard: ShardId,
    /// Where it lies.
    pub path: PathBuf,
}

impl ShardDirectory {
    /// The directory of a shard, which need not exist.
    #[must_use]
    pub fn of(root: &Path, generation: u32, shard: ShardId) -> Self {
        let name = match generation {
            0 => format!("shard-{}", shard.0),
            _ => format!("shard-{generation:06}-{:04}", shard.0),
        };
        let path = root.join(name);
        Self { generation, shard, path }
    }

    /// What a shard recovers from: all directories of older generations, then its own.
    ///
    /// # Errors
    /// When the root cannot be read.
    pub fn sources(root: &Path, generation: u32, shard: ShardId) -> io::Result<Vec<Self>> {
        let mut sources = Self::list(root)?;
        sources.retain(|source| source.generation < generation);
        sources.push(Self::of(root, generation, shard));
        Ok(sources)
    }

    /// Removes directories by generation. What is left after a crash is removed the next time.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn remove(root: &Path, unwanted: impl Fn(u32) -> bool) -> io::Result<()> {
        for directory in Self::list(root)? {
            if unwanted(directory.generation) {
                std::fs::remove_dir_all(directory.path)?;
            }
        }
        Ok(())
    }

    /// All shards' directories below a root, oldest generation first. None when there is no root.
    ///
    /// # Errors
    /// When the root cannot be read.
    pub fn list(root: &Path) -> io::Result<Vec<Self>> {
        let entries = match std::fs::read_dir(root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str()
                && let Some((generation, shard)) = parse(name)
            {
                found.push(Self { generation, shard, path: entry.path() });
            }
        }
        found.sort();
        Ok(found)
    }
}

fn parse(name: &str) -> Option<(u32, ShardId)> {
    let name = name.strip_prefix("shard-")?;
    let (generation, shard) = name.split_once('-').unwrap_or(("0", name));
    Some((generation.parse().ok()?, ShardId(shard.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_listed_oldest_first() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(ShardDirectory::list(&root.path().join("none")).unwrap(), []);
        for (generation, shard) in [(2, 0), (1, 1), (0, 12), (1, 0)] {
            let directory = ShardDirectory::of(root.path(), generation, ShardId(shard));
            std::fs::create_dir(directory.path).unwrap();
        }
        std::fs::create_dir(root.path().join("shard-x")).unwrap();
        let listed: Vec<(u32, u16)> = ShardDirectory::list(root.path())
            .unwrap()
            .iter()
            .map(|directory| (directory.generation, directory.shard.0))
            .collect();
        assert_eq!(listed, [(0, 12), (1, 0), (1, 1), (2, 0)]);
        let sources = ShardDirectory::sources(root.path(), 2, ShardId(1)).unwrap();
        let sources: Vec<_> = sources.iter().map(|one| (one.generation, one.shard.0)).collect();
        assert_eq!(sources, [(0, 12), (1, 0), (1, 1), (2, 1)]);
        ShardDirectory::remove(root.path(), |generation| generation < 2).unwrap();
        assert_eq!(ShardDirectory::list(root.path()).unwrap().len(), 1);
    }
}
