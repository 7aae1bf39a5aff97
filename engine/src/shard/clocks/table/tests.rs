//! A table's clocks against an oracle: a clock for every worker and row, and a list of who is live.
#![allow(clippy::cast_possible_truncation, reason = "a handful of rows")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use windlass_replication::Consistency as Rule;
use windlass_transport::{Pages, memory::PagesOptions};
use windlass_wire::{DataType, SessionId};

use super::{super::members::JoinError, *};
use crate::persist::clocks::WorkerEvent;

const SLOTS: usize = 3;
const HEADS: [usize; SLOTS] = [0, 1, 2];
const ROWS: u64 = 12;

fn clocks(consistency: Consistency) -> TableClocks {
    let schema = TableSchema { consistency, ..TableSchema::sparse(DataType::F32, 1) };
    let pages = Pages::allocate(4096, PagesOptions::default()).unwrap();
    let mut clocks = TableClocks::new(Piece { region: 0, pages, offset: 64 }, &schema);
    clocks.grow(SLOTS);
    clocks
}

/// What the head of all partitions does when it has heard somebody, or no longer.
fn record_workers(clocks: &mut TableClocks) {
    for (slot, event) in clocks.unrecorded(&HEADS) {
        clocks.apply_event(slot, event);
    }
}

/// A worker joins, and its coming is recorded; the clock it starts from.
fn join(
    clocks: &mut TableClocks,
    rank: WorkerRank,
    session: SessionId,
) -> Result<WorkerClock, JoinError> {
    clocks.hear_worker(rank, session)?;
    record_workers(clocks);
    Ok(clocks.start_of(&HEADS, rank))
}

/// A worker has finished a clock on all rows.
fn finish(clocks: &mut TableClocks, rank: WorkerRank, clock: WorkerClock) {
    for slot in HEADS {
        clocks.apply_stamp(slot, rank, windlass_replication::ALL_ROWS, clock);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Join(u32),
    Leave(u32),
    /// The worker's next round ends.
    Advance(u32),
    /// The worker has pushed these rows for the last time in its round.
    Stamp(u32, usize, u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let rank = 0..4_u32;
    prop_oneof![
        1 => rank.clone().prop_map(Step::Join),
        1 => rank.clone().prop_map(Step::Leave),
        4 => rank.clone().prop_map(Step::Advance),
        4 => (rank, 0..SLOTS, 0..ROWS, 1..ROWS)
            .prop_map(|(rank, slot, start, count)| Step::Stamp(rank, slot, start, count)),
    ]
}

#[derive(Default)]
struct Oracle {
    /// Clock of each worker, slot and row, and whether it is live.
    workers: BTreeMap<u32, (Vec<u64>, bool)>,
}

impl Oracle {
    fn live(&self) -> impl Iterator<Item = &Vec<u64>> {
        self.workers.values().filter(|worker| worker.1).map(|worker| &worker.0)
    }

    fn minimum(&self) -> Option<u64> {
        self.live().flatten().copied().min()
    }

    fn finished(&self, rank: u32) -> Option<u64> {
        let worker = self.workers.get(&rank).filter(|worker| worker.1)?;
        worker.0.iter().copied().min()
    }
}

proptest! {
    #[test]
    fn the_published_minimum_is_that_of_a_clock_per_row(
        steps in prop::collection::vec(step(), 0..120), tau in 0..4_u64
    ) {
        let mut clocks = clocks(Consistency::Bounded { tau });
        let mut oracle = Oracle::default();
        let cells = SLOTS * ROWS as usize;
        for step in steps {
            match step {
                Step::Join(rank) => {
                    let began = join(&mut clocks, WorkerRank(rank), SessionId(u64::from(rank) + 1)).unwrap();
                    let was_live = oracle.finished(rank);
                    if was_live.is_none() {
                        let floor = match oracle.minimum() {
                            Some(minimum) => minimum,
                            // The latest clock that anybody has finished everywhere, in a slot.
                            None => oracle.workers.values().flat_map(|worker| {
                                worker.0.chunks(ROWS as usize).filter_map(|slot| slot.iter().copied().min())
                            }).max().unwrap_or(0),
                        };
                        let own = oracle.workers.entry(rank).or_insert((vec![0; cells], true));
                        let own_least = own.0.chunks(ROWS as usize)
                            .filter_map(|slot| slot.iter().copied().min()).max().unwrap_or(0);
                        prop_assert_eq!(began.0, floor.max(own_least));
                        own.1 = true;
                        own.0.iter_mut().for_each(|clock| *clock = began.0.max(*clock));
                    }
                }
                Step::Leave(rank) => {
                    clocks.retire(|of, _| of == WorkerRank(rank));
                    record_workers(&mut clocks);
                    if let Some(worker) = oracle.workers.get_mut(&rank) {
                        worker.1 = false;
                    }
                }
                Step::Advance(rank) => {
                    let finished = oracle.finished(rank);
                    let known = clocks.live_clock(0, WorkerRank(rank));
                    prop_assert_eq!(known.is_some(), finished.is_some());
                    if let Some(finished) = finished {
                        finish(&mut clocks, WorkerRank(rank), WorkerClock(finished + 1));
                        let worker = oracle.workers.get_mut(&rank).unwrap();
                        worker.0.iter_mut().for_each(|clock| *clock = (finished + 1).max(*clock));
                    }
                }
                Step::Stamp(rank, slot, start, count) => {
                    let Some(finished) = oracle.finished(rank) else { continue };
                    let clock = WorkerClock(finished + 1);
                    let end = (start + count).min(ROWS);
                    let reach = if end == ROWS { u64::MAX } else { end };
                    let rows = RowRange { start, end: reach };
                    clocks.apply_stamp(slot, WorkerRank(rank), rows, clock);
                    let worker = oracle.workers.get_mut(&rank).unwrap();
                    for row in start..end {
                        let cell = &mut worker.0[slot * ROWS as usize + row as usize];
                        *cell = (*cell).max(clock.0);
                    }
                }
            }
            clocks.publish();
            let line = clocks.line();
            prop_assert_eq!(line.minimum, oracle.minimum().unwrap_or(u64::MAX));
            prop_assert_eq!(line.live, oracle.live().count() as u64);
            for clock in 0..8 {
                let rule = Rule::Bounded { tau };
                let minimum = oracle.minimum().map(WorkerClock);
                prop_assert_eq!(
                    line.must_wait(WorkerClock(clock)), rule.must_wait(WorkerClock(clock), minimum)
                );
                for slot in 0..SLOTS {
                    for row in 0..ROWS {
                        let cell = slot * ROWS as usize + row as usize;
                        let least = oracle.live().map(|rows| rows[cell]).min();
                        let behind = clocks.is_behind(
                            slot, RowRange { start: row, end: row + 1 }, line.needed(WorkerClock(clock)));
                        let expected = least.is_some_and(|least| least < line.needed(WorkerClock(clock)));
                        prop_assert_eq!(behind, expected);
                    }
                }
            }
        }
    }
}

#[test]
fn a_silent_worker_is_given_up_after_the_timeout_and_heard_again_before() {
    let mut clocks = clocks(Consistency::Sequential {});
    let (start, timeout) = (Instant::now(), Duration::from_millis(10));
    for rank in 0..2 {
        join(&mut clocks, WorkerRank(rank), SessionId(u64::from(rank) + 1)).unwrap();
    }
    assert_eq!(clocks.silence(SessionId(2), start), 1);
    assert_eq!(clocks.silence(SessionId(2), start), 0);
    assert!(clocks.silent_for(timeout, start + timeout / 2).is_empty());
    assert_eq!(clocks.hear(SessionId(2)), 1);
    assert!(clocks.silent_for(timeout, start + timeout).is_empty());
    clocks.silence(SessionId(2), start);
    assert_eq!(clocks.silent_for(timeout, start + timeout), [WorkerRank(1)]);
    // A process that was started anew takes its rank over before the timeout.
    finish(&mut clocks, WorkerRank(1), WorkerClock(3));
    assert_eq!(join(&mut clocks, WorkerRank(1), SessionId(9)), Ok(WorkerClock(3)));
    let taken = join(&mut clocks, WorkerRank(1), SessionId(10)).unwrap_err();
    assert!(taken.to_string().contains("rank of its own"), "{taken}");
    assert_eq!(clocks.retire(|rank, _| rank == WorkerRank(1)), (0, vec![WorkerRank(1)]));
    record_workers(&mut clocks);
    clocks.publish();
    assert_eq!(clocks.line(), ClockLine { gains: 0, minimum: 0, tau: 0, live: 1 });
    assert_eq!(clocks.live_clock(0, WorkerRank(1)), None, "it has to open the table again");
    clocks.set_consistency(Consistency::Bounded { tau: 5 });
    assert_eq!(clocks.line().tau, 5);
    clocks.open();
    assert_eq!(clocks.line(), ClockLine::OPEN);
}

#[derive(Clone, Debug)]
enum Recorded {
    Event(usize, WorkerEvent),
    Stamp(usize, u32, u64, u64, u64),
}

fn recorded() -> impl Strategy<Value = Recorded> {
    let event =
        (0..SLOTS, 0..4_u32, 0..6_u64, any::<bool>()).prop_map(|(slot, rank, clock, joins)| {
            let (rank, clock) = (WorkerRank(rank), WorkerClock(clock));
            let session = SessionId(u64::from(rank.0) + 1);
            let event = if joins {
                WorkerEvent::Joined { rank, session, clock }
            } else {
                WorkerEvent::Retired { rank }
            };
            Recorded::Event(slot, event)
        });
    let stamp = (0..SLOTS, 0..4_u32, 0..ROWS, 0..ROWS, 1..9_u64)
        .prop_map(|(slot, rank, start, end, clock)| Recorded::Stamp(slot, rank, start, end, clock));
    prop_oneof![1 => event, 3 => stamp]
}

fn take_in(clocks: &mut TableClocks, record: &Recorded) {
    match *record {
        Recorded::Event(slot, event) => {
            let event = WorkerEvent::decode(&event.encode()).unwrap();
            clocks.apply_event(slot, event);
        }
        Recorded::Stamp(slot, rank, start, end, clock) if start < end => {
            clocks.apply_stamp(slot, WorkerRank(rank), RowRange { start, end }, WorkerClock(clock));
        }
        Recorded::Stamp(slot, rank, _, _, clock) => {
            let all = windlass_replication::ALL_ROWS;
            clocks.apply_stamp(slot, WorkerRank(rank), all, WorkerClock(clock));
        }
    }
}

fn bytes_of(clocks: &TableClocks) -> Vec<u8> {
    let mut bytes = Vec::new();
    (0..SLOTS).for_each(|slot| clocks.encode_slot(slot, &mut bytes));
    bytes
}

proptest! {
    /// Whoever copies a clock at any moment, and applies what comes after, has the clock of those who
    /// applied everything.
    #[test]
    fn a_copied_clock_goes_on_as_the_others(
        records in prop::collection::vec(recorded(), 0..80), at in 0..80_usize
    ) {
        let (mut member, mut learner) = (clocks(Consistency::Bounded { tau: 1 }), clocks(Consistency::Bounded { tau: 1 }));
        for (number, record) in records.iter().enumerate() {
            if number == at {
                for slot in 0..SLOTS {
                    learner.clear(slot);
                    let mut bytes = Vec::new();
                    member.encode_slot(slot, &mut bytes);
                    prop_assert!(learner.decode_slot(slot, &bytes));
                }
            }
            take_in(&mut member, record);
            if number >= at || at >= records.len() {
                take_in(&mut learner, record);
            }
        }
        member.publish();
        learner.publish();
        prop_assert_eq!(member.line(), learner.line());
        prop_assert_eq!(bytes_of(&member), bytes_of(&learner));
    }
}

#[test]
fn rows_that_are_not_current_hold_nobody_up() {
    let mut clocks = clocks(Consistency::Bounded { tau: 1 });
    let joined = |rank, clock| WorkerEvent::Joined {
        rank: WorkerRank(rank),
        session: SessionId(1),
        clock: WorkerClock(clock),
    };
    clocks.apply_event(0, joined(0, 4));
    clocks.apply_event(1, joined(0, 2));
    clocks.hide(2, true);
    clocks.publish();
    assert_eq!(clocks.line(), ClockLine { gains: 0, minimum: 2, tau: 1, live: 1 });
    clocks.hide(1, true);
    clocks.publish();
    assert_eq!(clocks.line(), ClockLine { gains: 0, minimum: 4, tau: 1, live: 1 });
    clocks.hide(0, true);
    clocks.publish();
    assert_eq!(clocks.line(), ClockLine { gains: 0, minimum: u64::MAX, tau: 1, live: u64::MAX });
}

/// A server gets rows that are behind the others, while a pull that needs more than they have looks at the
/// clock, reads, and looks whether rows were gained: every way in which their steps may follow each other.
#[test]
fn no_pull_goes_by_a_clock_from_before_its_rows_came() {
    const NEEDED: u64 = 9;
    let joined = |clock| WorkerEvent::Joined {
        rank: WorkerRank(0),
        session: SessionId(1),
        clock: WorkerClock(clock),
    };
    let (mut taken, mut caught) = (0, 0);
    // When the server moves: before which of the reader's four steps each of its three comes.
    for moves in 0..5_u32.pow(3) {
        let at = [moves % 5, moves / 5 % 5, moves / 25 % 5];
        if at[0] > at[1] || at[1] > at[2] {
            continue;
        }
        let mut clocks = clocks(Consistency::Bounded { tau: 1 });
        clocks.apply_event(0, joined(10));
        clocks.apply_event(1, joined(5));
        clocks.hide(1, true);
        clocks.hide(2, true);
        clocks.publish();
        let (mut readable, mut moved) = (false, 0);
        let mut come_before = |step: u32, clocks: &mut TableClocks| {
            while moved < 3 && at[moved] <= step {
                match moved {
                    // What `hide` does, step by step.
                    0 => clocks.published.lower(WorkerClock(5)),
                    1 => clocks.published.gain(),
                    _ => readable = true,
                }
                moved += 1;
            }
            readable
        };
        come_before(0, &mut clocks);
        let gains = clocks.line().gains;
        come_before(1, &mut clocks);
        let minimum = clocks.line().minimum;
        let is_read = come_before(2, &mut clocks);
        come_before(3, &mut clocks);
        if is_read && minimum >= NEEDED {
            taken += 1;
            assert_ne!(clocks.line().gains, gains, "rows of clock 5 taken for 9: {at:?}");
            caught += 1;
        }
    }
    assert!(taken > 0 && caught == taken, "the clock alone does not tell");
    // And `hide` does just these steps before rows are readable.
    let mut clocks = clocks(Consistency::Bounded { tau: 1 });
    clocks.apply_event(0, joined(10));
    clocks.apply_event(1, joined(5));
    clocks.hide(1, true);
    clocks.publish();
    let before = clocks.line();
    clocks.hide(1, false);
    let expected = ClockLine { gains: before.gains + 1, minimum: 5, ..before };
    assert_eq!(clocks.line(), expected);
}

#[test]
fn heads_record_what_they_heard() {
    let mut clocks = clocks(Consistency::Bounded { tau: 1 });
    let (rank, session) = (WorkerRank(3), SessionId(9));
    clocks.hear_worker(rank, session).unwrap();
    let joined = WorkerEvent::Joined { rank, session, clock: WorkerClock(0) };
    assert_eq!(clocks.unrecorded(&[1]), [(1, joined)], "only what is led here");
    clocks.apply_event(1, joined);
    assert_eq!(clocks.unrecorded(&[1]), []);
    assert!(clocks.hear_worker(rank, SessionId(10)).is_err(), "its rank is taken");
    // Gone as far as this server knows, and so recorded where it leads.
    clocks.give_up_worker(rank, true);
    assert_eq!(clocks.unrecorded(&[1]), [], "it was heard here");
    clocks.give_up_worker(rank, false);
    assert_eq!(clocks.unrecorded(&[1]), [(1, WorkerEvent::Retired { rank })]);
    // Elsewhere it has come back in another life before that.
    clocks.apply_event(
        1,
        WorkerEvent::Joined { rank, session: SessionId(10), clock: WorkerClock(5) },
    );
    assert_eq!(clocks.unrecorded(&[1]), []);
    assert_eq!(clocks.live_clock(1, rank), Some(WorkerClock(5)));
}
