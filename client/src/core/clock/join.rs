//! Joins a table's clock at a shard, and joins again after a reconnect.

use windlass_wire::{
    WorkerClock,
    control::{ClientReply, ClientRequest, RefusalKind},
};

use crate::{
    core::{Core, TableIndex, connect::chain, message::Message},
    error::TableError,
};

/// Joins a table's clock at one shard; returns the clock this worker has there.
pub(super) fn join_at(
    core: &mut Core,
    table: TableIndex,
    at: usize,
) -> Result<WorkerClock, TableError> {
    let id = core.tables[table].entry.id;
    let link = &core.links.all[at];
    let request = ClientRequest::JoinClock { table: id, shard: link.shard };
    let at_server = link.server;
    if link.state.failed {
        return Err(TableError::OutOfReach { server: at_server });
    }
    core.links.make_link(&mut core.cluster, &mut core.session, at).map_err(
        |error| match error {
            _ if core.links.all[at].state.failed => TableError::OutOfReach { server: at_server },
            error => TableError::Link { source: Box::new(error) },
        },
    )?;
    let link = &core.links.all[at];
    let asked = core.cluster.servers[link.server_at].ask(&request, None);
    if asked.is_err() {
        core.cluster.check_servers(&mut core.tables, &mut core.links);
    }
    let place = match asked? {
        ClientReply::ClockJoined { place } => place,
        ClientReply::Refused { status: RefusalKind::NoMailbox {}, .. } => {
            core.links.fail_forgotten(at);
            return Err(TableError::OutOfReach { server: at_server });
        }
        ClientReply::Refused { status, text } => {
            return Err(TableError::Refused { kind: status, text });
        }
        _ => return Err(TableError::Unexpected),
    };
    let line = core.links.line_at(at, &place).ok_or(TableError::Unexpected)?;
    if let Some(clock) = &mut core.tables[table].clock {
        if clock.lines.len() <= at {
            clock.lines.resize(at + 1, None);
        }
        clock.lines[at] = Some(line);
        core.clocks.gains_seen += 1;
    }
    Ok(place.clock)
}

/// Joins every table's clock where a link was made anew: its shard may know less of this worker.
pub(in crate::core) fn rejoin_clocks(core: &mut Core) {
    for table in core.tables.indices() {
        if core.tables[table].dropped || core.tables[table].clock.is_none() {
            continue;
        }
        for link in 0..core.links.all.len() {
            if core.links.all[link].is_open()
                && core.tables.line(table, link).is_none()
                && let Err(error) = rejoin(core, table, link)
            {
                if let TableError::Interrupted = error {
                    return core.session.watching.ended_another();
                }
                tracing::debug!(error = chain(&error), "a clock is not joined");
            }
        }
    }
}

pub(super) fn rejoin(core: &mut Core, table: TableIndex, link: usize) -> Result<(), TableError> {
    let known = join_at(core, table, link)?;
    if let Some(clock) = &mut core.tables[table].clock
        && core.session.options.rank.is_some()
        && known < core.clocks.own
    {
        clock.owes = true;
    }
    Ok(())
}

/// Tells shards that knew less of this worker where it is. What it pushed before has been sent.
/// Returns whether all of them are told.
pub(in crate::core) fn settle_clocks(core: &mut Core) -> bool {
    let mut settled = true;
    for table in core.tables.indices() {
        let owes = core.tables[table].clock.as_ref().is_some_and(|clock| clock.owes);
        if !owes || core.tables[table].dropped {
            continue;
        }
        let told = !core.retries.holds_back(&core.tables, table)
            && (0..core.links.all.len()).all(|link| {
                if core.tables.line(table, link).is_none() {
                    return true;
                }
                let header =
                    core.session.clock_header(&core.tables, &core.clocks, &core.cluster, table);
                let message = Message::bare(header);
                core.links.write_now(
                    &mut core.cluster,
                    &mut core.session,
                    &mut core.pending.memory,
                    link,
                    &message,
                )
            });
        if let Some(clock) = &mut core.tables[table].clock {
            clock.owes = !told;
        }
        settled &= told;
    }
    settled
}
