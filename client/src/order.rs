//! Sorts keys that come in any order, and merges repeated ones so that each is sent once.

use std::ops::Range;

use windlass_wire::rule::Merge;

use crate::element::Element;

/// Lists from this length on are sorted digit by digit: 12 to 15 ns a key at 65,536 keys, where a sort by comparisons
/// takes 26; shorter lists are sorted faster by those.
const RADIX_COUNT_MIN: usize = 4096;

const DIGIT_BITS: u32 = 11;
const DIGITS: usize = u64::BITS.div_ceil(DIGIT_BITS) as usize;
const DIGIT_VALUES: usize = 1 << DIGIT_BITS;

/// Distinct keys, ascending, and where each stands in the list that was given.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    keys: Vec<u64>,
    /// Positions of the first key in the list, then of the next.
    positions: Vec<u32>,
    /// Where each key's positions begin, and the end.
    starts: Vec<u32>,
}

impl Order {
    /// Sorts a list of keys.
    ///
    /// # Panics
    /// Above 2^32 - 1 keys.
    pub(crate) fn of(keys: &[u64]) -> Self {
        let count = u32::try_from(keys.len());
        let count = count.unwrap_or_else(|_| panic!("{} keys in one call", keys.len()));
        let mut placed: Vec<(u64, u32)> = keys.iter().copied().zip(0..count).collect();
        if placed.len() < RADIX_COUNT_MIN {
            placed.sort_unstable();
        } else {
            sort_by_digits(&mut placed);
        }
        let mut order = Self {
            keys: Vec::with_capacity(placed.len()),
            positions: Vec::with_capacity(placed.len()),
            starts: Vec::with_capacity(placed.len() + 1),
        };
        for ((key, position), at) in placed.into_iter().zip(0..) {
            if order.keys.last() != Some(&key) {
                order.keys.push(key);
                order.starts.push(at);
            }
            order.positions.push(position);
        }
        order.starts.push(count);
        order
    }

    /// The keys, strictly ascending.
    pub(crate) fn keys(&self) -> &[u64] {
        &self.keys
    }

    /// Where each key stands in the list, in the order of the keys.
    fn groups(&self) -> impl Iterator<Item = &[u32]> {
        self.starts.windows(2).map(|ends| &self.positions[ends[0] as usize..ends[1] as usize])
    }

    /// Values of the keys from those of the list, `width` for each: where a key comes several times their sum, or
    /// the last ones where the table's rule says so.
    pub(crate) fn merged<T: Element>(&self, values: &[T], width: usize, merge: Merge) -> Vec<T> {
        let row = |position: u32| &values[row_of(position, width)];
        let mut merged = Vec::with_capacity(self.keys.len() * width);
        for group in self.groups() {
            match (group, merge) {
                ([position], _) | ([.., position], Merge::Last) => {
                    merged.extend_from_slice(row(*position));
                }
                (_, Merge::Sum) => {
                    let sum = |column| T::sum(group.iter().map(|position| row(*position)[column]));
                    merged.extend((0..width).map(sum));
                }
                ([], Merge::Last) => unreachable!("every key stands somewhere"),
            }
        }
        merged
    }

    /// For each place in the list which of the keys stands there.
    pub(crate) fn places(&self) -> Vec<u32> {
        let mut places = vec![0; self.positions.len()];
        for (group, key) in self.groups().zip(0..) {
            for position in group {
                places[*position as usize] = key;
            }
        }
        places
    }

    /// Gives each key of the list its row of `rows`, which are those of the keys.
    pub(crate) fn expand<T: Element>(&self, rows: &[T], width: usize, into: &mut [T]) {
        for (group, row) in self.groups().zip(rows.chunks_exact(width)) {
            for position in group {
                into[row_of(*position, width)].copy_from_slice(row);
            }
        }
    }
}

fn row_of(position: u32, width: usize) -> Range<usize> {
    let first = position as usize * width;
    first..first + width
}

/// Sorts pairs by their first; those with the same stay in order. A digit that all have in common costs nothing.
fn sort_by_digits(pairs: &mut Vec<(u64, u32)>) {
    #[expect(clippy::cast_possible_truncation, reason = "a digit of few bits, of few digits")]
    let digit = |key: u64, at: usize| (key >> (at as u32 * DIGIT_BITS)) as usize % DIGIT_VALUES;
    let mut counts = vec![[0_u32; DIGIT_VALUES]; DIGITS];
    for (key, _) in pairs.iter() {
        for (at, counts) in counts.iter_mut().enumerate() {
            counts[digit(*key, at)] += 1;
        }
    }
    let count = pairs.len();
    let mut sorted = vec![(0, 0); count];
    for (at, counts) in counts.iter_mut().enumerate() {
        if counts.iter().any(|of_digit| *of_digit as usize == count) {
            continue;
        }
        let mut next = 0;
        for of_digit in counts.iter_mut() {
            next += std::mem::replace(of_digit, next);
        }
        for pair in pairs.iter() {
            let place = &mut counts[digit(pair.0, at)];
            sorted[*place as usize] = *pair;
            *place += 1;
        }
        std::mem::swap(pairs, &mut sorted);
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sums_round_once_and_wrap() {
        let order = Order::of(&[7, 3, 7, 7]);
        assert_eq!(order.keys(), [3, 7]);
        assert_eq!(order.merged(&[1, 2, 3, i32::MAX], 1, Merge::Sum), [2, i32::MIN + 3]);
        assert_eq!(order.merged(&[1.0, 2.0, 3.0, 4.5], 1, Merge::Last), [2.0, 4.5]);
        // 256 and a half is no bf16, 257 is none either, but 258 is.
        let halves = [256.0, 0.0, 0.5, 1.5].map(bf16::from_f32);
        assert_eq!(order.merged(&halves, 1, Merge::Sum), [0.0, 258.0].map(bf16::from_f32));
        let halves = [2048.0, 0.0, 1.0, 1.0].map(f16::from_f32);
        assert_eq!(order.merged(&halves, 1, Merge::Sum), [0.0, 2050.0].map(f16::from_f32));
    }

    proptest! {
        #[test]
        fn lists_are_as_a_stable_sort_makes_them(
            keys in prop::collection::vec(any::<u64>(), 0..9000),
            bits in 1_u32..64,
            shift in 0_u32..64,
        ) {
            let few = |key: u64| (key >> (64 - bits)) << (shift % (65 - bits));
            let keys: Vec<u64> = keys.into_iter().map(few).collect();
            let order = Order::of(&keys);
            let mut expected: Vec<(u64, u32)> = keys.iter().copied().zip(0..).collect();
            expected.sort();
            let placed = order.keys.iter().zip(order.groups());
            let found: Vec<(u64, u32)> =
                placed.flat_map(|(key, group)| group.iter().map(|at| (*key, *at))).collect();
            prop_assert_eq!(found, expected);
            prop_assert!(order.keys.is_sorted_by(|one, next| one < next));
            // Each position gets its key's row.
            let rows: Vec<u64> = order.keys.iter().flat_map(|key| [*key, !*key]).collect();
            let mut into = vec![0; 2 * keys.len()];
            order.expand(&rows, 2, &mut into);
            prop_assert!(keys.iter().zip(into.chunks(2)).all(|(key, row)| row == [*key, !*key]));
        }
    }
}
