//! The header of a request in a mailbox, and the word that completes it.
//!
//! ```text
//! offset size
//!      0    1  kind in bits 0 to 3: 1 push, 2 pull, 3 push_pull, 4 advance clock, 5 nothing, 6 idle,
//!               7 scan; dtype of the values in bits 4 to 7
//!      1    1  flags: bit 0 values by reference, bit 1 rows are a range, bit 2 sync, bit 3 resumes,
//!               bit 4 strong, bit 7 with filters; of a scan: bit 5 with values, bit 6 with values and
//!               state
//!      2    6  number of rows in bits 0 to 20, width (values per row) in bits 21 to 43; rest zero.
//!               Of a scan the most rows, and the words of 8 bytes that each takes in its answer
//!      8    8  sequence in the session
//!     16    8  epoch of the sender's cluster map
//!     24    8  worker clock; of a scan the partition
//!     32    8  first row of a range; zero for keys; of a scan the position it goes on from
//!     40    4  table
//!     44    4  digest of header and body, without this field; without values of more than 8 KiB
//!     48   16  by reference only: where the values are
//!           4  key of the region
//!           4  zero
//!           8  address
//!     ..   16  if it pulls only: where pulled rows go, likewise
//!     ..   16  with filters only: [`Coding`]
//!     ..       body: row keys (8 bytes each, unless a range), then values (unless by reference); with
//!              filters as they leave them
//! ```
//!
//! Header and body have the lengths that the header says, which have to make up the message's. A
//! short push's latency is that of its bytes, so that it has none for what others need.
//!
//! A [`Digest`] tells bytes that have not all arrived from those that have, where a message and the word
//! that commits it come in one write. Long ones never do: their word is written behind them, and what
//! is in order needs no second proof, which would cost both sides as much as the sum.

use std::ops::{Deref, DerefMut};

use crate::{
    codec::DecodeError,
    digest::Digest,
    dtype::DataType,
    ids::{Epoch, PartitionId, Sequence, TableId, WorkerClock},
    scan::{self, ScanColumns},
};

crate::numbered::numbered! {
    /// What a request asks for.
    pub enum RequestKind {
        /// Aggregate values into rows.
        Push = 1 "push",
        /// Write rows into the requester's memory.
        Pull = 2 "pull",
        /// A push, then a pull of the same rows.
        PushPull = 3 "push_pull",
        /// An empty push over the whole table: only the worker's clock moves.
        AdvanceClock = 4 "advance_clock",
        /// Nothing: is completed like any other.
        Nothing = 5 "nothing",
        /// The worker has finished this clock and waits: in a round in which late pushes wait too, it is
        /// not waited for. Completed at once; said again and again while it waits.
        Idle = 6 "idle",
        /// Write the next rows of a partition of a sparse table into the requester's memory:
        /// [`crate::scan`] draws the answer.
        Scan = 7 "scan",
    }
}

impl RequestKind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.text()
    }

    /// Whether it carries values.
    #[must_use]
    #[inline]
    pub fn pushes(self) -> bool {
        matches!(self, Self::Push | Self::PushPull)
    }

    /// What is left of it once what it pushes is applied.
    #[must_use]
    pub fn without_push(self) -> Self {
        if self == Self::PushPull { Self::Pull } else { self }
    }

    /// Whether it returns rows.
    #[must_use]
    #[inline]
    pub fn pulls(self) -> bool {
        matches!(self, Self::Pull | Self::PushPull | Self::Scan)
    }
}

/// Memory of the requester, as its transport names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Key of the region.
    pub key: u32,
    /// Address in the owner's terms.
    pub address: u64,
}

/// Which rows a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// `first..first + row_count`.
    Range {
        /// First row.
        first: u64,
    },
    /// The keys at the start of the body: strictly ascending.
    Keys,
    /// Those of a partition of a sparse table from a position on: of scans, and of nothing else.
    Partition {
        /// The partition.
        partition: PartitionId,
        /// Where it goes on.
        from: u64,
        /// What is wanted of each row.
        columns: ScanColumns,
    },
}

/// Most rows of one request.
pub const ROWS_MAX: u32 = 1 << 20;

/// Most values per row.
pub const WIDTH_MAX: u32 = 1 << 22;

/// Most bytes of values of one request.
pub const VALUES_LEN_MAX: u64 = 16 << 20;

/// Most bytes of a body.
pub const BODY_LEN_MAX: u64 = 384 << 10;

/// Most bytes of values in a body that its checksum covers; of more, it covers none.
pub const CHECKED_VALUES_LEN_MAX: u64 = 8 << 10;

/// The fixed part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// What it asks for.
    pub kind: RequestKind,
    /// Acknowledge only what is on disk on every replica, whatever the table says.
    pub sync: bool,
    /// The sender has settled every earlier push of its session: a server that refused one, and
    /// therefore all behind it, takes pushes again from this one on.
    pub resumes: bool,
    /// A pull that is answered only where every push acknowledged so far is: by a tail that holds its
    /// leases.
    pub strong: bool,
    /// Element type of the values.
    pub dtype: DataType,
    /// The table.
    pub table: TableId,
    /// Its position in the session.
    pub sequence: Sequence,
    /// Epoch of the sender's map.
    pub epoch: Epoch,
    /// The worker's clock.
    pub clock: WorkerClock,
    /// The rows.
    pub rows: Rows,
    /// How many.
    pub row_count: u32,
    /// Values per row.
    pub width: u32,
    /// How keys and values are written, when they went through filters.
    pub coding: Option<Coding>,
    /// Where the values are, when not in the body.
    pub values: Option<Place>,
    /// Where pulled rows go.
    pub reply: Option<Place>,
}

const BY_REFERENCE: u8 = 1;
const RANGE: u8 = 2;
const SYNC: u8 = 4;
const RESUMES: u8 = 8;
const STRONG: u8 = 16;
const WITH_VALUES: u8 = 32;
const WITH_STATE: u8 = 64;
const WITH_FILTERS: u8 = 128;

/// An encoded header.
#[derive(Clone, Copy, Debug)]
pub struct EncodedHeader {
    bytes: [u8; RequestHeader::LEN_MAX],
    len: usize,
}

impl Deref for EncodedHeader {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for EncodedHeader {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl RequestHeader {
    /// Length in bytes of a header without places.
    pub const LEN_MIN: usize = 48;

    /// Length in bytes of the longest header.
    pub const LEN_MAX: usize = Self::LEN_MIN + 2 * PLACE_LEN + Coding::LEN;

    /// Length of the header in bytes.
    #[must_use]
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        let places = usize::from(self.values.is_some()) + usize::from(self.kind.pulls());
        Self::LEN_MIN + places * PLACE_LEN + self.coding.map_or(0, |_| Coding::LEN)
    }

    /// Bytes of values this request pushes or pulls; of a scan, the most that it is answered with.
    #[must_use]
    #[inline]
    pub fn values_len(&self) -> u64 {
        if self.kind == RequestKind::Scan {
            return scan::answer_len(self.row_count, self.width);
        }
        u64::from(self.row_count) * u64::from(self.width) * self.dtype.size() as u64
    }

    /// Bytes that a pull is answered with; of a scan, at most.
    #[must_use]
    #[inline]
    pub fn answer_len(&self) -> u64 {
        match self.coding {
            Some(coding) if self.kind == RequestKind::Pull => {
                let len = usize::try_from(self.values_len()).unwrap_or(usize::MAX);
                coding.filters.values.encoded_len(len) as u64
            }
            _ => self.values_len(),
        }
    }

    /// Bytes of keys, as the table has them.
    #[must_use]
    #[inline]
    pub fn keys_len(&self) -> u64 {
        match self.rows {
            Rows::Range { .. } | Rows::Partition { .. } => 0,
            Rows::Keys => u64::from(self.row_count) * 8,
        }
    }

    /// Bytes of keys in the body.
    #[must_use]
    #[inline]
    pub fn sent_keys_len(&self) -> u64 {
        self.coding.map_or_else(|| self.keys_len(), |coding| u64::from(coding.keys.sent_len()))
    }

    /// Bytes of values that a push has in the body or by reference.
    #[must_use]
    #[inline]
    pub fn sent_values_len(&self) -> u64 {
        self.coding.map_or_else(|| self.values_len(), |coding| u64::from(coding.values_len))
    }

    /// Bytes of values in the body.
    #[must_use]
    #[inline]
    pub fn inline_values_len(&self) -> u64 {
        if self.kind.pushes() && self.values.is_none() { self.sent_values_len() } else { 0 }
    }

    /// Bytes of the body: keys, then values.
    #[must_use]
    #[inline]
    pub fn body_len(&self) -> u64 {
        self.sent_keys_len() + self.inline_values_len()
    }

    /// The header without its digest: [`RequestHeader::seal`] puts it in once the body is known. Panics
    /// when rows or width do not fit, which [`ROWS_MAX`] and [`WIDTH_MAX`] do.
    #[must_use]
    #[inline]
    pub fn encode(&self) -> EncodedHeader {
        let mut encoded = EncodedHeader { bytes: [0; Self::LEN_MAX], len: Self::LEN_MIN };
        if let Some((start, _)) = encoded.bytes.split_first_chunk_mut() {
            self.encode_into(start);
        }
        let reply = self.kind.pulls().then(|| self.reply.unwrap_or_default());
        for place in [self.values, reply].into_iter().flatten() {
            let bytes = &mut encoded.bytes[encoded.len..encoded.len + PLACE_LEN];
            bytes[..4].copy_from_slice(&place.key.to_le_bytes());
            bytes[8..].copy_from_slice(&place.address.to_le_bytes());
            encoded.len += PLACE_LEN;
        }
        if let Some(coding) = &self.coding {
            coding.encode(&mut encoded.bytes[encoded.len..encoded.len + Coding::LEN]);
            encoded.len += Coding::LEN;
        }
        encoded
    }

    /// As [`RequestHeader::encode`], the part before the places.
    #[inline]
    pub fn encode_into(&self, bytes: &mut [u8; Self::LEN_MIN]) {
        assert!(
            self.row_count >> ROWS_BITS == 0 && self.width >> WIDTH_BITS == 0,
            "{} rows of {} do not fit a header",
            self.row_count,
            self.width
        );
        let mut flags = 0;
        let (mut first_row, mut clock) = (0, self.clock.0);
        if self.values.is_some() {
            flags |= BY_REFERENCE;
        }
        match self.rows {
            Rows::Range { first } => {
                flags |= RANGE;
                first_row = first;
            }
            Rows::Keys => {}
            Rows::Partition { partition, from, columns } => {
                flags |= match columns {
                    ScanColumns::Keys => 0,
                    ScanColumns::Values => WITH_VALUES,
                    ScanColumns::State => WITH_STATE,
                };
                (first_row, clock) = (from, u64::from(partition.0));
            }
        }
        if self.sync {
            flags |= SYNC;
        }
        if self.resumes {
            flags |= RESUMES;
        }
        if self.strong {
            flags |= STRONG;
        }
        if self.coding.is_some() {
            flags |= WITH_FILTERS;
        }
        let numbers = self.kind as u8 | (self.dtype as u8) << 4;
        let counts = u64::from(self.row_count) | u64::from(self.width) << ROWS_BITS;
        let start = u64::from(numbers) | u64::from(flags) << 8 | counts << 16;
        bytes[0..8].copy_from_slice(&start.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.epoch.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&clock.to_le_bytes());
        bytes[32..40].copy_from_slice(&first_row.to_le_bytes());
        bytes[40..48].copy_from_slice(&u64::from(self.table.0).to_le_bytes());
    }

    /// Whether the digest covers values of so many bytes in the body.
    #[must_use]
    #[inline]
    pub const fn checks_values(len: u64) -> bool {
        len <= CHECKED_VALUES_LEN_MAX
    }

    /// Puts the digest of header, keys and values into an encoded header. Panics when it is none.
    #[inline]
    pub fn seal(header: &mut [u8], keys: &[u8], values: &[u8]) {
        let digest = digest_of(header, keys, values);
        header[DIGEST_AT..DIGEST_AT + 4].copy_from_slice(&digest.to_le_bytes());
    }

    /// The digest of a header; its body's is that with keys and values appended. Panics when it is
    /// shorter than [`RequestHeader::LEN_MIN`].
    #[must_use]
    #[inline]
    pub fn digest(header: &[u8]) -> Digest {
        let Some((start, places)) = header.split_first_chunk::<{ Self::LEN_MIN }>() else {
            panic!("a header of {} bytes", header.len());
        };
        let mut words = [0; Self::LEN_MIN / 8];
        for (word, bytes) in words.iter_mut().zip(start.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        // The table's number; above it is the digest itself.
        words[DIGEST_AT / 8] &= u64::from(u32::MAX);
        Digest::of_words(&words).append(places)
    }

    /// The digest that a header was sealed with. Panics when it is shorter than
    /// [`RequestHeader::LEN_MIN`].
    #[must_use]
    #[inline]
    pub fn sealed(header: &[u8]) -> u32 {
        let mut found = [0; 4];
        found.copy_from_slice(&header[DIGEST_AT..DIGEST_AT + 4]);
        u32::from_le_bytes(found)
    }

    /// Checks a message's digest: a sealed header with its body behind it.
    ///
    /// # Errors
    /// When it is no message, or the digest is another.
    pub fn verify(message: &[u8]) -> Result<(), DecodeError> {
        let header = Self::decode(message, message.len() as u64)?;
        let (encoded, body) = message.split_at(header.len());
        let keys_len = body.len() as u64 - header.inline_values_len();
        let (keys, values) = body.split_at(usize::try_from(keys_len).unwrap_or(body.len()));
        let (found, computed) = (Self::sealed(encoded), digest_of(encoded, keys, values));
        if found == computed { Ok(()) } else { Err(DecodeError::Checksum { found, computed }) }
    }
}

#[inline]
fn digest_of(header: &[u8], keys: &[u8], values: &[u8]) -> u32 {
    let values = if RequestHeader::checks_values(values.len() as u64) { values } else { &[] };
    RequestHeader::digest(header).append(keys).append(values).finish()
}

const DIGEST_AT: usize = 44;
const PLACE_LEN: usize = 16;
/// Bits that numbers of rows and widths take.
const ROWS_BITS: u32 = 21;
const WIDTH_BITS: u32 = 23;

const _: () = assert!(ROWS_MAX >> ROWS_BITS == 0 && WIDTH_MAX >> WIDTH_BITS == 0);
const _: () = assert!(16 + ROWS_BITS + WIDTH_BITS <= 64 && DataType::ALL.len() <= 16);

mod coding;
mod decode;
pub mod order;

pub use coding::{CodedKeys, Coding, DECODED_LEN_MAX};

#[cfg(test)]
mod tests;
