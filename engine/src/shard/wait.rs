//! What a shard does between turns: polls its mailboxes, tells its clients before its thread sleeps, and
//! looks around after it. The `reactor` decides when.

use std::time::Duration;

use windlass_transport::QueuePairState;

use super::{Shard, acknowledge, chain, durable, poll, port::Port, sessions::tell_sleep};

/// How much of all there may be is seen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// A whole turn.
    Turn,
    /// Between turns: only what polling memory shows, and what follows from it.
    Errand,
}

/// Whose messages a shard serves between turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// Clients', and whatever else there is.
    Clients,
    /// Those of other servers' shards.
    Peers,
}

impl Shard {
    /// See [`Port::visible_mailboxes`].
    pub(super) fn visible_mailboxes(&self) -> Option<usize> {
        self.port.visible_mailboxes()
    }

    /// Whether acknowledgements wait for the disk.
    pub(super) fn is_writing(&self) -> bool {
        durable::is_writing(&self.port, &self.chain, &self.disk)
    }

    /// Polls the mailboxes in memory: whose message may be there, if any.
    #[inline]
    pub(super) fn looks_ready(&self) -> Option<Errand> {
        for session in self.port.sessions.iter_watched() {
            let Some(mailbox) = &session.mailbox else { continue };
            if mailbox.reader.looks_ready() {
                let is_peer = session.owner.peer.is_some();
                return Some(if is_peer { Errand::Peers } else { Errand::Clients });
            }
        }
        self.chain.is_answered().then_some(Errand::Peers)
    }

    /// Carries out the part of a turn that a message needs. Returns whether there was anything to do.
    pub(super) fn run_errand(&mut self, errand: Errand) -> bool {
        // Records that move clocks may be what pulls and rounds wait for.
        let worked = match errand {
            Errand::Peers if !self.tables.clocks.is_used() => {
                chain::take_from_peers(
                    &mut self.port,
                    &mut self.tables,
                    &mut self.chain,
                    &mut self.disk,
                    Pace::Errand,
                ) | chain::end_chain_turn(
                    &mut self.port,
                    &mut self.tables,
                    &mut self.chain,
                    &mut self.disk,
                    Pace::Errand,
                )
            }
            _ => self.carry_out_messages(Pace::Errand),
        };
        let acknowledged = acknowledge::acknowledge(
            &mut self.port,
            &mut self.tables,
            &mut self.chain,
            Pace::Errand,
        );
        // Staged rows have mostly left by now: their place is taken again while it is in the caches.
        if self.port.staging.has_outstanding() {
            poll::poll_transports(&mut self.port, &mut self.chain);
        }
        worked || acknowledged
    }

    /// Time until the shard must act even if nothing arrives.
    pub(super) fn deadline(&self) -> Option<Duration> {
        durable::disk_deadline(&self.disk)
            .into_iter()
            .chain(chain::chain_deadline(&self.tables, &self.chain))
            .min()
    }

    /// Tells active clients that wake-ups are needed from now on.
    pub(super) fn tell_sleep(&mut self) {
        chain::give_up_answers(&mut self.port, &mut self.chain, true);
        for at in 0..self.port.sessions.watched().len() {
            let session = self.port.sessions.watched_mut(at);
            let transport = self.port.transports[session.route.transport].as_mut();
            if !transport.capabilities().writes_wake {
                let told = tell_sleep(session, transport, &mut self.port.staging);
                self.port.tells_in_flight += u32::from(told);
            }
        }
    }

    /// Called after the thread has slept; `overslept` if only the safety timeout woke it. Returns whether a
    /// wake-up had been lost.
    pub(super) fn end_sleep(&mut self, overslept: bool) -> bool {
        self.port.statistics.sleeps += 1;
        self.port.end_lost_sessions();
        if self.port.sessions.is_sweep_due_now() {
            sweep(&mut self.port);
        }
        if !overslept {
            return false;
        }
        // What wakes at the last moment is reported by its transport.
        let polled = poll::poll_transports(&mut self.port, &mut self.chain);
        let caught = polled || self.turn();
        self.port.statistics.late_wakes += u64::from(caught && !polled);
        caught
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

impl Port {
    /// Ends sessions whose queue pair failed without a request to show it; of quiet ones sweeps find out.
    fn end_lost_sessions(&mut self) {
        for at in 0..self.sessions.watched().len() {
            let session = self.sessions.watched_mut(at);
            let transport = &self.transports[session.route.transport];
            session.failed |= transport.state(session.route.queue_pair) == QueuePairState::Error;
        }
    }
}

/// Has turns look no longer at sessions that have said nothing for a while.
pub(super) fn sweep(port: &mut Port) {
    let swept = port.sessions.sweep(&mut port.transports, &mut port.staging);
    port.tells_in_flight += swept.told;
    port.statistics.late_wakes += swept.late;
}

/// Turns a stopping shard takes at most to empty its mailboxes.
const DRAIN_TURNS_MAX: u32 = 100_000;
