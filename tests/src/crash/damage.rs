//! What becomes of a file besides power cuts: the beginning of one is changed in a copy of a server's disks.

use std::path::{Path, PathBuf};

use windlass_wire::Checksum;

use super::random::Random;

/// Length of a frame's header, where its version stands, and what lies under its checksum.
const HEADER_BYTES: usize = 64;
const VERSION_AT: usize = 14;
const CHECKSUM_BYTES: usize = 4;
/// What is lost of a file at once.
const BLOCK_BYTES: usize = 4096;

/// A change of a file's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    /// One bit of the first header is another.
    Flip,
    /// A sound header of a version that nobody knows: a newer program has written it.
    Version,
    /// The first block is zeros.
    Blank,
}

impl Damage {
    /// All that there are.
    pub const ALL: [Self; 3] = [Self::Flip, Self::Version, Self::Blank];

    /// Changes a file; false for one that is empty or begins with nothing: nobody would notice.
    ///
    /// # Panics
    /// When the file cannot be read or written.
    pub fn inflict(self, path: &Path, random: &mut Random) -> bool {
        let mut bytes = std::fs::read(path).expect("the file is read");
        let Some(header) = bytes.get_mut(..HEADER_BYTES) else { return false };
        if header.iter().all(|byte| *byte == 0) {
            return false;
        }
        match self {
            Self::Flip => {
                let bit = usize::try_from(random.below(HEADER_BYTES as u64 * 8)).expect("few");
                header[bit / 8] ^= 1 << (bit % 8);
            }
            Self::Version => {
                let before = Checksum::of(&header[CHECKSUM_BYTES..]).0;
                header[VERSION_AT] += 1;
                let after = Checksum::of(&header[CHECKSUM_BYTES..]).0;
                // Whatever salt it has stays in it.
                let stored = header.first_chunk_mut::<CHECKSUM_BYTES>().expect("a header");
                *stored = (u32::from_le_bytes(*stored) ^ before ^ after).to_le_bytes();
            }
            Self::Blank => {
                let length = bytes.len().min(BLOCK_BYTES);
                bytes[..length].fill(0);
            }
        }
        std::fs::write(path, bytes).expect("the file is written");
        true
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
