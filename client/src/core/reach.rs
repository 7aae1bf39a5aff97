//! Reaching the servers of the map: connecting to those that are new or came back.

use std::time::Instant;

use windlass_transport::error::chain;
use windlass_wire::{
    Durability, ShardId,
    map::{ServerEntry, ServerState},
};

use super::{
    Core, backoff::Backoff, control::Control, greet::Welcome, link::Link, requests::Failure,
    servers::ServerLink,
};
use crate::error::ConnectError;

/// Takes in a server of the map, who was greeted; links to its shards are made when something is first sent
/// there.
pub(super) fn reach(
    core: &mut Core,
    entry: &ServerEntry,
    mut control: Control,
    welcome: Welcome,
) -> Result<(), ConnectError> {
    let address = &entry.address;
    if welcome.server != entry.id || welcome.shard_count == 0 {
        return Err(ConnectError::Unexpected { address: address.clone() });
    }
    let mut notes = welcome.notes;
    let (provider, transport) =
        core.links.choose_provider(&core.session, &welcome.providers, &control, &mut notes)?;
    let known = core.cluster.servers.iter().position(|known| known.id == entry.id);
    let known = known.filter(|at| core.cluster.servers[*at].shard_count == welcome.shard_count);
    let server_at = known.unwrap_or(core.cluster.servers.len());
    // What was in flight is settled by being sent again.
    let before = known.map_or(0..0, |at| core.cluster.servers[at].links());
    for link in before {
        core.links.lose(link);
    }
    core.settle_lost();
    let mut links = Vec::with_capacity(usize::from(welcome.shard_count));
    let blank = core.links.blank(transport)?;
    for shard in (0..welcome.shard_count).map(ShardId) {
        links.push(Link::unmade((entry.id, server_at), shard, transport, blank));
    }
    control.set_limit(core.session.options.timeout);
    let server = ServerLink {
        id: entry.id,
        incarnation: welcome.life.0,
        started: welcome.life.1,
        control: Some(control),
        provider,
        shard_count: welcome.shard_count,
        first_link: known.map_or(core.links.all.len(), |at| core.cluster.servers[at].first_link),
        notes,
        silent: false,
        left: false,
        backoff: Backoff::new(Instant::now()),
    };
    match known {
        None => {
            core.links.all.extend(links);
            core.cluster.servers.push(server);
        }
        Some(at) => {
            let before = std::mem::replace(&mut core.cluster.servers[at], server);
            for (at, link) in before.links().zip(links) {
                let old = std::mem::replace(&mut core.links.all[at], link);
                core.links.end_registrations(&old);
            }
            core.pending.counters.reconnects += 1;
            if before.started != core.cluster.servers[at].started {
                note_new_process(core);
            }
        }
    }
    Ok(())
}

/// Makes the servers those of the map. Returns whether all of them are reached.
pub(super) fn reach_servers(core: &mut Core, now: Instant) -> bool {
    for at in 0..core.cluster.servers.len() {
        let entry = core.cluster.map.server(core.cluster.servers[at].id);
        if entry.is_none_or(|entry| entry.state == ServerState::Down) {
            core.cluster.leave(&mut core.links, at);
        }
    }
    let mut reached = true;
    for entry in core.cluster.map.servers.clone() {
        if entry.state == ServerState::Down {
            continue;
        }
        let known = core.cluster.servers.iter().position(|known| known.id == entry.id);
        let (limit, is_due) = match known.map(|at| &core.cluster.servers[at]) {
            Some(server) if !core.links.needs_reaching(server) => continue,
            Some(server) => (server.backoff.limit(), server.backoff.is_due(now)),
            None => (Backoff::new(now).limit(), true),
        };
        if !is_due {
            reached = false;
            continue;
        }
        let greeted = core.session.greet(&entry.address, limit);
        let linked = greeted.and_then(|(mut control, welcome)| {
            control.set_limit(limit);
            reach(core, &entry, control, welcome)
        });
        if let Err(ConnectError::Interrupted) = linked {
            core.session.watching.ended_another();
            return false;
        }
        if let Err(error) = linked {
            tracing::debug!(server = entry.id.0, error = chain(&error), "not reached");
            reached = false;
            let random = core.recovery.random();
            if let Some(at) = known {
                let server = &mut core.cluster.servers[at];
                server.backoff.fail(Instant::now(), random);
                server.silent = matches!(error, ConnectError::Timeout { .. });
                if server.silent {
                    // The others wait for the next step: who asked for this one has a deadline.
                    break;
                }
            }
        }
    }
    reached
}

/// A server came back as a new process. Where there is one copy of each row, those of tables
/// that are kept in memory only are gone: going on as if they were zero would be worse than to
/// say so.
fn note_new_process(core: &mut Core) {
    if core.cluster.map.replicas > 1 {
        return;
    }
    let mut lost = Vec::new();
    for table in core.tables.iter_mut() {
        if table.entry.schema.durability == (Durability::Memory {}) {
            table.rows_lost = true;
            lost.push(table.entry.id);
        }
    }
    for kept in std::mem::take(&mut core.retries.queue) {
        if lost.contains(&kept.header.table) {
            core.retries.drop_kept(&mut core.pending, &mut core.links, kept, Failure::RowsLost);
        } else {
            core.retries.queue.push_back(kept);
        }
    }
}
