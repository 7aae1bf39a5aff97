//! Writes carried out at once, by one blocking system call, instead of through the ring.
//!
//! A durable write that somebody waits for has nothing to overlap with, and a disk with a fast cache
//! is done with it sooner than the kernel's workers, which flush for the ring, are scheduled: on a
//! machine whose cores are all busy that costs more than ten times the write. So a write goes in place
//! as long as that takes less than a bound on average; a disk that is slower, or slow for the moment,
//! gets its writes through the ring, and is tried again now and then.
//!
//! That bounds the mean, not the one write that a disk takes a second for. So a shard whose thread keeps
//! leases with other servers has no call in place: they would take it for dead meanwhile.
#![allow(unsafe_code)]

use std::{
    io::{self, IoSlice},
    time::{Duration, Instant},
};

use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use super::UringStorage;
use crate::persist::{
    limits::{IN_PLACE_BYTES_MAX, IN_PLACE_MEAN_MAX},
    storage::{Completion, Operation, Outcome, Token},
};

/// Writes through the ring after the mean has grown too long, until one is tried in place again.
const WRITES_PER_TRIAL: u32 = 256;

/// How long calls in place have taken lately.
#[derive(Debug, Default)]
pub(super) struct InPlace {
    mean: Duration,
    /// Writes that still go through the ring.
    avoided: u32,
}

impl InPlace {
    /// Whether the next write goes in place.
    pub(super) fn is_next(&mut self) -> bool {
        self.avoided = self.avoided.saturating_sub(1);
        self.avoided == 0
    }

    /// Whether calls have been short lately.
    pub(super) fn is_quick(&self) -> bool {
        self.avoided == 0
    }

    pub(super) fn note(&mut self, took: Duration) {
        // One that took long says little of the next: a few of them do.
        self.mean = (self.mean * 7 + took.min(IN_PLACE_MEAN_MAX * 4)) / 8;
        if self.mean > IN_PLACE_MEAN_MAX {
            self.avoided = WRITES_PER_TRIAL;
            // One quick trial is enough to come back.
            self.mean = IN_PLACE_MEAN_MAX / 2;
        }
    }
}

impl UringStorage {
    /// Carries a durable write out now, if that is what is best; gives it back otherwise.
    pub(super) fn write_in_place(
        &mut self,
        token: Token,
        operation: Operation,
    ) -> Result<(), Operation> {
        let Operation::Write { file, offset, buffer, durable: true } = &operation else {
            return Err(operation);
        };
        // Behind what the ring holds it would wait, and everything else with it.
        if !self.may_block
            || buffer.length > IN_PLACE_BYTES_MAX
            || self.inflight.count() > 0
            || !self.in_place.is_next()
        {
            return Err(operation);
        }
        let (Ok(open), Ok((pointer, _))) = (self.open_file(*file), self.locate(*buffer)) else {
            // What is wrong is told by the way that such things take.
            return Err(operation);
        };
        // SAFETY: `locate` found so many bytes in pages that are mapped; they do not change while
        // the log has them written, which is until this call is over.
        let bytes = unsafe { std::slice::from_raw_parts(pointer, buffer.length as usize) };
        let begun = Instant::now();
        let flags = ReadWriteFlags::DSYNC;
        let result = loop {
            match pwritev2(&open.file, &[IoSlice::new(bytes)], *offset, flags) {
                Err(Errno::INTR) => {}
                result => break result,
            }
        };
        self.in_place.note(begun.elapsed());
        let result = match result {
            Ok(count) => Ok(Outcome::Transferred(u32::try_from(count).unwrap_or(0))),
            Err(error) => Err(self.failed(&operation, io::Error::from(error))),
        };
        self.ready.push(Completion { token, result });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::persist::{
        memory::Window,
        storage::{Buffer, Storage, open_file},
    };

    /// What is under way when a write that somebody waits for has been handed over.
    fn inflight_after_a_write(may_block: bool, length: u32) -> usize {
        let directory = tempfile::tempdir().unwrap();
        let mut storage = UringStorage::open(directory.path()).unwrap();
        let window = Window::allocate(1 << 20).unwrap();
        let region = storage.register(window.pages().clone()).unwrap();
        let file = open_file(&mut storage, "file", true).unwrap();
        storage.set_in_place(may_block);
        let buffer = Buffer { region, start: 0, length };
        let write = Operation::Write { file, offset: 0, buffer, durable: true };
        storage.submit_awaited(Token(5), write).unwrap();
        let inflight = storage.inflight.count();
        let (mut completions, flushed) = (Vec::new(), storage.flushes.mean);
        while completions.is_empty() {
            storage.poll(&mut completions);
            storage.wait(Duration::from_millis(10));
        }
        assert_eq!(completions[0].result.as_ref().unwrap(), &Outcome::Transferred(length));
        assert!(may_block || storage.flushes.mean == flushed, "nothing was flushed in place");
        inflight
    }

    #[test]
    fn a_thread_that_others_wait_for_never_waits_for_the_disk() {
        for length in [4096, 1 << 20] {
            assert_eq!(inflight_after_a_write(false, length), 1, "{length} bytes");
        }
        assert_eq!(inflight_after_a_write(true, 4096), 0, "in place");
    }

    #[test]
    fn a_slow_disk_is_left_to_the_ring_and_tried_again() {
        let mut in_place = InPlace::default();
        let (quick, slow) = (Duration::from_micros(20), Duration::from_millis(8));
        for _ in 0..100 {
            assert!(in_place.is_next());
            in_place.note(quick);
        }
        in_place.note(slow);
        assert!(in_place.is_next(), "one long write is an exception");
        in_place.note(quick);
        let slow_ones = (0..10).take_while(|_| {
            in_place.note(slow);
            in_place.is_quick()
        });
        assert!(slow_ones.count() < 4);
        assert!(!in_place.is_next());
        let through_ring = (0..WRITES_PER_TRIAL).take_while(|_| !in_place.is_next()).count();
        assert!(through_ring > 200, "{through_ring}");
        in_place.note(quick);
        assert!(in_place.is_next());
    }
}
