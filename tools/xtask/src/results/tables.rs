//! The tables of the page: between a pair of markers, one table for each area.
//!
//! ```text
//! <!-- results: shm -->
//! the table
//! <!-- end of results -->
//! ```

use std::fmt::Write as _;

use super::{
    figures::{Area, Figures, Round, Row, median},
    list::{AREAS, AreaPlan, Bench, Shows, Wanted},
};

const END: &str = "<!-- end of results -->";

/// Why the page cannot be written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TableError {
    #[error("the page lacks the line `{0}`")]
    NoMarker(String),
    #[error("the figures have no area `{0}`")]
    NoArea(String),
    #[error("area `{area}` has no figures of `windlass {command}`")]
    NoRow { area: String, command: String },
}

/// The page with each area's table between its markers.
pub(super) fn fill(page: &str, figures: &Figures) -> Result<String, TableError> {
    AREAS.iter().try_fold(page.to_owned(), |page, plan| {
        let area = figures.areas.get(plan.name);
        let area = area.ok_or_else(|| TableError::NoArea(plan.name.to_owned()))?;
        let begin = format!("<!-- results: {} -->", plan.name);
        let (before, rest) =
            page.split_once(&begin).ok_or_else(|| TableError::NoMarker(begin.clone()))?;
        let (old, after) = rest.split_once(END).unwrap_or((rest, ""));
        if old.contains("<!-- results:") || !rest.contains(END) {
            return Err(TableError::NoMarker(END.to_owned()));
        }
        Ok(format!("{before}{begin}\n{}{END}{after}", table(plan, area)?))
    })
}

fn table(plan: &AreaPlan, area: &Area) -> Result<String, TableError> {
    let taken = &area.taken;
    let mut text = format!(
        "Build {}; {} processors of {}; Linux {}; {}. Medians of {} rounds, least to most in brackets.\n\n",
        taken.build, taken.processors, taken.processor, taken.kernel, taken.rustc, area.rounds
    );
    text.push_str("| operation | result | p99 | limit in the same run | ratio | wanted |\n");
    text.push_str("|---|---|---|---|---|---|\n");
    for bench in plan.benches {
        let command = bench.command();
        let row = area.rows.iter().find(|row| row.command == command).ok_or_else(|| {
            TableError::NoRow { area: plan.name.to_owned(), command: command.clone() }
        })?;
        text.push_str(&line(bench, row));
    }
    Ok(text)
}

fn line(bench: &Bench, row: &Row) -> String {
    let shown = |round: &Round| match bench.shows {
        Shows::Latency => round.p50_us,
        Shows::Bytes => round.bytes_per_s / 1e9,
        Shows::Rows => round.rows_per_s / 1e6,
    };
    let unit = match bench.shows {
        Shows::Latency => "us",
        Shows::Bytes => "GB/s",
        Shows::Rows => "M rows/s",
    };
    let ratio = middle(row, |round| round.ratio);
    let mut wanted = String::new();
    let is_held = match bench.wanted {
        None => true,
        Some(Wanted::AtMost(bound)) => {
            let _ = write!(wanted, "at most {bound}");
            ratio <= bound
        }
        Some(Wanted::AtLeast(bound)) => {
            let _ = write!(wanted, "at least {bound}");
            ratio >= bound
        }
    };
    if !is_held {
        wanted.push_str(": **missed**");
    }
    format!(
        "| {} | {} {unit} | {} us | {} {} | {} | {wanted} |\n",
        bench.title,
        spread(row, shown),
        digits(middle(row, |round| round.p99_us)),
        row.limit_name,
        limit(row),
        spread(row, |round| round.ratio),
    )
}

/// The limit as it was compared: a rate where it is one.
fn limit(row: &Row) -> String {
    let value = middle(row, |round| round.limit);
    // No operation takes a million microseconds, and no limit is a million bytes a second.
    if value < 1e6 {
        format!("{} us", digits(value))
    } else {
        format!("{} GB/s", digits(value / 1e9))
    }
}

fn middle(row: &Row, of: impl Fn(&Round) -> f64) -> f64 {
    median(row.rounds.iter().map(of)).unwrap_or(f64::NAN)
}

fn spread(row: &Row, of: impl Fn(&Round) -> f64) -> String {
    let least = row.rounds.iter().map(&of).fold(f64::INFINITY, f64::min);
    let most = row.rounds.iter().map(&of).fold(f64::NEG_INFINITY, f64::max);
    format!("{} ({} to {})", digits(middle(row, of)), digits(least), digits(most))
}

/// Three digits, as far as a reader can use them.
fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::figures::Taken, *};

    fn figures() -> Figures {
        let taken = Taken {
            build: "abc of 2026-01-02".to_owned(),
            processor: "a processor".to_owned(),
            processors: 2,
            kernel: "6.1".to_owned(),
            rustc: "rustc 1.95".to_owned(),
        };
        let round = |p50_us: f64| Round {
            p50_us,
            p99_us: 2.0 * p50_us,
            rows_per_s: 2e6,
            bytes_per_s: 3e9,
            limit: 0.25,
            ratio: 4.0 * p50_us,
        };
        let row = |bench: &Bench| Row {
            command: bench.command(),
            limit_name: "round trip".to_owned(),
            rounds: [0.5, 1.25, 0.75].map(round).to_vec(),
        };
        let area = |plan: &AreaPlan| Area {
            taken: taken.clone(),
            rounds: 3,
            rows: plan.benches.iter().map(row).collect(),
        };
        Figures { areas: AREAS.iter().map(|plan| (plan.name.to_owned(), area(plan))).collect() }
    }

    fn page() -> String {
        let place = |plan: &AreaPlan| format!("# {0}\n<!-- results: {0} -->\n{END}\n", plan.name);
        AREAS.iter().map(place).collect()
    }

    #[test]
    fn a_line_has_median_spread_and_bound() {
        let filled = fill(&page(), &figures()).expect("every area has its place");
        let line = "| push of one row | 0.750 (0.500 to 1.25) us | 1.50 us | round trip 0.250 us | \
                    3.00 (2.00 to 5.00) | at most 4 |";
        assert!(filled.lines().any(|is| is == line), "{filled}");
        let line = "| push of one row | 0.750 (0.500 to 1.25) us | 1.50 us | round trip 0.250 us | \
                    3.00 (2.00 to 5.00) | at most 1.5: **missed** |";
        assert!(filled.lines().any(|is| is == line), "{filled}");
    }

    #[test]
    fn filling_again_changes_nothing_and_keeps_what_is_around() {
        let filled = fill(&page(), &figures()).expect("every area has its place");
        assert_eq!(fill(&filled, &figures()).as_deref(), Ok(filled.as_str()));
        assert!(filled.starts_with("# shm\n"), "{filled}");
        assert!(filled.contains("# tcp\n"), "{filled}");
    }

    #[test]
    fn missing_places_and_figures_are_named() {
        let lacks = page().replace("<!-- results: tcp -->", "");
        let error = fill(&lacks, &figures()).expect_err("a marker is missing");
        assert_eq!(error, TableError::NoMarker("<!-- results: tcp -->".to_owned()));
        let mut figures = figures();
        figures.areas.get_mut("shm").expect("it was made").rows.remove(0);
        let error = fill(&page(), &figures).expect_err("a row is missing");
        assert!(error.to_string().starts_with("area `shm` has no figures of `windlass bench push"));
    }
}
