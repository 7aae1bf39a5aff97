//! A peer has attached its mailbox.

use windlass_wire::control::Peer;

use super::{Chain, outputs, receive::Incoming};
use crate::shard::{disconnect, port::Port, tables::Tables};
/// A peer's session has its mailbox: messages come from now on.
pub(in crate::shard) fn peer_attached(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    slot: usize,
    peer: Peer,
) {
    // What still lies in an older mailbox is not in order with what comes by this one.
    let same = |incoming: &Incoming| incoming.peer.server == peer.server;
    let older = chain.peers.incoming.iter().position(same).map(|at| chain.forget_incoming(at));
    chain.peers.incoming.push(Incoming::new(slot, peer));
    let session = older.and_then(|older| port.sessions[older.slot].as_ref());
    if let Some(session) = session.map(|open| open.owner.id) {
        disconnect::close_session(port, tables, chain, session);
    }
    outputs::peer_connected(port, tables, chain, peer.server);
}
