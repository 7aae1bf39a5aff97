//! `cargo xtask results`: runs the benches that `benches/results.json` lists, keeps every round there, and writes
//! the tables of `benches/RESULTS.md` from it.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, process::ExitCode};

use serde::{Deserialize, Serialize};

use crate::passed::cargo;

const JSON: &str = "benches/results.json";
const PAGE: &str = "benches/RESULTS.md";
const TABLE_END: &str = "<!-- end of table -->";

#[derive(Debug, clap::Args)]
pub(crate) struct ResultsArguments {
    /// Measure only this table; may be given several times. The others keep their figures.
    #[arg(long, value_name = "TABLE")]
    only: Vec<String>,
    /// Rounds. Each runs every bench of a table once, so that a noisy minute meets all of them.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Measure nothing: take the figures of FILE, such as benches/results.json, and write the tables.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["only", "rounds"])]
    from: Option<String>,
}

/// One table: benches that one build ran on one machine.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Commit and date of the build.
    build: String,
    machine: String,
    rows: Vec<Row>,
}

/// One bench.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// What readers call it.
    operation: String,
    /// Arguments of `windlass`, without `--json`.
    command: String,
    shows: Shows,
    /// The bound that the ratio to the limit should keep.
    wanted: Wanted,
    limit_name: String,
    rounds: Vec<Round>,
}

/// Which figure of a bench a table shows.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Shows {
    P50Us,
    BytesPerS,
    RowsPerS,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wanted {
    AtMost(f64),
    AtLeast(f64),
}

/// What one run said, in the units of `windlass bench --json`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Round {
    result: f64,
    /// Microseconds where latencies are compared, bytes per second otherwise; `null` where it was not noted.
    limit: Option<f64>,
    ratio: f64,
}

/// The part of a bench's JSON that is kept.
#[derive(Debug, Deserialize)]
struct Printed {
    p50_us: f64,
    bytes_per_s: f64,
    rows_per_s: f64,
    limit_name: String,
    limit: f64,
    ratio: f64,
}

type Tables = BTreeMap<String, Table>;

pub(crate) fn results(arguments: &ResultsArguments) -> ExitCode {
    match renew(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask results: {error}");
            ExitCode::FAILURE
        }
    }
}

fn renew(arguments: &ResultsArguments) -> Result<(), String> {
    let mut tables = read(Path::new(arguments.from.as_deref().unwrap_or(JSON)))?;
    if arguments.from.is_none() {
        measure(&mut tables, arguments)?;
    }
    let page = fill(&text_of(Path::new(PAGE))?, &tables)?;
    let json = serde_json::to_string_pretty(&tables).map_err(|error| error.to_string())?;
    write(JSON, &(json + "\n"))?;
    write(PAGE, &page)
}

fn text_of(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn read(path: &Path) -> Result<Tables, String> {
    serde_json::from_str(&text_of(path)?)
        .map_err(|error| format!("{} does not hold results: {error}", path.display()))
}

fn write(path: &str, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("cannot write {path}: {error}"))
}

fn measure(tables: &mut Tables, arguments: &ResultsArguments) -> Result<(), String> {
    for name in &arguments.only {
        if !tables.contains_key(name) {
            let known: Vec<_> = tables.keys().map(String::as_str).collect();
            return Err(format!("there is no table {name:?}; the tables are {}", known.join(", ")));
        }
    }
    let built = cargo(&["build", "--release", "--quiet", "-p", "windlass"]).status();
    if !built.is_ok_and(|status| status.success()) {
        return Err("`cargo build --release -p windlass` failed".to_owned());
    }
    let (build, machine) = (build(), machine());
    let chosen = |name: &String| arguments.only.is_empty() || arguments.only.contains(name);
    for (name, table) in tables.iter_mut().filter(|(name, _)| chosen(name)) {
        (table.build, table.machine) = (build.clone(), machine.clone());
        table.rows.iter_mut().for_each(|row| row.rounds.clear());
        for round in 1..=arguments.rounds {
            for row in &mut table.rows {
                eprintln!(
                    "{name}, round {round} of {}: windlass {}",
                    arguments.rounds, row.command
                );
                let printed = run(&row.command)?;
                let (result, limit) = (row.shows.of(&printed), Some(printed.limit));
                row.rounds.push(Round { result, limit, ratio: printed.ratio });
                row.limit_name = printed.limit_name;
            }
        }
    }
    Ok(())
}

fn run(command: &str) -> Result<Printed, String> {
    let mut bench = std::process::Command::new("target/release/windlass");
    let output = bench.args(command.split(' ')).arg("--json").output();
    let output = output.map_err(|error| format!("cannot start `windlass {command}`: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`windlass {command}` ended with {}: {said}", output.status));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("`windlass {command}` printed no result: {error}"))
}

/// Commit and date; marked with `+` if the tree has changes that are not committed.
fn build() -> String {
    let changed = !said("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
    said("git", &["log", "-1", "--format=%h of %cs"]) + if changed { " +" } else { "" }
}

fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let count = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{count} processors of {model}, Linux {}", said("uname", &["-r"]))
}

/// The first line that a program prints.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

impl Shows {
    fn of(self, printed: &Printed) -> f64 {
        match self {
            Self::P50Us => printed.p50_us,
            Self::BytesPerS => printed.bytes_per_s,
            Self::RowsPerS => printed.rows_per_s,
        }
    }

    /// What a unit is called, and how many of the figure's it has.
    fn unit(self) -> (&'static str, f64) {
        match self {
            Self::P50Us => ("us", 1.0),
            Self::BytesPerS => ("GB/s", 1e9),
            Self::RowsPerS => ("M rows/s", 1e6),
        }
    }
}

/// The page with every table between the markers that name it.
fn fill(page: &str, tables: &Tables) -> Result<String, String> {
    tables.iter().try_fold(page.to_owned(), |page, (name, table)| {
        let begin = format!("<!-- table {name} -->\n");
        let (before, rest) =
            page.split_once(&begin).ok_or(format!("{PAGE} lacks the line {begin}"))?;
        let (_, after) =
            rest.split_once(TABLE_END).ok_or(format!("{PAGE} lacks {TABLE_END} of {name}"))?;
        Ok(format!("{before}{begin}{}{TABLE_END}{after}", text(table)))
    })
}

fn text(table: &Table) -> String {
    let mut text = format!("Build {}; {}.\n\n", table.build, table.machine);
    text.push_str("| operation | `windlass` | result of each run | limit in the same run | ratio | wanted |\n");
    text.push_str("|---|---|---|---|---|---|\n");
    for row in &table.rows {
        let (unit, scale) = row.shows.unit();
        let mut ratios: Vec<f64> = row.rounds.iter().map(|round| round.ratio).collect();
        let limits: Option<Vec<f64>> = row.rounds.iter().map(|round| round.limit).collect();
        // A limit is a latency or a rate of bytes, whatever the result is.
        let (limit_unit, limit_scale) = match row.shows {
            Shows::P50Us => ("us", 1.0),
            _ => ("GB/s", 1e9),
        };
        let limits = limits.map_or(String::new(), |limits| {
            format!(" {} {limit_unit}", list(limits.iter().map(|limit| limit / limit_scale)))
        });
        let _ = write!(
            text,
            "| {} | `{}` | {} {unit} | {}{limits} | {} | ",
            row.operation,
            row.command,
            list(row.rounds.iter().map(|round| round.result / scale)),
            row.limit_name,
            list(ratios.iter().copied()),
        );
        ratios.sort_by(f64::total_cmp);
        let median = ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN);
        let (words, bound, holds) = match row.wanted {
            Wanted::AtMost(bound) => ("at most", bound, median <= bound),
            Wanted::AtLeast(bound) => ("at least", bound, median >= bound),
        };
        let missed = if holds { "" } else { ": **missed**" };
        let _ = writeln!(text, "{words} {bound}{missed} |");
    }
    text
}

fn list(values: impl Iterator<Item = f64>) -> String {
    values.map(digits).collect::<Vec<_>>().join(", ")
}

/// Three digits, as far as a reader can use them.
fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => {
            let text = format!("{value:.3}");
            text.strip_suffix('0').unwrap_or(&text).to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever edits a table by hand, or commits figures without their tables, is told here.
    #[test]
    fn the_tables_are_those_of_the_committed_figures() {
        let root = crate::root();
        let page = text_of(&root.join(PAGE)).expect("the page is there");
        let filled = fill(&page, &read(&root.join(JSON)).expect("the figures are there"));
        let filled = filled.expect("the page has a place for every table");
        let differs = page.lines().zip(filled.lines()).find(|(is, wanted)| is != wanted);
        assert_eq!(differs, None, "run `cargo xtask results --from {JSON}`");
        assert_eq!(page.len(), filled.len(), "run `cargo xtask results --from {JSON}`");
    }

    fn table(ratios: [f64; 3]) -> Table {
        let round = |ratio| Round { result: 2.5e9, limit: Some(1e10), ratio };
        let row = Row {
            operation: "push".to_owned(),
            command: "bench push".to_owned(),
            shows: Shows::BytesPerS,
            wanted: Wanted::AtLeast(0.5),
            limit_name: "memcpy".to_owned(),
            rounds: ratios.map(round).to_vec(),
        };
        Table { build: "abc".to_owned(), machine: "a machine".to_owned(), rows: vec![row] }
    }

    #[test]
    fn a_line_has_every_run_and_says_when_the_median_misses_its_bound() {
        let line = |ratios| text(&table(ratios)).lines().last().map(str::to_owned);
        let missed = "| push | `bench push` | 2.50, 2.50, 2.50 GB/s | memcpy 10.0, 10.0, 10.0 GB/s \
                      | 0.49, 0.90, 0.40 | at least 0.5: **missed** |";
        assert_eq!(line([0.49, 0.9, 0.4]).as_deref(), Some(missed));
        let held = "| push | `bench push` | 2.50, 2.50, 2.50 GB/s | memcpy 10.0, 10.0, 10.0 GB/s \
                    | 0.49, 0.90, 0.50 | at least 0.5 |";
        assert_eq!(line([0.49, 0.9, 0.5]).as_deref(), Some(held));
    }

    #[test]
    fn a_table_stands_between_its_markers_and_the_rest_stays() {
        let tables = Tables::from([("shm".to_owned(), table([1.0; 3]))]);
        let page = format!("# Results\n<!-- table shm -->\nold\n{TABLE_END}\nmore\n");
        let filled = fill(&page, &tables).expect("the page has its place");
        assert!(filled.starts_with("# Results\n<!-- table shm -->\nBuild abc; a machine.\n"));
        assert!(filled.ends_with(&format!("{TABLE_END}\nmore\n")) && !filled.contains("old"));
        assert_eq!(fill(&filled, &tables), Ok(filled));
        assert!(fill("# Results\n", &tables).is_err_and(|error| error.contains("table shm")));
    }

    #[test]
    fn what_a_bench_prints_is_read_and_a_missing_figure_is_refused() {
        let line = r#"{"op":"push","p50_us":0.5,"p99_us":1.0,"rows_per_s":2.0,"bytes_per_s":4.0,
            "limit_name":"round trip","limit":0.1,"ratio":5.0,"cores":[0,1]}"#;
        let printed: Printed = serde_json::from_str(line).expect("a result");
        let shown =
            [Shows::P50Us, Shows::BytesPerS, Shows::RowsPerS].map(|shows| shows.of(&printed));
        assert_eq!((shown, printed.limit, printed.ratio), ([0.5, 4.0, 2.0], 0.1, 5.0));
        let error = serde_json::from_str::<Printed>(r#"{"limit_name":"memcpy","p50_us":0.5}"#);
        assert!(error.is_err_and(|error| error.to_string().contains("bytes_per_s")));
    }
}
