//! Where a server's shards keep their files: one directory per shard and generation.
//!
//! ```text
//!  DATA/shard-0/             segments, checkpoint files, manifest of shard 0, generation 0
//!  DATA/shard-1/             .. of shard 1
//!  DATA/shard-000001-0000/   after a start with another grouping of partitions: generation 1
//!  DATA/removed-shard-0/     no longer needed, and being removed
//! ```
//!
//! A server that starts with the same grouping goes on in its generation. One with another grouping
//! begins a new generation: each shard recovers its partitions from the directories of all older
//! ones, oldest first, and those are removed once every shard of the new one has published a
//! checkpoint. A crash before that is harmless: each partition is then recovered from its newest
//! checkpoint, wherever it lies, and from all logs behind it.

use std::{
    ffi::OsString,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use windlass_wire::ShardId;

/// What the names of directories that are being removed begin with.
const REMOVED: &str = "removed-";

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

    /// Removes directories by generation, and what a crash has left of earlier ones.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn remove(root: &Path, unwanted: impl Fn(u32) -> bool) -> io::Result<()> {
        Self::remove_by(root, unwanted, |path| std::fs::remove_dir_all(path))
    }

    /// Takes the directories out of the way before `delete` gets the first of them: under the name that
    /// recovery looks for, a directory has all its files or is not there.
    fn remove_by(
        root: &Path,
        unwanted: impl Fn(u32) -> bool,
        mut delete: impl FnMut(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        // What an earlier removal has left may have the names that are needed now.
        sweep(root, &mut delete)?;
        let mut is_renamed = false;
        for directory in Self::list(root)? {
            if unwanted(directory.generation) {
                let mut name = OsString::from(REMOVED);
                name.push(directory.path.file_name().unwrap_or_default());
                std::fs::rename(&directory.path, root.join(name))?;
                is_renamed = true;
            }
        }
        if is_renamed {
            File::open(root)?.sync_all()?;
            sweep(root, &mut delete)?;
        }
        Ok(())
    }

    /// All shards' directories below a root, oldest generation first. None when there is no root.
    ///
    /// # Errors
    /// When the root cannot be read.
    pub fn list(root: &Path) -> io::Result<Vec<Self>> {
        let mut found: Vec<Self> = entries(root)?
            .into_iter()
            .filter_map(|(name, path)| {
                let (generation, shard) = parse(&name)?;
                Some(Self { generation, shard, path })
            })
            .collect();
        found.sort();
        Ok(found)
    }
}

/// Deletes what is out of the way.
fn sweep(root: &Path, delete: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let removed = entries(root)?.into_iter().filter(|(name, _)| name.starts_with(REMOVED));
    removed.map(|(_, path)| path).try_for_each(|path| delete(&path))
}

/// Names and paths of what lies in a directory; of nothing when there is no directory.
fn entries(root: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
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

    /// The process is killed when it has removed a few files of the first directory.
    #[test]
    fn a_kill_inside_the_removal_leaves_no_directory_without_its_files() {
        let root = tempfile::tempdir().unwrap();
        for (generation, shard) in [(0, 0), (0, 1), (1, 0)] {
            let directory = ShardDirectory::of(root.path(), generation, ShardId(shard));
            std::fs::create_dir(&directory.path).unwrap();
            for file in ["checkpoint-1", "manifest-1", "segment-00000.wlog"] {
                std::fs::write(directory.path.join(file), "bytes").unwrap();
            }
        }
        let killed = ShardDirectory::remove_by(
            root.path(),
            |generation| generation < 1,
            |path| {
                std::fs::remove_file(path.join("checkpoint-1"))?;
                Err(io::ErrorKind::Interrupted.into())
            },
        );
        assert_eq!(killed.unwrap_err().kind(), io::ErrorKind::Interrupted);
        let listed = ShardDirectory::list(root.path()).unwrap();
        for directory in &listed {
            let files = std::fs::read_dir(&directory.path).unwrap().count();
            assert_eq!(files, 3, "{}", directory.path.display());
        }
        assert_eq!(listed.len(), 1);
        // The next start removes the rest, whatever it is asked for itself.
        ShardDirectory::remove(root.path(), |generation| generation > 1).unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
