//! Detects whether a message has arrived completely, for queue pairs whose writes become visible in any order and in
//! pieces. Only the bytes themselves can tell.

use windlass_wire::digest::Digest;

use super::{commit_word, footprint};
use crate::memory::Pages;

/// Bytes of a section: both sides take the same.
const SECTION_LEN: usize = 4096;

/// The digest of `len` bytes, which `read` copies out from an offset on, of the message of this number.
#[must_use]
pub fn digest_of(number: u32, len: u64, mut read: impl FnMut(u64, &mut [u8])) -> u32 {
    let mut digest = begin(number, len);
    let mut section = [0; SECTION_LEN];
    let mut done = 0;
    while done < len {
        #[expect(clippy::cast_possible_truncation, reason = "at most SECTION_LEN")]
        let section = &mut section[..(len - done).min(SECTION_LEN as u64) as usize];
        read(done, section);
        digest = digest.append(section);
        done += section.len() as u64;
    }
    digest.finish()
}

/// Lays a message with its commit word and digest out at `at`; returns how long that is.
pub(super) fn lay_whole(pages: &Pages, at: u64, (number, len): (u32, u32), parts: &[&[u8]]) -> u32 {
    pages.store_u64(at, commit_word(number, len));
    let mut offset = at + 8;
    for part in parts {
        pages.write(offset, part);
        offset += part.len() as u64;
    }
    let behind = at + footprint(u64::from(len));
    #[expect(clippy::cast_possible_truncation, reason = "below 8")]
    pages.zero(offset, (behind - offset) as usize);
    let read = |from, section: &mut [u8]| pages.read(at + 8 + from, section);
    let digest = digest_of(number, u64::from(len), read);
    pages.store_u64(behind, commit_word(number, digest));
    #[expect(clippy::cast_possible_truncation, reason = "within a ring, a u32")]
    let total = (behind + 8 - at) as u32;
    total
}

fn begin(number: u32, len: u64) -> Digest {
    Digest::of_words(&[u64::from(number), len, 0, 0, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_the_number_count() {
        for len in [1, 8, 100, SECTION_LEN, SECTION_LEN + 1, 3 * SECTION_LEN - 5] {
            let mut bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
            let digest = |number, bytes: &[u8]| {
                digest_of(number, len as u64, |at, section| {
                    let at = usize::try_from(at).unwrap();
                    section.copy_from_slice(&bytes[at..at + section.len()]);
                })
            };
            let whole = digest(7, &bytes);
            assert_ne!(digest(8, &bytes), whole, "another message");
            bytes[len - 1] ^= 1;
            assert_ne!(digest(7, &bytes), whole);
        }
    }
}
