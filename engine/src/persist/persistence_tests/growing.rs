//! The files of a log: few and short ones at first, more and longer ones as it is used.

use std::{path::Path, time::Duration};

use windlass_wire::{Lsn, PartitionId};

use super::{facts, start};
use crate::persist::{
    checkpoint::CheckpointConfig,
    commit::Durability,
    limits::SEGMENT_BYTES_FIRST,
    log::{Full, LogConfig, ReserveError, Sealed},
    memory::Window,
    persistence::Persistence,
    record::Shape,
    recovery::RecoveredDirectory,
    storage::{Provider, open},
};

const KIB: u64 = 1 << 10;

fn open_log(directory: &Path, config: &LogConfig) -> Persistence {
    let storage = open(directory, Provider::Buffered).unwrap();
    let ring = Window::allocate(8 << 20).unwrap();
    let checkpoint = CheckpointConfig::default();
    let found = RecoveredDirectory::default();
    let mut persistence = Persistence::open(storage, config, checkpoint, ring, &found).unwrap();
    persistence.log.add_partition(PartitionId(0), Lsn(0));
    persistence
}

fn small() -> LogConfig {
    LogConfig {
        log_id: 5,
        segment_bytes: 1024 * KIB,
        segment_bytes_first: 64 * KIB,
        bytes_max: 32 * 1024 * KIB,
        segments_spare: 1,
        writes_max: 2,
    }
}

/// Lengths of the segment files, as they were made. One that was begun just now has none.
fn lengths(directory: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(directory).unwrap();
    let entries = entries.map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .filter(|entry| entry.file_name().to_str().unwrap().starts_with("segment-"))
        .map(|entry| (entry.file_name(), entry.metadata().unwrap().len()))
        .collect();
    files.sort();
    files.into_iter().map(|(_, length)| length).filter(|length| *length > 0).collect()
}

fn turn(persistence: &mut Persistence, now: Duration) {
    persistence.flush(now);
    persistence.poll();
    persistence.wait(Duration::from_millis(1));
    persistence.poll();
}

/// A record of so many bytes, as soon as there is room for it; why there was none before.
fn write(persistence: &mut Persistence, bytes: usize, now: Duration) -> (Sealed, Option<Full>) {
    let shape = Shape { delta_bytes: bytes, ..Shape::default() };
    let mut missing = None;
    loop {
        match persistence.log.reserve(&facts(Durability::Sync), shape, now) {
            Ok(reservation) => return (persistence.log.seal(reservation), missing),
            Err(ReserveError::Full(full)) => missing = Some(full),
            Err(error) => panic!("{error}"),
        }
        turn(persistence, now);
    }
}

/// Writes so many bytes, and as many milliseconds pass as it is told for each MiB.
fn fill(persistence: &mut Persistence, bytes: u64, ms_per_mib: u64) {
    for number in 0..bytes / (16 * KIB) {
        let now = Duration::from_micros(number * ms_per_mib * 1000 / 64);
        write(persistence, 15 << 10, now);
        turn(persistence, now);
    }
}

#[test]
fn a_new_log_takes_little_space() {
    let directory = tempfile::tempdir().unwrap();
    let mut persistence = open_log(directory.path(), &LogConfig::default());
    for _ in 0..100 {
        turn(&mut persistence, Duration::ZERO);
    }
    let found = lengths(directory.path());
    assert!((2..=3).contains(&found.len()), "{found:?}");
    assert!(found.iter().all(|length| *length == SEGMENT_BYTES_FIRST), "{found:?}");
}

#[test]
fn segments_that_are_filled_fast_are_followed_by_longer_ones() {
    let (slow, fast) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(&mut open_log(slow.path(), &small()), 1024 * KIB, 10_000);
    fill(&mut open_log(fast.path(), &small()), 1024 * KIB, 20);
    let (slow, fast) = (lengths(slow.path()), lengths(fast.path()));
    assert!(slow.iter().all(|length| *length == 64 * KIB), "{slow:?}");
    assert!(slow.len() < 25, "{slow:?}");
    // Four times as long as the one before at most.
    assert!(fast.contains(&(256 * KIB)) && fast.contains(&(1024 * KIB)), "{fast:?}");
    assert!(fast.len() < 10, "{fast:?}");
}

#[test]
fn long_records_find_room_in_a_log_of_short_segments() {
    let directory = tempfile::tempdir().unwrap();
    let mut persistence = open_log(directory.path(), &small());
    let (_, missing) = write(&mut persistence, 300 << 10, Duration::ZERO);
    assert_eq!(missing, Some(Full::Preparing), "it is made for the record");
    assert!(lengths(directory.path()).contains(&(512 * KIB)));
    // From now on the next one is there.
    for _ in 0..20 {
        turn(&mut persistence, Duration::ZERO);
    }
    assert!(persistence.log.has_segment_room(400 << 10, 300 << 10));
    let (_, missing) = write(&mut persistence, 300 << 10, Duration::ZERO);
    assert_eq!(missing, None);
    let last = write(&mut persistence, 900 << 10, Duration::ZERO).0;
    super::settle(&mut persistence, last.position);
    assert!(persistence.close(Duration::from_secs(5)));
    drop(persistence);
    // Segments of any length are taken up again.
    let before = lengths(directory.path());
    let (persistence, recovered) =
        start(directory.path(), Provider::Buffered, &mut super::Counter::default());
    assert_eq!(recovered.partitions[&PartitionId(0)].lsn, Lsn(3));
    drop(persistence);
    assert!(before.iter().all(|length| lengths(directory.path()).contains(length)));
}

/// Where short segments take all of the bound, a record that needs a longer one still finds room.
#[test]
fn a_long_record_finds_room_where_short_segments_take_all_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let config = LogConfig { bytes_max: 2048 * KIB, ..small() };
    let mut persistence = open_log(directory.path(), &config);
    fill(&mut persistence, 1400 * KIB, 10_000);
    let last = write(&mut persistence, 900 << 10, Duration::ZERO).0;
    super::settle(&mut persistence, last.position);
}

#[test]
fn the_bound_grows_at_once_and_shrinks_behind_a_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let mut persistence = open_log(directory.path(), &small());
    fill(&mut persistence, 3 * 1024 * KIB, 10_000);
    let room = |persistence: &Persistence| persistence.log.room_bytes() / (1024 * KIB);
    let before = room(&persistence);
    persistence.log.set_bytes_max(64 * 1024 * KIB);
    assert_eq!(room(&persistence), before + 32);
    persistence.log.set_bytes_max(2 * 1024 * KIB);
    assert_eq!(room(&persistence), before + 32, "what is kept has to fit");
    assert!(!persistence.log.is_nearly_full());
    let durable = persistence.poll();
    persistence.log.truncate(durable);
    assert!(room(&persistence) < 8, "{}", room(&persistence));
    assert!(!persistence.log.is_nearly_full());
}
