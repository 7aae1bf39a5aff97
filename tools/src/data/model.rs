//! A linear model as a sorted list of weights, and its two file forms: text (`id weight` lines, with
//! `intercept` first) and `.npy` (an array of records `id: u64, weight: f32`).

use std::{
    fs,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use windlass_engine::persist::export::npy;

use super::{Batch, ExampleRef, limits::INTERCEPT_KEY};
use crate::metrics::{Quality, sigmoid};

/// Weights of a logistic model. Features that are not listed weigh nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    intercept: f32,
    ids: Vec<u64>,
    weights: Vec<f32>,
}

/// Why a model file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file cannot be written.
    #[error("cannot write the model to {}: check that the folder exists and has room", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("cannot read the model {}: check the path", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A line is neither `intercept W` nor `ID W`.
    #[error("{}:{line_number}: {line:?} is neither \"intercept WEIGHT\" nor \"ID WEIGHT\"", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line_number: usize,
        /// What it says.
        line: String,
    },
}

impl Model {
    /// A model that knows no feature yet.
    #[must_use]
    pub fn new(intercept: f32) -> Self {
        Self { intercept, ids: Vec::new(), weights: Vec::new() }
    }

    /// Takes rows pulled under `keys`; the row of [`INTERCEPT_KEY`] is the intercept, zeros are left
    /// out. Panics when the lengths differ.
    #[must_use]
    pub fn from_rows(keys: &[u64], weights: &[f32]) -> Self {
        assert_eq!(keys.len(), weights.len());
        let mut model = Self::default();
        for (&key, &weight) in keys.iter().zip(weights) {
            if key == INTERCEPT_KEY {
                model.intercept = weight;
            } else if weight != 0.0 {
                model.push(key, weight);
            }
        }
        model.sort();
        model
    }

    /// Adds a weight; [`Self::sort`] must follow before the model is used.
    pub fn push(&mut self, id: u64, weight: f32) {
        self.ids.push(id);
        self.weights.push(weight);
    }

    /// Puts the weights in order of their ids.
    pub fn sort(&mut self) {
        if self.ids.is_sorted() {
            return;
        }
        let mut pairs: Vec<(u64, f32)> =
            self.ids.iter().copied().zip(self.weights.iter().copied()).collect();
        pairs.sort_unstable_by_key(|pair| pair.0);
        (self.ids, self.weights) = pairs.into_iter().unzip();
    }

    /// The intercept.
    #[must_use]
    pub fn intercept(&self) -> f32 {
        self.intercept
    }

    /// Number of features whose weight is not zero; the intercept does not count.
    #[must_use]
    pub fn nonzero_count(&self) -> usize {
        self.weights.iter().filter(|&&weight| weight != 0.0).count()
    }

    /// Sums of the magnitudes and of the squares of the weights; the intercept counts, as it is penalised, too.
    #[must_use]
    pub fn norms(&self) -> (f64, f64) {
        let weights = self.weights.iter().chain([&self.intercept]).map(|&weight| f64::from(weight));
        weights.fold((0.0, 0.0), |(sum, squares), weight| {
            (sum + weight.abs(), squares + weight * weight)
        })
    }

    /// The weight of a feature.
    #[must_use]
    pub fn weight(&self, id: u64) -> f32 {
        self.ids.binary_search(&id).map_or(0.0, |index| self.weights[index])
    }

    /// Probability that the example is positive.
    #[must_use]
    pub fn predict(&self, example: ExampleRef<'_>) -> f64 {
        let margin: f64 = example
            .ids
            .iter()
            .zip(example.values)
            .map(|(&id, &value)| f64::from(self.weight(id)) * f64::from(value))
            .sum();
        sigmoid(margin + f64::from(self.intercept))
    }

    /// Quality of the model's predictions on some examples.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "probabilities are kept as f32")]
    pub fn evaluate(&self, batch: &Batch) -> Quality {
        let probabilities: Vec<f32> =
            batch.iter().map(|example| self.predict(example) as f32).collect();
        Quality::of(&probabilities, batch.labels())
    }

    /// Writes `path` as text and, beside it with the extension `.npy`, the same weights for numpy.
    /// Returns the second path. Each file is complete or absent: it is renamed into place.
    pub fn save(&self, path: &Path) -> Result<PathBuf, ModelError> {
        write_whole(path, |out| self.write_text(out))?;
        let npy = path.with_extension("npy");
        write_whole(&npy, |out| self.write_npy(out))?;
        Ok(npy)
    }

    /// Reads the text form.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ModelError::Read { path: path.to_owned(), source })?;
        let mut model = Self::default();
        for (index, line) in text.lines().enumerate() {
            let error = || ModelError::Line {
                path: path.to_owned(),
                line_number: index + 1,
                line: line.chars().take(80).collect(),
            };
            let (id, weight) = line.split_once(' ').ok_or_else(error)?;
            let weight: f32 = weight.trim().parse().map_err(|_| error())?;
            if id == "intercept" {
                model.intercept = weight;
            } else {
                model.push(id.parse().map_err(|_| error())?, weight);
            }
        }
        model.sort();
        Ok(model)
    }

    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        // Shortest digits that read back as the same f32.
        writeln!(out, "intercept {}", self.intercept)?;
        for (id, weight) in self.ids.iter().zip(&self.weights) {
            writeln!(out, "{id} {weight}")?;
        }
        Ok(())
    }

    /// Packed little-endian records. The intercept is the record with id 2^63 + 1.
    fn write_npy(&self, out: &mut dyn Write) -> io::Result<()> {
        let records = self.ids.len() as u64 + 1;
        npy::write_header("[('id', '<u8'), ('weight', '<f4')]", &[records], out)?;
        let intercept = std::iter::once((INTERCEPT_KEY, self.intercept));
        let features = self.ids.iter().copied().zip(self.weights.iter().copied());
        for (id, weight) in features.chain(intercept) {
            out.write_all(&id.to_le_bytes())?;
            out.write_all(&weight.to_le_bytes())?;
        }
        Ok(())
    }
}

fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), ModelError> {
    let failed = |source| ModelError::Write { path: path.to_owned(), source };
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let mut out = BufWriter::new(fs::File::create(&partial).map_err(failed)?);
    write(&mut out).and_then(|()| out.flush()).map_err(failed)?;
    fs::rename(&partial, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Model {
        Model::from_rows(&[9, INTERCEPT_KEY, 2, 5], &[0.25, -1.5, 0.1, 0.0])
    }

    #[test]
    fn predicts_by_hand() {
        let model = example();
        assert_eq!(model.nonzero_count(), 2);
        assert_eq!(model.weight(5), 0.0);
        let (sum, squares) = model.norms();
        assert!((sum - 1.85).abs() < 1e-7 && (squares - 2.3225).abs() < 1e-7, "{sum} {squares}");
        let probability =
            model.predict(ExampleRef { label: true, ids: &[2, 7, 9], values: &[1.0, 1.0, 2.0] });
        let margin = -1.5 + f64::from(0.1_f32) + 0.5;
        assert!((probability - sigmoid(margin)).abs() < 1e-12);
    }

    #[test]
    fn text_form_round_trips() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.txt");
        let npy = example().save(&path).unwrap();
        assert_eq!(Model::load(&path).unwrap(), example());
        let bytes = fs::read(npy).unwrap();
        assert_eq!(&bytes[..6], b"\x93NUMPY");
        let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!(header % 64, 0);
        assert_eq!(bytes.len() - header, 3 * 12);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn bad_lines_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.txt");
        fs::write(&path, "intercept 1\n3 x\n").unwrap();
        assert!(Model::load(&path).unwrap_err().to_string().contains("model.txt:2:"));
        let missing = folder.path().join("none/model.txt");
        assert!(matches!(example().save(&missing), Err(ModelError::Write { .. })));
    }
}
