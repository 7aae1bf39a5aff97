//! The store of one coordinator on one machine: a directory, locked while the process lives.
//!
//! ```text
//! DIR/lock        held by flock
//! DIR/map         the map
//! DIR/catalogue   the catalogue
//!
//! offset size
//!      0    8  "WLCOORD2"
//!      8    4  CRC32C of the rest
//!     12       the item, beginning with its version
//! ```
//!
//! A file is replaced whole: written beside, synced, renamed, and the directory synced.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use windlass_wire::Checksum;

use super::{Item, Store, StoreError, Written, version_of};
use crate::{private_files, shard::chain};

/// A locked directory.
#[derive(Debug)]
pub(super) struct FileStore {
    directory: PathBuf,
    _lock: File,
    versions: [u64; Item::ALL.len()],
}

const MAGIC: [u8; 8] = *b"WLCOORD2";
const ITEM_AT: usize = 12;

impl FileStore {
    /// Opens a directory, which is made if it is missing.
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        let disk = |step| {
            let path = directory.to_owned();
            move |source| StoreError::Disk { step, path, source }
        };
        let is_known = |name: &str| ["lock", "map", "catalogue"].contains(&name);
        if private_files::is_foreign(directory, is_known).map_err(disk("read"))? {
            return Err(StoreError::Foreign { path: directory.to_owned() });
        }
        private_files::make_directory(directory).map_err(disk("make"))?;
        let lock = private_files::open_lock(&directory.join("lock")).map_err(disk("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            if error == rustix::io::Errno::WOULDBLOCK {
                StoreError::Taken { path: directory.to_owned() }
            } else {
                disk("lock")(error.into())
            }
        })?;
        Ok(Self { directory: directory.to_owned(), _lock: lock, versions: Default::default() })
    }
}

fn read(directory: &Path, item: Item) -> Result<Option<Vec<u8>>, StoreError> {
    let path = directory.join(item.name());
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Disk { step: "read", path, source }),
    };
    let damaged = || StoreError::Damaged { what: path.display().to_string() };
    let (header, held) = bytes.split_at_checked(ITEM_AT).ok_or_else(damaged)?;
    let checksum = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if header[..8] != MAGIC || Checksum::of(held).0 != checksum {
        return Err(damaged());
    }
    Ok(Some(held.to_vec()))
}

/// The files of a directory that cannot be used, each with the reason; of a store in use as well.
pub(crate) fn scrub_file_store(directory: &Path) -> Vec<(&'static str, String)> {
    let items = Item::ALL.into_iter();
    items.filter_map(|item| Some((item.name(), chain(&read(directory, item).err()?)))).collect()
}

/// A store with something in every item.
#[cfg(test)]
pub(crate) fn store_sample(directory: &Path) {
    let mut store = FileStore::open(directory).unwrap();
    for item in Item::ALL {
        store.write(item, 0, &1_u64.to_le_bytes()).unwrap();
    }
}

impl Store for FileStore {
    fn name(&self) -> &'static str {
        "file"
    }

    fn campaign(&mut self, _: Duration) -> Result<Option<Vec<Option<Vec<u8>>>>, StoreError> {
        let mut items = Vec::new();
        for item in Item::ALL {
            let bytes = read(&self.directory, item)?;
            self.versions[item as usize] = bytes.as_deref().map_or(0, version_of);
            items.push(bytes);
        }
        Ok(Some(items))
    }

    fn write(&mut self, item: Item, expected: u64, bytes: &[u8]) -> Result<Written, StoreError> {
        let version = version_of(bytes);
        // The version itself: the write before was repeated after an error, and had been done.
        if self.versions[item as usize] != expected && self.versions[item as usize] != version {
            return Ok(Written::Deposed);
        }
        let path = self.directory.join(item.name());
        let checksum = Checksum::of(bytes).0.to_le_bytes();
        private_files::replace(&path, &[&MAGIC, &checksum, bytes])
            .map_err(|source| StoreError::Disk { step: "write", path, source })?;
        self.versions[item as usize] = version;
        Ok(Written::Done)
    }

    fn lease(&self) -> Option<Duration> {
        None
    }

    fn renew(&mut self) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn resign(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(version: u64, text: &[u8]) -> Vec<u8> {
        [&version.to_le_bytes(), text].concat()
    }

    #[test]
    fn items_are_replaced_by_version_and_survive() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = FileStore::open(folder.path()).unwrap();
        assert!(matches!(FileStore::open(folder.path()), Err(StoreError::Taken { .. })));
        assert_eq!(store.campaign(Duration::ZERO).unwrap().unwrap(), [None, None]);
        assert_eq!(store.write(Item::Map, 0, &item(1, b"a")).unwrap(), Written::Done);
        assert_eq!(store.write(Item::Map, 1, &item(2, b"b")).unwrap(), Written::Done);
        assert_eq!(store.write(Item::Map, 1, &item(2, b"b")).unwrap(), Written::Done);
        assert_eq!(store.write(Item::Map, 5, &item(6, b"c")).unwrap(), Written::Deposed);
        drop(store);
        let mut store = FileStore::open(folder.path()).unwrap();
        assert_eq!(store.campaign(Duration::ZERO).unwrap().unwrap(), [Some(item(2, b"b")), None]);
        let path = folder.path().join("map");
        let mut bytes = fs::read(&path).unwrap();
        bytes[14] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(matches!(store.campaign(Duration::ZERO), Err(StoreError::Damaged { .. })));
    }
}
