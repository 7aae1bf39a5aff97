//! Moving requests on: looking for completions, waiting for one, sleeping when nothing comes.

use std::time::{Duration, Instant};

use windlass_transport::{
    Completion, CompletionStatus, Opcode, QueuePairState, WorkId,
    chunks::Chunk,
    spin::{Idle, LOOKS_PER_PAUSE},
    wait::wait_any,
};
use windlass_wire::{CompletionWord, Status, Timestamp};

use super::{
    Cluster, Core, Links, Memory, RegionId, RequestId,
    clock::CLOCK_READ,
    connect::chain,
    control::Control,
    link::{Held, InFlight},
    requests::{Failure, Reply},
};
use crate::error::RequestError;

/// Polls between looks at the clock while waiting.
const POLLS_PER_CLOCK: u32 = 8;

/// Polls between looks at completions behind the oldest one that is missing.
const POLLS_PER_SCAN: u32 = 8;

/// Looks at the completion rings between polls, all links together: a look takes a small part of
/// what a poll takes, so completions are found sooner.
const LOOKS_PER_POLL: usize = 32;

/// How long a client sleeps at most when nothing wakes it: a net under the wake-up protocol.
const SLEEP_MAX: Duration = Duration::from_millis(2);

/// How often the servers are looked at while nothing comes.
const CHECK_EVERY: Duration = Duration::from_millis(5);

/// Silence of a server after which others are asked whether the map has changed.
const SILENCE: Duration = Duration::from_millis(250);
/// They are asked so often at intervals of half of that, while a silent server may just have been
/// replaced; then later and later.
const ASKED_SOON: u32 = 8;

/// How long a wait has lasted.
#[derive(Debug)]
pub(super) struct Patience {
    since: Instant,
    /// How long it may last.
    limit: Duration,
    polls: u32,
    checked: Instant,
    /// How often others were asked.
    asked: u32,
}

impl Patience {
    /// For so long from now on.
    pub(super) fn new(limit: Duration) -> Self {
        let now = Instant::now();
        Self { since: now, limit, polls: 0, checked: now, asked: 0 }
    }
}

/// How long a wait lasts before others are asked once more.
pub(super) fn ask_after(asked: u32) -> Duration {
    match asked.checked_sub(ASKED_SOON) {
        None => SILENCE + SILENCE / 2 * asked,
        Some(later) => SILENCE * (8 << later.min(5)),
    }
}

impl Core {
    /// Waits until a request is over; its failure, if it is still known.
    pub(crate) fn wait_for(&mut self, id: RequestId) -> Result<(), RequestError> {
        if !self.pending.requests.was_made(id) {
            return Err(RequestError::UnknownTimestamp { timestamp: Timestamp(id) });
        }
        let mut patience = None;
        while !self.pending.requests.is_over(id) {
            self.wait_a_little(&mut patience)?;
        }
        let request = self.pending.requests.find(id);
        let waited_us = request.map_or(0, |request| request.waited_us);
        let failure = request.and_then(|request| request.failure);
        if let (Some(patience), true) = (&patience, waited_us > 0) {
            // What was hidden behind other work did not cost anything.
            let waited = Duration::from_micros(u64::from(waited_us));
            self.count_idle(patience.since.elapsed().min(waited));
        }
        match failure {
            None => Ok(()),
            Some(failure) => Err(self.error_of(id, failure)),
        }
    }

    /// Waits for every request made so far; the first failure among those still known, or that one of them
    /// is not over.
    pub(crate) fn wait_for_all(&mut self) -> Result<(), RequestError> {
        let last = self.pending.requests.last();
        let first = last.saturating_sub(super::REQUESTS_MAX as u64 - 1).max(1);
        let mut outcome = Ok(());
        for id in first..=last {
            let ended = self.wait_for(id);
            if ended.as_ref().is_err_and(RequestError::leaves_request) {
                return ended;
            }
            outcome = outcome.and(ended);
        }
        outcome
    }

    /// One step of waiting: polls, and sleeps once it has spun for long enough.
    pub(super) fn wait_a_little(
        &mut self,
        patience: &mut Option<Patience>,
    ) -> Result<(), RequestError> {
        if self.recovery.in_trouble() {
            self.recover();
        }
        if !self.links.spin.is_shared() && self.look_for_completions() || self.progress() {
            self.links.spin.found();
            return Ok(());
        }
        let patience = patience.get_or_insert_with(|| Patience::new(self.session.options.timeout));
        if self.links.spin.idle() == Idle::Crowded {
            self.sleep();
            return Ok(());
        }
        patience.polls += 1;
        if !patience.polls.is_multiple_of(POLLS_PER_CLOCK) {
            return Ok(());
        }
        let now = Instant::now();
        let waited = now.duration_since(patience.since);
        // What is tried again ends with an error of its own.
        let retrying = if self.recovery.in_trouble() {
            self.session.options.retry_for
        } else {
            Duration::ZERO
        };
        if waited >= patience.limit.max(retrying + CHECK_EVERY) {
            return Err(RequestError::Timeout { timeout: self.session.options.timeout });
        }
        if now.duration_since(patience.checked) >= CHECK_EVERY {
            patience.checked = now;
            self.check_servers();
            self.session.watching.ask()?;
            self.note_idle(now);
            if waited >= ask_after(patience.asked) {
                patience.asked += 1;
                self.suspect(patience.asked);
            }
        }
        if self.links.spin.is_over(waited, self.session.options.spin) {
            self.sleep();
        }
        Ok(())
    }

    /// Waits a moment for a completion, and takes in what comes. Returns whether anything came.
    fn look_for_completions(&mut self) -> bool {
        // Where writes land only while their transport is polled, looking at memory finds nothing; nor
        // does it where only reads are under way.
        let mut waiting = 0;
        for link in self.links.all.iter().filter(|link| !link.in_flight.is_empty()) {
            if !link.lands_unpolled {
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

    /// As [`Core::progress`], and goes on with what has to be sent again.
    pub(crate) fn poll(&mut self) {
        if self.recovery.in_trouble() {
            self.recover();
        }
        self.progress();
    }

    /// Takes in what has arrived; returns whether anything has.
    pub(crate) fn progress(&mut self) -> bool {
        self.links.polls = self.links.polls.wrapping_add(1);
        let scan = self.links.polls.is_multiple_of(POLLS_PER_SCAN);
        let mut moved = false;
        for at in 0..self.links.all.len() {
            moved |= self.take_completions(at, scan);
            let link = &mut self.links.all[at];
            if !link.in_flight.is_empty() && link.sender.room() > 2 && link.take_wake() {
                link.writer.write_wake(&mut link.sender);
            }
            if !link.sender.is_empty() {
                self.links.flush(at);
            }
        }
        for transport in 0..self.links.transports.len() {
            moved |= self.poll_transport(transport);
        }
        if self.has_postponed() {
            self.post_postponed();
        }
        self.settle_lost() || moved
    }

    /// A piece of the staging area, waiting until there is one.
    pub(super) fn allocate_chunk(&mut self, len: u64) -> Result<Chunk, RequestError> {
        self.pending.memory.staging_region()?;
        let staging_len = self.pending.memory.staging_len();
        let limit = self.staged_len_max();
        if len > limit as u64 {
            return Err(RequestError::TooLarge { len, limit, staging_len });
        }
        let mut patience = None;
        loop {
            if let Some(chunk) = self.pending.memory.allocate(len) {
                return Ok(chunk);
            }
            self.pending.memory.is_unquiet(&mut self.links.transports);
            self.wait_a_little(&mut patience)
                .map_err(|error| self.rounds.blame_round(&self.pending.requests, error))?;
        }
    }

    /// Most bytes of the staging area that one request takes.
    pub(super) fn staged_len_max(&self) -> usize {
        self.pending.memory.staging_len() / 2
    }

    fn take_completions(&mut self, at: usize, scan: bool) -> bool {
        let mut moved = false;
        loop {
            let link = &self.links.all[at];
            let Some(&in_flight) = link.in_flight.front() else { return moved };
            let Some(word) = link.completions.completion_of(in_flight.number) else { break };
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
                match link.completions.completion_of(in_flight.number) {
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
            self.links.all[at].writer.release(in_flight.number);
            self.end_part(in_flight.request, None);
        } else {
            self.end_special(at, in_flight, word);
        }
    }

    /// Ends a message that was refused, had to wait, or holds memory.
    fn end_special(&mut self, at: usize, in_flight: InFlight, word: CompletionWord) {
        if self.session.is_sent_again(&self.cluster, word.status) {
            self.links.all[at].order.refused();
            self.keep_in_flight(at, in_flight);
            self.links.all[at].writer.release(in_flight.number);
            return;
        }
        if word.status != Status::Done {
            self.note_refused(at, &in_flight);
        }
        let link = &mut self.links.all[at];
        link.writer.release(in_flight.number);
        let server = link.server;
        let status = match (word.status, in_flight.held) {
            (Status::Done, Held::Answer(answer)) => self.decode_answer(&answer),
            (status, _) => status,
        };
        self.release(in_flight.held);
        let failure = (status != Status::Done).then_some(Failure::Refused { server, status });
        if word.status == Status::Done
            && word.detail > 0
            && let Some(request) = self.pending.requests.find_mut(in_flight.request)
        {
            request.waited_us = request.waited_us.max(word.detail);
        }
        self.end_part(in_flight.request, failure);
    }

    /// One part of a request is over.
    #[inline]
    pub(super) fn end_part(&mut self, id: RequestId, failure: Option<Failure>) {
        let Some(request) = self.pending.requests.find_mut(id) else { return };
        request.parts_left -= 1;
        request.failure = request.failure.or(failure);
        if request.is_done() && request.forgotten {
            let reply = std::mem::take(&mut request.reply);
            request.claimable = false;
            self.drop_reply(id, reply);
        }
    }

    /// Nobody will claim the reply of a request: its memory is free once it is done.
    pub(crate) fn forget(&mut self, id: RequestId) {
        let Some(request) = self.pending.requests.find_mut(id) else { return };
        request.forgotten = true;
        if request.is_done() {
            let reply = std::mem::take(&mut request.reply);
            request.claimable = false;
            self.drop_reply(id, reply);
        }
    }

    pub(super) fn drop_reply(&mut self, id: RequestId, reply: Reply) {
        match reply {
            Reply::Staged { chunk, positions, .. } => {
                self.pending.memory.release(chunk);
                self.pending.requests.give_positions(positions);
            }
            Reply::Blocks { .. } => self.drop_reads(id),
            Reply::None | Reply::Lazy { .. } => {}
        }
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
            self.end_read(completion.queue_pair, completion.work_id, succeeded);
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
                self.release(in_flight.held);
                self.end_part(in_flight.request, Some(Failure::Gone { server }));
            } else {
                self.keep_in_flight(at, in_flight);
            }
        }
        self.fail_reads(at);
        self.clocks.fail_clock_read(at);
        self.recovery.start_trouble(&self.session);
    }

    /// Looks whether servers are still there.
    pub(super) fn check_servers(&mut self) {
        self.tables.release_ended_views(&mut self.links);
        for at in 0..self.cluster.servers.len() {
            self.cluster.check_server(&mut self.links, at);
        }
    }

    /// Sleeps until a server wakes this side, for a bounded time.
    fn sleep(&mut self) {
        for at in 0..self.links.all.len() {
            let link = &mut self.links.all[at];
            if !link.in_flight.is_empty() && link.sender.room() > 2 {
                link.sleep_epoch += 1;
                link.writer.write_sleep_epoch(link.sleep_epoch, &mut link.sender);
                self.links.flush(at);
            }
        }
        if self.progress() {
            return;
        }
        self.pending.counters.sleeps += 1;
        wait_any(&mut self.links.transports, SLEEP_MAX);
    }
}

impl Links {
    /// Posts what a link holds.
    pub(super) fn flush(&mut self, link_at: usize) {
        let link = &mut self.all[link_at];
        let transport = self.transports[link.transport].as_mut();
        if link.sender.flush(transport).is_err() {
            self.lose(link_at);
        }
    }

    /// A server no longer knows this session's mailbox: it has begun another life, and the end of the
    /// link is still on its way.
    pub(super) fn fail_forgotten(&mut self, at: usize) {
        tracing::warn!(server = self.all[at].server.0, "connecting again to a server's new life");
        self.lose(at);
    }
}

impl Memory {
    /// The staging area's region.
    pub(super) fn staging_region(&mut self) -> Result<RegionId, RequestError> {
        self.staging().map_err(|error| RequestError::Setup { text: chain(&error) })
    }
}

impl Cluster {
    /// Looks whether a server is still there.
    #[cold]
    pub(super) fn check_server(&mut self, links: &mut Links, at: usize) {
        let server = &mut self.servers[at];
        if server.control.as_ref().is_some_and(Control::is_closed) {
            server.control = None;
        }
        let is_gone = server.control.is_none();
        for link_at in server.links() {
            let link = &links.all[link_at];
            let state = || links.transports[link.transport].state(link.queue_pair);
            let failed = link.failed || is_gone || link.made && state() == QueuePairState::Error;
            if failed {
                links.lose(link_at);
            }
        }
    }
}
