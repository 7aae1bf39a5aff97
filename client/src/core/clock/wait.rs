//! Waiting for slower workers: looking at the clock that a shard publishes, in place or by reads.

use std::{
    sync::atomic::{Ordering, fence},
    time::{Duration, Instant},
};

use windlass_transport::fabric::PeerBytes;
use windlass_wire::{ClockLine, PartitionId, RowRange, ServerId, WorkerClock, map::shard_of};

use super::TRUSTED_ROUNDS;
use crate::{
    core::{
        Clocks, Cluster, Core, Links, Pending, Session, TableIndex, Tables, connect::chain,
        progress::ask_after, requests::Reading, view::load_word,
    },
    error::{RequestError, TableError},
};

/// Pauses between polls, once spinning has found nothing: each twice the one before.
const PAUSE_MIN: Duration = Duration::from_micros(20);
const PAUSE_MAX: Duration = Duration::from_micros(500);

/// How often the servers are looked at in a long wait.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

impl Core {
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
            let Some(line) = self.tables.line(table, link) else { return Ok(false) };
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
                    Err(error) if self.session.is_passing(&error) => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            if self.clocks.gains_seen != reading.gains {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until the slowest worker allows a pull of rows at `clock`.
    pub(in crate::core) fn wait_for_workers_at(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        reading: &mut Reading,
    ) -> Result<(), RequestError> {
        if self.clocks.may_pull(&mut self.tables, &self.links, &self.cluster, table, rows, reading)
        {
            return Ok(());
        }
        let clock = reading.clock;
        let started = Instant::now();
        let mut outcome = Ok(());
        while outcome.is_ok()
            && let Some(link) = self.clocks.closed_link(
                &mut self.tables,
                &self.links,
                &self.cluster,
                table,
                rows,
                *reading,
            )
        {
            let until = |line: &ClockLine| !line.must_wait(clock);
            outcome = self.poll_line(table, link, started, until);
        }
        reading.gains = self.clocks.gains_seen;
        self.pending.count_idle(started.elapsed());
        let partition = self.tables[table].layout.partition_of(rows.start);
        outcome.map_err(|found| match found {
            Waited::Failed(error) if self.session.is_passing(&error) => {
                self.cluster.unavailable(&self.session, partition)
            }
            found => self.session.behind(found, clock),
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
            if let Some(partition) = self.cluster.unrouted(&self.tables, &self.links, table) {
                // Its workers are at a server that no link leads to yet.
                let until =
                    started + self.session.options.retry_for.min(self.session.options.timeout);
                let error = self.cluster.unavailable(&self.session, partition);
                let waited = self.wait_for_routes(self.cluster.generation, until, error);
                waited.map_err(|found| self.session.behind(found, WorkerClock(0)))?;
                continue;
            }
            for link in 0..self.links.all.len() {
                if self.cluster.servers[self.links.all[link].server_at].left {
                    continue;
                }
                // Nobody has to be missed where there are no rows, and whoever has to have some says
                // nothing while they are on their way.
                let Some(has_rows) = self.cluster.has_rows(&self.tables, &self.links, table, link)
                else {
                    continue;
                };
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
                Err(error) if self.session.is_passing(&error) => {
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
        self.recovery.start_trouble();
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
        if self.tables.line(table, link).is_none() {
            self.rejoin(table, link).map_err(|error| match error {
                TableError::Interrupted => RequestError::Interrupted,
                error if self.session.may_pass(&error) => gone(),
                error => RequestError::Setup { text: chain(&error) },
            })?;
            if self.tables[table].clock.as_ref().is_some_and(|clock| clock.owes) {
                self.recovery.start_trouble();
            }
        }
        let Some(line) = self.tables.line(table, link) else { return Ok(ClockLine::OPEN) };
        let seen = match line.view {
            Some(view) => look(view),
            None => self.fetch_line(line.at, link)?,
        };
        self.clocks.saw_line(&mut self.tables, table, link, seen);
        Ok(seen)
    }
}

impl Pending {
    /// Idle time is what waiting for slower workers has cost.
    pub(in crate::core) fn count_idle(&mut self, time: Duration) {
        self.counters.clock_waits += 1;
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.counters.clock_wait_us = self.counters.clock_wait_us.saturating_add(time);
    }
}

impl Session {
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
}

impl Clocks {
    /// The clock of a pull made now: the round this worker is in. 0, which never waits, where
    /// nobody is waited for or this client is no worker.
    pub(in crate::core) fn pull_clock(
        &self,
        session: &Session,
        tables: &Tables,
        table: TableIndex,
    ) -> WorkerClock {
        match (&tables[table].clock, session.options.rank) {
            (Some(_), Some(_)) => WorkerClock(self.own.0 + 1),
            _ => WorkerClock(0),
        }
    }

    /// Whether a pull of rows at `clock` can be started without waiting, as far as is known or can
    /// be seen without asking.
    pub(in crate::core) fn may_pull(
        &mut self,
        tables: &mut Tables,
        links: &Links,
        cluster: &Cluster,
        table: TableIndex,
        rows: RowRange,
        reading: &mut Reading,
    ) -> bool {
        if reading.clock == WorkerClock(0) {
            return true;
        }
        let is_open = self.closed_link(tables, links, cluster, table, rows, *reading).is_none();
        reading.gains = self.gains_seen;
        is_open
    }

    /// Takes note of a shard's line.
    fn saw_line(&mut self, tables: &mut Tables, table: TableIndex, link: usize, seen: ClockLine) {
        if let Some(clock) = &mut tables[table].clock
            && let Some(Some(line)) = clock.lines.get_mut(link)
        {
            self.gains_seen += u64::from(line.seen.gains != seen.gains);
            line.seen = seen;
            line.seen_at = self.own.0;
        }
    }

    /// A link to rows whose shard does not let a pull at `clock` go on.
    fn closed_link(
        &mut self,
        tables: &mut Tables,
        links: &Links,
        cluster: &Cluster,
        table: TableIndex,
        rows: RowRange,
        reading: Reading,
    ) -> Option<usize> {
        let layout = tables[table].layout;
        let mut first = rows.start;
        while first < rows.end {
            let (link, part) = cluster.rows_at_one_link(reading.replica, &layout, first, rows.end);
            if !self.is_open(tables, links, table, link, reading.clock) {
                return Some(link);
            }
            first = part.end;
        }
        None
    }

    /// Whether one shard lets a pull at `clock` go on.
    fn is_open(
        &mut self,
        tables: &mut Tables,
        links: &Links,
        table: TableIndex,
        link: usize,
        clock: WorkerClock,
    ) -> bool {
        if tables[table].clock.is_none() {
            return true;
        }
        let Some(mut line) = tables.line(table, link) else { return false };
        if let Some(view) = line.view
            && !links.all[link].failed
        {
            line.seen = look(view);
            self.saw_line(tables, table, link, line.seen);
        } else if self.own.0 > line.seen_at + TRUSTED_ROUNDS {
            return false;
        }
        !line.seen.must_wait(clock)
    }
}

impl Cluster {
    /// A partition with rows of a table that no link leads to.
    fn unrouted(&self, tables: &Tables, links: &Links, table: TableIndex) -> Option<PartitionId> {
        let state = &tables[table];
        let mut partitions = (0..self.map.partition_count()).map(PartitionId);
        partitions.find(|partition| {
            state.may_have_rows_in(*partition) && self.tails.link_of(*partition) >= links.all.len()
        })
    }

    /// Whether pulls read rows of a table at a link, by the map; `None` where it has no part in any.
    fn has_rows(
        &self,
        tables: &Tables,
        links: &Links,
        table: TableIndex,
        link: usize,
    ) -> Option<bool> {
        let (state, known) = (&tables[table], &links.all[link]);
        let shard_count = self.servers[known.server_at].shard_count;
        let mut has_rows = None;
        for (partition, chain) in (0..).map(PartitionId).zip(&self.map.chains) {
            if state.may_have_rows_in(partition)
                && shard_of(partition, shard_count) == known.shard
                && chain.servers.contains(&known.server)
            {
                let is_read = self.tails.link_of(partition) == link;
                has_rows = Some(has_rows == Some(true) || is_read);
            }
        }
        has_rows
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
