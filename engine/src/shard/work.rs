//! The requests that one turn has taken from the mailboxes.

use windlass_transport::{RemoteKey, Transport, chunks::Chunk};
use windlass_wire::{
    FilterError, RequestHeader, RowRange, Rows, TableId,
    request::{CodedKeys, Coding},
};

use super::{
    admitted::RowsOf,
    coded::{Coded, CodedError, KeptKeys},
    session::ShardSession,
    staging::Staging,
};
use crate::{
    limits::{TURN_BYTES_MAX, TURN_KEYS_MAX, TURN_REQUESTS_MAX},
    persist::commit::Position,
};

/// Where the values of a push are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values {
    /// There are none.
    None,
    /// Copied into the turn's arena, from this byte on.
    Inline(usize),
    /// In a client's memory on this host, checked to be readable. Never a reference: the client may
    /// write them at any time.
    Peer(*const u8),
    /// Fetched into the staging area.
    Staged(Chunk),
}

/// Pushes name their rows: decoding sees to it.
#[cold]
pub(super) fn scans_do_not_push() -> ! {
    unreachable!("a push is of the rows it names, not of all that a partition has")
}

/// One request, decoded and copied out of its mailbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Slot of the session.
    pub(super) session: usize,
    /// Number of its message.
    pub(super) number: u32,
    /// The request.
    pub(super) header: RequestHeader,
    /// Its keys in [`Turn::keys`]; empty for a range.
    pub(super) keys: (usize, usize),
    /// Its values.
    pub(super) values: Values,
    /// Whether it is done or refused already.
    pub(super) closed: bool,
    /// Position of the log that its acknowledgement waits for.
    pub(super) durable_at: Option<Position>,
    /// Microseconds it waited for a slower worker: what its completion tells.
    pub(super) waited_us: u32,
    /// What its completion waits for, beside the log.
    pub(super) wait: Option<u32>,
    /// Whether its rows are in records already.
    pub(super) pushed: bool,
}

impl Work {
    /// Which rows it is about; `keys` are those of the turn.
    #[inline]
    pub(super) fn rows<'a>(&self, keys: &'a [u64]) -> RowsOf<'a> {
        match self.header.rows {
            Rows::Range { first } => {
                RowsOf::Range(RowRange::new(first, first + u64::from(self.header.row_count)))
            }
            Rows::Keys => RowsOf::Keys(&keys[self.keys.0..self.keys.1]),
            Rows::Partition { .. } => scans_do_not_push(),
        }
    }

    /// Bytes of the values of one row.
    #[inline]
    pub(super) fn row_len(&self) -> usize {
        self.header.width as usize * self.header.dtype.size()
    }
}

/// The requests of one turn and the bytes they refer to. Nothing here allocates in a steady state.
#[derive(Debug)]
pub(super) struct Turn {
    /// In the order they were taken: of one session, pushes before pulls.
    pub(super) works: Vec<Work>,
    /// Keys of all of them.
    pub(super) keys: Vec<u64>,
    /// Inline values of all of them, in words so that they are aligned.
    values: Vec<u64>,
    values_used: usize,
    /// Bytes by reference taken on.
    pub(super) referenced: u64,
    /// The body of the message that is being decoded.
    pub(super) coded: Coded,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self {
            works: Vec::with_capacity(TURN_REQUESTS_MAX),
            keys: Vec::new(),
            values: vec![0; TURN_WORDS],
            values_used: 0,
            referenced: 0,
            coded: Coded::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.works.is_empty()
    }

    /// Lets clients' memory go that was read in place: from here on nothing points into it.
    pub(super) fn end_views(
        &self,
        sessions: &[Option<ShardSession>],
        transports: &mut [Box<dyn Transport>],
    ) {
        if self.referenced == 0 {
            return;
        }
        for work in &self.works {
            let (Values::Peer(_), Some(place)) = (work.values, work.header.values) else {
                continue;
            };
            if let Some(session) = &sessions[work.session] {
                transports[session.route.transport]
                    .release_views(session.route.queue_pair, RemoteKey(place.key));
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.works.clear();
        self.keys.clear();
        self.values_used = 0;
        self.referenced = 0;
    }

    /// Whether one more request of `len` bytes fits.
    pub(super) fn has_room(&self, len: u64) -> bool {
        let used = (self.values_used * 8 + self.keys.len() * 8) as u64;
        self.works.len() < TURN_REQUESTS_MAX && used + len + 8 <= TURN_BYTES_MAX
    }

    /// Whether one more request by key does not make the turn too long: a push to a sparse table may have to make a
    /// row for each.
    pub(super) fn has_time(
        &self,
        header: &RequestHeader,
        is_dense: impl FnOnce(TableId) -> bool,
    ) -> bool {
        let keys = self.keys.len() + header.row_count as usize;
        self.keys.is_empty()
            || keys <= TURN_KEYS_MAX
            || header.keys_len() == 0
            || !header.kind.pushes()
            || is_dense(header.table)
    }

    /// Room for `len` bytes of inline values: their place, and the bytes to fill.
    pub(super) fn reserve_values(&mut self, len: usize) -> (usize, &mut [u8]) {
        let at = self.values_used;
        self.values_used += len.div_ceil(8);
        let words = &mut self.values[at..self.values_used];
        (at * 8, &mut bytemuck::cast_slice_mut(words)[..len])
    }

    /// Decodes the body in `coded`, for which there is room: the keys and, where they are in it, the values. The
    /// header then says of what was decoded that it is plain.
    pub(super) fn decode(
        &mut self,
        header: &mut RequestHeader,
        coding: &Coding,
        kept: &mut KeptKeys,
    ) -> Result<Values, CodedError> {
        let keys_at = self.keys.len();
        if header.keys_len() > 0 {
            self.keys.resize(keys_at + header.row_count as usize, 0);
            let keys = &mut self.keys[keys_at..];
            self.coded.keys(coding, kept, keys)?;
        }
        let mut left = *coding;
        left.keys = CodedKeys::Sent { len: 0 };
        (left.filters.delta_keys, left.filters.snappy_keys) = (false, false);
        if !header.kind.pushes() || header.values.is_some() {
            // Of values that are not here yet, or of an answer.
            header.coding = Some(left).filter(|left| left.filters.codes_values());
            return Ok(Values::None);
        }
        header.coding = None;
        Ok(self.decode_values(header, coding, coding.keys.sent_len() as usize)?)
    }

    /// Decodes a push's values, which stand in `coded` from `at` on.
    pub(super) fn decode_values(
        &mut self,
        header: &RequestHeader,
        coding: &Coding,
        at: usize,
    ) -> Result<Values, FilterError> {
        let words = self.values_used;
        #[expect(clippy::cast_possible_truncation, reason = "at most DECODED_LEN_MAX")]
        let len = header.values_len() as usize;
        if len == 0 {
            return Ok(Values::None);
        }
        self.values_used += len.div_ceil(8);
        let room = bytemuck::cast_slice_mut(&mut self.values[words..self.values_used]);
        self.coded.values(&coding.filters, at, &mut room[..len])?;
        Ok(Values::Inline(words * 8))
    }

    /// How much room inline values take so far.
    pub(super) fn values_mark(&self) -> usize {
        self.values_used
    }

    /// Takes back what was reserved since the mark was read.
    pub(super) fn give_values_back(&mut self, mark: usize) {
        self.values_used = mark;
    }

    /// Pointer to inline values. Stays valid until the turn is cleared: the arena never grows.
    pub(super) fn values_at(&self, at: usize) -> *const u8 {
        self.values.as_ptr().cast::<u8>().wrapping_add(at)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "4 MiB")]
const TURN_WORDS: usize = TURN_BYTES_MAX as usize / 8;

/// Pointer to a push's values: as many as its header says, readable for the rest of the turn.
pub(super) fn values_pointer(turn: &Turn, staging: &Staging, work: &Work) -> Option<*const u8> {
    match work.values {
        Values::None => None,
        Values::Inline(at) => Some(turn.values_at(at)),
        Values::Peer(pointer) => Some(pointer),
        Values::Staged(chunk) => Some(staging.pointer(chunk).cast_const()),
    }
}

#[cfg(test)]
mod tests {
    use windlass_wire::{DataType, Epoch, RequestKind, Sequence, WorkerClock, request::Rows};

    use super::*;

    const KEYS_MAX: u32 = 4096;

    fn has_time(taken: u32, kind: RequestKind, row_count: u32, is_dense: bool) -> bool {
        let mut turn = Turn::new();
        turn.keys.resize(taken as usize, 7);
        let header = RequestHeader {
            kind,
            sync: false,
            resumes: false,
            strong: false,
            dtype: DataType::F32,
            table: TableId(3),
            sequence: Sequence(1),
            epoch: Epoch(1),
            clock: WorkerClock(0),
            rows: Rows::Keys,
            row_count,
            width: 1,
            coding: None,
            values: None,
            reply: None,
        };
        turn.has_time(&header, |table| {
            assert_eq!(table, TableId(3));
            is_dense
        })
    }

    #[test]
    fn a_turn_makes_no_more_rows_than_it_has_time_for() {
        assert!(has_time(1, RequestKind::Push, KEYS_MAX - 1, false));
        assert!(!has_time(1, RequestKind::Push, KEYS_MAX, false));
        assert!(!has_time(KEYS_MAX, RequestKind::PushPull, 1, false));
        // Alone it must be taken, or nobody ever takes it.
        assert!(has_time(0, RequestKind::Push, 4 * KEYS_MAX, false));
        // Neither makes rows.
        assert!(has_time(KEYS_MAX, RequestKind::Push, 1, true));
        assert!(has_time(KEYS_MAX, RequestKind::Pull, 1, false));
    }
}
