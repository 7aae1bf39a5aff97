//! The manifest of a checkpoint: which files hold it, what it covers, where the log goes on. It is
//! written under a temporary name, synced, and renamed; the newest valid one counts.
//!
//! ```text
//!  a frame of kind Manifest, padded to whole blocks
//!   lsn         number of the checkpoint, from 1
//!   epoch       log position from which the log is needed
//!   row_start   identity of the log
//!   row_count   number of partitions
//!   covered     number of files
//!   64   8      the log was durable up to here when the checkpoint was published
//!   72   8      sequence of the oldest segment needed
//!   80   8      when it was published, seconds since 1970
//!   128  32*f   file: number (8), length (8), blocks (8), 1 if it holds all blocks of its time (8)
//!   ..   40*p   partition (4), zero (4), LSN from which the log is needed (8), LSN reached (8),
//!               epoch (8), number of the first file whose blocks count (8)
//! ```

use windlass_wire::{Epoch, Lsn, PartitionId};

use super::{
    frame::{Frame, FrameError, Header, Kind, Salt, word32, word64},
    limits::{BLOCK_BYTES, CHECKPOINT_FILES_MAX, MANIFEST_BYTES_MAX, PARTITIONS_PER_LOG_MAX},
    memory::Window,
    storage::{self, Buffer, RegionId, Storage, StorageError},
};

const LISTS_START: usize = 128;
const FILE_BYTES: usize = 32;
const PARTITION_BYTES: usize = 40;

/// A manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Number of the checkpoint.
    pub number: u64,
    /// Log position from which the log is needed.
    pub log_position: u64,
    /// Identity of the log.
    pub log_id: u64,
    /// The log was durable up to here at least.
    pub log_durable: u64,
    /// Sequence of the oldest segment needed.
    pub log_sequence: u64,
    /// Seconds since 1970.
    pub published_seconds: u64,
    /// Its files: one with all blocks, then increments.
    pub files: Vec<DataFile>,
    /// Its partitions.
    pub partitions: Vec<CheckpointPartition>,
}

/// One data file of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DataFile {
    /// Number of the checkpoint that wrote it.
    pub number: u64,
    /// Length in bytes.
    pub length: u64,
    /// Blocks in it.
    pub blocks: u64,
    /// Whether it holds all blocks.
    pub full: bool,
}

/// One partition of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointPartition {
    /// The partition.
    pub partition: PartitionId,
    /// Records after this one are needed from the log.
    pub begin: Lsn,
    /// No block is newer than this.
    pub end: Lsn,
    /// Epoch at the time.
    pub epoch: Epoch,
    /// Blocks in files before this number are void.
    pub first_file: u64,
}

impl Manifest {
    /// Length when encoded: whole blocks.
    #[must_use]
    pub fn length(&self) -> usize {
        (LISTS_START + self.files.len() * FILE_BYTES + self.partitions.len() * PARTITION_BYTES)
            .next_multiple_of(BLOCK_BYTES)
    }

    /// Writes it into exactly [`Manifest::length`] bytes.
    pub fn encode(&self, into: &mut [u8]) {
        into.fill(0);
        into[64..72].copy_from_slice(&self.log_durable.to_le_bytes());
        into[72..80].copy_from_slice(&self.log_sequence.to_le_bytes());
        into[80..88].copy_from_slice(&self.published_seconds.to_le_bytes());
        let mut lists = &mut into[LISTS_START..];
        let mut put = |word: u64| {
            let (head, rest) = std::mem::take(&mut lists).split_at_mut(8);
            head.copy_from_slice(&word.to_le_bytes());
            lists = rest;
        };
        for file in &self.files {
            for word in [file.number, file.length, file.blocks, u64::from(file.full)] {
                put(word);
            }
        }
        for entry in &self.partitions {
            // A 32-bit number and four zero bytes are the 64-bit number, little-endian.
            put(u64::from(entry.partition.0));
            for word in [entry.begin.0, entry.end.0, entry.epoch.0, entry.first_file] {
                put(word);
            }
        }
        let header = Header {
            lsn: self.number,
            epoch: self.log_position,
            row_start: self.log_id,
            row_count: self.partitions.len() as u64,
            covered: u16::try_from(self.files.len()).expect("few files"),
            ..Header::of(Kind::Manifest)
        };
        header.seal(into, Salt::NONE);
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// When any bit is not what was written.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let frame = Frame::decode(bytes, Salt::NONE)?;
        let header = frame.header;
        if header.kind != Kind::Manifest {
            return Err(FrameError::Kind { found: header.kind as u8 });
        }
        let files = usize::from(header.covered);
        let partitions = usize::try_from(header.row_count).unwrap_or(usize::MAX);
        if files > CHECKPOINT_FILES_MAX
            || partitions > PARTITIONS_PER_LOG_MAX
            || LISTS_START + files * FILE_BYTES + partitions * PARTITION_BYTES > frame.bytes.len()
        {
            return Err(FrameError::Length { length: frame.bytes.len() });
        }
        let (file_list, rest) = frame.bytes[LISTS_START..].split_at(files * FILE_BYTES);
        Ok(Self {
            number: header.lsn,
            log_position: header.epoch,
            log_id: header.row_start,
            log_durable: word64(frame.bytes, 64),
            log_sequence: word64(frame.bytes, 72),
            published_seconds: word64(frame.bytes, 80),
            files: file_list
                .chunks_exact(FILE_BYTES)
                .map(|entry| DataFile {
                    number: word64(entry, 0),
                    length: word64(entry, 8),
                    blocks: word64(entry, 16),
                    full: word64(entry, 24) == 1,
                })
                .collect(),
            partitions: rest[..partitions * PARTITION_BYTES]
                .chunks_exact(PARTITION_BYTES)
                .map(|entry| CheckpointPartition {
                    partition: PartitionId(word32(entry, 0)),
                    begin: Lsn(word64(entry, 8)),
                    end: Lsn(word64(entry, 16)),
                    epoch: Epoch(word64(entry, 24)),
                    first_file: word64(entry, 32),
                })
                .collect(),
        })
    }

    /// The entry of a partition.
    #[must_use]
    pub fn partition(&self, partition: PartitionId) -> Option<&CheckpointPartition> {
        self.partitions.iter().find(|entry| entry.partition == partition)
    }
}

/// Name of the data file a checkpoint wrote.
#[must_use]
pub fn data_name(number: u64) -> String {
    format!("checkpoint-{number:010}.wckp")
}

/// Name of a checkpoint's manifest.
#[must_use]
pub fn manifest_name(number: u64) -> String {
    format!("manifest-{number:010}.wman")
}

/// Name it is written under before it is published.
#[must_use]
pub fn temporary_name(number: u64) -> String {
    format!("manifest-{number:010}.new")
}

/// The number in a manifest's name.
#[must_use]
pub fn manifest_number(name: &str) -> Option<u64> {
    name.strip_prefix("manifest-")?.strip_suffix(".wman")?.parse().ok()
}

/// The number in a data file's name.
#[must_use]
pub fn data_number(name: &str) -> Option<u64> {
    name.strip_prefix("checkpoint-")?.strip_suffix(".wckp")?.parse().ok()
}

/// A manifest that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BadManifest {
    /// Its file.
    pub file: String,
    /// Why.
    pub reason: String,
    /// Whether it is sound, and of another version of windlass.
    #[serde(skip)]
    pub is_foreign: bool,
}

/// All manifests of a directory, newest first, and those that cannot be read. Blocks.
///
/// # Errors
/// When the directory cannot be read.
pub fn read_manifests(
    storage: &mut dyn Storage,
) -> Result<(Vec<Manifest>, Vec<BadManifest>), StorageError> {
    let mut listed = storage.list()?;
    listed.retain(|file| manifest_number(&file.name).is_some());
    listed.sort_by(|a, b| b.name.cmp(&a.name));
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    if listed.is_empty() {
        return Ok((good, bad));
    }
    let window = Window::allocate(MANIFEST_BYTES_MAX).map_err(|source| StorageError {
        operation: "allocate memory for reading",
        name: "manifests".to_owned(),
        source,
    })?;
    let region = storage.register(window.pages().clone())?;
    for file in listed {
        match read_manifest(storage, &window, region, &file.name, file.length) {
            Ok(manifest) => good.push(manifest),
            Err((reason, is_foreign)) => {
                bad.push(BadManifest { file: file.name, reason, is_foreign });
            }
        }
    }
    Ok((good, bad))
}

fn read_manifest(
    storage: &mut dyn Storage,
    window: &Window,
    region: RegionId,
    name: &str,
    length: u64,
) -> Result<Manifest, (String, bool)> {
    if length > MANIFEST_BYTES_MAX as u64 {
        return Err((format!("{length} bytes are more than a manifest has"), false));
    }
    let unread = |error: StorageError| (error.source.to_string(), false);
    let file = storage::open_file(storage, name, false).map_err(unread)?;
    let length = u32::try_from(MANIFEST_BYTES_MAX).unwrap_or(0);
    let count = storage::read(storage, file, 0, Buffer { region, start: 0, length });
    let closed = storage::run(storage, storage::Operation::Close { file });
    let count = count.and_then(|count| closed.map(|_| count));
    let count = count.map_err(unread)?;
    Manifest::decode(window.bytes(0, count as usize))
        .map_err(|error| (error.to_string(), error.is_foreign()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Manifest {
        Manifest {
            number: 12,
            log_position: 8192,
            log_id: 77,
            log_durable: 12_288,
            log_sequence: 3,
            published_seconds: 1_800_000_000,
            files: vec![
                DataFile { number: 9, length: 1 << 20, blocks: 16, full: true },
                DataFile { number: 12, length: 8192, blocks: 1, full: false },
            ],
            partitions: vec![CheckpointPartition {
                partition: PartitionId(5),
                begin: Lsn(100),
                end: Lsn(140),
                epoch: Epoch(2),
                first_file: 9,
            }],
        }
    }

    #[test]
    fn manifests_round_trip_and_refuse_every_flipped_bit() {
        let manifest = sample();
        let mut bytes = vec![0xAA; manifest.length()];
        manifest.encode(&mut bytes);
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
        for byte in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[byte] ^= 0x10;
            assert!(Manifest::decode(&damaged).is_err(), "byte {byte}");
        }
    }

    #[test]
    fn files_are_told_by_their_names() {
        assert_eq!(manifest_name(12), "manifest-0000000012.wman");
        assert_eq!(temporary_name(12), "manifest-0000000012.new");
        assert_eq!(data_name(12), "checkpoint-0000000012.wckp");
        assert_eq!(manifest_number(&manifest_name(12)), Some(12));
        assert_eq!(data_number(&data_name(12)), Some(12));
        for other in [data_name(12), temporary_name(12)] {
            assert_eq!(manifest_number(&other), None);
        }
        assert_eq!(data_number(&manifest_name(12)), None);
    }

    /// Changing these bytes is a change of the format.
    #[test]
    fn a_manifest_lies_as_it_is_drawn() {
        let mut bytes = vec![0xAA; sample().length()];
        sample().encode(&mut bytes);
        let header = Frame::decode(&bytes, Salt::NONE).unwrap().header;
        assert_eq!((header.lsn, header.epoch, header.row_start), (12, 8192, 77));
        assert_eq!((header.kind, header.row_count, header.covered), (Kind::Manifest, 1, 2));
        let words: Vec<u64> = (64..).step_by(8).take(22).map(|at| word64(&bytes, at)).collect();
        assert_eq!(words[..8], [12_288, 3, 1_800_000_000, 0, 0, 0, 0, 0]);
        assert_eq!(words[8..16], [9, 1 << 20, 16, 1, 12, 8192, 1, 0]);
        assert_eq!(words[16..], [5, 100, 140, 2, 9, 0]);
    }

    #[test]
    fn frames_that_are_no_manifest_are_refused() {
        let sealed = |header: Header, length: usize| {
            let mut bytes = vec![0; length];
            header.seal(&mut bytes, Salt::NONE);
            Manifest::decode(&bytes)
        };
        let of = |covered, row_count| Header { covered, row_count, ..Header::of(Kind::Manifest) };
        // Two files and 97 partitions leave 24 bytes of a block.
        assert_eq!(sealed(of(2, 97), BLOCK_BYTES).unwrap().partitions.len(), 97);
        let length = FrameError::Length { length: BLOCK_BYTES };
        for (files, partitions) in [(3, 97), (2, 98), (0, u64::MAX >> 6), (65, 0)] {
            assert_eq!(sealed(of(files, partitions), BLOCK_BYTES).unwrap_err(), length);
        }
        let long = 64 * BLOCK_BYTES;
        let refused = FrameError::Length { length: long };
        assert!(sealed(of(64, 4096), long).is_ok());
        assert_eq!(sealed(of(65, 4096), long).unwrap_err(), refused);
        assert_eq!(sealed(of(64, 4097), long).unwrap_err(), refused);
        let kind = FrameError::Kind { found: Kind::Pad as u8 };
        assert_eq!(sealed(Header::of(Kind::Pad), BLOCK_BYTES).unwrap_err(), kind);
    }

    #[test]
    fn partitions_are_found_by_their_number() {
        let manifest = sample();
        assert_eq!(manifest.partition(PartitionId(5)), Some(&manifest.partitions[0]));
        assert_eq!(manifest.partition(PartitionId(4)), None);
    }

    #[test]
    fn manifests_of_a_directory_are_read_newest_first_and_bad_ones_told() {
        let folder = tempfile::tempdir().unwrap();
        let write = |number: u64, bytes: &[u8]| {
            std::fs::write(folder.path().join(manifest_name(number)), bytes).unwrap();
        };
        let sealed = |number| {
            let manifest = Manifest { number, ..sample() };
            let mut bytes = vec![0; manifest.length()];
            manifest.encode(&mut bytes);
            bytes
        };
        let mut storage = storage::open(folder.path(), storage::Provider::Buffered).unwrap();
        assert_eq!(read_manifests(storage.as_mut()).unwrap(), (Vec::new(), Vec::new()));
        [3, 11, 4].into_iter().for_each(|number| write(number, &sealed(number)));
        write(7, &sealed(7)[..100]);
        let mut foreign = sealed(8);
        foreign[14] += 1;
        let checksum = windlass_wire::Checksum::of(&foreign[4..64]).0 ^ word32(&sealed(8), 0);
        let checksum = checksum ^ windlass_wire::Checksum::of(&sealed(8)[4..64]).0;
        foreign[..4].copy_from_slice(&checksum.to_le_bytes());
        write(8, &foreign);
        std::fs::File::create(folder.path().join(manifest_name(9)))
            .and_then(|file| file.set_len(MANIFEST_BYTES_MAX as u64 + 1))
            .unwrap();
        std::fs::write(folder.path().join(temporary_name(12)), sealed(12)).unwrap();
        let (good, bad) = read_manifests(storage.as_mut()).unwrap();
        assert_eq!(good.iter().map(|good| good.number).collect::<Vec<_>>(), [11, 4, 3]);
        let bad: Vec<_> = bad.iter().map(|bad| (bad.file.clone(), bad.is_foreign)).collect();
        assert_eq!(bad, [9, 8, 7].map(|number| (manifest_name(number), number == 8)));
    }

    #[test]
    fn manifests_of_any_length_round_trip() {
        for (files, partitions) in
            [(0, 0), (1, 1), (3, 100), (CHECKPOINT_FILES_MAX, PARTITIONS_PER_LOG_MAX)]
        {
            let file = |number| DataFile { number, length: 4096, blocks: 1, full: number % 2 == 0 };
            let partition = |number| CheckpointPartition {
                partition: PartitionId(number),
                ..sample().partitions[0]
            };
            let manifest = Manifest {
                files: (1..).map(file).take(files).collect(),
                partitions: (0..).map(partition).take(partitions).collect(),
                ..sample()
            };
            let mut bytes = vec![0xAA; manifest.length()];
            manifest.encode(&mut bytes);
            assert_eq!(Manifest::decode(&bytes).unwrap(), manifest, "{files} files");
        }
    }
}
