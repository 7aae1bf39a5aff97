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
        assert_eq!(index.find_or_insert(key, next), (row, row == next));
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
    assert!(!index.is_empty());
    index.clear();
    assert_eq!(index.find(1), None);
    assert!(index.is_empty());
}

#[test]
fn agrees_with_a_hash_map_while_keys_come_and_go() {
    let mut random = 5_u64;
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) % bound
    };
    let (mut index, mut oracle, mut was_growing) = (HashIndex::new(), HashMap::new(), 0);
    for step in 0..if cfg!(miri) { 3000 } else { 200_000 } {
        // Up and down, so that keys go in every state of growing.
        let key = below(200 + step / 20);
        let is_removal = below(5) < if step / 3000 % 2 == 0 { 1 } else { 3 };
        was_growing += u32::from(index.is_growing() && is_removal);
        if is_removal {
            assert_eq!(index.remove(key), oracle.remove(&key));
        } else {
            let row = *oracle.entry(key).or_insert(step);
            assert_eq!(index.find_or_insert(key, step), (row, row == step));
        }
        index.settle(key);
        let other = below(200 + step / 20);
        assert_eq!(index.find(other), oracle.get(&other).copied());
        assert_eq!(index.len(), oracle.len() as u64);
    }
    assert!(was_growing > 10);
    (0..20_000).for_each(|key| assert_eq!(index.find(key), oracle.get(&key).copied()));
    oracle.iter().for_each(|(key, row)| assert_eq!(index.remove(*key), Some(*row)));
    assert!(index.is_empty());
}

#[test]
fn neighbours_of_a_removed_key_are_found_wherever_they_lie() {
    // Keys of few slots, so that all ways lead past others, also round the end.
    let homes = |slot: u64| (0..).filter(move |key| slot_hash(*key) & 15 == slot);
    let keys: Vec<u64> = [14, 15, 0].iter().flat_map(|slot| homes(*slot).take(4)).collect();
    for gone in &keys {
        let mut index = HashIndex::new();
        (0..).zip(&keys).for_each(|(row, key)| _ = index.find_or_insert(*key, row));
        assert!(!index.is_growing() && index.slot_count() == 16);
        let row = keys.iter().position(|key| key == gone).map(|row| row as u64);
        assert_eq!(index.remove(*gone), row);
        assert_eq!((index.remove(*gone), index.find(*gone)), (None, None));
        for (row, key) in (0..).zip(&keys).filter(|(_, key)| *key != gone) {
            assert_eq!(index.find(*key), Some(row));
        }
    }
}

fn insert(index: &mut HashIndex, keys: std::ops::Range<u64>) {
    keys.for_each(|key| {
        index.find_or_insert(key, key);
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
            index.find_or_insert(room, room);
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
        index.find_or_insert(6143, 6143);
        assert_eq!(held.waiting(), 1, "asked for once");
        index.remove(6143);
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
        index.find_or_insert(count, count);
        count += 1;
    }
    let growing = index.memory_len();
    let mut met = 0;
    while index.is_growing() {
        assert!(met < 2 * count, "it goes on with keys that are met");
        let key = met % count;
        index.settle(key);
        assert_eq!(index.find_or_insert(key, 0), (key, false));
        met += 1;
    }
    assert!(index.memory_len() < growing, "old slots were given back");
    (0..count).for_each(|key| assert_eq!(index.find(key), Some(key)));
}
