//! From key to row number: open addressing with linear probing. It grows a few slots at a time, since moving
//! every key at once would stop a shard for as long.

use std::sync::Arc;

use windlass_transport::memory::{Zeroed, fetch, populate};
use windlass_wire::{map::mix, scan::slot_hash};

use super::ahead::{Ahead, Background};
use crate::limits::MADE_AHEAD_LEN;

mod scan;

/// The rows of keys.
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

    /// The row of a key, and whether it is a new one: then `next`, the row it gets.
    #[inline]
    pub fn find_or_insert(&mut self, key: u64, next: u64) -> (u64, bool) {
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
        self.slots.held[at] = (key, next + 1);
        if self.count == self.taken_at_most(FULL_64THS - LEAD_64THS) {
            self.prepare();
        }
        (next, true)
    }

    /// Forgets a key; the row it had.
    pub fn remove(&mut self, key: u64) -> Option<u64> {
        let row = self.find(key)?;
        self.count -= 1;
        let mut gap = self.slots.probe(key);
        if self.slots.row_at(gap).is_none() {
            // It has not moved since the slots grew. The others' ways lead past it.
            let slot = self.old.slot_left(key);
            slot.into_iter().for_each(|slot| slot.1 = GONE);
            return Some(row);
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
        Some(row)
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
mod tests;
