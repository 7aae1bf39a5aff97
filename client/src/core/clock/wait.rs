//! Waits for slower workers by polling the clock that a shard publishes, in shared memory or by one-sided
//! reads.

use std::{
    sync::atomic::{Ordering, fence},
    time::{Duration, Instant},
};

use windlass_transport::fabric::PeerBytes;
use windlass_wire::{ClockLine, PartitionId, RowRange, ServerId, WorkerClock, map::shard_of};

use super::{TRUSTED_ROUNDS, fetch::fetch_line, join::rejoin};
use crate::{
    core::{
        Clocks, Cluster, Core, Links, Session, TableIndex, Tables, backoff::ask_after,
        connect::chain, requests::Reading, rounds::note_idle, view::load_word,
    },
    error::{RequestError, TableError},
};

/// Pauses between polls, once spinning has found nothing: each twice the one before.
const PAUSE_MIN: Duration = Duration::from_micros(20);
const PAUSE_MAX: Duration = Duration::from_micros(500);

/// How often the servers are looked at in a long wait.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Whether rows that were read are counted in the clocks by which that was allowed. They are not
/// where a shard got them after its clock was looked at: its gains tell, which are looked at again
/// unless these rows were found to be counted in at as many before.
pub(in crate::core) fn is_counted_in(
    core: &mut Core,
    table: TableIndex,
    rows: RowRange,
    reading: Reading,
) -> Result<bool, RequestError> {
    if reading.clock == WorkerClock(0) {
        return Ok(true);
    }
    // Rows first, then gains.
    fence(Ordering::Acquire);
    let layout = core.tables[table].layout;
    let (mut first, mut looked_at) = (rows.start, None);
    while first < rows.end {
        let partition = layout.partition_of(first);
        first = layout.rows_of(partition).end;
        let at = partition.0 as usize;
        let place = core.tables[table].places.find(reading.replica, at);
        let Some((link, counted_at)) = place.map(|place| (place.link, place.counted_at)) else {
            return Ok(false);
        };
        let Some(line) = core.tables.line(table, link) else { return Ok(false) };
        if line.view.is_some() || counted_at != Some(line.seen.gains) {
            // Partitions of one shard share its line.
            let looked = match looked_at.replace(link) {
                Some(before) if before == link => Ok(line.seen),
                _ => read_line(core, table, link),
            };
            match looked {
                Ok(line) if core.clocks.gains_seen == reading.gains => {
                    let places = core.tables[table].places.of_partition(at);
                    for place in places.filter(|place| place.link == link) {
                        place.counted_at = Some(line.gains);
                    }
                }
                Ok(_) => {}
                Err(error) if core.session.is_passing(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        if core.clocks.gains_seen != reading.gains {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a pull of rows at `clock` can be started without waiting, as far as is known or can
/// be seen without asking.
#[inline]
pub(in crate::core) fn may_pull(
    core: &mut Core,
    table: TableIndex,
    rows: RowRange,
    reading: &mut Reading,
) -> bool {
    if reading.clock == WorkerClock(0) {
        return true;
    }
    let Core { clocks, tables, links, cluster, .. } = core;
    let is_open = clocks.closed_link(tables, links, cluster, table, rows, *reading).is_none();
    reading.gains = clocks.gains_seen;
    is_open
}

/// Waits until the slowest worker allows a pull of rows at `clock`.
pub(in crate::core) fn wait_for_workers_at(
    core: &mut Core,
    table: TableIndex,
    rows: RowRange,
    reading: &mut Reading,
) -> Result<(), RequestError> {
    if may_pull(core, table, rows, reading) {
        return Ok(());
    }
    let clock = reading.clock;
    let started = Instant::now();
    let mut outcome = Ok(());
    while outcome.is_ok()
        && let Some(link) = core.clocks.closed_link(
            &mut core.tables,
            &core.links,
            &core.cluster,
            table,
            rows,
            *reading,
        )
    {
        let until = |line: &ClockLine| !line.must_wait(clock);
        outcome = poll_line(core, table, link, started, until);
    }
    reading.gains = core.clocks.gains_seen;
    core.pending.count_idle(started.elapsed());
    let partition = core.tables[table].layout.partition_of(rows.start);
    outcome.map_err(|found| match found {
        Waited::Failed(error) if core.session.is_passing(&error) => {
            core.cluster.unavailable(&core.session, partition)
        }
        found => core.session.behind(found, clock),
    })
}

/// Waits until so many workers of a table are live at every shard.
pub(crate) fn wait_for_workers(
    core: &mut Core,
    table: TableIndex,
    count: u64,
) -> Result<(), RequestError> {
    if core.tables[table].clock.is_none() {
        return Err(RequestError::NoClock);
    }
    let started = Instant::now();
    let mut generation = None;
    // Again from the first when the servers are others meanwhile.
    while generation != Some(core.cluster.generation) {
        generation = Some(core.cluster.generation);
        if let Some(partition) = core.cluster.unrouted(&core.tables, &core.links, table) {
            // Its workers are at a server that no link leads to yet.
            let until = started + core.session.options.retry_for.min(core.session.options.timeout);
            let error = core.cluster.unavailable(&core.session, partition);
            let waited = wait_for_routes(core, core.cluster.generation, until, error);
            waited.map_err(|found| core.session.behind(found, WorkerClock(0)))?;
            continue;
        }
        for link in 0..core.links.all.len() {
            if core.cluster.servers[core.links.all[link].server_at].left {
                continue;
            }
            // Nobody has to be missed where there are no rows, and whoever has to have some says
            // nothing while they are on their way.
            let Some(has_rows) = core.cluster.has_rows(&core.tables, &core.links, table, link)
            else {
                continue;
            };
            let is_enough =
                |line: &ClockLine| line.live >= count && !(has_rows && line.live == u64::MAX);
            let waited = poll_line(core, table, link, started, is_enough);
            waited.map_err(|found| match found {
                Waited::Failed(error) => error,
                Waited::TooLong(line) => RequestError::Missing {
                    live: if line.live == u64::MAX { 0 } else { line.live },
                    expected: count,
                    timeout: core.session.options.timeout,
                },
            })?;
        }
    }
    Ok(())
}

/// Polls one shard's line until it is as wanted, or another shard may be the one to ask.
fn poll_line(
    core: &mut Core,
    table: TableIndex,
    link: usize,
    started: Instant,
    wanted: impl Fn(&ClockLine) -> bool,
) -> Result<(), Waited> {
    let mut pause = PAUSE_MIN;
    let (mut checked, mut asked) = (started, 0);
    let generation = core.cluster.generation;
    loop {
        let line = match read_line(core, table, link) {
            Ok(line) => line,
            Err(error) if core.session.is_passing(&error) => {
                let until = started + core.session.options.retry_for;
                return wait_for_routes(core, generation, until, error);
            }
            Err(error) => return Err(Waited::Failed(error)),
        };
        if wanted(&line) {
            return Ok(());
        }
        core.poll();
        if core.cluster.generation != generation {
            return Ok(());
        }
        let waited = started.elapsed();
        if waited >= core.session.options.timeout {
            return Err(Waited::TooLong(line));
        }
        if waited < core.session.options.spin {
            core.links.spin.idle();
            continue;
        }
        if checked.elapsed() >= CHECK_INTERVAL {
            checked = Instant::now();
            core.cluster.check_servers(&mut core.tables, &mut core.links);
            core.session.watching.ask().map_err(Waited::Failed)?;
            note_idle(core, checked);
            if line.live == u64::MAX && waited >= ask_after(asked) {
                // Its rows are somewhere else by a map that nothing else may tell of.
                asked += 1;
                core.suspect(asked);
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Waits until routes are others than those of `generation`, because a shard is out of reach.
fn wait_for_routes(
    core: &mut Core,
    generation: u64,
    until: Instant,
    error: RequestError,
) -> Result<(), Waited> {
    core.recovery.start_trouble();
    let mut patience = None;
    while core.cluster.generation == generation {
        if Instant::now() >= until {
            return Err(Waited::Failed(error));
        }
        core.wait_a_little(&mut patience).map_err(Waited::Failed)?;
    }
    Ok(())
}

/// The line of a table at one shard, as it is now.
fn read_line(core: &mut Core, table: TableIndex, link: usize) -> Result<ClockLine, RequestError> {
    let server = core.links.all.get(link).map_or(ServerId(0), |link| link.server);
    let gone = || RequestError::ServerGone { server };
    if core.links.all.get(link).is_none_or(|link| link.state.failed) {
        return Err(gone());
    }
    if core.tables.line(table, link).is_none() {
        rejoin(core, table, link).map_err(|error| match error {
            TableError::Interrupted => RequestError::Interrupted,
            error if core.session.may_pass(&error) => gone(),
            error => RequestError::Setup { text: chain(&error) },
        })?;
        if core.tables[table].clock.as_ref().is_some_and(|clock| clock.owes) {
            core.recovery.start_trouble();
        }
    }
    let Some(line) = core.tables.line(table, link) else { return Ok(ClockLine::OPEN) };
    let seen = match line.view {
        Some(view) => look(view),
        None => fetch_line(core, line.at, link)?,
    };
    core.clocks.saw_line(&mut core.tables, table, link, seen);
    Ok(seen)
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
            && !links.all[link].state.failed
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
