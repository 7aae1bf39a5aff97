//! Simulated disks of servers in this process: each directory that a server asks for has one.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use windlass_engine::persist::storage::{Maker, Provider, Storage, StorageError};
use windlass_wire::Checksum;

use super::{disk::SharedDisk, simulated::SimulatedStorage, workload::End};

/// Has a server's directories on simulated disks.
pub const PROVIDER: Provider = Provider::Made(Maker(open_simulated));

/// Marks a directory whose disk is known. One that was removed has lost its files.
const MARK: &str = "simulated";

static DISKS: Mutex<BTreeMap<PathBuf, SharedDisk>> = Mutex::new(BTreeMap::new());
/// Seeds of disks below a directory.
static SEEDS: Mutex<BTreeMap<PathBuf, u64>> = Mutex::new(BTreeMap::new());

fn disks() -> MutexGuard<'static, BTreeMap<PathBuf, SharedDisk>> {
    DISKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Disks that are made below a directory do what this seed and their own names say.
pub fn seed(root: &Path, seed: u64) {
    SEEDS.lock().unwrap_or_else(PoisonError::into_inner).insert(root.to_owned(), seed);
}

fn seed_of(directory: &Path) -> u64 {
    let seeds = SEEDS.lock().unwrap_or_else(PoisonError::into_inner);
    let below = |(root, seed): (&PathBuf, &u64)| {
        let name = directory.strip_prefix(root).ok()?.to_string_lossy().into_owned();
        Some(seed ^ u64::from(Checksum::of(name.as_bytes()).0) << 16)
    };
    seeds.iter().find_map(below).unwrap_or_default()
}

fn open_simulated(directory: &Path) -> Result<Box<dyn Storage>, StorageError> {
    let mark = directory.join(MARK);
    let is_new = !mark.exists();
    let failed = |source| StorageError {
        operation: "simulate",
        name: directory.display().to_string(),
        source,
    };
    if is_new {
        let disk = SharedDisk::new(seed_of(directory));
        // What a restore has put there.
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            let bytes = std::fs::read(&path).map_err(failed)?;
            disk.borrow_mut().put_file(&name.unwrap_or_default(), bytes);
        }
        disks().insert(directory.to_owned(), disk);
        std::fs::write(&mark, []).map_err(failed)?;
    }
    let disk = disks().get(directory).expect("a disk for each directory").clone();
    Ok(Box::new(SimulatedStorage::new(disk)))
}

/// The disks of one server.
#[derive(Clone, Debug)]
pub struct ServerDisks {
    data: PathBuf,
}

impl ServerDisks {
    /// Those below a server's directory.
    #[must_use]
    pub fn of(data: &Path) -> Self {
        Self { data: data.to_owned() }
    }

    /// All that there are by now.
    #[must_use]
    pub fn all(&self) -> Vec<SharedDisk> {
        let below = |path: &PathBuf| path.starts_with(&self.data) && path.join(MARK).exists();
        disks().iter().filter(|(path, _)| below(path)).map(|(_, disk)| disk.clone()).collect()
    }

    /// Whether the power of any is off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.all().iter().any(|disk| disk.borrow().is_off())
    }

    /// All lose their power at once, or at least soon after the first.
    pub fn cut(&self) {
        self.all().iter().for_each(|disk| disk.borrow_mut().cut());
    }

    /// Each loses its power after so many of its events, unless it was told before when to.
    pub fn cut_after(&self, events: Option<u64>) {
        for disk in self.all() {
            let mut disk = disk.borrow_mut();
            if !disk.is_cut() {
                disk.cut_after(events);
            }
        }
    }

    /// What comes after a life that ended so.
    pub fn end(&self, end: End) {
        for disk in self.all() {
            match end {
                End::PowerCut => disk.borrow_mut().power_cycle(),
                End::Kill | End::Close => disk.borrow_mut().kill(),
            }
        }
    }

    /// Directories that the server has removed, whose disks are known.
    #[must_use]
    pub fn removed(&self) -> Vec<PathBuf> {
        let removed = |path: &&PathBuf| path.starts_with(&self.data) && !path.join(MARK).exists();
        disks().keys().filter(removed).cloned().collect()
    }

    /// A directory that was taken out of the way has its old name and its files again: the power went before
    /// its new name was durable.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn put_back(&self, directory: &Path) {
        fs::create_dir(directory).expect("its name is free");
        fs::write(directory.join(MARK), []).expect("the mark is written");
    }

    /// Writes what the disks hold into files of the directories they stand for.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub fn write_out(&self) {
        for (path, disk) in disks().iter().filter(|(path, _)| path.starts_with(&self.data)) {
            if path.join(MARK).exists() {
                for (name, bytes) in disk.borrow().files() {
                    std::fs::write(path.join(name), bytes).expect("the file is written");
                }
            }
        }
    }

    /// Copies a server's directory: what its disks hold are files of the copy.
    ///
    /// # Panics
    /// When a file cannot be read or written.
    pub fn copy(&self, into: &Path) {
        copy(&self.data, into).expect("the directory is copied");
    }
}

fn copy(from: &Path, into: &Path) -> io::Result<()> {
    fs::create_dir_all(into)?;
    if from.join(MARK).exists() {
        let disk = disks()[from].clone();
        return disk
            .borrow()
            .files()
            .try_for_each(|(name, bytes)| fs::write(into.join(name), bytes));
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = into.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// Forgets the disks below a directory, and removes it.
///
/// # Panics
/// When it cannot be removed.
pub fn discard(data: &Path) {
    disks().retain(|path, _| !path.starts_with(data));
    fs::remove_dir_all(data).expect("the directory is removed");
}
