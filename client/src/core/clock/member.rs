//! A worker of a table: joins the clock, joins again at shards that may have forgotten it, and tells the
//! shards when it finishes a round.

use std::time::Duration;

use windlass_wire::{Aggregation, WorkerClock, control::ClientRequest};

use super::{TableClock, is_clocked, join::join_at};
use crate::{
    core::{
        Cluster, Core, RequestId, Session, TableIndex, Tables,
        begin::begin_now,
        connect::chain,
        message::Message,
        send::{put_off, send},
    },
    error::{RequestError, TableError},
};

/// How long a server is waited for that is told farewell.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Becomes a worker of a table that keeps clocks, if this client has a rank: its clock is at
/// least the one that the table's other workers are at.
pub(in crate::core) fn join_clock(core: &mut Core, table: TableIndex) -> Result<(), TableError> {
    if !is_clocked(&core.tables[table].entry.schema) || core.tables[table].clock.is_some() {
        return Ok(());
    }
    core.tables[table].clock = Some(TableClock { lines: Vec::new(), owes: false });
    let mut least = None;
    for link in 0..core.links.all.len() {
        let clock = match join_at(core, table, link) {
            Ok(clock) => clock,
            // It is joined once it is reached.
            Err(error) if core.session.may_pass(&error) => continue,
            Err(error) => {
                core.tables[table].clock = None;
                return Err(error);
            }
        };
        least = Some(least.map_or(clock, |least: WorkerClock| least.min(clock)));
        if core.session.options.rank.is_some() {
            core.clocks.own = core.clocks.own.max(clock);
        }
    }
    if core.session.options.rank.is_some() && least.is_some_and(|least| least < core.clocks.own) {
        // Shards that saw less of this job must not hold the others up.
        let in_rounds = core.tables.aggregation_of(table) != (Aggregation::Immediate {});
        // The answer comes when the others have been told as much.
        let told = announce(core, table).and_then(|request| match in_rounds {
            true => Ok(()),
            false => core.wait_for(request),
        });
        told.map_err(|error| TableError::Clock { source: Box::new(error) })?;
    }
    // Who leads by a newer map may not have heard of this worker.
    core.suspect(0);
    Ok(())
}

/// An empty push over the whole of every table that keeps clocks: the worker has finished a
/// round.
pub(crate) fn advance_clock(core: &mut Core) -> Result<RequestId, RequestError> {
    let tables = core.tables.iter();
    let clocked = tables.filter(|table| !table.dropped && table.clock.is_some()).count();
    if clocked > 0 && core.session.options.rank.is_none() {
        return Err(RequestError::NoRank);
    }
    let in_rounds = await_rounds(core)?;
    let request = begin_now(core, None, false)?;
    core.clocks.own.0 += 1;
    let mut sent = Ok(());
    for table in core.tables.indices() {
        sent = sent.and_then(|()| send_clock(core, table, request));
    }
    core.pending.end_sending(request);
    if in_rounds {
        core.rounds.note_round_end(request);
    }
    sent.map(|()| request)
}

/// Waits until the worker may be in one more round than those it has ended; returns whether any
/// of its tables is in rounds.
fn await_rounds(core: &mut Core) -> Result<bool, RequestError> {
    let in_rounds = core.tables.indices().any(|table| core.tables.is_in_rounds(table));
    while in_rounds && let Some(oldest) = core.rounds.oldest_end() {
        core.wait_for(oldest)?;
    }
    Ok(in_rounds)
}

/// Tells the shards of one table where this worker is.
fn announce(core: &mut Core, table: TableIndex) -> Result<RequestId, RequestError> {
    let request = begin_now(core, None, false)?;
    let sent = send_clock(core, table, request);
    core.pending.end_sending(request);
    sent.map(|()| request)
}

fn send_clock(core: &mut Core, table: TableIndex, request: RequestId) -> Result<(), RequestError> {
    let state = &core.tables[table];
    if state.dropped || state.clock.is_none() {
        return Ok(());
    }
    for link in 0..core.links.all.len() {
        if core.cluster.servers[core.links.all[link].server_at].left {
            continue;
        }
        if core.links.all[link].is_open() && core.tables.line(table, link).is_none() {
            match join_at(core, table, link) {
                Err(TableError::Interrupted) => return Err(RequestError::Interrupted),
                Err(error) if !core.session.may_pass(&error) => {
                    return Err(RequestError::Setup { text: chain(&error) });
                }
                Ok(_) | Err(_) => {}
            }
        }
        let header = core.session.clock_header(&core.tables, &core.clocks, &core.cluster, table);
        let message = Message { request, ..Message::bare(header) };
        core.settle_lost();
        if core.retries.holds_back(&core.tables, table) {
            // It goes to all links, once what is before it can be sent.
            return put_off(core, core.cluster.route(link), &message);
        }
        let route = core.cluster.route(link);
        send(core, route, &message)?;
    }
    Ok(())
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
