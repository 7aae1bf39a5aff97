//! Being a worker of a table: joining its clock, again wherever a shard may know less, and telling
//! the shards when a round is finished.

use std::time::Duration;

use windlass_wire::{Aggregation, RequestHeader, RequestKind, WorkerClock, control::ClientRequest};

use super::{TableClock, is_clocked};
use crate::{
    config::PushOptions,
    core::{
        Clocks, Cluster, Core, RequestId, RetryQueue, Session, TableIndex, Tables,
        connect::chain,
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

    /// Waits until the worker may be in one more round than those it has ended; returns whether any
    /// of its tables is in rounds.
    fn await_rounds(&mut self) -> Result<bool, RequestError> {
        let in_rounds = self.tables.indices().any(|table| self.tables.is_in_rounds(table));
        while in_rounds && let Some(oldest) = self.rounds.oldest_end() {
            self.wait_for(oldest)?;
        }
        Ok(in_rounds)
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
    pub(super) fn clock_header(
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
