//! Finding the segments of a log and the order in which they continue each other.
//!
//! A segment's first header lies within one sector, which a torn write leaves as it was or as it is to
//! be. So a header that is neither zero nor valid is damage, never the trace of a crash.

use std::collections::BTreeMap;

use super::{
    frame::{FrameError, HEADER_BYTES, Header, Kind, Salt},
    limits::{BLOCK_BYTES, SUPERBLOCK_BYTES_MAX},
    log_walk::BadFrame,
    manifest::Manifest,
    memory::Window,
    segment::{Batch, Superblock, file_number},
    storage::{self, Buffer, FileId, RegionId, Storage, StorageError},
    watermark::{Marked, WATERMARK_NAME, Watermark, read_watermark},
};

/// How much of a file without a superblock is searched for batches.
const PROBE_BYTES: usize = 1 << 20;

/// One read of such a search.
const PROBE_PIECE_BYTES: usize = SUPERBLOCK_BYTES_MAX.next_power_of_two();

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
    /// What it says of partitions and of the segment before it.
    pub(crate) superblock: Result<Superblock, BadHead>,
}

/// Why a superblock cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadHead {
    pub(crate) reason: String,
    /// Whether it was whole once: nothing that a crash leaves looks so.
    pub(crate) is_damage: bool,
    pub(crate) is_foreign: bool,
}

/// All segment files of a directory, and what stands beside them.
#[derive(Debug, Default)]
pub(crate) struct LogFiles {
    pub(crate) log_id: u64,
    /// Oldest first.
    pub(crate) chain: Vec<Link>,
    /// Files that hold nothing that is still linked.
    pub(crate) free: Vec<(String, u64)>,
    /// What a link names and no file has.
    pub(crate) missing: Option<String>,
    /// The newest sequence seen anywhere.
    pub(crate) last_sequence: u64,
    /// Log position from which the log is needed.
    pub(crate) from: u64,
    /// The log was durable up to here at least.
    pub(crate) durable: u64,
    /// What the watermark says, if it can be read.
    pub(crate) watermark: Option<Watermark>,
    /// What is bad before the log is walked.
    pub(crate) damage: Vec<BadFrame>,
}

struct Found {
    name: String,
    file: FileId,
    bytes: u64,
    head: Head,
}

/// What a file begins with.
enum Head {
    Superblock(Superblock),
    /// Nothing, as in a file that was made ready.
    Blank,
    /// A sound header and a bad rest.
    Torn {
        header: Header,
        length: usize,
        reason: String,
    },
    Bad(BadHead),
}

impl LogFiles {
    /// Opens all segment files and links them back to the one in which the checkpoint begins; older ones
    /// are free.
    pub(crate) fn open(
        storage: &mut dyn Storage,
        manifest: Option<&Manifest>,
    ) -> Result<Self, StorageError> {
        let window = Window::allocate(PROBE_PIECE_BYTES).map_err(|source| StorageError {
            operation: "allocate memory for reading",
            name: "the log".to_owned(),
            source,
        })?;
        let region = storage.register(window.pages().clone())?;
        let mut listed = storage.list()?;
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        let marked = read_watermark(storage, &listed, &window, region)?;
        let mut probe = Probe { storage, window, region };
        let mut found = Vec::new();
        for file in listed.into_iter().filter(|file| file_number(&file.name).is_some()) {
            let id = storage::open_file(probe.storage, &file.name, false)?;
            let head = probe.head(id);
            found.push(Found { name: file.name, file: id, bytes: file.length, head });
        }
        let mut files = Self {
            from: manifest.map_or(0, |manifest| manifest.log_position),
            durable: manifest.map_or(0, |manifest| manifest.log_durable),
            ..Self::default()
        };
        files.identify(marked, manifest, &found);
        files.link(&mut probe, found);
        Ok(files)
    }

    /// No checkpoint can be used, since this manifest cannot be: the log has to begin at its beginning, where
    /// its first segment says what was there before it. A log that was never written to tells nothing.
    pub(crate) fn need_beginning(&mut self, manifest: &str, reason: &str) {
        let cannot = format!("{manifest} cannot be used ({reason}), and");
        self.missing = match self.missing.take() {
            Some(missing) => Some(format!("{cannot} {missing}")),
            None if self.chain.first().is_none_or(|link| link.base > 0) => {
                Some(format!("{cannot} no log replaces it"))
            }
            None => None,
        };
    }

    /// Learns whose log this is, and up to where it was durable.
    fn identify(&mut self, marked: Marked, manifest: Option<&Manifest>, found: &[Found]) {
        let newest = found.iter().filter_map(|file| file.head.identity()).max();
        let told = manifest.map(|manifest| manifest.log_id).or(newest.map(|(_, id)| id));
        self.log_id = told.unwrap_or(0);
        let reason = match marked {
            Marked::Whole(mark) if told.is_none_or(|told| told == mark.log_id) => {
                self.log_id = mark.log_id;
                self.last_sequence = mark.sequence;
                self.durable = self.durable.max(mark.position);
                self.watermark = Some(mark);
                return;
            }
            Marked::Whole(mark) => format!("it is of another log, {:#x}", mark.log_id),
            Marked::Absent if told.is_none() => return,
            Marked::Absent => {
                "it is missing, and nothing else says whether the log's end is there".to_owned()
            }
            Marked::Bad { reason, is_foreign } => {
                self.damage
                    .push(BadFrame { is_foreign, ..BadFrame::of_file(WATERMARK_NAME, 0, reason) });
                return;
            }
        };
        self.damage.push(BadFrame::of_file(WATERMARK_NAME, 0, reason));
    }

    fn link(&mut self, probe: &mut Probe<'_>, found: Vec<Found>) {
        let mut known: BTreeMap<u64, Link> = BTreeMap::new();
        let mut unknown: Vec<Found> = Vec::new();
        for file in found {
            match file.into_link(self.log_id) {
                Ok(link) => {
                    known.insert(link.sequence, link);
                }
                Err(file) => unknown.push(*file),
            }
        }
        let mut newest = known.last_key_value().map_or(0, |(sequence, _)| *sequence);
        // Segments after the newest whose superblocks are lost: only their batches tell.
        let mut first_of_life = self.watermark.map(|mark| mark.sequence + 1);
        loop {
            let next = first_of_life.take().filter(|first| *first > newest).unwrap_or(newest + 1);
            if let Some(link) = probe.find(&mut unknown, self.log_id, next) {
                newest = next;
                known.insert(next, link);
            } else if next == newest + 1 {
                break;
            }
        }
        self.last_sequence = self.last_sequence.max(newest);
        let (mut wanted, mut end) = (newest, None);
        while wanted > 0 && self.chain.last().is_none_or(|link: &Link| link.base > self.from) {
            let found =
                known.remove(&wanted).or_else(|| probe.find(&mut unknown, self.log_id, wanted));
            let Some(mut link) = found else {
                self.missing = Some(format!("segment {wanted} of the log is missing"));
                break;
            };
            link.end = end;
            (wanted, end) = match &link.superblock {
                Ok(superblock) => (superblock.previous_sequence, Some(superblock.previous_end)),
                // Its link to the one before is lost, but not where it begins.
                Err(_) => match known.last_key_value() {
                    Some((sequence, before)) => (*sequence, link.base.checked_sub(before.base)),
                    None if link.base > self.from => {
                        let base = link.base;
                        self.missing =
                            Some(format!("what comes before position {base} is missing"));
                        (0, None)
                    }
                    None => (0, None),
                },
            };
            self.chain.push(link);
        }
        self.chain.reverse();
        for Found { name, head, .. } in &unknown {
            if let Head::Bad(BadHead { reason, is_foreign, .. }) = head {
                let bad = BadFrame::of_file(name, 0, reason.clone());
                self.damage.push(BadFrame { is_foreign: *is_foreign, ..bad });
            }
        }
        let known = known.into_values().map(|link| (link.name, link.file_bytes, link.file));
        let unknown = unknown.into_iter().map(|file| (file.name, file.bytes, file.file));
        self.free = known
            .chain(unknown)
            .map(|(name, bytes, file)| {
                // Nothing refers to it any more; the log opens it anew when it reuses it.
                let _ = storage::run(probe.storage, storage::Operation::Close { file });
                (name, bytes)
            })
            .collect();
    }
}

impl Head {
    /// Sequence and log of a segment whose header is sound.
    fn identity(&self) -> Option<(u64, u64)> {
        match self {
            Self::Superblock(superblock) => Some((superblock.sequence, superblock.log_id)),
            Self::Torn { header, .. } => Some((header.lsn, header.row_start)),
            Self::Blank | Self::Bad(_) => None,
        }
    }
}

impl Found {
    /// Its place in the log of this identity, or itself where its header does not say.
    fn into_link(mut self, log_id: u64) -> Result<Link, Box<Self>> {
        if let Some((_, other)) = self.head.identity()
            && other != log_id
        {
            let reason = format!("it is of another log, {other:#x}");
            self.head = Head::Bad(BadHead { reason, is_damage: true, is_foreign: false });
        }
        let (sequence, base, start, superblock) = match self.head {
            Head::Superblock(superblock) => {
                let start = Superblock::length(superblock.partitions.len());
                (superblock.sequence, superblock.base, start, Ok(superblock))
            }
            Head::Torn { header, length, reason } => {
                let bad = BadHead { reason, is_damage: false, is_foreign: false };
                (header.lsn, header.epoch, length, Err(bad))
            }
            Head::Blank | Head::Bad(_) => return Err(Box::new(self)),
        };
        Ok(Link {
            name: self.name,
            file: self.file,
            file_bytes: self.bytes,
            sequence,
            salt: Salt::of_segment(log_id, sequence),
            base,
            start: start as u64,
            end: None,
            superblock,
        })
    }
}

/// Memory for looking into files.
struct Probe<'a> {
    storage: &'a mut dyn Storage,
    window: Window,
    region: RegionId,
}

impl Probe<'_> {
    fn read(&mut self, file: FileId, offset: u64, length: usize) -> Result<&[u8], StorageError> {
        let length = u32::try_from(length).expect("pieces are short");
        let buffer = Buffer { region: self.region, start: 0, length };
        let count = storage::read(self.storage, file, offset, buffer)?;
        Ok(self.window.bytes(0, count as usize))
    }

    /// What a file begins with.
    fn head(&mut self, file: FileId) -> Head {
        // Where a later block cannot be read, the first one may say enough.
        let length = match self.read(file, 0, SUPERBLOCK_BYTES_MAX) {
            Ok(_) => SUPERBLOCK_BYTES_MAX,
            Err(_) => BLOCK_BYTES,
        };
        let bytes = match self.read(file, 0, length) {
            Ok(bytes) => bytes,
            Err(error) => {
                let reason = format!("it cannot be read: {}", error.source);
                return Head::Bad(BadHead { reason, is_damage: true, is_foreign: false });
            }
        };
        let header = &bytes[..bytes.len().min(HEADER_BYTES)];
        if header.iter().all(|&byte| byte == 0) {
            return Head::Blank;
        }
        let error = match Superblock::decode(bytes) {
            Ok(superblock) => return Head::Superblock(superblock),
            Err(error) => error,
        };
        match Header::decode(header, Salt::NONE) {
            Ok((header, length))
                if header.kind == Kind::Superblock
                    && matches!(error, FrameError::Body | FrameError::Short { .. }) =>
            {
                Head::Torn { header, length, reason: error.to_string() }
            }
            _ => {
                let (reason, is_foreign) = (error.to_string(), error.is_foreign());
                Head::Bad(BadHead { reason, is_damage: true, is_foreign })
            }
        }
    }

    /// Looks for the segment of a sequence among files whose superblock cannot be read.
    fn find(&mut self, unknown: &mut Vec<Found>, log_id: u64, sequence: u64) -> Option<Link> {
        let salt = Salt::of_segment(log_id, sequence);
        for index in 0..unknown.len() {
            let Some((offset, batch)) = self.first_batch(unknown[index].file, salt) else {
                continue;
            };
            let Some(base) = batch.position.checked_sub(offset) else { continue };
            let found = unknown.swap_remove(index);
            let bad = match found.head {
                Head::Bad(bad) => bad,
                _ => BadHead {
                    reason: "the superblock is missing".to_owned(),
                    is_damage: false,
                    is_foreign: false,
                },
            };
            return Some(Link {
                name: found.name,
                file: found.file,
                file_bytes: found.bytes,
                sequence,
                salt,
                base,
                start: offset,
                end: None,
                superblock: Err(bad),
            });
        }
        None
    }

    /// The first batch of a salt in a file, and where it lies.
    fn first_batch(&mut self, file: FileId, salt: Salt) -> Option<(u64, Batch)> {
        let (mut start, mut length) = (0, PROBE_PIECE_BYTES);
        while start < PROBE_BYTES {
            // What cannot be read shows again when the log is walked.
            let Ok(bytes) = self.read(file, start as u64, length) else {
                start += if length == BLOCK_BYTES { BLOCK_BYTES } else { 0 };
                length = BLOCK_BYTES;
                continue;
            };
            let found = bytes.chunks_exact(BLOCK_BYTES).enumerate().find_map(|(block, bytes)| {
                let (header, _) = Header::decode(bytes, salt).ok()?;
                Some(((start + block * BLOCK_BYTES) as u64, Batch::from_header(&header)?))
            });
            if found.is_some() {
                return found;
            }
            start += length;
            length = (length * 2).min(PROBE_PIECE_BYTES);
        }
        None
    }
}
