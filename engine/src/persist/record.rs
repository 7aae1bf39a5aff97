//! Log records: a frame whose body holds keys, then the sessions it covers, then free space, then
//! worker clocks (growing backwards from the delta), then the delta, which is 64-aligned so that
//! SIMD applies straight from the ring.
//!
//! ```text
//!  64                                  key[0..row_count]   8 bytes each; kind Keys only
//!  ..                                  covered[0..n]       24 bytes: session, incarnation, sequence
//!  ..                                  zeros
//!  delta_offset*64 - 16*stamps         stamp[n-1..=0]      16 bytes: worker (4), zero (4), clock (8)
//!  delta_offset*64                     delta
//!  length - slack                      zeros
//! ```

use windlass_wire::{
    DataType, Epoch, Incarnation, Lsn, PartitionId, RowRange, Sequence, SessionId, TableId,
    WorkerClock, WorkerRank,
};

use super::{
    commit::Durability,
    frame::{Frame, FrameError, HEADER_BYTES, Header, Kind, Salt, word32, word64},
    limits::{COVERED_MAX, FRAME_ALIGNMENT, KEYS_MAX, RECORD_BYTES_MAX, STAMPS_MAX},
};

const COVERED_BYTES: usize = 24;
const STAMP_BYTES: usize = 16;
const KEY_BYTES: usize = 8;

/// What the shard says about a record before filling it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What it is; one of the kinds for which [`Kind::is_record`] holds.
    pub kind: Kind,
    /// The partition whose log it belongs to.
    pub partition: PartitionId,
    /// The epoch in force.
    pub epoch: Epoch,
    /// The table.
    pub table: TableId,
    /// Element type of the delta.
    pub dtype: DataType,
    /// The rows; empty for kinds without.
    pub rows: RowRange,
    /// The engine's own 16 bits, such as the way of applying.
    pub tag: u16,
    /// When its pushes may be acknowledged.
    pub durability: Durability,
}

/// How much room a record needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Most sessions it will cover; fewer may be filled in.
    pub covered_max: usize,
    /// Most worker clocks it will carry; fewer may be filled in.
    pub stamps_max: usize,
    /// Exact number of keys.
    pub keys: usize,
    /// Exact number of bytes of the delta.
    pub delta_bytes: usize,
}

impl Shape {
    /// Where the delta starts.
    #[must_use]
    #[inline]
    pub const fn delta_start(&self) -> usize {
        let lists = self.keys * KEY_BYTES
            + self.covered_max * COVERED_BYTES
            + self.stamps_max * STAMP_BYTES;
        (HEADER_BYTES + lists).next_multiple_of(FRAME_ALIGNMENT)
    }

    /// Length of the whole record.
    #[must_use]
    #[inline]
    pub const fn length(&self) -> usize {
        (self.delta_start() + self.delta_bytes).next_multiple_of(FRAME_ALIGNMENT)
    }

    /// Whether it is within the limits.
    #[must_use]
    #[inline]
    pub const fn is_allowed(&self) -> bool {
        self.covered_max <= COVERED_MAX
            && self.stamps_max <= STAMPS_MAX
            && self.keys <= KEYS_MAX
            && self.delta_bytes <= RECORD_BYTES_MAX
            && self.length() <= RECORD_BYTES_MAX
    }
}

/// A session's push that a record includes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Covered {
    /// The session.
    pub session: SessionId,
    /// Its life.
    pub incarnation: Incarnation,
    /// The push.
    pub sequence: Sequence,
}

/// A worker's clock, to which its entry over the record's rows is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The worker.
    pub worker: WorkerRank,
    /// Its clock.
    pub clock: WorkerClock,
}

/// A record being filled, in the ring.
#[derive(Debug)]
pub struct RecordMut<'a> {
    bytes: &'a mut [u8],
    draft: &'a mut Draft,
}

/// What is known of a record between reservation and sealing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draft {
    pub(crate) facts: Facts,
    pub(crate) shape: Shape,
    pub(crate) lsn: Lsn,
    /// Whether it is one of a group of the log.
    pub(crate) grouped: bool,
    covered: u16,
    stamps: u16,
}

impl Draft {
    #[inline]
    pub(crate) fn new(facts: Facts, shape: Shape, lsn: Lsn) -> Self {
        assert!(facts.kind.is_record(), "{:?} is no record", facts.kind);
        assert!(shape.is_allowed(), "a record of {} bytes passes a limit", shape.length());
        Self { facts, shape, lsn, grouped: false, covered: 0, stamps: 0 }
    }

    /// Clears what is neither header nor delta, so that every byte is defined.
    #[inline]
    pub(crate) fn prepare(&self, bytes: &mut [u8]) {
        let start = self.shape.delta_start();
        bytes[HEADER_BYTES..start].fill(0);
        bytes[start + self.shape.delta_bytes..].fill(0);
    }

    #[inline]
    pub(crate) fn seal(&self, bytes: &mut [u8], salt: Salt) {
        let slack = self.shape.length() - self.shape.delta_start() - self.shape.delta_bytes;
        let keyed = matches!(self.facts.kind, Kind::Keys);
        let header = Header {
            kind: self.facts.kind,
            dtype: self.facts.dtype as u8,
            slack: u8::try_from(slack).expect("less than one alignment"),
            grouped: self.grouped,
            lsn: self.lsn.0,
            epoch: self.facts.epoch.0,
            partition: self.facts.partition.0,
            table: self.facts.table.0,
            row_start: if keyed { 0 } else { self.facts.rows.start },
            row_count: if keyed { self.shape.keys as u64 } else { self.facts.rows.count() },
            covered: self.covered,
            stamps: self.stamps,
            delta_offset: u16::try_from(self.shape.delta_start() / FRAME_ALIGNMENT)
                .expect("limits keep the lists short"),
            tag: self.facts.tag,
        };
        header.seal(bytes, salt);
    }

    pub(crate) fn void(&mut self) {
        self.facts.kind = Kind::Nothing;
    }
}

impl<'a> RecordMut<'a> {
    pub(crate) fn new(bytes: &'a mut [u8], draft: &'a mut Draft) -> Self {
        Self { bytes, draft }
    }

    /// Where the delta goes; as long as was reserved. Holds whatever was there before.
    #[must_use]
    pub fn delta(&mut self) -> &mut [u8] {
        let start = self.draft.shape.delta_start();
        &mut self.bytes[start..start + self.draft.shape.delta_bytes]
    }

    /// Where the keys go, 8 little-endian bytes each, and where the delta goes. Panics for other kinds than
    /// [`Kind::Keys`].
    #[must_use]
    pub fn keys_and_delta(&mut self) -> (&mut [u8], &mut [u8]) {
        assert_eq!(self.draft.facts.kind, Kind::Keys, "only Keys has keys");
        let start = self.draft.shape.delta_start();
        let (lists, rest) = self.bytes.split_at_mut(start);
        let keys = &mut lists[HEADER_BYTES..HEADER_BYTES + self.draft.shape.keys * KEY_BYTES];
        (keys, &mut rest[..self.draft.shape.delta_bytes])
    }

    /// Adds a session's push. Panics past the reserved number.
    #[inline]
    pub fn cover(&mut self, covered: Covered) {
        let index = usize::from(self.draft.covered);
        assert!(index < self.draft.shape.covered_max, "more pushes than room was reserved for");
        let start = HEADER_BYTES + self.draft.shape.keys * KEY_BYTES + index * COVERED_BYTES;
        let entry = &mut self.bytes[start..start + COVERED_BYTES];
        entry[..8].copy_from_slice(&covered.session.0.to_le_bytes());
        entry[8..16].copy_from_slice(&covered.incarnation.0.to_le_bytes());
        entry[16..].copy_from_slice(&covered.sequence.0.to_le_bytes());
        self.draft.covered += 1;
    }

    /// Adds a worker's clock. Panics past the reserved number.
    pub fn stamp(&mut self, stamp: Stamp) {
        let index = usize::from(self.draft.stamps);
        assert!(index < self.draft.shape.stamps_max, "more clocks than room was reserved for");
        let start = self.draft.shape.delta_start() - (index + 1) * STAMP_BYTES;
        let entry = &mut self.bytes[start..start + STAMP_BYTES];
        entry[..4].copy_from_slice(&stamp.worker.0.to_le_bytes());
        entry[8..].copy_from_slice(&stamp.clock.0.to_le_bytes());
        self.draft.stamps += 1;
    }
}

/// A checked record, over the bytes it came in.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    frame: Frame<'a>,
    kind: Kind,
    dtype: DataType,
}

impl<'a> Record<'a> {
    /// Checks foreign bytes: checksums, bounds of every list, numbers of every enumeration. The
    /// record is what starts the bytes; more may follow.
    ///
    /// # Errors
    /// When the bytes are no record.
    pub fn decode(bytes: &'a [u8], salt: Salt) -> Result<Self, RecordError> {
        Self::from_frame(Frame::decode(bytes, salt)?)
    }

    /// A record that was decoded before, or made here: nothing of it is summed again.
    ///
    /// # Errors
    /// When the bytes are no record after all.
    #[inline]
    pub fn checked_before(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let Some(header) = bytes.first_chunk() else {
            return Err(FrameError::Short { needed: HEADER_BYTES, present: bytes.len() }.into());
        };
        let (header, length) = Header::read(header)?;
        let Some(bytes) = bytes.get(..length) else {
            return Err(FrameError::Short { needed: length, present: bytes.len() }.into());
        };
        Self::from_frame(Frame { header, bytes })
    }

    /// As [`Record::decode`], for a frame whose checksums were checked.
    ///
    /// # Errors
    /// When the frame is no record.
    #[inline]
    pub fn from_frame(frame: Frame<'a>) -> Result<Self, RecordError> {
        let header = &frame.header;
        if !header.kind.is_record() {
            return Err(RecordError::NoRecord { kind: header.kind });
        }
        let Some(dtype) = DataType::from_number(header.dtype) else {
            return Err(RecordError::DataType { found: header.dtype });
        };
        let keys = match header.kind {
            Kind::Keys => usize::try_from(header.row_count).unwrap_or(usize::MAX),
            _ => 0,
        };
        let covered = usize::from(header.covered);
        let stamps = usize::from(header.stamps);
        let delta_start = usize::from(header.delta_offset) * FRAME_ALIGNMENT;
        if keys > KEYS_MAX
            || covered > COVERED_MAX
            || stamps > STAMPS_MAX
            || frame.bytes.len() > RECORD_BYTES_MAX
            || HEADER_BYTES + keys * KEY_BYTES + covered * COVERED_BYTES + stamps * STAMP_BYTES
                > delta_start
        {
            return Err(RecordError::Lists { keys: header.row_count, covered, stamps });
        }
        if header.row_start.checked_add(header.row_count).is_none() {
            return Err(RecordError::Rows { start: header.row_start, count: header.row_count });
        }
        Ok(Self { frame, kind: header.kind, dtype })
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Position in the partition's log.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        Lsn(self.frame.header.lsn)
    }

    /// Epoch in which it was written.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch(self.frame.header.epoch)
    }

    /// Partition.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        PartitionId(self.frame.header.partition)
    }

    /// Table.
    #[must_use]
    pub fn table(&self) -> TableId {
        TableId(self.frame.header.table)
    }

    /// Element type of the delta.
    #[must_use]
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// Whether it is one of a group of the log it lies in.
    #[must_use]
    pub fn is_grouped(&self) -> bool {
        self.frame.header.grouped
    }

    /// The engine's own 16 bits.
    #[must_use]
    pub fn tag(&self) -> u16 {
        self.frame.header.tag
    }

    /// Its rows; empty for [`Kind::Keys`].
    #[must_use]
    pub fn rows(&self) -> RowRange {
        let (start, count) = match self.kind {
            Kind::Keys => (0, 0),
            _ => (self.frame.header.row_start, self.frame.header.row_count),
        };
        RowRange { start, end: start + count }
    }

    /// Its keys, in the order of the delta's rows.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = u64> + use<'a> {
        self.key_bytes().chunks_exact(KEY_BYTES).map(|key| word64(key, 0))
    }

    /// Its keys as they lie: 8 little-endian bytes each.
    #[must_use]
    pub fn key_bytes(&self) -> &'a [u8] {
        &self.frame.bytes[HEADER_BYTES..HEADER_BYTES + self.key_count() * KEY_BYTES]
    }

    /// The pushes it includes.
    pub fn covered(&self) -> impl ExactSizeIterator<Item = Covered> + use<'a> {
        let start = HEADER_BYTES + self.key_count() * KEY_BYTES;
        let length = usize::from(self.frame.header.covered) * COVERED_BYTES;
        self.frame.bytes[start..start + length].chunks_exact(COVERED_BYTES).map(|entry| Covered {
            session: SessionId(word64(entry, 0)),
            incarnation: Incarnation(word64(entry, 8)),
            sequence: Sequence(word64(entry, 16)),
        })
    }

    /// The worker clocks it sets over its rows.
    pub fn stamps(&self) -> impl ExactSizeIterator<Item = Stamp> + use<'a> {
        let end = usize::from(self.frame.header.delta_offset) * FRAME_ALIGNMENT;
        let length = usize::from(self.frame.header.stamps) * STAMP_BYTES;
        self.frame.bytes[end - length..end].rchunks_exact(STAMP_BYTES).map(|entry| Stamp {
            worker: WorkerRank(word32(entry, 0)),
            clock: WorkerClock(word64(entry, 8)),
        })
    }

    /// Its delta: aggregated values, or the opaque bytes of other kinds.
    #[must_use]
    pub fn delta(&self) -> &'a [u8] {
        self.frame.delta()
    }

    /// All its bytes, as they are sent to the chain's successor.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.frame.bytes
    }

    fn key_count(&self) -> usize {
        match self.kind {
            // Checked against KEYS_MAX when the record was made.
            Kind::Keys => usize::try_from(self.frame.header.row_count).unwrap_or(0),
            _ => 0,
        }
    }
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not even a frame.
    #[error("not a valid frame")]
    Frame(#[from] FrameError),
    /// A frame of another kind.
    #[error("a {kind:?} frame stands where a record should")]
    NoRecord {
        /// The kind found.
        kind: Kind,
    },
    /// No known dtype.
    #[error("dtype number {found} is not known")]
    DataType {
        /// The number found.
        found: u8,
    },
    /// The lists pass a limit, or reach into the delta.
    #[error("{keys} keys, {covered} sessions and {stamps} clocks do not fit before the delta")]
    Lists {
        /// Keys.
        keys: u64,
        /// Sessions.
        covered: usize,
        /// Clocks.
        stamps: usize,
    },
    /// The rows pass the end of the key space.
    #[error("{count} rows from {start} pass the end of the key space")]
    Rows {
        /// First row.
        start: u64,
        /// Number of rows.
        count: u64,
    },
}

#[cfg(test)]
mod tests;
