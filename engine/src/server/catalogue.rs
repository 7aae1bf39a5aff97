//! The table catalogue on disk: which tables there are, so that recovery knows their schemas.
//!
//! ```text
//! offset size
//!      0    8  "WLCATAL2"
//!      8    4  CRC32C of the body
//!     12       body: next table id (4), shards of the server (2), generation of their
//!              directories (4), list of tables
//! ```
//!
//! "WLCATAL1" lacks the generation, which is 0.
//!
//! It is replaced whole: written beside, synced, renamed, and the directory synced.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use windlass_wire::{Checksum, TableEntry, Wire, codec::Reader};

use crate::persist::directories::ShardDirectory;

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Catalogue {
    pub(super) next_table: u32,
    pub(super) shard_count: u16,
    /// Which grouping of partitions the shards' directories are of.
    pub(super) generation: u32,
    pub(super) tables: Vec<TableEntry>,
}

/// Why the catalogue cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum CatalogueError {
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
    /// The file is damaged, or of another version.
    #[error(
        "{path} is damaged or of another version: restore it from a backup, or move the data directory away"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

const MAGIC: [u8; 8] = *b"WLCATAL2";
const MAGIC_1: [u8; 8] = *b"WLCATAL1";
const BODY_AT: usize = 12;

fn path_of(data: &Path) -> PathBuf {
    data.join("catalogue")
}

impl Catalogue {
    /// Reads the catalogue of a data directory, which is made if it is missing; `None` for a new one.
    pub(super) fn load(data: &Path) -> Result<Option<Self>, CatalogueError> {
        let path = path_of(data);
        let disk = |step, path: &Path| {
            let path = path.to_owned();
            move |source| CatalogueError::Disk { step, path, source }
        };
        fs::create_dir_all(data).map_err(disk("make", data))?;
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(disk("read", &path)(error)),
        };
        decode(&bytes).map(Some).ok_or(CatalogueError::Damaged { path })
    }

    /// The generation that so many shards go on in: this one, or a new one when they group the
    /// partitions anew. Removes what an attempt to begin one has left: nothing was served from it.
    pub(super) fn generation_for(
        &self,
        data: &Path,
        shard_count: u16,
    ) -> Result<u32, CatalogueError> {
        let path = data.to_owned();
        let disk = |step| move |source| CatalogueError::Disk { step, path, source };
        ShardDirectory::remove(data, |generation| generation > self.generation)
            .map_err(disk("remove directories of an abandoned start from"))?;
        Ok(if self.shard_count == shard_count { self.generation } else { self.generation + 1 })
    }

    /// Replaces the catalogue of a data directory; durable when it returns.
    pub(super) fn store(&self, data: &Path) -> Result<(), CatalogueError> {
        let path = path_of(data);
        let temporary = data.join("catalogue.new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&encode(self))?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(data)?.sync_all()
        };
        write().map_err(|source| CatalogueError::Disk { step: "write", path: path.clone(), source })
    }
}

fn encode(catalogue: &Catalogue) -> Vec<u8> {
    let mut bytes = vec![0; BODY_AT];
    catalogue.next_table.encode(&mut bytes);
    catalogue.shard_count.encode(&mut bytes);
    catalogue.generation.encode(&mut bytes);
    catalogue.tables.encode(&mut bytes);
    let checksum = Checksum::of(&bytes[BODY_AT..]);
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..BODY_AT].copy_from_slice(&checksum.0.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Catalogue> {
    let (header, body) = bytes.split_at_checked(BODY_AT)?;
    let checksum = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    let is_first = header[..8] == MAGIC_1;
    if !(is_first || header[..8] == MAGIC) || Checksum::of(body).0 != checksum {
        return None;
    }
    let mut from = Reader::new(body);
    let catalogue = Catalogue {
        next_table: u32::decode(&mut from).ok()?,
        shard_count: u16::decode(&mut from).ok()?,
        generation: if is_first { 0 } else { u32::decode(&mut from).ok()? },
        tables: Vec::decode(&mut from).ok()?,
    };
    from.finish().ok()?;
    Some(catalogue)
}

#[cfg(test)]
mod tests {
    use windlass_wire::{DataType, TableId, TableSchema};

    use super::*;

    #[test]
    fn damage_anywhere_is_noticed() {
        let schema = TableSchema::sparse(DataType::F32, 4);
        let table = TableEntry { id: TableId(7), name: "t".to_owned(), schema };
        let catalogue =
            Catalogue { next_table: 8, shard_count: 2, generation: 3, tables: vec![table] };
        let bytes = encode(&catalogue);
        assert_eq!(decode(&bytes), Some(catalogue));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert_eq!(decode(&damaged), None, "byte {at}");
        }
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn the_first_version_is_still_read() {
        let mut bytes = vec![0; BODY_AT];
        9_u32.encode(&mut bytes);
        3_u16.encode(&mut bytes);
        Vec::<TableEntry>::new().encode(&mut bytes);
        bytes[..8].copy_from_slice(b"WLCATAL1");
        let checksum = Checksum::of(&bytes[BODY_AT..]);
        bytes[8..BODY_AT].copy_from_slice(&checksum.0.to_le_bytes());
        let expected = Catalogue { next_table: 9, shard_count: 3, ..Catalogue::default() };
        assert_eq!(decode(&bytes), Some(expected));
    }
}
