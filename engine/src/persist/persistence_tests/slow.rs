//! A disk that takes long: what waits for it is bounded, and who would add to it is told.

use std::{cell::Cell, collections::VecDeque, os::fd::BorrowedFd, rc::Rc, time::Duration};

use windlass_transport::Pages;
use windlass_wire::{DataType, Epoch, PartitionId, RowRange, TableId};

use super::{Counter, settle, start_on};
use crate::persist::{
    commit::{Durability, Position},
    frame::Kind,
    log::ReserveError,
    record::{Facts, Shape},
    storage::{
        Completion, Listed, Operation, Provider, RegionId, Storage, StorageError, StorageReport,
        Token, open,
    },
};

/// Holds durable writes back while it is told to.
#[derive(Debug)]
struct Slow {
    inner: Box<dyn Storage>,
    holds: Rc<Cell<bool>>,
    held: VecDeque<(Token, Operation)>,
}

impl Storage for Slow {
    fn report(&self) -> &StorageReport {
        self.inner.report()
    }

    fn register(&mut self, pages: Pages) -> Result<RegionId, StorageError> {
        self.inner.register(pages)
    }

    fn list(&mut self) -> Result<Vec<Listed>, StorageError> {
        self.inner.list()
    }

    fn submit(&mut self, token: Token, operation: Operation) -> Result<(), Operation> {
        if self.holds.get() && matches!(operation, Operation::Write { durable: true, .. }) {
            self.held.push_back((token, operation));
            return Ok(());
        }
        self.inner.submit(token, operation)
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        while !self.holds.get()
            && let Some((token, operation)) = self.held.pop_front()
        {
            assert!(self.inner.submit(token, operation).is_ok(), "few writes are under way");
        }
        self.inner.poll(completions);
    }

    fn wait(&mut self, timeout: Duration) {
        self.inner.wait(timeout);
    }

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[test]
fn a_slow_disk_pushes_back_and_nothing_grows() {
    let directory = tempfile::tempdir().unwrap();
    let holds = Rc::new(Cell::new(false));
    let inner = open(directory.path(), Provider::Buffered).unwrap();
    let slow = Slow { inner, holds: Rc::clone(&holds), held: VecDeque::new() };
    let (mut persistence, _) = start_on(Box::new(slow), &mut Counter::default());
    holds.set(true);
    let facts = Facts {
        kind: Kind::Rows,
        partition: PartitionId(0),
        epoch: Epoch(1),
        table: TableId(1),
        dtype: DataType::F32,
        rows: RowRange::new(0, 1),
        tag: 0,
        durability: Durability::Sync,
    };
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
