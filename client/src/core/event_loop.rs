//! The event loop: takes in what has arrived and settles lost links. It calls no operation.

use windlass_transport::{Completion, CompletionStatus, Opcode, WorkId, spin::LOOKS_PER_PAUSE};
use windlass_wire::{CompletionWord, Status};

use super::{
    Core,
    clock::CLOCK_READ,
    link::{Held, InFlight},
    requests::Failure,
};

/// Polls between looks at completions behind the oldest one that is missing.
const POLLS_PER_SCAN: u32 = 8;

/// Looks at the completion rings between polls, all links together: a look takes a small part of
/// what a poll takes, so completions are found sooner.
const LOOKS_PER_POLL: usize = 32;

impl Core {
    /// Takes in what has arrived; returns whether anything has.
    pub(crate) fn progress(&mut self) -> bool {
        self.links.polls = self.links.polls.wrapping_add(1);
        let scan = self.links.polls.is_multiple_of(POLLS_PER_SCAN);
        let mut moved = false;
        for at in 0..self.links.all.len() {
            moved |= self.take_completions(at, scan);
            let link = &mut self.links.all[at];
            if !link.in_flight.is_empty() && link.mailbox.sender.room() > 2 && link.take_wake() {
                link.mailbox.writer.write_wake(&mut link.mailbox.sender);
            }
            if !link.mailbox.sender.is_empty() {
                self.links.flush(at);
            }
        }
        for transport in 0..self.links.transports.len() {
            moved |= self.poll_transport(transport);
        }
        if self.pending.reads.has_postponed() {
            self.pending.post_postponed(&mut self.links, &mut self.tables, &mut self.recovery);
        }
        self.settle_lost() || moved
    }

    /// Waits a moment for a completion, and takes in what comes. Returns whether anything came.
    pub(super) fn look_for_completions(&mut self) -> bool {
        // Where writes land only while their transport is polled, looking at memory finds nothing; nor
        // does it where only reads are under way.
        let mut waiting = 0;
        for link in self.links.all.iter().filter(|link| !link.in_flight.is_empty()) {
            if !link.terms.lands_unpolled {
                return false;
            }
            waiting += 1;
        }
        let looks = LOOKS_PER_POLL.checked_div(waiting).unwrap_or(0);
        for look in 0..looks {
            for at in 0..self.links.all.len() {
                if self.links.all[at].looks_complete() {
                    return self.take_completions(at, false);
                }
            }
            if look % LOOKS_PER_PAUSE == 0 {
                std::hint::spin_loop();
            }
        }
        false
    }

    fn take_completions(&mut self, at: usize, scan: bool) -> bool {
        let mut moved = false;
        loop {
            let link = &self.links.all[at];
            let Some(&in_flight) = link.in_flight.front() else { return moved };
            let Some(word) = link.mailbox.completions.completion_of(in_flight.number) else {
                break;
            };
            if !self.links.has_landed(
                &self.pending.memory,
                &mut self.scratch,
                at,
                in_flight.number,
                word,
            ) {
                break;
            }
            self.links.all[at].in_flight.pop_front();
            self.end_message(at, in_flight, word);
            moved = true;
        }
        if scan {
            let mut behind = 1;
            while behind < self.links.all[at].in_flight.len() {
                let link = &self.links.all[at];
                let in_flight = link.in_flight[behind];
                match link.mailbox.completions.completion_of(in_flight.number) {
                    Some(word)
                        if self.links.has_landed(
                            &self.pending.memory,
                            &mut self.scratch,
                            at,
                            in_flight.number,
                            word,
                        ) =>
                    {
                        self.links.all[at].in_flight.remove(behind);
                        self.end_message(at, in_flight, word);
                        moved = true;
                    }
                    _ => behind += 1,
                }
            }
        }
        moved
    }

    #[inline]
    fn end_message(&mut self, at: usize, in_flight: InFlight, word: CompletionWord) {
        if word.status == Status::Done && word.detail == 0 && in_flight.held == Held::Nothing {
            self.links.all[at].mailbox.writer.release(in_flight.number);
            self.pending.end_part(in_flight.request, None);
        } else {
            self.end_special(at, in_flight, word);
        }
    }

    /// Ends a message that was refused, had to wait, or holds memory.
    fn end_special(&mut self, at: usize, in_flight: InFlight, word: CompletionWord) {
        if self.session.is_sent_again(&self.cluster, word.status) {
            self.links.all[at].state.order.refused();
            self.retries.keep_in_flight(
                &mut self.links,
                &mut self.pending,
                &mut self.recovery,
                at,
                in_flight,
            );
            self.links.all[at].mailbox.writer.release(in_flight.number);
            return;
        }
        if word.status != Status::Done {
            self.pending.note_refused(&self.links, at, &in_flight);
        }
        let link = &mut self.links.all[at];
        link.mailbox.writer.release(in_flight.number);
        let server = link.server;
        let status = match (word.status, in_flight.held) {
            (Status::Done, Held::Answer(answer)) => self.pending.memory.decode_answer(
                &mut self.scratch,
                &mut self.pending.counters.saved,
                &answer,
            ),
            (status, _) => status,
        };
        self.pending.release(&mut self.links, in_flight.held);
        let failure = (status != Status::Done).then_some(Failure::Refused { server, status });
        if word.status == Status::Done
            && word.detail > 0
            && let Some(request) = self.pending.requests.find_mut(in_flight.request)
        {
            request.waited_us = request.waited_us.max(word.detail);
        }
        self.pending.end_part(in_flight.request, failure);
    }

    fn poll_transport(&mut self, transport: usize) -> bool {
        let mut completions = std::mem::take(&mut self.links.completions);
        let count = self.links.transports[transport].poll(&mut completions);
        for completion in &completions[..count] {
            self.take_completion(transport, completion);
        }
        self.links.completions = completions;
        count > 0
    }

    /// Takes one completion of a transport in.
    pub(super) fn take_completion(&mut self, transport: usize, completion: &Completion) {
        let link = self.links.all.iter().position(|link| {
            link.transport == transport && link.queue_pair == completion.queue_pair
        });
        let succeeded = completion.status == CompletionStatus::Success;
        if completion.opcode == Opcode::ReceiveImmediate && succeeded {
            let posted = self.links.transports[transport].post_receive(completion.queue_pair, 1);
            if let (Some(link), Err(_)) = (link, posted) {
                self.links.lose(link);
            }
            return;
        }
        if completion.work_id.0 & CLOCK_READ != 0 {
            self.clocks.end_clock_read(completion.work_id, succeeded);
        } else if completion.work_id != WorkId(0) {
            self.pending.end_read(
                &mut self.links,
                &mut self.tables,
                &mut self.recovery,
                completion.queue_pair,
                completion.work_id,
                succeeded,
            );
        }
        if let (Some(link), false) = (link, succeeded) {
            self.links.lose(link);
        }
    }

    /// Ends links that are gone: what is in flight on them is sent again, or fails. Returns whether there
    /// were any.
    pub(super) fn settle_lost(&mut self) -> bool {
        let mut any = false;
        while let Some(at) = self.links.lost.pop() {
            self.settle_link(at);
            any = true;
        }
        any
    }

    fn settle_link(&mut self, at: usize) {
        let link = &self.links.all[at];
        let (server, transport) = (link.server, link.transport);
        self.links.transports[transport].disconnect(link.queue_pair);
        self.pending.memory.await_quiet(&mut self.links.transports, transport);
        self.tables.forget_places(at);
        // What was answered before is done: a refusal must not be taken for no answer.
        self.take_completions(at, true);
        while let Some(in_flight) = self.links.all[at].in_flight.pop_front() {
            if self.session.options.retry_for.is_zero() {
                self.pending.release(&mut self.links, in_flight.held);
                self.pending.end_part(in_flight.request, Some(Failure::Gone { server }));
            } else {
                self.retries.keep_in_flight(
                    &mut self.links,
                    &mut self.pending,
                    &mut self.recovery,
                    at,
                    in_flight,
                );
            }
        }
        self.pending.fail_reads(&self.links, &mut self.tables, &mut self.recovery, at);
        self.clocks.fail_clock_read(at);
        self.recovery.start_trouble();
    }
}
