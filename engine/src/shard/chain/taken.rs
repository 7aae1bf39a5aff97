//! The newest pushes of connected sessions to a settled shard, which its replicas have not been told yet.
//!
//! One push has rows in many partitions, and looking up each replica's session table would miss the cache
//! every time. So each session's newest sequences stand here, side by side. [`Taken::note`] brings the
//! replicas up to date before anybody reads their sessions or asks whether they have pushes without records.

use windlass_replication::{Covered, Lane, Push};
use windlass_wire::{Incarnation, PartitionId, Sequence, SessionId};

use super::part::Part;

/// What sessions have pushed, by their slots.
#[derive(Debug, Default)]
pub(super) struct Taken {
    slots: Vec<OfSession>,
    /// Slots of which replicas do not know everything.
    ahead: Vec<usize>,
}

/// What one session has pushed.
#[derive(Debug, Default)]
pub(in crate::shard) struct OfSession {
    life: (SessionId, Incarnation),
    /// By partition divided by the number of shards: the newest sequence. Zero where only the replica knows.
    sequences: Vec<Sequence>,
    /// How many are not zero, and the newest of all.
    known_count: usize,
    newest: Sequence,
    /// Partitions whose replicas do not know the newest sequence, as a list, and for each whether it is in it.
    ahead: Vec<usize>,
    is_ahead: Vec<bool>,
}

/// Remembers one push, partition by partition.
pub(in crate::shard) struct Taker<'a> {
    of_session: &'a mut OfSession,
    shard_count: u32,
    sequence: Sequence,
}

impl Taker<'_> {
    #[inline]
    pub(in crate::shard) fn take(&mut self, partition: PartitionId) {
        let index = (partition.0 / self.shard_count) as usize;
        let OfSession { sequences, ahead, is_ahead, .. } = self.of_session;
        if !std::mem::replace(&mut is_ahead[index], true) {
            ahead.push(index);
        }
        sequences[index] = self.sequence;
    }
}

/// The slot of a session, and its push.
pub(in crate::shard) type SlotPush<'a> = (usize, &'a Push);

impl Taken {
    /// Whether a push is surely newer than what its session has pushed to a partition. If not, its replica
    /// decides.
    #[inline]
    pub(super) fn is_newest(&self, index: usize, (slot, push): SlotPush<'_>) -> bool {
        let Some(of_session) = self.slots.get(slot) else { return false };
        let known = of_session.sequences.get(index).copied().unwrap_or_default();
        known != Sequence(0)
            && known < push.sequence
            && of_session.life == (push.session, push.incarnation)
    }

    /// Whether that holds for each of so many partitions, at one look.
    #[inline]
    pub(super) fn is_newest_of_all(&self, count: usize, (slot, push): SlotPush<'_>) -> bool {
        self.slots.get(slot).is_some_and(|of_session| {
            of_session.known_count == count
                && of_session.newest < push.sequence
                && of_session.life == (push.session, push.incarnation)
        })
    }

    /// Remembers a push that is newest; replicas are told later.
    #[inline]
    pub(super) fn taker(&mut self, shard_count: u16, (slot, push): SlotPush<'_>) -> Taker<'_> {
        let of_session = &mut self.slots[slot];
        if of_session.ahead.is_empty() {
            self.ahead.push(slot);
        }
        of_session.newest = of_session.newest.max(push.sequence);
        Taker { of_session, shard_count: shard_count.into(), sequence: push.sequence }
    }

    /// A replica knows a push that was applied: later ones of the session need not ask it.
    pub(super) fn begin(&mut self, parts: &mut Parts, index: usize, (slot, push): SlotPush<'_>) {
        let life = (push.session, push.incarnation);
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, OfSession::default);
        }
        if self.slots[slot].life != life {
            self.end(parts, slot);
            self.slots[slot].life = life;
        }
        let of_session = &mut self.slots[slot];
        if of_session.sequences.len() <= index {
            of_session.sequences.resize(parts.len(), Sequence(0));
            of_session.is_ahead.resize(parts.len(), false);
        }
        of_session.newest = of_session.newest.max(push.sequence);
        let known = &mut of_session.sequences[index];
        of_session.known_count += usize::from(*known == Sequence(0) && push.sequence > *known);
        *known = push.sequence;
    }

    /// Tells replicas what one session has pushed.
    pub(super) fn note_of(&mut self, parts: &mut Parts, slot: usize) {
        let Some(of_session) = self.slots.get_mut(slot) else { return };
        if !of_session.ahead.is_empty() {
            self.ahead.retain(|ahead| *ahead != slot);
            tell(parts, of_session);
        }
    }

    /// Tells replicas what all sessions have pushed.
    #[inline]
    pub(super) fn note(&mut self, parts: &mut Parts) {
        for slot in self.ahead.drain(..) {
            tell(parts, &mut self.slots[slot]);
        }
    }

    /// A session is gone: its replicas know what it has pushed.
    pub(super) fn end(&mut self, parts: &mut Parts, slot: usize) {
        self.note_of(parts, slot);
        if let Some(of_session) = self.slots.get_mut(slot) {
            *of_session = OfSession::default();
        }
    }

    /// Brings all replicas up to date and forgets everything here.
    pub(super) fn end_all(&mut self, parts: &mut Parts) {
        self.note(parts);
        self.slots.clear();
    }
}

/// The replicas of a shard, by partition divided by the number of shards.
type Parts = [Option<Box<Part>>];

fn tell(parts: &mut Parts, of_session: &mut OfSession) {
    let (session, incarnation) = of_session.life;
    for index in of_session.ahead.drain(..) {
        of_session.is_ahead[index] = false;
        let sequence = of_session.sequences[index];
        let part = parts[index].as_deref_mut().expect("a partition that was pushed to is here");
        part.replica.note_applied(Covered { session, incarnation, lane: Lane(0), sequence });
    }
}
