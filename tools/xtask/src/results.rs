//! `cargo xtask results`: runs the listed benches, keeps their figures in `benches/results.json`, and writes the
//! tables of `benches/RESULTS.md` from that file.
//!
//! Areas that are not run keep the figures they have. Each area says which build and machine they are of.

mod bench;
mod figures;
mod list;
mod tables;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use self::{
    bench::BenchError,
    figures::{Area, Figures},
    list::{AREAS, AreaPlan},
    tables::TableError,
};

const JSON: &str = "benches/results.json";
const PAGE: &str = "benches/RESULTS.md";

#[derive(Debug, clap::Args)]
pub(crate) struct ResultsArguments {
    /// Run only this area; may be given several times.
    #[arg(long, value_name = "AREA")]
    only: Vec<String>,
    /// Rounds: each runs every bench of an area once, so that a noisy minute meets all of them.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Run nothing: write the tables from the committed figures.
    #[arg(long)]
    tables: bool,
    /// Print the areas and their commands.
    #[arg(long)]
    list: bool,
}

/// Why there are no new results.
#[derive(Debug, thiserror::Error)]
enum ResultsError {
    #[error("there is no area {name:?}; the areas are {known}")]
    UnknownArea { name: String, known: String },
    #[error("cannot read or write {}", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("benches/results.json does not hold results")]
    Json { source: serde_json::Error },
    #[error("benches/RESULTS.md cannot be written from benches/results.json")]
    Table { source: TableError },
    #[error("the bench `{command}` failed")]
    Bench { command: String, source: BenchError },
}

pub(crate) fn results(arguments: &ResultsArguments) -> ExitCode {
    if arguments.list {
        for area in AREAS {
            println!("{}", area.name);
            for bench in area.benches {
                println!("  windlass {}", bench.command());
            }
        }
        return ExitCode::SUCCESS;
    }
    match renew(Path::new("."), arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("xtask results: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text.push_str(&format!(": {error}"));
                cause = error.source();
            }
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn renew(root: &Path, arguments: &ResultsArguments) -> Result<(), ResultsError> {
    let mut figures = read(root)?;
    if !arguments.tables {
        let areas = chosen(&arguments.only)?;
        bench::build().map_err(|source| ResultsError::Bench {
            command: "cargo build --release -p windlass".to_owned(),
            source,
        })?;
        let taken = bench::taken();
        for plan in areas {
            let measured = bench::measure(plan, arguments.rounds)
                .map_err(|(command, source)| ResultsError::Bench { command, source })?;
            let area = Area { taken: taken.clone(), rounds: arguments.rounds, rows: measured };
            figures.areas.insert(plan.name.to_owned(), area);
            // An interrupted run keeps the areas that it has finished.
            write(&root.join(JSON), &figures.to_json())?;
        }
    }
    let page = root.join(PAGE);
    let text = fs::read_to_string(&page)
        .map_err(|source| ResultsError::File { path: page.clone(), source })?;
    let text = tables::fill(&text, &figures).map_err(|source| ResultsError::Table { source })?;
    write(&page, &text)
}

fn chosen(only: &[String]) -> Result<Vec<&'static AreaPlan>, ResultsError> {
    if only.is_empty() {
        return Ok(AREAS.iter().collect());
    }
    only.iter()
        .map(|name| {
            AREAS.iter().find(|area| area.name == name).ok_or_else(|| {
                let known: Vec<_> = AREAS.iter().map(|area| area.name).collect();
                ResultsError::UnknownArea { name: name.clone(), known: known.join(", ") }
            })
        })
        .collect()
}

fn read(root: &Path) -> Result<Figures, ResultsError> {
    let path = root.join(JSON);
    let text = fs::read_to_string(&path).map_err(|source| ResultsError::File { path, source })?;
    serde_json::from_str(&text).map_err(|source| ResultsError::Json { source })
}

fn write(path: &Path, text: &str) -> Result<(), ResultsError> {
    fs::write(path, text).map_err(|source| ResultsError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever edits a table by hand, or commits figures without their tables, is told here.
    #[test]
    fn the_tables_are_those_of_the_committed_figures() {
        let root = crate::root();
        let text = fs::read_to_string(root.join(PAGE)).expect("the page is readable");
        let figures = read(&root).expect("the figures are readable");
        let filled = tables::fill(&text, &figures).expect("the page has a place for every area");
        let differs = text.lines().zip(filled.lines()).find(|(is, wanted)| is != wanted);
        assert_eq!(differs, None, "run `cargo xtask results --tables`");
        assert_eq!(text.len(), filled.len(), "run `cargo xtask results --tables`");
    }

    #[test]
    fn every_area_has_figures_of_every_bench() {
        let figures = read(&crate::root()).expect("the figures are readable");
        for plan in AREAS {
            let area = figures.areas.get(plan.name).expect("the area was measured");
            let measured: Vec<_> = area.rows.iter().map(|row| row.command.as_str()).collect();
            let listed: Vec<_> = plan.benches.iter().map(list::Bench::command).collect();
            assert_eq!(measured, listed, "run `cargo xtask results --only {}`", plan.name);
        }
    }

    #[test]
    fn an_unknown_area_is_named_with_those_there_are() {
        let error = chosen(&["smh".to_owned()]).expect_err("there is no such area");
        assert!(error.to_string().contains("\"smh\"; the areas are shm, "), "{error}");
    }
}
