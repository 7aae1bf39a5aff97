//! A manifest that cannot be read: recovery begins with the checkpoint before, as long as the log reaches
//! back to it.

use std::{fs, path::Path, time::Duration};

use super::{Counter, PARTITIONS, checkpoint, push, settle, start};
use crate::persist::{
    checkpoint::CheckpointProgress,
    inspect::needed_files,
    manifest::{data_name, manifest_name},
    persistence::Persistence,
    recovery::{Recovered, RecoveryOptions, recover},
    storage::{Provider, open},
    watermark::WATERMARK_NAME,
};

/// Pushes to every partition so often, then a checkpoint of that. What is no longer needed is removed.
fn go_on(persistence: &mut Persistence, counter: &mut Counter, pushes: u64) {
    for value in 1..=pushes {
        for partition in 0..PARTITIONS {
            let position = push(persistence, counter, partition, value).position;
            settle(persistence, position);
        }
    }
    checkpoint(persistence, counter);
    remove_while(persistence, |persistence| persistence.removal_due().is_some());
}

/// Goes on removing what no checkpoint names.
fn remove_while(persistence: &mut Persistence, goes_on: impl Fn(&Persistence) -> bool) {
    let mut now = Duration::ZERO;
    while goes_on(persistence) {
        now += Duration::from_secs(1);
        assert!(now < Duration::from_secs(60_000), "a file is never removed");
        persistence.remove_old(now);
        persistence.wait(Duration::from_millis(1));
        persistence.poll();
    }
}

fn spoil(directory: &Path, number: u64) {
    let path = directory.join(manifest_name(number));
    let mut bytes = fs::read(&path).unwrap();
    bytes[70] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn look(directory: &Path) -> (Recovered, Counter) {
    let mut counter = Counter::default();
    let mut storage = open(directory, Provider::Buffered).unwrap();
    let options = RecoveryOptions::default();
    let recovered = recover(std::slice::from_mut(&mut storage), options, &mut counter).unwrap();
    (recovered, counter)
}

fn is_sound(recovered: &Recovered) -> bool {
    recovered.damage().count() == 0 && recovered.directories[0].damage.is_empty()
}

#[test]
fn the_older_checkpoint_is_used_where_the_log_reaches_back_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut counter = Counter::default();
    let (mut persistence, _) = start(folder, Provider::Buffered, &mut counter);
    for _ in 0..4 {
        go_on(&mut persistence, &mut counter, 2);
    }
    let position = push(&mut persistence, &mut counter, 1, 5).position;
    settle(&mut persistence, position);
    drop(persistence);
    let manifests = |numbers: [bool; 4]| {
        let is_there = |number: u64| folder.join(manifest_name(number)).exists();
        assert_eq!([1, 2, 3, 4].map(is_there), numbers);
    };
    manifests([false, false, true, true]);
    // A restart keeps both.
    drop(start(folder, Provider::Buffered, &mut Counter::default()));
    manifests([false, false, true, true]);
    spoil(folder, 4);
    let (recovered, again) = look(folder);
    assert!(is_sound(&recovered), "{recovered:?}");
    assert_eq!(again.sums, counter.sums);
    let directory = &recovered.directories[0];
    assert_eq!(directory.manifest.as_ref().map(|used| used.number), Some(3));
    assert_eq!(directory.bad_manifests.len(), 1);
    // Where the older one is not enough, the newer one is what has to be restored.
    let file = folder.join(data_name(directory.manifest.as_ref().unwrap().files[0].number));
    let whole = fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    damaged[20] ^= 1;
    fs::write(&file, damaged).unwrap();
    let (damaged, _) = look(folder);
    for partition in 0..PARTITIONS {
        let found = &damaged.partitions[&windlass_wire::PartitionId(partition)].damage;
        assert_eq!(found[0].file, manifest_name(4), "{found:?}");
        assert!(found.len() > 1 && found[1].file != found[0].file, "{found:?}");
    }
    fs::write(&file, whole).unwrap();
    // Without any the whole log is replayed, which still begins at its beginning.
    spoil(folder, 3);
    let (recovered, again) = look(folder);
    assert!(is_sound(&recovered) && recovered.directories[0].manifest.is_none(), "{recovered:?}");
    assert_eq!(again.sums, counter.sums);
    // It goes on from there, and the next checkpoint is numbered behind the bad ones.
    let mut again = Counter::default();
    let (mut persistence, _) = start(folder, Provider::Buffered, &mut again);
    go_on(&mut persistence, &mut again, 1);
    assert_eq!(persistence.checkpointer().last().map(|last| last.number), Some(5));
    drop(persistence);
    assert_eq!(look(folder).1.sums, again.sums);
}

#[test]
fn turns_without_a_checkpoint_are_not_failures_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut counter = Counter::default();
    let (mut persistence, _) = start(folder.path(), Provider::Buffered, &mut counter);
    push(&mut persistence, &mut counter, 0, 1);
    let now = Duration::from_secs(1);
    for _ in 0..100 {
        let progress = persistence.step_checkpoint(&mut counter, now, 1 << 20);
        assert_eq!(progress, CheckpointProgress::Idle);
    }
    // None is put off, as it would be behind one that failed.
    assert!(persistence.start_checkpoint(&mut counter, now));
}

#[test]
fn what_recovery_needs_is_named_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut counter = Counter::default();
    let (mut persistence, _) = start(folder, Provider::Buffered, &mut counter);
    for _ in 0..3 {
        go_on(&mut persistence, &mut counter, 256);
    }
    assert!(persistence.close(Duration::from_secs(5)));
    drop(persistence);
    let needed = || -> Vec<String> {
        let mut storage = open(folder, Provider::Buffered).unwrap();
        let needed = needed_files(storage.as_mut()).unwrap();
        needed.into_iter().map(|file| file.name).collect()
    };
    let is_named = |name: &str| needed().iter().any(|needed| needed == name);
    assert!(is_named(&manifest_name(3)) && !is_named(&manifest_name(2)), "{:?}", needed());
    assert!(is_named(WATERMARK_NAME), "{:?}", needed());
    assert!(!is_named("another") && needed().iter().any(|name| name.starts_with("segment")));
    // A copy of these alone recovers the same.
    let copy = tempfile::tempdir().unwrap();
    for name in needed() {
        fs::copy(folder.join(&name), copy.path().join(&name)).unwrap();
    }
    let (recovered, again) = look(copy.path());
    assert!(is_sound(&recovered), "{recovered:?}");
    assert_eq!(again.sums, counter.sums);
    let all = fs::read_dir(folder).unwrap().count();
    assert!(needed().len() < all, "segments that nothing refers to are left out of {all} files");
    // One that cannot be read is not left behind: it says that something is missing.
    spoil(folder, 3);
    assert!(is_named(&manifest_name(3)), "{:?}", needed());
}

#[test]
fn a_log_that_does_not_reach_back_to_the_older_checkpoint_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut counter = Counter::default();
    let (mut persistence, _) = start(folder, Provider::Buffered, &mut counter);
    // Some 12 MiB of log in all, of segments of 1 MiB of which there are few.
    for _ in 0..3 {
        go_on(&mut persistence, &mut counter, 256);
    }
    drop(persistence);
    let (recovered, again) = look(folder);
    assert!(is_sound(&recovered), "{recovered:?}");
    assert_eq!(again.sums, counter.sums);
    for number in 1..=3 {
        if folder.join(manifest_name(number)).exists() {
            spoil(folder, number);
        }
    }
    let (recovered, _) = look(folder);
    let damage = &recovered.directories[0].damage;
    assert!(damage.iter().any(|bad| bad.reason.contains("is missing")), "{damage:?}");
    assert!(recovered.damage().count() > 0, "{recovered:?}");
}

/// As after a start with another grouping, where what was there before is in the first checkpoint only.
#[test]
fn a_bad_manifest_beside_a_log_that_was_never_written_to_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut counter = Counter::default();
    let (mut persistence, _) = start(folder, Provider::Buffered, &mut counter);
    counter.sums[1] = 5;
    checkpoint(&mut persistence, &mut counter);
    drop(persistence);
    assert_eq!(look(folder).1.sums, counter.sums);
    spoil(folder, 1);
    let damage = &look(folder).0.directories[0].damage;
    assert!(damage.iter().any(|bad| bad.reason.contains("no log replaces it")), "{damage:?}");
}

/// Where the last checkpoint is a full one no other is kept: with its manifest gone there is nothing to begin
/// with, and whoever is told so is told why.
#[test]
fn a_full_checkpoint_stands_alone_and_its_bad_manifest_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut counter = Counter::default();
    let (mut persistence, _) = start(folder, Provider::Buffered, &mut counter);
    for _ in 0..3 {
        go_on(&mut persistence, &mut counter, 256);
    }
    assert!(persistence.checkpointer().last().is_some_and(|last| last.files.len() == 1));
    let is_there = |number: u64| folder.join(manifest_name(number)).exists();
    // One may be under way, and nothing is due meanwhile.
    remove_while(&mut persistence, |_| is_there(1) || is_there(2));
    drop(persistence);
    assert!(is_there(3));
    spoil(folder, 3);
    let damage = &look(folder).0.directories[0].damage;
    let named = format!("{} cannot be used", manifest_name(3));
    assert!(damage.iter().any(|bad| bad.reason.contains(&named)), "{damage:?}");
}
