//! The table catalogue on disk: which tables there are, so that recovery knows their schemas.
//!
//! ```text
//! offset size
//!      0    8  "WLCATAL4"
//!      8    4  CRC32C of the body
//!     12       body: next table id (4), shards of the server (2), generation of their
//!              directories (4), partitions of the cluster (4), directories that may have
//!              rows of the same one (1), list of its servers (4 each), list of tables, list of the shards' logs: generation (4), shard
//!              (2), identity of the log (8)
//! ```
//!
//! "WLCATAL3" lacks the logs: not known. "WLCATAL2" lacks partitions, copies and servers: not known. "WLCATAL1" lacks the generation, too: 0.
//!
//! It is replaced whole: written beside, synced, renamed, and the directory synced.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use windlass_wire::{
    Checksum, ServerId, TableEntry, Wire,
    codec::{DecodeError, Reader},
};

use crate::{persist::directories::ShardDirectory, private_files, shard::KeptLog};

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Catalogue {
    pub(crate) next_table: u32,
    /// Zero when the directories are of several servers: any number of shards groups them anew.
    pub(super) shard_count: u16,
    /// Which grouping of partitions the shards' directories are of.
    pub(super) generation: u32,
    /// Partitions of the cluster; zero when not known.
    pub(crate) partitions: u32,
    /// How many directories may have rows of the same partition; zero when not known.
    pub(super) copies: u8,
    /// Servers of the cluster when this was written.
    pub(super) servers: Vec<ServerId>,
    pub(crate) tables: Vec<TableEntry>,
    /// The logs in the shards' directories, as far as they are known.
    pub(super) logs: Vec<KeptLog>,
}

/// Why the catalogue cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogueError {
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
    /// Nobody knows whose the shards' directories are.
    #[error(
        "{path} is missing, and there are directories of shards beside it: restore it from a backup, or \
         move the data directory away"
    )]
    Missing {
        /// The file.
        path: PathBuf,
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

/// Why restored tables are not served by chains.
pub(crate) const ONE_COPY: &str = "each server takes its partitions from the restored files, and \
                                   copies of them would not be told apart: use --replicas 1";

const MAGIC: [u8; 8] = *b"WLCATAL4";
const MAGIC_3: [u8; 8] = *b"WLCATAL3";
const MAGIC_2: [u8; 8] = *b"WLCATAL2";
const MAGIC_1: [u8; 8] = *b"WLCATAL1";
const BODY_AT: usize = 12;

fn path_of(data: &Path) -> PathBuf {
    data.join("catalogue")
}

impl Catalogue {
    /// Reads the catalogue of a data directory, which is made if it is missing; `None` for a new one.
    pub(super) fn load(data: &Path) -> Result<Option<Self>, CatalogueError> {
        let path = data.to_owned();
        private_files::make_directory(data).map_err(|source| CatalogueError::Disk {
            step: "make",
            path,
            source,
        })?;
        Self::of(data)
    }

    /// Reads the catalogue of a data directory; `None` when nothing is kept there.
    pub(super) fn of(data: &Path) -> Result<Option<Self>, CatalogueError> {
        let read = Self::read(data)?;
        let listed = ShardDirectory::list(data).map_err(|source| CatalogueError::Disk {
            step: "list",
            path: data.to_owned(),
            source,
        })?;
        if read.is_none() && !listed.is_empty() {
            return Err(CatalogueError::Missing { path: path_of(data) });
        }
        Ok(read)
    }

    /// Reads the catalogue of a data directory; `None` when there is none.
    pub(crate) fn read(data: &Path) -> Result<Option<Self>, CatalogueError> {
        let path = path_of(data);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CatalogueError::Disk { step: "read", path, source }),
        };
        decode(&bytes).map(Some).ok_or(CatalogueError::Damaged { path })
    }

    /// Whether `restore` made it, and no server has served from it yet.
    pub(crate) fn is_restored(&self) -> bool {
        self.shard_count == 0
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
        private_files::replace(&path, &[&encode(self)]).map_err(|source| CatalogueError::Disk {
            step: "write",
            path,
            source,
        })
    }
}

fn encode(catalogue: &Catalogue) -> Vec<u8> {
    let mut bytes = vec![0; BODY_AT];
    catalogue.next_table.encode(&mut bytes);
    catalogue.shard_count.encode(&mut bytes);
    catalogue.generation.encode(&mut bytes);
    catalogue.partitions.encode(&mut bytes);
    catalogue.copies.encode(&mut bytes);
    catalogue.servers.encode(&mut bytes);
    catalogue.tables.encode(&mut bytes);
    catalogue.logs.encode(&mut bytes);
    let checksum = Checksum::of(&bytes[BODY_AT..]);
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..BODY_AT].copy_from_slice(&checksum.0.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Catalogue> {
    let (header, body) = bytes.split_at_checked(BODY_AT)?;
    let checksum = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    let magics = [MAGIC_1, MAGIC_2, MAGIC_3, MAGIC];
    let version = magics.iter().position(|magic| header[..8] == *magic)? + 1;
    if Checksum::of(body).0 != checksum {
        return None;
    }
    let mut from = Reader::new(body);
    let catalogue = Catalogue {
        next_table: u32::decode(&mut from).ok()?,
        shard_count: u16::decode(&mut from).ok()?,
        generation: if version < 2 { 0 } else { u32::decode(&mut from).ok()? },
        partitions: if version < 3 { 0 } else { u32::decode(&mut from).ok()? },
        copies: if version < 3 { 0 } else { u8::decode(&mut from).ok()? },
        servers: if version < 3 { Vec::new() } else { Vec::decode(&mut from).ok()? },
        tables: Vec::decode(&mut from).ok()?,
        logs: if version < 4 { Vec::new() } else { Vec::decode(&mut from).ok()? },
    };
    from.finish().ok()?;
    Some(catalogue)
}

impl Wire for KeptLog {
    fn encode(&self, into: &mut Vec<u8>) {
        self.generation.encode(into);
        self.shard.encode(into);
        self.log_id.encode(into);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            generation: Wire::decode(from)?,
            shard: Wire::decode(from)?,
            log_id: Wire::decode(from)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use windlass_wire::{DataType, ShardId, TableId, TableSchema};

    use super::*;

    #[test]
    fn damage_anywhere_is_noticed() {
        let schema = TableSchema::sparse(DataType::F32, 4);
        let table = TableEntry { id: TableId(7), name: "t".to_owned(), schema };
        let catalogue = Catalogue {
            next_table: 8,
            shard_count: 2,
            generation: 3,
            partitions: 64,
            copies: 2,
            servers: vec![ServerId(0), ServerId(4)],
            tables: vec![table],
            logs: vec![KeptLog { generation: 3, shard: ShardId(1), log_id: 99 }],
        };
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
    fn directories_of_shards_without_a_catalogue_are_nobody_s() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(Catalogue::load(data.path()).unwrap(), None);
        fs::create_dir(data.path().join("shard-000001-0000")).unwrap();
        let refusal = Catalogue::load(data.path()).unwrap_err().to_string();
        assert!(refusal.contains("catalogue is missing"), "{refusal}");
        Catalogue::default().store(data.path()).unwrap();
        assert!(Catalogue::load(data.path()).unwrap().is_some());
    }

    #[test]
    fn earlier_versions_are_still_read() {
        for (magic, generation) in [(b"WLCATAL1", 0), (b"WLCATAL2", 6_u32)] {
            let mut bytes = vec![0; BODY_AT];
            9_u32.encode(&mut bytes);
            3_u16.encode(&mut bytes);
            if generation > 0 {
                generation.encode(&mut bytes);
            }
            Vec::<TableEntry>::new().encode(&mut bytes);
            bytes[..8].copy_from_slice(magic);
            let checksum = Checksum::of(&bytes[BODY_AT..]);
            bytes[8..BODY_AT].copy_from_slice(&checksum.0.to_le_bytes());
            let expected =
                Catalogue { next_table: 9, shard_count: 3, generation, ..Catalogue::default() };
            assert_eq!(decode(&bytes), Some(expected));
        }
    }
}
