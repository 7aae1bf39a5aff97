//! Pushes whose values stay with the client: read in place on the same host, fetched by a one-sided read
//! otherwise. A push that waits for its values is parked, and so is a pull that waits for room.

use std::collections::VecDeque;

use windlass_transport::{RemoteAddress, RemoteKey, WorkId, chunks::Chunk};
use windlass_wire::{Place, RequestHeader, SessionId, Status};

use super::{
    chain::Chain,
    coded::Coded,
    disk::Disk,
    port::Port,
    tables::{ShardTable, Tables},
    work::{Values, Work},
};
use crate::persist::commit::Position;

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
    Reply {
        chunk: Chunk,
        /// What waits until they are in place.
        placing: Option<u32>,
    },
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
    /// What its completion waits for, when it has pushed already or its rows are to be placed.
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
        let session = port.sessions[slot].as_mut().expect("its request was just looked at");
        let parked = session.parked.pop_front().expect("it was just looked at");
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
