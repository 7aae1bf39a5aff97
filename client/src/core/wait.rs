//! Waiting: runs the event loop until a condition holds, and sleeps when nothing arrives.

use std::time::{Duration, Instant};

use windlass_transport::{chunks::Chunk, spin::Idle, wait::wait_any};
use windlass_wire::Timestamp;

use super::{Core, RequestId, backoff::ask_after, rounds::note_idle};
use crate::error::RequestError;

/// Polls between looks at the clock while waiting.
const POLLS_PER_CLOCK: u32 = 8;

/// How long a client sleeps at most when nothing wakes it: a net under the wake-up protocol.
const SLEEP_MAX: Duration = Duration::from_millis(2);

/// How often the servers are looked at while nothing comes.
const CHECK_EVERY: Duration = Duration::from_millis(5);

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
            self.pending.count_idle(patience.since.elapsed().min(waited));
        }
        match failure {
            None => Ok(()),
            Some(failure) => Err(self.pending.error_of(&self.cluster, &self.session, id, failure)),
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
            self.cluster.check_servers(&mut self.tables, &mut self.links);
            self.session.watching.ask()?;
            note_idle(self, now);
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

    /// As [`Core::progress`], and goes on with what has to be sent again.
    pub(crate) fn poll(&mut self) {
        if self.recovery.in_trouble() {
            self.recover();
        }
        self.progress();
    }

    /// A piece of the staging area, waiting until there is one.
    pub(super) fn allocate_chunk(&mut self, len: u64) -> Result<Chunk, RequestError> {
        self.pending.memory.staging_region()?;
        let staging_len = self.pending.memory.staging_len();
        let limit = self.pending.memory.staged_len_max();
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

    /// Sleeps until a server wakes this side, for a bounded time.
    fn sleep(&mut self) {
        for at in 0..self.links.all.len() {
            let link = &mut self.links.all[at];
            if !link.in_flight.is_empty() && link.mailbox.sender.room() > 2 {
                link.sleeps.epoch += 1;
                link.mailbox.writer.write_sleep_epoch(link.sleeps.epoch, &mut link.mailbox.sender);
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
