//! A full log on a disk without room for the checkpoint that would shorten it.

use std::{cell::Cell, rc::Rc, time::Duration};

use super::{
    Counter, checkpoint,
    hooked::{Hooked, Verdict},
    push, settle, start, start_on,
};
use crate::persist::{
    checkpoint::CheckpointProgress,
    persistence::Persistence,
    storage::{Operation, Provider},
};

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
    // No checkpoint can be begun on it.
    let refuses_now = Rc::clone(&refuses);
    let storage = Hooked::open(folder.path(), move |operation| match operation {
        Operation::Open { name, create: true }
            if name.starts_with("checkpoint-") && refuses_now.get() =>
        {
            Verdict::Fail(std::io::ErrorKind::StorageFull)
        }
        _ => Verdict::CarryOut,
    });
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

/// Nothing is wrong with a disk for which there is no descriptor: the log waits until there is one.
#[test]
fn a_full_log_whose_checkpoints_lack_descriptors_goes_on_when_there_are_some() {
    let folder = tempfile::tempdir().unwrap();
    let lacks = Rc::new(Cell::new(true));
    let lacks_now = Rc::clone(&lacks);
    let mut counter = Counter::default();
    let storage = Hooked::open(folder.path(), move |operation| match operation {
        Operation::Open { name, create: true }
            if name.starts_with("checkpoint-") && lacks_now.get() =>
        {
            Verdict::Errno(libc::EMFILE)
        }
        _ => Verdict::CarryOut,
    });
    let mut persistence = start_on(storage, &mut counter).0;
    assert!(!fill(&mut persistence, &mut counter, 10), "it was stopped");
    lacks.set(false);
    let mut now = Duration::from_secs(100);
    while persistence.log.is_nearly_full() {
        now += Duration::from_millis(10);
        persistence.start_checkpoint(&mut counter, now);
        persistence.poll();
        persistence.step_checkpoint(&mut counter, now, 1 << 20);
        persistence.wait(Duration::from_millis(1));
    }
    let sealed = push(&mut persistence, &mut counter, 0, 1);
    settle(&mut persistence, sealed.position);
}
