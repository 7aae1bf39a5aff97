//! Writes that show in another order than they were posted in, piece by piece, with time for the peer in
//! between: the worst that a device may do which promises no order.

use crate::fabric::{
    InlineBytes, LocalSlice, Operation, RemoteAddress, ScatterList, SendRequest, WorkId,
};

/// Most requests that one becomes: pieces, and what completes it.
pub(super) const REQUESTS_MAX: usize = PIECES as usize + 1;

const PIECES: u32 = 4;
const WORD_LEN: u32 = 8;

/// Gives out what a run of writes becomes, the last bytes of the last one first. Aligned words stay whole, and
/// completions come in order when all bytes are there.
pub(super) fn late(writes: &[SendRequest], mut push: impl FnMut(SendRequest)) {
    for write in writes.iter().rev() {
        for operation in pieces(&write.operation).into_iter().flatten() {
            push(SendRequest { work_id: WorkId(0), signaled: false, operation, ..*write });
        }
    }
    for write in writes.iter().filter(|write| write.signaled) {
        let bytes = InlineBytes::new(&[]);
        let operation = Operation::WriteInline { bytes, remote: remote_of(&write.operation) };
        push(SendRequest { operation, fenced: false, ..*write });
    }
}

/// Whether a request may be seen late.
pub(super) fn is_late(request: &SendRequest) -> bool {
    matches!(request.operation, Operation::Write { .. } | Operation::WriteInline { .. })
}

fn remote_of(operation: &Operation) -> RemoteAddress {
    match operation {
        Operation::Write { remote, .. } | Operation::WriteInline { remote, .. } => *remote,
        _ => unreachable!("only writes are late"),
    }
}

/// The pieces of a write, last first.
fn pieces(operation: &Operation) -> [Option<Operation>; PIECES as usize] {
    let mut pieces = [None; PIECES as usize];
    let len = match operation {
        Operation::Write { local, .. } if local.as_slice().len() == 1 => local.as_slice()[0].len,
        Operation::WriteInline { bytes, .. } => {
            u32::try_from(bytes.as_slice().len()).unwrap_or(u32::MAX)
        }
        _ => 0,
    };
    if len <= WORD_LEN {
        pieces[0] = Some(*operation);
        return pieces;
    }
    let piece_len = len.div_ceil(PIECES).next_multiple_of(WORD_LEN);
    let starts = (0..len).step_by(piece_len as usize).rev();
    for (piece, start) in pieces.iter_mut().zip(starts) {
        let piece_len = piece_len.min(len - start);
        let at = |remote: &RemoteAddress| RemoteAddress {
            address: remote.address + u64::from(start),
            ..*remote
        };
        *piece = Some(match operation {
            Operation::Write { local, remote } => {
                let whole = local.as_slice()[0];
                let offset = whole.offset + u64::from(start);
                let local = ScatterList::from(LocalSlice { offset, len: piece_len, ..whole });
                Operation::Write { local, remote: at(remote) }
            }
            Operation::WriteInline { bytes, remote } => {
                let part = &bytes.as_slice()[start as usize..(start + piece_len) as usize];
                Operation::WriteInline { bytes: InlineBytes::new(part), remote: at(remote) }
            }
            _ => unreachable!("only writes are late"),
        });
    }
    pieces
}
