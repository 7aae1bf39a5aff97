//! The sending half of a queue pair: requests and answers become frames in the outbox, in order,
//! as far as there is room.

use windlass_wire::checksum::Checksum;

use crate::fabric::{Operation, RemoteAddress, ScatterList, SendRequest};

use super::{
    connection::{Answer, Connection, Phase, Shared},
    failure::Failure,
    frame::{HEADER_LEN, Header, Kind, TRAILER_LEN, status_to_word},
    late::Next,
    limits::{COPIED_LEN_MAX, OUTSTANDING_MAX},
    outbox::Flush,
    region::{Gone, Regions},
};

/// Most bytes of a frame that are copied.
const FRAME_COPIED_LEN_MAX: usize = HEADER_LEN + COPIED_LEN_MAX + TRAILER_LEN;

/// Pieces of late writes without an acknowledgement, at most.
const PIECES_UNASKED_MAX: u32 = OUTSTANDING_MAX / 4;

impl From<Gone> for Failure {
    fn from(_: Gone) -> Self {
        Self::Deregistered
    }
}

impl Connection {
    /// Makes frames and gives them to the socket until there are none or it takes no more.
    pub(super) fn emit_and_flush(&mut self, shared: &Shared) -> Result<(), Failure> {
        for _ in 0..=OUTSTANDING_MAX {
            self.emit(shared)?;
            if self.outbox.is_empty() {
                return Ok(());
            }
            let Some(socket) = &self.socket else { return Ok(()) };
            match self.outbox.flush(socket, &shared.regions) {
                Flush::Empty if self.holds_back() => return Ok(()),
                Flush::Empty => {}
                Flush::Blocked | Flush::More => return Ok(()),
                Flush::Ended => {
                    // What the peer said before it ended is still to be received: the next receive
                    // finds the end after it.
                    socket.cut();
                    self.outbox.clear();
                    self.answers.clear();
                    return Ok(());
                }
                Flush::Gone => return Err(Failure::Deregistered),
            }
        }
        Ok(())
    }

    /// How many more requests it takes.
    pub(super) fn room(&self) -> usize {
        let late = self.late.as_ref().map_or(0, |late| late.len());
        self.requests.room().saturating_sub(late)
    }

    /// Takes a request that there is room for.
    pub(super) fn take(&mut self, request: SendRequest) {
        match &mut self.late {
            Some(late) => late.push(request),
            None => self.requests.push(request),
        }
    }

    /// Whether requests have not completed.
    pub(super) fn has_requests(&self) -> bool {
        !self.requests.is_empty() || self.holds_back()
    }

    /// Whether requests have not gone to the outbox.
    pub(super) fn has_unsent(&self) -> bool {
        self.requests.has_unemitted() || self.holds_back()
    }

    /// Whether requests wait for a later turn, though there is room.
    pub(super) fn holds_back(&self) -> bool {
        self.late.as_ref().is_some_and(|late| late.len() > 0)
    }

    /// Lets the next piece of a late write go, one a turn.
    fn let_go(&mut self) {
        if let Some(late) = &mut self.late
            && !self.requests.has_unemitted()
            && self.requests.room() > 0
        {
            match late.next() {
                Some(Next::Piece(piece)) => self.requests.push_piece(piece),
                Some(Next::Whole(request)) => self.requests.push(request),
                None => {}
            }
        }
    }

    /// Makes a frame that only acknowledges. Returns whether there was room.
    pub(super) fn emit_acknowledgement(&mut self) -> bool {
        if !self.outbox.has_room(HEADER_LEN) {
            return false;
        }
        let header = self.carrying_acknowledgement(Header::new(Kind::Acknowledge));
        self.outbox.stage(&header.encode());
        true
    }

    fn emit(&mut self, shared: &Shared) -> Result<(), Failure> {
        while self.outbox.has_room(FRAME_COPIED_LEN_MAX) {
            let answered = self.emit_answer(shared)?;
            let room = self.outbox.has_room(FRAME_COPIED_LEN_MAX);
            let requested = room && self.emit_request(shared)?;
            if !answered && !requested || self.late.is_some() && requested {
                break;
            }
        }
        Ok(())
    }

    fn emit_answer(&mut self, shared: &Shared) -> Result<bool, Failure> {
        let Some(answer) = self.answers.pop_front() else { return Ok(false) };
        match answer {
            Answer::Bytes { number, slice } => {
                if shared.regions.pages_of(slice).is_err() {
                    // Deregistered since it was asked for.
                    self.answers.clear();
                    let status = crate::fabric::CompletionStatus::RemoteAccess;
                    return Err(Failure::Refuse { number, status });
                }
                let header = Header { number, length: slice.len, ..Header::new(Kind::Response) };
                self.emit_frame(header, &slice.into(), shared)?;
            }
            Answer::Nothing { number } => {
                let header = Header { number, ..Header::new(Kind::Response) };
                self.emit_copied(header, &[], shared);
            }
            Answer::Word { number, word } => {
                let header = Header { number, length: 8, ..Header::new(Kind::Response) };
                self.emit_copied(header, &word.to_le_bytes(), shared);
            }
            Answer::Refusal { number, status } => {
                let operand = status_to_word(status);
                let header = Header { number, operand, ..Header::new(Kind::Refuse) };
                self.emit_copied(header, &[], shared);
            }
        }
        Ok(true)
    }

    fn emit_request(&mut self, shared: &Shared) -> Result<bool, Failure> {
        if self.phase != Phase::Ready {
            return Ok(false);
        }
        self.let_go();
        let Some((number, request)) = self.requests.next() else { return Ok(false) };
        let operation = request.operation;
        // Pieces are never signaled, and can take all the room before the request that they are of completes.
        let acknowledge =
            request.signaled || self.late.is_some() && number.is_multiple_of(PIECES_UNASKED_MAX);
        let header = |kind, remote: RemoteAddress, length| Header {
            number,
            key: remote.key.0,
            address: remote.address,
            length,
            ..Header::new(kind)
        };
        match operation {
            Operation::Write { local, remote } => {
                let header = header(Kind::Write, remote, length_of(&local));
                self.emit_frame(Header { acknowledge, ..header }, &local, shared)?;
            }
            Operation::WriteInline { bytes, remote } => {
                let bytes = bytes.as_slice();
                let header = header(Kind::Write, remote, inline_len(bytes));
                self.emit_copied(Header { acknowledge, ..header }, bytes, shared);
            }
            Operation::WriteWithImmediate { bytes, remote, immediate } => {
                let bytes = bytes.as_slice();
                let header = Header {
                    acknowledge,
                    operand: u64::from(immediate),
                    ..header(Kind::WriteImmediate, remote, inline_len(bytes))
                };
                self.emit_copied(header, bytes, shared);
            }
            Operation::Read { local, remote } => {
                let header = header(Kind::Read, remote, length_of(&local));
                self.emit_copied(header, &[], shared);
            }
            Operation::FetchAdd { remote, add, .. } => {
                let header = Header { operand: add, ..header(Kind::FetchAdd, remote, 0) };
                self.emit_copied(header, &[], shared);
            }
            Operation::CompareSwap { remote, expected, desired, .. } => {
                let header = Header { operand: expected, ..header(Kind::CompareSwap, remote, 8) };
                self.emit_copied(header, &desired.to_le_bytes(), shared);
            }
        }
        self.requests.emit();
        Ok(true)
    }

    /// A frame whose payload is at hand. There is room.
    fn emit_copied(&mut self, header: Header, payload: &[u8], shared: &Shared) {
        let trailer = shared.payload_checksums && !payload.is_empty();
        let header = self.carrying_acknowledgement(Header { trailer, ..header });
        self.outbox.stage(&header.encode());
        if !payload.is_empty() {
            self.outbox.stage(payload);
        }
        if trailer {
            self.outbox.stage(&Checksum::of(payload).0.to_le_bytes());
        }
    }

    /// A frame whose payload lies in registered memory. There is room.
    fn emit_frame(
        &mut self,
        header: Header,
        list: &ScatterList,
        shared: &Shared,
    ) -> Result<(), Failure> {
        if !shared.regions.contains(list) {
            return Err(Failure::Deregistered);
        }
        let len = header.payload_len();
        let trailer = shared.payload_checksums && len > 0;
        let header = self.carrying_acknowledgement(Header { trailer, ..header });
        self.outbox.stage(&header.encode());
        if len > COPIED_LEN_MAX {
            for slice in list.as_slice() {
                self.outbox.refer(*slice, trailer);
            }
            if trailer {
                self.outbox.refer_trailer();
            }
            return Ok(());
        }
        if len > 0 {
            let copy = self.outbox.reserve(len);
            copy_out(list, copy, &shared.regions)?;
            let checksum = trailer.then(|| Checksum::of(copy));
            if let Some(checksum) = checksum {
                self.outbox.stage(&checksum.0.to_le_bytes());
            }
        }
        Ok(())
    }

    /// Every frame says how far the peer's requests were carried out.
    fn carrying_acknowledgement(&mut self, header: Header) -> Header {
        self.acknowledgement.wanted = false;
        Header { acknowledged: self.executed, ..header }
    }
}

fn copy_out(list: &ScatterList, mut into: &mut [u8], regions: &Regions) -> Result<(), Gone> {
    for slice in list.as_slice() {
        let (now, later) = into.split_at_mut(slice.len as usize);
        regions.read(*slice, now)?;
        into = later;
    }
    Ok(())
}

/// Length of an inline payload.
fn inline_len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Bytes of a list whose length was checked when it was posted.
fn length_of(list: &ScatterList) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}
