//! How many tests a step ran, read from what it printed.

/// Tests by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Sums the summaries in the output of `cargo test`, nextest, pytest and unittest; `None` where
    /// there is none, as with a formatter.
    pub(crate) fn parse(output: &str) -> Option<Self> {
        let mut total = None;
        for line in output.lines() {
            let line = line.trim();
            if let Some(counts) =
                cargo_test(line).or_else(|| nextest(line)).or_else(|| pytest(line))
            {
                total.get_or_insert_with(Self::default).add(counts);
            }
        }
        total
    }
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; ...`
fn cargo_test(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("test result: ")?;
    let (_, counts) = rest.split_once(". ")?;
    Some(numbered(counts.split("; ")))
}

/// `Summary [   0.1s] 5 tests run: 3 passed (1 slow), 2 failed, 1 skipped`
fn nextest(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("Summary [")?;
    let (_, counts) = rest.split_once(" run: ")?;
    Some(numbered(counts.split(", ")))
}

/// `===== 3 passed, 1 skipped in 0.12s =====`
fn pytest(line: &str) -> Option<Counts> {
    let inner = line.trim_matches('=').trim();
    if inner.len() == line.len() || !inner.contains(" in ") {
        return None;
    }
    let (counts, _) = inner.rsplit_once(" in ")?;
    let counts = numbered(counts.split(", "));
    (counts != Counts::default()).then_some(counts)
}

fn numbered<'a>(parts: impl Iterator<Item = &'a str>) -> Counts {
    let mut counts = Counts::default();
    for part in parts {
        let mut words = part.split_whitespace();
        let (Some(number), Some(kind)) = (words.next(), words.next()) else { continue };
        let Ok(number) = number.parse::<u64>() else { continue };
        match kind {
            "passed" => counts.passed += number,
            "failed" | "error" | "errors" | "timed" | "exec" => counts.failed += number,
            "ignored" | "skipped" => counts.skipped += number,
            _ => {}
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_summary_is_read() {
        let output = "\
test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s
     Summary [   0.104s] 7 tests run: 5 passed (1 slow), 1 failed, 1 timed out, 2 skipped
========= 3 passed, 1 skipped in 0.12s =========
";
        assert_eq!(Counts::parse(output), Some(Counts { passed: 11, failed: 2, skipped: 4 }));
        assert_eq!(Counts::parse("Finished `dev` profile\n======\n"), None);
    }
}
