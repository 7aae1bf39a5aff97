//! Finding the segments of a log and the order in which they continue each other.

use std::collections::BTreeMap;

use super::{
    frame::{HEADER_BYTES, Header, Salt},
    limits::{BLOCK_BYTES, SEQUENCE_JUMP, SUPERBLOCK_BYTES_MAX},
    memory::Window,
    segment::{Batch, Superblock, file_number},
    storage::{self, Buffer, FileId, RegionId, Storage, StorageError},
};

/// How much of a file without a superblock is searched for batches.
const PROBE_BYTES: usize = 1 << 20;

/// A segment of the log, in order.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) file: FileId,
    pub(crate) file_bytes: u64,
    pub(crate) sequence: u64,
    pub(crate) salt: Salt,
    pub(crate) base: u64,
    /// Where its first batch lies.
    pub(crate) start: u64,
    /// Where it ends, if the next one says so.
    pub(crate) end: Option<u64>,
    /// What it says of partitions; `None` when the superblock is damaged.
    pub(crate) superblock: Option<Superblock>,
}

/// All segment files of a directory.
#[derive(Debug, Default)]
pub(crate) struct LogFiles {
    pub(crate) log_id: u64,
    /// Oldest first.
    pub(crate) chain: Vec<Link>,
    /// Files that hold nothing that is still linked.
    pub(crate) free: Vec<(String, u64)>,
    /// A sequence that a link names and no file has.
    pub(crate) missing: Option<u64>,
    /// The newest sequence seen anywhere.
    pub(crate) last_sequence: u64,
}

struct Found {
    name: String,
    file: FileId,
    bytes: u64,
    superblock: Option<Superblock>,
}

impl LogFiles {
    /// Opens all segment files and links them back to the one in which log position `from` lies;
    /// older ones are free.
    pub(crate) fn open(storage: &mut dyn Storage, from: u64) -> Result<Self, StorageError> {
        let mut window = Window::allocate(PROBE_BYTES).map_err(|source| StorageError {
            operation: "allocate memory for reading",
            name: "the log".to_owned(),
            source,
        })?;
        let region = storage.register(window.pages().clone())?;
        let mut listed = storage.list()?;
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        let mut found = Vec::new();
        for file in listed.into_iter().filter(|file| file_number(&file.name).is_some()) {
            let id = storage::open_file(storage, &file.name, false)?;
            let superblock = read_superblock(storage, &mut window, region, id);
            found.push(Found { name: file.name, file: id, bytes: file.length, superblock });
        }
        let mut files = Self::default();
        files.link(storage, &mut window, region, found, from);
        Ok(files)
    }

    fn link(
        &mut self,
        storage: &mut dyn Storage,
        window: &mut Window,
        region: RegionId,
        found: Vec<Found>,
        from: u64,
    ) {
        let mut known: BTreeMap<u64, Found> = BTreeMap::new();
        let mut unknown: Vec<Found> = Vec::new();
        for file in found {
            match &file.superblock {
                Some(superblock) => {
                    known.insert(superblock.sequence, file);
                }
                None => unknown.push(file),
            }
        }
        let newest = known.last_key_value().map(|(sequence, _)| *sequence);
        if let Some(superblock) = newest.and_then(|newest| known[&newest].superblock.clone()) {
            self.log_id = superblock.log_id;
            self.last_sequence = superblock.sequence;
        }
        let mut chain: Vec<Link> = Vec::new();
        // A segment after the newest whose superblock is lost: only its batches tell.
        for sequence in newest.iter().flat_map(|newest| [newest + 1, newest + 1 + SEQUENCE_JUMP]) {
            if let Some(link) = self.probe(storage, window, region, &mut unknown, sequence) {
                self.last_sequence = sequence;
                chain.push(link);
                break;
            }
        }
        let mut wanted = newest.unwrap_or(0);
        let newest_base = newest.and_then(|newest| Some(known[&newest].superblock.as_ref()?.base));
        let mut end = chain.first().and_then(|link| link.base.checked_sub(newest_base?));
        while wanted > 0 && chain.last().is_none_or(|link: &Link| link.base > from) {
            if let Some(file) = known.remove(&wanted)
                && let Some(superblock) = file.superblock
            {
                chain.push(Link {
                    name: file.name,
                    file: file.file,
                    file_bytes: file.bytes,
                    sequence: wanted,
                    salt: superblock.salt(),
                    base: superblock.base,
                    start: Superblock::length(superblock.partitions.len()) as u64,
                    end,
                    superblock: Some(superblock.clone()),
                });
                (wanted, end) = (superblock.previous_sequence, Some(superblock.previous_end));
            } else if let Some(mut link) = self.probe(storage, window, region, &mut unknown, wanted)
            {
                link.end = end;
                // Its link to the one before is lost, but not where it begins.
                let before = known.range(..wanted).next_back();
                end = before
                    .and_then(|(_, file)| link.base.checked_sub(file.superblock.as_ref()?.base));
                wanted = before.map_or(0, |(sequence, _)| *sequence);
                chain.push(link);
            } else {
                self.missing = Some(wanted);
                break;
            }
        }
        chain.reverse();
        self.chain = chain;
        self.free = known
            .into_values()
            .chain(unknown)
            .map(|file| {
                // Nothing refers to it any more; the log opens it anew when it reuses it.
                let close = storage::Operation::Close { file: file.file };
                let _ = storage::run(storage, close);
                (file.name, file.bytes)
            })
            .collect();
    }

    /// Looks for the segment of a sequence among files whose superblock cannot be read.
    fn probe(
        &self,
        storage: &mut dyn Storage,
        window: &mut Window,
        region: RegionId,
        unknown: &mut Vec<Found>,
        sequence: u64,
    ) -> Option<Link> {
        let salt = Salt::of_segment(self.log_id, sequence);
        for index in 0..unknown.len() {
            let length = u32::try_from(PROBE_BYTES).unwrap_or(0);
            let buffer = Buffer { region, start: 0, length };
            let Ok(count) = storage::read(storage, unknown[index].file, 0, buffer) else {
                continue;
            };
            let bytes = window.bytes(0, count as usize);
            let batch = (0..bytes.len() / BLOCK_BYTES).find_map(|block| {
                let offset = block * BLOCK_BYTES;
                let header = &bytes[offset..offset + HEADER_BYTES];
                let (header, _) = Header::decode(header, salt).ok()?;
                Some((offset as u64, Batch::from_header(&header)?))
            });
            if let Some((offset, batch)) = batch
                && let Some(base) = batch.position.checked_sub(offset)
            {
                let found = unknown.swap_remove(index);
                return Some(Link {
                    name: found.name,
                    file: found.file,
                    file_bytes: found.bytes,
                    sequence,
                    salt,
                    base,
                    start: offset,
                    end: None,
                    superblock: None,
                });
            }
        }
        None
    }
}

fn read_superblock(
    storage: &mut dyn Storage,
    window: &mut Window,
    region: RegionId,
    file: FileId,
) -> Option<Superblock> {
    let length = u32::try_from(SUPERBLOCK_BYTES_MAX).unwrap_or(0);
    // An unreadable superblock is found by its batches, or reported where the log breaks off.
    let count = storage::read(storage, file, 0, Buffer { region, start: 0, length }).ok()?;
    Superblock::decode(window.bytes(0, count as usize)).ok()
}
