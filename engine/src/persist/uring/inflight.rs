//! What the kernel holds: one slot per operation, with the paths it points to.

use std::ffi::CString;

use crate::persist::{
    limits,
    storage::{Operation, Token},
};

/// Slots, reused through a free list.
#[derive(Debug)]
pub(super) struct Inflight {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
}

/// One operation under way.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) token: Token,
    pub(super) operation: Operation,
    /// Paths that the submission points to: kept until the completion.
    pub(super) paths: [Option<CString>; 2],
    pub(super) flush: Flush,
}

/// Which part of a durable write is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flush {
    /// All of the operation.
    None,
    /// Its bytes; the device is told to keep them once they are there.
    Later,
    /// Only that: its bytes are there.
    Now,
}

impl Inflight {
    pub(super) fn new() -> Self {
        let count = limits::OPERATIONS_MAX;
        Self { slots: (0..count).map(|_| None).collect(), free: (0..count).rev().collect() }
    }

    pub(super) fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// The slot's number, which is the submission's user data. Panics when full.
    pub(super) fn start(&mut self, slot: Slot) -> usize {
        let index = self.free.pop().expect("the caller asked is_full");
        self.slots[index] = Some(slot);
        index
    }

    /// Takes back what could not be submitted, or has completed.
    pub(super) fn finish(&mut self, user_data: u64) -> Option<Slot> {
        let index = usize::try_from(user_data).ok()?;
        let slot = self.slots.get_mut(index)?.take()?;
        self.free.push(index);
        Some(slot)
    }

    pub(super) fn slot(&self, index: usize) -> Option<&Slot> {
        self.slots.get(index)?.as_ref()
    }
}
