//! Latency histograms with two significant digits or better, from a nanosecond to minutes.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::Point;

/// Longest time that is told apart, in nanoseconds; longer ones count as this.
const NANOS_MAX: u64 = 600_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// A latency distribution. Recording neither allocates nor fails.
#[derive(Clone, Debug)]
pub struct Latency {
    histogram: Histogram<u64>,
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

impl Latency {
    /// An empty distribution.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the bounds are constants that fit")]
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, NANOS_MAX, SIGNIFICANT_DIGITS)
            .expect("bounds and digits are valid");
        Self { histogram }
    }

    /// Counts one operation.
    pub fn record(&mut self, time: Duration) {
        self.record_nanos(u64::try_from(time.as_nanos()).unwrap_or(NANOS_MAX));
    }

    /// Counts one operation that took this many nanoseconds.
    pub fn record_nanos(&mut self, nanos: u64) {
        self.histogram.saturating_record(nanos.clamp(1, NANOS_MAX));
    }

    /// Adds what another histogram counted.
    pub fn merge(&mut self, other: &Self) {
        for step in other.histogram.iter_recorded() {
            self.histogram
                .saturating_record_n(step.value_iterated_to(), step.count_since_last_iteration());
        }
    }

    /// Number of operations counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The time within which `share` (0 to 1) of the operations ended, in microseconds; 0 when
    /// nothing was counted.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of minutes are below 2^53")]
    pub fn quantile_us(&self, share: f64) -> f64 {
        if self.histogram.is_empty() {
            return 0.0;
        }
        self.histogram.value_at_quantile(share) as f64 / 1e3
    }

    /// The distribution from the median on: x is the number of nines (0.3 = 50 %, 1 = 90 %, 2 = 99 %,
    /// 3 = 99.9 %), y is microseconds.
    #[must_use]
    pub fn curve(&self) -> Vec<Point> {
        (3..=40)
            .map(|step| {
                let nines = f64::from(step) / 10.0;
                Point { x: nines, y: self.quantile_us(1.0 - libm::pow(10.0, -nines)) }
            })
            .collect()
    }

    /// Times and how often each occurred, in nanoseconds: enough to rebuild the distribution in
    /// another process with [`Self::from_counts`].
    #[must_use]
    pub fn counts(&self) -> Vec<(u64, u64)> {
        self.histogram
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_at_value()))
            .collect()
    }

    /// Rebuilds a distribution from [`Self::counts`].
    #[must_use]
    pub fn from_counts(counts: &[(u64, u64)]) -> Self {
        let mut latency = Self::new();
        for &(nanos, count) in counts {
            latency.histogram.saturating_record_n(nanos.clamp(1, NANOS_MAX), count);
        }
        latency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_the_digits() {
        let mut latency = Latency::new();
        for micros in 1..=1000 {
            latency.record(Duration::from_micros(micros));
        }
        assert!((latency.quantile_us(0.5) - 500.0).abs() < 1.0);
        assert!((latency.quantile_us(0.99) - 990.0).abs() < 2.0);
        assert!(latency.curve().is_sorted_by(|left, right| left.y <= right.y));
    }

    #[test]
    fn extremes_are_clamped_and_empty_is_zero() {
        let mut latency = Latency::new();
        assert_eq!(latency.quantile_us(0.5), 0.0);
        latency.record(Duration::ZERO);
        latency.record(Duration::from_secs(100_000));
        assert_eq!(latency.count(), 2);
        assert!(latency.quantile_us(1.0) >= 599e6);
    }

    #[test]
    fn counts_rebuild_and_merge() {
        let mut latency = Latency::new();
        for nanos in [100, 100, 5_000, 70_000_000] {
            latency.record_nanos(nanos);
        }
        let rebuilt = Latency::from_counts(&latency.counts());
        assert_eq!(rebuilt.counts(), latency.counts());
        latency.merge(&rebuilt);
        assert_eq!(latency.count(), 8);
    }
}
