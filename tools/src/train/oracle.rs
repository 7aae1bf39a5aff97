//! FTRL in a few lines, in one thread and in double precision: what training on servers is compared
//! with, and what is compared with scikit-learn.

use std::{collections::HashMap, time::Duration};

use super::{Pace, Parameters, Source, SourceOptions, worker};
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

    fn update(&mut self, key: u64, gradient: f64) {
        let weight = self.weight(key);
        let (z, n) = self.state.entry(key).or_default();
        let sigma = ((*n + gradient * gradient).sqrt() - n.sqrt()) / self.alpha;
        *z += gradient - sigma * weight;
        *n += gradient * gradient;
    }

    fn model(&self) -> Model {
        let mut keys: Vec<u64> = self.state.keys().copied().collect();
        keys.sort_unstable();
        let weights: Vec<f32> = keys.iter().map(|&key| self.row(key)).collect();
        Model::from_rows(&keys, &weights)
    }
}

impl Parameters for Ftrl {
    type Pull = Vec<f32>;
    type Error = std::convert::Infallible;

    fn begin_pull(&mut self, keys: &[u64]) -> Result<Vec<f32>, Self::Error> {
        Ok(keys.iter().map(|&key| self.row(key)).collect())
    }

    fn finish_pull(&mut self, pull: Vec<f32>, rows: &mut Vec<f32>) -> Result<(), Self::Error> {
        *rows = pull;
        Ok(())
    }

    fn push(&mut self, keys: &[u64], _: &[f32], gradients: &[f32]) -> Result<(), Self::Error> {
        for (&key, &gradient) in keys.iter().zip(gradients) {
            self.update(key, f64::from(gradient));
        }
        Ok(())
    }

    fn push_held(&mut self) -> Result<usize, Self::Error> {
        Ok(0)
    }

    fn end_round(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    fn wait_for_pushes(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// The data sets that `sklearn_reference.py` describes.
fn generate(data_set: u64, count: u64) -> (tempfile::NamedTempFile, Batch) {
    let options = ClickOptions { seed: 7, features: 4000, fields: 12, ..ClickOptions::default() };
    let mut file = tempfile::NamedTempFile::new().unwrap();
    ClickModel::new(options).unwrap().write(&mut file, data_set, count, || {}).unwrap();
    let mut reader = LibsvmReader::open(file.path(), Share::WHOLE, Strictness::Strict).unwrap();
    let mut batch = Batch::default();
    while reader.read(&mut batch, 10_000).unwrap() > 0 {}
    (file, batch)
}

#[test]
fn agrees_with_scikit_learn() {
    let reference: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/fixtures/sklearn_reference.json")).unwrap();
    let (file, train) = generate(0, 20_000);
    let (_, eval) = generate(1, 10_000);
    for pace in [Pace::Synchronous, Pace::Asynchronous, Pace::InRounds] {
        let epochs = 5;
        let l2 = reference["l2"].as_f64().unwrap() * f64::from(epochs);
        let mut ftrl = Ftrl { alpha: 0.3, beta: 1.0, l1: 0.0, l2, state: HashMap::new() };
        let mut source = Source::open(SourceOptions {
            path: file.path().to_owned(),
            rank: 0,
            workers: 1,
            batch_examples: 256,
            epochs,
            seed: 1,
            strict: true,
        })
        .unwrap();
        let totals =
            worker::run(&mut source, &mut ftrl, pace, |_| Duration::ZERO, |_, _| {}).unwrap();
        assert_eq!(totals.examples, 100_000);
        assert!(totals.loss.mean().unwrap() < 0.45);
        let model = ftrl.model();
        for (data, key) in [(&train, "train_logloss"), (&eval, "eval_logloss")] {
            let logloss = model.evaluate(data).logloss.unwrap();
            let expected = reference[key].as_f64().unwrap();
            assert!((logloss / expected - 1.0).abs() < 0.01, "{key}: {logloss} {expected}");
        }
    }
}
