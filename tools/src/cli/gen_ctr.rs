//! `windlass gen ctr`.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use serde::Serialize;

use super::{ExitStatus, Failure, Output, progress};
use crate::{
    data::{ClickModel, ClickOptions, ClickSummary},
    report::{table, units},
};

const AFTER_HELP: &str = "\
Every example has one feature of each field; values of a field follow a power law. The label is \
drawn from a logistic model of which a share of the weights is not zero. A name that ends in .gz is \
compressed. The same seed gives the same files on every machine.

Examples:
  windlass gen ctr --out clicks.svm.gz --examples 1000000
  windlass gen ctr --out train.svm --eval-out eval.svm --model-out truth.txt --hashed-ids";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Write the training examples here, as LIBSVM lines
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How many of them
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    examples: u64,
    /// Write other examples of the same model here, to evaluate on
    #[arg(long, value_name = "FILE")]
    eval_out: Option<PathBuf>,
    /// How many of them
    #[arg(long, value_name = "N", default_value_t = 20_000, requires = "eval_out")]
    eval_examples: u64,
    /// Write the true model here as text, and beside it as .npy
    #[arg(long, value_name = "FILE")]
    model_out: Option<PathBuf>,
    #[command(flatten)]
    law: Law,
}

#[derive(Debug, clap::Args)]
struct Law {
    /// Seed of the model and of the data
    #[arg(long, value_name = "N", default_value_t = ClickOptions::default().seed)]
    seed: u64,
    /// Distinct features over all fields
    #[arg(long, value_name = "N", default_value_t = ClickOptions::default().features)]
    features: u64,
    /// Categorical fields, hence features of an example
    #[arg(long, value_name = "N", default_value_t = ClickOptions::default().fields)]
    fields: u32,
    /// Exponent of the power law
    #[arg(long, value_name = "X", default_value_t = ClickOptions::default().exponent)]
    exponent: f64,
    /// Share of the true weights that are not zero
    #[arg(long, value_name = "X", default_value_t = ClickOptions::default().density)]
    density: f64,
    /// Standard deviation of those weights
    #[arg(long, value_name = "X", default_value_t = ClickOptions::default().weight_scale)]
    weight_scale: f64,
    /// Mean probability of a click
    #[arg(long, value_name = "X", default_value_t = ClickOptions::default().click_rate)]
    click_rate: f64,
    /// Spread the ids over 0..2^63, as hashing does, instead of 0..features
    #[arg(long)]
    hashed_ids: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Generated {
    examples: u64,
    clicks: u64,
    features: u64,
    nonzero: usize,
    logloss_best: Option<f64>,
    auc_best: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eval: Option<Evaluation>,
}

#[derive(Debug, Serialize)]
struct Evaluation {
    examples: u64,
    clicks: u64,
    logloss_best: Option<f64>,
    auc_best: Option<f64>,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    let model = ClickModel::new(arguments.law.options())
        .map_err(|error| Failure::new(ExitStatus::Usage, error))?;
    let train = write(&model, &arguments.out, 0, arguments.examples)?;
    let eval = match &arguments.eval_out {
        Some(path) => Some(write(&model, path, 1, arguments.eval_examples)?),
        None => None,
    };
    let truth = model.truth();
    if let Some(path) = &arguments.model_out {
        truth.save(path).map_err(Failure::failed)?;
    }
    let generated = Generated {
        examples: train.examples,
        clicks: train.clicks,
        features: model.feature_count(),
        nonzero: truth.nonzero_count(),
        logloss_best: train.best.logloss,
        auc_best: train.best.auc,
        eval: eval.map(|summary| Evaluation {
            examples: summary.examples,
            clicks: summary.clicks,
            logloss_best: summary.best.logloss,
            auc_best: summary.best.auc,
        }),
    };
    output.result(&generated, || text(arguments, &train, eval.as_ref()))
}

impl Law {
    fn options(&self) -> ClickOptions {
        ClickOptions {
            seed: self.seed,
            features: self.features,
            fields: self.fields,
            exponent: self.exponent,
            density: self.density,
            weight_scale: self.weight_scale,
            click_rate: self.click_rate,
            hashed_ids: self.hashed_ids,
        }
    }
}

fn write(
    model: &ClickModel,
    path: &Path,
    data_set: u64,
    count: u64,
) -> Result<ClickSummary, Failure> {
    let failed = |source: std::io::Error| {
        Failure::failed(format!(
            "cannot write {}: check that the folder exists and has room ({source})",
            path.display()
        ))
    };
    let bar = progress::bar(count, "writing");
    let out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
    let mut written = 0_u64;
    let on_example = || {
        written += 1;
        if written.is_multiple_of(1024) {
            bar.set_position(written);
        }
    };
    let summary = if path.extension().is_some_and(|extension| extension == "gz") {
        let mut encoder = GzEncoder::new(out, Compression::fast());
        let summary = model.write(&mut encoder, data_set, count, on_example).map_err(failed)?;
        encoder.finish().and_then(|mut out| out.flush()).map_err(failed)?;
        summary
    } else {
        let mut out = out;
        let summary = model.write(&mut out, data_set, count, on_example).map_err(failed)?;
        out.flush().map_err(failed)?;
        summary
    };
    bar.finish_and_clear();
    Ok(summary)
}

fn text(arguments: &Arguments, train: &ClickSummary, eval: Option<&ClickSummary>) -> String {
    let row = |path: &Path, summary: &ClickSummary| {
        let best = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
        vec![
            path.display().to_string(),
            units::grouped(summary.examples),
            units::grouped(summary.clicks),
            best(summary.best.logloss),
            best(summary.best.auc),
        ]
    };
    let mut rows = vec![row(&arguments.out, train)];
    if let (Some(path), Some(summary)) = (&arguments.eval_out, eval) {
        rows.push(row(path, summary));
    }
    table::table(&["file", "examples", "clicks", "best logloss", "best AUC"], &rows)
}
