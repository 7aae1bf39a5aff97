//! The one framing of everything on disk: log records, superblocks, checkpoint blocks, manifests.
//! A frame is a 64-byte header and a body, 64-aligned, every bit of it under a checksum.
//!
//! ```text
//!  offset size
//!   0      4   CRC32C of bytes 4..64, XOR the salt of the file's life
//!   4      4   length of the frame, header included; a multiple of 64
//!   8      4   CRC32C of bytes 64..length
//!  12      1   kind
//!  13      1   dtype of the delta
//!  14      1   version of this layout: 1
//!  15      1   slack in bits 0 to 5: bytes between the end of the delta and the end of the frame;
//!               bit 7: it is one of a group, which counts once its `Whole` frame is there
//!  16      8   LSN                              (others than records: drawn where they are made)
//!  24      8   epoch
//!  32      4   partition
//!  36      4   table
//!  40      8   first row, or zero
//!  48      8   number of rows or of keys
//!  56      2   covered: number of session entries
//!  58      2   stamps: number of worker clocks
//!  60      2   offset of the delta, in units of 64 bytes
//!  62      2   tag: the engine's own
//! ```
//!
//! The salt differs for every segment of a log's life, and does so certainly, not probably: stale
//! frames of a recycled segment never validate. It is XORed, so that a record travels to the chain's
//! successor and into its log without being summed again.

use windlass_wire::Checksum;

use super::limits::FRAME_ALIGNMENT;

/// Length of a frame's header.
pub const HEADER_BYTES: usize = FRAME_ALIGNMENT;

/// Version of the layout above.
pub const FORMAT_VERSION: u8 = 2;

/// Bit beside the slack.
const GROUPED: u8 = 0x80;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Kind {
    /// A delta for a range of rows.
    Rows = 1,
    /// A delta for listed keys.
    Keys = 2,
    /// Worker clocks advance over a range of rows, without a delta.
    ClockAdvance = 3,
    /// A table is made or changed; the delta is its schema, opaque here.
    Schema = 4,
    /// A table is dropped.
    Drop = 5,
    /// A record that changes nothing, and keeps its LSN and what it covers.
    Nothing = 6,
    /// The partition begins anew at this LSN: what was before is void, its state is in a checkpoint.
    Begin = 7,
    /// The engine's own event, opaque here.
    Engine = 8,
    /// Fills up to the next place where a frame may start.
    Pad = 16,
    /// Starts one write of the log.
    Batch = 17,
    /// LSNs up to this one were not meant for the disk.
    Skip = 18,
    /// First frame of a segment.
    Superblock = 19,
    /// The group whose first frame has the log position that is the LSN here is whole.
    Whole = 21,
    /// Holds the position up to which the log was durable, in a file of its own.
    Watermark = 20,
    /// First frame of a checkpoint's data file.
    CheckpointHeader = 32,
    /// One block of a partition's state.
    CheckpointBlock = 33,
    /// Last frame of a checkpoint's data file.
    CheckpointEnd = 34,
    /// A manifest.
    Manifest = 35,
}

impl Kind {
    /// The kind with this number, or `None`.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Rows,
            2 => Self::Keys,
            3 => Self::ClockAdvance,
            4 => Self::Schema,
            5 => Self::Drop,
            6 => Self::Nothing,
            7 => Self::Begin,
            8 => Self::Engine,
            16 => Self::Pad,
            17 => Self::Batch,
            18 => Self::Skip,
            19 => Self::Superblock,
            21 => Self::Whole,
            20 => Self::Watermark,
            32 => Self::CheckpointHeader,
            33 => Self::CheckpointBlock,
            34 => Self::CheckpointEnd,
            35 => Self::Manifest,
            _ => return None,
        })
    }

    /// Whether it is a record of a partition, with an LSN of its own.
    #[must_use]
    pub const fn is_record(self) -> bool {
        matches!(
            self,
            Self::Rows
                | Self::Keys
                | Self::ClockAdvance
                | Self::Schema
                | Self::Drop
                | Self::Nothing
                | Self::Begin
                | Self::Engine
        )
    }
}

/// What ties a frame to one life of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salt(u32);

impl Salt {
    /// For files that are never recycled.
    pub const NONE: Self = Self(0x5741_4C31);

    /// For the segment of this sequence in the log of this identity. Two of one log differ unless
    /// their sequences are a multiple of 2^32 apart, because every step is a bijection.
    #[must_use]
    pub const fn of_segment(log_id: u64, sequence: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = log_id.to_le_bytes();
        let folded = u32::from_le_bytes([a, b, c, d]) ^ u32::from_le_bytes([e, f, g, h]);
        let [a, b, c, d, ..] = sequence.to_le_bytes();
        let mut word = u32::from_le_bytes([a, b, c, d]).wrapping_add(folded);
        word ^= word >> 16;
        word = word.wrapping_mul(0x7FEB_352D);
        word ^= word >> 15;
        word = word.wrapping_mul(0x846C_A68B);
        Self(word ^ (word >> 16))
    }
}

/// A frame's header, checksums and length aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Number of the delta's dtype.
    pub dtype: u8,
    /// Bytes between the delta and the frame's end.
    pub slack: u8,
    /// Whether it is one of a group, which counts as a whole or not at all.
    pub grouped: bool,
    /// Position in the partition's log.
    pub lsn: u64,
    /// Epoch.
    pub epoch: u64,
    /// Partition.
    pub partition: u32,
    /// Table.
    pub table: u32,
    /// First row.
    pub row_start: u64,
    /// Number of rows or keys.
    pub row_count: u64,
    /// Number of session entries.
    pub covered: u16,
    /// Number of worker clocks.
    pub stamps: u16,
    /// Offset of the delta in units of 64 bytes.
    pub delta_offset: u16,
    /// The engine's own.
    pub tag: u16,
}

impl Header {
    /// A header of one kind, zero otherwise.
    #[must_use]
    pub const fn of(kind: Kind) -> Self {
        Self {
            kind,
            dtype: 0,
            slack: 0,
            grouped: false,
            lsn: 0,
            epoch: 0,
            partition: 0,
            table: 0,
            row_start: 0,
            row_count: 0,
            covered: 0,
            stamps: 0,
            delta_offset: 1,
            tag: 0,
        }
    }

    /// Completes the frame in place: its body is written already. Panics when the length is not a
    /// frame's.
    #[inline]
    pub fn seal(&self, frame: &mut [u8], salt: Salt) {
        assert!(frame.len() >= HEADER_BYTES, "a frame of {} bytes", frame.len());
        assert!(frame.len().is_multiple_of(FRAME_ALIGNMENT), "a frame of {} bytes", frame.len());
        let length = u32::try_from(frame.len()).expect("frames are far shorter than 4 GiB");
        let Some((header, body)) = frame.split_first_chunk_mut::<HEADER_BYTES>() else { return };
        let slack = self.slack | if self.grouped { GROUPED } else { 0 };
        let [of_body, kind, dtype, slack] =
            [Checksum::of(body).0, self.kind as u32, self.dtype.into(), slack.into()]
                .map(u64::from);
        let [covered, stamps, delta_offset, tag] =
            [self.covered, self.stamps, self.delta_offset, self.tag].map(u64::from);
        // In whole words, as they are summed: so a processor need not wait until parts of one are in its cache.
        let words = [
            u64::from(length) << 32,
            of_body | kind << 32 | dtype << 40 | u64::from(FORMAT_VERSION) << 48 | slack << 56,
            self.lsn,
            self.epoch,
            u64::from(self.partition) | u64::from(self.table) << 32,
            self.row_start,
            self.row_count,
            covered | stamps << 16 | delta_offset << 32 | tag << 48,
        ];
        for (place, word) in header.as_chunks_mut().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        let checksum = Checksum::of(&header[4..]).0 ^ salt.0;
        header[..4].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Checks and reads a header alone, to learn how long its frame is.
    ///
    /// # Errors
    /// When there are fewer than 64 bytes or they are no valid header.
    #[inline]
    pub fn decode(bytes: &[u8], salt: Salt) -> Result<(Self, usize), FrameError> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(FrameError::Short { needed: HEADER_BYTES, present: bytes.len() });
        };
        if word32(header, 0) ^ salt.0 != Checksum::of(&header[4..]).0 {
            return Err(FrameError::Header);
        }
        Self::read(header)
    }

    /// Reads a header whose checksum held before, or that was sealed here.
    ///
    /// # Errors
    /// When it is no valid header.
    #[inline]
    pub fn read(header: &[u8; HEADER_BYTES]) -> Result<(Self, usize), FrameError> {
        if header[14] != FORMAT_VERSION {
            return Err(FrameError::Version { found: header[14] });
        }
        let Some(kind) = Kind::from_number(header[12]) else {
            return Err(FrameError::Kind { found: header[12] });
        };
        let length = word32(header, 4) as usize;
        if length < HEADER_BYTES || !length.is_multiple_of(FRAME_ALIGNMENT) {
            return Err(FrameError::Length { length });
        }
        let decoded = Self {
            kind,
            dtype: header[13],
            slack: header[15] & !GROUPED,
            grouped: header[15] & GROUPED != 0,
            lsn: word64(header, 16),
            epoch: word64(header, 24),
            partition: word32(header, 32),
            table: word32(header, 36),
            row_start: word64(header, 40),
            row_count: word64(header, 48),
            covered: word16(header, 56),
            stamps: word16(header, 58),
            delta_offset: word16(header, 60),
            tag: word16(header, 62),
        };
        let delta_start = usize::from(decoded.delta_offset) * FRAME_ALIGNMENT;
        if usize::from(decoded.slack) >= FRAME_ALIGNMENT
            || delta_start < HEADER_BYTES
            || delta_start + usize::from(decoded.slack) > length
        {
            return Err(FrameError::Length { length });
        }
        Ok((decoded, length))
    }
}

/// A frame whose checksums hold.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Its header.
    pub header: Header,
    /// All its bytes.
    pub bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Checks the frame that starts the bytes; more may follow it.
    ///
    /// # Errors
    /// When the bytes are too few, or any bit of header or body is not what was written.
    pub fn decode(bytes: &'a [u8], salt: Salt) -> Result<Self, FrameError> {
        let (header, length) = Header::decode(bytes, salt)?;
        let Some(frame) = bytes.get(..length) else {
            return Err(FrameError::Short { needed: length, present: bytes.len() });
        };
        if word32(frame, 8) != Checksum::of(&frame[HEADER_BYTES..]).0 {
            return Err(FrameError::Body);
        }
        Ok(Self { header, bytes: frame })
    }

    /// Its delta: the bytes from the delta's offset to the slack.
    #[must_use]
    pub fn delta(&self) -> &'a [u8] {
        let start = usize::from(self.header.delta_offset) * FRAME_ALIGNMENT;
        &self.bytes[start..self.bytes.len() - usize::from(self.header.slack)]
    }
}

/// Moves a frame from one file's life to another without summing its body again.
pub fn resalt(frame: &mut [u8], from: Salt, to: Salt) {
    let checksum = word32(frame, 0) ^ from.0 ^ to.0;
    frame[..4].copy_from_slice(&checksum.to_le_bytes());
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes end before the frame does.
    #[error("{present} bytes are left where {needed} are needed: the end is missing")]
    Short {
        /// Bytes of the frame.
        needed: usize,
        /// Bytes there.
        present: usize,
    },
    /// The header's checksum does not hold.
    #[error(
        "the header's checksum does not hold: damaged, or not written in this life of the file"
    )]
    Header,
    /// The body's checksum does not hold.
    #[error("the body's checksum does not hold: damaged or half written")]
    Body,
    /// Written by another version.
    #[error("format version {found} is not known: use a windlass at least as new as the writer")]
    Version {
        /// The version found.
        found: u8,
    },
    /// No known kind.
    #[error("kind {found} is not known: use a windlass at least as new as the writer")]
    Kind {
        /// The kind found.
        found: u8,
    },
    /// Length and offsets contradict each other.
    #[error("a length of {length} bytes contradicts the rest of the header")]
    Length {
        /// The length found.
        length: usize,
    },
}

impl FrameError {
    /// Whether the bytes are sound, and written by a version of windlass that is not this one.
    #[must_use]
    pub const fn is_foreign(&self) -> bool {
        matches!(self, Self::Version { .. } | Self::Kind { .. })
    }
}

/// The little-endian integer at an offset that the caller knows to be inside.
pub(crate) fn word16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

/// As [`word16`], 32 bits.
pub(crate) fn word32(bytes: &[u8], offset: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(word)
}

/// As [`word16`], 64 bits.
pub(crate) fn word64(bytes: &[u8], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn sample(salt: Salt) -> Vec<u8> {
        let mut frame = vec![0_u8; 192];
        frame[64..].fill(0xA5);
        let header = Header { lsn: 7, epoch: 3, partition: 5, slack: 4, ..Header::of(Kind::Rows) };
        header.seal(&mut frame, salt);
        frame
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let salt = Salt::of_segment(42, 7);
        let frame = sample(salt);
        assert_eq!(Frame::decode(&frame, salt).unwrap().header.lsn, 7);
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::decode(&damaged, salt).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_life_of_the_file_is_refused_and_resalting_moves_a_frame_there() {
        let (old, new) = (Salt::of_segment(42, 7), Salt::of_segment(42, 8));
        let mut frame = sample(old);
        assert_eq!(Frame::decode(&frame, new).unwrap_err(), FrameError::Header);
        resalt(&mut frame, old, new);
        assert!(Frame::decode(&frame, new).is_ok());
    }

    /// A sealed header with one byte changed, and its checksum made to fit.
    fn read_with(offset: usize, bytes: &[u8]) -> Result<(Header, usize), FrameError> {
        let mut frame = sample(Salt::NONE);
        frame[offset..offset + bytes.len()].copy_from_slice(bytes);
        let checksum = Checksum::of(&frame[4..64]).0 ^ Salt::NONE.0;
        frame[..4].copy_from_slice(&checksum.to_le_bytes());
        Header::decode(&frame, Salt::NONE)
    }

    #[test]
    fn headers_that_contradict_themselves_are_refused() {
        let refused = |offset, bytes: &[u8]| read_with(offset, bytes).unwrap_err();
        let length = |length: u32| refused(4, &length.to_le_bytes());
        for wrong in [0, 63, 65, 100] {
            assert_eq!(length(wrong), FrameError::Length { length: wrong as usize });
        }
        assert_eq!(refused(14, &[1]), FrameError::Version { found: 1 });
        assert_eq!(refused(12, &[9]), FrameError::Kind { found: 9 });
        assert!(refused(14, &[3]).is_foreign() && refused(12, &[99]).is_foreign());
        assert!(!length(63).is_foreign() && !FrameError::Header.is_foreign());
        // The delta begins behind the header, and ends within the frame.
        let wrong = FrameError::Length { length: 192 };
        assert_eq!(refused(15, &[64]), wrong, "slack of a whole alignment");
        assert_eq!(refused(60, &[0, 0]), wrong, "in the header");
        assert_eq!(refused(60, &[4, 0]), wrong, "behind the end");
        assert_eq!(refused(60, &[3, 0]), wrong, "slack in front of it");
        let (header, length) = read_with(15, &[63 | GROUPED]).unwrap();
        assert_eq!((header.slack, header.grouped, length), (63, true, 192));
        let (header, _) = read_with(60, &[2, 0]).unwrap();
        assert_eq!((header.delta_offset, header.slack, header.grouped), (2, 4, false));
        let short = FrameError::Short { needed: 64, present: 63 };
        assert_eq!(Header::decode(&sample(Salt::NONE)[..63], Salt::NONE).unwrap_err(), short);
        let short = FrameError::Short { needed: 192, present: 191 };
        assert_eq!(Frame::decode(&sample(Salt::NONE)[..191], Salt::NONE).unwrap_err(), short);
    }

    #[test]
    fn kinds_are_found_by_their_numbers_and_records_are_told_apart() {
        let known: Vec<Kind> = (0..=255).filter_map(Kind::from_number).collect();
        let numbers: Vec<u8> = known.iter().map(|kind| *kind as u8).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8, 16, 17, 18, 19, 20, 21, 32, 33, 34, 35]);
        let records = known.iter().filter(|kind| kind.is_record());
        assert!(records.map(|kind| *kind as u8).eq(1..=8));
    }

    /// Whoever wrote a log finds the same salts in it.
    #[test]
    fn salts_are_what_they_were() {
        for (log_id, sequence, salt) in
            [(0, 1, 0x6889_90C0), (42, 7, 0x175E_F5A3), (u64::MAX - 5, 1 << 33, 0x5C45_D53E)]
        {
            assert_eq!(Salt::of_segment(log_id, sequence), Salt(salt), "{log_id} {sequence}");
        }
    }

    #[test]
    fn salts_of_one_log_never_repeat() {
        let salts: HashSet<u32> = (0..100_000).map(|n| Salt::of_segment(9, n).0).collect();
        assert_eq!(salts.len(), 100_000);
    }
}
