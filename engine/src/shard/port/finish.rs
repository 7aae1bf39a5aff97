//! Completes requests, at once or when what they wait for has happened.

use windlass_wire::{RequestKind, Status};

use crate::{
    persist::commit::Position,
    shard::{
        port::{Port, waits::Wait},
        push::Refused,
        work::Values,
    },
};

impl Port {
    /// Completes a message of a session.
    pub(in crate::shard) fn complete(
        &mut self,
        slot: usize,
        number: u32,
        status: Status,
        detail: u32,
    ) {
        self.statistics.refused += u64::from(status != Status::Done);
        let session = self.sessions[slot].as_mut().expect("a message is completed to its session");
        let mailbox = session.mailbox.as_mut().expect("messages come by mailboxes");
        mailbox.completions.complete(number, status, detail);
        if !session.watch.is_watched {
            self.sessions.watch(slot);
        }
    }
}

impl Port {
    /// Begins to wait for a message of this turn: until its turn is over, at least.
    #[inline]
    pub(in crate::shard) fn begin_wait(&mut self, at: usize) -> u32 {
        let work = &mut self.turn.works[at];
        if let Some(wait) = work.wait {
            return wait;
        }
        let session = self.sessions[work.session].as_mut();
        let session = session.expect("no session ends while its requests are carried out");
        session.deferred_count += 1;
        let wait = Wait {
            slot: work.session,
            life: session.life,
            number: work.number,
            left: 1,
            status: Status::Done,
            detail: 0,
        };
        let id = self.waits.insert(wait);
        work.wait = Some(id);
        id
    }

    /// One of the things that a message waits for has come about.
    #[inline]
    pub(in crate::shard) fn end_wait(&mut self, id: u32, status: Status, detail: u32) {
        let Some(wait) = self.waits.end_one(id, status, detail) else { return };
        // Its slot may be another connection's by now.
        let session = self.sessions.get_mut(wait.slot).and_then(Option::as_mut);
        if let Some(session) = session
            && session.life == wait.life
        {
            session.deferred_count -= 1;
            self.complete(wait.slot, wait.number, wait.status, wait.detail);
        }
    }
}

impl Port {
    /// Counts a push and completes it, unless it also pulls.
    pub(in crate::shard) fn finish_push(&mut self, at: usize, outcome: Result<(), Refused>) {
        let work = &mut self.turn.works[at];
        if let Values::Staged(chunk) = work.values {
            self.staging.release(chunk);
            work.values = Values::None;
        }
        match outcome {
            Ok(()) => {
                work.pushed = true;
                let is_over = work.header.kind == RequestKind::Push;
                self.statistics.pushes += 1;
                self.statistics.rows_pushed += u64::from(work.header.row_count);
                self.statistics.bytes_pushed += work.header.values_len();
                if is_over {
                    self.close(at, Status::Done, 0);
                }
            }
            Err(Refused { status, detail }) => self.close(at, status, detail),
        }
    }

    /// Completes a request.
    pub(in crate::shard) fn close(&mut self, at: usize, status: Status, detail: u32) {
        let work = &mut self.turn.works[at];
        work.closed = true;
        let (slot, number, durable_at) = (work.session, work.number, work.durable_at);
        let wait = work.wait.take();
        let pushes = work.header.kind.pushes();
        if let Values::Staged(chunk) = work.values {
            work.values = Values::None;
            self.staging.release(chunk);
        }
        if pushes
            && is_sent_again(status)
            && let Some(session) = &mut self.sessions[slot]
        {
            session.gate.close();
        }
        match (durable_at, wait) {
            (Some(position), wait) if status == Status::Done => {
                self.complete_at(slot, number, position, wait);
            }
            (_, Some(wait)) => self.end_wait(wait, status, detail),
            (_, None) => self.complete(slot, number, status, detail),
        }
    }

    /// Whether a push that was in order when it was looked at first no longer is. One of the turn that
    /// was refused since is behind it or before it; either way it will be sent again with that one.
    pub(in crate::shard) fn is_behind_refused(&self, at: usize) -> bool {
        let work = &self.turn.works[at];
        let session = self.sessions[work.session].as_ref();
        session.is_some_and(|session| session.gate.is_closed()) && is_ordered(work.header.kind)
    }

    /// Refuses a push behind one that was refused and will be sent again. To be asked once for each,
    /// in the order they came.
    pub(in crate::shard) fn check_order(&mut self, at: usize) -> Result<(), Refused> {
        let work = &self.turn.works[at];
        let session = self.sessions[work.session].as_mut();
        let session = session.expect("no session ends while its requests are carried out");
        let passes = !is_ordered(work.header.kind) || session.gate.admits(work.header.resumes);
        if passes { Ok(()) } else { Err(Status::StaleEpoch.into()) }
    }
}

impl Port {
    /// A message whose rows of one partition are refused: it ends so once the others are settled.
    pub(in crate::shard) fn refuse_later(&mut self, at: usize, status: Status) {
        let id = self.begin_wait(at);
        self.waits.add(id);
        let session = self.turn.works[at].session;
        if is_sent_again(status)
            && let Some(session) = &mut self.sessions[session]
        {
            session.gate.close();
        }
        self.end_wait(id, status, 0);
    }
}

impl Port {
    /// Completes a request when the log is durable up to `position`, and what it waits for has come about.
    fn complete_at(&mut self, slot: usize, number: u32, position: Position, wait: Option<u32>) {
        let session = self.sessions[slot].as_ref().expect("a message is completed to its session");
        let waiting = Unwritten { slot, life: session.life, number, wait };
        if self.unwritten.push(position, waiting).is_err() {
            unreachable!("sessions have fewer requests in flight than the queue has room for");
        }
    }

    pub(in crate::shard) fn acknowledge_waiting(&mut self, waiting: Unwritten, status: Status) {
        if let Some(wait) = waiting.wait {
            return self.end_wait(wait, status, 0);
        }
        // Its slot may be another connection's by now.
        let session = self.sessions.get(waiting.slot).and_then(Option::as_ref);
        if session.is_some_and(|session| session.life == waiting.life) {
            self.complete(waiting.slot, waiting.number, status, 0);
        }
    }
}

/// An acknowledgement that waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) struct Unwritten {
    slot: usize,
    /// Life of the connection.
    life: u64,
    number: u32,
    /// What else it waits for.
    wait: Option<u32>,
}

/// Whether it counts in which order a session's requests are carried out. A clock that went on without
/// the push before it would promise what is not there.
fn is_ordered(kind: RequestKind) -> bool {
    kind.pushes() || kind == RequestKind::AdvanceClock
}

/// Whether a client sends a push with this outcome again, or may.
fn is_sent_again(status: Status) -> bool {
    matches!(
        status,
        Status::StaleEpoch
            | Status::NotHere
            | Status::Full
            | Status::Poisoned
            | Status::ShuttingDown
            | Status::TooEarly
    )
}
