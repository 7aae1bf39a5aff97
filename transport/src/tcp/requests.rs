//! The requests a queue pair has taken and not completed, in posting order.

use std::collections::VecDeque;

use crate::fabric::{
    Completion, CompletionStatus, LocalSlice, Opcode, Operation, QueuePairId, ScatterList,
    SendRequest, WorkId,
};

use super::limits::OUTSTANDING_MAX;

/// A ring of requests: the completed leave at the front, the posted enter at the back, and the
/// first `emitted` have been given to the outbox.
#[derive(Debug)]
pub(super) struct Requests {
    ring: VecDeque<Entry>,
    emitted: usize,
    /// Number of the request at the front.
    first: u32,
    /// The peer has carried out everything up to this one.
    acknowledged: u32,
}

#[derive(Debug)]
struct Entry {
    request: SendRequest,
    /// Answered, for those that are answered one by one.
    answered: bool,
    /// Part of a request that is reported by another.
    is_piece: bool,
}

/// The peer answers what was not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer answers a request that is not pending")]
pub(super) struct NotPending;

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            ring: VecDeque::with_capacity(OUTSTANDING_MAX as usize),
            emitted: 0,
            first: 1,
            acknowledged: 0,
        }
    }

    /// How many more it takes.
    pub(super) fn room(&self) -> usize {
        OUTSTANDING_MAX as usize - self.ring.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Whether some were posted and not emitted.
    pub(super) fn has_unemitted(&self) -> bool {
        self.emitted < self.ring.len()
    }

    pub(super) fn push(&mut self, request: SendRequest) {
        assert!(self.room() > 0, "room was checked before");
        self.ring.push_back(Entry { request, answered: false, is_piece: false });
    }

    /// The same of a part of a request, which is never reported.
    pub(super) fn push_piece(&mut self, request: SendRequest) {
        self.push(request);
        self.ring.back_mut().expect("it was just pushed").is_piece = true;
    }

    /// The next to emit, with its number; none while it waits for answers to those before it.
    pub(super) fn next(&self) -> Option<(u32, &SendRequest)> {
        let entry = self.ring.get(self.emitted)?;
        let waits = |before: &Entry| {
            !before.answered && opcode_of(&before.request.operation) != Opcode::Write
        };
        if entry.request.fenced && self.ring.range(..self.emitted).any(waits) {
            return None;
        }
        Some((self.number_at(self.emitted), &entry.request))
    }

    /// Says that the next was emitted.
    pub(super) fn emit(&mut self) {
        assert!(self.emitted < self.ring.len(), "there is one to emit");
        self.emitted += 1;
    }

    /// Takes note that the peer has carried out everything up to `number`.
    pub(super) fn acknowledge(&mut self, number: u32) -> Result<(), NotPending> {
        let advance = number.wrapping_sub(self.acknowledged);
        if advance == 0 {
            return Ok(());
        }
        let last = self.number_at(self.emitted).wrapping_sub(1);
        if advance > last.wrapping_sub(self.acknowledged) {
            return Err(NotPending);
        }
        self.acknowledged = number;
        Ok(())
    }

    /// Where the answer to `number`, of `len` bytes, belongs.
    pub(super) fn destination(&self, number: u32, len: u32) -> Result<ScatterList, NotPending> {
        let entry = self.ring.get(self.position(number)?).ok_or(NotPending)?;
        let list = match entry.request.operation {
            Operation::Read { local, .. } => local,
            Operation::FetchAdd { local, .. } | Operation::CompareSwap { local, .. } => {
                ScatterList::from(LocalSlice { len: 8, ..local })
            }
            _ => return Err(NotPending),
        };
        if entry.answered || list.len() != u64::from(len) {
            return Err(NotPending);
        }
        Ok(list)
    }

    /// Takes note that the answer to `number` is in place.
    pub(super) fn answer(&mut self, number: u32) -> Result<(), NotPending> {
        let position = self.position(number)?;
        self.ring.get_mut(position).ok_or(NotPending)?.answered = true;
        Ok(())
    }

    /// Takes those at the front away that have completed, and hands out what is to be reported.
    pub(super) fn complete(&mut self, queue_pair: QueuePairId, mut report: impl FnMut(Completion)) {
        while self.emitted > 0 {
            let Some(entry) = self.ring.front() else { break };
            let complete = match opcode_of(&entry.request.operation) {
                Opcode::Write => self.acknowledged.wrapping_sub(self.first) < 1 << 31,
                _ => entry.answered,
            };
            if !complete {
                break;
            }
            if entry.request.signaled {
                report(completion(queue_pair, &entry.request, CompletionStatus::Success));
            }
            self.ring.pop_front();
            self.emitted -= 1;
            self.first = self.first.wrapping_add(1);
        }
    }

    /// Ends all: those before `number` have succeeded, that one ends as `status`, later ones are
    /// flushed.
    pub(super) fn refuse(
        &mut self,
        number: u32,
        status: CompletionStatus,
        queue_pair: QueuePairId,
        mut report: impl FnMut(Completion),
    ) -> Result<CompletionStatus, NotPending> {
        let position = self.position(number)?;
        for entry in self.ring.drain(..position) {
            if entry.request.signaled {
                report(completion(queue_pair, &entry.request, CompletionStatus::Success));
            }
        }
        Ok(self.fail(status, queue_pair, report))
    }

    /// Ends all: the first as `status`, the others flushed. Returns how what comes behind them ends.
    pub(super) fn fail(
        &mut self,
        status: CompletionStatus,
        queue_pair: QueuePairId,
        mut report: impl FnMut(Completion),
    ) -> CompletionStatus {
        let mut status = status;
        for entry in self.ring.drain(..).filter(|entry| !entry.is_piece) {
            report(completion(queue_pair, &entry.request, status));
            status = CompletionStatus::Flushed;
        }
        self.emitted = 0;
        status
    }

    fn number_at(&self, position: usize) -> u32 {
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        self.first.wrapping_add(position)
    }

    fn position(&self, number: u32) -> Result<usize, NotPending> {
        let position = number.wrapping_sub(self.first) as usize;
        if position < self.emitted { Ok(position) } else { Err(NotPending) }
    }
}

pub(super) fn opcode_of(operation: &Operation) -> Opcode {
    match operation {
        Operation::Write { .. }
        | Operation::WriteInline { .. }
        | Operation::WriteWithImmediate { .. } => Opcode::Write,
        Operation::Read { .. } => Opcode::Read,
        Operation::FetchAdd { .. } | Operation::CompareSwap { .. } => Opcode::Atomic,
    }
}

/// The end of a request.
pub(super) fn completion(
    queue_pair: QueuePairId,
    request: &SendRequest,
    status: CompletionStatus,
) -> Completion {
    Completion {
        queue_pair,
        work_id: request.work_id,
        opcode: opcode_of(&request.operation),
        status,
        immediate: 0,
    }
}

/// The arrival of an immediate.
pub(super) fn arrival(queue_pair: QueuePairId, immediate: u32) -> Completion {
    Completion {
        queue_pair,
        work_id: WorkId(0),
        opcode: Opcode::ReceiveImmediate,
        status: CompletionStatus::Success,
        immediate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::{InlineBytes, RegionId, RemoteAddress};

    const QUEUE_PAIR: QueuePairId = QueuePairId(1);

    fn write(work_id: u64, signaled: bool) -> SendRequest {
        let operation = Operation::WriteInline {
            bytes: InlineBytes::word(0),
            remote: RemoteAddress::default(),
        };
        SendRequest { work_id: WorkId(work_id), signaled, fenced: false, operation }
    }

    fn read(work_id: u64) -> SendRequest {
        let local = LocalSlice { region: RegionId(1), offset: 0, len: 16 }.into();
        let operation = Operation::Read { local, remote: RemoteAddress::default() };
        SendRequest { work_id: WorkId(work_id), signaled: true, fenced: false, operation }
    }

    fn filled(requests: &[SendRequest]) -> Requests {
        let mut ring = Requests::new();
        for request in requests {
            ring.push(*request);
            ring.emit();
        }
        ring
    }

    fn completed(ring: &mut Requests) -> Vec<u64> {
        let mut ids = Vec::new();
        ring.complete(QUEUE_PAIR, |completion| ids.push(completion.work_id.0));
        ids
    }

    #[test]
    fn completions_come_in_posting_order() {
        let mut ring = filled(&[write(1, true), read(2), write(3, false), write(4, true)]);
        ring.acknowledge(4).unwrap();
        assert_eq!(completed(&mut ring), [1]);
        assert_eq!(ring.destination(2, 15), Err(NotPending));
        assert_eq!(ring.destination(3, 16), Err(NotPending));
        assert_eq!(ring.destination(2, 16).unwrap().len(), 16);
        ring.answer(2).unwrap();
        assert_eq!(ring.destination(2, 16), Err(NotPending));
        assert_eq!(completed(&mut ring), [2, 4]);
        assert!(ring.is_empty());
    }

    #[test]
    fn answers_to_what_was_not_asked_are_refused() {
        let mut ring = filled(&[write(1, true)]);
        ring.push(write(2, true));
        assert_eq!(ring.acknowledge(2), Err(NotPending));
        assert_eq!(ring.acknowledge(u32::MAX), Err(NotPending));
        assert_eq!(ring.answer(2), Err(NotPending));
        ring.acknowledge(1).unwrap();
        assert_eq!(ring.acknowledge(0), Err(NotPending));
        assert_eq!(completed(&mut ring), [1]);
    }

    #[test]
    fn a_refusal_flushes_what_comes_after() {
        let mut ring = filled(&[write(1, true), write(2, false), write(3, false), write(4, false)]);
        let mut seen = Vec::new();
        let status = CompletionStatus::RemoteAccess;
        ring.refuse(3, status, QUEUE_PAIR, |end| seen.push((end.work_id.0, end.status))).unwrap();
        let expected = [
            (1, CompletionStatus::Success),
            (3, CompletionStatus::RemoteAccess),
            (4, CompletionStatus::Flushed),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_fenced_request_waits_for_the_answers_before_it_and_holds_what_is_behind() {
        let mut ring = filled(&[write(1, true), read(2), read(3)]);
        ring.push(SendRequest { fenced: true, ..read(4) });
        ring.push(write(5, true));
        for number in [2, 3] {
            assert!(ring.next().is_none(), "before the answer to {number}");
            ring.answer(number).unwrap();
        }
        assert_eq!(ring.next().unwrap().1.work_id, WorkId(4));
        ring.emit();
        assert_eq!(ring.next().unwrap().1.work_id, WorkId(5), "it is not fenced itself");
    }

    #[test]
    fn numbers_wrap() {
        let mut ring = Requests::new();
        ring.first = u32::MAX;
        ring.acknowledged = u32::MAX - 1;
        for id in 0..3 {
            ring.push(write(id, true));
            ring.emit();
        }
        ring.acknowledge(0).unwrap();
        assert_eq!(completed(&mut ring), [0, 1]);
        ring.acknowledge(1).unwrap();
        assert_eq!(completed(&mut ring), [2]);
    }
}
