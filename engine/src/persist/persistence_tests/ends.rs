//! Where a log ends, and what must not pass for its end: blocks that cannot be read, damage, files of
//! another version, files that are gone.

use std::{
    cell::{Cell, RefCell},
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use windlass_wire::Checksum;

use super::{
    Counter, PARTITIONS, checkpoint,
    hooked::{Hooked, Verdict},
    push, settle, start, start_on,
};
use crate::persist::{
    frame::{FORMAT_VERSION, word32},
    limits::{READ_ATTEMPTS_MAX, WATERMARK_INTERVAL},
    persistence::Persistence,
    recovery::{Recovered, RecoveryError, RecoveryOptions, recover},
    segment::file_name,
    storage::{Operation, Provider, Storage, open},
};

const BLOCK: u64 = 4096;

/// A log of so many pushes to each partition, each a write of its own; with or without an end in order.
fn write(directory: &Path, pushes: u64, close: bool) -> Counter {
    let mut counter = Counter::default();
    let (mut persistence, _) = start(directory, Provider::Buffered, &mut counter);
    go_on(&mut persistence, &mut counter, pushes);
    if close {
        assert!(persistence.close(Duration::from_secs(5)));
    }
    counter
}

fn go_on(persistence: &mut Persistence, counter: &mut Counter, pushes: u64) {
    for value in 1..=pushes {
        for partition in 0..PARTITIONS {
            let position = push(persistence, counter, partition, value).position;
            settle(persistence, position);
        }
    }
}

/// What recovery finds, and the sums that it leads to.
fn look_on(
    mut storage: Box<dyn Storage>,
    accept_damage: bool,
) -> Result<(Recovered, Counter), RecoveryError> {
    let mut counter = Counter::default();
    let options = RecoveryOptions { accept_damage };
    let recovered = recover(std::slice::from_mut(&mut storage), options, &mut counter)?;
    Ok((recovered, counter))
}

fn look(directory: &Path) -> Result<(Recovered, Counter), RecoveryError> {
    look_on(open(directory, Provider::Buffered).unwrap(), false)
}

/// Everything that was found to be bad, of whomever.
fn damage(recovered: &Recovered) -> String {
    let of_log = recovered.directories.iter().flat_map(|directory| &directory.damage);
    let of_log = of_log.map(|bad| format!("{}: {}", bad.place.file, bad.reason));
    of_log.chain(recovered.damage().map(ToString::to_string)).collect::<Vec<_>>().join("\n")
}

/// Storage on which reads of a block of a file fail so many times.
fn unreadable(directory: &Path, name: &str, block: u64, times: u32) -> Box<dyn Storage> {
    // Files are numbered as they are opened.
    let (names, left) = (RefCell::new(Vec::new()), Cell::new(times));
    let name = name.to_owned();
    Hooked::open(directory, move |operation| {
        match operation {
            Operation::Open { name, .. } => names.borrow_mut().push(name.clone()),
            Operation::Read { file, offset, buffer }
                if names.borrow()[file.0 as usize] == name
                    && (*offset..offset + u64::from(buffer.length)).contains(&(block * BLOCK))
                    && left.get() > 0 =>
            {
                left.set(left.get() - 1);
                return Verdict::Fail(std::io::ErrorKind::Other);
            }
            _ => {}
        }
        Verdict::CarryOut
    })
}

fn patch(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn newest_segment(directory: &Path) -> PathBuf {
    // The first one is the one that is written: these logs are short.
    directory.join(file_name(0))
}

#[test]
fn a_read_error_is_never_a_torn_tail() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let counter = write(folder, 3, false);
    // The superblock, a batch in the middle, the last batch, and what was never written.
    let name = file_name(0);
    for block in [0, 4, 12, 200] {
        // An error that passes is read over.
        let times = READ_ATTEMPTS_MAX - 1;
        let (recovered, again) = look_on(unreadable(folder, &name, block, times), false).unwrap();
        assert_eq!((damage(&recovered), again.sums), (String::new(), counter.sums), "{block}");
        // One that stays is damage, and nothing is made of it.
        let storage = unreadable(folder, &name, block, u32::MAX);
        let (recovered, _) = look_on(storage, false).unwrap();
        let damage = damage(&recovered);
        assert!(damage.contains("cannot be read") && damage.contains(&name), "{block}: {damage}");
        // All records of the first segment are found by their batches; of others nobody knows.
        assert!((block == 0) == (recovered.damage().count() == 0), "{block}: {damage}");
    }
    // Whoever accepts that loses the one record, and no other.
    let (_, again) = look_on(unreadable(folder, &name, 4, u32::MAX), true).unwrap();
    let mut expected = counter.sums;
    expected[3] -= 1;
    assert_eq!(again.sums, expected);
    assert_eq!(look(folder).unwrap().1.sums, counter.sums, "looking changes nothing");
}

#[test]
fn a_flipped_bit_in_the_only_superblock_loses_nothing_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    let counter = write(folder.path(), 2, false);
    let path = newest_segment(folder.path());
    patch(&path, |bytes| bytes[20] ^= 1);
    let (recovered, again) = look(folder.path()).unwrap();
    assert!(damage(&recovered).contains("segment-00000.wlog"), "{}", damage(&recovered));
    assert_eq!(again.sums, counter.sums, "the batches tell whose they are");
    // Also of a segment in which nothing else was ever written.
    for block in 1..20 {
        patch(&path, |bytes| bytes[block * 4096..][..4096].fill(0));
    }
    assert!(damage(&look(folder.path()).unwrap().0).contains("segment-00000.wlog"));
}

/// Makes the frame at an offset one of a later version, with a checksum that holds.
fn make_later_version(path: &Path, offset: usize) {
    patch(path, |bytes| {
        let header = &mut bytes[offset..offset + 64];
        let salt = word32(header, 0) ^ Checksum::of(&header[4..]).0;
        header[14] = FORMAT_VERSION + 1;
        let checksum = Checksum::of(&header[4..]).0 ^ salt;
        header[..4].copy_from_slice(&checksum.to_le_bytes());
    });
}

#[test]
fn a_frame_of_another_version_is_refused_by_name_whatever_is_accepted() {
    for (name, offset) in [
        ("segment-00000.wlog", 0),
        ("segment-00000.wlog", 4096),
        ("segment-00000.wlog", 4096 + 64),
        ("watermark", 4096),
        ("manifest-0000000001.wman", 0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut counter = Counter::default();
        let (mut persistence, _) = start(folder.path(), Provider::Buffered, &mut counter);
        if name.starts_with("manifest") {
            checkpoint(&mut persistence, &mut counter);
        }
        go_on(&mut persistence, &mut counter, 1);
        drop(persistence);
        make_later_version(&folder.path().join(name), offset);
        let storage = open(folder.path(), Provider::Buffered).unwrap();
        let refusal = look_on(storage, true).expect_err("it is refused").to_string();
        assert!(refusal.contains(name) && refusal.contains("version 3"), "{refusal}");
    }
}

#[test]
fn a_segment_of_another_version_beside_a_log_that_is_whole_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 1, true);
    let other = folder.path().join(file_name(7));
    fs::copy(folder.path().join(file_name(0)), &other).unwrap();
    make_later_version(&other, 0);
    let storage = open(folder.path(), Provider::Buffered).unwrap();
    let refusal = look_on(storage, true).expect_err("it is refused").to_string();
    assert!(refusal.contains(&file_name(7)) && refusal.contains("version 3"), "{refusal}");
}

#[test]
fn a_missing_end_is_told_with_how_much() {
    for all in [false, true] {
        for zeroed in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            // Segments of 1 MiB: it ends in the second one.
            let counter = write(folder, 80, true);
            for number in 0..2 {
                let path = folder.join(file_name(number));
                if (number == 0 && !all) || !path.exists() {
                    continue;
                }
                match zeroed {
                    true => patch(&path, |bytes| bytes.fill(0)),
                    false => fs::remove_file(&path).unwrap(),
                }
            }
            let (recovered, again) = look(folder).unwrap();
            let found = damage(&recovered);
            assert!(found.contains("bytes of what was acknowledged are missing"), "{found}");
            assert!(again.sums < counter.sums);
            // Accepted, the log goes on, and what is pushed from now on stays.
            let mut storage = open(folder, Provider::Buffered).unwrap();
            let options = RecoveryOptions { accept_damage: true };
            let mut kept = Counter::default();
            let recovered =
                recover(std::slice::from_mut(&mut storage), options, &mut kept).unwrap();
            let mut persistence = super::go_on_from(storage, &recovered, &mut kept);
            go_on(&mut persistence, &mut kept, 5);
            drop(persistence);
            let (recovered, again) = look(folder).unwrap();
            assert_eq!((damage(&recovered), again.sums), (String::new(), kept.sums));
        }
    }
}

#[test]
fn a_missing_end_names_the_file_it_was_in() {
    let folder = tempfile::tempdir().unwrap();
    // Each life goes on in a segment of its own; the second ends in its first batch.
    write(folder.path(), 3, true);
    for pushes in [1, 3] {
        let mut counter = Counter::default();
        let (mut persistence, _) = start(folder.path(), Provider::Buffered, &mut counter);
        go_on(&mut persistence, &mut counter, pushes);
        assert!(persistence.close(Duration::from_secs(5)));
        drop(persistence);
        let used = |block: &[u8]| block.iter().any(|byte| *byte != 0);
        let written = |name: &String| {
            let path = folder.path().join(name);
            fs::read(&path).is_ok_and(|bytes| used(&bytes)).then(|| path.metadata().unwrap())
        };
        let names = (0..3).map(file_name);
        let last = names.max_by_key(|name| written(name).map(|file| file.modified().unwrap()));
        let last = last.unwrap();
        let whole = fs::read(folder.path().join(&last)).unwrap();
        for blocks in 1..8 {
            let end = whole.chunks(4096).rposition(used).unwrap() + 1;
            patch(&folder.path().join(&last), |bytes| {
                bytes[end.saturating_sub(blocks) * 4096..end * 4096].fill(0);
            });
            let found = damage(&look(folder.path()).unwrap().0);
            assert!(found.contains("acknowledged are missing"), "{blocks} of {end}: {found}");
            // A file of which nothing is left may never have been used.
            assert!(found.contains(&last) || blocks >= end, "{blocks} of {end}: {found}");
            fs::write(folder.path().join(&last), &whole).unwrap();
        }
    }
}

#[test]
fn a_lost_watermark_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 2, true);
    let path = folder.path().join("watermark");
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let (recovered, _) = look(folder.path()).unwrap();
    assert!(recovered.damage().count() > 0, "{}", damage(&recovered));
    assert!(damage(&recovered).contains("watermark: it is missing"), "{}", damage(&recovered));
    fs::write(&path, vec![7; bytes.len()]).unwrap();
    assert!(damage(&look(folder.path()).unwrap().0).contains("watermark: "));
    // Of its two slots one is enough.
    for slot in 0..2 {
        fs::write(&path, &bytes).unwrap();
        patch(&path, |bytes| bytes[slot * 4096 + 70] ^= 1);
        assert_eq!(damage(&look(folder.path()).unwrap().0), "");
    }
}

/// Nothing in the log says that the last write was whole: the watermark does, soon after it and on close.
#[test]
fn the_last_write_is_witnessed_when_the_log_rests() {
    for close in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut counter = Counter::default();
        let (mut persistence, _) = start(folder.path(), Provider::Buffered, &mut counter);
        go_on(&mut persistence, &mut counter, 1);
        if close {
            assert!(persistence.close(Duration::from_secs(5)));
        } else {
            let mut due = None;
            for _ in 0..100 {
                persistence.poll();
                due = persistence.log.deadline().or(due);
                persistence.flush(due.unwrap_or_default());
                persistence.wait(Duration::from_millis(1));
            }
            assert_eq!(due, Some(WATERMARK_INTERVAL), "a shard that sleeps wakes up for it");
            assert_eq!(persistence.log.deadline(), None);
        }
        drop(persistence);
        let path = newest_segment(folder.path());
        patch(&path, |bytes| {
            // Behind the superblock and a batch for each of the four pushes.
            assert!(bytes[4 * 4096..][..64].iter().any(|&byte| byte != 0));
            bytes[4 * 4096 + 300] ^= 1;
        });
        let (recovered, _) = look(folder.path()).unwrap();
        assert!(recovered.damage().count() > 0, "close {close}: {:?}", recovered.directories);
    }
}

#[test]
fn starts_use_up_no_segments() {
    let folder = tempfile::tempdir().unwrap();
    let counter = write(folder.path(), 1, false);
    let mut tails = Vec::new();
    for _ in 0..100 {
        let (persistence, recovered) =
            start(folder.path(), Provider::Buffered, &mut Counter::default());
        assert!(persistence.log.segment_count() <= 4, "{}", persistence.log.segment_count());
        tails.push((
            recovered.directories[0].tail.live.len(),
            recovered.directories[0].tail.position,
        ));
    }
    tails.dedup();
    assert_eq!(tails.len(), 1, "{tails:?}");
    let mut again = Counter::default();
    let (mut persistence, _) = start(folder.path(), Provider::Buffered, &mut again);
    assert_eq!(again.sums, counter.sums);
    go_on(&mut persistence, &mut again, 1);
    drop(persistence);
    assert_eq!(look(folder.path()).unwrap().1.sums, again.sums);
}

/// A segment of which only the superblock arrived holds nothing, and is used again.
#[test]
fn a_segment_with_a_superblock_only_is_free() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 1, false);
    patch(&newest_segment(folder.path()), |bytes| bytes[4096..].fill(0));
    // As before the batches were acknowledged.
    fs::remove_file(folder.path().join("watermark")).unwrap();
    let fresh = tempfile::tempdir().unwrap();
    drop(start(fresh.path(), Provider::Buffered, &mut Counter::default()));
    fs::copy(fresh.path().join("watermark"), folder.path().join("watermark")).unwrap();
    let (recovered, _) = look(folder.path()).unwrap();
    assert_eq!(damage(&recovered), "");
    let tail = &recovered.directories[0].tail;
    assert_eq!((tail.live.len(), tail.position), (0, 0), "{tail:?}");
}

/// The disk has room for one segment and not for a spare one: the log goes on until it needs that one, and
/// then stops with the disk's reason.
#[test]
fn a_disk_without_room_for_a_spare_segment_stops_the_log_with_that_reason() {
    let folder = tempfile::tempdir().unwrap();
    let made = Rc::new(Cell::new(0));
    let made_now = Rc::clone(&made);
    let removed = Rc::new(Cell::new(0));
    let removed_now = Rc::clone(&removed);
    let storage = Hooked::open(folder.path(), move |operation| match operation {
        Operation::Allocate { .. } => {
            made_now.set(made_now.get() + 1);
            match made_now.get() {
                1 => Verdict::CarryOut,
                _ => Verdict::Fail(std::io::ErrorKind::StorageFull),
            }
        }
        // It takes its time for what is left of the second one.
        Operation::Remove { .. } => {
            removed_now.set(removed_now.get() + 1);
            if removed_now.get() < 4 { Verdict::Hold } else { Verdict::CarryOut }
        }
        _ => Verdict::CarryOut,
    });
    let mut counter = Counter::default();
    let (mut persistence, _) = start_on(storage, &mut counter);
    assert_eq!(made.get(), 2, "a second one was tried");
    // Whoever waits for an operation of its own next must not meet the end of this one.
    assert!(removed.get() >= 4, "its removal is still under way");
    let mut pushes = 0;
    while persistence.log.poison().is_none() {
        let position = push(&mut persistence, &mut counter, 0, 1).position;
        while persistence.poll() < position && persistence.log.poison().is_none() {
            persistence.flush(Duration::ZERO);
            persistence.wait(Duration::from_millis(10));
        }
        persistence.flush(Duration::ZERO);
        pushes += 1;
        assert!(pushes < 1000, "one segment takes no more");
    }
    let poison = persistence.log.poison().unwrap().to_string();
    assert!(poison.contains("the disk is full"), "{poison}");
    assert!(pushes > 100, "{pushes}");
    assert_eq!(persistence.log.deadline(), None, "a log that has stopped keeps nobody awake");
    drop(persistence);
    assert_eq!(look(folder.path()).unwrap().1.sums, counter.sums);
}

/// A cache may hold what a failed sync never brought to the disk, and count it as written.
#[test]
fn what_no_sync_is_known_of_is_written_again_before_it_is_built_upon() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 3, false);
    let written = Rc::new(RefCell::new(Vec::new()));
    let written_now = Rc::clone(&written);
    let storage = Hooked::open(folder.path(), move |operation| {
        if let Operation::Write { offset, buffer, durable: true, .. } = operation {
            written_now.borrow_mut().push((*offset, u64::from(buffer.length)));
        }
        Verdict::CarryOut
    });
    let before = fs::read(newest_segment(folder.path())).unwrap();
    look_on(storage, false).unwrap();
    let after = fs::File::open(newest_segment(folder.path())).unwrap();
    let mut bytes = vec![0; before.len()];
    after.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, before);
    // A superblock and twelve batches of a block each; the last one says that those before are there.
    assert_eq!(*written.borrow(), [(12 * BLOCK, BLOCK)]);
}

/// The file that a log goes on in is not one that still holds records, whatever numbers are free below.
#[test]
fn no_segment_is_made_over_one_that_holds_records() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut counter = write(folder, 3, false);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_spare = path.extension().is_some_and(|extension| extension == "wlog");
        if is_spare && path != newest_segment(folder) {
            fs::remove_file(path).unwrap();
        }
    }
    fs::rename(newest_segment(folder), folder.join(file_name(7))).unwrap();
    let mut found = Counter::default();
    let (mut persistence, _) = start(folder, Provider::Buffered, &mut found);
    assert_eq!(found.sums, counter.sums);
    go_on(&mut persistence, &mut counter, 2);
    drop(persistence);
    let (recovered, again) = look(folder).unwrap();
    assert_eq!((damage(&recovered), again.sums), (String::new(), counter.sums));
}
