//! A ring's answers, and what it leaves behind.

use super::*;
use crate::persist::{
    limits::IN_PLACE_BYTES_MAX,
    memory::Window,
    storage::{Buffer, FileId, Outcome, open_file, run},
};

fn ring(folder: &tempfile::TempDir, bytes: usize) -> (UringStorage, RegionId) {
    let mut storage = UringStorage::open(folder.path()).unwrap();
    let mut window = Window::allocate(bytes).unwrap();
    window.bytes_mut(0, bytes).fill(7);
    let region = storage.register(window.pages().clone()).unwrap();
    (storage, region)
}

fn poll_one(storage: &mut UringStorage) -> Completion {
    let mut completions = Vec::new();
    while completions.is_empty() {
        storage.poll(&mut completions);
        storage.wait(Duration::from_millis(10));
    }
    completions.pop().unwrap()
}

/// Nothing has told the device of the write yet.
#[test]
fn what_was_submitted_is_carried_out_before_a_ring_is_gone() {
    const BYTES: usize = 4 << 20;
    let folder = tempfile::tempdir().unwrap();
    let (mut storage, region) = ring(&folder, BYTES);
    let file = open_file(&mut storage, "file", true).unwrap();
    for part in [0, 1] {
        let (length, start) = (u32::try_from(BYTES / 2).unwrap(), part * BYTES as u64 / 2);
        let buffer = Buffer { region, start, length };
        let write = Operation::Write { file, offset: start, buffer, durable: false };
        storage.submit(Token(part), write).unwrap();
    }
    assert_eq!(storage.inflight.count(), 2);
    drop(storage);
    let bytes = std::fs::read(folder.path().join("file")).unwrap();
    assert!(bytes.len() == BYTES && bytes.iter().all(|byte| *byte == 7), "{}", bytes.len());
}

/// What the directory's file system and this kernel allow is used, and nothing else is given as a reason.
#[test]
fn a_ring_reports_how_it_works() {
    use std::os::unix::fs::OpenOptionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (storage, _) = ring(&folder, 4096);
    let report = storage.report();
    let direct = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .custom_flags(libc::O_DIRECT)
        .open(folder.path().join("direct"));
    assert_eq!(report.direct, direct.is_ok(), "{report}");
    let is_best = report.direct && report.registered_buffers && report.registered_files;
    assert_eq!(report.fallbacks.is_empty(), is_best && storage.regions[0].registered, "{report}");
    assert!(report.to_string().starts_with("io_uring, O_DIRECT "), "{report}");
    assert!(format!("{storage:?}").contains("inflight_count: 0"));
    // Nothing of the trial is left.
    let listed = list_directory(folder.path()).unwrap();
    assert!(listed.iter().all(|file| file.name == "direct"), "{listed:?}");
}

#[test]
fn errors_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (mut storage, region) = ring(&folder, 8192);
    let refused = |storage: &mut UringStorage, operation| run(storage, operation).unwrap_err();
    let name = || "none".to_owned();
    let error = refused(&mut storage, Operation::Open { name: name(), create: false });
    assert_eq!((error.operation, &*error.name), ("open", "none"));
    assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
    let error = refused(&mut storage, Operation::Rename { from: name(), to: "other".to_owned() });
    assert_eq!(error.name, "none to other");
    let error = refused(&mut storage, Operation::Close { file: FileId(9) });
    assert_eq!((&*error.name, error.source.kind()), ("file 9", io::ErrorKind::NotFound));
    let file = open_file(&mut storage, "there", true).unwrap();
    for (region, start, length) in [(region, 1 << 30, 4096), (RegionId(7), 0, 4096)] {
        let buffer = Buffer { region, start, length };
        let error =
            refused(&mut storage, Operation::Write { file, offset: 0, buffer, durable: false });
        assert_eq!((error.operation, &*error.name), ("write", "there"));
    }
    let buffer = Buffer { region, start: 0, length: 8192 };
    let write = Operation::Write { file, offset: 4096, buffer, durable: true };
    assert_eq!(run(&mut storage, write).unwrap(), Outcome::Transferred(8192));
    let read = Operation::Read { file, offset: 8192, buffer };
    assert_eq!(run(&mut storage, read).unwrap(), Outcome::Transferred(4096), "to the end");
}

/// The longest write in place; the next longer one is the ring's.
#[test]
fn long_writes_are_not_carried_out_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let (mut storage, region) = ring(&folder, 1 << 20);
    let file = open_file(&mut storage, "file", true).unwrap();
    while storage.flushes.is_quick() {
        storage.flushes.note(Duration::from_secs(1));
    }
    for (length, inflight) in [(IN_PLACE_BYTES_MAX, 0), (IN_PLACE_BYTES_MAX + 4096, 1)] {
        storage.in_place = InPlace::default();
        let buffer = Buffer { region, start: 0, length };
        let write = Operation::Write { file, offset: 0, buffer, durable: true };
        storage.submit_awaited(Token(1), write).unwrap();
        assert_eq!(storage.inflight.count(), inflight, "{length} bytes");
        let done = poll_one(&mut storage);
        assert_eq!(done.result.unwrap(), Outcome::Transferred(length));
    }
}

/// A server that was alone gets a peer while a long write of it is under way.
#[test]
fn a_thread_that_others_have_begun_to_wait_for_flushes_nothing_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let (mut storage, region) = ring(&folder, 1 << 20);
    let file = open_file(&mut storage, "file", true).unwrap();
    let buffer = Buffer { region, start: 0, length: 1 << 20 };
    let write = Operation::Write { file, offset: 0, buffer, durable: true };
    storage.submit_awaited(Token(1), write).unwrap();
    assert_eq!(storage.inflight.count(), 1, "its bytes are under way, and their flush is to come");
    storage.set_in_place(false);
    let flushed = format!("{:?}", storage.flushes);
    let done = poll_one(&mut storage);
    assert_eq!(done.result.unwrap(), Outcome::Transferred(1 << 20));
    assert_eq!(format!("{:?}", storage.flushes), flushed, "the ring has flushed it");
}
