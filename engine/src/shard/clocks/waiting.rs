//! The queue of pulls that wait for a slower worker.

use std::{collections::VecDeque, time::Instant};

use windlass_wire::{RequestHeader, SessionId};

use crate::limits::{WAITING_KEYS_MAX, WAITING_PULLS_MAX};

/// A pull, taken from its mailbox.
#[derive(Debug)]
pub(super) struct WaitingPull {
    pub(super) slot: usize,
    pub(super) session: SessionId,
    pub(super) number: u32,
    pub(super) header: RequestHeader,
    pub(super) keys: Vec<u64>,
    pub(super) since: Instant,
}

/// All that wait, oldest first.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) pulls: VecDeque<WaitingPull>,
    key_count: usize,
    spare_keys: Vec<Vec<u64>>,
}

impl Waiting {
    /// Whether a pull with so many keys may wait too.
    pub(super) fn has_room(&self, key_count: usize) -> bool {
        self.pulls.len() < WAITING_PULLS_MAX && self.key_count + key_count <= WAITING_KEYS_MAX
    }

    /// Pulls of a session that wait.
    pub(super) fn count_of(&self, slot: usize) -> usize {
        self.pulls.iter().filter(|pull| pull.slot == slot).count()
    }

    /// A copy of keys, in a buffer of an earlier pull if there is one.
    pub(super) fn copy_keys(&mut self, keys: &[u64]) -> Vec<u64> {
        let mut copy = self.spare_keys.pop().unwrap_or_default();
        copy.extend_from_slice(keys);
        copy
    }

    pub(super) fn push(&mut self, pull: WaitingPull) {
        self.key_count += pull.keys.len();
        self.pulls.push_back(pull);
    }

    /// Forgets a pull that does not wait any more.
    pub(super) fn end(&mut self, mut keys: Vec<u64>) {
        self.key_count -= keys.len();
        if keys.capacity() > 0 && self.spare_keys.len() < SPARE_KEYS_MAX {
            keys.clear();
            self.spare_keys.push(keys);
        }
    }
}

/// Key buffers kept for later pulls.
const SPARE_KEYS_MAX: usize = 16;
