//! Messages whose completion waits for chains, for rounds, or until the rows they pulled are in place.

use windlass_wire::Status;

/// One message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    /// Slot of the session, and the life it had then.
    pub(super) slot: usize,
    pub(super) life: u64,
    pub(super) number: u32,
    /// Records not committed and rows not placed yet, and one until the message's own turn is over.
    pub(super) left: u32,
    pub(super) status: Status,
    pub(super) detail: u32,
}

/// All of them, by number.
#[derive(Debug, Default)]
pub(in crate::shard) struct Waits {
    waits: Vec<Wait>,
    free: Vec<u32>,
}

impl Waits {
    #[inline]
    pub(super) fn insert(&mut self, wait: Wait) -> u32 {
        match self.free.pop() {
            Some(id) => {
                self.waits[id as usize] = wait;
                id
            }
            None => {
                self.waits.push(wait);
                u32::try_from(self.waits.len() - 1).unwrap_or(u32::MAX)
            }
        }
    }

    /// Messages that wait.
    pub(in crate::shard) fn count(&self) -> u64 {
        (self.waits.len() - self.free.len()) as u64
    }

    /// Whether a message came by this life of a slot.
    pub(in crate::shard) fn is_of(&self, id: u32, slot: usize, life: u64) -> bool {
        let wait = &self.waits[id as usize];
        (wait.slot, wait.life) == (slot, life)
    }

    #[inline]
    pub(in crate::shard) fn add(&mut self, id: u32) {
        self.waits[id as usize].left += 1;
    }

    /// One thing less to wait for; the message when it was the last.
    #[inline]
    pub(super) fn end_one(&mut self, id: u32, status: Status, detail: u32) -> Option<Wait> {
        let wait = &mut self.waits[id as usize];
        wait.left -= 1;
        if status != Status::Done && wait.status == Status::Done {
            (wait.status, wait.detail) = (status, detail);
        }
        if wait.left > 0 {
            return None;
        }
        self.free.push(id);
        Some(*wait)
    }
}
