//! Ascending keys as the differences between neighbours.
//!
//! ```text
//! varint(first key) varint(second key - first key) ...
//! ```
//! A varint holds seven bits a byte, the lowest first; all its bytes but the last have the upper bit set. It
//! has no more bytes than it needs, so equal keys have equal bytes. The request says how many keys follow.

use super::FilterError;

/// Appends `keys`, which must ascend; equal neighbours are allowed. On an error `out` is as it was.
pub fn encode_keys(keys: &[u64], out: &mut Vec<u8>) -> Result<(), FilterError> {
    if let Some(before) = keys.windows(2).position(|pair| pair[1] < pair[0]) {
        return Err(FilterError::KeysNotAscending { position: before + 1 });
    }
    out.reserve(keys.len());
    let mut last = 0;
    for &key in keys {
        let mut delta = key - last;
        last = key;
        while delta >= 0x80 {
            out.push((delta & 0x7f) as u8 | 0x80);
            delta >>= 7;
        }
        out.push((delta & 0x7f) as u8);
    }
    Ok(())
}

/// Fills `keys` from `bytes`, all of which must be used.
pub fn decode_keys(bytes: &[u8], keys: &mut [u64]) -> Result<(), FilterError> {
    let mut rest = bytes;
    let mut last = 0_u64;
    for (position, key) in keys.iter_mut().enumerate() {
        let next = take_varint(&mut rest).and_then(|delta| last.checked_add(delta));
        last = next.ok_or(FilterError::MalformedKey { position })?;
        *key = last;
    }
    super::expect_len("delta-keys", bytes.len() - rest.len(), bytes.len())
}

/// Takes a varint off the front, or returns `None` where none is.
#[inline]
fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        let bits = u64::from(byte & 0x7f);
        // The tenth byte holds the last bit of 64.
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            // A last byte of zero would be one byte too many.
            return (byte != 0 || shift == 0).then_some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(keys: &[u64]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_keys(keys, &mut out).unwrap();
        out
    }

    #[test]
    fn delta_keys_have_golden_bytes() {
        let bytes = encoded(&[5, 5, 6, 134, 16518, u64::MAX]);
        let golden = [
            0x05, 0x00, 0x01, 0x80, 0x01, 0x80, 0x80, 0x01, 0xf9, 0xfe, 0xfe, 0xff, 0xff, 0xff,
            0xff, 0xff, 0xff, 0x01,
        ];
        assert_eq!(bytes, golden);
    }

    #[test]
    fn delta_keys_refuse_keys_that_descend_and_leave_the_buffer() {
        let mut out = vec![7];
        let refused = encode_keys(&[1, 3, 2], &mut out);
        assert_eq!(refused, Err(FilterError::KeysNotAscending { position: 2 }));
        assert_eq!(out, [7]);
    }

    #[test]
    fn delta_keys_refuse_malformed_bytes() {
        let malformed = |position| Err(FilterError::MalformedKey { position });
        let mut keys = [0; 2];
        assert_eq!(decode_keys(&[1], &mut keys), malformed(1), "too short");
        assert_eq!(decode_keys(&[1, 0x80], &mut keys), malformed(1), "ends within a varint");
        assert_eq!(decode_keys(&[0x81, 0x00, 1], &mut keys), malformed(0), "a byte too many");
        let mut wide = vec![0xff; 9];
        wide.extend([0x02, 0]);
        assert_eq!(decode_keys(&wide, &mut keys), malformed(0), "more than 64 bits");
        let mut sum = encoded(&[u64::MAX]);
        sum.push(1);
        assert_eq!(decode_keys(&sum, &mut keys), malformed(1), "a key over 64 bits");
        assert_eq!(
            decode_keys(&[1, 1, 1], &mut keys),
            Err(FilterError::Length { filter: "delta-keys", expected: 2, actual: 3 })
        );
    }

    proptest! {
        #[test]
        fn delta_keys_round_trip(mut keys in prop::collection::vec(any::<u64>(), 0..200), shift in 0_u32..64) {
            keys.iter_mut().for_each(|key| *key >>= shift);
            keys.sort_unstable();
            let mut decoded = vec![0; keys.len()];
            decode_keys(&encoded(&keys), &mut decoded).unwrap();
            prop_assert_eq!(decoded, keys);
        }

        /// What decodes is what the encoder writes: no two texts for the same keys.
        #[test]
        fn delta_keys_take_any_bytes_and_only_canonical_ones_decode(
            bytes in prop::collection::vec(any::<u8>(), 0..40), count in 0_usize..20,
        ) {
            let mut keys = vec![0; count];
            if decode_keys(&bytes, &mut keys).is_ok() {
                prop_assert_eq!(encoded(&keys), bytes);
            }
        }
    }
}
