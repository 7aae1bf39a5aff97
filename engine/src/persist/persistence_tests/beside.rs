//! Reading a directory while its server writes to it.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use super::{
    Counter, PARTITIONS, Persistence, checkpoint,
    hooked::{Hooked, Verdict},
    push, settle, start,
};
use crate::persist::{
    manifest::data_name,
    scrub::scrub,
    storage::{Operation, Provider},
};

/// Pushes to every partition, and a checkpoint of that.
fn go_on(persistence: &mut Persistence, counter: &mut Counter) {
    let mut last = None;
    for partition in 0..PARTITIONS {
        last = Some(push(persistence, counter, partition, 1).position);
    }
    settle(persistence, last.unwrap());
    checkpoint(persistence, counter);
}

/// Removes all that checkpoints have left behind.
fn remove(persistence: &mut Persistence) {
    let mut now = Duration::ZERO;
    while persistence.checkpointer().is_removing() {
        now += Duration::from_secs(1);
        persistence.remove_old(now);
        persistence.wait(Duration::from_millis(1));
        persistence.poll();
    }
}

#[test]
fn a_file_given_back_while_its_directory_is_read_is_no_damage() {
    let directory = tempfile::tempdir().unwrap();
    let mut counter = Counter::default();
    let (mut persistence, _) = start(directory.path(), Provider::Buffered, &mut counter);
    go_on(&mut persistence, &mut counter);
    let first = persistence.checkpointer().last().unwrap().files[0].number;
    let path = directory.path().join(data_name(first));
    assert!(path.exists());
    let running = RefCell::new((persistence, counter));
    let given_back = Rc::new(Cell::new(0));
    let given_back_now = Rc::clone(&given_back);
    // Behind the manifest that names it.
    let mut storage = Hooked::open(directory.path(), move |operation| {
        if let Operation::Open { name, .. } = operation
            && *name == data_name(first)
        {
            let (persistence, counter) = &mut *running.borrow_mut();
            for _ in 0..3 {
                go_on(persistence, counter);
                remove(persistence);
            }
            given_back_now.set(given_back_now.get() + 1);
        }
        Verdict::CarryOut
    });
    let report = scrub(storage.as_mut()).unwrap();
    assert_eq!(given_back.get(), 1);
    assert!(!path.exists(), "no checkpoint names it any more");
    assert!(report.bad.is_empty(), "{report}");
    assert!(report.blocks > 0);
}
