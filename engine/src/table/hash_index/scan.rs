//! Keys in the order of their positions, which does not depend on the slots they are in: neither the index's
//! growth nor which replica it is of moves a scan.

use windlass_wire::scan::position;

use super::{FREE, GONE, HashIndex, Slots};
use crate::{limits::SCAN_SLOTS_PER_TURN, table::slab::usize_of};

impl HashIndex {
    /// Appends keys with their rows, at most `limit` of them, in the order of their positions from `from` on.
    /// Where to go on, unless that was all; bounded work may find none and go on all the same.
    pub fn scan(&self, from: u64, limit: usize, found: &mut Vec<(u64, u64)>) -> Option<u64> {
        let tables = [&self.old, &self.slots].map(|slots| (slots.left > 0).then_some(slots));
        // All keys whose first slot is one of the fewest slots, or one that it became, have positions beside
        // each other.
        let fewest = tables.into_iter().flatten().map(|slots| slots.mask).min()?;
        let bits = (fewest as u64).count_ones();
        let (room, mut at, mut visited) = (found.len() + limit, from, 0);
        loop {
            let unit = at >> (u64::BITS - bits);
            let first = usize_of(unit.reverse_bits() >> (u64::BITS - bits));
            let met = found.len();
            for slots in tables.into_iter().flatten() {
                visited += slots.collect(first, fewest, found);
            }
            found[met..].sort_unstable_by_key(|(key, _)| position(*key));
            let before = found[met..].partition_point(|(key, _)| position(*key) < at);
            found.drain(met..met + before);
            if found.len() > room {
                found.truncate(room);
                return found.last().map(|(key, _)| position(*key) + 1);
            }
            at = (unit + 1).checked_shl(u64::BITS - bits).filter(|_| unit + 1 < 1 << bits)?;
            if found.len() == room || visited >= SCAN_SLOTS_PER_TURN {
                return Some(at);
            }
        }
    }
}

impl Slots {
    /// Appends keys, with their rows, whose first slot's bits in `mask` are `first`; how many slots it looked
    /// at. No fewer slots than `mask` has.
    fn collect(&self, first: usize, mask: usize, found: &mut Vec<(u64, u64)>) -> usize {
        let mut visited = 0;
        for home in (first..=self.mask).step_by(mask + 1) {
            // Keys whose first slot was emptied went on at the front.
            let left = self.left();
            let (front, back) = left.split_at_checked(home).unwrap_or((left, &[]));
            for slot in back.iter().chain(front) {
                visited += 1;
                if *slot == FREE {
                    break;
                }
                if slot.1 != GONE && self.first(slot.0) == home {
                    found.push((slot.0, slot.1 - 1));
                }
            }
        }
        visited
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use windlass_wire::map::mix;

    use super::*;

    /// Everything a scan finds, and how many steps it took.
    fn all(index: &HashIndex, limit: usize) -> (Vec<(u64, u64)>, usize) {
        let (mut found, mut from, mut steps) = (Vec::new(), Some(0), 0);
        while let Some(at) = from {
            let before = found.len();
            from = index.scan(at, limit, &mut found);
            assert!(found.len() - before <= limit);
            assert!(from.is_none_or(|next| next > at), "it goes on");
            steps += 1;
        }
        (found, steps)
    }

    #[test]
    fn a_scan_finds_every_key_once_in_order_whatever_state_the_index_is_in() {
        let mut index = HashIndex::new();
        assert_eq!(all(&index, 3), (Vec::new(), 1));
        let mut rows = BTreeMap::new();
        for at in 0..700_u64 {
            let key = if at == 0 { u64::MAX } else { mix(at) << 3 };
            let (row, _) = index.find_or_insert(key, at);
            rows.insert(position(key), (key, row));
            let limit = 1 + (at % 50) as usize;
            let expected: Vec<_> = rows.values().copied().collect();
            assert_eq!(all(&index, limit).0, expected, "{at} keys, {limit} at a time");
        }
        for at in (500..700_u64).rev() {
            let key = mix(at) << 3;
            index.remove(key);
            rows.remove(&position(key));
            assert_eq!(all(&index, 64).0.len(), rows.len());
        }
    }

    #[test]
    fn a_scan_meets_keys_once_that_were_there_before_whatever_comes_and_goes_meanwhile() {
        for (count, limit) in [(10, 1), (100, 7), (1000, 30), (3000, 1000)] {
            let mut index = HashIndex::new();
            let keys: Vec<u64> = (0..count).map(|at| mix(at * 7919)).collect();
            keys.iter().for_each(|key| {
                index.find_or_insert(*key, *key >> 1);
            });
            let (mut found, mut from, mut more) = (Vec::new(), Some(0), 1_u64 << 60);
            while let Some(at) = from {
                from = index.scan(at, limit, &mut found);
                for _ in 0..limit * 3 {
                    index.find_or_insert(more, more >> 1);
                    // Others go meanwhile, too.
                    if more.is_multiple_of(3) {
                        index.remove(more - (more % 7));
                    }
                    more += 1;
                }
            }
            assert!(found.iter().all(|(key, row)| *row == *key >> 1), "each with its row");
            let mut seen: Vec<u64> = found.iter().map(|(key, _)| *key).collect();
            let total = seen.len();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), total, "none twice");
            assert!(keys.iter().all(|key| seen.binary_search(key).is_ok()), "none missing");
        }
    }

    #[test]
    fn a_scan_begins_with_the_key_at_its_own_position_and_ends_with_the_last_one() {
        let mut index = HashIndex::new();
        // In the last of sixteen slots, in the order of positions.
        let keys = (0..).filter(|key| position(*key) >> 60 == 15).take(2);
        let mut keys: Vec<u64> = keys.collect();
        keys.sort_unstable_by_key(|key| position(*key));
        keys.iter().for_each(|key| {
            index.find_or_insert(*key, 0);
        });
        for (at, expected) in [(0, &keys[..]), (1, &keys[1..])] {
            let mut found = Vec::new();
            let next = index.scan(position(keys[at]), expected.len(), &mut found);
            let found: Vec<u64> = found.iter().map(|(key, _)| *key).collect();
            assert_eq!((&found[..], next), (expected, None));
        }
    }

    #[test]
    fn a_step_looks_at_a_bounded_number_of_slots_where_there_is_little_to_find() {
        let mut index = HashIndex::new();
        index.slots = Slots::new(8 * SCAN_SLOTS_PER_TURN);
        index.find_or_insert(3, 0);
        let (found, steps) = all(&index, 10);
        assert_eq!(found, [(3, 0)]);
        assert!((8..=9).contains(&steps), "{steps}");
    }

    #[test]
    fn keys_whose_slots_all_collide_are_found_in_steps_as_short_as_is_asked_for() {
        let mut index = HashIndex::new();
        let keys = (0..).filter(|key| position(*key) >> 56 == 0xab).take(40);
        let keys: Vec<u64> = keys.collect();
        keys.iter().for_each(|key| {
            index.find_or_insert(*key, 0);
        });
        let (found, steps) = all(&index, 3);
        assert_eq!(found.len(), 40);
        assert!(steps >= 13);
    }
}
