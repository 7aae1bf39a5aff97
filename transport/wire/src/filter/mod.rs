//! Filters: codings that make the keys and values of a push smaller. Each is a pure function with its
//! inverse beside it. Encoders append to a buffer. Decoders fill a slice whose length the caller knows from
//! the request, so no message can make them allocate.

mod body;
mod delta;
mod fixed;
mod half;
mod snappy;
mod stack;

pub use body::{BodyEncoder, SavedBytes, decode_body_keys, decode_body_values};
pub use delta::{decode_keys, encode_keys};
pub use fixed::{FixedWidth, decode_fixed, encode_fixed};
pub use half::{decode_bf16, decode_f16, encode_bf16, encode_f16};
pub use snappy::{Compressor, decompress};
pub use stack::{FilterStack, StackError, ValueCoding};

/// Why a filter refuses its input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The keys to encode are not in ascending order.
    #[error("delta-keys needs ascending keys: key {position} is less than the one before it")]
    KeysNotAscending {
        /// Index of the lesser key.
        position: usize,
    },
    /// The encoded keys end early, go on too long or are no canonical varints.
    #[error("delta-keys: the bytes of key {position} are malformed")]
    MalformedKey {
        /// Index of the key.
        position: usize,
    },
    /// The encoded bytes have another length than that many keys or values have.
    #[error("{filter}: {actual} bytes, but the request calls for {expected}")]
    Length {
        /// The filter.
        filter: &'static str,
        /// Bytes that the request calls for.
        expected: usize,
        /// Bytes that came.
        actual: usize,
    },
    /// Fixed point has no form for NaN and infinities.
    #[error("fixed: value {position} is not finite")]
    NotFinite {
        /// Index of the value.
        position: usize,
    },
    /// The greatest magnitude at the head of the values is negative or not finite.
    #[error("fixed: the greatest magnitude is negative or not finite")]
    MalformedMagnitude,
    /// A value lies below the least one that the encoder writes.
    #[error("fixed: value {position} is out of range")]
    OutOfRange {
        /// Index of the value.
        position: usize,
    },
    /// Snappy refuses the bytes.
    #[error("snappy: {0}")]
    Snappy(#[from] snap::Error),
}

/// Checks that `actual` bytes came.
fn expect_len(filter: &'static str, expected: usize, actual: usize) -> Result<(), FilterError> {
    if expected == actual { Ok(()) } else { Err(FilterError::Length { filter, expected, actual }) }
}
