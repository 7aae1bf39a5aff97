//! The digest of request messages: tells a message that has arrived whole from one that has not. It is made anew
//! for every short push on both sides, so it is made of multiplications, of which processors begin one each cycle;
//! what lies on disk or crosses a network has a [`Checksum`](crate::Checksum).

/// Of some bytes, in sections: what is appended at once is a section, and others give another digest.
///
/// Two words at a time are multiplied and the halves of the product put together, as in wyhash (Wang Yi). Messages
/// that differ have the same digest by chance only, one of 2^32 pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(u64);

/// Odd, with half of their bits set: fractional parts of square roots of primes.
const KEYS: [u64; 4] =
    [0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b, 0xa54f_f53a_5f1d_36f1];

/// Bytes that are taken at a time where there are so many, in four pairs that do not wait for each other.
const BLOCK_LEN: usize = 64;

impl Digest {
    /// The digest of three pairs of words, with nothing before them.
    #[must_use]
    #[inline]
    pub fn of_words(words: &[u64; 6]) -> Self {
        let [a, b, c, d, e, f] = *words;
        let first = fold(a ^ KEYS[0], b ^ KEYS[1]);
        let second = fold(c ^ KEYS[1], d ^ KEYS[2]);
        let third = fold(e ^ KEYS[2], f ^ KEYS[3]);
        Self(first ^ second.rotate_left(21) ^ third.rotate_left(42))
    }

    /// The digest of what this one covers, and a section behind it.
    #[must_use]
    #[inline]
    pub fn append(self, bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return self;
        }
        if bytes.len() < BLOCK_LEN {
            return self.append_rest(bytes);
        }
        self.append_blocks(bytes)
    }

    /// Its 32 bits.
    #[must_use]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "both halves are in it")]
    pub const fn finish(self) -> u32 {
        (self.0 ^ self.0 >> 32) as u32
    }

    fn append_blocks(self, bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<BLOCK_LEN>();
        let mut lanes = KEYS.map(|key| self.0 ^ key);
        for block in blocks {
            let (pairs, _) = block.as_chunks::<16>();
            for ((lane, pair), key) in lanes.iter_mut().zip(pairs).zip(KEYS) {
                let (low, high) = halves(*pair);
                *lane = fold(low ^ key, high ^ *lane);
            }
        }
        let [a, b, c, d] = lanes;
        Self(fold(a ^ KEYS[0], b) ^ fold(c ^ KEYS[1], d).rotate_left(32)).append_rest(rest)
    }

    #[inline]
    fn append_rest(self, bytes: &[u8]) -> Self {
        let (pairs, rest) = bytes.as_chunks::<16>();
        let mut sum = self.0;
        for pair in pairs {
            let (low, high) = halves(*pair);
            sum = fold(low ^ KEYS[0], high ^ sum);
        }
        if !rest.is_empty() {
            let mut pair = [0; 16];
            pair[..rest.len()].copy_from_slice(rest);
            let (low, high) = halves(pair);
            sum = fold(low ^ KEYS[1], high ^ sum);
        }
        Self(sum)
    }
}

#[inline]
fn halves(pair: [u8; 16]) -> (u64, u64) {
    split(u128::from_le_bytes(pair))
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let (low, high) = split(u128::from(a) * u128::from(b));
    low ^ high
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "both halves are returned")]
const fn split(number: u128) -> (u64, u64) {
    (number as u64, (number >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[&[u8]]) -> u32 {
        let start = Digest::of_words(&[1, 2, 3, 4, 5, 6]);
        parts.iter().fold(start, |digest, part| digest.append(part)).finish()
    }

    /// Bytes that do not repeat.
    fn bytes(len: usize) -> Vec<u8> {
        (0_u64..).map(|at| crate::map::mix(at).to_le_bytes()[0]).take(len).collect()
    }

    /// As another program computes them from the description.
    #[test]
    fn known_values() {
        let squares: Vec<u8> = (0_u32..1000).map(|at| (at * at % 251).to_le_bytes()[0]).collect();
        assert_eq!(Digest::of_words(&[0; 6]).finish(), 0x65fa_a73e);
        assert_eq!(of(&[b"0123456789abcdef"]), 0x38ca_ed50);
        assert_eq!(of(&[&squares]), 0xfb86_0285);
    }

    #[test]
    fn every_flipped_bit_shows() {
        for len in [1, 7, 8, 15, 16, 17, 63, 64, 65, 80, 128, 200] {
            let whole = bytes(len);
            let expected = of(&[&whole]);
            for bit in 0..len * 8 {
                let mut damaged = whole.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(of(&[&damaged]), expected, "bit {bit} of {len} bytes");
            }
        }
        for bit in 0..6 * 64 {
            let mut words = [1, 2, 3, 4, 5, 6];
            words[bit / 64] ^= 1 << (bit % 64);
            assert_ne!(Digest::of_words(&words).finish(), of(&[]), "bit {bit}");
        }
    }

    /// Lines of a message that come from an earlier one in the same place, as while it is written.
    #[test]
    fn lines_of_an_earlier_message_show() {
        for len in [64, 112, 128, 512, 4096] {
            let (old, new) = (vec![0; len], bytes(len));
            let expected = of(&[&new]);
            for step in [8, 64] {
                let lines = len / step;
                for first in 0..lines {
                    for last in first..lines.min(first + 9) {
                        let mut mixed = new.clone();
                        let torn = first * step..(last + 1) * step;
                        mixed[torn.clone()].copy_from_slice(&old[torn]);
                        assert_ne!(of(&[&mixed]), expected, "lines {first}..={last} of {len}");
                    }
                }
            }
        }
    }

    #[test]
    fn exchanged_parts_show() {
        let whole = bytes(256);
        let expected = of(&[&whole]);
        for a in 0..32 {
            for b in 0..a {
                let mut other = whole.clone();
                for byte in 0..8 {
                    other.swap(a * 8 + byte, b * 8 + byte);
                }
                assert_ne!(of(&[&other]), expected, "words {b} and {a}");
            }
        }
        assert_ne!(of(&[&whole[..64], &whole[64..]]), of(&[&whole[..128], &whole[128..]]));
    }
}
