//! Which sessions have pushed nothing for so long that they may be forgotten.
//!
//! A push that was applied at or before a position was sent for the first time before anybody saw the
//! log reach it. So it is enough to note now and then where the log ends: whatever a note of the time
//! E ago covers was sent first more than E ago, on whichever server and in whichever epoch. Clients
//! give up pushes of half that age, which leaves the other half for clocks that differ and for what
//! is on its way. A push that waits in a connection is no older than its last look at the map, and
//! its session is connected to the head of that very epoch, which expires no connected session.

use std::collections::VecDeque;

use windlass_wire::{Lsn, SessionId};

use crate::chain::Replica;
use crate::time::Time;

/// Notes taken in the time after which a session expires.
const NOTES: u64 = 8;

/// Where one partition's log ended at moments of this server's clock, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdleNotes {
    notes: VecDeque<(Time, Lsn)>,
}

impl IdleNotes {
    /// Notes where the log ends, if that is due, and returns where it ended `expiry_us` ago.
    fn note(&mut self, now: Time, last: Lsn, expiry_us: u64) -> Option<Lsn> {
        let gap = (expiry_us / NOTES).max(1);
        if self.notes.back().is_none_or(|(at, _)| now.since(*at) >= gap) {
            self.notes.push_back((now, last));
        }
        let is_old = |note: &(Time, Lsn)| now.since(note.0) >= expiry_us;
        while self.notes.get(1).is_some_and(is_old) {
            self.notes.pop_front();
        }
        self.notes.front().filter(|note| is_old(note)).map(|(_, lsn)| *lsn)
    }
}

impl Replica {
    /// Sessions that have pushed nothing here for `expiry_us`, of which the head may name those that
    /// are not connected to it as expired in a record. To be asked some times in `expiry_us`, of every
    /// replica; only a head names any.
    pub fn idle_sessions(
        &mut self,
        now: Time,
        expiry_us: u64,
    ) -> impl Iterator<Item = SessionId> + '_ {
        let since = self.idle.note(now, self.log.last(), expiry_us);
        let since = since.filter(|_| self.is_head() && self.catch_up.is_whole());
        since.into_iter().flat_map(|since| self.sessions.idle(since))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_note_counts_once_it_is_old_enough() {
        let mut notes = IdleNotes::default();
        assert_eq!(notes.note(Time(0), Lsn(3), 80), None);
        assert_eq!(notes.note(Time(5), Lsn(7), 80), None, "not due yet");
        assert_eq!(notes.note(Time(79), Lsn(9), 80), None);
        assert_eq!(notes.note(Time(80), Lsn(9), 80), Some(Lsn(3)));
        assert_eq!(notes.note(Time(158), Lsn(9), 80), Some(Lsn(3)));
        assert_eq!(notes.note(Time(159), Lsn(12), 80), Some(Lsn(9)));
    }

    proptest! {
        #[test]
        fn no_note_covers_what_is_younger_and_there_are_few(
            steps in prop::collection::vec((0..50_u64, 0..4_u64), 1..300)
        ) {
            const EXPIRY: u64 = 100;
            let mut notes = IdleNotes::default();
            let (mut now, mut last) = (0, 0);
            let mut came = vec![0];
            for (passed, records) in steps {
                now += passed;
                for _ in 0..records {
                    last += 1;
                    came.push(now);
                }
                if let Some(idle) = notes.note(Time(now), Lsn(last), EXPIRY) {
                    let youngest = came[usize::try_from(idle.0).unwrap()];
                    prop_assert!(now - youngest >= EXPIRY);
                }
                prop_assert!(notes.notes.len() as u64 <= NOTES + 2);
            }
        }
    }
}
