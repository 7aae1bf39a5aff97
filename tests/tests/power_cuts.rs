//! Power cuts and failing disks under whole servers: whatever the grouping of their partitions, what was
//! acknowledged comes back, once, and every push as a whole.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use windlass_tests::crash::{
    chained::Chained,
    damage::{Damage, Part},
    lives::lives,
    random::Random,
    served::{IsRefused, Served, Trouble},
    workload::End,
};

const LIVES: u64 = 24;

#[test]
fn servers_that_group_their_partitions_anew_lose_and_double_nothing() {
    let data = tempfile::tempdir().unwrap();
    let report = lives(data.path(), LIVES, 0xFACE);
    assert!(report.promised > 5 * LIVES, "too little is acknowledged: {report:?}");
    assert!(report.checkpoints > LIVES / 4, "too few checkpoints: {report:?}");
}

/// A bit of the first header of a file is another, a newer program has written it, or its first block is
/// gone: whatever needs the file is refused, and the refusal says which file.
#[test]
fn servers_whose_files_are_damaged_are_refused_by_name() {
    let data = tempfile::tempdir().unwrap();
    let mut served = Served::new(data.path(), 3);
    let mut refused: BTreeMap<Damage, u64> = BTreeMap::new();
    let is_met = |refused: &BTreeMap<Damage, u64>| {
        Damage::ALL.iter().all(|damage| refused.get(damage).is_some_and(|count| *count > 0))
    };
    // Not every file is needed: which one is damaged is drawn.
    for life in 0..12 {
        if life >= 3 && is_met(&refused) {
            break;
        }
        served.live(End::Kill, Trouble::default());
        for damage in Damage::ALL.into_iter().cycle().take(9) {
            let started = served.start_damaged(damage, Part::Beginning);
            *refused.entry(damage).or_default() += u64::from(started == Some(IsRefused(true)));
        }
    }
    assert!(is_met(&refused), "{refused:?}");
}

/// After an end in order all of a log is known to be whole: whatever block of a file is changed then.
#[test]
fn closed_servers_whose_files_are_damaged_anywhere_are_refused_by_name() {
    let data = tempfile::tempdir().unwrap();
    let mut served = Served::new(data.path(), 4);
    for _ in 0..3 {
        served.live(End::Close, Trouble::default());
        for damage in [Damage::Flip, Damage::Blank].into_iter().cycle().take(24) {
            let _ = served.start_damaged(damage, Part::Any);
        }
    }
    assert!(served.refused > 6, "hardly anything that is needed was damaged: {}", served.refused);
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
    // What happens in a life is drawn, and how far it comes depends on the machine.
    let is_met = |chained: &Chained| chained.alone > 1 && chained.interrupted > 1;
    for life in 0..40 {
        if life >= 10 && is_met(&chained) {
            break;
        }
        chained.live();
    }
    assert!(is_met(&chained), "{chained:?}");
    assert!(chained.ledger.promised > 300, "too little is acknowledged: {chained:?}");
}
