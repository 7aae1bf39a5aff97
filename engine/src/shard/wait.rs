//! What one shard does between turns: look at its mailboxes, tell its clients before its thread sleeps, and
//! take stock after it. When that is, the thread decides: see `reactor`.

use std::time::Duration;

use windlass_transport::QueuePairState;

use super::{Shard, sessions::tell_sleep};

/// How much of all there may be is seen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// All of it: a turn.
    Turn,
    /// What a look at memory shows, and what that leads to: between turns.
    Errand,
}

/// Whose messages are to be looked after between turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// Clients', and whatever else there is.
    Clients,
    /// Those of other servers' shards.
    Peers,
}

impl Shard {
    /// Number of its mailboxes, if looking at memory shows what lands in each of them; where writes land
    /// only while their transport is polled, it shows nothing.
    pub(super) fn visible_mailboxes(&self) -> Option<usize> {
        let mut sessions = self.sessions.iter_watched();
        sessions.all(|session| session.lands_unpolled).then_some(self.sessions.watched().len())
    }

    /// Whose message may be there: a look at memory.
    #[inline]
    pub(super) fn looks_ready(&self) -> Option<Errand> {
        for session in self.sessions.iter_watched() {
            let Some(mailbox) = &session.mailbox else { continue };
            if mailbox.reader.looks_ready() {
                let is_peer = session.peer.is_some();
                return Some(if is_peer { Errand::Peers } else { Errand::Clients });
            }
        }
        self.chain.as_ref()?.is_answered().then_some(Errand::Peers)
    }

    /// What of a turn a message needs. Returns whether there was anything to do.
    pub(super) fn run_errand(&mut self, errand: Errand) -> bool {
        // Records that move clocks may be what pulls and rounds wait for.
        let worked = match errand {
            Errand::Peers if !self.clocks.is_used() => {
                self.take_from_peers(Pace::Errand) | self.end_chain_turn(Pace::Errand)
            }
            _ => self.carry_out_messages(Pace::Errand),
        };
        let acknowledged = self.acknowledge(Pace::Errand);
        // Staged rows have mostly left by now: their place is taken again while it is in the caches.
        if self.staging.has_outstanding() {
            self.poll_transports();
        }
        worked || acknowledged
    }

    /// When it has something to do although nothing comes, from now on.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.disk_deadline().into_iter().chain(self.chain_deadline()).min()
    }

    /// Tells active clients that wake-ups are needed from now on.
    pub(super) fn tell_sleep(&mut self) {
        self.give_up_answers(true);
        for at in 0..self.sessions.watched().len() {
            let slot = self.sessions.watched()[at];
            let Some(session) = &mut self.sessions[slot] else { continue };
            let transport = self.transports[session.transport].as_mut();
            if !transport.capabilities().writes_wake {
                let told = tell_sleep(session, transport, &mut self.staging);
                self.tells_in_flight += u32::from(told);
            }
        }
    }

    /// Its thread has slept; `overslept` when only the net under the wake-ups ended that. Returns
    /// whether that net caught anything.
    pub(super) fn end_sleep(&mut self, overslept: bool) -> bool {
        self.statistics.sleeps += 1;
        self.end_lost_sessions();
        if self.sessions.is_sweep_due_now() {
            sweep(self);
        }
        if !overslept {
            return false;
        }
        // What wakes at the last moment is reported by its transport.
        let polled = self.poll_transports();
        let caught = polled || self.turn();
        self.statistics.late_wakes += u64::from(caught && !polled);
        caught
    }

    /// Ends sessions whose queue pair failed without a request to show it; of quiet ones sweeps find out.
    fn end_lost_sessions(&mut self) {
        for at in 0..self.sessions.watched().len() {
            let slot = self.sessions.watched()[at];
            let Some(session) = &mut self.sessions[slot] else { continue };
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

/// Has turns look no longer at sessions that have said nothing for a while.
pub(super) fn sweep(shard: &mut Shard) {
    let swept = shard.sessions.sweep(&mut shard.transports, &mut shard.staging);
    shard.tells_in_flight += swept.told;
    shard.statistics.late_wakes += swept.late;
}

/// Turns a stopping shard takes at most to empty its mailboxes.
const DRAIN_TURNS_MAX: u32 = 100_000;
