//! A disk that takes long: what waits for it is bounded, and who would add to it is told.

use std::{cell::Cell, rc::Rc, time::Duration};

use super::{
    Counter, facts,
    hooked::{Hooked, Verdict},
    settle, start_on,
};
use crate::persist::{
    commit::{Durability, Position},
    log::ReserveError,
    record::Shape,
    storage::Operation,
};

#[test]
fn a_slow_disk_pushes_back_and_nothing_grows() {
    let directory = tempfile::tempdir().unwrap();
    let holds = Rc::new(Cell::new(false));
    let holds_now = Rc::clone(&holds);
    let slow = Hooked::open(directory.path(), move |operation| match operation {
        Operation::Write { durable: true, .. } if holds_now.get() => Verdict::Hold,
        _ => Verdict::CarryOut,
    });
    let (mut persistence, _) = start_on(slow, &mut Counter::default());
    holds.set(true);
    let facts = facts(Durability::Sync);
    let shape = Shape { delta_bytes: 100_000, ..Shape::default() };
    let (mut last, mut records, mut refused) = (Position(0), 0, 0);
    // Many times as much as the ring holds.
    for _ in 0..200 {
        match persistence.log.reserve(&facts, shape, Duration::ZERO) {
            Ok(reservation) => {
                last = persistence.log.seal(reservation).position;
                records += 1;
            }
            Err(ReserveError::Full(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        persistence.flush(Duration::ZERO);
        let durable = persistence.poll();
        assert!(records == 0 || durable < last, "nothing of it is durable");
        let (waiting, most) = persistence.log.ring_use();
        assert!(waiting <= most);
    }
    assert!((5..21).contains(&records), "{records} records in 2 MiB");
    assert_eq!(refused, 200 - records);
    assert_eq!(persistence.log.statistics().refused, refused, "metrics show it");
    assert!(persistence.log.statistics().writes <= 2, "few writes are under way");
    // What was sealed is written when the disk comes back, and there is room again.
    holds.set(false);
    settle(&mut persistence, last);
    assert_eq!(persistence.log.ring_use().0, 0);
    let reservation = loop {
        match persistence.log.reserve(&facts, shape, Duration::ZERO) {
            Ok(reservation) => break reservation,
            Err(ReserveError::Full(_)) => {
                persistence.flush(Duration::ZERO);
                persistence.poll();
                persistence.wait(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    };
    let position = persistence.log.seal(reservation).position;
    settle(&mut persistence, position);
}
