//! Mean negative log-likelihood of labels under predicted probabilities.

/// Probabilities nearer than this to 0 or 1 are moved here, so that one wrong certainty is not an
/// infinite loss. Double-precision epsilon, as scikit-learn uses.
pub const PROBABILITY_MIN: f64 = f64::EPSILON;

/// A running mean of the logarithmic loss.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LogLoss {
    sum: f64,
    count: u64,
}

impl LogLoss {
    /// Counts one prediction. `probability` is that of the positive label.
    pub fn add(&mut self, probability: f64, label: bool) {
        let clipped = probability.clamp(PROBABILITY_MIN, 1.0 - PROBABILITY_MIN);
        self.sum -= if label { libm::log(clipped) } else { libm::log1p(-clipped) };
        self.count += 1;
    }

    /// Adds what another mean has seen.
    pub fn merge(&mut self, other: Self) {
        self.sum += other.sum;
        self.count += other.count;
    }

    /// The mean in nats, or `None` when nothing was counted.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a count above 2^53 does not occur")]
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    /// The summed loss in nats.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Number of predictions counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// The logistic function, computed the same on every machine.
#[must_use]
pub fn sigmoid(margin: f64) -> f64 {
    if margin >= 0.0 {
        1.0 / (1.0 + libm::exp(-margin))
    } else {
        let exponential = libm::exp(margin);
        exponential / (1.0 + exponential)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let mut loss = LogLoss::default();
        assert_eq!(loss.mean(), None);
        loss.add(0.9, true);
        loss.add(0.1, false);
        loss.add(0.8, false);
        let expected = -(0.9_f64.ln() + 0.9_f64.ln() + 0.2_f64.ln()) / 3.0;
        assert!((loss.mean().unwrap() - expected).abs() < 1e-12);
    }

    #[test]
    fn wrong_certainty_is_finite() {
        let mut loss = LogLoss::default();
        loss.add(0.0, true);
        loss.add(1.0, false);
        assert!(loss.mean().unwrap() > 30.0);
        assert!(loss.mean().unwrap().is_finite());
    }

    #[test]
    fn sigmoid_is_symmetric_and_saturates() {
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!(sigmoid(-1000.0), 0.0);
        assert_eq!(sigmoid(1000.0), 1.0);
        assert!((sigmoid(2.0) + sigmoid(-2.0) - 1.0).abs() < 1e-15);
    }
}
