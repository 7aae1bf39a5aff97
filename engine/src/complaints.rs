//! What strangers can make happen as often as they like is logged once a second.

use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);

/// One kind of event.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    told_at: Option<Instant>,
    untold: u64,
}

impl Complaints {
    /// It happened once more. Returns how often since it was last told, when it is to be told again.
    pub(crate) fn due(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.told_at.is_some_and(|told_at| now < told_at + INTERVAL) {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_told_once_a_second() {
        let (mut complaints, now) = (Complaints::default(), Instant::now());
        assert_eq!(complaints.due(now), Some(1));
        assert_eq!(complaints.due(now), None);
        assert_eq!(complaints.due(now + INTERVAL / 2), None);
        assert_eq!(complaints.due(now + INTERVAL), Some(3));
    }
}
