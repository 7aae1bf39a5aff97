//! The chains' share of every turn.

use std::time::Duration;

use windlass_replication::{Input, Time};
use windlass_wire::ShardId;

use super::{
    Chain, aging, answer, clocks, copy_out, disk, expiry, outputs, receive, receive::Incoming, rows,
};
use crate::{
    limits::{CHAIN_HEAD_LEN_MAX, CHAIN_HELD_LEN_MAX, CHAIN_INFLIGHT_MAX},
    shard::{disk::Disk, durable::Durable, growth, port::Port, tables::Tables, wait::Pace},
};

/// Turns of a settled shard between looks at the clock: nobody waits for a promise of it.
const TURNS_PER_TICK: u32 = 32;

/// How soon a shard looks again when a peer had no room.
const BACKLOG_WAIT: Duration = Duration::from_micros(100);

/// The beginning of a turn: what is due by now. Between turns the chain's time stands still, which
/// only makes it wait a little longer; who makes promises looks at the clock.
pub(in crate::shard) fn note_time(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &Disk,
) {
    // Before the first map nobody expects anything of it.
    if !chain.map.is_founded() {
        return;
    }
    if chain.is_settled() && chain.time.turns_to_tick > 0 {
        chain.time.turns_to_tick -= 1;
        return;
    }
    chain.time.turns_to_tick = TURNS_PER_TICK;
    chain.time.now = chain.context.leases.now();
    if chain.time.now >= chain.time.next_tick {
        tick_chain(port, tables, chain, disk);
    }
    answer::give_up_answers(port, chain, false);
}

/// Takes what peers sent. Returns whether there was anything.
pub(in crate::shard) fn take_from_peers(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
    pace: Pace,
) -> bool {
    if chain.peers.links.is_empty() && chain.peers.incoming.is_empty() {
        tables.publish_clocks();
        return false;
    }
    let answered =
        (pace == Pace::Turn || chain.is_answered()) && receive::take_answers(port, tables, chain);
    let drained = receive::drain_peers(port, tables, chain, disk, pace);
    tables.publish_clocks();
    answered || drained
}

/// Whether pushes have to stay in their mailboxes until the chain has caught up.
pub(in crate::shard) fn is_chain_full(chain: &Chain, disk: &Disk) -> bool {
    if chain.is_settled() {
        // Records are made where there is room for them: see `held_back`.
        return chain.kept.spare.held_len > CHAIN_HEAD_LEN_MAX;
    }
    chain.kept.spare.held_len > CHAIN_HEAD_LEN_MAX
        || chain.kept.inflight_count > CHAIN_INFLIGHT_MAX
        || !has_log_room(chain, disk.durable.as_deref())
}

/// The end of a turn: sends what waits, lets go of what nobody needs. Returns whether there was
/// anything.
pub(in crate::shard) fn end_chain_turn(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
    pace: Pace,
) -> bool {
    clocks::record_workers(port, tables, chain);
    tables.publish_clocks();
    if chain.is_quiet() {
        return false;
    }
    let mut worked = false;
    let (parts, shard_count) = (&chain.parts, usize::from(chain.shard_count));
    for link in &mut chain.peers.links {
        if pace == Pace::Errand && link.pending.is_empty() {
            continue;
        }
        let transport = port.transports[link.transport].as_mut();
        let sent = link.flush(transport, |partition| {
            parts.get(partition.0 as usize / shard_count)?.as_deref()
        });
        worked |= sent;
        let its = |incoming: &&Incoming| incoming.peer.server == link.peer.server;
        if sent
            && let Some(incoming) = chain.peers.incoming.iter().find(its)
            && let Some(session) = &mut port.sessions[incoming.slot]
        {
            // It answers without a message, and has to know when nobody looks.
            session.watch.active = true;
        }
    }
    worked |= copy_out::copy_out_some(tables, chain);
    disk::log_records(tables, chain, disk);
    outputs::release_some_records(port, tables, chain);
    worked
}

/// When the chains want a turn at the latest.
pub(in crate::shard) fn chain_deadline(tables: &Tables, chain: &Chain) -> Option<Duration> {
    if !chain.map.is_founded() {
        return None;
    }
    let backlog =
        chain.copies_out > 0 || chain.peers.links.iter().any(|link| !link.pending.is_empty());
    if backlog || chain.disk.is_behind() {
        return Some(BACKLOG_WAIT);
    }
    let now = chain.context.leases.now();
    if !chain.is_settled() || chain.context.leases.has_peers() {
        return Some(Duration::from_micros(chain.time.next_tick.since(now)));
    }
    // Nobody waits for a tick but sessions that may be over, and rows that may be too old.
    let expires = chain.map.session_expiry_ms > 0;
    let next = expires.then_some(chain.time.next_expiry).into_iter().chain(tables.next_aging());
    next.min().map(|next| Duration::from_micros(next.since(now)))
}

/// Leases, holds that have run out, reports that may have been missed.
fn tick_chain(port: &mut Port, tables: &mut Tables, chain: &mut Chain, disk: &Disk) {
    let now = chain.time.now;
    chain.time.next_tick = now.after(chain.context.leases.tick_us());
    if chain.shard == ShardId(0) {
        let mut outputs = Vec::new();
        chain.context.leases.tick(&mut outputs);
        chain.carry_out_leases(&mut outputs);
    }
    for index in 0..chain.parts.len() {
        let Some(part) = chain.parts[index].as_deref_mut() else { continue };
        let partition = part.partition;
        if part.replica.wakes_at(Time(0)).is_some() {
            // A tick is always taken.
            let _ = outputs::step(port, tables, chain, partition, Input::Tick);
        }
    }
    expiry::expire_sessions(port, tables, chain);
    aging::age_rows(port, tables, chain, disk);
    disk::tick_disk(chain);
    rows::fence_stale_rows(tables, chain);
}

/// What the coordinator may have missed, told again: with every heartbeat.
pub(in crate::shard) fn repeat_reports(port: &mut Port, tables: &mut Tables, chain: &mut Chain) {
    growth::report_refused(tables, chain);
    let count = chain.parts.len();
    for index in 0..count {
        let part = chain.parts[index].as_deref();
        let Some(part) = part else { continue };
        if let Some(output) = part.replica.pending_report() {
            outputs::carry_out_output(port, tables, chain, part.partition, output);
        }
    }
}

/// Whether records of predecessors have to stay in their mailboxes.
pub(super) fn leaves_records(chain: &Chain, durable: Option<&Durable>) -> bool {
    chain.kept.spare.held_len > CHAIN_HELD_LEN_MAX || !has_log_room(chain, durable)
}

/// Whether a settled shard's log takes records that are given to it at the end of the turn.
pub(in crate::shard) fn has_room_for_records(chain: &Chain, durable: &Durable) -> bool {
    has_log_room(chain, Some(durable))
}

/// Whether the log has room for more records. Those that are here and not in it yet have to fit it as it
/// is: only a checkpoint brings room back, and none goes on before they are in the log.
fn has_log_room(chain: &Chain, durable: Option<&Durable>) -> bool {
    durable.is_none_or(|durable| {
        let log = durable.log();
        let unlogged = if chain.disk.is_behind() { chain.kept.spare.held_len } else { 0 };
        log.poison().is_some() || !log.is_nearly_full() && unlogged_fit(unlogged, log.room_bytes())
    })
}

/// Whether records of so many bytes surely fit so much of a log: a segment may end well before its end
/// when the next record is long.
const fn unlogged_fit(unlogged: u64, room: u64) -> bool {
    unlogged <= room / 2
}

#[cfg(test)]
mod tests;
