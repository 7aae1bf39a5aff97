//! Power cuts and failing disks under whole servers: whatever the grouping of their partitions, what was
//! acknowledged comes back, once, and every push as a whole.
#![allow(clippy::unwrap_used, missing_docs)]

use windlass_tests::crash::{
    chained::Chained,
    random::Random,
    served::{Served, Trouble},
    workload::End,
};

const LIVES: u64 = 24;

#[test]
fn servers_that_group_their_partitions_anew_lose_and_double_nothing() {
    let data = tempfile::tempdir().unwrap();
    let mut served = Served::new(data.path(), 1);
    let mut random = Random::new(0xFACE);
    for life in 0..LIVES {
        let end = if random.one_in(3) { End::Kill } else { End::PowerCut };
        // Some go off in the middle of recovery, some of a checkpoint, some when all is done.
        let most = if random.one_in(3) { 60 } else { 2000 };
        let events = (life % 5 > 0).then(|| 1 + random.below(most));
        served.live(end, Trouble { events, ..Trouble::default() });
        if life % 8 == 7 {
            served.restore();
        }
    }
    // At last nothing goes off before all of it was compared.
    served.live(End::PowerCut, Trouble::default());
    assert!(served.ledger.promised > 5 * LIVES, "too little is acknowledged: {served:?}");
    assert!(served.checkpoints > LIVES / 4, "too few checkpoints: {served:?}");
}

/// A part of a file cannot be read, or a sync fails and the next one succeeds without having written anything.
#[test]
fn servers_whose_disks_fail_lose_and_double_nothing() {
    let data = tempfile::tempdir().unwrap();
    let mut served = Served::new(data.path(), 2);
    let mut random = Random::new(0xD15C);
    for _ in 0..12 {
        let fail_sync = Some(random.below(60));
        served.live(End::Kill, Trouble { fail_sync, ..Trouble::default() });
        served.start_unreadable();
        let events = Some(1 + random.below(300));
        served.live(End::PowerCut, Trouble { events, ..Trouble::default() });
        served.start_unreadable();
    }
    served.live(End::PowerCut, Trouble::default());
    assert!(served.ledger.promised > 60, "too little is acknowledged: {served:?}");
    assert!(served.refused > 0, "nothing that is needed was unreadable: {served:?}");
}

#[test]
fn servers_with_copies_lose_and_double_nothing() {
    let data = tempfile::tempdir().unwrap();
    let mut chained = Chained::new(data.path(), 3);
    for _ in 0..10 {
        chained.live();
    }
    assert!(chained.alone > 1 && chained.interrupted > 1, "{chained:?}");
    assert!(chained.ledger.promised > 300, "too little is acknowledged: {chained:?}");
}
