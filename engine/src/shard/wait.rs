//! What one shard does when there is nothing to do: look at its mailboxes, tell its clients before its
//! thread sleeps, and take stock after it. When that is, the thread decides: see `reactor`.

use std::time::Duration;

use windlass_transport::{QueuePairState, spin::LOOKS_PER_PAUSE};

use super::{Shard, fetch::Outstanding};

/// Looks at the mailboxes between idle turns, all sessions together: a look takes a small part of
/// what a turn takes, so messages are found sooner.
const LOOKS_PER_TURN: usize = 32;

impl Shard {
    /// Waits a moment for a message, and carries out what comes. Returns whether anything came.
    pub(super) fn look_for_messages(&mut self) -> bool {
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
                return worked || acknowledged;
            }
        }
        if looks == 0 {
            std::hint::spin_loop();
        }
        false
    }

    /// When it has something to do although nothing comes, from now on.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.disk_deadline().into_iter().chain(self.chain_deadline()).min()
    }

    /// Tells active clients that wake-ups are needed from now on.
    pub(super) fn tell_sleep(&mut self) {
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

    /// Its thread has slept; `overslept` when only the net under the wake-ups ended that. Returns
    /// whether that net caught anything.
    pub(super) fn end_sleep(&mut self, overslept: bool) -> bool {
        self.statistics.sleeps += 1;
        self.end_lost_sessions();
        if !overslept {
            return false;
        }
        // What wakes at the last moment is reported by its transport.
        let polled = self.poll_transports();
        let caught = polled || self.turn();
        self.statistics.late_wakes += u64::from(caught && !polled);
        caught
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
