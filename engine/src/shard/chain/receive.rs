//! Takes in what peers wrote into this shard's mailboxes. No byte is trusted.

use windlass_replication::{Input, Position, Time};
use windlass_wire::{
    ServerId, Status,
    chain::{BODY_LEN_MAX, ChainFrame, ChainPosition, HEADER_LEN},
    control::Peer,
};

use super::{
    Chain, ServerEvent, answer,
    answer::{Answers, Records, Taking},
    copy_in,
    copy_in::CopyOrigin,
    outputs, records_in,
    records_in::Piece,
};
use crate::{
    limits::PEER_MESSAGES_PER_TURN,
    shard::{disk::Disk, port::Port, tables::Tables, wait::Pace},
};

/// A peer's mailbox here.
pub(super) struct Incoming {
    pub(super) slot: usize,
    pub(super) peer: Peer,
    /// A record of which pieces have come.
    pub(super) assembly: Option<records_in::Assembly>,
    /// Pieces of a part of a copy.
    copied: Vec<u8>,
    pub(super) answers: Answers,
}

impl Incoming {
    pub(super) fn new(slot: usize, peer: Peer) -> Self {
        Self { slot, peer, assembly: None, copied: Vec::new(), answers: Answers::default() }
    }
}

/// What came of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// With records, of which the replica took the last, or did not; `is_soon` when they do not wait for
    /// disks.
    Records {
        records: Records,
        is_soon: bool,
    },
    /// There is no room for it now.
    Left,
    /// It makes no sense.
    Bad(&'static str),
}

/// Takes what peers sent; returns whether there was anything.
pub(super) fn drain_peers(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
    pace: Pace,
) -> bool {
    let mut worked = false;
    let count = chain.peers.incoming.len();
    for at in 0..count {
        if pace == Pace::Turn || has_message_of(port, chain, at) {
            worked |= drain_peer(port, tables, chain, disk, at);
        }
    }
    worked
}

/// Whether a peer's next message seems to be there: a look at memory.
fn has_message_of(port: &Port, chain: &Chain, at: usize) -> bool {
    let incoming = chain.peers.incoming.get(at);
    let session = incoming.and_then(|incoming| port.sessions[incoming.slot].as_ref());
    let mailbox = session.and_then(|session| session.mailbox.as_ref());
    mailbox.is_some_and(|mailbox| mailbox.reader.looks_ready())
}

fn drain_peer(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
    at: usize,
) -> bool {
    let mut worked = false;
    for _ in 0..PEER_MESSAGES_PER_TURN {
        let Some(incoming) = chain.peers.incoming.get(at) else { break };
        let Some(session) = port.sessions[incoming.slot].as_mut() else { break };
        let Some(mailbox) = session.mailbox.as_mut() else { break };
        if session.failed || mailbox.completions.room() <= incoming.answers.count() {
            break;
        }
        let message = match mailbox.reader.peek() {
            Ok(None) => break,
            Ok(Some(message)) => message,
            Err(error) => {
                tracing::warn!(peer = incoming.peer.server.0, %error, "bad chain mailbox");
                session.failed = true;
                break;
            }
        };
        session.watch.active = true;
        let pages = mailbox.reader.pages();
        let mut header = [0; HEADER_LEN];
        let body_len = (message.len as usize).checked_sub(HEADER_LEN);
        let taken = match body_len.filter(|len| *len <= BODY_LEN_MAX) {
            None => Taken::Bad("a message of an impossible length"),
            Some(len) => {
                let mut body = std::mem::take(&mut chain.peers.body);
                body.resize(len, 0);
                pages.read(message.offset, &mut header);
                pages.read(message.offset + HEADER_LEN as u64, &mut body);
                let taken = match ChainFrame::decode(&header, &body) {
                    Ok(frame) => take_frame(port, tables, chain, disk, at, &frame, &body),
                    Err(error) => {
                        tracing::warn!(%error, "a chain frame was refused");
                        Taken::Bad("a frame that is none")
                    }
                };
                chain.peers.body = body;
                taken
            }
        };
        let taking = chain.peers.taking.take();
        let committed = taking.and_then(|taking| taking.committed);
        let Some(incoming) = chain.peers.incoming.get(at) else { break };
        let (slot, peer) = (incoming.slot, incoming.peer);
        let Some(session) = port.sessions[slot].as_mut() else { break };
        match (taken, session.mailbox.as_mut()) {
            (Taken::Yes, Some(mailbox)) => {
                worked = true;
                mailbox.reader.advance(&message);
                mailbox.completions.complete(message.number, Status::Done, 0);
            }
            (Taken::Records { records, is_soon }, Some(mailbox)) => {
                worked = true;
                mailbox.reader.advance(&message);
                answer::answer(port, chain, at, message.number, records, is_soon, committed);
            }
            (Taken::Yes | Taken::Records { .. }, None) => break,
            (Taken::Left, _) => {
                tell_taken(chain, peer.server, taking);
                break;
            }
            (Taken::Bad(reason), _) => {
                tracing::warn!(peer = peer.server.0, reason, "the link to a server is ended");
                session.failed = true;
                break;
            }
        }
    }
    worked
}

/// Tells the peer how far a message was taken in that was left in its mailbox.
fn tell_taken(chain: &mut Chain, peer: ServerId, taking: Option<Taking>) {
    let Some(Taking { partition, committed: Some((epoch, lsn)), .. }) = taking else { return };
    if let Some(link) = chain.link_mut(peer) {
        link.push_frame(ChainFrame::Committed { partition, epoch, lsn });
    }
}

fn take_frame(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
    at: usize,
    frame: &ChainFrame,
    body: &[u8],
) -> Taken {
    if let ChainFrame::CopyRows { table, .. } | ChainFrame::CopyClock { table, .. } = *frame
        && tables.awaits_table(table)
    {
        return Taken::Left;
    }
    let from = chain.peers.incoming[at].peer.server;
    let (partition, input) = match *frame {
        ChainFrame::Records { partition, epoch, first } => {
            let origin = records_in::Origin { at, partition, epoch, lsn: first };
            let taken = records_in::take_records(port, tables, chain, disk, origin, body);
            return port.count_received(taken, body);
        }
        ChainFrame::RecordPiece { partition, epoch, lsn, offset, len } => {
            let origin = records_in::Origin { at, partition, epoch, lsn };
            let piece = Piece::new(offset, len, body);
            let taken = records_in::take_piece(port, tables, chain, disk, origin, piece);
            return port.count_received(taken, body);
        }
        ChainFrame::CopyRows { partition, epoch, table, index, offset, len } => {
            let origin = CopyOrigin { from, partition, epoch };
            return take_copied(chain, at, Piece::new(offset, len, body), |chain, bytes| {
                copy_in::take_copied_rows(tables, chain, origin, table, index, bytes)
            });
        }
        ChainFrame::CopyClock { partition, epoch, table, offset, len } => {
            let origin = CopyOrigin { from, partition, epoch };
            return take_copied(chain, at, Piece::new(offset, len, body), |chain, bytes| {
                copy_in::take_copied_clock(tables, chain, origin, table, bytes)
            });
        }
        ChainFrame::CopyEnd { partition, epoch, start, through, offset, len } => {
            let origin = CopyOrigin { from, partition, epoch };
            return take_copied(chain, at, Piece::new(offset, len, body), |chain, bytes| {
                records_in::take_copy_end(port, tables, chain, origin, start, through, bytes)
            });
        }
        ChainFrame::Ping { asked_at } => {
            take_ping(chain, from, Time(asked_at));
            return Taken::Yes;
        }
        ChainFrame::Grant { asked_at, map_epoch } => {
            chain.time.now = chain.context.leases.now();
            chain.context.leases.grant(chain.time.now, from, Time(asked_at), map_epoch);
            return Taken::Yes;
        }
        ChainFrame::Refuse { epoch, .. } => {
            if epoch > chain.map.epoch {
                chain.tell(ServerEvent::StaleMap { epoch });
            }
            return Taken::Yes;
        }
        ChainFrame::Committed { partition, epoch, lsn } => {
            (partition, Input::Committed { from, epoch, lsn })
        }
        ChainFrame::Report { partition, epoch, position, attempt } => {
            let position = position.map(position_of);
            (partition, Input::Report { from, epoch, position, attempt })
        }
        ChainFrame::AskReport { partition, epoch } => (partition, Input::AskReport { from, epoch }),
        ChainFrame::Welcome { partition, epoch, last } => {
            (partition, Input::Welcome { from, epoch, last })
        }
        ChainFrame::CopyFrom { partition, epoch, start } => {
            (partition, Input::CopyFrom { from, epoch, start: position_of(start) })
        }
    };
    outputs::step_from_peer(port, tables, chain, partition, input);
    Taken::Yes
}

fn take_ping(chain: &mut Chain, from: ServerId, asked_at: Time) {
    let mut outputs = Vec::new();
    chain.time.now = chain.context.leases.now();
    chain.context.leases.ping(chain.time.now, from, asked_at, &mut outputs);
    chain.carry_out_leases(&mut outputs);
}

impl Port {
    fn count_received(&mut self, taken: Taken, body: &[u8]) -> Taken {
        if let Taken::Yes | Taken::Records { .. } = taken {
            self.statistics.chain_received_bytes += (HEADER_LEN + body.len()) as u64;
        }
        taken
    }
}

/// Puts the pieces of a part of a copy together, and takes it in once it is whole.
fn take_copied(
    chain: &mut Chain,
    at: usize,
    Piece { offset, len, body }: Piece<'_>,
    take: impl FnOnce(&mut Chain, &[u8]) -> Result<(), &'static str>,
) -> Taken {
    let copied = &mut chain.peers.incoming[at].copied;
    if offset == 0 {
        copied.clear();
    }
    if copied.len() != offset {
        return Taken::Bad("a piece of a copy out of order");
    }
    copied.extend_from_slice(body);
    if copied.len() != len {
        return Taken::Yes;
    }
    let bytes = std::mem::take(copied);
    take(chain, &bytes).map_or_else(Taken::Bad, |()| Taken::Yes)
}

fn position_of(position: ChainPosition) -> Position {
    Position { epoch: position.epoch, lsn: position.lsn }
}

/// Takes in what peers have completed; returns whether there was anything.
pub(in crate::shard) fn take_answers(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
) -> bool {
    let mut committed = std::mem::take(&mut chain.peers.committed);
    let mut worked = false;
    for link in &mut chain.peers.links {
        let from = link.peer.server;
        worked |= link.take_completions(|records| committed.push((from, records)));
    }
    for (from, Records { partition, epoch, last: lsn }) in committed.drain(..) {
        let part = chain.part(partition);
        // By a chain that is no more it says nothing: each new one begins with reports.
        if part.is_some_and(|part| part.epoch() == epoch) {
            outputs::step_from_peer(
                port,
                tables,
                chain,
                partition,
                Input::Committed { from, epoch, lsn },
            );
        }
    }
    chain.peers.committed = committed;
    worked
}
