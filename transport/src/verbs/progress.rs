//! What completions mean: for the caller's requests, and for the provider's own two messages, the
//! greeting that makes the passive side ready and the farewell that lets a peer know at once.

use std::time::Instant;

use super::{
    abi::{IBV_WC_RECV_RDMA_WITH_IMM, IBV_WC_SUCCESS, IBV_WC_WITH_IMM, ibv_wc},
    datapath::{POLL_MAX, Verbs, completion_status},
    send_ring::Purpose,
    slot::{Slot, Stage, WorkRequest},
    transport::VerbsTransport,
};
use crate::fabric::{Completion, CompletionStatus, Opcode, QueuePairId, QueuePairState, WorkId};

/// Polls without a completion between two looks at the device's events, which cost a system call.
const POLLS_PER_EVENT_CHECK: usize = 1024;

/// Polls of a software device without a completion between two yields, for those who poll without
/// [`crate::spin::Spin`]. Its work is done by kernel threads of the pollers' processors: who only spins
/// keeps them waiting for scheduler ticks, whole milliseconds of which a push then takes several.
const POLLS_PER_YIELD: usize = 64;

/// Words of the provider's own messages.
#[derive(Debug)]
pub(super) struct Greeting;

impl Greeting {
    /// The active side is connected.
    pub(super) const HERE: u32 = 0x574c_0001;
    /// The sender disconnects.
    pub(super) const FAREWELL: u32 = 0x574c_0002;
}

impl VerbsTransport {
    /// Reports completions, at most as many as there is room for.
    pub(super) fn progress(&mut self, completions: &mut [Completion]) -> usize {
        let mut count = 0;
        if self.departures.are_under_way() {
            self.end_departures();
        }
        while count < completions.len()
            && let Some(completion) = self.ready.pop_front()
        {
            completions[count] = completion;
            count += 1;
        }
        self.poll_count = self.poll_count.wrapping_add(1);
        // A different queue first each time, so that a busy one does not starve the others.
        for turn in 0..self.queues.len() {
            let queue = (self.poll_count + turn) % self.queues.len();
            count += self.take(queue, &mut completions[count..]);
        }
        if count == 0 && self.poll_count.is_multiple_of(POLLS_PER_EVENT_CHECK) {
            self.absorb_events();
        }
        if count == 0 && self.poll_count.is_multiple_of(POLLS_PER_YIELD) {
            self.verbs.give_way();
        }
        count
    }

    /// Takes completions of one queue; returns how many the caller gets.
    fn take(&mut self, queue: usize, completions: &mut [Completion]) -> usize {
        let cq = self.queues[queue].cq;
        let mut count = 0;
        while count < completions.len() {
            let room = completions.len() - count;
            let taken = self.verbs.poll(cq, room, &mut self.scratch);
            for index in 0..taken {
                let work = self.scratch.completions[index];
                if let Some(completion) = self.absorb(&work) {
                    completions[count] = completion;
                    count += 1;
                }
            }
            if taken < room.min(POLL_MAX) {
                break;
            }
        }
        count
    }

    /// Takes completions of every queue into `ready`; returns how many came, own ones included.
    pub(super) fn collect(&mut self) -> usize {
        let mut total = 0;
        for queue in 0..self.queues.len() {
            let cq = self.queues[queue].cq;
            let taken = self.verbs.poll(cq, POLL_MAX, &mut self.scratch);
            for index in 0..taken {
                let work = self.scratch.completions[index];
                let completion = self.absorb(&work);
                self.ready.extend(completion);
            }
            total += taken;
        }
        total
    }

    /// What one completion of the device is to the caller, if anything.
    fn absorb(&mut self, work: &ibv_wc) -> Option<Completion> {
        match WorkRequest::of(work.wr_id) {
            // A queue pair that is gone may still have completions in the queue.
            WorkRequest::Send { queue_pair, number } => {
                let Some(slot) = self.slots.find_mut(queue_pair) else {
                    self.departures.note(queue_pair, number, work.status == IBV_WC_SUCCESS);
                    return None;
                };
                let request = slot.ring.complete(number)?;
                if work.status != IBV_WC_SUCCESS {
                    slot.state = QueuePairState::Error;
                } else if request.purpose != Purpose::Request {
                    match request.purpose {
                        // It has arrived: nothing of the caller's is sent before.
                        Purpose::Greeting if slot.state == QueuePairState::Connecting => {
                            slot.state = QueuePairState::Ready;
                        }
                        Purpose::Bind => slot.windows.note_bound(),
                        Purpose::Greeting | Purpose::Quiet | Purpose::Request => {}
                    }
                    return None;
                }
                Some(Completion {
                    queue_pair: slot.id,
                    work_id: request.work_id?,
                    opcode: request.opcode,
                    status: completion_status(work.status),
                    immediate: 0,
                })
            }
            WorkRequest::Receive { queue_pair } => {
                let slot = self.slots.find_mut(queue_pair)?;
                if work.status != IBV_WC_SUCCESS {
                    slot.state = QueuePairState::Error;
                    return None;
                }
                if slot.state == QueuePairState::Connecting {
                    slot.state = QueuePairState::Ready;
                }
                let word = u32::from_be(work.imm_data);
                if work.opcode == IBV_WC_RECV_RDMA_WITH_IMM {
                    return receive_immediate(slot, word);
                }
                // A message without a word is not ours: some other program's, and ignored.
                let ours = work.wc_flags & IBV_WC_WITH_IMM != 0;
                if ours && word == Greeting::FAREWELL {
                    fail(slot);
                } else {
                    let _ = self.verbs.post_receives(slot, 1, &mut self.scratch);
                }
                None
            }
        }
    }

    /// Reports immediates that had come before the caller posted receives for them.
    pub(super) fn deliver_early(&mut self, queue_pair: QueuePairId) {
        let Some(slot) = self.slots.find_mut(queue_pair.0) else { return };
        while slot.receives_posted > 0
            && let Some(word) = slot.early.pop_front()
        {
            self.ready.extend(receive_immediate(slot, word));
        }
    }

    /// Takes a queue pair out, which from here on carries out nothing for its peer, and has it told so and
    /// destroyed; what was pending completes as flushed once it has been.
    pub(super) fn dismiss(&mut self, queue_pair: QueuePairId) {
        let Some(mut slot) = self.slots.remove(queue_pair.0) else { return };
        // Windows hold on to the queue pair they belong to.
        slot.windows.clear();
        let farewell = say_farewell(self.verbs, &mut slot);
        let deadline = Instant::now() + self.config.farewell_timeout;
        self.departures.add(slot, farewell, deadline);
    }

    /// Ends what is left of queue pairs that have been destroyed.
    pub(super) fn end_departures(&mut self) {
        while let Some(mut left) = self.departures.take_destroyed() {
            self.queues[left.completion_queue].release(left.completions_max);
            while let Some(request) = left.ring.pop() {
                self.ready.extend(request.work_id.map(|work_id| Completion {
                    queue_pair: left.id,
                    work_id,
                    opcode: request.opcode,
                    status: CompletionStatus::Flushed,
                    immediate: 0,
                }));
            }
        }
    }

    /// Waits until everything posted on the queue pair has completed; false when it failed or the
    /// time was over first.
    pub(super) fn settle(&mut self, queue_pair: QueuePairId, deadline: Instant) -> bool {
        loop {
            let came = self.collect();
            let Some(slot) = self.slots.find(queue_pair.0) else { return false };
            if slot.state == QueuePairState::Error {
                return false;
            }
            if slot.ring.len() == 0 {
                return true;
            }
            if came == 0 {
                if Instant::now() >= deadline {
                    return false;
                }
                std::thread::yield_now();
            }
        }
    }
}

/// Ends what the peer may do, and posts the farewell; its number, if it is to be waited for.
fn say_farewell(verbs: Verbs, slot: &mut Slot) -> Option<u32> {
    // A peer whose device has not answered the greeting is not waited for.
    let is_unanswered = slot.state == QueuePairState::Connecting && slot.ring.len() > 0;
    // A passive side that has not looked at the greeting yet may well have a peer.
    let Stage::Connected(queue_pair) = &slot.stage else { return None };
    if slot.state == QueuePairState::Error {
        return None;
    }
    if !queue_pair.refuse_requests() {
        fail(slot);
        return None;
    }
    let number = slot.ring.next_number();
    let is_posted = verbs.post_own(slot, Greeting::FAREWELL).is_ok();
    (is_posted && !is_unanswered).then_some(number)
}

/// Fails a queue pair by our own decision; what is pending will complete as flushed.
pub(super) fn fail(slot: &mut Slot) {
    slot.state = QueuePairState::Error;
    if let Stage::Connected(queue_pair) = &slot.stage {
        queue_pair.fail();
    }
}

/// The caller's completion of an immediate, or `None` when it has to wait for a receive.
fn receive_immediate(slot: &mut Slot, word: u32) -> Option<Completion> {
    let Some(left) = slot.receives_posted.checked_sub(1) else {
        slot.early.push_back(word);
        return None;
    };
    slot.receives_posted = left;
    Some(Completion {
        queue_pair: slot.id,
        work_id: WorkId(0),
        opcode: Opcode::ReceiveImmediate,
        status: CompletionStatus::Success,
        immediate: word,
    })
}
