//! One physical log per shard, cut into preallocated, pre-written files that are used over and over.
//!
//! Why not a file per partition: a group commit then is one sequential write with one flush for all
//! partitions of a turn, which is what a disk does best (and what the bound, fio's sequential rate,
//! measures); 64 files would mean 64 writes of one padded block each, 64 flushes and 64 tails to
//! recover. The order that matters, each partition's LSNs, is kept: records enter the one ring in
//! LSN order, and the file's order is the ring's. The price is that a failed write poisons all
//! partitions of the shard, and that a log is truncated only where the checkpoint of its slowest
//! partition begins; both follow the shard anyway, since one thread owns all of it.
//!
//! ```text
//!  segment file:  | superblock: 1.. blocks | batch | batch | ... | unused |
//!  batch:         | Batch frame | record | record | ... | Pad |     ends at a block; one write
//!
//!  Superblock frame                             Batch frame (header only)
//!   lsn         sequence of the segment          lsn        number of the batch, from 1
//!   epoch       log position of its byte 0       epoch      log position known to be durable
//!   row_start   identity of the log              row_start  log position of the batch
//!   row_count   partitions listed                row_count  its length in bytes, padding included
//!   64  8       sequence of the previous one
//!   72  8       where the previous one ended, in bytes of its file
//!   80  8       length of this file
//!   128 16*n    partition (4), zero (4), last LSN logged before this segment (8)
//! ```
//!
//! Segments form a list through `previous`: whatever lies behind the end that the next superblock
//! names is void. A recycled file keeps old bytes, which the salt of the new sequence disowns.

use windlass_wire::{Lsn, PartitionId};

use super::{
    frame::{Frame, FrameError, Header, Kind, Salt, word32, word64},
    limits::{BLOCK_BYTES, PARTITIONS_PER_LOG_MAX},
};

const ENTRIES_START: usize = 128;
const ENTRY_BYTES: usize = 16;

/// The first frame of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Identity of the log: segments of another one are not ours.
    pub log_id: u64,
    /// Sequence of the segment, from 1.
    pub sequence: u64,
    /// Log position of the file's first byte.
    pub base: u64,
    /// Sequence of the segment before it; zero for the first.
    pub previous_sequence: u64,
    /// Where that one ended, in bytes of its file.
    pub previous_end: u64,
    /// Length of the file.
    pub file_bytes: u64,
    /// The partitions, and the last LSN of each that lies before this segment.
    pub partitions: Vec<(PartitionId, Lsn)>,
}

impl Superblock {
    /// Length of a superblock that lists this many partitions, in whole blocks.
    #[must_use]
    pub const fn length(partition_count: usize) -> usize {
        (ENTRIES_START + partition_count * ENTRY_BYTES).next_multiple_of(BLOCK_BYTES)
    }

    /// Writes a superblock in place, without allocating.
    pub(crate) fn encode(
        &self,
        partitions: impl Iterator<Item = (PartitionId, Lsn)>,
        into: &mut [u8],
    ) {
        into.fill(0);
        into[64..72].copy_from_slice(&self.previous_sequence.to_le_bytes());
        into[72..80].copy_from_slice(&self.previous_end.to_le_bytes());
        into[80..88].copy_from_slice(&self.file_bytes.to_le_bytes());
        let mut count = 0;
        for (partition, lsn) in partitions {
            let entry = &mut into[ENTRIES_START + count * ENTRY_BYTES..][..ENTRY_BYTES];
            entry[..4].copy_from_slice(&partition.0.to_le_bytes());
            entry[8..].copy_from_slice(&lsn.0.to_le_bytes());
            count += 1;
        }
        let header = Header {
            lsn: self.sequence,
            epoch: self.base,
            row_start: self.log_id,
            row_count: count as u64,
            ..Header::of(Kind::Superblock)
        };
        header.seal(into, Salt::NONE);
    }

    /// Reads the superblock that starts the bytes.
    ///
    /// # Errors
    /// When they do not start with a valid one, or end before it does.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let frame = Frame::decode(bytes, Salt::NONE)?;
        let header = frame.header;
        let count = usize::try_from(header.row_count).unwrap_or(usize::MAX);
        if header.kind != Kind::Superblock {
            return Err(FrameError::Kind { found: header.kind as u8 });
        }
        if count > PARTITIONS_PER_LOG_MAX
            || ENTRIES_START + count * ENTRY_BYTES > frame.bytes.len()
            || !frame.bytes.len().is_multiple_of(BLOCK_BYTES)
        {
            return Err(FrameError::Length { length: frame.bytes.len() });
        }
        let entries = &frame.bytes[ENTRIES_START..ENTRIES_START + count * ENTRY_BYTES];
        Ok(Self {
            log_id: header.row_start,
            sequence: header.lsn,
            base: header.epoch,
            previous_sequence: word64(frame.bytes, 64),
            previous_end: word64(frame.bytes, 72),
            file_bytes: word64(frame.bytes, 80),
            partitions: entries
                .chunks_exact(ENTRY_BYTES)
                .map(|entry| (PartitionId(word32(entry, 0)), Lsn(word64(entry, 8))))
                .collect(),
        })
    }

    /// The salt of the segment's frames.
    #[must_use]
    pub const fn salt(&self) -> Salt {
        Salt::of_segment(self.log_id, self.sequence)
    }
}

/// The frame that starts a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its number.
    pub number: u64,
    /// Everything before this log position was durable when the batch was closed.
    pub durable: u64,
    /// Its own log position.
    pub position: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl Batch {
    pub(crate) fn encode(&self, into: &mut [u8], salt: Salt) {
        let header = Header {
            lsn: self.number,
            epoch: self.durable,
            row_start: self.position,
            row_count: self.length,
            ..Header::of(Kind::Batch)
        };
        header.seal(into, salt);
    }

    /// From a frame of kind [`Kind::Batch`].
    #[must_use]
    pub fn from_header(header: &Header) -> Option<Self> {
        (header.kind == Kind::Batch).then_some(Self {
            number: header.lsn,
            durable: header.epoch,
            position: header.row_start,
            length: header.row_count,
        })
    }
}

/// The name of a segment's file.
#[must_use]
pub fn file_name(number: u32) -> String {
    format!("segment-{number:05}.wlog")
}

/// The number in a segment's file name.
#[must_use]
pub fn file_number(name: &str) -> Option<u32> {
    name.strip_prefix("segment-")?.strip_suffix(".wlog")?.parse().ok()
}

/// What recovery found of a log, from which it goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogTail {
    /// Identity of the log; zero when there is none yet.
    pub log_id: u64,
    /// The newest sequence ever seen.
    pub last_sequence: u64,
    /// Log position at which the valid part ends.
    pub position: u64,
    /// Segment in which it ends; zero for none.
    pub end_sequence: u64,
    /// Where in that segment, in bytes.
    pub end_offset: u64,
    /// The newest batch number ever seen.
    pub last_batch: u64,
    /// Number of the newest writing of the watermark; zero when there is none.
    pub watermark: u64,
    /// Segments that hold records still needed.
    pub live: Vec<LiveSegment>,
    /// Files that hold nothing needed.
    pub free: Vec<(String, u64)>,
}

/// A segment that may not be recycled yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveSegment {
    /// Its file.
    pub name: String,
    /// Log position of its first byte.
    pub base: u64,
    /// Where it ends, in bytes.
    pub end: u64,
    /// Length of the file.
    pub file_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::persist::frame::HEADER_BYTES;

    #[test]
    fn superblocks_round_trip() {
        let superblock = Superblock {
            log_id: 99,
            sequence: 4,
            base: 12_288,
            previous_sequence: 3,
            previous_end: 8192,
            file_bytes: 1 << 20,
            partitions: (0..300).map(|n| (PartitionId(n), Lsn(u64::from(n) * 3))).collect(),
        };
        let mut bytes = vec![0xAA; Superblock::length(300)];
        assert_eq!(bytes.len(), 8192);
        superblock.encode(superblock.partitions.iter().copied(), &mut bytes);
        assert_eq!(Superblock::decode(&bytes).unwrap(), superblock);
        assert!(Superblock::decode(&bytes[..4096]).is_err());
        assert_eq!(superblock.salt(), Salt::of_segment(99, 4));
        assert_eq!(file_number(&file_name(17)), Some(17));
        assert_eq!(file_name(17), "segment-00017.wlog");
        for other in ["segment-17", "segment-x.wlog", "manifest-17.wlog"] {
            assert_eq!(file_number(other), None, "{other}");
        }
    }

    /// Changing these bytes is a change of the format.
    #[test]
    fn a_superblock_lies_as_it_is_drawn() {
        let superblock = Superblock {
            log_id: 99,
            sequence: 4,
            base: 12_288,
            previous_sequence: 3,
            previous_end: 8192,
            file_bytes: 1 << 20,
            partitions: Vec::new(),
        };
        let mut bytes = vec![0xAA; Superblock::length(2)];
        let partitions = [(PartitionId(7), Lsn(70)), (PartitionId(9), Lsn(90))];
        superblock.encode(partitions.into_iter(), &mut bytes);
        let header = Frame::decode(&bytes, Salt::NONE).unwrap().header;
        assert_eq!((header.lsn, header.epoch, header.row_start), (4, 12_288, 99));
        assert_eq!((header.kind, header.row_count), (Kind::Superblock, 2));
        let words: Vec<u64> = (64..).step_by(8).take(13).map(|at| word64(&bytes, at)).collect();
        assert_eq!(words, [3, 8192, 1 << 20, 0, 0, 0, 0, 0, 7, 70, 9, 90, 0]);
    }

    #[test]
    fn superblocks_have_whole_blocks() {
        assert_eq!(Superblock::length(0), BLOCK_BYTES);
        assert_eq!(Superblock::length((BLOCK_BYTES - 128) / 16), BLOCK_BYTES);
        assert_eq!(Superblock::length((BLOCK_BYTES - 128) / 16 + 1), 2 * BLOCK_BYTES);
    }

    #[test]
    fn frames_that_are_no_superblock_are_refused() {
        let sealed = |header: Header, length: usize| {
            let mut bytes = vec![0; length];
            header.seal(&mut bytes, Salt::NONE);
            Superblock::decode(&bytes)
        };
        let of = |row_count| Header { row_count, ..Header::of(Kind::Superblock) };
        let fits = ((BLOCK_BYTES - 128) / 16) as u64;
        assert_eq!(sealed(of(fits), BLOCK_BYTES).unwrap().partitions.len() as u64, fits);
        let length = FrameError::Length { length: BLOCK_BYTES };
        assert_eq!(sealed(of(fits + 1), BLOCK_BYTES).unwrap_err(), length);
        assert_eq!(sealed(of(u64::MAX >> 4), BLOCK_BYTES).unwrap_err(), length);
        assert_eq!(sealed(of(0), 192).unwrap_err(), FrameError::Length { length: 192 });
        let kind = FrameError::Kind { found: Kind::Pad as u8 };
        assert_eq!(sealed(Header::of(Kind::Pad), BLOCK_BYTES).unwrap_err(), kind);
        let most = PARTITIONS_PER_LOG_MAX;
        let decoded = sealed(of(most as u64), Superblock::length(most)).unwrap();
        assert_eq!(decoded.partitions.len(), most);
        let length = Superblock::length(most + 1);
        assert_eq!(sealed(of(most as u64 + 1), length).unwrap_err(), FrameError::Length { length });
    }

    #[test]
    fn batches_round_trip_and_are_told_from_other_frames() {
        let batch = Batch { number: 9, durable: 4096, position: 8192, length: 12_288 };
        let (mut bytes, salt) = ([0xAA; HEADER_BYTES], Salt::of_segment(1, 2));
        batch.encode(&mut bytes, salt);
        let (header, _) = Header::decode(&bytes, salt).unwrap();
        assert_eq!((header.lsn, header.epoch), (9, 4096));
        assert_eq!((header.row_start, header.row_count), (8192, 12_288));
        assert_eq!(Batch::from_header(&header), Some(batch));
        assert_eq!(Batch::from_header(&Header { kind: Kind::Pad, ..header }), None);
    }
}
