//! The header of a request in a mailbox, and the word that completes it.
//!
//! ```text
//! offset size
//!      0    1  kind: 1 push, 2 pull, 3 push_pull, 4 advance clock, 5 nothing, 6 idle
//!      1    1  flags: bit 0 values by reference, bit 1 rows are a range, bit 2 sync, bit 3 resumes,
//!               bit 4 strong
//!      2    1  dtype of the values
//!      3    1  zero
//!      4    4  table
//!      8    8  sequence in the session
//!     16    8  epoch of the sender's cluster map
//!     24    8  worker clock
//!     32    8  first row of a range; zero for keys
//!     40    4  number of rows
//!     44    4  width: values per row
//!     48    4  key of the values' region (by reference); zero inline
//!     52    4  CRC32C of header and body, in this order, taken with this field zero; without values
//!               of more than 8 KiB
//!     56    8  address of the values (by reference); zero inline
//!     64    4  key of the region that pulled rows go to; zero for a push
//!     68    4  zero
//!     72    8  address that pulled rows go to; zero for a push
//!     80       body: row keys (8 bytes each, unless a range), then values (unless by reference)
//! ```
//!
//! The body's length follows from the header, and has to equal the message's.
//!
//! A checksum tells bytes that have not all arrived from those that have, where a message and the word
//! that commits it come in one write. Long ones never do: their word is written behind them, and what
//! is in order needs no second proof, which would cost both sides as much as the sum.

use crate::{
    checksum::Checksum,
    codec::{DecodeError, Reader, Wire},
    dtype::DataType,
    ids::{Epoch, Sequence, TableId, WorkerClock},
};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RequestKind {
    /// Aggregate values into rows.
    Push = 1,
    /// Write rows into the requester's memory.
    Pull = 2,
    /// A push, then a pull of the same rows.
    PushPull = 3,
    /// An empty push over the whole table: only the worker's clock moves.
    AdvanceClock = 4,
    /// Nothing: is completed like any other.
    Nothing = 5,
    /// The worker has finished this clock and waits: in a round in which late pushes wait too, it is
    /// not waited for. Completed at once; said again and again while it waits.
    Idle = 6,
}

impl RequestKind {
    #[inline]
    fn from_number(number: u8) -> Result<Self, DecodeError> {
        Ok(match number {
            1 => Self::Push,
            2 => Self::Pull,
            3 => Self::PushPull,
            4 => Self::AdvanceClock,
            5 => Self::Nothing,
            6 => Self::Idle,
            value => {
                return Err(DecodeError::Unknown {
                    field: "request kind",
                    value: u64::from(value),
                });
            }
        })
    }

    /// Whether it carries values.
    #[must_use]
    #[inline]
    pub fn pushes(self) -> bool {
        matches!(self, Self::Push | Self::PushPull)
    }

    /// Whether it returns rows.
    #[must_use]
    #[inline]
    pub fn pulls(self) -> bool {
        matches!(self, Self::Pull | Self::PushPull)
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

impl RequestHeader {
    /// Length of the header in bytes.
    pub const LEN: usize = 80;

    /// Bytes of values this request pushes or pulls.
    #[must_use]
    #[inline]
    pub fn values_len(&self) -> u64 {
        u64::from(self.row_count) * u64::from(self.width) * self.dtype.size() as u64
    }

    /// Bytes of keys in the body.
    #[must_use]
    #[inline]
    pub fn keys_len(&self) -> u64 {
        match self.rows {
            Rows::Range { .. } => 0,
            Rows::Keys => u64::from(self.row_count) * 8,
        }
    }

    /// Bytes of values in the body.
    #[must_use]
    #[inline]
    pub fn inline_values_len(&self) -> u64 {
        if self.kind.pushes() && self.values.is_none() { self.values_len() } else { 0 }
    }

    /// Bytes of the body: keys, then values.
    #[must_use]
    #[inline]
    pub fn body_len(&self) -> u64 {
        self.keys_len() + self.inline_values_len()
    }

    /// The header with a zero checksum: [`RequestHeader::seal`] puts it in once the body is known.
    #[must_use]
    #[inline]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        self.encode_into(&mut bytes);
        bytes
    }

    /// As [`RequestHeader::encode`], into zeros.
    #[inline]
    pub fn encode_into(&self, bytes: &mut [u8; Self::LEN]) {
        let mut flags = 0;
        let mut first_row = 0;
        if self.values.is_some() {
            flags |= BY_REFERENCE;
        }
        if let Rows::Range { first } = self.rows {
            flags |= RANGE;
            first_row = first;
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
        let values = self.values.unwrap_or_default();
        let reply = self.reply.unwrap_or_default();
        bytes[0..4].copy_from_slice(&[self.kind as u8, flags, self.dtype as u8, 0]);
        bytes[4..8].copy_from_slice(&self.table.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.epoch.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.clock.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&first_row.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.row_count.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.width.to_le_bytes());
        bytes[48..52].copy_from_slice(&values.key.to_le_bytes());
        bytes[56..64].copy_from_slice(&values.address.to_le_bytes());
        bytes[64..68].copy_from_slice(&reply.key.to_le_bytes());
        bytes[72..80].copy_from_slice(&reply.address.to_le_bytes());
    }

    /// Whether the checksum covers values of so many bytes in the body.
    #[must_use]
    #[inline]
    pub const fn checks_values(len: u64) -> bool {
        len <= CHECKED_VALUES_LEN_MAX
    }

    /// What the checksum covers of values in the body.
    #[must_use]
    #[inline]
    pub fn checked(values: &[u8]) -> &[u8] {
        if Self::checks_values(values.len() as u64) { values } else { &[] }
    }

    /// Puts the checksum of header and body into an encoded header. Of values, `body` has what
    /// [`RequestHeader::checked`] leaves.
    #[inline]
    pub fn seal(header: &mut [u8; Self::LEN], body: &[&[u8]]) {
        header[CHECKSUM_AT..CHECKSUM_AT + 4].fill(0);
        let checksum = checksum_of(header, body);
        header[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.0.to_le_bytes());
    }

    /// The same where header and body are beside each other, which takes one pass. Panics when there
    /// is no whole header.
    #[inline]
    pub fn seal_message(message: &mut [u8]) {
        message[CHECKSUM_AT..CHECKSUM_AT + 4].fill(0);
        let checksum = Checksum::of(message);
        message[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.0.to_le_bytes());
    }

    /// Takes the checksum out of a sealed header: it is that of the header as it then is, and of the
    /// body behind it.
    #[inline]
    pub fn unseal(header: &mut [u8; Self::LEN]) -> Checksum {
        let mut found = [0; 4];
        found.copy_from_slice(&header[CHECKSUM_AT..CHECKSUM_AT + 4]);
        header[CHECKSUM_AT..CHECKSUM_AT + 4].fill(0);
        Checksum(u32::from_le_bytes(found))
    }

    /// Decodes a header and checks everything that can be checked without the body and the
    /// table: `body_len` is what follows it in the message. The checksum is checked apart, by
    /// [`RequestHeader::verify`].
    ///
    /// # Errors
    /// When any field is out of its bounds or contradicts another.
    pub fn decode(bytes: &[u8; Self::LEN], body_len: u64) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let kind = RequestKind::from_number(u8::decode(&mut from)?)?;
        let flags = u8::decode(&mut from)?;
        let dtype_number = u8::decode(&mut from)?;
        let reserved = u8::decode(&mut from)?;
        let table = TableId::decode(&mut from)?;
        let sequence = Sequence::decode(&mut from)?;
        let epoch = Epoch::decode(&mut from)?;
        let clock = WorkerClock::decode(&mut from)?;
        let first = u64::decode(&mut from)?;
        let row_count = u32::decode(&mut from)?;
        let width = u32::decode(&mut from)?;
        let values_key = u32::decode(&mut from)?;
        let _checksum = u32::decode(&mut from)?;
        let values_address = u64::decode(&mut from)?;
        let reply_key = u32::decode(&mut from)?;
        let reserved_after_reply = u32::decode(&mut from)?;
        let reply_address = u64::decode(&mut from)?;
        from.finish()?;

        if flags & !(BY_REFERENCE | RANGE | SYNC | RESUMES | STRONG) != 0 {
            return Err(DecodeError::Unknown { field: "request flags", value: u64::from(flags) });
        }
        if reserved != 0 || reserved_after_reply != 0 {
            return Err(DecodeError::Inconsistent { reason: "reserved bytes are not zero" });
        }
        let dtype = DataType::from_number(dtype_number)
            .ok_or(DecodeError::Unknown { field: "dtype", value: u64::from(dtype_number) })?;
        if row_count > ROWS_MAX {
            return Err(DecodeError::TooLong {
                field: "row count",
                value: u64::from(row_count),
                max: u64::from(ROWS_MAX),
            });
        }
        if width > WIDTH_MAX {
            return Err(DecodeError::TooLong {
                field: "width",
                value: u64::from(width),
                max: u64::from(WIDTH_MAX),
            });
        }
        let rows = if flags & RANGE != 0 { Rows::Range { first } } else { Rows::Keys };
        if rows == Rows::Keys && first != 0 {
            return Err(DecodeError::Inconsistent { reason: "a key list has a first row" });
        }
        if first.checked_add(u64::from(row_count)).is_none() {
            return Err(DecodeError::Inconsistent { reason: "the row range passes 2^64" });
        }
        let values = (flags & BY_REFERENCE != 0)
            .then_some(Place { key: values_key, address: values_address });
        if values.is_none() && (values_key != 0 || values_address != 0) {
            return Err(DecodeError::Inconsistent { reason: "inline values have a place" });
        }
        if values.is_some() && !kind.pushes() {
            return Err(DecodeError::Inconsistent {
                reason: "a request without values has a place",
            });
        }
        let reply = kind.pulls().then_some(Place { key: reply_key, address: reply_address });
        if reply.is_none() && (reply_key != 0 || reply_address != 0) {
            return Err(DecodeError::Inconsistent { reason: "a push has a reply place" });
        }
        let header = Self {
            kind,
            sync: flags & SYNC != 0,
            resumes: flags & RESUMES != 0,
            strong: flags & STRONG != 0,
            dtype,
            table,
            sequence,
            epoch,
            clock,
            rows,
            row_count,
            width,
            values,
            reply,
        };
        if (kind.pushes() || kind.pulls()) && header.values_len() > VALUES_LEN_MAX {
            return Err(DecodeError::TooLong {
                field: "values length",
                value: header.values_len(),
                max: VALUES_LEN_MAX,
            });
        }
        if !(kind.pushes() || kind.pulls()) && row_count != 0 {
            return Err(DecodeError::Inconsistent { reason: "a request about no rows has rows" });
        }
        if header.body_len() != body_len {
            return Err(DecodeError::Inconsistent {
                reason: "the body's length is not what the header says",
            });
        }
        Ok(header)
    }

    /// Checks a sealed header's checksum.
    ///
    /// # Errors
    /// When it is not that of header and body.
    pub fn verify(sealed: &[u8; Self::LEN], body: &[&[u8]]) -> Result<(), DecodeError> {
        let mut header = *sealed;
        let found = Self::unseal(&mut header);
        let computed = checksum_of(&header, body);
        if found == computed {
            Ok(())
        } else {
            Err(DecodeError::Checksum { found: found.0, computed: computed.0 })
        }
    }
}

fn checksum_of(header: &[u8], body: &[&[u8]]) -> Checksum {
    body.iter().fold(Checksum::of(header), |checksum, part| checksum.append(part))
}

const CHECKSUM_AT: usize = 52;

#[cfg(test)]
mod tests {
    use super::*;

    fn push() -> RequestHeader {
        RequestHeader {
            kind: RequestKind::Push,
            sync: false,
            resumes: false,
            strong: false,
            dtype: DataType::F32,
            table: TableId(3),
            sequence: Sequence(9),
            epoch: Epoch(2),
            clock: WorkerClock(5),
            rows: Rows::Keys,
            row_count: 2,
            width: 4,
            values: None,
            reply: None,
        }
    }

    #[test]
    fn checksums_leave_long_values_out() {
        let long = vec![1; usize::try_from(CHECKED_VALUES_LEN_MAX).unwrap() + 1];
        assert_eq!(RequestHeader::checked(&long), &[0_u8; 0]);
        assert_eq!(RequestHeader::checked(&long[1..]), &long[1..]);
    }

    #[test]
    fn headers_round_trip_and_verify() {
        let body = [7_u8; 48];
        let headers = [
            push(),
            RequestHeader {
                rows: Rows::Range { first: 10 },
                values: Some(Place { key: 4, address: 4096 }),
                ..push()
            },
            RequestHeader {
                kind: RequestKind::PushPull,
                reply: Some(Place { key: 1, address: 64 }),
                sync: true,
                resumes: true,
                strong: false,
                ..push()
            },
        ];
        for header in headers {
            let body = &body[..usize::try_from(header.body_len()).unwrap()];
            let mut bytes = header.encode();
            RequestHeader::seal(&mut bytes, &[body]);
            assert_eq!(RequestHeader::decode(&bytes, body.len() as u64), Ok(header));
            assert_eq!(RequestHeader::verify(&bytes, &[body]), Ok(()));
            let mut message = [&header.encode(), body].concat();
            RequestHeader::seal_message(&mut message);
            assert_eq!(message, [&bytes, body].concat());
            assert!(RequestHeader::decode(&bytes, body.len() as u64 + 1).is_err());
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes;
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(
                    RequestHeader::verify(&damaged, &[body]).is_err(),
                    "flip of bit {bit} went unnoticed"
                );
            }
        }
    }

    #[test]
    fn lengths_out_of_bounds_are_refused() {
        let wide = RequestHeader { width: WIDTH_MAX, row_count: ROWS_MAX, ..push() };
        assert!(matches!(
            RequestHeader::decode(&wide.encode(), wide.body_len()),
            Err(DecodeError::TooLong { .. })
        ));
        let far = RequestHeader { rows: Rows::Range { first: u64::MAX }, ..push() };
        assert!(RequestHeader::decode(&far.encode(), far.body_len()).is_err());
    }
}
