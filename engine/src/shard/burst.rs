//! Bursts: pushes whose acknowledgements waited for one write are acknowledged together, and so those that
//! follow them arrive together. Each sum has to be copied, summed up, applied and written besides, which
//! takes as long as adding several pushes to it: so a burst of long ones is awaited and makes one sum.

use std::time::{Duration, Instant};

use super::{Shard, chain::is_settled};

/// How long the rest of a burst is awaited: a client is woken by the acknowledgements, and pushes again.
const BURST_MAX: Duration = Duration::from_micros(80);

/// How long nothing comes when a burst has ended sooner than expected.
const BURST_GAP: Duration = Duration::from_micros(8);

impl Shard {
    /// Takes the pushes of a burst that has begun, until there are as many as were acknowledged.
    pub(super) fn take_burst(&mut self) {
        if self.turn.is_empty() {
            return;
        }
        let expected = match &mut self.durable {
            Some(durable) => std::mem::take(&mut durable.released_count),
            None => return,
        };
        // Short pushes are summed faster than they come.
        let is_long = self.turn.referenced > 0 && is_settled(self.chain.as_deref());
        if !is_long || self.turn.works.len() >= expected || self.visible_mailboxes().is_none() {
            return;
        }
        let begun = Instant::now();
        let (mut now, mut last) = (begun, begun);
        while self.turn.works.len() < expected
            && now - begun < BURST_MAX
            && now - last < BURST_GAP
            // A session's pushes come before its pulls within a turn.
            && self.turn.works.iter().all(|work| !work.header.kind.pulls())
        {
            let count = self.turn.works.len();
            self.take_more();
            now = Instant::now();
            if self.turn.works.len() > count {
                last = now;
            }
        }
    }

    /// Takes what has come since.
    fn take_more(&mut self) {
        for at in 0..self.sessions.watched().len() {
            let slot = self.sessions.watched()[at];
            let mailbox = self.sessions[slot].as_ref().and_then(|session| session.mailbox.as_ref());
            if mailbox.is_some_and(|mailbox| mailbox.reader.looks_ready()) {
                let taken = self.turn.works.iter().filter(|work| work.session == slot).count();
                self.drain_session(slot, taken);
            }
        }
        std::hint::spin_loop();
    }
}
