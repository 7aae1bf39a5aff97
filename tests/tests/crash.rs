//! Power cuts at IO points: nothing acknowledged is lost, nothing is applied twice, nothing wrong
//! goes unreported.

use std::{cell::RefCell, collections::BTreeMap};

use windlass_tests::crash::{
    Report, crash, crash_on,
    disk::Faults,
    events_of_a_life,
    groups::{crash_groups, flip_in_groups},
    random::Random,
    workload::{End, Verdict, Workload},
};

#[test]
fn power_cuts_lose_and_double_nothing() {
    let report = crash(300, 1);
    let Report { lost, doubled, silent, refused, .. } = report;
    assert_eq!((lost, doubled, silent, refused), (0, 0, 0, 0), "{report:?}");
    assert!(report.promised > 3_000, "the workload acknowledges too little: {report:?}");
    assert!(report.checkpoints > 100, "the workload takes too few checkpoints: {report:?}");
}

/// A push of several partitions is there whole or not at all, however many writes its records are in, and
/// what a cut has left of one is not taken for a part of the next life's.
#[test]
fn power_cuts_leave_no_part_of_a_group() {
    let report = crash_groups(400, 3, true);
    let found = (report.partial, report.lost, report.wrong);
    assert_eq!(found, (0, 0, 0), "{report:?}");
    assert!(report.promised > 10_000 && report.checkpoints > 200, "{report:?}");
    let untold = crash_groups(60, 3, false);
    assert!(untold.partial > 0, "no cut went through a group: {untold:?}");
}

/// A flipped bit in a group, or in what says that it is whole, is no part of a group and no lost one either.
#[test]
fn a_flipped_bit_in_a_group_is_survived_or_reported() {
    let (mut reported, mut harmless) = (0, 0);
    for seed in 0..200 {
        let (is_reported, report) = flip_in_groups(seed);
        let found = (report.partial, report.lost, report.wrong);
        assert_eq!(found, (0, 0, 0), "seed {seed}: {report:?}");
        *(if is_reported { &mut reported } else { &mut harmless }) += 1;
    }
    assert!(reported > 20 && harmless > 20, "{reported} reported, {harmless} harmless");
}

#[test]
fn a_life_has_enough_points() {
    assert!(events_of_a_life(1) > 500, "{}", events_of_a_life(1));
}

/// Segments, checkpoints and their files of a hundred lives of one log.
#[test]
fn a_hundred_lives_lose_and_double_nothing() {
    for seed in 0..4 {
        let mut workload = Workload::new(seed);
        let mut random = Random::new(seed);
        for life in 0..100 {
            let end = if random.one_in(3) { End::Kill } else { End::PowerCut };
            if random.one_in(2) {
                let events = 1 + random.below(120);
                workload.disk().borrow_mut().cut_after(Some(events));
            }
            let turns = u32::try_from(random.below(40)).unwrap();
            assert_eq!(workload.live(turns, end), Verdict::default(), "seed {seed}, life {life}");
            // By the power.
            workload.poisoned = None;
        }
        let files = workload.disk().borrow().list().count();
        assert!(files < 20, "{files} files are left");
        // After all of them the log still goes on.
        let promised = workload.promised;
        assert_eq!(workload.live(200, End::PowerCut), Verdict::default(), "seed {seed}");
        assert_eq!(workload.poisoned, None, "seed {seed}");
        assert!(workload.promised > promised, "seed {seed}");
        assert_eq!(workload.check_now(), Verdict::default(), "seed {seed}");
    }
}

#[test]
fn a_disk_that_ignores_syncs_is_caught() {
    let report = crash_on(60, 1, Faults { ignore_durability: true, ..Faults::default() });
    assert!(report.lost + report.silent + report.refused > 0, "no teeth: {report:?}");
}

/// A write fails: the log says so and acknowledges nothing more; what it acknowledged survives.
#[test]
fn a_failed_write_poisons_and_loses_nothing() {
    for fail_write in 20..60 {
        let mut workload = Workload::new(fail_write);
        workload.disk().borrow_mut().faults.fail_write = Some(fail_write);
        assert_eq!(workload.live(600, End::PowerCut), Verdict::default(), "write {fail_write}");
        let reason = workload.poisoned.take().expect("the log is poisoned");
        assert!(reason.contains("write"), "{reason}");
        let promised = workload.promised;
        workload.disk().borrow_mut().faults.fail_write = None;
        assert_eq!(workload.live(300, End::PowerCut), Verdict::default(), "write {fail_write}");
        assert!(workload.promised > promised, "the log works again after a restart");
        assert_eq!(workload.check_now(), Verdict::default(), "write {fail_write}");
    }
}

#[test]
fn a_short_write_poisons_and_loses_nothing() {
    for short_write in 20..60 {
        let mut workload = Workload::new(short_write);
        workload.disk().borrow_mut().faults.short_write = Some(short_write);
        assert_eq!(workload.live(600, End::PowerCut), Verdict::default(), "write {short_write}");
        workload.poisoned = None;
        assert_eq!(workload.live(300, End::PowerCut), Verdict::default(), "write {short_write}");
        assert_eq!(workload.check_now(), Verdict::default(), "write {short_write}");
    }
}

/// A sync fails, and the process is started again while the machine stays up: what its log is built upon
/// then lies in a cache that counts it as written. The later life is short: a checkpoint of its own would
/// make the log before it needless.
#[test]
fn a_failed_sync_loses_nothing_that_a_later_life_builds_upon() {
    let mut poisoned = 0;
    for fail_sync in 20..100 {
        let mut workload = Workload::new(fail_sync);
        workload.disk().borrow_mut().faults.fail_sync = Some(fail_sync);
        assert_eq!(workload.live(600, End::Kill), Verdict::default(), "sync {fail_sync}");
        poisoned += u32::from(workload.poisoned.take().is_some());
        workload.disk().borrow_mut().faults.fail_sync = None;
        assert_eq!(workload.live(20, End::PowerCut), Verdict::default(), "sync {fail_sync}");
        assert_eq!(workload.check_now(), Verdict::default(), "sync {fail_sync}");
    }
    assert!(poisoned > 20, "{poisoned} of 80 logs were stopped");
}

/// Files that are not empty and whose names begin so, oldest names first.
fn files(workload: &Workload, beginning: &str) -> Vec<(String, usize)> {
    let disk = workload.disk();
    let disk = disk.borrow();
    disk.list()
        .filter(|(name, length)| name.starts_with(beginning) && *length > 0)
        .map(|(name, length)| (name.to_owned(), usize::try_from(length).expect("short files")))
        .collect()
}

/// Blocks that cannot be read are reported, wherever they are, and nothing is made of that: when they can be
/// read again everything is there.
#[test]
fn an_unreadable_block_is_reported_and_never_a_torn_tail() {
    let mut reported: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..400_u64 {
        let mut workload = Workload::new(seed % 8);
        assert_eq!(workload.live(150, End::Kill), Verdict::default());
        let mut random = Random::new(seed);
        let kind = ["segment-", "checkpoint-", "manifest-", "watermark"]
            [usize::try_from(seed / 8 % 4).unwrap()];
        let files = files(&workload, kind);
        let choice = usize::try_from(random.below(files.len() as u64)).unwrap();
        let (name, length) = &files[choice];
        let block = usize::try_from(random.below(*length as u64 / 4096)).unwrap() * 4096;
        let blocks = 1 + usize::try_from(random.below(3)).unwrap();
        let disk = workload.disk();
        disk.borrow_mut().fail_reads(Some((name, block..block + blocks * 4096)));
        // A server would not start; should it, it must not have lost anything.
        let verdict = workload.live(20, End::Kill);
        *reported.entry(kind).or_default() += u64::from(verdict.reported > 0);
        let Verdict { lost, doubled, silent, .. } = verdict;
        assert_eq!((lost, doubled, silent), (0, 0, 0), "seed {seed}: {name}+{block}");
        disk.borrow_mut().fail_reads(None);
        assert_eq!(workload.check_now(), Verdict::default(), "seed {seed}: {name}+{block}");
    }
    assert!(reported["segment-"] > 25 && reported["checkpoint-"] > 50, "{reported:?}");
}

/// What a check finds while a file is damaged: it loses nothing in silence, and everything is there again
/// when the file is sound again.
fn while_damaged(
    workload: &mut Workload,
    (seed, name): (u64, &str),
    damage: impl Fn(&mut Vec<u8>),
    check: impl Fn(&mut Workload) -> Verdict,
) -> Verdict {
    let disk = workload.disk();
    let kept = RefCell::new(Vec::new());
    disk.borrow_mut().damage(name, |bytes| {
        kept.borrow_mut().clone_from(bytes);
        damage(bytes);
    });
    let verdict = check(workload);
    let Verdict { lost, doubled, silent, .. } = verdict;
    assert_eq!((lost, doubled, silent), (0, 0, 0), "seed {seed}: {name}");
    disk.borrow_mut().damage(name, |bytes| bytes.clone_from(&kept.borrow()));
    assert_eq!(workload.check_now(), Verdict::default(), "seed {seed}: {name}");
    verdict
}

/// Where the beginning of a segment is lost, its records are not: those who accept the damage have them all.
#[test]
fn a_segment_whose_superblock_is_lost_is_found_by_its_records() {
    let mut found = 0;
    for seed in 0..12_u64 {
        let mut workload = Workload::new(seed);
        assert_eq!(workload.live(150, End::Close), Verdict::default());
        for (name, _) in files(&workload, "segment-") {
            let damage = |bytes: &mut Vec<u8>| bytes[..4096].fill(0);
            let verdict =
                while_damaged(&mut workload, (seed, &name), damage, Workload::check_accepting);
            found += u64::from(verdict.reported > 0);
        }
    }
    assert!(found > 10, "{found}");
}

/// A segment is gone, or zeros, after an end in order.
#[test]
fn a_segment_that_vanished_is_reported() {
    let mut reported = 0;
    for seed in 0..40_u64 {
        let mut workload = Workload::new(seed);
        assert_eq!(workload.live(150, End::Close), Verdict::default());
        for (name, _) in files(&workload, "segment-") {
            let damage = |bytes: &mut Vec<u8>| match seed % 2 {
                0 => bytes.fill(0),
                _ => bytes.clear(),
            };
            let verdict = while_damaged(&mut workload, (seed, &name), damage, Workload::check_now);
            reported += u64::from(verdict.reported > 0);
        }
    }
    assert!(reported >= 40, "each log has a last segment at least: {reported}");
}

/// A hundred starts in a row, most of which end before anything is pushed.
#[test]
fn lives_that_do_nothing_use_up_nothing() {
    let mut workload = Workload::new(5);
    assert_eq!(workload.live(150, End::Kill), Verdict::default());
    for life in 0..100 {
        let end = [End::Kill, End::PowerCut, End::Close][life % 3];
        assert_eq!(workload.live(u32::from(life % 10 == 0), end), Verdict::default(), "{life}");
        assert_eq!(workload.poisoned, None, "life {life}");
    }
    let promised = workload.promised;
    assert_eq!(workload.live(300, End::PowerCut), Verdict::default());
    assert!(workload.promised > promised);
    assert_eq!(workload.check_now(), Verdict::default());
}

/// The disk fills up: the log stops with that reason, and goes on when there is space.
#[test]
fn a_full_disk_poisons_and_a_restart_with_space_goes_on() {
    let mut workload = Workload::new(3);
    // Two segments fit, checkpoints do not.
    workload.disk().borrow_mut().faults.capacity_bytes = Some(140 << 10);
    assert_eq!(workload.live(600, End::PowerCut), Verdict::default());
    let reason = workload.poisoned.take().expect("the log is poisoned");
    assert!(reason.contains("the disk is full"), "{reason}");
    let promised = workload.promised;
    assert!(promised > 0, "something was acknowledged before the disk was full");
    workload.disk().borrow_mut().faults.capacity_bytes = None;
    assert_eq!(workload.live(600, End::PowerCut), Verdict::default());
    assert_eq!(workload.poisoned, None);
    assert!(workload.promised > promised, "the log works again with space");
    assert_eq!(workload.check_now(), Verdict::default());
}

/// One flipped bit anywhere in what recovery needs: everything acknowledged is there, or the damage
/// is reported; never a wrong state.
#[test]
fn a_flipped_bit_is_survived_or_reported() {
    let (mut reported, mut harmless) = (0, 0);
    for seed in 0..250_u64 {
        let mut workload = Workload::new(seed % 10);
        assert_eq!(workload.live(150, End::PowerCut), Verdict::default());
        let disk = workload.disk();
        let mut random = Random::new(seed);
        let files = disk
            .borrow()
            .list()
            .map(|(name, length)| (name.to_owned(), length))
            .collect::<Vec<_>>();
        let files: Vec<_> = files.into_iter().filter(|(_, length)| *length > 0).collect();
        let (name, length) = &files[usize::try_from(random.below(files.len() as u64)).unwrap()];
        let bit = random.below(length * 8);
        disk.borrow_mut().flip(name, usize::try_from(bit).unwrap());
        let verdict = workload.check_now();
        let Verdict { lost, doubled, silent, .. } = verdict;
        assert_eq!((lost, doubled, silent), (0, 0, 0), "seed {seed}: bit {bit} of {name}");
        if verdict.reported > 0 { reported += 1 } else { harmless += 1 }
    }
    assert!(reported > 20 && harmless > 20, "{reported} reported, {harmless} harmless");
}
