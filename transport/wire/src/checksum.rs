//! CRC32C (Castagnoli), the one checksum of the wire, the log and the checkpoints. It uses the
//! processor's instruction where there is one.
#![allow(unsafe_code)]

/// CRC32C of some bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Checksum(pub u32);

/// Bytes that are summed in one run: of more, `crc32c` sums three parts at once.
#[cfg(target_arch = "x86_64")]
const SHORT_LEN_MAX: usize = 767;

impl Checksum {
    /// The checksum of `bytes`.
    #[must_use]
    #[inline]
    pub fn of(bytes: &[u8]) -> Self {
        Self(0).append(bytes)
    }

    /// The checksum of the bytes this one covers followed by `bytes`.
    #[must_use]
    #[inline]
    pub fn append(self, bytes: &[u8]) -> Self {
        // Messages have parts that are empty more often than not, each of which would cost a call.
        if bytes.is_empty() {
            return self;
        }
        #[cfg(target_arch = "x86_64")]
        if bytes.len() <= SHORT_LEN_MAX && std::arch::is_x86_feature_detected!("sse4.2") {
            // SAFETY: the processor has the instruction, as just asked.
            return Self(unsafe { append_short(self.0, bytes) });
        }
        Self(crc32c::crc32c_append(self.0, bytes))
    }
}

/// Of headers and other short parts, where finding aligned words and parts to sum at once takes longer than
/// the sum itself.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn append_short(before: u32, bytes: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u32, _mm_crc32_u64};

    // What is left of a multiple of 8 comes first: headers whose sum is their first field are summed in the
    // words they were written in, which the processor takes from the stores before they reach the cache.
    let (rest, words) = bytes.as_rchunks();
    let (bytes, halves) = rest.as_rchunks();
    let mut sum = bytes.iter().fold(!before, |sum, byte| _mm_crc32_u8(sum, *byte));
    for half in halves {
        sum = _mm_crc32_u32(sum, u32::from_le_bytes(*half));
    }
    let next = |sum, word: &[u8; 8]| _mm_crc32_u64(sum, u64::from_le_bytes(*word));
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the instruction leaves the high half zero"
    )]
    let sum = words.iter().fold(u64::from(sum), next) as u32;
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_vector() {
        assert_eq!(Checksum::of(b"123456789"), Checksum(0xE306_9283));
        assert_eq!(Checksum::of(b"1234").append(b"56789"), Checksum::of(b"123456789"));
    }

    /// As the polynomial says, bit by bit.
    fn sum_of(before: u32, bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!before, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
                if sum & 1 == 1 { (sum >> 1) ^ 0x82F6_3B78 } else { sum >> 1 }
            })
        })
    }

    #[test]
    fn short_and_long_ones_of_any_place_are_what_the_polynomial_says() {
        let bytes: Vec<u8> = (0_u32..900).map(|at| ((at * 167) >> 3).to_le_bytes()[0]).collect();
        for len in (0..80).chain(120..136).chain(760..780).chain([890]) {
            for start in 0..8 {
                let part = &bytes[start..start + len];
                for before in [0, 0xDEAD_BEEF] {
                    let expected = Checksum(sum_of(before, part));
                    assert_eq!(Checksum(before).append(part), expected, "{start}+{len}");
                    assert_eq!(crc32c::crc32c_append(before, part), expected.0);
                }
            }
        }
    }
}
