//! Writes that show late, in pieces and in any order: what a fabric may do that promises no order, for tests
//! of what has to hold there.
//!
//! What is kept of the promises of a reliable connection: an aligned word shows as one; a completion comes
//! when the bytes of its write, and of all posted before it, are in place, and completions come in posting
//! order; immediates, reads and atomics overtake nothing and are not overtaken; a fenced write is not, either.
//! What is not kept: any of the writes up to the next such request may show before any other, also where they
//! were posted at different times, and where they overlap: of two writes to one word, the older may last.
//!
//! One difference to devices remains: a refused piece ends requests that were posted before it and not
//! completed, which a device completes.

use std::collections::VecDeque;

use crate::fabric::{InlineBytes, LocalSlice, Operation, RemoteAddress, ScatterList, SendRequest};

/// Most pieces of a write.
const PIECES: u32 = 4;
const WORD_LEN: u32 = 8;

/// Writes of which pieces are under way at once: how far one may fall behind.
const WINDOW: usize = 8;

/// One piece in so many is followed by a pause, of at most so many turns.
const PAUSE_ONE_IN: u64 = 16;
const PAUSE_TURNS_MAX: u64 = 256;

/// The requests of one queue pair that have not gone out whole, in posting order.
#[derive(Debug)]
pub(super) struct Late {
    posted: VecDeque<Posted>,
    /// What the order is drawn from.
    random: u64,
    paused_turns: u64,
}

#[derive(Debug)]
struct Posted {
    request: SendRequest,
    /// Those of a write that have not gone out.
    pieces: Vec<Operation>,
}

/// What goes out next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Bytes of a write. Its completion comes by another request.
    Piece(SendRequest),
    /// A request as it was posted, or what completes a write.
    Whole(SendRequest),
}

impl Late {
    pub(super) fn new(seed: u64) -> Self {
        Self { posted: VecDeque::new(), random: seed, paused_turns: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.posted.len()
    }

    pub(super) fn push(&mut self, request: SendRequest) {
        self.posted.push_back(Posted { request, pieces: pieces(&request.operation) });
    }

    /// What goes out in this turn, if anything does.
    pub(super) fn next(&mut self) -> Option<Next> {
        if self.paused_turns > 0 {
            self.paused_turns -= 1;
            return None;
        }
        while let Some(front) = self.posted.front()
            && front.pieces.is_empty()
        {
            let request = front.request;
            self.posted.pop_front();
            if !is_write(&request) {
                return Some(Next::Whole(request));
            }
            if request.signaled {
                let remote = remote_of(&request.operation);
                let bytes = InlineBytes::new(&[]);
                let operation = Operation::WriteInline { bytes, remote };
                return Some(Next::Whole(SendRequest { operation, fenced: false, ..request }));
            }
        }
        // Those whose pieces may go out now.
        let under_way = self
            .posted
            .iter()
            .take(WINDOW)
            .enumerate()
            .take_while(|(at, posted)| may_overtake(*at, &posted.request))
            .filter(|(_, posted)| !posted.pieces.is_empty())
            .map(|(at, _)| at);
        let count = under_way.clone().count();
        let at = under_way.clone().nth(draw(&mut self.random, count))?;
        let Posted { request, pieces } = &mut self.posted[at];
        let operation = pieces.swap_remove(draw(&mut self.random, pieces.len()));
        let piece = SendRequest { signaled: false, operation, ..*request };
        if splitmix(&mut self.random).is_multiple_of(PAUSE_ONE_IN) {
            self.paused_turns = splitmix(&mut self.random) % (PAUSE_TURNS_MAX + 1);
        }
        Some(Next::Piece(piece))
    }

    /// Takes all that have not gone out whole, in posting order.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = SendRequest> {
        self.posted.drain(..).map(|posted| posted.request)
    }
}

/// Whether the write at a position may show before those in front of it.
fn may_overtake(at: usize, request: &SendRequest) -> bool {
    is_write(request) && (at == 0 || !request.fenced)
}

fn is_write(request: &SendRequest) -> bool {
    matches!(request.operation, Operation::Write { .. } | Operation::WriteInline { .. })
}

fn remote_of(operation: &Operation) -> RemoteAddress {
    match operation {
        Operation::Write { remote, .. } | Operation::WriteInline { remote, .. } => *remote,
        _ => unreachable!("only writes are late"),
    }
}

/// The pieces of a write; none of anything else.
fn pieces(operation: &Operation) -> Vec<Operation> {
    let len = match operation {
        Operation::Write { local, .. } if local.as_slice().len() == 1 => local.as_slice()[0].len,
        Operation::WriteInline { bytes, .. } => {
            u32::try_from(bytes.as_slice().len()).unwrap_or(u32::MAX)
        }
        Operation::Write { .. } => return vec![*operation],
        _ => return Vec::new(),
    };
    if len <= WORD_LEN {
        return vec![*operation];
    }
    let piece_len = len.div_ceil(PIECES).next_multiple_of(WORD_LEN);
    let piece = |start: u32| {
        let piece_len = piece_len.min(len - start);
        let at = |remote: &RemoteAddress| RemoteAddress {
            address: remote.address.wrapping_add(u64::from(start)),
            ..*remote
        };
        match operation {
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
        }
    };
    (0..len).step_by(piece_len as usize).map(piece).collect()
}

/// A number below `bound`; zero when that is zero.
fn draw(random: &mut u64, bound: usize) -> usize {
    let bound = bound.max(1) as u64;
    usize::try_from(splitmix(random) % bound).unwrap_or(0)
}

/// The next of a sequence of random numbers (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014).
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::{RegionId, WorkId};

    fn write(id: u64, len: u32) -> SendRequest {
        let local = LocalSlice { region: RegionId(1), offset: 64, len }.into();
        let remote = RemoteAddress { address: id * 0x1000, ..RemoteAddress::default() };
        let operation = Operation::Write { local, remote };
        SendRequest { work_id: WorkId(id), signaled: true, fenced: false, operation }
    }

    fn immediate(id: u64) -> SendRequest {
        let bytes = InlineBytes::new(&[]);
        let remote = RemoteAddress::default();
        let operation = Operation::WriteWithImmediate { bytes, remote, immediate: 7 };
        SendRequest { operation, ..write(id, 0) }
    }

    type Sent = Vec<(u64, Option<(u64, u64)>)>;

    /// What goes out, as (id, first byte and length) of pieces and (id, none) of what completes.
    fn sent(seed: u64, requests: &[SendRequest]) -> Sent {
        let mut late = Late::new(seed);
        requests.iter().for_each(|request| late.push(*request));
        let mut sent = Vec::new();
        while late.len() > 0 {
            match late.next() {
                Some(Next::Piece(piece)) => {
                    let Operation::Write { local, remote } = piece.operation else {
                        panic!("{piece:?}")
                    };
                    assert!(!piece.signaled);
                    let start = remote.address - piece.work_id.0 * 0x1000;
                    assert_eq!(local.as_slice()[0].offset, 64 + start, "both sides move alike");
                    sent.push((piece.work_id.0, Some((start, local.len()))));
                }
                Some(Next::Whole(whole)) => sent.push((whole.work_id.0, None)),
                None => {}
            }
        }
        sent
    }

    #[test]
    fn each_byte_goes_out_once_before_its_completion_and_completions_are_in_order() {
        for seed in 0..200 {
            let requests = [write(1, 100), write(2, 8), write(3, 4096), write(4, 33)];
            let sent = sent(seed, &requests);
            let completed: Vec<u64> =
                sent.iter().filter(|(_, piece)| piece.is_none()).map(|(id, _)| *id).collect();
            assert_eq!(completed, [1, 2, 3, 4]);
            for (id, len) in [(1, 100), (2, 8), (3, 4096), (4, 33)] {
                let completion = sent.iter().position(|entry| *entry == (id, None)).unwrap();
                let mut of_it: Vec<_> = sent[..completion]
                    .iter()
                    .filter(|entry| entry.0 == id)
                    .filter_map(|entry| entry.1)
                    .collect();
                of_it.sort_unstable();
                let end = of_it.iter().fold(0, |end, (start, len)| {
                    assert_eq!((*start, start % 8), (end, 0), "aligned, without gaps");
                    start + len
                });
                assert_eq!(end, len);
            }
        }
    }

    #[test]
    fn any_piece_may_be_first_or_last() {
        let both: Vec<_> = (0..500).map(|seed| sent(seed, &[write(1, 32), write(2, 32)])).collect();
        for id in [1, 2] {
            for start in [0, 8, 16, 24] {
                let piece = (id, Some((start, 8)));
                assert!(both.iter().any(|sent| sent[0] == piece), "{piece:?} is never first");
                let is_last =
                    |sent: &Sent| sent.iter().rfind(|entry| entry.1.is_some()) == Some(&piece);
                assert!(both.iter().any(is_last), "{piece:?} is never last");
            }
        }
    }

    #[test]
    fn nothing_passes_an_immediate_or_a_fence() {
        for seed in 0..200 {
            let fenced = SendRequest { fenced: true, ..write(4, 64) };
            let sent =
                sent(seed, &[write(1, 64), immediate(2), write(3, 64), fenced, write(5, 64)]);
            let ids: Vec<u64> = sent.iter().map(|entry| entry.0).collect();
            let last_of = |id| ids.iter().rposition(|other| *other == id).unwrap();
            let first_of = |id| ids.iter().position(|other| *other == id).unwrap();
            assert!(last_of(1) < first_of(2) && last_of(2) < first_of(3));
            assert!(last_of(3) < first_of(4));
        }
    }

    #[test]
    fn what_has_not_gone_out_is_handed_back_once() {
        let mut late = Late::new(1);
        [write(1, 64), immediate(2)].iter().for_each(|request| late.push(*request));
        assert!(matches!(late.next(), Some(Next::Piece(_))));
        let left: Vec<u64> = late.drain().map(|request| request.work_id.0).collect();
        assert_eq!((left, late.len()), (vec![1, 2], 0));
    }
}
