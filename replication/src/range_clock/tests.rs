//! The range clock against one clock per key.

#![allow(clippy::cast_possible_truncation, reason = "small numbers of a test")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const ROWS: u64 = 48;
const TAIL_ROW: u64 = u64::MAX - 1;

/// One clock per (worker, key): the definition.
#[derive(Clone, Default)]
struct PerKey {
    clocks: BTreeMap<u32, Vec<u64>>,
    retired: BTreeMap<u32, bool>,
}

impl PerKey {
    fn keys(rows: RowRange) -> impl Iterator<Item = usize> {
        (0..=ROWS)
            .filter(move |&key| rows.contains(if key == ROWS { TAIL_ROW } else { key }))
            .map(|key| key as usize)
    }
    fn tick(&mut self, worker: u32, rows: RowRange, clock: u64, exact: bool) {
        let clocks = self.clocks.entry(worker).or_insert_with(|| vec![0; ROWS as usize + 1]);
        for key in Self::keys(rows) {
            clocks[key] = if exact { clock } else { clocks[key].max(clock) };
        }
    }
    fn minimum(&self, rows: RowRange) -> Option<u64> {
        let live = self.clocks.iter().filter(|(worker, _)| !self.retired.contains_key(worker));
        live.flat_map(|(_, clocks)| Self::keys(rows).map(|key| clocks[key])).min()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Tick(u32, RowRange, u64),
    Set(u32, RowRange, u64),
    Advance(u32, u64),
    Retire(u32),
    Revive(u32, u64),
}

fn rows() -> impl Strategy<Value = RowRange> {
    (0..ROWS, 0..=ROWS).prop_map(|(a, b)| {
        let end = if b == ROWS { u64::MAX } else { b };
        RowRange { start: a.min(end), end: a.max(end) }
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0..4_u32, rows(), 1..9_u64).prop_map(|(w, r, c)| Op::Tick(w, r, c)),
        2 => (0..4_u32, rows(), 0..9_u64).prop_map(|(w, r, c)| Op::Set(w, r, c)),
        2 => (0..4_u32, 1..9_u64).prop_map(|(w, c)| Op::Advance(w, c)),
        1 => (0..4_u32).prop_map(Op::Retire),
        1 => (0..4_u32, 1..9_u64).prop_map(|(w, c)| Op::Revive(w, c)),
    ]
}

fn apply(ops: &[Op], clock: &mut RangeClock) -> PerKey {
    let mut oracle = PerKey::default();
    for op in ops {
        match *op {
            Op::Tick(w, rows, c) => {
                clock.tick(WorkerRank(w), rows, WorkerClock(c)).unwrap();
                oracle.tick(w, rows, c, false);
            }
            Op::Set(w, rows, c) => {
                clock.set(WorkerRank(w), rows, WorkerClock(c)).unwrap();
                oracle.tick(w, rows, c, true);
            }
            Op::Advance(w, c) => {
                clock.advance(WorkerRank(w), WorkerClock(c)).unwrap();
                oracle.tick(w, ALL_ROWS, c, false);
            }
            Op::Retire(w) => {
                clock.retire(WorkerRank(w));
                if oracle.clocks.contains_key(&w) {
                    oracle.retired.insert(w, true);
                }
            }
            Op::Revive(w, c) => {
                clock.revive(WorkerRank(w), WorkerClock(c)).unwrap();
                oracle.retired.remove(&w);
                oracle.tick(w, ALL_ROWS, c, false);
            }
        }
    }
    oracle
}

fn row_of(key: usize) -> u64 {
    if key as u64 == ROWS { TAIL_ROW } else { key as u64 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn equals_a_clock_per_key(ops in prop::collection::vec(op(), 0..60), asked in rows()) {
        let mut clock = RangeClock::new(RangeClockLimits::default());
        let oracle = apply(&ops, &mut clock);
        for (&worker, clocks) in &oracle.clocks {
            for (key, &value) in clocks.iter().enumerate() {
                prop_assert_eq!(clock.at(WorkerRank(worker), row_of(key)).0, value);
            }
        }
        prop_assert_eq!(clock.minimum().map(|c| c.0), oracle.minimum(ALL_ROWS));
        let live = oracle.clocks.keys().filter(|worker| !oracle.retired.contains_key(worker));
        prop_assert_eq!(clock.live_count(), live.count());
        prop_assert_eq!(clock.minimum_in(asked).map(|c| c.0), oracle.minimum(asked).filter(|_| !asked.is_empty()));
        for pair in clock.entries().windows(2) {
            prop_assert!(pair[0].1 != pair[1].1, "equal neighbours are one entry: {:?}", pair);
            prop_assert_eq!(pair[0].0.end, pair[1].0.start);
        }
    }

    #[test]
    fn survives_its_own_bytes(ops in prop::collection::vec(op(), 0..60)) {
        let mut clock = RangeClock::new(RangeClockLimits::default());
        apply(&ops, &mut clock);
        let mut bytes = Vec::new();
        clock.encode(&mut bytes);
        let back = RangeClock::decode(&bytes, clock.limits()).unwrap();
        prop_assert_eq!(back.entries(), clock.entries());
        prop_assert_eq!(back.minimum(), clock.minimum());
        let mut again = Vec::new();
        back.encode(&mut again);
        prop_assert_eq!(again, bytes);
    }

    #[test]
    fn foreign_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..200_usize) {
        let _ = RangeClock::decode(&bytes, RangeClockLimits::default());
        let _ = Stamp::decode(&bytes);
        let mut clock = RangeClock::new(RangeClockLimits::default());
        clock.tick(WorkerRank(1), RowRange { start: 3, end: 9 }, WorkerClock(2)).unwrap();
        let mut good = Vec::new();
        clock.encode(&mut good);
        for (at, byte) in bytes.drain(..).enumerate().take(3) {
            let length = good.len();
            good[(at * 7 + cut) % length] ^= byte;
        }
        good.truncate(cut);
        let _ = RangeClock::decode(&good, RangeClockLimits::default());
    }

    #[test]
    fn the_bound_holds_and_never_claims_more(ops in prop::collection::vec(op(), 0..120)) {
        let limits = RangeClockLimits { workers_max: 4, steps_max: 6 };
        let only_raises: Vec<Op> = ops.into_iter().filter(|op| !matches!(op, Op::Set(..))).collect();
        let mut clock = RangeClock::new(limits);
        let oracle = apply(&only_raises, &mut clock);
        prop_assert!(clock.step_count() <= 4 * 6);
        for (&worker, clocks) in &oracle.clocks {
            for (key, &value) in clocks.iter().enumerate() {
                prop_assert!(clock.at(WorkerRank(worker), row_of(key)).0 <= value);
            }
        }
        for &worker in oracle.clocks.keys() {
            clock.advance(WorkerRank(worker), WorkerClock(100)).unwrap();
            prop_assert_eq!(clock.at(WorkerRank(worker), 7).0, 100);
        }
    }

    #[test]
    fn a_clock_cut_to_a_length_claims_no_more_and_has_the_same_minimum(
        ops in prop::collection::vec(op(), 0..60),
        more in 0_usize..300,
    ) {
        let limits = RangeClockLimits { workers_max: 4, steps_max: 1024 };
        let mut clock = RangeClock::new(limits);
        apply(&ops, &mut clock);
        let (len_max, mut bytes) = (RangeClock::encoded_len_least(&limits) + more, Vec::new());
        clock.encode_within(len_max, &mut bytes);
        prop_assert!(bytes.len() <= len_max);
        let cut = RangeClock::decode(&bytes, limits).unwrap();
        prop_assert!(matches!(cut.compare(&clock), Some(Ordering::Less | Ordering::Equal)));
        prop_assert_eq!(cut.minimum(), clock.minimum());
        prop_assert!(cut.workers().eq(clock.workers()));
    }

    #[test]
    fn merge_is_the_least_upper_bound(left in prop::collection::vec(op(), 0..30), right in prop::collection::vec(op(), 0..30)) {
        let mut a = RangeClock::new(RangeClockLimits::default());
        let mut b = RangeClock::new(RangeClockLimits::default());
        let of_a = apply(&left, &mut a);
        let of_b = apply(&right, &mut b);
        let mut both = a.clone();
        both.merge(&b).unwrap();
        for worker in 0..4_u32 {
            for key in 0..=ROWS as usize {
                let in_a = of_a.clocks.get(&worker).map_or(0, |c| c[key]);
                let in_b = of_b.clocks.get(&worker).map_or(0, |c| c[key]);
                prop_assert_eq!(both.at(WorkerRank(worker), row_of(key)).0, in_a.max(in_b));
            }
        }
        prop_assert!(matches!(a.compare(&both), Some(Ordering::Less | Ordering::Equal)));
        prop_assert!(matches!(both.compare(&b), Some(Ordering::Greater | Ordering::Equal)));
        prop_assert_eq!(a.compare(&b).map(Ordering::reverse), b.compare(&a));
    }
}

#[test]
fn a_push_splits_at_most_the_two_entries_at_its_ends() {
    let mut clock = RangeClock::new(RangeClockLimits::default());
    let mut before = clock.entries().len();
    for step in 0..400_u64 {
        let start = crate::mix::mix(step) % 10_000;
        let rows = RowRange { start, end: start + 1 + crate::mix::mix(step ^ 77) % 500 };
        clock.tick(WorkerRank((step % 5) as u32), rows, WorkerClock(1 + step / 5)).unwrap();
        let after = clock.entries().len();
        assert!(after <= before + 2, "one push made {before} entries {after}");
        before = after;
    }
    for rank in 0..5 {
        clock.advance(WorkerRank(rank), WorkerClock(1000)).unwrap();
    }
    assert_eq!(clock.entries().len(), 1);
}

#[test]
fn a_retired_worker_makes_room_and_a_full_clock_refuses() {
    let limits = RangeClockLimits { workers_max: 2, steps_max: 8 };
    let mut clock = RangeClock::new(limits);
    clock.advance(WorkerRank(0), WorkerClock(5)).unwrap();
    clock.advance(WorkerRank(1), WorkerClock(9)).unwrap();
    assert_eq!(clock.minimum(), Some(WorkerClock(5)));
    let refused = clock.advance(WorkerRank(2), WorkerClock(1)).unwrap_err();
    assert_eq!(refused, RangeClockError::TooManyWorkers { bound: 2 });
    clock.retire(WorkerRank(0));
    assert_eq!(clock.minimum(), Some(WorkerClock(9)));
    clock.revive(WorkerRank(2), WorkerClock(8)).unwrap();
    assert_eq!(clock.minimum(), Some(WorkerClock(8)));
    assert_eq!(clock.at(WorkerRank(0), 0), WorkerClock(0));
}
