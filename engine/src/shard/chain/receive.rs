//! Taking in what peers wrote into this shard's mailboxes. Every byte is foreign.

use windlass_replication::{Covered, Input, Position, RecordHeader, ReplicaError, Time};
use windlass_wire::{
    Epoch, Lsn, PartitionId, ServerId, Status, TableId,
    chain::{BODY_LEN_MAX, ChainFrame, ChainPosition, HEADER_LEN},
    control::Peer,
};

use super::{
    super::{Shard, wait::Pace},
    SYNC, ServerEvent,
    answer::{Answers, Records, Taking},
    clocks::lane_of,
    part::Held,
    turn::leaves_records,
};
use crate::{
    limits::PEER_MESSAGES_PER_TURN,
    persist::{
        frame::{Frame, Header, Salt},
        record::{Record, RecordError},
        sessions::expired_of,
    },
};

/// A peer's mailbox here.
pub(super) struct Incoming {
    pub(super) slot: usize,
    pub(super) peer: Peer,
    /// A record of which pieces have come.
    pub(super) assembly: Option<Assembly>,
    /// Pieces of a part of a copy.
    copied: Vec<u8>,
    pub(super) answers: Answers,
}

/// A record being put together.
pub(super) struct Assembly {
    partition: PartitionId,
    lsn: Lsn,
    pub(super) words: Vec<u64>,
    filled: usize,
}

impl Incoming {
    pub(super) fn new(slot: usize, peer: Peer) -> Self {
        Self { slot, peer, assembly: None, copied: Vec::new(), answers: Answers::default() }
    }
}

/// What a replica has to know of a record.
#[derive(Clone, Copy, Debug)]
struct RecordFacts {
    lsn: Lsn,
    made_in: Epoch,
    sync: bool,
    /// Whether it follows the last one that is here.
    is_next: bool,
}

/// What came of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
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

impl Shard {
    /// Takes what peers sent; returns whether there was anything.
    pub(super) fn drain_peers(&mut self, pace: Pace) -> bool {
        let mut worked = false;
        let count = self.chain.as_ref().map_or(0, |chain| chain.incoming.len());
        for at in 0..count {
            if pace == Pace::Turn || self.has_message_of(at) {
                worked |= self.drain_peer(at);
            }
        }
        worked
    }

    /// Whether a peer's next message seems to be there: a look at memory.
    fn has_message_of(&self, at: usize) -> bool {
        let incoming = self.chain.as_ref().and_then(|chain| chain.incoming.get(at));
        let session = incoming.and_then(|incoming| self.sessions[incoming.slot].as_ref());
        let mailbox = session.and_then(|session| session.mailbox.as_ref());
        mailbox.is_some_and(|mailbox| mailbox.reader.looks_ready())
    }

    fn drain_peer(&mut self, at: usize) -> bool {
        let mut worked = false;
        for _ in 0..PEER_MESSAGES_PER_TURN {
            let Some(chain) = &mut self.chain else { break };
            let Some(incoming) = chain.incoming.get(at) else { break };
            let Some(session) = self.sessions[incoming.slot].as_mut() else { break };
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
            session.active = true;
            let pages = mailbox.reader.pages();
            let mut header = [0; HEADER_LEN];
            let body_len = (message.len as usize).checked_sub(HEADER_LEN);
            let taken = match body_len.filter(|len| *len <= BODY_LEN_MAX) {
                None => Taken::Bad("a message of an impossible length"),
                Some(len) => {
                    let mut body = std::mem::take(&mut chain.body);
                    body.resize(len, 0);
                    pages.read(message.offset, &mut header);
                    pages.read(message.offset + HEADER_LEN as u64, &mut body);
                    let taken = match ChainFrame::decode(&header, &body) {
                        Ok(frame) => self.take_frame(at, &frame, &body),
                        Err(error) => {
                            tracing::warn!(%error, "a chain frame was refused");
                            Taken::Bad("a frame that is none")
                        }
                    };
                    if let Some(chain) = &mut self.chain {
                        chain.body = body;
                    }
                    taken
                }
            };
            let Some(chain) = &mut self.chain else { break };
            let taking = chain.taking.take();
            let committed = taking.and_then(|taking| taking.committed);
            let Some(incoming) = chain.incoming.get(at) else { break };
            let (slot, peer) = (incoming.slot, incoming.peer);
            let Some(session) = self.sessions[slot].as_mut() else { break };
            match (taken, session.mailbox.as_mut()) {
                (Taken::Yes, Some(mailbox)) => {
                    worked = true;
                    mailbox.reader.advance(&message);
                    mailbox.completions.complete(message.number, Status::Done, 0);
                }
                (Taken::Records { records, is_soon }, Some(mailbox)) => {
                    worked = true;
                    mailbox.reader.advance(&message);
                    self.answer(at, message.number, (records, is_soon), committed);
                }
                (Taken::Yes | Taken::Records { .. }, None) => break,
                (Taken::Left, _) => {
                    self.tell_taken(peer.server, taking);
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

    /// Of a message that was left, tells what of it was taken in.
    fn tell_taken(&mut self, peer: ServerId, taking: Option<Taking>) {
        let Some(Taking { partition, committed: Some((epoch, lsn)), .. }) = taking else { return };
        if let Some(link) = self.chain.as_mut().and_then(|chain| chain.link_mut(peer)) {
            link.push_frame(ChainFrame::Committed { partition, epoch, lsn });
        }
    }

    fn take_frame(&mut self, at: usize, frame: &ChainFrame, body: &[u8]) -> Taken {
        if let ChainFrame::CopyRows { table, .. } | ChainFrame::CopyClock { table, .. } = *frame
            && self.awaits_table(table)
        {
            return Taken::Left;
        }
        let Some(chain) = &mut self.chain else { return Taken::Yes };
        let from = chain.incoming[at].peer.server;
        let (partition, input) = match *frame {
            ChainFrame::Records { partition, epoch, first } => {
                let taken = self.take_records(at, partition, epoch, first, body);
                return self.count_received(taken, body);
            }
            ChainFrame::RecordPiece { partition, epoch, lsn, offset, len } => {
                let piece = (offset as usize, len as usize);
                let taken = self.take_piece(at, (partition, epoch), lsn, piece, body);
                return self.count_received(taken, body);
            }
            ChainFrame::CopyRows { partition, epoch, table, index, offset, len } => {
                return match self.gather_copy(at, (offset, len), body) {
                    None => Taken::Bad("a piece of a copy out of order"),
                    Some(None) => Taken::Yes,
                    Some(Some(bytes)) => {
                        let taken =
                            self.take_copied_rows(from, (partition, epoch), (table, index), &bytes);
                        taken.map_or_else(Taken::Bad, |()| Taken::Yes)
                    }
                };
            }
            ChainFrame::CopyClock { partition, epoch, table, offset, len } => {
                return match self.gather_copy(at, (offset, len), body) {
                    None => Taken::Bad("a piece of a range clock out of order"),
                    Some(None) => Taken::Yes,
                    Some(Some(bytes)) => {
                        let taken = self.take_copied_clock(from, (partition, epoch), table, &bytes);
                        taken.map_or_else(Taken::Bad, |()| Taken::Yes)
                    }
                };
            }
            ChainFrame::CopyEnd { partition, epoch, start, through, offset, len } => {
                return match self.gather_copy(at, (offset, len), body) {
                    None => Taken::Bad("a piece of a session table out of order"),
                    Some(None) => Taken::Yes,
                    Some(Some(bytes)) => {
                        let ends = (start, through);
                        let taken = self.take_copy_end(from, (partition, epoch), ends, &bytes);
                        taken.map_or_else(Taken::Bad, |()| Taken::Yes)
                    }
                };
            }
            ChainFrame::Ping { asked_at } => {
                let mut outputs = Vec::new();
                chain.now = chain.context.leases.now();
                chain.context.leases.ping(chain.now, from, Time(asked_at), &mut outputs);
                chain.carry_out_leases(&mut outputs);
                return Taken::Yes;
            }
            ChainFrame::Grant { asked_at, map_epoch } => {
                chain.now = chain.context.leases.now();
                chain.context.leases.grant(chain.now, from, Time(asked_at), map_epoch);
                return Taken::Yes;
            }
            ChainFrame::Refuse { epoch, .. } => {
                if epoch > self.map.epoch {
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
            ChainFrame::AskReport { partition, epoch } => {
                (partition, Input::AskReport { from, epoch })
            }
            ChainFrame::Welcome { partition, epoch, last } => {
                (partition, Input::Welcome { from, epoch, last })
            }
            ChainFrame::CopyFrom { partition, epoch, start } => {
                (partition, Input::CopyFrom { from, epoch, start: position_of(start) })
            }
        };
        self.step_from_peer(partition, input);
        Taken::Yes
    }

    fn count_received(&mut self, taken: Taken, body: &[u8]) -> Taken {
        if let Taken::Yes | Taken::Records { .. } = taken {
            self.statistics.chain_received_bytes += (HEADER_LEN + body.len()) as u64;
        }
        taken
    }

    /// Whether a table is newer than any that was made or dropped here. What names it is left for
    /// later: without the table it would change nothing, and other replicas would differ.
    pub(in crate::shard) fn awaits_table(&self, table: TableId) -> bool {
        table.0 >= self.tables_below || self.growth.is_making(table)
    }

    /// Puts the pieces of a part of a copy together; the bytes once they are whole, `None` when a
    /// piece does not follow.
    fn gather_copy(
        &mut self,
        at: usize,
        (offset, len): (u32, u32),
        body: &[u8],
    ) -> Option<Option<Vec<u8>>> {
        let bytes = &mut self.chain.as_mut()?.incoming[at].copied;
        if offset == 0 {
            bytes.clear();
        }
        if bytes.len() != offset as usize {
            return None;
        }
        bytes.extend_from_slice(body);
        Some((bytes.len() == len as usize).then(|| std::mem::take(bytes)))
    }

    /// Gives a replica what a peer says. What it does not await it drops: the peer says it again when
    /// both act by one map.
    pub(super) fn step_from_peer(&mut self, partition: PartitionId, input: Input<'_>) -> bool {
        match self.step(partition, input) {
            Ok(()) => true,
            Err(error) => {
                if let ReplicaError::BehindEpoch { its, .. } = error
                    && its > self.map.epoch
                    && let Some(chain) = &self.chain
                {
                    chain.tell(ServerEvent::StaleMap { epoch: its });
                }
                tracing::debug!(shard = self.id.0, %error, "a chain message was not taken");
                false
            }
        }
    }

    fn take_records(
        &mut self,
        at: usize,
        partition: PartitionId,
        epoch: Epoch,
        first: Lsn,
        body: &[u8],
    ) -> Taken {
        let Some(chain) = &mut self.chain else { return Taken::Yes };
        chain.taking = Some(Taking { at, partition, committed: None });
        if leaves_records(chain, self.durable.as_deref()) {
            return Taken::Left;
        }
        let (mut rest, mut lsn, mut is_soon) = (body, first, true);
        while !rest.is_empty() {
            let Ok(frame) = Frame::decode(rest, Salt::NONE) else {
                return Taken::Bad("a record that is damaged");
            };
            // What was taken before is dropped when it is looked at again.
            if self.awaits_table(TableId(frame.header.table)) {
                return Taken::Left;
            }
            let facts = self.facts_of(Record::from_frame(frame), partition, epoch, lsn);
            let Some(facts) = facts else {
                return Taken::Bad("a record of something else");
            };
            let Some(chain) = &mut self.chain else { return Taken::Yes };
            let mut words = chain.spare.take(frame.bytes.len());
            bytemuck::cast_slice_mut(&mut words).copy_from_slice(frame.bytes);
            is_soon &= self.take_record(at, (partition, epoch), facts, words);
            (rest, lsn) = (&rest[frame.bytes.len()..], lsn.next());
        }
        let records = Records { partition, epoch, last: Lsn(lsn.0 - 1) };
        Taken::Records { records, is_soon }
    }

    fn take_piece(
        &mut self,
        at: usize,
        (partition, epoch): (PartitionId, Epoch),
        lsn: Lsn,
        (offset, len): (usize, usize),
        body: &[u8],
    ) -> Taken {
        let Some(chain) = &mut self.chain else { return Taken::Yes };
        if offset == 0 {
            if leaves_records(chain, self.durable.as_deref()) {
                return Taken::Left;
            }
            if !len.is_multiple_of(8) {
                return Taken::Bad("a record of an impossible length");
            }
            let Ok((header, _)) = Header::decode(body, Salt::NONE) else {
                return Taken::Bad("a record whose header is damaged");
            };
            if header.table >= self.tables_below {
                return Taken::Left;
            }
            let words = chain.spare.take(len);
            let fresh = Assembly { partition, lsn, words, filled: 0 };
            if let Some(old) = chain.incoming[at].assembly.replace(fresh) {
                chain.spare.put(old.words);
            }
        }
        let Some(assembly) = &mut chain.incoming[at].assembly else {
            return Taken::Bad("a piece of no record");
        };
        let same = (assembly.partition, assembly.lsn, assembly.filled) == (partition, lsn, offset)
            && assembly.words.len() * 8 == len;
        if !same {
            return Taken::Bad("a piece of another record");
        }
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut assembly.words);
        bytes[offset..offset + body.len()].copy_from_slice(body);
        assembly.filled += body.len();
        if assembly.filled < len {
            return Taken::Yes;
        }
        let Some(assembly) = chain.incoming[at].assembly.take() else { return Taken::Yes };
        let words = assembly.words;
        let record = Record::decode(bytemuck::cast_slice(&words), Salt::NONE);
        match self.facts_of(record, partition, epoch, lsn) {
            Some(facts) => {
                if let Some(chain) = &mut self.chain {
                    chain.taking = Some(Taking { at, partition, committed: None });
                }
                let is_soon = self.take_record(at, (partition, epoch), facts, words);
                Taken::Records { records: Records { partition, epoch, last: lsn }, is_soon }
            }
            None => {
                self.put_back(words);
                Taken::Bad("a record that is damaged")
            }
        }
    }

    fn put_back(&mut self, words: Vec<u64>) {
        if let Some(chain) = &mut self.chain {
            chain.spare.put(words);
        }
    }

    /// What a replica has to know of a record, if it can be the partition's at that place; whom it
    /// covers and whom it expires are left in the chain.
    fn facts_of(
        &mut self,
        record: Result<Record<'_>, RecordError>,
        partition: PartitionId,
        epoch: Epoch,
        lsn: Lsn,
    ) -> Option<RecordFacts> {
        let (record, chain) = (record.ok()?, self.chain.as_mut()?);
        let part = chain.part(partition);
        let is_next = part.is_some_and(|part| part.replica.log().last().next() == lsn);
        // A stale one is dropped later, whatever its epoch.
        let newest = part.map(|part| part.replica.log().position().epoch);
        let known = newest.filter(|_| is_next).unwrap_or_default();
        let is_its = record.partition() == partition
            && record.lsn() == lsn
            && !record.is_grouped()
            && (known..=epoch).contains(&record.epoch());
        if !is_its {
            return None;
        }
        chain.expired.clear();
        chain.expired.extend(expired_of(&record));
        chain.covered.clear();
        let lane = lane_of(&record);
        chain.covered.extend(record.covered().map(|one| Covered {
            session: one.session,
            incarnation: one.incarnation,
            lane,
            sequence: one.sequence,
        }));
        Some(RecordFacts { lsn, made_in: record.epoch(), sync: record.tag() & SYNC != 0, is_next })
    }

    /// Takes in one whole record, of which the chain holds whom it covers and expires. Returns whether the
    /// replica took it and no disk is waited for.
    fn take_record(
        &mut self,
        at: usize,
        (partition, epoch): (PartitionId, Epoch),
        facts: RecordFacts,
        words: Vec<u64>,
    ) -> bool {
        let Some(chain) = &mut self.chain else { return false };
        let RecordFacts { lsn, made_in, sync, is_next } = facts;
        let from = chain.incoming[at].peer.server;
        let covered = std::mem::take(&mut chain.covered);
        let expired = std::mem::take(&mut chain.expired);
        // It joins the log if the replica takes it in, and the outputs of that very step name it.
        match chain.part_mut(partition) {
            Some(part) if is_next => part.records.push_back(Held { lsn, words }),
            _ => chain.spare.put(words),
        }
        let record =
            RecordHeader { lsn, epoch: made_in, sync, covered: &covered, expired: &expired };
        let taken = self.step_from_peer(partition, Input::Record { from, epoch, record });
        let Some(chain) = &mut self.chain else { return false };
        (chain.covered, chain.expired) = (covered, expired);
        chain.expired.clear();
        if is_next && !taken {
            let refused = chain.part_mut(partition).and_then(|part| part.records.pop_back());
            if let Some(refused) = refused {
                chain.spare.put(refused.words);
            }
        } else if is_next {
            self.keep_record(partition);
            self.copy_in_record(partition, lsn);
        }
        is_next && taken && !sync
    }
}

fn position_of(position: ChainPosition) -> Position {
    Position { epoch: position.epoch, lsn: position.lsn }
}
