//! Waiting for slower workers: looking at the clock that a shard publishes, in place or by reads.

use std::{
    sync::atomic::{Ordering, fence},
    time::{Duration, Instant},
};

use windlass_transport::{LocalSlice, RemoteAddress, WorkId, fabric::PeerBytes};
use windlass_wire::{ClockLine, PartitionId, RowRange, ServerId, WorkerClock, map::shard_of};

use super::{CLOCK_READ, LINE_LEN, Poll, TRUSTED_ROUNDS};
use crate::{
    core::{
        Core, TableIndex, connect::chain, progress::ask_after, requests::Reading, view::load_word,
    },
    error::{RequestError, TableError},
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
        match (&self.tables[table].clock, self.session.options.rank) {
            (Some(_), Some(_)) => WorkerClock(self.clocks.own.0 + 1),
            _ => WorkerClock(0),
        }
    }

    /// Whether a pull of rows at `clock` can be started without waiting, as far as is known or can
    /// be seen without asking.
    pub(in crate::core) fn may_pull(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        reading: &mut Reading,
    ) -> bool {
        if reading.clock == WorkerClock(0) {
            return true;
        }
        let is_open = self.closed_link(table, rows, *reading).is_none();
        reading.gains = self.clocks.gains_seen;
        is_open
    }

    /// Whether rows that were read are counted in the clocks by which that was allowed. They are not
    /// where a shard got them after its clock was looked at: its gains tell, which are looked at again
    /// unless these rows were found to be counted in at as many before.
    pub(in crate::core) fn is_counted_in(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        reading: Reading,
    ) -> Result<bool, RequestError> {
        if reading.clock == WorkerClock(0) {
            return Ok(true);
        }
        // Rows first, then gains.
        fence(Ordering::Acquire);
        let layout = self.tables[table].layout;
        let (mut first, mut looked_at) = (rows.start, None);
        while first < rows.end {
            let partition = layout.partition_of(first);
            first = layout.rows_of(partition).end;
            let at = partition.0 as usize;
            let place = self.tables[table].places.find(reading.replica, at);
            let Some((link, counted_at)) = place.map(|place| (place.link, place.counted_at)) else {
                return Ok(false);
            };
            let Some(line) = self.line(table, link) else { return Ok(false) };
            if line.view.is_some() || counted_at != Some(line.seen.gains) {
                // Partitions of one shard share its line.
                let looked = match looked_at.replace(link) {
                    Some(before) if before == link => Ok(line.seen),
                    _ => self.read_line(table, link),
                };
                match looked {
                    Ok(line) if self.clocks.gains_seen == reading.gains => {
                        let places = self.tables[table].places.of_partition(at);
                        for place in places.filter(|place| place.link == link) {
                            place.counted_at = Some(line.gains);
                        }
                    }
                    Ok(_) => {}
                    Err(error) if self.is_passing(&error) => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            if self.clocks.gains_seen != reading.gains {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes note of a shard's line.
    fn saw_line(&mut self, table: TableIndex, link: usize, seen: ClockLine) {
        if let Some(clock) = &mut self.tables[table].clock
            && let Some(Some(line)) = clock.lines.get_mut(link)
        {
            self.clocks.gains_seen += u64::from(line.seen.gains != seen.gains);
            line.seen = seen;
            line.seen_at = self.clocks.own.0;
        }
    }

    /// A link to rows whose shard does not let a pull at `clock` go on.
    fn closed_link(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        reading: Reading,
    ) -> Option<usize> {
        let layout = self.tables[table].layout;
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
        if self.tables[table].clock.is_none() {
            return true;
        }
        let Some(mut line) = self.line(table, link) else { return false };
        if let Some(view) = line.view
            && !self.links.all[link].failed
        {
            line.seen = look(view);
            self.saw_line(table, link, line.seen);
        } else if self.clocks.own.0 > line.seen_at + TRUSTED_ROUNDS {
            return false;
        }
        !line.seen.must_wait(clock)
    }

    /// Waits until the slowest worker allows a pull of rows at `clock`.
    pub(in crate::core) fn wait_for_workers_at(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        reading: &mut Reading,
    ) -> Result<(), RequestError> {
        if self.may_pull(table, rows, reading) {
            return Ok(());
        }
        let clock = reading.clock;
        let started = Instant::now();
        let mut outcome = Ok(());
        while outcome.is_ok()
            && let Some(link) = self.closed_link(table, rows, *reading)
        {
            let until = |line: &ClockLine| !line.must_wait(clock);
            outcome = self.poll_line(table, link, started, until);
        }
        reading.gains = self.clocks.gains_seen;
        self.count_idle(started.elapsed());
        let partition = self.tables[table].layout.partition_of(rows.start);
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
        if self.tables[table].clock.is_none() {
            return Err(RequestError::NoClock);
        }
        let started = Instant::now();
        let mut generation = None;
        // Again from the first when the servers are others meanwhile.
        while generation != Some(self.cluster.generation) {
            generation = Some(self.cluster.generation);
            if let Some(partition) = self.unrouted(table) {
                // Its workers are at a server that no link leads to yet.
                let until =
                    started + self.session.options.retry_for.min(self.session.options.timeout);
                let error = self.unavailable(partition);
                let waited = self.wait_for_routes(self.cluster.generation, until, error);
                waited.map_err(|found| self.behind(found, WorkerClock(0)))?;
                continue;
            }
            for link in 0..self.links.all.len() {
                if self.cluster.servers[self.links.all[link].server_at].left {
                    continue;
                }
                // Nobody has to be missed where there are no rows, and whoever has to have some says
                // nothing while they are on their way.
                let Some(has_rows) = self.has_rows(table, link) else { continue };
                let is_enough =
                    |line: &ClockLine| line.live >= count && !(has_rows && line.live == u64::MAX);
                let waited = self.poll_line(table, link, started, is_enough);
                waited.map_err(|found| match found {
                    Waited::Failed(error) => error,
                    Waited::TooLong(line) => RequestError::Missing {
                        live: if line.live == u64::MAX { 0 } else { line.live },
                        expected: count,
                        timeout: self.session.options.timeout,
                    },
                })?;
            }
        }
        Ok(())
    }

    /// A partition with rows of a table that no link leads to.
    fn unrouted(&self, table: TableIndex) -> Option<PartitionId> {
        let state = &self.tables[table];
        let mut partitions = (0..self.cluster.map.partition_count()).map(PartitionId);
        partitions.find(|partition| {
            state.may_have_rows_in(*partition)
                && self.cluster.tails.link_of(*partition) >= self.links.all.len()
        })
    }

    /// Whether pulls read rows of a table at a link, by the map; `None` where it has no part in any.
    fn has_rows(&self, table: TableIndex, link: usize) -> Option<bool> {
        let (state, known) = (&self.tables[table], &self.links.all[link]);
        let shard_count = self.cluster.servers[known.server_at].shard_count;
        let mut has_rows = None;
        for (partition, chain) in (0..).map(PartitionId).zip(&self.cluster.map.chains) {
            if state.may_have_rows_in(partition)
                && shard_of(partition, shard_count) == known.shard
                && chain.servers.contains(&known.server)
            {
                let is_read = self.cluster.tails.link_of(partition) == link;
                has_rows = Some(has_rows == Some(true) || is_read);
            }
        }
        has_rows
    }

    /// Idle time is what waiting for slower workers has cost.
    pub(in crate::core) fn count_idle(&mut self, time: Duration) {
        self.pending.counters.clock_waits += 1;
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.pending.counters.clock_wait_us =
            self.pending.counters.clock_wait_us.saturating_add(time);
    }

    fn behind(&self, found: Waited, clock: WorkerClock) -> RequestError {
        match found {
            Waited::Failed(error) => error,
            Waited::TooLong(line) => RequestError::Behind {
                slowest: WorkerClock(line.minimum),
                needed: WorkerClock(line.needed(clock)),
                timeout: self.session.options.timeout,
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
        let (mut checked, mut asked) = (started, 0);
        let generation = self.cluster.generation;
        loop {
            let line = match self.read_line(table, link) {
                Ok(line) => line,
                Err(error) if self.is_passing(&error) => {
                    let until = started + self.session.options.retry_for;
                    return self.wait_for_routes(generation, until, error);
                }
                Err(error) => return Err(Waited::Failed(error)),
            };
            if wanted(&line) {
                return Ok(());
            }
            self.poll();
            if self.cluster.generation != generation {
                return Ok(());
            }
            let waited = started.elapsed();
            if waited >= self.session.options.timeout {
                return Err(Waited::TooLong(line));
            }
            if waited < self.session.options.spin {
                self.links.spin.idle();
                continue;
            }
            if checked.elapsed() >= CHECK_INTERVAL {
                checked = Instant::now();
                self.check_servers();
                self.session.watching.ask().map_err(Waited::Failed)?;
                self.note_idle(checked);
                if line.live == u64::MAX && waited >= ask_after(asked) {
                    // Its rows are somewhere else by a map that nothing else may tell of.
                    asked += 1;
                    self.suspect(asked);
                }
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
        while self.cluster.generation == generation {
            if Instant::now() >= until {
                return Err(Waited::Failed(error));
            }
            self.wait_a_little(&mut patience).map_err(Waited::Failed)?;
        }
        Ok(())
    }

    /// The line of a table at one shard, as it is now.
    fn read_line(&mut self, table: TableIndex, link: usize) -> Result<ClockLine, RequestError> {
        let server = self.links.all.get(link).map_or(ServerId(0), |link| link.server);
        let gone = || RequestError::ServerGone { server };
        if self.links.all.get(link).is_none_or(|link| link.failed) {
            return Err(gone());
        }
        if self.line(table, link).is_none() {
            self.rejoin(table, link).map_err(|error| match error {
                TableError::Interrupted => RequestError::Interrupted,
                error if self.may_pass(&error) => gone(),
                error => RequestError::Setup { text: chain(&error) },
            })?;
            if self.tables[table].clock.as_ref().is_some_and(|clock| clock.owes) {
                self.start_trouble();
            }
        }
        let Some(line) = self.line(table, link) else { return Ok(ClockLine::OPEN) };
        let seen = match line.view {
            Some(view) => look(view),
            None => self.fetch_line(line.at, link)?,
        };
        self.saw_line(table, link, seen);
        Ok(seen)
    }

    /// Reads a line over a network: once where words come whole, and else until two reads, one begun when
    /// the other has ended, bring the same.
    fn fetch_line(&mut self, at: RemoteAddress, link: usize) -> Result<ClockLine, RequestError> {
        loop {
            let (first, second) = self.fetch_words(at, link)?;
            if first == second {
                return Ok(ClockLine::from_words(first));
            }
            self.pending.counters.reads_retried += 1;
        }
    }

    /// Reads the words of a line, twice where they may be torn.
    fn fetch_words(
        &mut self,
        at: RemoteAddress,
        link: usize,
    ) -> Result<([u64; 4], [u64; 4]), RequestError> {
        let chunk = self.allocate_chunk(2 * LINE_LEN)?;
        let queue_pair = self.links.all[link].queue_pair;
        let is_same = |core: &Self| {
            let link = &core.links.all[link];
            !link.failed && link.queue_pair == queue_pair
        };
        let mut patience = None;
        let mut outcome = Ok(());
        while outcome.is_ok() && is_same(self) && self.links.all[link].sender.room() < 2 {
            outcome = self.wait_a_little(&mut patience);
        }
        self.clocks.poll = Poll { number: self.clocks.poll.number + 1, link, completed: None };
        if outcome.is_ok() && is_same(self) {
            let transport = self.links.all[link].transport;
            self.register_staging(transport)?;
            let Some(local) = self.pending.memory.staged(transport, chunk, LINE_LEN) else {
                unreachable!("the staging area was registered")
            };
            // Gains first, then the clock.
            let gains = LocalSlice { len: 8, ..local };
            let rest = LocalSlice { offset: local.offset + 8, len: local.len - 8, ..local };
            let behind = RemoteAddress { address: at.address.wrapping_add(8), ..at };
            let ends = Some(WorkId(CLOCK_READ | self.clocks.poll.number));
            let link_at = link;
            let link = &mut self.links.all[link_at];
            if !link.promises.reads_words_whole {
                let again = LocalSlice { offset: local.offset + LINE_LEN, ..local };
                link.sender.push_read((local, at), false, None);
                link.sender.push_read((again, at), true, ends);
            } else if link.promises.reads_in_order {
                link.sender.push_read((local, at), false, ends);
            } else {
                link.sender.push_read((gains, at), false, None);
                link.sender.push_read((rest, behind), true, ends);
            }
            self.flush(link_at);
        } else {
            self.clocks.poll.completed = Some(false);
        }
        while outcome.is_ok() && self.clocks.poll.completed.is_none() {
            outcome = self.wait_a_little(&mut patience);
        }
        // A read that is still under way may write to its chunk: that is nobody's from now on.
        outcome?;
        if self.clocks.poll.completed != Some(true) {
            self.pending.memory.release(chunk);
            return Err(RequestError::ServerGone { server: self.links.all[link].server });
        }
        let pages = self.pending.memory.staging_pages();
        let words_at = |from: u64| [0, 8, 16, 24].map(|word| pages.load_u64(from + word));
        let first = words_at(chunk.offset);
        let second = match self.links.all[link].promises.reads_words_whole {
            true => first,
            false => words_at(chunk.offset + LINE_LEN),
        };
        self.pending.memory.release(chunk);
        Ok((first, second))
    }

    /// A poll has completed.
    pub(in crate::core) fn end_clock_read(&mut self, work_id: WorkId, succeeded: bool) {
        if work_id.0 == CLOCK_READ | self.clocks.poll.number {
            self.clocks.poll.completed = Some(succeeded);
        }
    }

    /// A poll at a link that is gone is over.
    pub(in crate::core) fn fail_clock_read(&mut self, link: usize) {
        if self.clocks.poll.link == link {
            self.clocks.poll.completed.get_or_insert(false);
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
    ClockLine::from_words([0, 8, 16, 24].map(|word| load_word(view, word)))
}
