//! Starting requests: when a slot is free, and what they follow is done.

use windlass_wire::Timestamp;

use super::{Core, Pending, RequestId};
use crate::error::RequestError;

/// Bytes of messages kept to be sent again from which new requests wait.
const BACKLOG_LEN_MAX: usize = 32 << 20;

impl Core {
    /// Starts a request when `after` is done and a slot is free. It has one part until
    /// [`Core::end_sending`], so that it cannot be done before all of it is sent.
    pub(super) fn begin(
        &mut self,
        after: Option<Timestamp>,
        claimable: bool,
    ) -> Result<RequestId, RequestError> {
        self.check_round()?;
        self.begin_now(after, claimable)
    }

    /// Refuses a request for which there would be no room before the round is over.
    fn check_round(&mut self) -> Result<(), RequestError> {
        while let Some(push) = self.rounds.room_taken_by(&self.pending.requests) {
            self.progress();
            if !self.pending.requests.is_over(push) {
                return Err(RequestError::RoundFull);
            }
        }
        Ok(())
    }

    /// The same for what ends a round, or begins one.
    pub(super) fn begin_now(
        &mut self,
        after: Option<Timestamp>,
        claimable: bool,
    ) -> Result<RequestId, RequestError> {
        if let Some(after) = after {
            self.wait_for(after.0)?;
        }
        let mut patience = None;
        if self.recovery.in_trouble() {
            self.recover();
            while self.retries.len >= BACKLOG_LEN_MAX {
                self.wait_a_little(&mut patience)?;
            }
        }
        while !self.pending.requests.next_is_free() {
            self.wait_a_little(&mut patience)?;
        }
        let id = self.pending.requests.start(claimable);
        if let Some(request) = self.pending.requests.find_mut(id) {
            request.parts_left = 1;
        }
        Ok(id)
    }
}

impl Pending {
    /// Everything of a request is sent.
    pub(super) fn end_sending(&mut self, request: RequestId) {
        self.end_part(request, None);
    }
}
