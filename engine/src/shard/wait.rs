//! What a shard does when there is nothing to do: spin for a while, then sleep on one wait point.

use std::{
    sync::atomic::{Ordering, fence},
    time::{Duration, Instant},
};

use windlass_transport::{
    QueuePairState,
    spin::{Idle, LOOKS_PER_PAUSE},
    wait::wait_any_or,
};

use super::{Shard, durable::Durable, fetch::Outstanding};
use crate::limits::SLEEP_MS_MAX;

/// Idle turns before a shard sleeps on a write that is under way: the kernel's worker that ends the
/// write may need this very core.
const TURNS_PER_WRITE: u32 = 4;

/// Idle turns between looks at the clock.
const TURNS_PER_CLOCK: u32 = 16;

/// Looks at the mailboxes between idle turns, all sessions together: a look takes a small part of
/// what a turn takes, so messages are found sooner.
const LOOKS_PER_TURN: usize = 32;

impl Shard {
    /// Spins, or sleeps when the spinning has lasted long enough.
    pub(super) fn idle(&mut self) {
        self.idle_turns = self.idle_turns.wrapping_add(1);
        if !self.spin.is_shared() && self.look_for_messages() {
            return;
        }
        if self.is_writing() {
            if self.idle_turns >= TURNS_PER_WRITE {
                self.sleep();
            }
            return;
        }
        if self.spin.idle() == Idle::Crowded {
            return self.sleep();
        }
        if !self.idle_turns.is_multiple_of(TURNS_PER_CLOCK) {
            return;
        }
        let now = Instant::now();
        let since = *self.idle_since.get_or_insert(now);
        let budget = Duration::from_micros(u64::from(self.options.spin_us));
        if self.spin.is_over(now.duration_since(since), budget) {
            self.sleep();
        }
    }

    /// There was something to do.
    #[inline]
    pub(super) fn end_idling(&mut self) {
        self.idle_since = None;
        self.idle_turns = 0;
        self.spin.found();
    }

    /// Waits a moment for a message, and carries out what comes. Returns whether anything came.
    fn look_for_messages(&mut self) -> bool {
        let sessions = || self.sessions.iter().flatten();
        // Where writes land only while their transport is polled, looking at memory finds nothing.
        let looks = match sessions().count() {
            count @ 1.. if sessions().all(|session| session.lands_unpolled) => {
                LOOKS_PER_TURN / count
            }
            _ => 0,
        };
        for look in 0..looks {
            if look % LOOKS_PER_PAUSE == 0 {
                std::hint::spin_loop();
            }
            let mut mailboxes = sessions().filter_map(|session| session.mailbox.as_ref());
            if mailboxes.any(|mailbox| mailbox.reader.looks_ready()) {
                let worked = self.carry_out_messages();
                let acknowledged = self.acknowledge();
                if worked || acknowledged {
                    self.end_idling();
                }
                return worked || acknowledged;
            }
        }
        if looks == 0 {
            std::hint::spin_loop();
        }
        false
    }

    /// Tells active clients that wake-ups are needed from now on, looks once more, and sleeps.
    fn sleep(&mut self) {
        self.tell_sleep();
        // A message may have been written by a client that had not been told yet. Once the telling
        // has completed, later ones know.
        while self.tells_in_flight > 0 {
            if self.turn() {
                return;
            }
        }
        // The look must not be older than what was told: clients tell, then look, the other way round.
        fence(Ordering::SeqCst);
        if self.turn() {
            return;
        }
        self.statistics.sleeps += 1;
        let longest = Duration::from_millis(SLEEP_MS_MAX);
        let until_disk = self.disk_deadline();
        let longest = until_disk.map_or(longest, |deadline| deadline.min(longest));
        let until_chain = self.chain_deadline();
        let longest = until_chain.map_or(longest, |deadline| deadline.min(longest));
        let slept_at = Instant::now();
        let disk = self.durable.as_deref().and_then(Durable::wait_descriptor);
        wait_any_or(&mut self.transports, disk, longest);
        let overslept = slept_at.elapsed() >= longest;
        // Who slept for as long as there is has nothing to spin for: it looks once, and sleeps again.
        if !overslept || until_disk.is_some() || until_chain.is_some() {
            self.idle_since = None;
        }
        self.spin.found();
        self.end_lost_sessions();
        if overslept && until_disk.is_none() && until_chain.is_none() {
            // What wakes at the last moment is reported by its transport.
            let polled = self.poll_transports();
            if polled || self.turn() {
                self.statistics.late_wakes += u64::from(!polled);
                self.end_idling();
            }
        }
    }

    fn tell_sleep(&mut self) {
        for session in self.sessions.iter_mut().flatten() {
            let Some(mailbox) = &mut session.mailbox else { continue };
            let transport = self.transports[session.transport].as_mut();
            if !session.active || mailbox.sender.room() < 2 || transport.capabilities().writes_wake
            {
                continue;
            }
            session.active = false;
            session.sleep_epoch += 1;
            let work_id = self.staging.start(Outstanding::Tell);
            mailbox.completions.tell_sleep(session.sleep_epoch, work_id, &mut mailbox.sender);
            self.tells_in_flight += 1;
            // The end of a failed session also ends what it was being told.
            session.failed |= mailbox.sender.flush(transport).is_err();
        }
    }

    /// Ends sessions whose queue pair failed without a request to show it.
    fn end_lost_sessions(&mut self) {
        for session in self.sessions.iter_mut().flatten() {
            let transport = &self.transports[session.transport];
            session.failed |= transport.state(session.queue_pair) == QueuePairState::Error;
        }
    }

    /// Turns until the mailboxes are empty, for a shard that is to stop.
    pub(super) fn drain_all(&mut self) {
        for _ in 0..DRAIN_TURNS_MAX {
            if !self.turn_once() {
                return;
            }
        }
    }
}

/// Turns a stopping shard takes at most to empty its mailboxes.
const DRAIN_TURNS_MAX: u32 = 100_000;
