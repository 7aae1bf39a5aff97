use std::path::Path;

use windlass_wire::{DataType, Epoch, RowRange, TableId};

use super::*;
use crate::persist::{
    commit::Durability,
    limits::BATCH_BYTES_TARGET,
    segment::file_name,
    storage::{Provider, Token, open},
};

const BLOCK: u64 = 4096;

/// Where these logs go on: offsets in a segment and positions in the log differ.
const BASE: u64 = 7 << 20;

const SHAPE: Shape = Shape { covered_max: 1, stamps_max: 1, keys: 0, delta_bytes: 800 };

fn new_log(folder: &Path, log_id: u64) -> (Box<dyn Storage>, Log) {
    let mut storage = open(folder, Provider::Buffered).unwrap();
    let config = LogConfig {
        log_id,
        segment_bytes: 4 << 20,
        segment_bytes_first: 4 << 20,
        bytes_max: 32 << 20,
        segments_spare: 1,
        writes_max: 2,
    };
    let ring = Window::allocate(4 << 20).unwrap();
    let tail = LogTail { position: BASE, ..LogTail::default() };
    let mut log = Log::open(storage.as_mut(), &config, ring, &tail).unwrap();
    log.add_partition(PartitionId(0), Lsn(0));
    log.add_partition(PartitionId(1), Lsn(0));
    (storage, log)
}

fn facts(kind: Kind, partition: u32, durability: Durability) -> Facts {
    Facts {
        kind,
        partition: PartitionId(partition),
        epoch: Epoch(1),
        table: TableId(1),
        dtype: DataType::U64,
        rows: RowRange::new(0, 100),
        tag: 0,
        durability,
    }
}

fn push(log: &mut Log, kind: Kind, partition: u32, durability: Durability) -> Sealed {
    let facts = facts(kind, partition, durability);
    let mut reservation = log.reserve(&facts, SHAPE, Duration::ZERO).unwrap();
    assert_eq!(reservation.lsn(), log.last_lsn(PartitionId(partition)));
    log.fill(&mut reservation).delta().fill(7);
    log.seal(reservation)
}

fn write_all(storage: &mut dyn Storage, log: &mut Log) {
    let mut completions = Vec::new();
    while !log.is_idle() {
        log.flush_all(storage);
        storage.wait(Duration::from_millis(10));
        storage.poll(&mut completions);
        completions.drain(..).for_each(|completion| log.complete(storage, completion));
    }
}

/// The header that was written last, into the open batch.
fn newest_header(log: &mut Log) -> Header {
    let salt = log.batches.back().unwrap().active.salt;
    let cursor = log.ring.tail() - HEADER_BYTES as u64;
    Header::decode(log.ring.bytes_mut(cursor, HEADER_BYTES), salt).unwrap().0
}

#[test]
fn records_from_a_predecessor_are_kept_under_a_salt_of_this_logs_own() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (mut on, mut from) = new_log(folders[0].path(), 5);
    let (mut storage, mut log) = new_log(folders[1].path(), 6);
    let length = SHAPE.length() as u64;
    let start = BASE + Superblock::length(2) as u64 + HEADER_BYTES as u64;
    // The third one begins another batch: the first two end with their block.
    let ends = [start + length, start + 2 * length, start - 64 + BLOCK + 64 + length];
    assert!(64 + 2 * length <= BLOCK);
    let mut before = 0;
    for (end, number) in ends.into_iter().zip(1..) {
        let sent = push(&mut from, Kind::Rows, 1, Durability::Memory);
        let bytes = from.sealed_bytes(&sent);
        let record = Record::decode(bytes, sent.salt).unwrap();
        let wait = if number == 2 { Durability::Sync } else { Durability::Memory };
        let kept = log.append(&record, sent.salt, wait, Duration::ZERO).unwrap();
        assert_eq!((kept.lsn, kept.length as u64), (Lsn(number), length));
        assert_eq!((kept.position, log.end()), (Position(end), Position(end)));
        assert_ne!(kept.salt, sent.salt);
        let again = Record::decode(log.sealed_bytes(&kept), kept.salt).unwrap();
        assert_eq!((again.lsn(), again.delta()), (Lsn(number), &[7; 800][..]));
        let statistics = log.statistics();
        assert_eq!((statistics.records, statistics.delta_bytes), (number, 800 * number));
        assert_eq!(log.batches.back().unwrap().awaited, number == 2, "record {number}");
        assert!(statistics.bytes_written >= before);
        before = statistics.bytes_written;
        let twice = log.append(&record, sent.salt, wait, Duration::ZERO);
        let expected = (PartitionId(1), Lsn(number), Lsn(number));
        let found = match twice {
            Err(ReserveError::Order { partition, last, found }) => (partition, last, found),
            other => panic!("{other:?}"),
        };
        assert_eq!(found, expected, "each record follows the last one");
        if number == 2 {
            log.flush_all(storage.as_mut());
            assert_eq!(log.end(), Position(start - 64 + BLOCK), "padded to a block");
            write_all(storage.as_mut(), &mut log);
            assert_eq!(log.durable(), log.end());
        }
    }
    // Behind records that are not logged goes on who begins anew, and nobody else.
    from.skip(PartitionId(1), Lsn(10), Duration::ZERO).unwrap();
    for (kind, taken) in [(Kind::Rows, false), (Kind::Begin, true)] {
        let sent = push(&mut from, kind, 1, Durability::Memory);
        let record = Record::decode(from.sealed_bytes(&sent), sent.salt).unwrap();
        let kept = log.append(&record, sent.salt, Durability::Memory, Duration::ZERO);
        assert_eq!(kept.is_ok(), taken, "{kind:?}");
    }
    assert_eq!(log.last_lsn(PartitionId(1)), Lsn(12));
    write_all(on.as_mut(), &mut from);
}

#[test]
fn frames_between_records_say_which_numbers_are_skipped_and_where_groups_begin() {
    let folder = tempfile::tempdir().unwrap();
    let (mut storage, mut log) = new_log(folder.path(), 5);
    push(&mut log, Kind::Rows, 0, Durability::Memory);
    let end = log.end().0;
    log.skip(PartitionId(1), Lsn(10), Duration::ZERO).unwrap();
    let header = newest_header(&mut log);
    assert_eq!((header.kind, header.lsn, header.partition), (Kind::Skip, 10, 1));
    assert_eq!((log.last_lsn(PartitionId(1)), log.end().0), (Lsn(10), end + 64));
    assert_eq!(push(&mut log, Kind::Rows, 1, Durability::Memory).lsn, Lsn(11));
    // A group begins where its first record does.
    let first = log.end().0;
    log.begin_group();
    push(&mut log, Kind::Rows, 0, Durability::Memory);
    push(&mut log, Kind::Rows, 1, Durability::Sync);
    assert!(!log.batches.back().unwrap().awaited || log.is_in_group());
    let end = log.end_group(Duration::ZERO).unwrap();
    let header = newest_header(&mut log);
    assert_eq!((header.kind, header.lsn, end), (Kind::Whole, first, log.end()));
    log.remove_partition(PartitionId(1));
    assert_eq!((log.last_lsn(PartitionId(0)), log.last_lsn(PartitionId(1))), (Lsn(2), Lsn(0)));
    write_all(storage.as_mut(), &mut log);
}

#[test]
fn batches_are_written_when_they_are_due_or_long_and_nothing_is_being_filled() {
    let folder = tempfile::tempdir().unwrap();
    let (mut storage, mut log) = new_log(folder.path(), 5);
    let at = Duration::from_millis;
    push(&mut log, Kind::Rows, 0, Durability::Interval(100));
    push(&mut log, Kind::Rows, 0, Durability::Interval(900));
    assert_eq!(log.checkpoint_position(), (BASE, log.active.unwrap().sequence));
    log.flush(storage.as_mut(), at(99));
    assert!(!log.is_writing() && log.open_bytes() > 0);
    let late = log.reserve(&facts(Kind::Rows, 0, Durability::Sync), SHAPE, at(99)).unwrap();
    log.flush(storage.as_mut(), at(101));
    assert!(!log.is_writing(), "a record is being filled");
    let _ = log.abandon(late);
    log.flush(storage.as_mut(), at(101));
    assert!(log.is_writing());
    assert_eq!(log.checkpoint_position().0, log.end().0, "behind what is being written");
    write_all(storage.as_mut(), &mut log);
    assert_eq!(log.checkpoint_position(), (log.durable().0, log.active.unwrap().sequence));
    // Nobody waits for these: they are written once they are long.
    while log.open_bytes() < BATCH_BYTES_TARGET as u64 {
        assert!(!log.is_writing());
        push(&mut log, Kind::Rows, 0, Durability::Memory);
        log.flush(storage.as_mut(), at(200));
        if log.is_writing() {
            break;
        }
    }
    assert!(log.is_writing() && log.end().0 - log.durable().0 >= BATCH_BYTES_TARGET as u64);
    write_all(storage.as_mut(), &mut log);
}

#[test]
fn the_longest_record_fits_a_segment_and_half_of_the_ring() {
    let folder = tempfile::tempdir().unwrap();
    let (_storage, mut log) = new_log(folder.path(), 5);
    let around = |partitions| Superblock::length(partitions) as u64 + 2 * BLOCK;
    assert_eq!(log.record_bytes_max() as u64, (2 << 20) - around(2));
    (2..1000).for_each(|partition| log.add_partition(PartitionId(partition), Lsn(0)));
    assert!(around(1000) > around(2));
    assert_eq!(log.record_bytes_max() as u64, (2 << 20) - around(1000));
}

#[test]
fn a_log_stops_for_the_first_reason_and_names_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let (mut storage, mut log) = new_log(folder.path(), 5);
    push(&mut log, Kind::Rows, 0, Durability::Sync);
    write_all(storage.as_mut(), &mut log);
    assert!(log.poison().is_none());
    push(&mut log, Kind::Rows, 0, Durability::Sync);
    log.flush_all(storage.as_mut());
    let (durable, offset) = (log.durable(), log.durable().0 - BASE);
    let token = Token::new(OWNER, log.first_batch);
    let short = Completion { token, result: Ok(Outcome::Transferred(4095)) };
    log.complete(storage.as_mut(), short);
    let error = StorageError {
        operation: "write",
        name: "another".to_owned(),
        source: std::io::ErrorKind::Other.into(),
    };
    log.stop(Poison::new(Trouble::Write, 1, error));
    let poison = log.poison().unwrap();
    assert_eq!((poison.trouble, &*poison.file), (Trouble::ShortWrite, &*file_name(0)));
    assert_eq!((poison.offset, log.durable()), (offset, durable));
    let refused = log.reserve(&facts(Kind::Rows, 0, Durability::Sync), SHAPE, Duration::ZERO);
    assert!(matches!(refused, Err(ReserveError::Poisoned(_))), "{refused:?}");
}
