//! The fixed header before every payload. A stream is nothing but frames; one that does not decode
//! ends its connection.
//!
//! ```text
//! byte  0  kind           1
//!       1  flags          1   bit 0: an acknowledgement is wanted; bit 1: the payload is followed
//!                             by its CRC32C
//!       2  zero           2
//!       4  number         4   the request's, counted from 1 by its sender; answers repeat it
//!       8  acknowledged   4   every request of the receiver's up to this one was carried out
//!      12  key            4   region at the receiver
//!      16  address        8   first byte in that region
//!      24  length         4   bytes of the payload; of a read, bytes wanted
//!      28  operand        8   immediate, value to add, value expected, or status
//!      36  checksum       4   CRC32C of bytes 0..36
//!      40  payload
//! ```
//! All integers are little-endian; fields that a kind does not use are zero.

use windlass_wire::checksum::Checksum;

use crate::fabric::{CompletionStatus, INLINE_LEN_MAX};

use super::{endpoint::HELLO_LEN, limits::MESSAGE_LEN_MAX};

/// Bytes of a header.
pub(super) const HEADER_LEN: usize = 40;

/// Bytes of the checksum after a payload.
pub(super) const TRAILER_LEN: usize = 4;

#[expect(clippy::cast_possible_truncation, reason = "bounded below")]
const INLINE_LEN: u32 = INLINE_LEN_MAX as u32;
#[expect(clippy::cast_possible_truncation, reason = "bounded below")]
const HELLO_LEN_U32: u32 = HELLO_LEN as u32;

const _: () = assert!(INLINE_LEN_MAX <= 1024 && HELLO_LEN <= 1024);

/// What a frame does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Places the payload.
    Write,
    /// Places the payload, which may be empty, and consumes a receive.
    WriteImmediate,
    /// Asks for `length` bytes.
    Read,
    /// Adds `operand` to a word.
    FetchAdd,
    /// Replaces a word that is `operand` by the eight bytes of the payload.
    CompareSwap,
    /// The bytes of a read, or the old word of an atomic.
    Response,
    /// Carries only `acknowledged`.
    Acknowledge,
    /// Request `number` was not carried out, `operand` says why, and no later one will be.
    Refuse,
    /// Opens a connection.
    Hello,
}

impl Kind {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Write => 1,
            Self::WriteImmediate => 2,
            Self::Read => 3,
            Self::FetchAdd => 4,
            Self::CompareSwap => 5,
            Self::Response => 6,
            Self::Acknowledge => 7,
            Self::Refuse => 8,
            Self::Hello => 9,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Write,
            2 => Self::WriteImmediate,
            3 => Self::Read,
            4 => Self::FetchAdd,
            5 => Self::CompareSwap,
            6 => Self::Response,
            7 => Self::Acknowledge,
            8 => Self::Refuse,
            9 => Self::Hello,
            _ => return None,
        })
    }

    /// Fewest and most bytes `length` may say.
    const fn length_bounds(self) -> (u32, u32) {
        match self {
            Self::Write | Self::Read | Self::Response => (0, MESSAGE_LEN_MAX),
            Self::WriteImmediate => (0, INLINE_LEN),
            Self::CompareSwap => (8, 8),
            Self::FetchAdd | Self::Acknowledge | Self::Refuse => (0, 0),
            Self::Hello => (HELLO_LEN_U32, HELLO_LEN_U32),
        }
    }

    /// Whether the frame is a request of the sender's, counted by `number`.
    pub(super) const fn is_request(self) -> bool {
        matches!(
            self,
            Self::Write | Self::WriteImmediate | Self::Read | Self::FetchAdd | Self::CompareSwap
        )
    }
}

const FLAG_ACKNOWLEDGE: u8 = 1;
const FLAG_TRAILER: u8 = 2;
const FLAGS_KNOWN: u8 = FLAG_ACKNOWLEDGE | FLAG_TRAILER;

/// A decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// An acknowledgement is wanted.
    pub(super) acknowledge: bool,
    /// The payload is followed by its checksum.
    pub(super) trailer: bool,
    pub(super) number: u32,
    pub(super) acknowledged: u32,
    pub(super) key: u32,
    pub(super) address: u64,
    pub(super) length: u32,
    pub(super) operand: u64,
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("header checksum does not match")]
    Checksum,
    #[error("unknown frame kind {0}")]
    Kind(u8),
    #[error("reserved bits are set")]
    Reserved,
    #[error("length {0} is out of bounds")]
    Length(u32),
}

impl Header {
    /// A header with nothing set but its kind.
    pub(super) const fn new(kind: Kind) -> Self {
        Self {
            kind,
            acknowledge: false,
            trailer: false,
            number: 0,
            acknowledged: 0,
            key: 0,
            address: 0,
            length: 0,
            operand: 0,
        }
    }

    /// Bytes of payload that follow, without trailer.
    pub(super) const fn payload_len(&self) -> usize {
        match self.kind {
            Kind::Read => 0,
            _ => self.length as usize,
        }
    }

    /// Bytes that follow the payload.
    pub(super) const fn trailer_len(&self) -> usize {
        if self.trailer { TRAILER_LEN } else { 0 }
    }

    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = self.kind.to_byte();
        bytes[1] =
            u8::from(self.acknowledge) * FLAG_ACKNOWLEDGE + u8::from(self.trailer) * FLAG_TRAILER;
        bytes[4..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.acknowledged.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.key.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.address.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.operand.to_le_bytes());
        let checksum = Checksum::of(&bytes[..36]);
        bytes[36..40].copy_from_slice(&checksum.0.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, FrameError> {
        if Checksum::of(&bytes[..36]) != Checksum(u32_at(bytes, 36)) {
            return Err(FrameError::Checksum);
        }
        let kind = Kind::from_byte(bytes[0]).ok_or(FrameError::Kind(bytes[0]))?;
        let flags = bytes[1];
        if flags & !FLAGS_KNOWN != 0 || bytes[2] != 0 || bytes[3] != 0 {
            return Err(FrameError::Reserved);
        }
        let header = Self {
            kind,
            acknowledge: flags & FLAG_ACKNOWLEDGE != 0,
            trailer: flags & FLAG_TRAILER != 0,
            number: u32_at(bytes, 4),
            acknowledged: u32_at(bytes, 8),
            key: u32_at(bytes, 12),
            address: u64_at(bytes, 16),
            length: u32_at(bytes, 24),
            operand: u64_at(bytes, 28),
        };
        let (length_min, length_max) = kind.length_bounds();
        if header.length < length_min || header.length > length_max {
            return Err(FrameError::Length(header.length));
        }
        if header.trailer && header.payload_len() == 0 {
            return Err(FrameError::Reserved);
        }
        if header.acknowledge && !kind.is_request() {
            return Err(FrameError::Reserved);
        }
        Ok(header)
    }
}

/// The word of a refusal that stands for a status, and back.
pub(super) const fn status_to_word(status: CompletionStatus) -> u64 {
    match status {
        CompletionStatus::RemoteAccess => 1,
        CompletionStatus::RemoteOperation => 2,
        CompletionStatus::ReceiverNotReady => 3,
        _ => 0,
    }
}

/// The status that a refusal's word stands for; unknown words of a later version keep their number.
pub(super) fn status_from_word(word: u64) -> CompletionStatus {
    match word {
        1 => CompletionStatus::RemoteAccess,
        2 => CompletionStatus::RemoteOperation,
        3 => CompletionStatus::ReceiverNotReady,
        other => CompletionStatus::Provider(u32::try_from(other).unwrap_or(u32::MAX)),
    }
}

/// The little-endian number in four bytes of `bytes`, which are there.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

/// The little-endian number in eight bytes of `bytes`, which are there.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_field() -> Header {
        Header {
            kind: Kind::Write,
            acknowledge: true,
            trailer: true,
            number: 0x0403_0201,
            acknowledged: 0x0807_0605,
            key: 0x0c0b_0a09,
            address: 0x1413_1211_100f_0e0d,
            length: 0x1817_1615,
            operand: 0x201f_1e1d_1c1b_1a19,
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = every_field().encode();
        let mut expected = vec![1, 3, 0, 0];
        expected.extend(1..=32);
        assert_eq!(bytes[..36], expected[..]);
        assert_eq!(bytes[36..], Checksum::of(&expected).0.to_le_bytes());
        assert_eq!(bytes[36..], GOLDEN_CHECKSUM);
        assert_eq!(Header::decode(&bytes), Ok(every_field()));
    }

    /// CRC32C of 01 03 00 00 01 02 .. 20.
    const GOLDEN_CHECKSUM: [u8; 4] = [159, 218, 122, 175];

    #[test]
    fn every_kind_has_its_byte() {
        for byte in 0..=255 {
            if let Some(kind) = Kind::from_byte(byte) {
                assert_eq!(kind.to_byte(), byte);
            }
        }
        assert_eq!((0..=255).filter_map(Kind::from_byte).count(), 9);
    }

    fn sealed(change: impl Fn(&mut [u8; HEADER_LEN])) -> Result<Header, FrameError> {
        let mut bytes = every_field().encode();
        change(&mut bytes);
        let checksum = Checksum::of(&bytes[..36]).0.to_le_bytes();
        bytes[36..].copy_from_slice(&checksum);
        Header::decode(&bytes)
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let mut flipped = every_field().encode();
        flipped[20] ^= 1;
        assert_eq!(Header::decode(&flipped), Err(FrameError::Checksum));
        assert_eq!(sealed(|bytes| bytes[0] = 0), Err(FrameError::Kind(0)));
        assert_eq!(sealed(|bytes| bytes[0] = 10), Err(FrameError::Kind(10)));
        assert_eq!(sealed(|bytes| bytes[1] = 4), Err(FrameError::Reserved));
        assert_eq!(sealed(|bytes| bytes[3] = 1), Err(FrameError::Reserved));
        assert_eq!(sealed(|bytes| bytes[27] = 0x40), Err(FrameError::Length(0x4017_1615)));
        let hello = sealed(|bytes| {
            bytes[0] = 9;
            bytes[1] = 0;
        });
        assert_eq!(hello, Err(FrameError::Length(0x1817_1615)));
    }
}
