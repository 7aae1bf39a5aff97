//! Messages whose completion waits for the chain: each for every record it is part of.

use windlass_wire::{PartitionId, Status};

use super::Chain;
use crate::shard::{port::Port, rounds, set_rows::SetError, tables::Tables};

/// One message.
#[derive(Clone, Copy, Debug)]
struct Wait {
    /// Slot of the session, and the life it had then.
    slot: usize,
    life: u64,
    number: u32,
    /// Records not committed yet, and one until the message's own turn is over.
    left: u32,
    status: Status,
    detail: u32,
}

/// All of them, by number.
#[derive(Debug, Default)]
pub(in crate::shard) struct Waits {
    waits: Vec<Wait>,
    free: Vec<u32>,
}

impl Waits {
    #[inline]
    fn insert(&mut self, wait: Wait) -> u32 {
        match self.free.pop() {
            Some(id) => {
                self.waits[id as usize] = wait;
                id
            }
            None => {
                self.waits.push(wait);
                u32::try_from(self.waits.len() - 1).unwrap_or(u32::MAX)
            }
        }
    }

    /// Messages that wait.
    pub(in crate::shard) fn count(&self) -> u64 {
        (self.waits.len() - self.free.len()) as u64
    }

    /// Whether a message came by this life of a slot.
    pub(in crate::shard) fn is_of(&self, id: u32, slot: usize, life: u64) -> bool {
        let wait = &self.waits[id as usize];
        (wait.slot, wait.life) == (slot, life)
    }

    #[inline]
    pub(in crate::shard) fn add(&mut self, id: u32) {
        self.waits[id as usize].left += 1;
    }

    /// One thing less to wait for; the message when it was the last.
    #[inline]
    fn end_one(&mut self, id: u32, status: Status, detail: u32) -> Option<Wait> {
        let wait = &mut self.waits[id as usize];
        wait.left -= 1;
        if status != Status::Done && wait.status == Status::Done {
            (wait.status, wait.detail) = (status, detail);
        }
        if wait.left > 0 {
            return None;
        }
        self.free.push(id);
        Some(*wait)
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

/// The chain has everything of a partition up to `lsn`.
pub(super) fn acknowledge_up_to(
    port: &mut Port,
    chain: &mut Chain,
    partition: PartitionId,
    lsn: windlass_wire::Lsn,
) {
    loop {
        let part = chain.part_mut(partition);
        let Some(part) = part else { return };
        if part.setting.front().is_some_and(|(position, _)| *position <= lsn)
            && let Some((_, answer)) = part.setting.pop_front()
        {
            // An asker that is gone needs no answer.
            let _ = answer.send(Ok(()));
            continue;
        }
        match part.waiting.front() {
            Some((position, id)) if *position <= lsn => {
                let id = *id;
                part.waiting.pop_front();
                port.end_wait(id, Status::Done, 0);
            }
            _ => return,
        }
    }
}

/// This replica can say no more what becomes of the pushes it took: their clients ask the chain.
pub(super) fn give_up_waiting(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    partition: PartitionId,
) {
    rounds::give_up_rounds(port, tables, partition);
    end_waiting(port, chain, partition, Status::StaleEpoch);
}

/// All that waits for a partition ends so.
pub(super) fn end_waiting(
    port: &mut Port,
    chain: &mut Chain,
    partition: PartitionId,
    status: Status,
) {
    loop {
        let part = chain.part_mut(partition);
        let Some(part) = part else { return };
        for (_, answer) in part.setting.drain(..) {
            let is_stopped = status == Status::Poisoned;
            let error = if is_stopped { SetError::stopped() } else { SetError::Moved };
            // As above.
            let _ = answer.send(Err(error));
        }
        let Some((_, id)) = part.waiting.pop_front() else { return };
        port.end_wait(id, status, 0);
    }
}
