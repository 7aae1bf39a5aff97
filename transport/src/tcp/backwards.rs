//! Reads that take a peer's bytes from their end to their beginning, with time for the peer in between: the
//! worst that a device may do which promises no order.

use crate::fabric::{LocalSlice, Operation, RemoteAddress, ScatterList, SendRequest, WorkId};

/// Most pieces of a read.
pub(super) const PIECES: u32 = 4;

/// Gives out the pieces that a request is carried out in, the last bytes first, each when the one before
/// has arrived. Words stay whole.
pub(super) fn backwards(request: &SendRequest, mut push: impl FnMut(SendRequest)) {
    let (local, remote) = match request.operation {
        Operation::Read { local, remote } if local.as_slice().len() == 1 && local.len() > 8 => {
            (local.as_slice()[0], remote)
        }
        _ => return push(*request),
    };
    let piece_len = local.len.div_ceil(PIECES).next_multiple_of(8);
    let mut fenced = request.fenced;
    for start in (0..local.len).step_by(piece_len as usize).rev() {
        let len = piece_len.min(local.len - start);
        let piece = LocalSlice { offset: local.offset + u64::from(start), len, ..local };
        let address = remote.address.wrapping_add(u64::from(start));
        let operation = Operation::Read {
            local: ScatterList::from(piece),
            remote: RemoteAddress { address, ..remote },
        };
        let is_last = start == 0;
        let work_id = if is_last { request.work_id } else { WorkId(0) };
        push(SendRequest { work_id, signaled: is_last && request.signaled, fenced, operation });
        fenced = true;
    }
}
