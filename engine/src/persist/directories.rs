//! Where a server's shards keep their files: one directory per shard and generation.
//!
//! ```text
//!  DATA/shard-000001-0000/   segments, checkpoint files, manifest of shard 0
//!  DATA/shard-000001-0001/   .. of shard 1
//!  DATA/shard-000002-0000/   after a restart with another grouping of partitions
//! ```
//!
//! A server that starts with the same grouping goes on in the newest generation. One with another
//! grouping begins a new generation: each shard recovers its partitions from all directories there
//! are, oldest generation first, and the old generations are removed once every shard of the new one
//! has published a checkpoint. A crash before that is harmless: each partition is then recovered
//! from its newest checkpoint, wherever it lies, and from all logs behind it.

use std::{
    io,
    path::{Path, PathBuf},
};

use windlass_wire::ShardId;

/// One shard's directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShardDirectory {
    /// Which grouping of partitions, from 1.
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
        let path = root.join(format!("shard-{generation:06}-{:04}", shard.0));
        Self { generation, shard, path }
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
    let (generation, shard) = name.strip_prefix("shard-")?.split_once('-')?;
    Some((generation.parse().ok()?, ShardId(shard.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_listed_oldest_first() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(ShardDirectory::list(&root.path().join("none")).unwrap(), []);
        for (generation, shard) in [(2, 0), (1, 1), (1, 0)] {
            let directory = ShardDirectory::of(root.path(), generation, ShardId(shard));
            std::fs::create_dir(directory.path).unwrap();
        }
        std::fs::create_dir(root.path().join("shard-x")).unwrap();
        let listed: Vec<(u32, u16)> = ShardDirectory::list(root.path())
            .unwrap()
            .iter()
            .map(|directory| (directory.generation, directory.shard.0))
            .collect();
        assert_eq!(listed, [(1, 0), (1, 1), (2, 0)]);
    }
}
