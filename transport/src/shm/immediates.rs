//! The ring that carries immediates from one writer to one reader through memory of the reader.
//! A slot may be written only while a receive is posted for it, so nothing is ever overwritten.
//! The writer is foreign to the reader: what it claims is checked.

use super::sync::{AtomicU32, AtomicU64, Ordering};

/// The shared words. Counters run from zero and never wrap in practice (64 bits).
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring<'page> {
    /// Immediates written so far; the writer's.
    pub(super) produced: &'page AtomicU64,
    /// Receives posted so far; the reader's.
    pub(super) posted: &'page AtomicU64,
    /// The immediates, a power of two of them.
    pub(super) slots: &'page [AtomicU32],
}

impl<'page> Ring<'page> {
    #[inline]
    fn slot(&self, position: u64) -> &'page AtomicU32 {
        let mask = self.slots.len() as u64 - 1;
        #[expect(clippy::cast_possible_truncation, reason = "masked by the number of slots")]
        &self.slots[(position & mask) as usize]
    }
}

/// The writer's own state.
#[derive(Debug, Default)]
pub(super) struct Producer {
    produced: u64,
}

impl Producer {
    /// Whether the reader has posted a receive that is not used yet.
    #[inline]
    pub(super) fn has_receive(&self, ring: Ring<'_>) -> bool {
        // Acquire: the reader has done with the slot that this receive frees.
        ring.posted.load(Ordering::Acquire) > self.produced
    }

    /// Writes an immediate; the caller has seen a receive. Everything written before is visible to
    /// the reader that takes it.
    #[inline]
    pub(super) fn push(&mut self, ring: Ring<'_>, immediate: u32) {
        ring.slot(self.produced).store(immediate, Ordering::Relaxed);
        self.produced += 1;
        ring.produced.store(self.produced, Ordering::Release);
    }
}

/// The reader's own state.
#[derive(Debug, Default)]
pub(super) struct Consumer {
    consumed: u64,
    posted: u64,
}

/// The writer claims more immediates than there were receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overrun;

impl Consumer {
    /// Posts receives; false when there is no room for all of them.
    #[inline]
    #[must_use]
    pub(super) fn post(&mut self, ring: Ring<'_>, count: u32) -> bool {
        let posted = self.posted + u64::from(count);
        if posted - self.consumed > ring.slots.len() as u64 {
            return false;
        }
        self.posted = posted;
        ring.posted.store(posted, Ordering::Release);
        true
    }

    /// Takes the oldest immediate, if there is one.
    #[inline]
    pub(super) fn take(&mut self, ring: Ring<'_>) -> Result<Option<u32>, Overrun> {
        if self.posted == self.consumed {
            return Ok(None);
        }
        let produced = ring.produced.load(Ordering::Acquire);
        if produced == self.consumed {
            return Ok(None);
        }
        if produced < self.consumed || produced > self.posted {
            return Err(Overrun);
        }
        let immediate = ring.slot(self.consumed).load(Ordering::Relaxed);
        self.consumed += 1;
        Ok(Some(immediate))
    }

    /// Whether `take` would find something, a lie included.
    #[inline]
    pub(super) fn is_ready(&self, ring: Ring<'_>) -> bool {
        self.posted != self.consumed && ring.produced.load(Ordering::Acquire) != self.consumed
    }
}
