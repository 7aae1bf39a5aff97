//! A full log on a disk without room for the checkpoint that would shorten it.

use std::{cell::Cell, os::fd::BorrowedFd, rc::Rc, time::Duration};

use windlass_transport::Pages;

use super::{Counter, checkpoint, push, settle, start, start_on};
use crate::persist::{
    checkpoint::CheckpointProgress,
    persistence::Persistence,
    storage::{
        Completion, Listed, Operation, Provider, RegionId, Storage, StorageError, StorageReport,
        Token, open,
    },
};

/// A disk on which no checkpoint can be begun, while it says so.
#[derive(Debug)]
struct Refusing {
    inner: Box<dyn Storage>,
    refuses: Rc<Cell<bool>>,
    refused: Vec<Completion>,
}

impl Storage for Refusing {
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
        match operation {
            Operation::Open { name, create: true }
                if name.starts_with("checkpoint-") && self.refuses.get() =>
            {
                let source = std::io::ErrorKind::StorageFull.into();
                let result = Err(StorageError { operation: "open", name, source });
                self.refused.push(Completion { token, result });
                Ok(())
            }
            operation => self.inner.submit(token, operation),
        }
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.refused);
        self.inner.poll(completions);
    }

    fn wait(&mut self, timeout: Duration) {
        if self.refused.is_empty() {
            self.inner.wait(timeout);
        }
    }

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Fills the log until it takes no more; whether it was stopped rather than left waiting.
fn fill(persistence: &mut Persistence, counter: &mut Counter, attempts: u32) -> bool {
    let mut now = Duration::ZERO;
    let mut failed = 0;
    loop {
        now += Duration::from_millis(1);
        if persistence.log.poison().is_some() {
            return true;
        }
        if failed >= attempts {
            return false;
        }
        if persistence.log.is_nearly_full() {
            // What a shard does while it waits for room.
            if !persistence.is_checkpointing() {
                persistence.start_checkpoint(counter, now);
            }
            persistence.poll();
            let progress = persistence.step_checkpoint(counter, now, 1 << 20);
            failed += u32::from(progress == CheckpointProgress::Idle);
            persistence.wait(Duration::from_millis(1));
        } else {
            let sealed = push(persistence, counter, 0, 1);
            settle(persistence, sealed.position);
        }
    }
}

#[test]
fn a_full_log_whose_checkpoints_fail_stops_instead_of_waiting_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let refuses = Rc::new(Cell::new(true));
    let mut counter = Counter::default();
    let inner = open(folder.path(), Provider::Buffered).unwrap();
    let storage = Box::new(Refusing { inner, refuses: refuses.clone(), refused: Vec::new() });
    let mut persistence = start_on(storage, &mut counter).0;
    assert!(fill(&mut persistence, &mut counter, 100), "it waits for ever");
    let poison = persistence.log.poison().unwrap().to_string();
    assert!(poison.contains("checkpoints fail") && poison.contains("free the disk"), "{poison}");
    let expected = counter.sums;
    drop(persistence);

    // A restart with space has everything, and goes on.
    refuses.set(false);
    let mut counter = Counter::default();
    let (mut persistence, _) = start(folder.path(), Provider::Buffered, &mut counter);
    assert_eq!(counter.sums, expected);
    checkpoint(&mut persistence, &mut counter);
    let sealed = push(&mut persistence, &mut counter, 0, 1);
    settle(&mut persistence, sealed.position);
}
