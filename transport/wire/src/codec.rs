//! Bounded little-endian encoding and decoding: the only parser of foreign bytes. A decoder never
//! reads past its input, never allocates more than the input is long, and refuses trailing bytes.

use std::string::FromUtf8Error;

/// Why bytes could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ends in the middle of a field.
    #[error("message ends {missing} bytes too early")]
    Truncated {
        /// Bytes that are missing.
        missing: usize,
    },
    /// Bytes are left over.
    #[error("message has {extra} bytes too many")]
    Trailing {
        /// Bytes left.
        extra: usize,
    },
    /// A tag or number has no meaning in this protocol version.
    #[error("{field} has the unknown value {value}")]
    Unknown {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A length or count is over its bound.
    #[error("{field} is {value}, more than the most allowed, {max}")]
    TooLong {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The bound.
        max: u64,
    },
    /// A text is not UTF-8.
    #[error("{field} is not UTF-8")]
    Text {
        /// The field.
        field: &'static str,
        /// Where it goes wrong.
        source: FromUtf8Error,
    },
    /// A field holds a value that no writer produces.
    #[error("{field} is {value}, which no writer produces: the bytes are damaged")]
    Malformed {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// Fields contradict each other.
    #[error("{reason}")]
    Inconsistent {
        /// What does not fit.
        reason: &'static str,
    },
    /// The checksum does not match.
    #[error("checksum is {found:#010x}, but the bytes have {computed:#010x}")]
    Checksum {
        /// In the message.
        found: u32,
        /// Of its bytes.
        computed: u32,
    },
}

/// Reads fields from the front of some bytes.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from their start.
    #[must_use]
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Bytes left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let Some((front, rest)) = self.bytes.split_at_checked(len) else {
            return Err(DecodeError::Truncated { missing: len - self.bytes.len() });
        };
        self.bytes = rest;
        Ok(front)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// The next value.
    ///
    /// # Errors
    /// When the next bytes are not its encoding.
    #[inline]
    pub fn read<T: Wire>(&mut self) -> Result<T, DecodeError> {
        T::decode(self)
    }

    /// A count of elements of at least `element_len` bytes each: refused when it is above `max`, or when what
    /// is left cannot hold that many, so that a count never makes a reader allocate.
    ///
    /// # Errors
    /// As said.
    pub fn count(
        &mut self,
        field: &'static str,
        max: usize,
        element_len: usize,
    ) -> Result<usize, DecodeError> {
        let count = decode_len(self, field, max)?;
        match count.saturating_mul(element_len).saturating_sub(self.bytes.len()) {
            0 => Ok(count),
            missing => Err(DecodeError::Truncated { missing }),
        }
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// When something is.
    #[inline]
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.bytes.len() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing { extra }),
        }
    }
}

/// A value with one encoding.
pub trait Wire: Sized {
    /// Appends the encoding.
    fn encode(&self, into: &mut Vec<u8>);

    /// Reads one value.
    ///
    /// # Errors
    /// When the bytes are not its encoding.
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// The encoding alone.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        bytes
    }

    /// Reads one value that takes up all of `bytes`.
    ///
    /// # Errors
    /// When the bytes are not its encoding, or some are left.
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let value = Self::decode(&mut reader)?;
        reader.finish()?;
        Ok(value)
    }
}

/// A message of several kinds, each with a tag byte in front.
pub trait Tagged: Wire {
    /// Tag and name of every kind.
    const TAGS: &'static [(u8, &'static str)];
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            fn encode(&self, into: &mut Vec<u8>) {
                into.extend_from_slice(&self.to_le_bytes());
            }

            fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(Self::from_le_bytes(from.array()?))
            }
        }
    )*};
}

integers!(u8, u16, u32, u64, f32, f64);

impl Wire for bool {
    fn encode(&self, into: &mut Vec<u8>) {
        into.push(u8::from(*self));
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(from)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(DecodeError::Unknown { field: "flag", value: u64::from(value) }),
        }
    }
}

/// Most bytes of a text in a message.
pub const TEXT_LEN_MAX: usize = 4096;

impl Wire for String {
    /// Texts longer than [`TEXT_LEN_MAX`] are cut at a character's end.
    fn encode(&self, into: &mut Vec<u8>) {
        let text = &self[..self.floor_char_boundary_of(TEXT_LEN_MAX)];
        encode_len(text.len(), into);
        into.extend_from_slice(text.as_bytes());
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = decode_len(from, "text length", TEXT_LEN_MAX)?;
        Self::from_utf8(from.take(len)?.to_vec())
            .map_err(|source| DecodeError::Text { field: "text", source })
    }
}

/// Bytes of at most [`BLOB_LEN_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

/// Most bytes of a blob.
pub const BLOB_LEN_MAX: usize = 1 << 20;

impl Wire for Blob {
    fn encode(&self, into: &mut Vec<u8>) {
        assert!(self.0.len() <= BLOB_LEN_MAX, "a blob of {} bytes is too long", self.0.len());
        encode_len(self.0.len(), into);
        into.extend_from_slice(&self.0);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = decode_len(from, "blob length", BLOB_LEN_MAX)?;
        Ok(Self(from.take(len)?.to_vec()))
    }
}

/// Most elements of a list.
pub const LIST_COUNT_MAX: usize = 1 << 20;

impl<T: Wire> Wire for Vec<T> {
    fn encode(&self, into: &mut Vec<u8>) {
        assert!(self.len() <= LIST_COUNT_MAX, "a list of {} elements is too long", self.len());
        encode_len(self.len(), into);
        for element in self {
            element.encode(into);
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = decode_len(from, "list count", LIST_COUNT_MAX)?;
        // Every element takes a byte at least, so this never allocates more than the input is worth.
        let mut list = Self::with_capacity(count.min(from.remaining()));
        for _ in 0..count {
            list.push(T::decode(from)?);
        }
        Ok(list)
    }
}

impl<T: Wire> Wire for Option<T> {
    fn encode(&self, into: &mut Vec<u8>) {
        self.is_some().encode(into);
        if let Some(value) = self {
            value.encode(into);
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        bool::decode(from)?.then(|| T::decode(from)).transpose()
    }
}

trait FloorCharBoundary {
    fn floor_char_boundary_of(&self, index: usize) -> usize;
}

impl FloorCharBoundary for String {
    fn floor_char_boundary_of(&self, index: usize) -> usize {
        (0..=index.min(self.len())).rev().find(|at| self.is_char_boundary(*at)).unwrap_or(0)
    }
}

/// Appends the length or count of what follows.
///
/// # Panics
/// When it does not fit in 32 bits: limits far below keep every length.
pub fn encode_len(len: usize, into: &mut Vec<u8>) {
    let len = u32::try_from(len).expect("lengths are bounded far below 2^32");
    into.extend_from_slice(&len.to_le_bytes());
}

fn decode_len(
    from: &mut Reader<'_>,
    field: &'static str,
    max: usize,
) -> Result<usize, DecodeError> {
    let len = u32::decode(from)? as usize;
    if len > max {
        return Err(DecodeError::TooLong { field, value: len as u64, max: max as u64 });
    }
    Ok(len)
}

macro_rules! wire_newtypes {
    ($($type:ident),*) => {$(
        impl Wire for $crate::ids::$type {
            fn encode(&self, into: &mut Vec<u8>) {
                self.0.encode(into);
            }

            fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(Self(Wire::decode(from)?))
            }
        }
    )*};
}

wire_newtypes!(
    Key,
    TableId,
    PartitionId,
    ServerId,
    ShardId,
    SessionId,
    Incarnation,
    Sequence,
    WorkerRank,
    WorkerClock,
    Lsn,
    Epoch,
    Timestamp
);

/// Gives a struct the encoding of its fields in order.
macro_rules! wire_struct {
    ($type:ident { $($field:ident),* $(,)? }) => {
        impl $crate::codec::Wire for $type {
            fn encode(&self, into: &mut Vec<u8>) {
                $($crate::codec::Wire::encode(&self.$field, into);)*
            }

            fn decode(
                from: &mut $crate::codec::Reader<'_>,
            ) -> Result<Self, $crate::codec::DecodeError> {
                Ok(Self { $($field: $crate::codec::Wire::decode(from)?),* })
            }
        }
    };
}

/// Gives an enum of struct-like variants an encoding: a tag byte, then the fields in order.
macro_rules! wire_enum {
    ($type:ident { $($tag:literal => $variant:ident { $($field:ident),* $(,)? }),* $(,)? }) => {
        impl $crate::codec::Tagged for $type {
            const TAGS: &'static [(u8, &'static str)] = &[$(($tag, stringify!($variant))),*];
        }

        impl $crate::codec::Wire for $type {
            fn encode(&self, into: &mut Vec<u8>) {
                match self {
                    $(Self::$variant { $($field),* } => {
                        into.push($tag);
                        $($crate::codec::Wire::encode($field, into);)*
                    })*
                }
            }

            fn decode(
                from: &mut $crate::codec::Reader<'_>,
            ) -> Result<Self, $crate::codec::DecodeError> {
                match <u8 as $crate::codec::Wire>::decode(from)? {
                    $($tag => Ok(Self::$variant {
                        $($field: $crate::codec::Wire::decode(from)?),*
                    }),)*
                    value => Err($crate::codec::DecodeError::Unknown {
                        field: stringify!($type),
                        value: u64::from(value),
                    }),
                }
            }
        }
    };
}

pub(crate) use {wire_enum, wire_struct};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_long_and_oversized_inputs_are_refused() {
        assert_eq!(u64::from_bytes(&[1, 2]), Err(DecodeError::Truncated { missing: 6 }));
        assert_eq!(u8::from_bytes(&[1, 2]), Err(DecodeError::Trailing { extra: 1 }));
        assert!(matches!(
            Vec::<u8>::from_bytes(&u32::MAX.to_le_bytes()),
            Err(DecodeError::TooLong { .. })
        ));
        assert!(matches!(bool::from_bytes(&[2]), Err(DecodeError::Unknown { .. })));
        assert!(matches!(String::from_bytes(&[1, 0, 0, 0, 0xff]), Err(DecodeError::Text { .. })));
    }

    #[test]
    fn values_round_trip() {
        let value: Vec<Option<String>> = vec![None, Some("chain".to_owned())];
        assert_eq!(Wire::from_bytes(&value.to_bytes()), Ok(value));
    }
}
