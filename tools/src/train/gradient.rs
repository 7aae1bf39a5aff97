//! The part of the model a batch needs, and the gradient of the batch's loss with respect to it.

use crate::{
    data::{Batch, limits::INTERCEPT_KEY},
    metrics::{LogLoss, sigmoid},
};

/// A batch prepared for training: the distinct keys it touches, in order, and where in them each of
/// its features is. All memory is kept from batch to batch.
#[derive(Debug, Default)]
pub struct Problem {
    keys: Vec<u64>,
    /// For each feature occurrence of the batch, its index in `keys`.
    positions: Vec<u32>,
    /// Key and occurrence, for sorting.
    occurrences: Vec<(u64, u32)>,
    sums: Vec<f64>,
}

impl Problem {
    /// Prepares for `batch`. Panics when it has 2^32 features or more.
    pub fn prepare(&mut self, batch: &Batch) {
        let index =
            |index: usize| u32::try_from(index).expect("a batch has fewer than 2^32 features");
        self.occurrences.clear();
        self.occurrences
            .extend(batch.ids().iter().enumerate().map(|(place, &id)| (id, index(place))));
        self.occurrences.sort_unstable();
        self.keys.clear();
        self.positions.clear();
        self.positions.resize(batch.feature_count(), 0);
        for &(key, occurrence) in &self.occurrences {
            if self.keys.last() != Some(&key) {
                self.keys.push(key);
            }
            self.positions[occurrence as usize] = index(self.keys.len() - 1);
        }
        // Above every feature id, so the order holds.
        self.keys.push(INTERCEPT_KEY);
    }

    /// The keys of the rows to pull and to push, strictly ascending; the last is the intercept.
    #[must_use]
    pub fn keys(&self) -> &[u64] {
        &self.keys
    }

    /// Writes the gradient of the batch's summed loss to `gradient` and returns the loss before the
    /// step. `weights` and `gradient` have one value for each of [`Self::keys`].
    ///
    /// Sums run in the order of the batch, so equal inputs give equal bits.
    pub fn gradient(&mut self, batch: &Batch, weights: &[f32], gradient: &mut Vec<f32>) -> LogLoss {
        assert_eq!(weights.len(), self.keys.len());
        let intercept = self.keys.len() - 1;
        let mut loss = LogLoss::default();
        self.sums.clear();
        self.sums.resize(self.keys.len(), 0.0);
        let mut start = 0;
        for example in batch.iter() {
            let positions = &self.positions[start..start + example.ids.len()];
            start += example.ids.len();
            let mut margin = f64::from(weights[intercept]);
            for (&position, &value) in positions.iter().zip(example.values) {
                margin += f64::from(weights[position as usize]) * f64::from(value);
            }
            let probability = sigmoid(margin);
            loss.add(probability, example.label);
            let error = probability - if example.label { 1.0 } else { 0.0 };
            for (&position, &value) in positions.iter().zip(example.values) {
                self.sums[position as usize] += error * f64::from(value);
            }
            self.sums[intercept] += error;
        }
        gradient.clear();
        gradient.extend(self.sums.iter().map(|&sum| narrow(sum)));
        loss
    }

    /// Probabilities of the batch's examples under `weights`, appended to `probabilities`.
    pub fn predict(&self, batch: &Batch, weights: &[f32], probabilities: &mut Vec<f32>) {
        assert_eq!(weights.len(), self.keys.len());
        let intercept = f64::from(weights[self.keys.len() - 1]);
        let mut start = 0;
        for example in batch.iter() {
            let positions = &self.positions[start..start + example.ids.len()];
            start += example.ids.len();
            let margin: f64 = positions
                .iter()
                .zip(example.values)
                .map(|(&position, &value)| f64::from(weights[position as usize]) * f64::from(value))
                .sum();
            probabilities.push(narrow(sigmoid(margin + intercept)));
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rows are binary32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        let mut batch = Batch::default();
        batch.push(true, &[(3, 1.0), (70, 2.0)]);
        batch.push(false, &[(1, 1.0), (3, -1.0)]);
        batch.push(false, &[]);
        batch
    }

    #[test]
    fn keys_are_distinct_and_ascending() {
        let mut problem = Problem::default();
        problem.prepare(&batch());
        assert_eq!(problem.keys(), [1, 3, 70, INTERCEPT_KEY]);
        problem.prepare(&Batch::default());
        assert_eq!(problem.keys(), [INTERCEPT_KEY]);
    }

    #[test]
    fn gradient_equals_finite_differences() {
        let batch = batch();
        let mut problem = Problem::default();
        problem.prepare(&batch);
        let weights = [0.3, -0.7, 0.2, 0.1];
        let mut gradient = Vec::new();
        let loss = problem.gradient(&batch, &weights, &mut gradient);
        assert_eq!(loss.count(), 3);
        for index in 0..weights.len() {
            let mut total = |step: f32| {
                let mut moved = weights;
                moved[index] += step;
                problem.gradient(&batch, &moved, &mut Vec::new()).mean().unwrap() * 3.0
            };
            let slope = (total(0.01) - total(-0.01)) / 0.02;
            assert!((slope - f64::from(gradient[index])).abs() < 1e-3, "{index}");
        }
    }

    #[test]
    fn prediction_agrees_with_the_model() {
        let batch = batch();
        let mut problem = Problem::default();
        problem.prepare(&batch);
        let weights = [0.3, -0.7, 0.2, 0.1];
        let mut probabilities = Vec::new();
        problem.predict(&batch, &weights, &mut probabilities);
        let model = crate::data::Model::from_rows(problem.keys(), &weights);
        for (example, probability) in batch.iter().zip(probabilities) {
            assert!((model.predict(example) - f64::from(probability)).abs() < 1e-6);
        }
    }
}
