//! How long pieces of shared memory are copied out: by the platform's routine, or by words where that
//! is faster. An emulator carries vector instructions out by calls, and SoftRoCE's machines are emulated
//! where the processor's virtualisation is not to be had: 64 KiB took 18.5 us by the platform's routine
//! there and 12 by words.
#![allow(unsafe_code)]

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

const WORD_LEN: usize = size_of::<u64>();

/// From so many bytes on it matters.
const LONG_LEN: usize = 1024;

/// What both ways are tried with, and how often.
const TRIED_WORDS: usize = 512;
const TRIES: usize = 8;

/// Measured once: it is a property of the machine.
static BY_WORDS: LazyLock<bool> = LazyLock::new(words_are_faster);

/// Copies bytes that others may be writing.
///
/// # Safety
/// `from` is readable for as many bytes as `into` has, none of which are `into`'s, and only ever written
/// through pointers, by atomics or by others than this program.
#[inline]
pub(super) unsafe fn copy_out(from: *const u8, into: &mut [u8]) {
    if into.len() >= LONG_LEN && from.cast::<u64>().is_aligned() && *BY_WORDS {
        // SAFETY: the caller's promise, and aligned as just checked.
        unsafe { copy_words(from.cast(), into) };
    } else {
        // SAFETY: the caller's promise: readable, and apart from an exclusive reference.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) }
    }
}

/// Copies word by word, and the rest as the platform does.
///
/// # Safety
/// As [`copy_out`], and `from` is aligned.
unsafe fn copy_words(from: *const u64, into: &mut [u8]) {
    let mut words = into.chunks_exact_mut(WORD_LEN);
    let mut from = from;
    for bytes in &mut words {
        // SAFETY: aligned, as promised, and so is every whole number of words behind it; one of as many
        // words as are readable. Others who write it use atomics or are no part of this program.
        let word = unsafe { AtomicU64::from_ptr(from.cast_mut()) }.load(Ordering::Relaxed);
        bytes.copy_from_slice(&u64::from_le(word).to_le_bytes());
        from = from.wrapping_add(1);
    }
    let rest = words.into_remainder();
    // SAFETY: what is left of the readable bytes, fewer than a word.
    unsafe { std::ptr::copy_nonoverlapping(from.cast(), rest.as_mut_ptr(), rest.len()) }
}

/// Whether words are faster by a quarter at least, the shortest of some tries of both.
fn words_are_faster() -> bool {
    let from = vec![0_u64; TRIED_WORDS];
    let mut into = vec![0_u8; TRIED_WORDS * WORD_LEN];
    let mut fastest = |copy: unsafe fn(*const u64, &mut [u8])| -> Duration {
        let times = (0..TRIES).map(|_| {
            let begun = Instant::now();
            // SAFETY: `from` has as many bytes as `into`, is aligned, and nobody else has either.
            unsafe { copy(from.as_ptr(), std::hint::black_box(&mut into)) };
            begun.elapsed()
        });
        times.min().unwrap_or_default()
    };
    fastest(copy_words) < fastest(copy_platform) * 3 / 4
}

/// As the platform does.
///
/// # Safety
/// As [`copy_words`].
unsafe fn copy_platform(from: *const u64, into: &mut [u8]) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from.cast(), into.as_mut_ptr(), into.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_copy_every_byte_and_no_more() {
        let words = (0..600).map(|word: u64| word.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let from: Vec<u64> = words.collect();
        let bytes: Vec<u8> = from.iter().flat_map(|word| word.to_le_bytes()).collect();
        for len in [0, 1, 7, 8, 9, 64, 1023, 1024, 1031, 4096, 4799] {
            for copy in [copy_words, copy_platform] {
                let mut into = vec![0xEE; len + 16];
                // SAFETY: `from` has 4,800 bytes and is aligned; `into` is apart.
                unsafe { copy(from.as_ptr(), &mut into[8..8 + len]) };
                assert_eq!(into[8..8 + len], bytes[..len]);
                assert!(into[..8].iter().chain(&into[8 + len..]).all(|byte| *byte == 0xEE));
            }
        }
    }

    #[test]
    fn pieces_that_begin_anywhere_are_copied() {
        let from: Vec<u8> = (0..=255).cycle().take(8192).collect();
        for begin in 0..9 {
            let mut into = vec![0; 4096];
            // SAFETY: 4,096 bytes from `begin` on are readable, and `into` is apart.
            unsafe { copy_out(from[begin..].as_ptr(), &mut into) };
            assert_eq!(into, from[begin..begin + 4096]);
        }
    }
}
