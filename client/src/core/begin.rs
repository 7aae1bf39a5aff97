//! Starts requests once a slot is free and the request that they follow is done.

use windlass_wire::Timestamp;

use super::{Core, RequestId};
use crate::error::RequestError;

/// Bytes of messages kept to be sent again from which new requests wait.
const BACKLOG_LEN_MAX: usize = 32 << 20;

/// Starts a request when `after` is done and a slot is free. It has one part until
/// [`Pending::end_sending`], so that it cannot be done before all of it is sent.
pub(super) fn begin(
    core: &mut Core,
    after: Option<Timestamp>,
    claimable: bool,
) -> Result<RequestId, RequestError> {
    check_round(core)?;
    begin_now(core, after, claimable)
}

/// Refuses a request for which there would be no room before the round is over.
fn check_round(core: &mut Core) -> Result<(), RequestError> {
    while let Some(push) = core.rounds.room_taken_by(&core.pending.requests) {
        core.progress();
        if !core.pending.requests.is_over(push) {
            return Err(RequestError::RoundFull);
        }
    }
    Ok(())
}

/// Starts a request that ends or begins a round: it needs no room in the open one.
pub(super) fn begin_now(
    core: &mut Core,
    after: Option<Timestamp>,
    claimable: bool,
) -> Result<RequestId, RequestError> {
    if let Some(after) = after {
        core.wait_for(after.0)?;
    }
    let mut patience = None;
    if core.recovery.in_trouble() {
        core.recover();
        while core.retries.len >= BACKLOG_LEN_MAX {
            core.wait_a_little(&mut patience)?;
        }
    }
    while !core.pending.requests.next_is_free() {
        core.wait_a_little(&mut patience)?;
    }
    let id = core.pending.requests.start(claimable);
    if let Some(request) = core.pending.requests.find_mut(id) {
        request.parts_left = 1;
    }
    Ok(id)
}
