//! A shard's sessions. Turns poll only those that were heard lately. A quiet session is told to wake the
//! shard with its next message, as all are before the shard's thread sleeps; from then on it costs a turn
//! nothing. A transport that carries out peers' writes itself names the writer.

use std::{
    ops::{Deref, DerefMut},
    sync::atomic::{Ordering, fence},
    time::Instant,
};

use windlass_transport::{QueuePairState, Transport};

use super::{fetch::Outstanding, session::ShardSession, staging::Staging};
use crate::limits::{QUIET_LOOKS, SESSIONS_SWEPT, SWEEP_EVERY};

/// Turns between looks at the clock for the next sweep.
const TURNS_PER_CLOCK: u32 = 64;

/// The sessions, by their slots.
#[derive(Debug)]
pub(super) struct Sessions {
    slots: Vec<Option<ShardSession>>,
    /// Slots of the sessions that turns poll.
    watched: Vec<usize>,
    swept_at: Instant,
    turns: u32,
    /// Where the next look at quiet ones begins.
    next_quiet: usize,
}

/// What a sweep did and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Swept {
    /// Sessions that are being told to wake the shard.
    pub(super) told: u32,
    /// Messages of quiet sessions that came without a wake-up.
    pub(super) late: u64,
}

impl Default for Sessions {
    fn default() -> Self {
        let swept_at = Instant::now();
        Self { slots: Vec::new(), watched: Vec::new(), swept_at, turns: 0, next_quiet: 0 }
    }
}

impl Deref for Sessions {
    type Target = [Option<ShardSession>];

    fn deref(&self) -> &Self::Target {
        &self.slots
    }
}

impl DerefMut for Sessions {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.slots
    }
}

impl Sessions {
    /// Adds a session, which turns then poll, and returns its slot.
    pub(super) fn insert(&mut self, session: ShardSession) -> usize {
        let slot = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(session);
        self.watch(slot);
        slot
    }

    /// Takes a session out.
    pub(super) fn remove(&mut self, slot: usize) -> Option<ShardSession> {
        self.watched.retain(|watched| *watched != slot);
        self.slots[slot].take()
    }

    /// Slots of the sessions that turns poll.
    #[inline]
    pub(super) fn watched(&self) -> &[usize] {
        &self.watched
    }

    /// A session that turns look at, by its place among them.
    #[inline]
    pub(super) fn watched_mut(&mut self, at: usize) -> &mut ShardSession {
        self.slots[self.watched[at]].as_mut().expect("a session that ends is watched no longer")
    }

    /// The sessions that turns poll.
    pub(super) fn iter_watched(&self) -> impl Iterator<Item = &ShardSession> + Clone {
        self.watched.iter().filter_map(|slot| self.slots[*slot].as_ref())
    }

    /// Has turns poll a session from now on.
    #[inline]
    pub(super) fn watch(&mut self, slot: usize) {
        let session = self.slots[slot].as_mut().expect("only sessions that are open are heard");
        session.watch.silent_sweeps = 0;
        if !session.watch.is_watched {
            session.watch.is_watched = true;
            self.watched.push(slot);
        }
    }

    /// Whether a sweep is due. Reads the clock only once in many turns.
    #[inline]
    pub(super) fn is_sweep_due(&mut self) -> bool {
        self.turns += 1;
        self.turns >= TURNS_PER_CLOCK && self.is_sweep_due_now()
    }

    /// Whether a sweep is due by the clock.
    pub(super) fn is_sweep_due_now(&mut self) -> bool {
        self.turns = 0;
        self.swept_at.elapsed() >= SWEEP_EVERY
    }

    /// Tells those that have been silent since the last sweep to wake the shard, lets turns look no longer at those
    /// that were told before, and looks at some of the quiet ones in case that a wake-up was lost.
    pub(super) fn sweep(
        &mut self,
        transports: &mut [Box<dyn Transport>],
        staging: &mut Staging,
    ) -> Swept {
        self.swept_at = Instant::now();
        let mut swept = Swept::default();
        let slots = &mut self.slots;
        // The look below must not be older than what was told.
        fence(Ordering::SeqCst);
        self.watched.retain(|slot| {
            let session = slots[*slot].as_mut();
            let session = session.expect("a session that ends is watched no longer");
            session.watch.silent_sweeps = session.watch.silent_sweeps.saturating_add(1);
            if session.watch.silent_sweeps < QUIET_LOOKS || !session.is_settled() {
                return true;
            }
            let transport = transports[session.route.transport].as_mut();
            if !transport.capabilities().writes_wake && session.watch.active {
                swept.told += u32::from(tell_sleep(session, transport, staging));
                return true;
            }
            session.watch.is_watched = session.has_message();
            session.watch.is_watched
        });
        for _ in 0..SESSIONS_SWEPT.min(self.slots.len()) {
            self.next_quiet = (self.next_quiet + 1) % self.slots.len();
            let Some(session) = &mut self.slots[self.next_quiet] else { continue };
            if session.watch.is_watched {
                continue;
            }
            let state = transports[session.route.transport].state(session.route.queue_pair);
            session.failed |= state == QueuePairState::Error;
            let has_message = session.has_message();
            swept.late += u64::from(has_message);
            if has_message || session.failed {
                self.watch(self.next_quiet);
            }
        }
        swept
    }
}

/// Tells a session that the shard has to be woken from now on. Returns whether that is under way.
pub(super) fn tell_sleep(
    session: &mut ShardSession,
    transport: &mut dyn Transport,
    staging: &mut Staging,
) -> bool {
    let Some(mailbox) = &mut session.mailbox else { return false };
    if !session.watch.active || mailbox.sender.room() < 2 {
        return false;
    }
    session.watch.active = false;
    session.watch.silent_sweeps = 0;
    session.watch.sleep_epoch += 1;
    let work_id = staging.start(Outstanding::Tell);
    mailbox.completions.tell_sleep(session.watch.sleep_epoch, work_id, &mut mailbox.sender);
    // The end of a failed session also ends what it was being told.
    session.failed |= mailbox.sender.flush(transport).is_err();
    true
}

impl ShardSession {
    /// Whether the session has nothing in flight that turns must attend to.
    fn is_settled(&self) -> bool {
        let Some(mailbox) = &self.mailbox else { return false };
        self.owner.peer.is_none()
            && !self.failed
            && self.doubted_since.is_none()
            && self.parked.is_empty()
            && !mailbox.completions.is_pending()
            && mailbox.sender.is_empty()
    }

    /// Whether its mailbox has a message, well-formed or not.
    fn has_message(&self) -> bool {
        let mailbox = self.mailbox.as_ref();
        mailbox.is_some_and(|mailbox| !matches!(mailbox.reader.peek(), Ok(None)))
    }
}
