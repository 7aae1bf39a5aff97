//! From key to row number: open addressing with linear probing, keys never removed one by one. It
//! grows a few slots at a time, since moving every key at once would stop a shard for as long.

use std::sync::Arc;

use windlass_transport::memory::{Zeroed, fetch, populate};
use windlass_wire::{map::mix, scan::slot_hash};

use super::ahead::{Ahead, Background};
use crate::limits::MADE_AHEAD_LEN;

mod scan;

/// Numbers keys in the order in which they were first seen.
#[derive(Debug, Default)]
pub struct HashIndex {
    slots: Slots,
    /// The slots before they grew, as long as keys are left in them.
    old: Slots,
    /// Those that it will have when these are full.
    next: Option<Ahead<Slots>>,
    /// Who makes them before they are needed.
    background: Option<Arc<dyn Background>>,
    count: u64,
    /// By how much less than others' its slots are taken when they grow, in 64ths.
    spare: u64,
}

const SLOTS_FIRST: usize = 16;

/// Old slots that are emptied for each new key. They must all be before the new ones, twice as many,
/// are full: two would do.
const MOVED_PER_KEY: usize = 4;

/// Old slots that are emptied for one key in [`KEYS_MET`] that are met and not new: looking into two tables
/// costs twice the cache misses, and many an index takes no new keys for long. Slots beside each other go to few
/// places, so many at once cost little.
const MOVED_PER_KEYS_MET: usize = 32;

/// See [`MOVED_PER_KEYS_MET`]; a power of two.
const KEYS_MET: u64 = 16;

/// How much of the slots is taken, in 64ths, when they grow.
const FULL_64THS: u64 = 56;

/// How much less when the next ones are asked for.
const LEAD_64THS: u64 = 8;

impl HashIndex {
    /// No key.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// No key; the `number`th of many indices that fill alike, of which few grow at once.
    #[must_use]
    pub fn staggered(number: u32) -> Self {
        Self { spare: mix(u64::from(number)) >> 61, ..Self::default() }
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

    /// Slots for keys, those that are being emptied aside.
    #[must_use]
    pub fn slot_count(&self) -> u64 {
        self.slots.held.len() as u64
    }

    /// Bytes of memory it takes.
    #[must_use]
    pub fn memory_len(&self) -> usize {
        (self.slots.held.len() + self.old.held.len()) * size_of::<Slot>()
    }

    /// From now on more slots are made by another thread, before these are full.
    pub fn grow_ahead(&mut self, background: Arc<dyn Background>) {
        self.background = Some(background);
    }

    /// The row of a key.
    #[inline]
    #[must_use]
    pub fn find(&self, key: u64) -> Option<u64> {
        if self.is_growing() { self.find_growing(key) } else { self.slots.row_of(key) }
    }

    /// Empties some old slots for some keys, if any are left: called for keys that are met again and again.
    #[inline]
    pub fn settle(&mut self, key: u64) {
        if self.is_growing() && (slot_hash(key) >> 40).is_multiple_of(KEYS_MET) {
            self.empty_old(MOVED_PER_KEYS_MET);
        }
    }

    /// Begins to bring near where looking for a key begins.
    #[inline]
    pub fn fetch(&self, key: u64) {
        self.slots.fetch(key);
        if self.is_growing() {
            self.old.fetch(key);
        }
    }

    /// The row of a key, and whether it is a new one: then the next row's number.
    #[inline]
    pub fn find_or_insert(&mut self, key: u64) -> (u64, bool) {
        let growing = self.is_growing();
        if growing && let Some(row) = self.find_growing(key) {
            self.settle(key);
            return (row, false);
        }
        let mut at = self.slots.probe(key);
        if let Some(row) = self.slots.row_at(at) {
            return (row, false);
        }
        // At most seven eighths full, so that probes stay short and always end.
        let full = self.count >= self.taken_at_most(FULL_64THS);
        if growing || full {
            self.make_room(full);
            at = self.slots.probe(key);
        }
        self.count += 1;
        self.slots.held[at] = (key, self.count);
        if self.count == self.taken_at_most(FULL_64THS - LEAD_64THS) {
            self.prepare();
        }
        (self.count - 1, true)
    }

    /// Forgets the key that was inserted last.
    ///
    /// # Panics
    ///
    /// When it is another one.
    pub fn remove_last(&mut self, key: u64) {
        let last = self.count.checked_sub(1);
        assert!(last.is_some() && self.find(key) == last, "key {key} is not the last one");
        self.count -= 1;
        let mut gap = self.slots.probe(key);
        if self.slots.row_at(gap) != last {
            // It was made before the slots grew. The others' ways lead past it.
            let slot = self.old.slot_left(key);
            slot.into_iter().for_each(|slot| slot.1 = GONE);
            return;
        }
        let mask = self.slots.mask;
        self.slots.held[gap] = FREE;
        // Keys behind the gap that began at it or before it move up, or nobody would find them.
        let mut at = (gap + 1) & mask;
        while self.slots.held[at] != FREE {
            let first = self.slots.first(self.slots.held[at].0);
            if at.wrapping_sub(first) & mask >= at.wrapping_sub(gap) & mask {
                self.slots.held[gap] = std::mem::replace(&mut self.slots.held[at], FREE);
                gap = at;
            }
            at = (at + 1) & mask;
        }
    }

    /// Forgets every key, keeping the memory.
    pub fn clear(&mut self) {
        if self.count > 0 {
            self.slots.held.fill(FREE);
            self.end_old();
            self.count = 0;
        }
    }

    /// Most keys are in the old slots at first. One that is not ends there at a slot near its first,
    /// or at the front, which is in the cache.
    #[inline(never)]
    fn find_growing(&self, key: u64) -> Option<u64> {
        self.old.find_left(key).or_else(|| self.slots.row_of(key))
    }

    #[cold]
    fn prepare(&mut self) {
        let count = self.next_count();
        let Some(background) = &self.background else { return };
        let is_large = (count * size_of::<Slot>()) as u64 >= MADE_AHEAD_LEN;
        if self.next.is_some() || !is_large {
            return;
        }
        let make = move || {
            let mut slots = Slots::new(count);
            populate(&mut slots.held[..]);
            slots
        };
        self.next = Some(Ahead::begin(&**background, make));
    }

    fn taken_at_most(&self, of_64: u64) -> u64 {
        self.slots.held.len() as u64 * (of_64 - self.spare) / 64
    }

    fn next_count(&self) -> usize {
        (self.slots.held.len() * 2).max(SLOTS_FIRST)
    }

    #[inline]
    fn is_growing(&self) -> bool {
        self.old.left > 0
    }

    /// Moves a few keys, to more slots if these are full.
    #[inline(never)]
    fn make_room(&mut self, full: bool) {
        if full {
            assert!(!self.is_growing(), "old slots are empty before the new ones are full");
            let made = self.next.take().and_then(Ahead::take);
            let grown = made.unwrap_or_else(|| Slots::new(self.next_count()));
            self.old = std::mem::replace(&mut self.slots, grown);
        }
        self.empty_old(MOVED_PER_KEY);
    }

    /// Moves what is in the last `count` old slots.
    #[inline(never)]
    fn empty_old(&mut self, count: usize) {
        for _ in 0..count.min(self.old.left) {
            self.old.left -= 1;
            let slot = self.old.held[self.old.left];
            if slot != FREE && slot.1 != GONE {
                let at = self.slots.probe(slot.0);
                self.slots.held[at] = slot;
            }
        }
        if self.old.left == 0 {
            self.end_old();
        }
    }

    /// Gives the old slots back, by another thread where there is one: unmapping them takes its time.
    fn end_old(&mut self) {
        let old = std::mem::take(&mut self.old);
        if let Some(background) = &self.background
            && size_of_val(&*old.held) as u64 >= MADE_AHEAD_LEN
        {
            background.run(Box::new(move || drop(old)));
        }
    }
}

/// Key and row + 1.
type Slot = (u64, u64);

const FREE: Slot = (0, 0);

/// In place of the row of an old slot's key that was removed.
const GONE: u64 = u64::MAX;

/// Slots, a power of two of them.
#[derive(Debug, Default)]
struct Slots {
    held: Zeroed<Slot>,
    /// How many of them are not emptied yet: all of the ones in use.
    left: usize,
    /// Bits of a hash that number a slot.
    mask: usize,
}

impl Slots {
    fn new(count: usize) -> Self {
        Self { held: Zeroed::new(count), left: count, mask: count - 1 }
    }

    /// Those that were not emptied.
    fn left(&self) -> &[Slot] {
        &self.held[..self.left]
    }

    /// Where the key is, or the free slot where it belongs. No slot was emptied.
    #[inline]
    fn probe(&self, key: u64) -> usize {
        let mut at = self.first(key);
        while let Some(slot) = self.held.get(at)
            && slot.1 != 0
            && slot.0 != key
        {
            at = (at + 1) & self.mask;
        }
        at
    }

    /// The row of a key. No slot was emptied.
    #[inline]
    fn row_of(&self, key: u64) -> Option<u64> {
        self.row_at(self.probe(key))
    }

    /// The row in a slot, if it is taken.
    #[inline]
    fn row_at(&self, at: usize) -> Option<u64> {
        self.held.get(at)?.1.checked_sub(1)
    }

    /// The row of a key that was not moved. One whose first slot was emptied went on at the front.
    fn find_left(&self, key: u64) -> Option<u64> {
        let first = self.first(key);
        let left = self.left();
        let (front, back) = left.split_at_checked(first).unwrap_or((left, &[]));
        let slot = back.iter().chain(front).find(|slot| slot.1 == 0 || slot.0 == key)?;
        if slot.1 == GONE { None } else { slot.1.checked_sub(1) }
    }

    /// The slot of a key that was not moved.
    #[cold]
    fn slot_left(&mut self, key: u64) -> Option<&mut Slot> {
        let first = self.first(key).min(self.left);
        let (front, back) = self.held[..self.left].split_at_mut(first);
        back.iter_mut().chain(front).find(|slot| slot.1 == 0 || slot.0 == key)
    }

    #[inline]
    fn fetch(&self, key: u64) {
        fetch(self.held.as_ptr().wrapping_add(self.first(key)).cast());
    }

    /// Where looking for a key begins.
    #[inline]
    fn first(&self, key: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "the mask takes the low bits")]
        let hash = slot_hash(key) as usize;
        hash & self.mask
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::table::ahead::Held;

    #[test]
    fn agrees_with_a_hash_map() {
        let mut index = HashIndex::new();
        let mut oracle = HashMap::new();
        let mut random = 3_u64;
        assert_eq!(index.find(0), None);
        for _ in 0..if cfg!(miri) { 2000 } else { 50_000 } {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let key = (random >> 40) % 9000;
            let next = oracle.len() as u64;
            let row = *oracle.entry(key).or_insert(next);
            assert_eq!(index.find_or_insert(key), (row, row == next));
            // While it grows too, most of the time.
            let other = (random >> 20) % 9000;
            assert_eq!(index.find(other), oracle.get(&other).copied());
            if key.is_multiple_of(5) {
                index.settle(key);
            }
        }
        for key in 0..10_000 {
            assert_eq!(index.find(key), oracle.get(&key).copied());
        }
        assert_eq!(index.len(), oracle.len() as u64);
        // As if the last ones had never been: in every state of growing.
        let mut last: Vec<(u64, u64)> = oracle.iter().map(|(key, row)| (*row, *key)).collect();
        last.sort_unstable();
        for (row, key) in last.into_iter().rev().take(3000) {
            index.remove_last(key);
            assert_eq!((index.find(key), index.len()), (None, row));
            oracle.remove(&key);
        }
        for key in 0..10_000 {
            assert_eq!(index.find(key), oracle.get(&key).copied());
        }
        for key in 0..10_000 {
            let next = oracle.len() as u64;
            let row = *oracle.entry(key).or_insert(next);
            assert_eq!(index.find_or_insert(key), (row, row == next));
            if row == next && key % 3 == 0 {
                index.remove_last(key);
                assert_eq!(index.find(key), None);
                assert_eq!(index.find_or_insert(key), (row, true));
            }
        }
        assert!(!index.is_empty());
        index.clear();
        assert_eq!(index.find(1), None);
        assert!(index.is_empty());
    }

    fn insert(index: &mut HashIndex, keys: std::ops::Range<u64>) {
        keys.for_each(|key| {
            index.find_or_insert(key);
        });
    }

    #[test]
    fn indices_that_fill_alike_grow_at_different_times() {
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..40 {
            let mut index = HashIndex::staggered(number);
            let spare = mix(u64::from(number)) >> 61;
            for slots in [16, 32, 64, 128] {
                // The last key for which these slots do, and the first for which they do not.
                let room = slots * (56 - spare) / 64;
                let len = index.len();
                insert(&mut index, len..room);
                assert_eq!(index.memory_len() as u64, 16 * slots, "{number}");
                index.find_or_insert(room);
                assert_eq!(index.memory_len() as u64, 16 * (slots + 2 * slots), "{number}");
                // Keys that are met end the growth.
                (0..1000).for_each(|key| index.settle(key));
            }
            seen.insert(index.len());
        }
        assert_eq!(seen.len(), 8);
    }

    #[test]
    fn one_met_key_in_sixteen_empties_old_slots_and_others_none() {
        let mut index = HashIndex::new();
        insert(&mut index, 0..1024 * 7 / 8 + 1);
        let mut left = 1024 - MOVED_PER_KEY;
        for key in 0..100 {
            assert_eq!(index.old.left, left);
            index.settle(key);
            let is_chosen = (slot_hash(key) >> 40).is_multiple_of(16);
            left -= if is_chosen { MOVED_PER_KEYS_MET } else { 0 };
        }
        assert!(0 < left && left < 1000);
    }

    #[test]
    fn slots_are_made_ahead_once_and_where_they_are_many() {
        let held = Held::default();
        let mut index = HashIndex::new();
        index.grow_ahead(Arc::new(held.clone()));
        // The next slots are 16,384, of 16 bytes each, once three in four of these are taken.
        insert(&mut index, 0..6143);
        assert_eq!(held.waiting(), 0);
        for _ in 0..3 {
            index.find_or_insert(6143);
            assert_eq!(held.waiting(), 1, "asked for once");
            index.remove_last(6143);
        }
        let (tell, told) = std::sync::mpsc::channel();
        let make = move || {
            let slots = Slots::new(1 << 14);
            tell.send(slots.held.as_ptr() as usize).unwrap();
            slots
        };
        index.next = Some(Ahead::begin(&held, make));
        held.carry_out();
        insert(&mut index, 6143..7169);
        assert_eq!(index.slots.held.as_ptr() as usize, told.recv().unwrap(), "they are in use");
        insert(&mut index, 7169..12_287);
        assert_eq!(held.waiting(), 0, "8,192 old slots are given back at once");
        insert(&mut index, 12_287..28_671);
        assert_eq!(held.waiting(), 3, "two more slots asked for, and old ones given back");
        (0..28_671).for_each(|key| assert_eq!(index.find(key), Some(key)));
    }

    #[test]
    fn an_index_that_only_meets_keys_is_done_with_its_old_slots() {
        let mut index = HashIndex::new();
        let mut count = 0;
        while index.old.left == 0 || count < 1000 {
            index.find_or_insert(count);
            count += 1;
        }
        let growing = index.memory_len();
        let mut met = 0;
        while index.is_growing() {
            assert!(met < 2 * count, "it goes on with keys that are met");
            let key = met % count;
            index.settle(key);
            assert_eq!(index.find_or_insert(key), (key, false));
            met += 1;
        }
        assert!(index.memory_len() < growing, "old slots were given back");
        (0..count).for_each(|key| assert_eq!(index.find(key), Some(key)));
    }
}
