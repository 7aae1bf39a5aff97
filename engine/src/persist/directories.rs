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
        Self::remove_by(root, unwanted, |step| step.carry_out())
    }

    /// Takes the directories out of the way before the first of them is deleted: under the name that
    /// recovery looks for, a directory has all its files or is not there.
    fn remove_by(
        root: &Path,
        unwanted: impl Fn(u32) -> bool,
        mut carry_out: impl FnMut(Step) -> io::Result<()>,
    ) -> io::Result<()> {
        // What an earlier removal has left may have the names that are needed now.
        sweep(root, &mut carry_out)?;
        for directory in Self::list(root)? {
            if unwanted(directory.generation) {
                let mut name = OsString::from(REMOVED);
                name.push(directory.path.file_name().unwrap_or_default());
                carry_out(Step::Rename { from: directory.path, to: root.join(name) })?;
            }
        }
        sweep(root, &mut carry_out)
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

/// A step of a removal, any of which may be the last.
#[derive(Debug)]
enum Step {
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    /// Makes names in this directory durable.
    Sync(PathBuf),
    Delete(PathBuf),
}

impl Step {
    fn carry_out(self) -> io::Result<()> {
        match self {
            Self::Rename { from, to } => std::fs::rename(from, to),
            Self::Sync(root) => File::open(root)?.sync_all(),
            Self::Delete(path) => std::fs::remove_dir_all(path),
        }
    }
}

/// Deletes what is out of the way, once that is durable: whoever renamed it may have been killed since.
fn sweep(root: &Path, carry_out: &mut impl FnMut(Step) -> io::Result<()>) -> io::Result<()> {
    let mut removed = entries(root)?;
    removed.retain(|(name, _)| name.starts_with(REMOVED));
    if removed.is_empty() {
        return Ok(());
    }
    carry_out(Step::Sync(root.to_owned()))?;
    removed.into_iter().try_for_each(|(_, path)| carry_out(Step::Delete(path)))
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
    use std::collections::BTreeSet;

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

    const FILES: [&str; 3] = ["checkpoint-1", "manifest-1", "segment-00000.wlog"];

    /// A data directory, and what of it a power cut would undo.
    struct Data {
        root: tempfile::TempDir,
        /// New names that are not durable yet.
        loose: BTreeSet<PathBuf>,
    }

    impl Data {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            for (generation, shard) in [(0, 0), (0, 1), (1, 0)] {
                let directory = ShardDirectory::of(root.path(), generation, ShardId(shard));
                std::fs::create_dir(&directory.path).unwrap();
                for file in FILES {
                    std::fs::write(directory.path.join(file), "bytes").unwrap();
                }
            }
            Self { root, loose: BTreeSet::new() }
        }

        /// Removes generation 0, and is killed within the step after so many; whether it was.
        fn remove_until(&mut self, steps: usize) -> bool {
            let Self { root, loose } = self;
            let mut left = steps;
            let removed = ShardDirectory::remove_by(
                root.path(),
                |generation| generation < 1,
                |step| {
                    let is_killed = left == 0;
                    left = left.saturating_sub(1);
                    match &step {
                        Step::Delete(path) => {
                            assert!(!loose.contains(path), "{path:?} may have its old name again");
                            if is_killed {
                                // It may be gone since the kill before.
                                let _ = std::fs::remove_file(path.join(FILES[0]));
                            }
                        }
                        _ if is_killed => {}
                        Step::Rename { to, .. } => drop(loose.insert(to.clone())),
                        Step::Sync(_) => loose.clear(),
                    }
                    match step {
                        _ if is_killed => Err(io::ErrorKind::Interrupted.into()),
                        Step::Sync(_) => Ok(()),
                        step => step.carry_out(),
                    }
                },
            );
            if let Err(error) = &removed {
                assert_eq!(error.kind(), io::ErrorKind::Interrupted);
            }
            removed.is_err()
        }

        /// The power goes: any of the new names are the old ones again.
        fn undo(&mut self, chosen: usize) {
            for (at, path) in std::mem::take(&mut self.loose).into_iter().enumerate() {
                if chosen >> at & 1 == 1 {
                    let name = path.file_name().unwrap().to_str().unwrap();
                    let before = name.strip_prefix(REMOVED).unwrap();
                    std::fs::rename(&path, self.root.path().join(before)).unwrap();
                }
            }
        }

        fn assert_whole(&self) {
            for directory in ShardDirectory::list(self.root.path()).unwrap() {
                let files = std::fs::read_dir(&directory.path).unwrap().count();
                assert_eq!(files, FILES.len(), "{}", directory.path.display());
            }
        }
    }

    /// A start is killed within each of its steps, and so is the next; after either the power may go.
    #[test]
    fn a_kill_inside_the_removal_leaves_no_directory_without_its_files() {
        for (first, second) in (0..6).flat_map(|first| (0..8).map(move |second| (first, second))) {
            for undone in 0..16 {
                let mut data = Data::new();
                if data.remove_until(first) {
                    data.undo(undone & 3);
                    data.assert_whole();
                }
                if data.remove_until(second) {
                    data.undo(undone >> 2);
                    data.assert_whole();
                }
                assert!(!data.remove_until(usize::MAX));
                assert_eq!(std::fs::read_dir(data.root.path()).unwrap().count(), 1);
            }
        }
    }

    /// What a killed start has renamed is not deleted before that is durable.
    #[test]
    fn the_next_start_makes_names_durable_that_a_killed_one_has_given() {
        let mut data = Data::new();
        assert!(data.remove_until(2), "both have their new names, and nothing is synced");
        assert_eq!(data.loose.len(), 2);
        assert!(!data.remove_until(usize::MAX));
    }
}
