//! Long durable writes that somebody waits for. The device takes the bytes while the shard sums the
//! next ones, and when they are there one short blocking call has it keep them. The ring's own durable
//! writes leave that to the kernel's workers, who wait for a core longer than it takes.
//!
//! ```text
//!  shard   | sum A | submit A | sum B          | submit B | flush A, acknowledge | sum C ..
//!  device             | A's bytes               | B's bytes ..
//! ```
//!
//! Where flushes take long, all of it is left to the ring.

use std::time::Instant;

use rustix::{fs::fdatasync, io::Errno};

use super::{
    UringStorage,
    inflight::{Flush, Slot},
};
use crate::persist::{
    limits::OVERLAP_BYTES_MIN,
    storage::{Completion, FileId, Operation, Outcome, Token},
};

/// An operation that is over.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) slot: Slot,
    /// As the ring reports it.
    pub(super) result: i32,
}

impl UringStorage {
    /// Hands a long durable write over in two parts, if that is what is best; gives it back otherwise.
    pub(super) fn write_overlapped(
        &mut self,
        token: Token,
        operation: Operation,
    ) -> Result<(), Operation> {
        let Operation::Write { buffer, durable: true, .. } = &operation else {
            return Err(operation);
        };
        let is_long = u64::from(buffer.length) >= OVERLAP_BYTES_MIN;
        if !(self.may_block && is_long) || self.inflight.is_full() || !self.flushes.is_next() {
            return Err(operation);
        }
        self.start(Slot { token, operation, paths: [None, None], flush: Flush::Later });
        Ok(())
    }

    /// What has completed, unless its bytes are only there and still have to be kept.
    pub(super) fn hold_back(&mut self, slot: Slot, result: i32) -> Option<Done> {
        let Operation::Write { buffer, .. } = &slot.operation else {
            return Some(Done { slot, result });
        };
        let all = i32::try_from(buffer.length).ok();
        match slot.flush {
            Flush::Later if Some(result) == all => {
                self.written.push(slot);
                None
            }
            // The flush stands for the write.
            Flush::Now if result >= 0 => Some(Done { slot, result: all.unwrap_or(result) }),
            Flush::None | Flush::Later | Flush::Now => Some(Done { slot, result }),
        }
    }

    /// Has the device keep what was written: one call for each file, however many writes that were.
    pub(super) fn flush_written(&mut self, completions: &mut Vec<Completion>) {
        let mut written = std::mem::take(&mut self.written);
        while let Some(file) = written.first().and_then(file_of) {
            let is_quick = self.may_block && self.flushes.is_quick();
            let flushed = is_quick.then(|| self.flush_in_place(file));
            for slot in written.extract_if(.., |slot| file_of(slot) == Some(file)) {
                let Some(flushed) = flushed else {
                    self.start(Slot { flush: Flush::Now, ..slot });
                    continue;
                };
                let result = match (flushed, &slot.operation) {
                    (Ok(()), Operation::Write { buffer, .. }) => {
                        Ok(Outcome::Transferred(buffer.length))
                    }
                    (Ok(()), _) => Ok(Outcome::Done),
                    (Err(error), operation) => Err(self.failed(operation, error.into())),
                };
                completions.push(Completion { token: slot.token, result });
            }
        }
        self.written = written;
    }

    fn flush_in_place(&mut self, file: FileId) -> Result<(), Errno> {
        let begun = Instant::now();
        let result = loop {
            let open = self.open_file(file).map_err(|_| Errno::BADF)?;
            match fdatasync(&open.file) {
                Err(Errno::INTR) => {}
                result => break result,
            }
        };
        self.flushes.note(begun.elapsed());
        result
    }
}

fn file_of(slot: &Slot) -> Option<FileId> {
    match slot.operation {
        Operation::Write { file, .. } => Some(file),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::persist::{
        memory::Window,
        storage::{Buffer, Storage, open_file},
    };

    const LENGTH: usize = 512 << 10;

    const _: () = assert!(LENGTH as u64 >= 2 * OVERLAP_BYTES_MIN);

    /// Two long durable writes beside each other, and what came of them.
    fn write_two(storage: &mut UringStorage) -> Vec<Completion> {
        let mut window = Window::allocate(LENGTH).unwrap();
        window.bytes_mut(0, LENGTH).fill(7);
        let region = storage.register(window.pages().clone()).unwrap();
        let file = open_file(storage, "file", true).unwrap();
        let length = u32::try_from(LENGTH / 2).unwrap();
        for part in [0, 1] {
            let start = part * u64::from(length);
            let buffer = Buffer { region, start, length };
            let write = Operation::Write { file, offset: start, buffer, durable: true };
            storage.submit_awaited(Token(part), write).unwrap();
        }
        let mut completions = Vec::new();
        while completions.len() < 2 {
            storage.poll(&mut completions);
            storage.wait(Duration::from_millis(10));
        }
        assert!(storage.written.is_empty() && storage.inflight.count() == 0);
        for completion in &completions {
            let outcome = completion.result.as_ref().unwrap();
            assert_eq!(*outcome, Outcome::Transferred(length));
        }
        completions
    }

    #[test]
    fn long_writes_complete_once_when_they_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut storage = UringStorage::open(directory.path()).unwrap();
        let completions = write_two(&mut storage);
        let mut tokens: Vec<u64> = completions.iter().map(|done| done.token.0).collect();
        tokens.sort_unstable();
        assert_eq!(tokens, [0, 1]);
        let bytes = std::fs::read(directory.path().join("file")).unwrap();
        assert!(bytes.len() == LENGTH && bytes.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn a_disk_that_became_slow_while_they_were_written_flushes_by_the_ring() {
        let directory = tempfile::tempdir().unwrap();
        let mut storage = UringStorage::open(directory.path()).unwrap();
        let window = Window::allocate(LENGTH).unwrap();
        let region = storage.register(window.pages().clone()).unwrap();
        let file = open_file(&mut storage, "file", true).unwrap();
        let length = u32::try_from(LENGTH).unwrap();
        let buffer = Buffer { region, start: 0, length };
        let write = Operation::Write { file, offset: 0, buffer, durable: true };
        storage.submit_awaited(Token(5), write).unwrap();
        while storage.flushes.is_quick() {
            storage.flushes.note(Duration::from_secs(1));
        }
        let mut completions = Vec::new();
        while completions.is_empty() {
            storage.poll(&mut completions);
            storage.wait(Duration::from_millis(10));
        }
        assert_eq!(*completions[0].result.as_ref().unwrap(), Outcome::Transferred(length));
        assert_eq!(completions[0].token, Token(5));
    }
}
