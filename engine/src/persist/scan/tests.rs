//! Reading on, over the ends of reads and over what cannot be read.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use super::*;
use crate::persist::hooked::{Hooked, Verdict};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A file whose byte at each offset says something of the offset.
fn file(bytes: usize) -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..bytes).map(|at| (at / 64 % 251).to_le_bytes()[0]).collect();
    std::fs::write(folder.path().join("file"), &content).unwrap();
    (folder, content)
}

/// A storage in which reads of this block fail with an error of the system, and how often one was tried;
/// durable writes are noted and carried out.
struct Failing {
    storage: Box<dyn Storage>,
    tried: Rc<Cell<u32>>,
    written: Rc<RefCell<Vec<(u64, u32)>>>,
}

fn failing(folder: &tempfile::TempDir, bad: Option<u64>, errno: i32, times: u32) -> Failing {
    let tried = Rc::new(Cell::new(0));
    let written = Rc::new(RefCell::new(Vec::new()));
    let (tries, notes) = (Rc::clone(&tried), Rc::clone(&written));
    let storage = Hooked::open(folder.path(), move |operation| match operation {
        Operation::Read { offset, buffer, .. }
            if bad
                .is_some_and(|bad| (*offset..offset + u64::from(buffer.length)).contains(&bad)) =>
        {
            tries.set(tries.get() + 1);
            if tries.get() <= times { Verdict::Errno(errno) } else { Verdict::CarryOut }
        }
        Operation::Write { offset, buffer, durable: true, .. } => {
            notes.borrow_mut().push((*offset, buffer.length));
            Verdict::CarryOut
        }
        _ => Verdict::CarryOut,
    });
    Failing { storage, tried, written }
}

#[test]
fn frames_over_the_end_of_a_read_lie_in_one_piece() {
    let (folder, content) = file(3 * READ_BYTES + 8192);
    let mut storage = failing(&folder, None, 0, 0).storage;
    let mut memory = ScanMemory::new(storage.as_mut()).unwrap();
    let id = storage::open_file(storage.as_mut(), "file", false).unwrap();
    for (begin, limit) in [(0, content.len()), (4096 + 192, content.len() - 100), (64, 5000)] {
        let limit_here = limit as u64;
        let mut reader = Reader::new(storage.as_mut(), &mut memory, id, begin as u64, limit_here);
        let mut at = begin;
        for step in (0..).map(|number| 64 * (1 + number * 7919 % 30_011)) {
            assert_eq!(reader.offset(), at as u64);
            let bytes = reader.bytes(step).unwrap();
            let wanted = step.min(limit - at);
            assert!(bytes.len() >= wanted && bytes.len() <= limit - at, "{at}: {}", bytes.len());
            assert!(bytes == &content[at..at + bytes.len()], "{at}");
            if wanted < step {
                break;
            }
            reader.advance(step);
            at += step;
        }
        assert!(at + 64 * 30_011 >= limit, "it came to the end: {at}");
    }
}

#[test]
fn what_cannot_be_read_is_tried_again_a_few_times() {
    let (folder, _) = file(8192);
    for (errno, times, reads) in [
        (libc::EIO, 1, 2),
        (libc::EIO, READ_ATTEMPTS_MAX - 1, READ_ATTEMPTS_MAX),
        (libc::EIO, READ_ATTEMPTS_MAX, READ_ATTEMPTS_MAX),
        (libc::ENODEV, 1, 1),
        (libc::ENXIO, 1, 1),
    ] {
        let Failing { mut storage, tried, .. } = failing(&folder, Some(0), errno, times);
        let memory = ScanMemory::new(storage.as_mut()).unwrap();
        let id = storage::open_file(storage.as_mut(), "file", false).unwrap();
        let buffer = Buffer { region: memory.regions[0], start: 0, length: 4096 };
        let read = storage::read(storage.as_mut(), id, 0, buffer);
        assert_eq!(tried.get(), reads, "error {errno}, {times} times");
        assert_eq!(read.ok(), (reads > times).then_some(4096), "error {errno}, {times} times");
    }
}

#[test]
fn everything_in_front_of_an_unreadable_block_is_given() {
    let (folder, content) = file(3 * BLOCK_BYTES);
    let Failing { mut storage, tried, .. } = failing(&folder, Some(BLOCK), libc::EIO, u32::MAX);
    let mut memory = ScanMemory::new(storage.as_mut()).unwrap();
    let id = storage::open_file(storage.as_mut(), "file", false).unwrap();
    let mut reader = Reader::new(storage.as_mut(), &mut memory, id, 0, 3 * BLOCK);
    assert_eq!(reader.bytes(64).unwrap(), &content[..BLOCK_BYTES]);
    assert_eq!(tried.get(), 2, "the whole file, and what was read ahead");
    reader.advance(BLOCK_BYTES);
    assert!(reader.bytes(64).is_err());
    assert_eq!(tried.get(), 2 + READ_ATTEMPTS_MAX);
    drop(reader);
    let mut reader = Reader::new(storage.as_mut(), &mut memory, id, 2 * BLOCK, 3 * BLOCK);
    assert_eq!(reader.bytes(64).unwrap(), &content[2 * BLOCK_BYTES..]);
    drop(reader);
    // Where the device is gone nothing is tried again.
    let Failing { mut storage, tried, .. } = failing(&folder, Some(0), libc::ENODEV, u32::MAX);
    let mut memory = ScanMemory::new(storage.as_mut()).unwrap();
    let id = storage::open_file(storage.as_mut(), "file", false).unwrap();
    let mut reader = Reader::new(storage.as_mut(), &mut memory, id, 0, 3 * BLOCK);
    assert!(reader.bytes(64).is_err());
    assert_eq!(tried.get(), 1);
}

#[test]
fn what_is_written_again_is_what_was_read() {
    let (folder, content) = file(3 * BLOCK_BYTES);
    let again = |bad, part: Range<u64>, leave_out| {
        let Failing { mut storage, written, .. } = failing(&folder, bad, libc::EIO, u32::MAX);
        let memory = ScanMemory::new(storage.as_mut()).unwrap();
        let id = storage::open_file(storage.as_mut(), "file", false).unwrap();
        let result = write_again(storage.as_mut(), &memory, id, part, leave_out);
        (result.is_ok(), written.take())
    };
    assert_eq!(again(None, 0..3 * BLOCK, false), (true, vec![(0, 12_288)]));
    assert_eq!(again(None, BLOCK..3 * BLOCK, false), (true, vec![(BLOCK, 8192)]));
    assert_eq!(again(None, BLOCK..BLOCK, false), (true, vec![]));
    let kept = vec![(0, 4096), (2 * BLOCK, 4096)];
    assert_eq!(again(Some(BLOCK), 0..3 * BLOCK, true), (true, kept));
    assert_eq!(again(Some(BLOCK), 0..3 * BLOCK, false), (false, vec![]));
    assert_eq!(again(None, 0..4 * BLOCK, false), (false, vec![(0, 12_288)]), "it is shorter");
    assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), content);
}

/// The memory is registered with each storage once for as long as that is read.
#[test]
fn storages_share_the_memory_of_a_scan() {
    let (folder, content) = file(BLOCK_BYTES);
    let mut shared: Option<(usize, ScanMemory)> = None;
    for at in [0, 0, 1] {
        let mut storage = failing(&folder, None, 0, 0).storage;
        if let Some((last, memory)) = &mut shared
            && *last == at
        {
            // Another storage that stands for the same one.
            memory.attach(storage.as_mut()).unwrap();
        }
        let memory = ScanMemory::for_storage(&mut shared, at, storage.as_mut()).unwrap();
        assert_eq!(memory.regions, [RegionId(0), RegionId(1)], "registered once");
        let id = storage::open_file(storage.as_mut(), "file", false).unwrap();
        let mut reader = Reader::new(storage.as_mut(), memory, id, 0, BLOCK);
        assert_eq!(reader.bytes(64).unwrap(), content);
    }
}
