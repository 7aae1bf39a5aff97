//! From key to row number: open addressing with linear probing, keys never removed one by one.

use windlass_wire::map::mix;

/// Numbers keys in the order in which they were first seen.
#[derive(Debug)]
pub struct HashIndex {
    /// Key and row + 1; zero marks a free slot.
    slots: Vec<(u64, u64)>,
    count: u64,
}

const SLOTS_FIRST: usize = 16;

impl Default for HashIndex {
    fn default() -> Self {
        Self::new()
    }
}

impl HashIndex {
    /// No key.
    #[must_use]
    pub fn new() -> Self {
        Self { slots: Vec::new(), count: 0 }
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of memory it takes.
    #[must_use]
    pub fn memory_len(&self) -> usize {
        self.slots.len() * size_of::<(u64, u64)>()
    }

    /// The row of a key.
    #[inline]
    #[must_use]
    pub fn find(&self, key: u64) -> Option<u64> {
        if self.slots.is_empty() {
            return None;
        }
        let (_, row) = self.slots[self.probe(key)];
        row.checked_sub(1)
    }

    /// The row of a key, and whether it is a new one: then the next row's number.
    #[inline]
    pub fn find_or_insert(&mut self, key: u64) -> (u64, bool) {
        // At most seven eighths full, so that probes stay short and always end.
        if (self.count + 1) * 8 > self.slots.len() as u64 * 7 {
            self.grow();
        }
        let at = self.probe(key);
        let slot = &mut self.slots[at];
        if let Some(row) = slot.1.checked_sub(1) {
            return (row, false);
        }
        self.count += 1;
        *slot = (key, self.count);
        (self.count - 1, true)
    }

    /// Forgets every key, keeping the memory.
    pub fn clear(&mut self) {
        if self.count > 0 {
            self.slots.fill((0, 0));
            self.count = 0;
        }
    }

    /// Number of slots: it grows at once, and every key may move then.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// Keys of some slots and their rows, in no order.
    pub fn iter_in(&self, slots: std::ops::Range<usize>) -> impl Iterator<Item = (u64, u64)> + '_ {
        let slots = self.slots.get(slots).unwrap_or_default().iter();
        slots.filter(|slot| slot.1 != 0).map(|slot| (slot.0, slot.1 - 1))
    }

    /// Where the key is, or the free slot where it belongs.
    #[inline]
    fn probe(&self, key: u64) -> usize {
        let mask = self.slots.len() - 1;
        // The low bits choose the partition, so all keys here share them.
        let mut at = (mix(key) >> 20) as usize & mask;
        loop {
            let slot = &self.slots[at];
            if slot.1 == 0 || slot.0 == key {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    #[cold]
    fn grow(&mut self) {
        let len = (self.slots.len() * 2).max(SLOTS_FIRST);
        let old = std::mem::replace(&mut self.slots, vec![(0, 0); len]);
        for slot in old.into_iter().filter(|slot| slot.1 != 0) {
            let at = self.probe(slot.0);
            self.slots[at] = slot;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn agrees_with_a_hash_map() {
        let mut index = HashIndex::new();
        let mut oracle = HashMap::new();
        let mut random = 3_u64;
        assert_eq!(index.find(0), None);
        for _ in 0..50_000 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let key = (random >> 40) % 9000;
            let next = oracle.len() as u64;
            let row = *oracle.entry(key).or_insert(next);
            assert_eq!(index.find_or_insert(key), (row, row == next));
        }
        for key in 0..10_000 {
            assert_eq!(index.find(key), oracle.get(&key).copied());
        }
        assert_eq!(index.iter_in(0..index.slot_count()).count() as u64, index.len());
        index.clear();
        assert_eq!(index.find(1), None);
        assert!(index.is_empty());
    }
}
