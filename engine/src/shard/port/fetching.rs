//! Requests that wait for their values or for room are parked, and their values fetched.

use windlass_transport::{
    Operation, RemoteAddress, WorkId, chunks::Chunk, fabric::INLINE_LEN_MAX as INLINE_BYTES_MAX,
};
use windlass_wire::{RequestHeader, SessionId, Status};

use crate::{
    limits::FETCHES_MAX,
    shard::{
        fetch::{Outstanding, Parked, ParkedState, remote_of},
        port::Port,
    },
};

impl Port {
    /// Starts to fetch a request's values into `chunk`; its keys are those from `keys_at` on in the
    /// turn. Returns whether the send queue had room.
    pub(in crate::shard) fn fetch(
        &mut self,
        slot: usize,
        number: u32,
        header: &RequestHeader,
        keys_at: usize,
        chunk: Chunk,
    ) -> bool {
        let session = self.sessions[slot].as_mut().expect("its message was just taken");
        let mailbox = session.mailbox.as_mut().expect("its message came by the mailbox");
        let place = header.values.expect("only values that lie elsewhere are fetched");
        let transport = &mut self.transports[session.route.transport];
        let len = header.sent_values_len();
        let piece_len = u64::from(transport.capabilities().message_len_max);
        let piece_count = len.div_ceil(piece_len).max(1);
        if (mailbox.sender.room() as u64) < piece_count + 2 {
            return false;
        }
        let remote = remote_of(place);
        let outstanding = Outstanding::Fetch { session: session.owner.id, number, chunk };
        let work_id = self.staging.start(outstanding);
        for piece in 0..piece_count {
            let from = piece * piece_len;
            let piece_len = piece_len.min(len - from);
            #[expect(clippy::cast_possible_truncation, reason = "at most message_len_max")]
            let local = self.staging.slice(session.route.transport, chunk, from, piece_len as u32);
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
    pub(in crate::shard) fn fetched(
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

    /// Has a pull of this turn wait for room, before everything of its session that came later.
    pub(in crate::shard) fn crowd_pull(&mut self, at: usize) {
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
        let session = self.sessions[slot].as_mut();
        let session = session.expect("no session ends while its requests are carried out");
        let crowded = session.parked.iter();
        let behind = crowded.take_while(|parked| parked.state == ParkedState::Crowded).count();
        let state = ParkedState::Crowded;
        let parked =
            Parked { number, header, keys, chunk: None, state, durable_at, waited_us, wait };
        session.parked.insert(behind, parked);
        self.statistics.crowded += 1;
    }

    /// Keeps a buffer for the keys of the next request that is parked.
    pub(in crate::shard) fn keep_keys(&mut self, mut keys: Vec<u64>) {
        if keys.capacity() > 0 && self.spare_keys.len() < FETCHES_MAX {
            keys.clear();
            self.spare_keys.push(keys);
        }
    }

    /// Forgets a parked request of a session that ends. A chunk that is being fetched into is
    /// released by its completion.
    pub(in crate::shard) fn abandon(&mut self, parked: Parked) {
        if let (Some(chunk), false) = (parked.chunk, parked.state == ParkedState::Fetching) {
            self.staging.release(chunk);
        }
        if let Some(wait) = parked.wait {
            self.end_wait(wait, Status::Unreachable, 0);
        }
    }
}

impl Port {
    /// A signaled request has completed, or never will.
    pub(in crate::shard) fn end_outstanding(&mut self, work_id: WorkId, succeeded: bool) {
        match self.staging.finish(work_id) {
            Some(Outstanding::Fetch { session, number, chunk }) => {
                self.fetched(session, number, chunk, succeeded);
            }
            Some(Outstanding::Reply { chunk, placing }) => {
                self.staging.release(chunk);
                if let Some(wait) = placing {
                    let status = if succeeded { Status::Done } else { Status::Unreachable };
                    self.end_wait(wait, status, 0);
                }
            }
            Some(Outstanding::Tell) => self.tells_in_flight -= 1,
            None => {}
        }
    }
}

impl Port {
    /// Whether a pull of this session would find room now.
    pub(in crate::shard) fn has_room_to_pull(&self, slot: usize, header: &RequestHeader) -> bool {
        let session = self.sessions[slot].as_ref().expect("a pull comes by a session");
        let mailbox = session.mailbox.as_ref().expect("messages come by mailboxes");
        let len = header.values_len();
        let piece_len = self.transports[session.route.transport].capabilities().message_len_max;
        mailbox.sender.room() as u64 >= len.div_ceil(u64::from(piece_len)) + BESIDE_ROWS
            && (len <= INLINE_BYTES_MAX as u64 && session.route.writes_in_order
                || self.staging.has_room(session.life, len))
    }
}

/// Requests beside those that write rows: their digest, a completion, and one more.
pub(in crate::shard) const BESIDE_ROWS: u64 = 3;
