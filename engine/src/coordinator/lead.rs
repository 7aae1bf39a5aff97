//! The time until which this coordinator is certain to lead. The store writer extends it. The stepping thread ends the
//! lead when the time is over, even while the store does not answer the writer.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// A lead with a time limit, shared by both threads.
#[derive(Debug)]
pub(super) struct Lead {
    origin: Instant,
    /// Microseconds since `origin`; [`NOBODY`] where this coordinator does not lead.
    until_us: AtomicU64,
}

const NOBODY: u64 = 0;
/// Where nobody else can lead while the process lives.
const FOREVER: u64 = u64::MAX;

impl Lead {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), until_us: AtomicU64::new(NOBODY) }
    }

    /// A lead begins that a request sent at `sent` was granted for `lease`. Returns whether it is not over
    /// yet.
    pub(super) fn begin(&self, sent: Instant, lease: Option<Duration>) -> bool {
        self.until_us.store(self.end_of(sent, lease), Ordering::Release);
        self.holds(Instant::now())
    }

    /// The lead goes on, by a renewal sent at `sent`; false where it was over before the answer came:
    /// another coordinator may have led meanwhile.
    pub(super) fn extend(&self, sent: Instant, lease: Option<Duration>) -> bool {
        let until = self.until_us.load(Ordering::Acquire);
        until != NOBODY
            && self.micros(Instant::now()) < until
            && self
                .until_us
                .compare_exchange(
                    until,
                    self.end_of(sent, lease),
                    Ordering::AcqRel,
                    Ordering::Acquire,
                )
                .is_ok()
    }

    /// Whether this coordinator still leads at `now`.
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.micros(now) < self.until_us.load(Ordering::Acquire)
    }

    /// The lead is over, also before its time.
    pub(super) fn end(&self) {
        self.until_us.store(NOBODY, Ordering::Release);
    }

    /// Ends a lead whose time is over; returns whether it was this call that did. From then on
    /// [`Lead::extend`] fails.
    pub(super) fn lapse(&self, now: Instant) -> bool {
        let until = self.until_us.load(Ordering::Acquire);
        until != NOBODY
            && self.micros(now) >= until
            && self
                .until_us
                .compare_exchange(until, NOBODY, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
    }

    fn end_of(&self, sent: Instant, lease: Option<Duration>) -> u64 {
        lease.map_or(FOREVER, |lease| self.micros(sent + lease))
    }

    fn micros(&self, at: Instant) -> u64 {
        // One more than passed, so that no moment is `NOBODY`.
        let passed = at.saturating_duration_since(self.origin).as_micros();
        u64::try_from(passed).map_or(FOREVER - 1, |passed| passed.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Option<Duration> = Some(Duration::from_secs(60));

    #[test]
    fn a_lead_ends_a_lease_after_the_request_was_sent() {
        let lead = Lead::new();
        let sent = Instant::now();
        assert!(!lead.holds(sent), "nobody was elected");
        assert!(lead.begin(sent, LEASE));
        assert!(lead.holds(sent + Duration::from_secs(59)));
        assert!(!lead.holds(sent + Duration::from_secs(61)));
        assert!(!lead.lapse(sent + Duration::from_secs(59)));
        assert!(lead.lapse(sent + Duration::from_secs(61)));
        assert!(!lead.lapse(sent + Duration::from_secs(61)), "it ends once");
        assert!(!lead.extend(sent, LEASE), "what has ended is not renewed");
        assert!(!lead.holds(sent));
        assert!(lead.begin(Instant::now(), LEASE));
        lead.end();
        assert!(!lead.holds(Instant::now()), "it was given back");
        assert!(!lead.lapse(sent + Duration::from_secs(600)), "and does not end twice");
    }

    #[test]
    fn an_answer_that_comes_after_the_lease_renews_nothing() {
        let lead = Lead::new();
        assert!(!lead.begin(Instant::now(), Some(Duration::ZERO)));
        assert!(!lead.extend(Instant::now(), LEASE));
    }

    #[test]
    fn a_store_of_one_process_needs_no_renewal() {
        let lead = Lead::new();
        assert!(lead.begin(Instant::now(), None));
        assert!(!lead.lapse(Instant::now() + Duration::from_secs(1 << 30)));
        assert!(lead.extend(Instant::now(), None));
    }
}
