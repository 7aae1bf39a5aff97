//! FTRL in a few lines, in one thread and in double precision: what training on servers is compared
//! with, and what is compared with scikit-learn.

use std::collections::HashMap;

use super::Problem;
use crate::data::{Batch, ClickModel, ClickOptions, LibsvmReader, Model, Share, Strictness};

/// FTRL-Proximal, McMahan et al. 2013, algorithm 1.
struct Ftrl {
    alpha: f64,
    beta: f64,
    l1: f64,
    l2: f64,
    /// z and n of each key.
    state: HashMap<u64, (f64, f64)>,
}

impl Ftrl {
    #[expect(clippy::cast_possible_truncation, reason = "rows are binary32")]
    fn row(&self, key: u64) -> f32 {
        self.weight(key) as f32
    }

    fn weight(&self, key: u64) -> f64 {
        let (z, n) = self.state.get(&key).copied().unwrap_or_default();
        if z.abs() <= self.l1 {
            return 0.0;
        }
        -(z - z.signum() * self.l1) / ((self.beta + n.sqrt()) / self.alpha + self.l2)
    }

    fn push(&mut self, key: u64, gradient: f64) {
        let weight = self.weight(key);
        let (z, n) = self.state.entry(key).or_default();
        let sigma = ((*n + gradient * gradient).sqrt() - n.sqrt()) / self.alpha;
        *z += gradient - sigma * weight;
        *n += gradient * gradient;
    }

    fn train(&mut self, data: &Batch, batch_examples: usize, epochs: u32) {
        let mut problem = Problem::default();
        let mut gradient = Vec::new();
        let examples: Vec<_> = data.iter().collect();
        for _ in 0..epochs {
            for chunk in examples.chunks(batch_examples) {
                let mut batch = Batch::default();
                for example in chunk {
                    let features: Vec<_> =
                        example.ids.iter().copied().zip(example.values.iter().copied()).collect();
                    batch.push(example.label, &features);
                }
                problem.prepare(&batch);
                let keys = problem.keys().to_vec();
                let weights: Vec<f32> = keys.iter().map(|&key| self.row(key)).collect();
                problem.gradient(&batch, &weights, &mut gradient);
                for (&key, &value) in keys.iter().zip(&gradient) {
                    self.push(key, f64::from(value));
                }
            }
        }
    }

    fn model(&self) -> Model {
        let mut keys: Vec<u64> = self.state.keys().copied().collect();
        keys.sort_unstable();
        let weights: Vec<f32> = keys.iter().map(|&key| self.row(key)).collect();
        Model::from_rows(&keys, &weights)
    }
}

/// The data set that `sklearn_reference.py` describes.
fn generate(data_set: u64, count: u64) -> Batch {
    let options = ClickOptions { seed: 7, features: 4000, fields: 12, ..ClickOptions::default() };
    let mut file = tempfile::NamedTempFile::new().unwrap();
    ClickModel::new(options).unwrap().write(&mut file, data_set, count, || {}).unwrap();
    let mut reader = LibsvmReader::open(file.path(), Share::WHOLE, Strictness::Strict).unwrap();
    let mut batch = Batch::default();
    while reader.read(&mut batch, 10_000).unwrap() > 0 {}
    batch
}

#[test]
fn agrees_with_scikit_learn() {
    let reference: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/fixtures/sklearn_reference.json")).unwrap();
    let (train, eval) = (generate(0, 20_000), generate(1, 10_000));
    let epochs = 5;
    let l2 = reference["l2"].as_f64().unwrap() * f64::from(epochs);
    let mut ftrl = Ftrl { alpha: 0.3, beta: 1.0, l1: 0.0, l2, state: HashMap::new() };
    ftrl.train(&train, 256, epochs);
    let model = ftrl.model();
    for (data, key) in [(&train, "train_logloss"), (&eval, "eval_logloss")] {
        let logloss = model.evaluate(data).logloss.unwrap();
        let expected = reference[key].as_f64().unwrap();
        assert!((logloss / expected - 1.0).abs() < 0.01, "{key}: {logloss} {expected}");
    }
}
