//! Click data with a known truth: categorical fields whose values follow a power law, and labels
//! drawn from a sparse logistic model. Seeded: the same options write the same bytes everywhere.

use std::io::{self, Write};

use super::{
    limits::{FEATURE_ID_MAX, FIELDS_MAX, GENERATED_FEATURES_MAX},
    model::Model,
    random::{PowerLaw, Random, mix},
};
use crate::metrics::{Quality, sigmoid};

const STREAM_MODEL: u64 = 0;
/// Data sets of one model use streams from here on, so that train and eval sets differ.
const STREAM_DATA: u64 = 1;
/// Draws used to find the intercept that gives the asked click rate.
const CALIBRATION_DRAWS: u32 = 20_000;

/// What kind of click data to make.
#[derive(Clone, Debug, PartialEq)]
pub struct ClickOptions {
    /// Seed of the model and of the data.
    pub seed: u64,
    /// Distinct feature ids, over all fields.
    pub features: u64,
    /// Categorical fields: every example has one feature of each.
    pub fields: u32,
    /// Exponent of the power law by which values of a field occur; above 0 and not 1.
    pub exponent: f64,
    /// Share of features whose true weight is not zero, `0..=1`.
    pub density: f64,
    /// Standard deviation of the non-zero true weights.
    pub weight_scale: f64,
    /// Mean probability of a click, between 0 and 1.
    pub click_rate: f64,
    /// Spread the ids over all of `0..=2^63` as hashed features are, instead of `0..features`.
    pub hashed_ids: bool,
}

impl Default for ClickOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            features: 100_000,
            fields: 16,
            exponent: 1.1,
            density: 0.2,
            weight_scale: 1.0,
            click_rate: 0.2,
            hashed_ids: false,
        }
    }
}

/// Options that make no data set.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ClickOptionsError {
    /// Too many or too few fields.
    #[error("--fields {0} must be from 1 to {FIELDS_MAX}")]
    Fields(u32),
    /// Too many or too few features.
    #[error(
        "--features {features} must be from {fields} (one per field) to {GENERATED_FEATURES_MAX}"
    )]
    Features {
        /// The features asked for.
        features: u64,
        /// The fields asked for.
        fields: u32,
    },
    /// A number out of its range.
    #[error("{flag} {value} must be {range}")]
    Number {
        /// The flag that gave it.
        flag: &'static str,
        /// What it gave.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
}

/// A true model together with the law by which its features occur.
#[derive(Clone, Debug)]
pub struct ClickModel {
    options: ClickOptions,
    values_per_field: u64,
    law: PowerLaw,
    intercept: f32,
    /// True weight of each feature before ids are hashed.
    weights: Vec<f32>,
}

/// What a written data set holds, and the best that any model can do on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClickSummary {
    /// Examples written.
    pub examples: u64,
    /// How many of them are clicks.
    pub clicks: u64,
    /// Logloss and AUC of the true model on exactly these examples.
    pub best: Quality,
}

impl ClickModel {
    /// Draws a true model.
    pub fn new(options: ClickOptions) -> Result<Self, ClickOptionsError> {
        check(&options)?;
        let mut random = Random::new(options.seed, STREAM_MODEL);
        let values_per_field = options.features / u64::from(options.fields);
        let count = values_per_field * u64::from(options.fields);
        let weights = (0..count)
            .map(|_| {
                let is_zero = random.unit() >= options.density;
                let weight = round_to_f32(random.normal() * options.weight_scale);
                if is_zero { 0.0 } else { weight }
            })
            .collect();
        let law = PowerLaw::new(to_f64(values_per_field), options.exponent);
        let mut model = Self { options, values_per_field, law, intercept: 0.0, weights };
        model.intercept = model.calibrate(&mut random);
        Ok(model)
    }

    /// Writes `count` examples as LIBSVM lines. Data sets with different numbers are independent;
    /// the same number gives the same bytes.
    pub fn write(
        &self,
        out: &mut impl Write,
        data_set: u64,
        count: u64,
        mut on_example: impl FnMut(),
    ) -> io::Result<ClickSummary> {
        let mut random = Random::new(self.options.seed, STREAM_DATA + data_set);
        let capacity = usize::try_from(count).unwrap_or(0);
        let mut probabilities = Vec::with_capacity(capacity);
        let mut labels = Vec::with_capacity(capacity);
        let mut ids = Vec::new();
        let mut line = String::new();
        for _ in 0..count {
            let probability = sigmoid(self.draw(&mut random, &mut ids));
            let label = random.unit() < probability;
            probabilities.push(round_to_f32(probability));
            labels.push(label);
            for id in &mut ids {
                *id = self.public_id(*id);
            }
            ids.sort_unstable();
            line.clear();
            line.push(if label { '1' } else { '0' });
            for id in &ids {
                use std::fmt::Write as _;
                write!(line, " {id}:1").map_err(io::Error::other)?;
            }
            line.push('\n');
            out.write_all(line.as_bytes())?;
            on_example();
        }
        let clicks = labels.iter().filter(|&&label| label).count() as u64;
        Ok(ClickSummary { examples: count, clicks, best: Quality::of(&probabilities, &labels) })
    }

    /// The true weights, under the ids the data uses.
    #[must_use]
    pub fn truth(&self) -> Model {
        let mut model = Model::new(self.intercept);
        for (feature, &weight) in (0_u64..).zip(&self.weights) {
            if weight != 0.0 {
                model.push(self.public_id(feature), weight);
            }
        }
        model.sort();
        model
    }

    /// Draws one value of each field into `features` and returns the true margin.
    fn draw(&self, random: &mut Random, features: &mut Vec<u64>) -> f64 {
        features.clear();
        let mut margin = f64::from(self.intercept);
        for field in 0..u64::from(self.options.fields) {
            // Interleaved, so that frequent features of all fields have small ids: the hard case
            // for placement.
            let feature = self.law.sample(random) * u64::from(self.options.fields) + field;
            margin += f64::from(self.weight(feature));
            features.push(feature);
        }
        margin
    }

    fn weight(&self, feature: u64) -> f32 {
        usize::try_from(feature)
            .ok()
            .and_then(|index| self.weights.get(index))
            .copied()
            .unwrap_or(0.0)
    }

    fn public_id(&self, feature: u64) -> u64 {
        // A shift drops one bit of a bijection: two of a few million features collide about once
        // in a million data sets.
        let hashed = mix(feature ^ mix(self.options.seed)) >> 1;
        if self.options.hashed_ids { hashed.min(FEATURE_ID_MAX) } else { feature }
    }

    /// Finds by bisection the intercept whose mean click probability is the one asked for.
    fn calibrate(&self, random: &mut Random) -> f32 {
        let mut features = Vec::new();
        let margins: Vec<f64> =
            (0..CALIBRATION_DRAWS).map(|_| self.draw(random, &mut features)).collect();
        let (mut low, mut high) = (-60.0, 60.0);
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            let total: f64 = margins.iter().map(|margin| sigmoid(margin + middle)).sum();
            if total / f64::from(CALIBRATION_DRAWS) < self.options.click_rate {
                low = middle;
            } else {
                high = middle;
            }
        }
        round_to_f32(0.5 * (low + high))
    }

    /// Number of features a data set can hold.
    #[must_use]
    pub fn feature_count(&self) -> u64 {
        self.values_per_field * u64::from(self.options.fields)
    }
}

fn check(options: &ClickOptions) -> Result<(), ClickOptionsError> {
    let fields = options.fields;
    if !(1..=FIELDS_MAX).contains(&fields) {
        return Err(ClickOptionsError::Fields(fields));
    }
    if !(u64::from(fields)..=GENERATED_FEATURES_MAX).contains(&options.features) {
        return Err(ClickOptionsError::Features { features: options.features, fields });
    }
    let number = |flag, value, range| Err(ClickOptionsError::Number { flag, value, range });
    if !(options.exponent > 0.0 && options.exponent <= 10.0)
        || (options.exponent - 1.0).abs() <= 1e-6
    {
        return number("--exponent", options.exponent, "above 0, at most 10, and not 1");
    }
    if !(0.0..=1.0).contains(&options.density) {
        return number("--density", options.density, "from 0 to 1");
    }
    if !(0.0..=100.0).contains(&options.weight_scale) {
        return number("--weight-scale", options.weight_scale, "from 0 to 100");
    }
    if !(options.click_rate > 0.0 && options.click_rate < 1.0) {
        return number("--click-rate", options.click_rate, "above 0 and below 1");
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, reason = "rounding is what is wanted")]
fn round_to_f32(value: f64) -> f32 {
    value as f32
}

#[expect(clippy::cast_precision_loss, reason = "feature counts are below 2^53")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Batch, LibsvmReader, Share, Strictness};

    fn small() -> ClickOptions {
        ClickOptions { features: 2_000, fields: 8, ..ClickOptions::default() }
    }

    fn write(options: ClickOptions, data_set: u64, count: u64) -> (Vec<u8>, ClickSummary) {
        let model = ClickModel::new(options).unwrap();
        let mut bytes = Vec::new();
        let summary = model.write(&mut bytes, data_set, count, || {}).unwrap();
        (bytes, summary)
    }

    #[test]
    fn one_seed_gives_the_same_bytes_on_every_machine() {
        let (bytes, _) = write(small(), 0, 1000);
        assert_eq!(bytes, write(small(), 0, 1000).0);
        assert_ne!(bytes, write(small(), 1, 1000).0);
        assert_ne!(bytes, write(ClickOptions { seed: 2, ..small() }, 0, 1000).0);
        let checksum = windlass_wire::Checksum::of(&bytes);
        assert_eq!(checksum, windlass_wire::Checksum(GOLDEN), "the generator's output changed");
    }

    const GOLDEN: u32 = 2_563_390_261;

    #[test]
    fn click_rate_and_best_auc_are_plausible() {
        let (_, summary) = write(small(), 0, 20_000);
        let rate = to_f64(summary.clicks) / 20_000.0;
        assert!((rate - 0.2).abs() < 0.02, "{rate}");
        let auc = summary.best.auc.unwrap();
        assert!((0.6..0.95).contains(&auc), "{auc}");
        // Better than always saying the base rate.
        let entropy = -(0.2 * 0.2_f64.ln() + 0.8 * 0.8_f64.ln());
        assert!(summary.best.logloss.unwrap() < entropy - 0.02);
    }

    #[test]
    fn the_truth_predicts_as_well_as_it_says() {
        for hashed_ids in [false, true] {
            let options = ClickOptions { hashed_ids, ..small() };
            let (bytes, summary) = write(options.clone(), 0, 5_000);
            let truth = ClickModel::new(options).unwrap().truth();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            let mut reader =
                LibsvmReader::open(file.path(), Share::WHOLE, Strictness::Strict).unwrap();
            let mut batch = Batch::default();
            while reader.read(&mut batch, 1000).unwrap() > 0 {}
            let quality = truth.evaluate(&batch);
            assert!((quality.auc.unwrap() - summary.best.auc.unwrap()).abs() < 1e-6);
            assert!((quality.logloss.unwrap() - summary.best.logloss.unwrap()).abs() < 1e-5);
        }
    }

    #[test]
    fn impossible_options_are_refused_by_flag() {
        for (options, flag) in [
            (ClickOptions { fields: 0, ..small() }, "--fields"),
            (ClickOptions { features: 3, ..small() }, "--features"),
            (ClickOptions { exponent: 1.0, ..small() }, "--exponent"),
            (ClickOptions { density: 1.5, ..small() }, "--density"),
            (ClickOptions { weight_scale: f64::NAN, ..small() }, "--weight-scale"),
            (ClickOptions { click_rate: 0.0, ..small() }, "--click-rate"),
        ] {
            let error = ClickModel::new(options).unwrap_err().to_string();
            assert!(error.starts_with(flag), "{error}");
        }
    }
}
