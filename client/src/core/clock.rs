//! Workers' clocks: tables that bound staleness publish their slowest worker's clock at every shard,
//! and a pull that has to wait polls it there, one-sidedly, before it reads.

use std::time::{Duration, Instant};

use windlass_transport::{Operation, RemoteAddress, RemoteKey, WorkId, fabric::PeerBytes};
use windlass_wire::{
    Aggregation, ClockLine, Consistency, RequestKind, RowRange, TableSchema, WorkerClock,
    control::{ClientReply, ClientRequest, ClockPlace},
};

use super::{Core, RequestId, TableIndex, connect::chain, view::load_word};
use crate::{
    config::PushOptions,
    error::{RequestError, TableError},
};

/// Work ids with this bit are polls of a clock.
pub(super) const CLOCK_READ: u64 = 1 << 62;

/// Pauses between polls, once spinning has found nothing: each twice the one before.
const PAUSE_MIN: Duration = Duration::from_micros(20);
const PAUSE_MAX: Duration = Duration::from_micros(500);

/// How often the servers are looked at in a long wait.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Bytes of a line, as a chunk of the staging area.
const LINE_LEN: u64 = ClockLine::LEN as u64;

/// A table's clocks, by link.
#[derive(Debug)]
pub(super) struct TableClock {
    /// `None` where it has to be asked for again.
    lines: Vec<Option<Line>>,
}

/// Where one shard publishes a clock.
#[derive(Clone, Copy, Debug)]
struct Line {
    at: RemoteAddress,
    /// In place, when it is this host's memory.
    view: Option<PeerBytes>,
    /// As it was read last.
    seen: ClockLine,
}

/// A poll under way; there is one at a time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Poll {
    /// Counts polls, so that an answer to one given up is not taken for the next one's.
    number: u64,
    /// Whether it succeeded, once it has completed.
    completed: Option<bool>,
}

/// Whether a table's workers keep clocks.
pub(super) fn is_clocked(schema: &TableSchema) -> bool {
    schema.consistency != (Consistency::Eventual {})
        || schema.aggregation != (Aggregation::Immediate {})
}

impl Core {
    /// Becomes a worker of a table that keeps clocks, if this client has a rank: its clock is at
    /// least the one that the table's other workers are at.
    pub(super) fn join_clock(&mut self, table: TableIndex) -> Result<(), TableError> {
        if !is_clocked(&self.tables[table.0].entry.schema) || self.tables[table.0].clock.is_some() {
            return Ok(());
        }
        self.tables[table.0].clock = Some(TableClock { lines: Vec::new() });
        let mut least = None;
        for link in 0..self.links.len() {
            let clock = self.join_at(table, link)?;
            least = Some(least.map_or(clock, |least: WorkerClock| least.min(clock)));
            if self.options.rank.is_some() {
                self.clock = self.clock.max(clock);
            }
        }
        if self.options.rank.is_some() && least.is_some_and(|least| least < self.clock) {
            // Shards that saw less of this job must not hold the others up.
            let told = self.announce(table).and_then(|request| self.wait_for(request));
            told.map_err(|error| TableError::Clock { source: Box::new(error) })?;
        }
        Ok(())
    }

    /// Joins a table's clock at one shard; returns the clock this worker has there.
    fn join_at(&mut self, table: TableIndex, at: usize) -> Result<WorkerClock, TableError> {
        let id = self.tables[table.0].entry.id;
        let link = &self.links[at];
        let request = ClientRequest::JoinClock { table: id, shard: link.shard };
        let place = match self.servers[link.server_at].control.ask(&request)? {
            ClientReply::ClockJoined { place } => place,
            ClientReply::Refused { status, text } => {
                return Err(TableError::Refused { kind: status, text });
            }
            _ => return Err(TableError::Unexpected),
        };
        let line = self.line_at(at, &place).ok_or(TableError::Unexpected)?;
        if let Some(clock) = &mut self.tables[table.0].clock {
            if clock.lines.len() <= at {
                clock.lines.resize(at + 1, None);
            }
            clock.lines[at] = Some(line);
        }
        Ok(place.clock)
    }

    /// Joins again where a link was made anew: its shard may know less of this worker.
    fn rejoin(&mut self, table: TableIndex, link: usize) -> Result<(), RequestError> {
        let clock = self.join_at(table, link);
        let clock = clock.map_err(|error| RequestError::Setup { text: chain(&error) })?;
        if self.options.rank.is_some() && clock < self.clock {
            self.announce(table)?;
        }
        Ok(())
    }

    /// What is known of a table's clock at a link.
    fn line(&self, table: TableIndex, link: usize) -> Option<Line> {
        self.tables[table.0].clock.as_ref()?.lines.get(link).copied().flatten()
    }

    /// Clocks at a link are not in view any more.
    pub(super) fn forget_lines(&mut self, link: usize) {
        for clock in self.tables.iter_mut().filter_map(|table| table.clock.as_mut()) {
            if let Some(line) = clock.lines.get_mut(link) {
                *line = None;
            }
        }
    }

    fn line_at(&mut self, link: usize, place: &ClockPlace) -> Option<Line> {
        let end = place.offset.checked_add(LINE_LEN)?;
        if end > place.region.len || !place.offset.is_multiple_of(8) {
            return None;
        }
        let address = place.region.address.wrapping_add(place.offset);
        let at = RemoteAddress { key: RemoteKey(place.region.key), address };
        let link = &self.links[link];
        let view = self.transports[link.transport].view(link.queue_pair, at, LINE_LEN);
        Some(Line { at, view, seen: ClockLine { minimum: 0, tau: 0, live: 0 } })
    }

    /// An empty push over the whole of every table that keeps clocks: the worker has finished a
    /// round.
    pub(crate) fn advance_clock(&mut self) -> Result<RequestId, RequestError> {
        let tables = self.tables.iter();
        let clocked = tables.filter(|table| !table.dropped && table.clock.is_some()).count();
        if clocked > 0 && self.options.rank.is_none() {
            return Err(RequestError::NoRank);
        }
        self.clock.0 += 1;
        let request = self.begin(None, false)?;
        let mut sent = Ok(());
        for table in (0..self.tables.len()).map(TableIndex) {
            sent = sent.and_then(|()| self.send_clock(table, request));
        }
        self.end_sending(request);
        sent.map(|()| request)
    }

    /// Tells the shards of one table where this worker is.
    fn announce(&mut self, table: TableIndex) -> Result<RequestId, RequestError> {
        let request = self.begin(None, false)?;
        let sent = self.send_clock(table, request);
        self.end_sending(request);
        sent.map(|()| request)
    }

    fn send_clock(&mut self, table: TableIndex, request: RequestId) -> Result<(), RequestError> {
        let state = &self.tables[table.0];
        if state.dropped || state.clock.is_none() {
            return Ok(());
        }
        for link in 0..self.links.len() {
            if self.line(table, link).is_none() {
                self.join_at(table, link)
                    .map_err(|error| RequestError::Setup { text: chain(&error) })?;
            }
            let options = PushOptions { clock: Some(self.clock), ..PushOptions::default() };
            let header = self.header(RequestKind::AdvanceClock, table, &options);
            self.send(link, &header, &[], &[], request, None)?;
        }
        Ok(())
    }

    /// The clock of a pull made now: the round this worker is in. 0, which never waits, where
    /// nobody is waited for or this client is no worker.
    pub(super) fn pull_clock(&self, table: TableIndex) -> WorkerClock {
        match (&self.tables[table.0].clock, self.options.rank) {
            (Some(_), Some(_)) => WorkerClock(self.clock.0 + 1),
            _ => WorkerClock(0),
        }
    }

    /// Whether a pull of rows at `clock` can be started without waiting, as far as is known or can
    /// be seen without asking.
    pub(super) fn may_pull(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        clock: WorkerClock,
    ) -> bool {
        if clock == WorkerClock(0) {
            return true;
        }
        let layout = self.tables[table.0].layout;
        let mut first = rows.start;
        while first < rows.end {
            let (link, part) = self.rows_at_one_link(&layout, first, rows.end);
            if !self.is_open(table, link, clock) {
                return false;
            }
            first = part.end;
        }
        true
    }

    /// Whether one shard lets a pull at `clock` go on.
    fn is_open(&mut self, table: TableIndex, link: usize, clock: WorkerClock) -> bool {
        let Some(state) = &mut self.tables[table.0].clock else { return true };
        let Some(Some(line)) = state.lines.get_mut(link) else { return false };
        if line.seen.must_wait(clock)
            && let Some(view) = line.view
            && !self.links[link].failed
        {
            line.seen = look(view);
        }
        !line.seen.must_wait(clock)
    }

    /// Waits until the slowest worker allows a pull of rows at `clock`.
    pub(super) fn wait_for_workers_at(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        clock: WorkerClock,
    ) -> Result<(), RequestError> {
        if self.may_pull(table, rows, clock) {
            return Ok(());
        }
        let started = Instant::now();
        let mut outcome = Ok(());
        for link in self.links_of(table, rows) {
            let until = |line: &ClockLine| !line.must_wait(clock);
            outcome = outcome.and_then(|()| self.poll_line(table, link, started, until));
        }
        self.count_idle(started.elapsed());
        outcome.map_err(|found| self.behind(found, clock))
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
        for link in 0..self.links.len() {
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
        Ok(())
    }

    /// Idle time is what waiting for slower workers has cost.
    pub(super) fn count_idle(&mut self, time: Duration) {
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

    /// Polls one shard's line until it is as wanted.
    fn poll_line(
        &mut self,
        table: TableIndex,
        link: usize,
        started: Instant,
        wanted: impl Fn(&ClockLine) -> bool,
    ) -> Result<(), Waited> {
        let mut pause = PAUSE_MIN;
        let mut checked = started;
        loop {
            let line = self.read_line(table, link).map_err(Waited::Failed)?;
            if wanted(&line) {
                return Ok(());
            }
            self.progress();
            let waited = started.elapsed();
            if waited >= self.options.timeout {
                return Err(Waited::TooLong(line));
            }
            if waited < self.options.spin {
                std::hint::spin_loop();
                continue;
            }
            if checked.elapsed() >= CHECK_INTERVAL {
                checked = Instant::now();
                self.check_servers();
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The line of a table at one shard, as it is now.
    fn read_line(&mut self, table: TableIndex, link: usize) -> Result<ClockLine, RequestError> {
        let server = self.links[link].server;
        if self.links[link].failed {
            return Err(RequestError::ServerGone { server });
        }
        if self.line(table, link).is_none() {
            self.rejoin(table, link)?;
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
        let setup = |error: &dyn std::error::Error| RequestError::Setup { text: chain(error) };
        let staging = self.staging_region()?;
        let chunk = self.allocate_chunk(LINE_LEN)?;
        let transport = self.links[link].transport;
        let region = self
            .memory
            .registered(staging, transport, &mut self.transports)
            .map_err(|error| setup(&error))?;
        let mut patience = None;
        let mut outcome = Ok(());
        while outcome.is_ok() && self.links[link].sender.room() < 2 {
            outcome = self.wait_a_little(&mut patience);
        }
        if outcome.is_ok() && !self.links[link].failed {
            #[expect(clippy::cast_possible_truncation, reason = "24 bytes")]
            let local = region.slice(chunk.offset, LINE_LEN as u32).into();
            let read = Operation::Read { local, remote: at };
            self.clock_poll = Poll { number: self.clock_poll.number + 1, completed: None };
            let work_id = WorkId(CLOCK_READ | self.clock_poll.number);
            self.links[link].sender.push_signaled(work_id, read);
            self.flush(link);
        } else {
            self.clock_poll.completed = Some(false);
        }
        while outcome.is_ok() && self.clock_poll.completed.is_none() && !self.links[link].failed {
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
    pub(super) fn end_clock_read(&mut self, work_id: WorkId, succeeded: bool) {
        if work_id.0 == CLOCK_READ | self.clock_poll.number {
            self.clock_poll.completed = Some(succeeded);
        }
    }

    /// Links that lead to rows, each once.
    fn links_of(&self, table: TableIndex, rows: RowRange) -> Vec<usize> {
        let layout = self.tables[table.0].layout;
        let mut links = Vec::new();
        let mut first = rows.start;
        while first < rows.end {
            let (link, part) = self.rows_at_one_link(&layout, first, rows.end);
            if !links.contains(&link) {
                links.push(link);
            }
            first = part.end;
        }
        links
    }

    /// Nobody waits for this client any more. Best effort: servers notice by themselves, later.
    pub(super) fn leave_clocks(&mut self) {
        let works = self.tables.iter().any(|table| table.clock.is_some() && !table.dropped);
        if !works || self.options.rank.is_none() || !self.says_farewell {
            return;
        }
        for server in &mut self.servers {
            if !server.control.is_closed() {
                let _ = server.control.ask::<_, ClientReply>(&ClientRequest::LeaveClocks {});
            }
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
