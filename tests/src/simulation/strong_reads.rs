//! Pulls that a client reads one-sidedly from a tail by its leases. No server publishes a lease word yet: the
//! simulation shows that they would be current.

use windlass_replication::Time;
use windlass_wire::Epoch;

/// A client's side: whether what it read one-sidedly from a tail was current. The tail counts up a
/// word in its readable memory each time its leases are renewed, and beside it how long they then
/// hold; a client that sees the word change knows that the tail was in force after the client's
/// previous look. A stopped process does not count, so no NIC can serve its memory as current.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StrongReads {
    /// The count at the last look, and when that look began.
    seen: Option<(u64, Time)>,
    /// The epoch that every look has named since this moment.
    named: Option<(Epoch, Time)>,
    trusted_until: Time,
}

/// What a tail publishes for strong pulls of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LeaseWord {
    /// The chain epoch in which this server is the tail; 0 when it is not, or is fenced.
    pub(super) epoch: Epoch,
    /// Counted up at each renewal.
    pub(super) renewals: u64,
    /// How long the leases held at that renewal, in microseconds.
    pub(super) holds_us: u64,
}

impl StrongReads {
    /// Takes in a look at the word that began and ended at these moments of the client's clock.
    pub(super) fn look(&mut self, began_at: Time, ended_at: Time, word: LeaseWord, drift_ppm: u64) {
        if let Some((_, before)) = self.seen.filter(|(renewals, _)| *renewals != word.renewals) {
            // The word changed after the last look began: the leases held from then on.
            let drift = word.holds_us.saturating_mul(drift_ppm).div_ceil(1_000_000);
            let until = before.after(word.holds_us.saturating_sub(drift));
            self.trusted_until = self.trusted_until.max(until);
        }
        self.seen = Some((word.renewals, began_at));
        if self.named.is_none_or(|(epoch, _)| epoch != word.epoch) {
            self.named = Some((word.epoch, ended_at));
        }
    }

    /// Whether a read between these moments gave what was current at its end, for the tail of
    /// `epoch`: the word named that epoch before it and, by a look that began after it, still does,
    /// and the leases held. `None` of the looks so far may say so yet: look again.
    #[must_use]
    pub(super) fn is_current(&self, epoch: Epoch, began_at: Time, ended_at: Time) -> bool {
        let named = self.named.is_some_and(|(at, since)| at == epoch && since <= began_at);
        let looked_after = self.seen.is_some_and(|(_, began)| began >= ended_at);
        named && looked_after && epoch > Epoch(0) && ended_at < self.trusted_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_tail_is_trusted_no_longer_than_its_lease() {
        let mut reads = StrongReads::default();
        let word = |renewals| LeaseWord { epoch: Epoch(1), renewals, holds_us: 100 };
        let look = |reads: &mut StrongReads, at: u64, renewals| {
            reads.look(Time(at), Time(at + 1), word(renewals), 0);
        };
        let current =
            |reads: &StrongReads, at: u64| reads.is_current(Epoch(1), Time(at), Time(at + 1));
        look(&mut reads, 0, 1);
        look(&mut reads, 5, 1);
        assert!(!current(&reads, 2), "a word that never changed says nothing about when");
        look(&mut reads, 10, 1);
        look(&mut reads, 30, 2);
        assert!(current(&reads, 20), "the tail was in force from 10 on, for 100");
        assert!(!current(&reads, 30), "no look after the read");
        look(&mut reads, 105, 2);
        assert!(current(&reads, 104) && !reads.is_current(Epoch(2), Time(104), Time(105)));
        for at in 111..200 {
            look(&mut reads, at, 2);
        }
        assert!(
            !current(&reads, 150),
            "a stopped process is not trusted for longer than its leases"
        );
        reads.look(Time(300), Time(301), LeaseWord { epoch: Epoch(2), ..word(3) }, 0);
        assert!(
            !reads.is_current(Epoch(2), Time(299), Time(300)),
            "it was not known as tail before"
        );
    }
}
