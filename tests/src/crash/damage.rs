//! What becomes of a file besides power cuts: a block of one is changed in a copy of a server's disks.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use windlass_wire::Checksum;

use super::random::Random;

/// Length of a frame's header, where its version stands, and what lies under its checksum.
const HEADER_BYTES: usize = 64;
const VERSION_AT: usize = 14;
const CHECKSUM_BYTES: usize = 4;
/// What is lost of a file at once.
const BLOCK_BYTES: usize = 4096;

/// A change of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    /// One bit is another: of the first header, or anywhere in any other block.
    Flip,
    /// A sound header of a version that nobody knows: a newer program has written it.
    Version,
    /// The block is zeros.
    Blank,
}

/// Which block of a file is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first.
    Beginning,
    /// Any that holds something. At the end of a log that was not closed it looks like a torn write.
    Any,
}

impl Damage {
    /// All that there are.
    pub const ALL: [Self; 3] = [Self::Flip, Self::Version, Self::Blank];

    /// Changes a file; false for one that is empty or holds nothing there: nobody would notice.
    ///
    /// # Panics
    /// When the file cannot be read or written.
    pub fn inflict(self, path: &Path, part: Part, random: &mut Random) -> bool {
        let mut bytes = std::fs::read(path).expect("the file is read");
        let Some(block) = part.choose(&bytes, random) else { return false };
        let block = &mut bytes[block];
        match (self, block.first_chunk_mut::<HEADER_BYTES>()) {
            (Self::Version, Some(header)) => {
                let before = Checksum::of(&header[CHECKSUM_BYTES..]).0;
                header[VERSION_AT] += 1;
                let after = Checksum::of(&header[CHECKSUM_BYTES..]).0;
                // Whatever salt it has stays in it.
                let stored = header.first_chunk_mut::<CHECKSUM_BYTES>().expect("a header");
                *stored = (u32::from_le_bytes(*stored) ^ before ^ after).to_le_bytes();
            }
            (Self::Flip, _) => {
                let length = if part == Part::Any { block.len() } else { HEADER_BYTES };
                let bit = usize::try_from(random.below(length as u64 * 8)).expect("few");
                block[bit / 8] ^= 1 << (bit % 8);
            }
            (Self::Blank | Self::Version, _) => block.fill(0),
        }
        std::fs::write(path, bytes).expect("the file is written");
        true
    }
}

impl Part {
    /// A block that begins with something, or holds something.
    fn choose(self, bytes: &[u8], random: &mut Random) -> Option<Range<usize>> {
        let is_used = |block: &[u8]| block.iter().any(|byte| *byte != 0);
        let starts = (0..bytes.len()).step_by(BLOCK_BYTES);
        let mut blocks = starts.map(|start| start..bytes.len().min(start + BLOCK_BYTES));
        match self {
            Self::Beginning => {
                blocks.next().filter(|_| bytes.get(..HEADER_BYTES).is_some_and(is_used))
            }
            Self::Any => {
                let used: Vec<_> = blocks.filter(|block| is_used(&bytes[block.clone()])).collect();
                let at = random.below(used.len().max(1) as u64);
                used.get(usize::try_from(at).expect("few")).cloned()
            }
        }
    }
}

/// The files of shards below a server's directory.
///
/// # Panics
/// When a directory cannot be read.
#[must_use]
pub fn files_of_shards(data: &Path) -> Vec<PathBuf> {
    let entries = |path: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path).expect("the directory is read");
        entries.map(|entry| entry.expect("the directory is read").path()).collect()
    };
    let is_shard = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.is_dir() && name.starts_with("shard-")
    };
    let mut files: Vec<_> =
        entries(data).iter().filter(|path| is_shard(path)).flat_map(|path| entries(path)).collect();
    files.sort();
    files
}
