//! Waiting for slower workers: looking at the clock that a shard publishes, in place or by reads.

use std::time::{Duration, Instant};

use windlass_transport::{Operation, RemoteAddress, WorkId, fabric::PeerBytes};
use windlass_wire::{ClockLine, RowRange, ServerId, WorkerClock};

use super::{CLOCK_READ, LINE_LEN, Poll};
use crate::{
    core::{Core, TableIndex, connect::chain, requests::Reading, view::load_word},
    error::RequestError,
};

/// Pauses between polls, once spinning has found nothing: each twice the one before.
const PAUSE_MIN: Duration = Duration::from_micros(20);
const PAUSE_MAX: Duration = Duration::from_micros(500);

/// How often the servers are looked at in a long wait.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

impl Core {
    /// The clock of a pull made now: the round this worker is in. 0, which never waits, where
    /// nobody is waited for or this client is no worker.
    pub(in crate::core) fn pull_clock(&self, table: TableIndex) -> WorkerClock {
        match (&self.tables[table.0].clock, self.options.rank) {
            (Some(_), Some(_)) => WorkerClock(self.clock.0 + 1),
            _ => WorkerClock(0),
        }
    }

    /// Whether a pull of rows at `clock` can be started without waiting, as far as is known or can
    /// be seen without asking.
    pub(in crate::core) fn may_pull(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        reading: Reading,
    ) -> bool {
        reading.clock == WorkerClock(0) || self.closed_link(table, rows, reading).is_none()
    }

    /// A link to rows whose shard does not let a pull at `clock` go on.
    fn closed_link(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        reading: Reading,
    ) -> Option<usize> {
        let layout = self.tables[table.0].layout;
        let mut first = rows.start;
        while first < rows.end {
            let (link, part) = self.rows_at_one_link(reading.replica, &layout, first, rows.end);
            if !self.is_open(table, link, reading.clock) {
                return Some(link);
            }
            first = part.end;
        }
        None
    }

    /// Whether one shard lets a pull at `clock` go on.
    fn is_open(&mut self, table: TableIndex, link: usize, clock: WorkerClock) -> bool {
        let Some(state) = &mut self.tables[table.0].clock else { return true };
        let Some(Some(line)) = state.lines.get_mut(link) else { return false };
        // A server without rows of the table keeps nobody waiting, before it gets some.
        if (line.seen.must_wait(clock) || line.seen.minimum == u64::MAX)
            && let Some(view) = line.view
            && !self.links[link].failed
        {
            line.seen = look(view);
        }
        !line.seen.must_wait(clock)
    }

    /// Waits until the slowest worker allows a pull of rows at `clock`.
    pub(in crate::core) fn wait_for_workers_at(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        reading: Reading,
    ) -> Result<(), RequestError> {
        if self.may_pull(table, rows, reading) {
            return Ok(());
        }
        let clock = reading.clock;
        let started = Instant::now();
        let mut outcome = Ok(());
        while outcome.is_ok()
            && let Some(link) = self.closed_link(table, rows, reading)
        {
            let until = |line: &ClockLine| !line.must_wait(clock);
            outcome = self.poll_line(table, link, started, until);
        }
        self.count_idle(started.elapsed());
        let partition = self.tables[table.0].layout.partition_of(rows.start);
        outcome.map_err(|found| match found {
            Waited::Failed(error) if self.is_passing(&error) => self.unavailable(partition),
            found => self.behind(found, clock),
        })
    }

    /// Waits until so many workers of a table are live at every shard.
    pub(crate) fn wait_for_workers(
        &mut self,
        table: TableIndex,
        count: u64,
    ) -> Result<(), RequestError> {
        if self.tables[table.0].clock.is_none() {
            return Err(RequestError::NoClock);
        }
        let started = Instant::now();
        let mut generation = None;
        // Again from the first when the servers are others meanwhile.
        while generation != Some(self.generation) {
            generation = Some(self.generation);
            for link in 0..self.links.len() {
                if self.servers[self.links[link].server_at].left {
                    continue;
                }
                let waited =
                    self.poll_line(table, link, started, |line: &ClockLine| line.live >= count);
                waited.map_err(|found| match found {
                    Waited::Failed(error) => error,
                    Waited::TooLong(line) => RequestError::Missing {
                        live: line.live,
                        expected: count,
                        timeout: self.options.timeout,
                    },
                })?;
            }
        }
        Ok(())
    }

    /// Idle time is what waiting for slower workers has cost.
    pub(in crate::core) fn count_idle(&mut self, time: Duration) {
        self.counters.clock_waits += 1;
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.counters.clock_wait_us = self.counters.clock_wait_us.saturating_add(time);
    }

    fn behind(&self, found: Waited, clock: WorkerClock) -> RequestError {
        match found {
            Waited::Failed(error) => error,
            Waited::TooLong(line) => RequestError::Behind {
                slowest: WorkerClock(line.minimum),
                needed: WorkerClock(line.needed(clock)),
                timeout: self.options.timeout,
            },
        }
    }

    /// Polls one shard's line until it is as wanted, or another shard may be the one to ask.
    fn poll_line(
        &mut self,
        table: TableIndex,
        link: usize,
        started: Instant,
        wanted: impl Fn(&ClockLine) -> bool,
    ) -> Result<(), Waited> {
        let mut pause = PAUSE_MIN;
        let mut checked = started;
        let generation = self.generation;
        loop {
            let line = match self.read_line(table, link) {
                Ok(line) => line,
                Err(error) if self.is_passing(&error) => {
                    let until = started + self.options.retry_for;
                    return self.wait_for_routes(generation, until, error);
                }
                Err(error) => return Err(Waited::Failed(error)),
            };
            if wanted(&line) {
                return Ok(());
            }
            self.poll();
            if self.generation != generation {
                return Ok(());
            }
            let waited = started.elapsed();
            if waited >= self.options.timeout {
                return Err(Waited::TooLong(line));
            }
            if waited < self.options.spin {
                self.spin.idle();
                continue;
            }
            if checked.elapsed() >= CHECK_INTERVAL {
                checked = Instant::now();
                self.check_servers();
                self.note_idle(checked);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Waits until routes are others than those of `generation`, because a shard is out of reach.
    fn wait_for_routes(
        &mut self,
        generation: u64,
        until: Instant,
        error: RequestError,
    ) -> Result<(), Waited> {
        self.start_trouble();
        let mut patience = None;
        while self.generation == generation {
            if Instant::now() >= until {
                return Err(Waited::Failed(error));
            }
            self.wait_a_little(&mut patience).map_err(Waited::Failed)?;
        }
        Ok(())
    }

    /// The line of a table at one shard, as it is now.
    fn read_line(&mut self, table: TableIndex, link: usize) -> Result<ClockLine, RequestError> {
        let server = self.links.get(link).map_or(ServerId(0), |link| link.server);
        let gone = || RequestError::ServerGone { server };
        if self.links.get(link).is_none_or(|link| link.failed) {
            return Err(gone());
        }
        if self.line(table, link).is_none() {
            self.rejoin(table, link).map_err(|error| {
                let setup = RequestError::Setup { text: chain(&error) };
                if self.may_pass(&error) { gone() } else { setup }
            })?;
            if self.tables[table.0].clock.as_ref().is_some_and(|clock| clock.owes) {
                self.start_trouble();
            }
        }
        let Some(line) = self.line(table, link) else { return Ok(ClockLine::OPEN) };
        let seen = match line.view {
            Some(view) => look(view),
            None => self.fetch_line(line.at, link)?,
        };
        if let Some(clock) = &mut self.tables[table.0].clock
            && let Some(Some(line)) = clock.lines.get_mut(link)
        {
            line.seen = seen;
        }
        Ok(seen)
    }

    fn fetch_line(&mut self, at: RemoteAddress, link: usize) -> Result<ClockLine, RequestError> {
        let chunk = self.allocate_chunk(LINE_LEN)?;
        let queue_pair = self.links[link].queue_pair;
        let is_same = |core: &Self| {
            let link = &core.links[link];
            !link.failed && link.queue_pair == queue_pair
        };
        let mut patience = None;
        let mut outcome = Ok(());
        while outcome.is_ok() && is_same(self) && self.links[link].sender.room() < 2 {
            outcome = self.wait_a_little(&mut patience);
        }
        self.clock_poll = Poll { number: self.clock_poll.number + 1, link, completed: None };
        if outcome.is_ok() && is_same(self) {
            let transport = self.links[link].transport;
            self.register_staging(transport)?;
            let Some(local) = self.memory.staged(transport, chunk, LINE_LEN) else {
                unreachable!("the staging area was registered")
            };
            let read = Operation::Read { local: local.into(), remote: at };
            let work_id = WorkId(CLOCK_READ | self.clock_poll.number);
            self.links[link].sender.push_signaled(work_id, read);
            self.flush(link);
        } else {
            self.clock_poll.completed = Some(false);
        }
        while outcome.is_ok() && self.clock_poll.completed.is_none() {
            outcome = self.wait_a_little(&mut patience);
        }
        // A read that is still under way may write to its chunk: that is nobody's from now on.
        outcome?;
        if self.clock_poll.completed != Some(true) {
            self.memory.release(chunk);
            return Err(RequestError::ServerGone { server: self.links[link].server });
        }
        let pages = self.memory.staging_pages();
        let words = [0, 8, 16].map(|word| pages.load_u64(chunk.offset + word));
        self.memory.release(chunk);
        Ok(ClockLine::from_words(words))
    }

    /// A poll has completed.
    pub(in crate::core) fn end_clock_read(&mut self, work_id: WorkId, succeeded: bool) {
        if work_id.0 == CLOCK_READ | self.clock_poll.number {
            self.clock_poll.completed = Some(succeeded);
        }
    }

    /// A poll at a link that is gone is over.
    pub(in crate::core) fn fail_clock_read(&mut self, link: usize) {
        if self.clock_poll.link == link {
            self.clock_poll.completed.get_or_insert(false);
        }
    }
}

/// Why a poll ended without what it waited for.
enum Waited {
    Failed(RequestError),
    TooLong(ClockLine),
}

/// A line in this host's memory.
fn look(view: PeerBytes) -> ClockLine {
    ClockLine::from_words([0, 8, 16].map(|word| load_word(view, word)))
}
