//! Unguessable, unique numbers from the kernel's random source.

use std::io;

use rustix::{
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};

/// `LEN` random bytes.
///
/// # Errors
/// When the process may not use the kernel's source.
pub fn bytes<const LEN: usize>() -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    let mut filled = 0;
    while filled < LEN {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}

/// A random number, never zero: names that are never given twice, such as a client's session.
///
/// # Panics
/// When the process may not use the kernel's source: names that may be others' would have pushes taken for
/// duplicates.
#[must_use]
pub fn number() -> u64 {
    let bytes = bytes().expect("the kernel's random source can be read: allow getrandom()");
    u64::from_le_bytes(bytes).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_come_once_in_every_process() {
        let numbers: HashSet<u64> = (0..10_000).map(|_| number()).collect();
        assert_eq!(numbers.len(), 10_000);
        // All bits are used.
        assert_eq!(numbers.iter().fold(0, |all, number| all | number), u64::MAX);
        assert_eq!(numbers.iter().fold(u64::MAX, |all, number| all & number), 0);
        assert_ne!(bytes::<600>().unwrap()[300..], [0; 300]);
    }
}
