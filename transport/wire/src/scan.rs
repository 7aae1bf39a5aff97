//! Scans: the rows of a partition of a sparse table, in the order of their positions.
//!
//! A key's position is a bijection of it, the same on every replica and in every life of the table, so
//! that a scan goes on wherever the rows lie by then: whoever is asked next answers with the keys at that
//! position and above. A row that is there all the time is seen exactly once, any other at most once.
//!
//! The answer, which the server writes into the requester's memory, in columns:
//!
//! ```text
//! offset size
//!      0    4  rows
//!      4    4  zero while there may be more, one at the partition's end
//!      8    8  position from which the scan goes on; zero at the end
//!     16    8  each row's key
//!     ..       each row's values, if they were asked for
//!     ..       each row's state, if it was: planes of state values, then its word (4 bytes) if the rule has
//!              one
//! ```

use crate::{map::mix, schema::TableSchema};

/// Bytes of an answer before its rows.
pub const HEAD_LEN: usize = 16;

/// What a scan brings of each row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScanColumns {
    /// Its key.
    Keys,
    /// Key and values.
    #[default]
    Values,
    /// Key, values and the optimiser's state.
    State,
}

impl ScanColumns {
    /// Bytes of a row's values and state in an answer.
    #[must_use]
    pub fn lens(self, schema: &TableSchema) -> (u64, u64) {
        match self {
            Self::Keys => (0, 0),
            Self::Values => (schema.row_len(), 0),
            Self::State => (schema.row_len(), schema.state_len()),
        }
    }

    /// Words of 8 bytes that a row takes in an answer at most.
    #[must_use]
    pub fn row_words(self, schema: &TableSchema) -> u64 {
        let (values, state) = self.lens(schema);
        1 + (values + state).div_ceil(8)
    }
}

/// Most bytes of an answer with so many rows.
#[must_use]
#[inline]
pub fn answer_len(row_count: u32, row_words: u32) -> u64 {
    HEAD_LEN as u64 + u64::from(row_count) * u64::from(row_words) * 8
}

/// Where a scan meets a key. The upper bits are those of the slots in which an index of any size looks for
/// the key first, from the lowest on: so a grown index holds what one slot led to where two slots lead that
/// the order has beside each other.
#[must_use]
#[inline]
pub const fn position(key: u64) -> u64 {
    slot_hash(key).reverse_bits()
}

/// The hash of which the low bits, as many as an index needs, number the slot where a key is looked for.
#[must_use]
#[inline]
pub const fn slot_hash(key: u64) -> u64 {
    // The low bits of the mixed key choose the partition, so all keys of one share them.
    mix(key).rotate_right(20)
}

/// How an answer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanHead {
    /// Rows of the answer.
    pub row_count: u32,
    /// Where the scan goes on, unless this was the partition's end.
    pub next: Option<u64>,
}

impl ScanHead {
    /// Its bytes.
    #[must_use]
    pub fn encode(self) -> [u8; HEAD_LEN] {
        let ends = u32::from(self.next.is_none());
        let mut bytes = [0; HEAD_LEN];
        bytes[..4].copy_from_slice(&self.row_count.to_le_bytes());
        bytes[4..8].copy_from_slice(&ends.to_le_bytes());
        bytes[8..].copy_from_slice(&self.next.unwrap_or(0).to_le_bytes());
        bytes
    }

    /// The head of an answer that may have so many rows, or `None` when it makes no sense.
    #[must_use]
    pub fn decode(bytes: [u8; HEAD_LEN], row_count_max: u32) -> Option<Self> {
        let number = u128::from_le_bytes(bytes);
        #[expect(clippy::cast_possible_truncation, reason = "the parts that are asked for")]
        let (row_count, ends, next) = (number as u32, (number >> 32) as u32, (number >> 64) as u64);
        let next = match (ends, next) {
            (0, next) => Some(next),
            (1, 0) => None,
            _ => return None,
        };
        (row_count <= row_count_max).then_some(Self { row_count, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_back_and_others_are_refused() {
        for next in [None, Some(0), Some(1), Some(u64::MAX)] {
            let head = ScanHead { row_count: 7, next };
            assert_eq!(ScanHead::decode(head.encode(), 7), Some(head));
            assert_eq!(ScanHead::decode(head.encode(), 6), None);
        }
        let mut bytes = ScanHead { row_count: 7, next: None }.encode();
        bytes[8] = 1;
        assert_eq!(ScanHead::decode(bytes, 7), None, "an end that goes on");
        bytes[4] = 2;
        assert_eq!(ScanHead::decode(bytes, 7), None);
    }

    #[test]
    fn keys_have_positions_of_their_own_in_the_order_of_slots() {
        let keys = [0, 1, 2, 77, 1 << 40, u64::MAX];
        for key in keys {
            let upper = position(key) >> 60;
            assert_eq!(upper.reverse_bits() >> 60, slot_hash(key) & 15);
        }
        let mut positions = keys.map(position);
        positions.sort_unstable();
        assert!(positions.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
