//! A hash for numbers that the server itself hands out: nobody can choose them to collide, and the
//! standard one costs more than the rest of a lookup.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// A map by such numbers.
pub(super) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// A map that grows from so many entries on.
pub(super) fn with_capacity<K, V>(capacity: usize) -> IdMap<K, V> {
    HashMap::with_capacity_and_hasher(capacity, BuildHasherDefault::default())
}

/// Multiplies what is written by an odd constant whose high bits spread well.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdHasher(u64);

impl IdHasher {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(29) ^ word).wrapping_mul(Self::FACTOR);
    }
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.add(u64::from(*byte));
        }
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.add(u64::from(word));
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.add(word);
    }

    #[inline]
    fn write_usize(&mut self, word: usize) {
        self.add(word as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        // Tables take their bucket from the low bits, and the product has its best ones high up.
        self.0.rotate_left(32)
    }
}

#[cfg(test)]
mod tests {
    use windlass_wire::TableId;

    use super::*;

    #[test]
    fn neighbouring_numbers_fall_into_different_buckets() {
        let buckets = |shift: u32| {
            let mut buckets: Vec<u64> = (0..256)
                .map(|id| {
                    let mut hasher = IdHasher::default();
                    hasher.write_u32(id << shift);
                    hasher.finish() % 256
                })
                .collect();
            buckets.sort_unstable();
            buckets.dedup();
            buckets.len()
        };
        for shift in [0, 8, 16] {
            assert!(buckets(shift) > 128, "{} buckets of 256", buckets(shift));
        }
        let mut map = IdMap::default();
        for id in 0..1000 {
            map.insert(TableId(id), id);
        }
        assert!((0..1000).all(|id| map.get(&TableId(id)) == Some(&id)));
    }
}
