//! The header of short messages, whose latency is that of their bytes: those of at most 128 bytes that only push,
//! with their values in them. Flag bit 5 says so; it is as others are up to offset 40, then
//!
//! ```text
//!     40    2  number of rows
//!     42    2  width: values per row
//!     44    4  CRC32C of header and body, taken with this field zero
//!     48       body
//! ```

use super::{RequestHeader, RequestKind, take_checksum};
use crate::{checksum::Checksum, codec::DecodeError};

const SHORT: u8 = 32;
const CHECKSUM_AT: usize = 44;

const _: () = assert!(SHORT > super::STRONG, "the flags are apart");

/// A header taken out of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The header.
    pub header: RequestHeader,
    /// Its length in bytes: the body is behind it.
    pub len: usize,
    /// The checksum that it was sealed with, see [`RequestHeader::unseal`].
    pub sealed: Checksum,
}

impl RequestHeader {
    /// Length of a short header in bytes.
    pub const SHORT_LEN: usize = 48;

    /// Most bytes of a message with a short header.
    pub const SHORT_MESSAGE_LEN_MAX: usize = 128;

    /// As [`RequestHeader::encode_into`], the short header of a push with its values in the body. Panics
    /// when it has more rows or values per row than there is room for.
    #[inline]
    pub fn encode_short_into(&self, bytes: &mut [u8; Self::SHORT_LEN]) {
        let count = |count: u32| match u16::try_from(count) {
            Ok(count) => count.to_le_bytes(),
            Err(_) => panic!("{count} does not fit a short header"),
        };
        debug_assert!(self.kind == RequestKind::Push && self.values.is_none());
        let (flags, first_row) = self.flags_and_first();
        bytes[0..4].copy_from_slice(&[self.kind as u8, flags | SHORT, self.dtype as u8, 0]);
        bytes[4..8].copy_from_slice(&self.table.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.epoch.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.clock.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&first_row.to_le_bytes());
        bytes[40..42].copy_from_slice(&count(self.row_count));
        bytes[42..44].copy_from_slice(&count(self.width));
    }

    /// Puts the checksum into a short header with its body behind it. Panics when there is
    /// no whole header.
    #[inline]
    pub fn seal_short_message(message: &mut [u8]) {
        message[CHECKSUM_AT..CHECKSUM_AT + 4].fill(0);
        let checksum = Checksum::of(message);
        message[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.0.to_le_bytes());
    }

    /// Takes the header, short or not, out of a message of `len` bytes that begins with `start`: the whole of
    /// it where that is no more than [`RequestHeader::SHORT_MESSAGE_LEN_MAX`], or else at least
    /// [`RequestHeader::LEN`] bytes. Of the message's checksum `start` is the sum as it then is.
    ///
    /// # Errors
    /// As of [`RequestHeader::decode`].
    #[inline]
    pub fn open(start: &mut [u8], len: u64) -> Result<Opened, DecodeError> {
        let is_short = start.get(1).is_some_and(|flags| flags & SHORT != 0);
        if is_short && let Some((bytes, _)) = start.split_first_chunk_mut() {
            let sealed = take_checksum(bytes, CHECKSUM_AT);
            return Ok(Opened {
                header: Self::decode_short(bytes, len)?,
                len: Self::SHORT_LEN,
                sealed,
            });
        }
        let start_len = start.len();
        let Some((bytes, _)) = start.split_first_chunk_mut() else {
            return Err(DecodeError::Truncated { missing: Self::LEN - start_len });
        };
        let sealed = Self::unseal(bytes);
        let body_len = len.saturating_sub(Self::LEN as u64);
        Ok(Opened { header: Self::decode(bytes, body_len)?, len: Self::LEN, sealed })
    }

    fn decode_short(bytes: &[u8; Self::SHORT_LEN], len: u64) -> Result<Self, DecodeError> {
        if len > Self::SHORT_MESSAGE_LEN_MAX as u64 {
            return Err(DecodeError::Inconsistent { reason: "a long message has a short header" });
        }
        // As the long one that says the same.
        let mut long = [0; Self::LEN];
        long[..40].copy_from_slice(&bytes[..40]);
        long[1] &= !SHORT;
        long[40..42].copy_from_slice(&bytes[40..42]);
        long[44..46].copy_from_slice(&bytes[42..44]);
        let header = Self::decode(&long, len.saturating_sub(Self::SHORT_LEN as u64))?;
        if header.kind != RequestKind::Push || header.values.is_some() {
            return Err(DecodeError::Inconsistent { reason: "a short header has no places" });
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{BY_REFERENCE, Rows, tests::push};

    #[test]
    fn short_headers_say_what_long_ones_do() {
        let body = [7_u8; 48];
        let range = RequestHeader { rows: Rows::Range { first: 1 << 40 }, resumes: true, ..push() };
        for header in [push(), range] {
            let body = &body[..usize::try_from(header.body_len()).unwrap()];
            let mut bytes = [0; RequestHeader::SHORT_LEN];
            header.encode_short_into(&mut bytes);
            let mut message = [&bytes, body].concat();
            RequestHeader::seal_short_message(&mut message);
            let open = |message: &[u8]| {
                let mut message = message.to_vec();
                let len = message.len() as u64;
                let opened = RequestHeader::open(&mut message, len)?;
                Ok::<_, DecodeError>((
                    opened.header,
                    opened.len,
                    opened.sealed == Checksum::of(&message),
                ))
            };
            assert_eq!(open(&message), Ok((header, RequestHeader::SHORT_LEN, true)));
            for len in 0..message.len() {
                assert!(open(&message[..len]).is_err(), "{len} bytes of it");
            }
            for bit in 0..message.len() * 8 {
                let mut damaged = message.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let is_seen = open(&damaged).map_or(true, |(.., is_whole)| !is_whole);
                assert!(is_seen, "flip of bit {bit} went unnoticed");
            }
            for kind in [RequestKind::Pull, RequestKind::PushPull, RequestKind::Nothing] {
                let mut other = message.clone();
                other[0] = kind as u8;
                assert!(open(&other).is_err(), "{kind:?}");
            }
            message[1] |= BY_REFERENCE;
            assert!(open(&message).is_err());
        }
    }
}
