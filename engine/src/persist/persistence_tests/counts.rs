//! What a log and a checkpointer say of themselves, to the byte, and what lies on disk for it.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use windlass_wire::{Epoch, Lsn, PartitionId, TableId};

use super::{
    Counter, PARTITIONS, checkpoint, facts,
    hooked::{Hooked, Verdict},
    push, settle, start, start_on,
};
use crate::persist::{
    checkpoint::{BlockHead, CheckpointSource, Extent, Next},
    commit::{Durability, Position},
    frame::{Header, Kind, Salt},
    inspect::inspect_log,
    limits::STAGING_BYTES,
    log::{LogStatistics, ReserveError},
    manifest::data_name,
    persistence::Persistence,
    record::Shape,
    storage::{Operation, Provider, open},
};

const MIB: u64 = 1 << 20;
/// Superblock and header of the first batch.
const BEGINNING: u64 = 4096 + 64;
/// What a record of `push` takes: 128 bytes in front of 800 of delta, in whole alignments.
const RECORD: u64 = 960;

/// Writes a record of so many bytes of delta, when there is room for it, and waits for the disk.
fn write(persistence: &mut Persistence, delta_bytes: usize) {
    let shape = Shape { delta_bytes, ..Shape::default() };
    let sealed = loop {
        match persistence.log.reserve(&facts(Durability::Sync), shape, Duration::ZERO) {
            Ok(reservation) => break persistence.log.seal(reservation),
            Err(ReserveError::Full(_)) => {
                persistence.flush(Duration::ZERO);
                persistence.poll();
                persistence.wait(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    };
    settle(persistence, sealed.position);
}

/// Storage whose durable writes are held while it is closed.
fn gate(
    folder: &tempfile::TempDir,
) -> (Box<dyn crate::persist::storage::Storage>, Arc<AtomicBool>) {
    let is_closed = Arc::new(AtomicBool::new(false));
    let closed = Arc::clone(&is_closed);
    let storage = Hooked::open(folder.path(), move |operation| match operation {
        Operation::Write { durable: true, .. } if closed.load(Ordering::Relaxed) => Verdict::Hold,
        _ => Verdict::CarryOut,
    });
    (storage, is_closed)
}

#[test]
fn a_log_counts_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let mut counter = Counter::default();
    let (mut persistence, _) = start(folder.path(), Provider::Buffered, &mut counter);
    assert_eq!(persistence.log.segment_count(), 2);
    assert!(persistence.log.is_idle() && !persistence.log.is_preparing());
    assert_eq!((persistence.log.deadline(), persistence.log.kept_bytes()), (None, 0));
    let first = push(&mut persistence, &mut counter, 0, 1);
    let second = push(&mut persistence, &mut counter, 1, 2);
    let end = BEGINNING + 2 * RECORD;
    assert_eq!((first.lsn, first.length, first.page_offset), (Lsn(1), 960, BEGINNING));
    assert_eq!((first.position, second.position), (Position(BEGINNING + RECORD), Position(end)));
    assert_eq!(second.page_offset, BEGINNING + RECORD);
    let log = &persistence.log;
    assert_eq!((log.end(), log.open_bytes()), (Position(end), end));
    assert_eq!((log.ring_use(), log.kept_bytes()), ((end, 2 * MIB), MIB));
    assert_eq!(log.deadline(), Some(Duration::ZERO));
    assert!(!log.is_idle() && !log.is_writing());
    persistence.flush(Duration::ZERO);
    assert!(persistence.log.is_writing());
    assert_eq!((persistence.log.end(), persistence.log.open_bytes()), (Position(8192), 0));
    assert!(!persistence.has_polled());
    settle(&mut persistence, Position(8192));
    assert!(persistence.has_polled() && persistence.log.is_idle());
    assert_eq!(persistence.log.durable(), Position(8192));
    let statistics = LogStatistics {
        records: 2,
        writes: 1,
        bytes_written: 8192,
        padding_bytes: 8192 - end,
        delta_bytes: 1600,
        prepared_bytes: 2 * MIB,
        refused: 0,
    };
    assert_eq!(persistence.log.statistics(), statistics);
}

#[test]
fn a_log_says_how_full_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut counter = Counter::default();
    // Of eight segments. A record takes one, and leaves ten blocks of it.
    let (mut persistence, _) = start(folder.path(), Provider::Buffered, &mut counter);
    for records in 1..=7 {
        write(&mut persistence, 1_000_000);
        let log = &persistence.log;
        assert_eq!(log.kept_bytes(), records * MIB);
        assert_eq!(log.wants_checkpoint(), records > 4, "{records}");
        assert_eq!(log.is_nearly_full(), records >= 4, "{records}");
        assert_eq!(log.is_all_but_full(), records >= 6, "{records}");
        let room = if records < 4 { (4 - records) * MIB + 10 * 4096 } else { 0 };
        assert_eq!(log.room_bytes(), room, "{records}");
    }
    assert!(persistence.log.has_ring_room(2 * MIB) && !persistence.log.has_ring_room(2 * MIB + 1));
}

#[test]
fn records_that_do_not_fit_behind_each_other_take_two_segments() {
    let folder = tempfile::tempdir().unwrap();
    let mut counter = Counter::default();
    let (mut persistence, _) = start(folder.path(), Provider::Buffered, &mut counter);
    let shape = Shape { delta_bytes: 600_000, ..Shape::default() };
    let mut last = Position(0);
    for number in 1..=2 {
        let facts = facts(Durability::Sync);
        let reservation = persistence.log.reserve(&facts, shape, Duration::ZERO).unwrap();
        last = persistence.log.seal(reservation).position;
        assert_eq!(persistence.log.kept_bytes(), number * MIB);
    }
    settle(&mut persistence, last);
    assert_eq!(persistence.log.statistics().writes, 2);
}

#[test]
fn a_log_says_whether_it_has_to_wait_for_a_segment() {
    let folder = tempfile::tempdir().unwrap();
    let (is_closed, mut counter) = (Rc::new(Cell::new(false)), Counter::default());
    let closed = Rc::clone(&is_closed);
    let storage = Hooked::open(folder.path(), move |operation| match operation {
        Operation::Allocate { .. } if closed.get() => Verdict::Hold,
        _ => Verdict::CarryOut,
    });
    let (mut persistence, _) = start_on(storage, &mut counter);
    is_closed.set(true);
    write(&mut persistence, 1_000_000);
    // It ends with 540,672 bytes of its segment left, of which 77,824 are for what frames a record.
    write(&mut persistence, 500_000);
    assert!(persistence.log.is_preparing());
    let fits = 540_672 - 77_824;
    assert!(persistence.log.has_segment_room(fits, fits));
    assert!(!persistence.log.has_segment_room(fits + 1, fits + 1));
    is_closed.set(false);
    while persistence.log.is_preparing() {
        persistence.flush(Duration::ZERO);
        persistence.poll();
        persistence.wait(Duration::from_millis(1));
    }
    assert!(persistence.log.has_segment_room(fits + 1, fits + 1));
}

/// A small batch waits for the write before it: only that one's end changes anything.
#[test]
fn a_log_with_a_write_under_way_has_no_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let (storage, is_closed) = gate(&folder);
    let mut counter = Counter::default();
    let (mut persistence, _) = start_on(storage, &mut counter);
    is_closed.store(true, Ordering::Relaxed);
    push(&mut persistence, &mut counter, 0, 1);
    persistence.flush(Duration::ZERO);
    let last = push(&mut persistence, &mut counter, 0, 2);
    assert_eq!(persistence.log.deadline(), None);
    assert!(!persistence.close(Duration::from_millis(100)), "the disk does not answer");
    is_closed.store(false, Ordering::Relaxed);
    settle(&mut persistence, last.position);
    assert!(persistence.close(Duration::from_secs(5)));
}

#[test]
fn a_write_that_the_storage_does_not_take_is_not_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (refuses, mut counter) = (Rc::new(Cell::new(false)), Counter::default());
    let refused = Rc::clone(&refuses);
    let storage = Hooked::open(folder.path(), move |operation| match operation {
        Operation::Write { durable: true, .. } if refused.get() => Verdict::Refuse,
        _ => Verdict::CarryOut,
    });
    let (mut persistence, _) = start_on(storage, &mut counter);
    refuses.set(true);
    let last = push(&mut persistence, &mut counter, 0, 1);
    persistence.flush(Duration::ZERO);
    let statistics = persistence.log.statistics();
    assert_eq!((statistics.bytes_written, statistics.writes), (0, 0));
    refuses.set(false);
    settle(&mut persistence, last.position);
    let statistics = persistence.log.statistics();
    assert_eq!((statistics.bytes_written, statistics.writes), (8192, 1));
}

/// Who waits for an acknowledgement has its batch written in place, where that is quick.
#[test]
fn batches_are_awaited_when_a_record_in_them_is() {
    use Durability::{Interval, Memory, Sync};
    for (levels, awaited) in [
        ([Memory, Memory], 0),
        ([Interval(1), Memory], 0),
        ([Sync, Memory], 1),
        ([Memory, Sync], 1),
    ] {
        for is_group in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let storage = Hooked::open(folder.path(), |_: &Operation| Verdict::CarryOut);
            let notes = Arc::clone(&storage.notes);
            let (mut persistence, _) = start_on(storage, &mut Counter::default());
            if is_group {
                persistence.log.begin_group();
            }
            let mut last = Position(0);
            for level in levels {
                let reserved =
                    persistence.log.reserve(&facts(level), Shape::default(), Duration::ZERO);
                last = persistence.log.seal(reserved.unwrap()).position;
            }
            if is_group {
                last = persistence.log.end_group(Duration::ZERO).unwrap();
            }
            persistence.flush_all();
            settle(&mut persistence, last);
            let found = notes.awaited.load(Ordering::Relaxed);
            assert_eq!(found, awaited, "{levels:?}, in a group: {is_group}");
        }
    }
}

#[test]
fn a_group_ends_behind_the_frame_that_says_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut counter = Counter::default();
    let (mut persistence, _) = start(folder.path(), Provider::Buffered, &mut counter);
    persistence.log.begin_group();
    assert!(persistence.log.is_in_group());
    push(&mut persistence, &mut counter, 0, 1);
    push(&mut persistence, &mut counter, 1, 2);
    let end = persistence.log.end_group(Duration::ZERO).unwrap();
    assert_eq!(end, Position(BEGINNING + 2 * RECORD + 64));
    assert_eq!(persistence.log.end(), end);
    assert!(!persistence.log.is_in_group());
    persistence.log.begin_group();
    assert_eq!(persistence.log.end_group(Duration::ZERO).unwrap(), end, "nothing was in it");
    settle(&mut persistence, end);
    assert!(persistence.close(Duration::from_secs(5)));
    drop(persistence);
    let (mut storage, mut frames) = (open(folder.path(), Provider::Buffered).unwrap(), Vec::new());
    let summary = inspect_log(storage.as_mut(), &mut |frame| frames.push(frame.clone())).unwrap();
    assert_eq!((summary.frames, summary.records, summary.end), (5, 2, 8192));
    let kinds: Vec<Kind> = frames.iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds, [Kind::Batch, Kind::Rows, Kind::Rows, Kind::Whole, Kind::Pad]);
    let texts: Vec<String> = frames.iter().map(ToString::to_string).collect();
    let name = "segment-00000.wlog";
    assert_eq!(
        texts,
        [
            format!("{name}+4096      Batch       number 1 of 4096 bytes, durable up to 0"),
            format!(
                "{name}+4160      Rows        partition 0 lsn 1 epoch 1 table 1 rows 0+100 u64 \
                 delta 800 B, covers 1, clocks 1, worker 0 at 1"
            ),
            format!(
                "{name}+5120      Rows        partition 1 lsn 1 epoch 1 table 1 rows 0+100 u64 \
                 delta 800 B, covers 1, clocks 1, worker 0 at 2"
            ),
            format!("{name}+6080      Whole       the group from position 4160 on"),
            format!("{name}+6144      Pad         2048 bytes"),
        ]
    );
    assert_eq!(summary.to_string(), "log 0x5: 2 records in 5 frames, 4096 bytes, ends at 8192");
}

/// The frames of a checkpoint's data file: kind, offset, and what of the end says how many blocks there are.
fn frames_of(folder: &tempfile::TempDir, number: u64) -> (Vec<(Kind, usize)>, u64, usize) {
    let bytes = std::fs::read(folder.path().join(data_name(number))).unwrap();
    let (mut frames, mut blocks, mut at) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        let (header, length) = Header::decode(&bytes[at..], Salt::NONE).unwrap();
        if header.kind == Kind::CheckpointEnd {
            assert_eq!(header.lsn, number);
            blocks = header.row_count;
        }
        frames.push((header.kind, at));
        at += length;
    }
    (frames, blocks, bytes.len())
}

#[test]
fn a_checkpoint_is_taken_one_at_a_time_and_lies_as_it_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let mut counter = Counter::default();
    let (mut persistence, _) = start(folder.path(), Provider::Buffered, &mut counter);
    assert_eq!(persistence.checkpointer().last(), None);
    assert!(persistence.start_checkpoint(&mut counter, Duration::ZERO));
    assert!(!persistence.start_checkpoint(&mut counter, Duration::ZERO), "one is being taken");
    assert!(persistence.is_checkpointing());
    let mut now = Duration::ZERO;
    while persistence.is_checkpointing() {
        now += Duration::from_millis(10);
        persistence.poll();
        persistence.step_checkpoint(&mut counter, now, 1 << 20);
        persistence.wait(Duration::from_millis(1));
    }
    use Kind::{CheckpointBlock, CheckpointEnd, CheckpointHeader, Pad};
    let (frames, blocks, length) = frames_of(&folder, 1);
    let block = |number: usize| (CheckpointBlock, 64 + 128 * number);
    assert_eq!(
        frames,
        [
            (CheckpointHeader, 0),
            block(0),
            block(1),
            block(2),
            block(3),
            (CheckpointEnd, 576),
            (Pad, 640)
        ]
    );
    assert_eq!((blocks, length), (u64::from(PARTITIONS), 4096));
    let manifest = persistence.checkpointer().last().unwrap().clone();
    assert_eq!((manifest.number, manifest.files.len()), (1, 1));
    assert_eq!((manifest.files[0].length, manifest.files[0].blocks), (4096, 4));
    assert_eq!(persistence.checkpointer().bytes_written(), 4096 + manifest.length() as u64);
}

/// One block that is written at once: the checkpoint ends with nothing in its buffer.
#[derive(Default)]
struct Alone {
    is_copied: bool,
}

const ALONE: usize = 300 << 10;

impl CheckpointSource for Alone {
    fn partitions(&mut self) -> Vec<PartitionId> {
        vec![PartitionId(0)]
    }

    fn begin(&mut self, _: PartitionId, _: Extent) {}

    fn next(&mut self, _: PartitionId, buffer: &mut [u8]) -> Next {
        assert!(buffer.as_ptr().addr().is_multiple_of(64));
        if std::mem::replace(&mut self.is_copied, true) {
            // Both headers and the end fit around what would fill it.
            assert_eq!(buffer.len(), STAGING_BYTES - 128);
            return Next::Done;
        }
        assert_eq!(buffer.len(), STAGING_BYTES - 64 - 128);
        buffer[..ALONE].fill(3);
        let (table, lsn, epoch) = (TableId(1), Lsn(0), Epoch(4));
        Next::Block(BlockHead { table, section: 0, index: 0, detail: 0, lsn, epoch, length: ALONE })
    }
}

#[test]
fn a_checkpoint_may_end_with_an_empty_buffer() {
    let folder = tempfile::tempdir().unwrap();
    let (mut persistence, _) = start(folder.path(), Provider::Buffered, &mut Counter::default());
    checkpoint(&mut persistence, &mut Alone::default());
    use Kind::{CheckpointBlock, CheckpointEnd, CheckpointHeader, Pad};
    let (frames, blocks, length) = frames_of(&folder, 1);
    let end = 76 * 4096;
    let expected = [
        (CheckpointHeader, 0),
        (CheckpointBlock, 64),
        (Pad, 128 + ALONE),
        (CheckpointEnd, end),
        (Pad, end + 64),
    ];
    assert_eq!((frames, blocks, length), (expected.to_vec(), 1, end + 4096));
    let manifest = persistence.checkpointer().last().unwrap();
    assert_eq!(manifest.partitions[0].epoch, Epoch(4));
}
