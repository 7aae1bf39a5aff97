//! Quality of predictions: logloss and AUC.

mod auc;
mod logloss;

pub use auc::auc;
pub use logloss::{LogLoss, PROBABILITY_MIN, sigmoid};

/// Quality of predictions over one set of examples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Mean logarithmic loss in nats; lower is better. `None` without examples.
    pub logloss: Option<f64>,
    /// Area under the ROC curve, 0.5 for guessing. `None` when all labels are the same.
    pub auc: Option<f64>,
}

impl Quality {
    /// Measures probabilities in `0..=1` against labels, index by index.
    ///
    /// Panics when the lengths differ.
    #[must_use]
    pub fn of(probabilities: &[f32], labels: &[bool]) -> Self {
        assert_eq!(probabilities.len(), labels.len());
        let mut loss = LogLoss::default();
        for (&probability, &label) in probabilities.iter().zip(labels) {
            loss.add(f64::from(probability), label);
        }
        Self { logloss: loss.mean(), auc: auc(probabilities, labels) }
    }
}
