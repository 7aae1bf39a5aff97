//! Writes carried out at once, by one blocking system call, instead of through the ring.
//!
//! A durable write that somebody waits for has nothing to overlap with, and a disk with a fast cache
//! is done with it sooner than the kernel's workers, which flush for the ring, are scheduled: on a
//! machine whose cores are all busy that costs more than ten times the write. So a write goes in place
//! as long as that takes less than a bound on average; a disk that is slower, or slow for the moment,
//! gets its writes through the ring, and is tried again now and then.
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
        if buffer.length > IN_PLACE_BYTES_MAX
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
