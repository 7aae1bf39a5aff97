//! Pushes whose values stay with the client: read in place on one host, fetched by one-sided read
//! otherwise. What waits for its values is parked; so are pulls that wait for room.

use std::collections::VecDeque;

use windlass_transport::{Operation, RemoteAddress, RemoteKey, WorkId, chunks::Chunk};
use windlass_wire::{Place, RequestHeader, SessionId, Status};

use super::{
    chain::Chain,
    coded::Coded,
    disk::Disk,
    port::Port,
    tables::{ShardTable, Tables},
    work::{Values, Work},
};
use crate::{limits::FETCHES_MAX, persist::commit::Position};

/// What a signaled request of the shard was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outstanding {
    /// Values on their way into a chunk.
    Fetch {
        /// The session and the number of its message.
        session: SessionId,
        number: u32,
        chunk: Chunk,
    },
    /// Rows on their way out of a chunk.
    Reply { chunk: Chunk },
    /// A sleep told to a client.
    Tell,
}

/// A request taken from the mailbox that waits for its values, or for room for its rows.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) number: u32,
    pub(super) header: RequestHeader,
    pub(super) keys: Vec<u64>,
    /// Where its values are or will be; a pull has none.
    pub(super) chunk: Option<Chunk>,
    pub(super) state: ParkedState,
    /// Position of the log that its acknowledgement waits for, when it has pushed already.
    pub(super) durable_at: Option<Position>,
    /// How long it waited for slower workers.
    pub(super) waited_us: u32,
    /// What its completion waits for in the chains, when it has pushed already.
    pub(super) wait: Option<u32>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ParkedState {
    Fetching,
    Ready,
    Failed,
    /// A pull for whose rows there was no room.
    Crowded,
}

/// A request in the client's memory, as transports name it.
pub(super) fn remote_of(place: Place) -> RemoteAddress {
    RemoteAddress { key: RemoteKey(place.key), address: place.address }
}

impl Port {
    /// Starts to fetch a request's values into `chunk`; its keys are those from `keys_at` on in the
    /// turn. Returns whether the send queue had room.
    pub(super) fn fetch(
        &mut self,
        slot: usize,
        number: u32,
        header: &RequestHeader,
        keys_at: usize,
        chunk: Chunk,
    ) -> bool {
        let Some(session) = &mut self.sessions[slot] else { return false };
        let Some(mailbox) = &mut session.mailbox else { return false };
        let Some(place) = header.values else { return false };
        let transport = &mut self.transports[session.transport];
        let len = header.sent_values_len();
        let piece_len = u64::from(transport.capabilities().message_len_max);
        let piece_count = len.div_ceil(piece_len).max(1);
        if (mailbox.sender.room() as u64) < piece_count + 2 {
            return false;
        }
        let remote = remote_of(place);
        let outstanding = Outstanding::Fetch { session: session.id, number, chunk };
        let work_id = self.staging.start(outstanding);
        for piece in 0..piece_count {
            let from = piece * piece_len;
            let piece_len = piece_len.min(len - from);
            #[expect(clippy::cast_possible_truncation, reason = "at most message_len_max")]
            let local = self.staging.slice(session.transport, chunk, from, piece_len as u32);
            let remote = RemoteAddress { address: remote.address.wrapping_add(from), ..remote };
            let operation = Operation::Read { local: local.into(), remote };
            if piece + 1 == piece_count {
                mailbox.sender.push_signaled(work_id, operation);
            } else {
                mailbox.sender.push(operation);
            }
        }
        session.failed |= mailbox.sender.flush(transport.as_mut()).is_err();
        let mut keys = self.spare_keys.pop().unwrap_or_default();
        keys.extend_from_slice(&self.turn.keys[keys_at..]);
        session.parked.push_back(Parked {
            number,
            header: *header,
            keys,
            chunk: Some(chunk),
            state: ParkedState::Fetching,
            durable_at: None,
            waited_us: 0,
            wait: None,
        });
        self.turn.keys.truncate(keys_at);
        true
    }

    /// Values have arrived, or never will.
    pub(super) fn fetched(
        &mut self,
        session: SessionId,
        number: u32,
        chunk: Chunk,
        succeeded: bool,
    ) {
        let slot = self.by_session.get(&session);
        let open = slot.and_then(|slot| self.sessions[*slot].as_mut());
        let parked = open.and_then(|open| {
            open.parked
                .iter_mut()
                .find(|parked| parked.number == number && parked.chunk == Some(chunk))
        });
        match parked {
            Some(parked) if succeeded => parked.state = ParkedState::Ready,
            Some(parked) => parked.state = ParkedState::Failed,
            // The session ended meanwhile, and left the chunk to its completion.
            None => self.staging.release(chunk),
        }
    }
}

/// Moves parked requests whose turn it is into this turn.
pub(super) fn take_parked(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
    slot: usize,
) {
    loop {
        let Some(session) = &port.sessions[slot] else { return };
        let Some(front) = session.parked.front() else { return };
        if !port.turn.has_room(front.keys.len() as u64 * 8 + Coded::values_len(&front.header))
            || !port.turn.has_time(&front.header, |table| {
                tables.by_id.get(&table).is_none_or(ShardTable::is_dense)
            })
        {
            return;
        }
        let is_next = match front.state {
            ParkedState::Fetching => false,
            ParkedState::Failed => true,
            ParkedState::Ready => match &mut disk.durable {
                Some(durable) => {
                    let table = tables.by_id.get(&front.header.table);
                    durable.admits(&front.header, table, chain)
                }
                None => true,
            },
            // One at a time: each takes room from the next.
            ParkedState::Crowded => {
                let has_room = port.has_room_to_pull(slot, &front.header);
                has_room && !port.turn.works.iter().any(|work| work.session == slot)
            }
        };
        if !is_next {
            return;
        }
        let Some(session) = &mut port.sessions[slot] else { return };
        let Some(parked) = session.parked.pop_front() else { return };
        if parked.state == ParkedState::Failed {
            if let Some(chunk) = parked.chunk {
                port.staging.release(chunk);
            }
            port.complete(slot, parked.number, Status::Unreachable, 0);
            port.keep_keys(parked.keys);
            continue;
        }
        let keys_at = port.turn.keys.len();
        let mut header = parked.header;
        let values = match (header.coding, parked.chunk) {
            (Some(coding), Some(chunk)) => {
                header.coding = None;
                let bytes = port.turn.coded.room(coding.values_len as usize);
                port.staging.read(chunk, bytes);
                port.staging.release(chunk);
                let Ok(values) = port.turn.decode_values(&header, &coding, 0) else {
                    port.complete(slot, parked.number, Status::Malformed, 0);
                    port.keep_keys(parked.keys);
                    continue;
                };
                values
            }
            (_, chunk) => chunk.map_or(Values::None, Values::Staged),
        };
        port.turn.keys.extend_from_slice(&parked.keys);
        port.turn.works.push(Work {
            session: slot,
            number: parked.number,
            header,
            keys: (keys_at, port.turn.keys.len()),
            values,
            closed: false,
            durable_at: parked.durable_at,
            waited_us: parked.waited_us,
            wait: parked.wait,
            pushed: false,
        });
        port.keep_keys(parked.keys);
    }
}

impl Port {
    /// Has a pull of this turn wait for room, before everything of its session that came later.
    pub(super) fn crowd_pull(&mut self, at: usize) {
        let work = &mut self.turn.works[at];
        // Of this turn nothing more is to be done for it.
        work.closed = true;
        let (slot, number, durable_at) = (work.session, work.number, work.durable_at);
        let (waited_us, wait) = (work.waited_us, work.wait.take());
        let mut header = work.header;
        // What it pushed is applied.
        header.kind = header.kind.without_push();
        let mut keys = self.spare_keys.pop().unwrap_or_default();
        keys.extend_from_slice(&self.turn.keys[work.keys.0..work.keys.1]);
        let Some(session) = &mut self.sessions[slot] else { return };
        let crowded = session.parked.iter();
        let behind = crowded.take_while(|parked| parked.state == ParkedState::Crowded).count();
        let state = ParkedState::Crowded;
        let parked =
            Parked { number, header, keys, chunk: None, state, durable_at, waited_us, wait };
        session.parked.insert(behind, parked);
        self.statistics.crowded += 1;
    }

    /// Keeps a buffer for the keys of the next request that is parked.
    fn keep_keys(&mut self, mut keys: Vec<u64>) {
        if keys.capacity() > 0 && self.spare_keys.len() < FETCHES_MAX {
            keys.clear();
            self.spare_keys.push(keys);
        }
    }

    /// Forgets a parked request of a session that ends. A chunk that is being fetched into is
    /// released by its completion.
    pub(super) fn abandon(&mut self, parked: Parked) {
        if let (Some(chunk), false) = (parked.chunk, parked.state == ParkedState::Fetching) {
            self.staging.release(chunk);
        }
        if let Some(wait) = parked.wait {
            self.end_wait(wait, Status::Unreachable, 0);
        }
    }
}

/// Signaled requests by work id.
#[derive(Debug, Default)]
pub(super) struct OutstandingSlab {
    entries: Vec<Option<Outstanding>>,
    free: VecDeque<usize>,
}

impl OutstandingSlab {
    /// None, with room for so many.
    pub(super) fn with_capacity(count: usize) -> Self {
        Self { entries: Vec::with_capacity(count), free: VecDeque::with_capacity(count) }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.entries.len()
    }

    pub(super) fn insert(&mut self, outstanding: Outstanding) -> WorkId {
        let at = self.free.pop_front().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        self.entries[at] = Some(outstanding);
        WorkId(at as u64 + 1)
    }

    pub(super) fn remove(&mut self, work_id: WorkId) -> Option<Outstanding> {
        let at = usize::try_from(work_id.0).ok()?.checked_sub(1)?;
        let outstanding = self.entries.get_mut(at)?.take()?;
        self.free.push_back(at);
        Some(outstanding)
    }
}
