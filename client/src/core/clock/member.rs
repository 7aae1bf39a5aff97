//! Being a worker of a table: joining its clock, again wherever a shard may know less, and telling
//! the shards when a round is finished.

use std::time::Duration;

use windlass_wire::{
    Aggregation, RequestHeader, RequestKind, WorkerClock,
    control::{ClientReply, ClientRequest, RefusalKind},
};

use super::{TableClock, is_clocked};
use crate::{
    config::PushOptions,
    core::{
        Clocks, Cluster, Core, RequestId, RetryQueue, Session, TableIndex, Tables,
        connect::chain,
        requests::NOBODY,
        send::{Message, Values},
        tables::is_passing,
    },
    error::{RequestError, TableError},
};

/// How long a server is waited for that is told farewell.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

impl Core {
    /// Becomes a worker of a table that keeps clocks, if this client has a rank: its clock is at
    /// least the one that the table's other workers are at.
    pub(in crate::core) fn join_clock(&mut self, table: TableIndex) -> Result<(), TableError> {
        if !is_clocked(&self.tables[table].entry.schema) || self.tables[table].clock.is_some() {
            return Ok(());
        }
        self.tables[table].clock = Some(TableClock { lines: Vec::new(), owes: false });
        let mut least = None;
        for link in 0..self.links.all.len() {
            let clock = match self.join_at(table, link) {
                Ok(clock) => clock,
                // It is joined once it is reached.
                Err(error) if self.session.may_pass(&error) => continue,
                Err(error) => {
                    self.tables[table].clock = None;
                    return Err(error);
                }
            };
            least = Some(least.map_or(clock, |least: WorkerClock| least.min(clock)));
            if self.session.options.rank.is_some() {
                self.clocks.own = self.clocks.own.max(clock);
            }
        }
        if self.session.options.rank.is_some() && least.is_some_and(|least| least < self.clocks.own)
        {
            // Shards that saw less of this job must not hold the others up.
            let in_rounds = self.tables.aggregation_of(table) != (Aggregation::Immediate {});
            // The answer comes when the others have been told as much.
            let told = self.announce(table).and_then(|request| match in_rounds {
                true => Ok(()),
                false => self.wait_for(request),
            });
            told.map_err(|error| TableError::Clock { source: Box::new(error) })?;
        }
        // Who leads by a newer map may not have heard of this worker.
        self.suspect(0);
        Ok(())
    }

    /// Joins a table's clock at one shard; returns the clock this worker has there.
    fn join_at(&mut self, table: TableIndex, at: usize) -> Result<WorkerClock, TableError> {
        let id = self.tables[table].entry.id;
        let link = &self.links.all[at];
        let request = ClientRequest::JoinClock { table: id, shard: link.shard };
        let at_server = link.server;
        if link.failed {
            return Err(TableError::OutOfReach { server: at_server });
        }
        self.links.make_link(&mut self.cluster, &mut self.session, at).map_err(
            |error| match error {
                _ if self.links.all[at].failed => TableError::OutOfReach { server: at_server },
                error => TableError::Link { source: Box::new(error) },
            },
        )?;
        let link = &self.links.all[at];
        let asked = self.cluster.servers[link.server_at].ask(&request, None);
        if asked.is_err() {
            self.check_servers();
        }
        let place = match asked? {
            ClientReply::ClockJoined { place } => place,
            ClientReply::Refused { status: RefusalKind::NoMailbox {}, .. } => {
                self.links.fail_forgotten(at);
                return Err(TableError::OutOfReach { server: at_server });
            }
            ClientReply::Refused { status, text } => {
                return Err(TableError::Refused { kind: status, text });
            }
            _ => return Err(TableError::Unexpected),
        };
        let line = self.links.line_at(at, &place).ok_or(TableError::Unexpected)?;
        if let Some(clock) = &mut self.tables[table].clock {
            if clock.lines.len() <= at {
                clock.lines.resize(at + 1, None);
            }
            clock.lines[at] = Some(line);
            self.clocks.gains_seen += 1;
        }
        Ok(place.clock)
    }

    /// Joins every table's clock where a link was made anew: its shard may know less of this worker.
    pub(in crate::core) fn rejoin_clocks(&mut self) {
        for table in self.tables.indices() {
            if self.tables[table].dropped || self.tables[table].clock.is_none() {
                continue;
            }
            for link in 0..self.links.all.len() {
                if self.links.all[link].is_open()
                    && self.tables.line(table, link).is_none()
                    && let Err(error) = self.rejoin(table, link)
                {
                    if let TableError::Interrupted = error {
                        return self.session.watching.ended_another();
                    }
                    tracing::debug!(error = chain(&error), "a clock is not joined");
                }
            }
        }
    }

    pub(super) fn rejoin(&mut self, table: TableIndex, link: usize) -> Result<(), TableError> {
        let known = self.join_at(table, link)?;
        if let Some(clock) = &mut self.tables[table].clock
            && self.session.options.rank.is_some()
            && known < self.clocks.own
        {
            clock.owes = true;
        }
        Ok(())
    }

    /// Tells shards that knew less of this worker where it is. What it pushed before has been sent.
    /// Returns whether all of them are told.
    pub(in crate::core) fn settle_clocks(&mut self) -> bool {
        let mut settled = true;
        for table in self.tables.indices() {
            let owes = self.tables[table].clock.as_ref().is_some_and(|clock| clock.owes);
            if !owes || self.tables[table].dropped {
                continue;
            }
            let told = !self.retries.holds_back(&self.tables, table)
                && (0..self.links.all.len()).all(|link| {
                    if self.tables.line(table, link).is_none() {
                        return true;
                    }
                    let header =
                        self.session.clock_header(&self.tables, &self.clocks, &self.cluster, table);
                    let (keys, values, reply) = (&[][..], Values::None, None);
                    let message =
                        Message { request: NOBODY, header, list: &[], keys, values, reply };
                    self.links.write_now(
                        &mut self.cluster,
                        &mut self.session,
                        &mut self.pending.memory,
                        link,
                        &message,
                    )
                });
            if let Some(clock) = &mut self.tables[table].clock {
                clock.owes = !told;
            }
            settled &= told;
        }
        settled
    }

    /// An empty push over the whole of every table that keeps clocks: the worker has finished a
    /// round.
    pub(crate) fn advance_clock(&mut self) -> Result<RequestId, RequestError> {
        let tables = self.tables.iter();
        let clocked = tables.filter(|table| !table.dropped && table.clock.is_some()).count();
        if clocked > 0 && self.session.options.rank.is_none() {
            return Err(RequestError::NoRank);
        }
        let in_rounds = self.await_rounds()?;
        let request = self.begin_now(None, false)?;
        self.clocks.own.0 += 1;
        let mut sent = Ok(());
        for table in self.tables.indices() {
            sent = sent.and_then(|()| self.send_clock(table, request));
        }
        self.pending.end_sending(request);
        if in_rounds {
            self.rounds.note_round_end(request);
        }
        sent.map(|()| request)
    }

    /// Tells the shards of one table where this worker is.
    fn announce(&mut self, table: TableIndex) -> Result<RequestId, RequestError> {
        let request = self.begin_now(None, false)?;
        let sent = self.send_clock(table, request);
        self.pending.end_sending(request);
        sent.map(|()| request)
    }

    fn send_clock(&mut self, table: TableIndex, request: RequestId) -> Result<(), RequestError> {
        let state = &self.tables[table];
        if state.dropped || state.clock.is_none() {
            return Ok(());
        }
        for link in 0..self.links.all.len() {
            if self.cluster.servers[self.links.all[link].server_at].left {
                continue;
            }
            if self.links.all[link].is_open() && self.tables.line(table, link).is_none() {
                match self.join_at(table, link) {
                    Err(TableError::Interrupted) => return Err(RequestError::Interrupted),
                    Err(error) if !self.session.may_pass(&error) => {
                        return Err(RequestError::Setup { text: chain(&error) });
                    }
                    Ok(_) | Err(_) => {}
                }
            }
            let header =
                self.session.clock_header(&self.tables, &self.clocks, &self.cluster, table);
            let message = Message {
                request,
                header,
                list: &[],
                keys: &[],
                values: Values::None,
                reply: None,
            };
            self.settle_lost();
            if self.retries.holds_back(&self.tables, table) {
                // It goes to all links, once what is before it can be sent.
                return self.put_off(self.cluster.route(link), &message);
            }
            let route = self.cluster.route(link);
            self.send(route, &message)?;
        }
        Ok(())
    }
}

impl Session {
    fn clock_header(
        &mut self,
        tables: &Tables,
        clocks: &Clocks,
        cluster: &Cluster,
        table: TableIndex,
    ) -> RequestHeader {
        let options = PushOptions { clock: Some(clocks.own), ..PushOptions::default() };
        self.header(tables, clocks, cluster, RequestKind::AdvanceClock, table, &options)
    }
}

impl RetryQueue {
    /// Whether pushes to a table wait to be sent again: a clock that overtook them would promise
    /// what is not there.
    pub(in crate::core) fn holds_back(&self, tables: &Tables, table: TableIndex) -> bool {
        let id = tables[table].entry.id;
        self.queue.iter().any(|kept| kept.header.kind.pushes() && kept.header.table == id)
    }
}

impl Cluster {
    /// Nobody waits for this client any more. Best effort: servers notice by themselves, later.
    pub(in crate::core) fn leave_clocks(&mut self, session: &Session, tables: &Tables) {
        let works = tables.iter().any(|table| table.clock.is_some() && !table.dropped);
        if !works || session.options.rank.is_none() || !session.sends_leave_notice {
            return;
        }
        for server in &mut self.servers {
            if server.control.as_ref().is_some_and(|control| !control.is_closed()) {
                let _ = server.ask(&ClientRequest::LeaveClocks {}, Some(FAREWELL_MAX));
            }
        }
    }
}

impl Session {
    /// Whether an operation that failed so may succeed once servers are reached again.
    pub(super) fn may_pass(&self, error: &TableError) -> bool {
        !self.options.retry_for.is_zero()
            && match error {
                TableError::Control(_)
                | TableError::Timeout { .. }
                | TableError::OutOfReach { .. } => true,
                TableError::Refused { kind, .. } => is_passing(*kind),
                _ => false,
            }
    }
}
