//! The receiving half of a queue pair: frames of the peer's become placed bytes, answers and
//! completions. Everything a frame says is checked before anything is done.

use std::time::Instant;

use windlass_wire::checksum::Checksum;

use crate::fabric::{CompletionStatus, LocalSlice, ScatterList};

use super::{
    connection::{Answer, Connection, Phase, Receiving, Shared},
    failure::{Failure, ProtocolError},
    frame::{FrameError, HEADER_LEN, Header, Kind, TRAILER_LEN, status_from_word, u32_at, u64_at},
    limits::{CALLS_PER_POLL_MAX, INBOX_LEN, OUTSTANDING_MAX, WHOLE_LEN_MAX},
    region::is_word,
    requests::arrival,
    socket::{Scatter, Transfer},
};

/// What is needed to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Bytes,
    /// A posted receive.
    Receive,
}

impl Connection {
    /// Receives and carries out what has come, within bounds.
    pub(super) fn receive(&mut self, shared: &mut Shared) -> Result<(), Failure> {
        self.has_more = false;
        if self.stalled_since.is_some() {
            let need = self.understand(shared);
            self.report_success(shared);
            if need? == Need::Receive {
                return Ok(());
            }
        }
        for _ in 0..CALLS_PER_POLL_MAX {
            let Some(socket) = &self.socket else { return Ok(()) };
            let mut scatter = Scatter::new();
            let mut direct_len = 0;
            if let Receiving::Payload { list, done, .. } = &self.receiving {
                shared.regions.scatter(list, *done, &mut scatter)?;
                direct_len = scatter.len();
            }
            let room_len = self.inbox_room_len();
            let room = self.inbox.room();
            let room_len = room_len.min(room.len());
            scatter.push_buffer(&mut room[..room_len]);
            let asked = scatter.len();
            let received = match socket.receive(&mut scatter) {
                Transfer::Bytes(received) => received,
                Transfer::Blocked => return Ok(()),
                Transfer::Ended(error) => return Err(Failure::Lost(error)),
            };
            if let Receiving::Payload { done, .. } = &mut self.receiving {
                *done += received.min(direct_len);
            }
            self.inbox.fill(received.saturating_sub(direct_len));
            let need = self.understand(shared);
            self.report_success(shared);
            // A short receive has emptied the socket.
            if need? == Need::Receive || received < asked {
                return Ok(());
            }
        }
        self.has_more = true;
        Ok(())
    }

    /// How much to receive beyond the payload in progress. A long payload is received in place only
    /// if none of it is in the inbox, so while they come one after the other it is no more than the
    /// next header.
    fn inbox_room_len(&self) -> usize {
        let unread_len = self.inbox.unread().len();
        match &self.receiving {
            Receiving::Payload { header, .. } => header.trailer_len() + HEADER_LEN,
            Receiving::Header if self.follows_long && unread_len < HEADER_LEN => {
                HEADER_LEN - unread_len
            }
            Receiving::Header | Receiving::Trailer { .. } => INBOX_LEN,
        }
    }

    /// Carries out all that is complete in the inbox.
    fn understand(&mut self, shared: &mut Shared) -> Result<Need, Failure> {
        if matches!(self.phase, Phase::Refusing { .. }) {
            self.receiving = Receiving::Header;
            self.inbox.consume(self.inbox.unread().len());
            return Ok(Need::Bytes);
        }
        loop {
            let need = match self.receiving {
                Receiving::Header => self.understand_header(shared)?,
                Receiving::Payload { header, list, done } => {
                    self.understand_payload(header, list, done, shared)?
                }
                Receiving::Trailer { header, list } => {
                    self.understand_trailer(header, list, shared)?
                }
            };
            if let Some(need) = need {
                return Ok(need);
            }
        }
    }

    fn understand_header(&mut self, shared: &mut Shared) -> Result<Option<Need>, Failure> {
        let unread = self.inbox.unread();
        let Some(bytes) = unread.first_chunk::<HEADER_LEN>() else { return Ok(Some(Need::Bytes)) };
        let header = Header::decode(bytes)?;
        let (payload_len, trailer_len) = (header.payload_len(), header.trailer_len());
        self.follows_long = payload_len > WHOLE_LEN_MAX;
        if self.follows_long {
            let list = self.admit(&header, shared)?;
            self.inbox.consume(HEADER_LEN);
            self.receiving = Receiving::Payload { header, list, done: 0 };
            return Ok(None);
        }
        let payload_end = HEADER_LEN + payload_len;
        if unread.len() < payload_end + trailer_len {
            return Ok(Some(Need::Bytes));
        }
        let payload = &unread[HEADER_LEN..payload_end];
        if header.trailer && Checksum::of(payload) != Checksum(u32_at(unread, payload_end)) {
            return Err(ProtocolError::PayloadChecksum.into());
        }
        if header.kind == Kind::WriteImmediate && self.receives == 0 {
            self.stalled_since.get_or_insert_with(Instant::now);
            return Ok(Some(Need::Receive));
        }
        self.stalled_since = None;
        let list = self.admit(&header, shared)?;
        let payload = &self.inbox.unread()[HEADER_LEN..payload_end];
        if header.kind == Kind::CompareSwap {
            let desired = u64_at(payload, 0);
            self.compare_swap(&header, desired, shared)?;
        } else {
            shared.regions.place(&list, 0, payload)?;
            self.finish(&header, shared)?;
        }
        self.inbox.consume(payload_end + trailer_len);
        Ok(None)
    }

    fn understand_payload(
        &mut self,
        header: Header,
        list: ScatterList,
        done: usize,
        shared: &mut Shared,
    ) -> Result<Option<Need>, Failure> {
        let unread = self.inbox.unread();
        let taken = unread.len().min(header.payload_len() - done);
        shared.regions.place(&list, done, &unread[..taken])?;
        self.inbox.consume(taken);
        let done = done + taken;
        if done < header.payload_len() {
            self.receiving = Receiving::Payload { header, list, done };
            return Ok(Some(Need::Bytes));
        }
        if header.trailer {
            self.receiving = Receiving::Trailer { header, list };
        } else {
            self.receiving = Receiving::Header;
            self.finish(&header, shared)?;
        }
        Ok(None)
    }

    fn understand_trailer(
        &mut self,
        header: Header,
        list: ScatterList,
        shared: &mut Shared,
    ) -> Result<Option<Need>, Failure> {
        let unread = self.inbox.unread();
        if unread.len() < TRAILER_LEN {
            return Ok(Some(Need::Bytes));
        }
        let expected = Checksum(u32_at(unread, 0));
        let mut found = Checksum::default();
        for slice in list.as_slice() {
            found = shared.regions.checksum(found, *slice)?;
        }
        if found != expected {
            return Err(ProtocolError::PayloadChecksum.into());
        }
        self.inbox.consume(TRAILER_LEN);
        self.receiving = Receiving::Header;
        self.finish(&header, shared)?;
        Ok(None)
    }

    /// Checks a frame against what is known and says where its payload goes.
    fn admit(&mut self, header: &Header, shared: &Shared) -> Result<ScatterList, Failure> {
        self.requests.acknowledge(header.acknowledged)?;
        if header.kind.is_request() {
            let expected = self.executed.wrapping_add(1);
            if header.number != expected {
                return Err(ProtocolError::Number { expected, found: header.number }.into());
            }
        }
        match header.kind {
            Kind::Write | Kind::WriteImmediate if header.length == 0 => Ok(ScatterList::EMPTY),
            Kind::Write | Kind::WriteImmediate => self
                .granted(header, &shared.regions, |access| access.remote_write)
                .map(ScatterList::from),
            Kind::Response => Ok(self.requests.destination(header.number, header.length)?),
            _ => Ok(ScatterList::EMPTY),
        }
    }

    /// Carries out a frame whose payload is in place.
    fn finish(&mut self, header: &Header, shared: &mut Shared) -> Result<(), Failure> {
        match header.kind {
            Kind::Write => {}
            Kind::WriteImmediate => {
                self.receives -= 1;
                let Ok(immediate) = u32::try_from(header.operand) else {
                    return Err(ProtocolError::Frame(FrameError::Reserved).into());
                };
                shared.ready.push_back(arrival(self.id, immediate));
            }
            Kind::Read => {
                let slice = if header.length == 0 {
                    None
                } else {
                    Some(self.granted(header, &shared.regions, |access| access.remote_read)?)
                };
                self.answer_read(header, slice)?;
            }
            Kind::FetchAdd => self.fetch_add(header, shared)?,
            Kind::Response => self.requests.answer(header.number)?,
            Kind::Acknowledge | Kind::CompareSwap => {}
            Kind::Refuse => {
                return Err(Failure::Refused {
                    number: header.number,
                    status: status_from_word(header.operand),
                });
            }
            Kind::Hello => return Err(ProtocolError::Hello.into()),
        }
        if header.kind.is_request() {
            self.executed = header.number;
            self.acknowledgement.wanted |= header.acknowledge;
        }
        Ok(())
    }

    fn answer_read(&mut self, header: &Header, slice: Option<LocalSlice>) -> Result<(), Failure> {
        let number = header.number;
        match slice {
            Some(slice) => self.answer(Answer::Bytes { number, slice }),
            None => self.answer(Answer::Nothing { number }),
        }
    }

    fn fetch_add(&mut self, header: &Header, shared: &Shared) -> Result<(), Failure> {
        let (slice, number) = (self.atomic_slice(header, shared)?, header.number);
        let pages = shared.regions.pages_of(slice)?;
        let word = pages.fetch_add_u64(slice.offset, header.operand);
        self.answer(Answer::Word { number, word })
    }

    fn compare_swap(
        &mut self,
        header: &Header,
        desired: u64,
        shared: &Shared,
    ) -> Result<(), Failure> {
        let (slice, number) = (self.atomic_slice(header, shared)?, header.number);
        let pages = shared.regions.pages_of(slice)?;
        let word = pages.compare_swap_u64(slice.offset, header.operand, desired);
        self.executed = number;
        self.answer(Answer::Word { number, word })
    }

    fn atomic_slice(&self, header: &Header, shared: &Shared) -> Result<LocalSlice, Failure> {
        let header = Header { length: 8, ..*header };
        let slice = self.granted(&header, &shared.regions, |access| access.remote_atomic)?;
        let pages = shared.regions.pages_of(slice)?;
        if !is_word(pages, slice.offset, 8) {
            let status = CompletionStatus::RemoteOperation;
            return Err(Failure::Refuse { number: header.number, status });
        }
        Ok(slice)
    }

    fn answer(&mut self, answer: Answer) -> Result<(), Failure> {
        if self.answers.len() >= OUTSTANDING_MAX as usize {
            return Err(ProtocolError::TooMany.into());
        }
        self.answers.push_back(answer);
        Ok(())
    }
}
