//! A session ends: by its client, by a failure, or because another takes its place.

use windlass_wire::SessionId;

use super::{chain, chain::Chain, connect, port::Port, rounds, tables::Tables};
pub(in crate::shard) fn close_session(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    session: SessionId,
) {
    let Some(slot) = port.by_session.remove(&session) else { return };
    let open = port.sessions.remove(slot).expect("a session that is listed has its slot");
    chain.end_taking(slot);
    port.by_queue_pair.remove(&(open.route.transport, open.route.queue_pair));
    let transport = &mut port.transports[open.route.transport];
    transport.disconnect(open.route.queue_pair);
    if let Some(mailbox) = &open.mailbox {
        transport.deregister(&mailbox.region);
    }
    for parked in open.parked {
        port.abandon(parked);
    }
    tables.forget_pulls(session);
    rounds::forget_round_waits(port, tables, slot, open.life);
    tables.silence_workers(session);
    if open.owner.peer.is_some() {
        chain::peer_detached(chain, slot);
    }
    // What was posted completes as flushed; what was not never will.
    for work_id in open.mailbox.iter().flat_map(|mailbox| mailbox.sender.unposted()) {
        port.end_outstanding(work_id, false);
    }
    connect::sweep_arena(port, tables);
}
