//! A queue pair's requests in flight, with what to report when they complete.

use crate::fabric::{Opcode, WorkId};

/// One request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InFlight {
    /// What the caller knows it by; `None` for the provider's own messages.
    pub(super) work_id: Option<WorkId>,
    pub(super) opcode: Opcode,
    pub(super) purpose: Purpose,
}

/// What follows when a request succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The caller is told.
    Request,
    /// Nobody is told.
    Quiet,
    /// The peer has heard that this side is there, or that it goes.
    Greeting,
    /// A memory window is open.
    Bind,
}

/// Requests in flight, oldest first, numbered without end. A completion of one says that all
/// before it have completed too.
#[derive(Debug)]
pub(super) struct SendRing {
    entries: Vec<InFlight>,
    /// Number of the oldest in flight, and of the next one.
    head: u32,
    tail: u32,
}

impl SendRing {
    /// A ring with room for at least `capacity` requests.
    pub(super) fn new(capacity: u32) -> Self {
        let len = capacity.next_power_of_two() as usize;
        let empty = InFlight { work_id: None, opcode: Opcode::Write, purpose: Purpose::Request };
        Self { entries: vec![empty; len], head: 0, tail: 0 }
    }

    pub(super) fn len(&self) -> u32 {
        self.tail.wrapping_sub(self.head)
    }

    /// The number the next request will have.
    pub(super) fn next_number(&self) -> u32 {
        self.tail
    }

    /// Remembers a request that was posted. Panics when the ring is full.
    pub(super) fn push(&mut self, request: InFlight) {
        assert!((self.len() as usize) < self.entries.len(), "the send ring overflows");
        let at = self.place(self.tail);
        self.entries[at] = request;
        self.tail = self.tail.wrapping_add(1);
    }

    /// Forgets this request and all before it, and returns it; `None` when it is not in flight.
    pub(super) fn complete(&mut self, number: u32) -> Option<InFlight> {
        if number.wrapping_sub(self.head) >= self.len() {
            return None;
        }
        self.head = number.wrapping_add(1);
        Some(self.entries[self.place(number)])
    }

    /// Forgets the oldest request and returns it.
    pub(super) fn pop(&mut self) -> Option<InFlight> {
        if self.len() == 0 { None } else { self.complete(self.head) }
    }

    fn place(&self, number: u32) -> usize {
        number as usize & (self.entries.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(work_id: u64) -> InFlight {
        InFlight { work_id: Some(WorkId(work_id)), opcode: Opcode::Read, purpose: Purpose::Request }
    }

    #[test]
    fn a_completion_retires_everything_before_it() {
        let mut ring = SendRing::new(3);
        // Across the wrap of the numbers.
        ring.head = u32::MAX - 1;
        ring.tail = u32::MAX - 1;
        let numbers: Vec<u32> = (0..4)
            .map(|work_id| {
                let number = ring.next_number();
                ring.push(request(work_id));
                number
            })
            .collect();
        assert_eq!(ring.len(), 4);
        assert_eq!(ring.complete(numbers[2]), Some(request(2)));
        assert_eq!(ring.complete(numbers[1]), None, "it has been retired already");
        assert_eq!(ring.len(), 1);
        assert_eq!(ring.pop(), Some(request(3)));
        assert_eq!(ring.pop(), None);
    }

    #[test]
    #[should_panic(expected = "overflows")]
    fn a_full_ring_takes_no_more() {
        let mut ring = SendRing::new(2);
        for work_id in 0..3 {
            ring.push(request(work_id));
        }
    }
}
