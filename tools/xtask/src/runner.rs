//! Runs one step within its time, its output in a log file, and counts what it tested.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    counts::Counts,
    need::Need,
    softroce::bounded::{self, BoundedError},
};

const LOG_FOLDER: &str = "target/xtask";
/// How much of a failed step's output is shown; the log file has all.
const SHOWN_LINES_MAX: usize = 200;

/// One check of the ladder.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// For `--only` and for the log file.
    pub(crate) name: &'static str,
    /// What it shows, in a few words.
    pub(crate) about: &'static str,
    /// It is stopped, and has failed, after this long.
    pub(crate) minutes_max: u64,
    pub(crate) needs: &'static [Need],
    pub(crate) command: fn() -> Command,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ran(Counts),
    /// It could not run, for this reason.
    Skipped(String),
}

impl Step {
    /// Runs the step, reporting on stderr.
    pub(crate) fn run(&self) -> Outcome {
        for need in self.needs {
            if let Err(reason) = need.meet() {
                eprintln!("--- {:<12} skipped: {reason}", self.name);
                return Outcome::Skipped(reason);
            }
        }
        eprintln!("--- {:<12} {} ...", self.name, self.about);
        let start = Instant::now();
        let log = Path::new(LOG_FOLDER).join(format!("{}.log", self.name));
        let problem = match self.run_logged(&log, start) {
            Ok(problem) => problem,
            Err(error) => Some(format!("cannot write {}: {error}", log.display())),
        };
        let output = fs::read(&log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let counts = count(&output, problem.is_none());
        let seconds = start.elapsed().as_secs();
        match problem {
            None => eprintln!("    {:<12} ok: {} passed, {seconds} s", self.name, counts.passed),
            Some(problem) => {
                let lines: Vec<&str> = output.lines().collect();
                for line in &lines[lines.len().saturating_sub(SHOWN_LINES_MAX)..] {
                    eprintln!("    | {line}");
                }
                eprintln!(
                    "    {:<12} FAILED: {problem}; {seconds} s; all of its output is in {}",
                    self.name,
                    log.display()
                );
            }
        }
        Outcome::Ran(counts)
    }

    /// Returns what went wrong, if anything did.
    fn run_logged(&self, log: &PathBuf, start: Instant) -> io::Result<Option<String>> {
        fs::create_dir_all(LOG_FOLDER)?;
        let out = File::create(log)?;
        let errors = out.try_clone()?;
        let deadline = start + Duration::from_secs(60 * self.minutes_max);
        let mut command = (self.command)();
        command.stdout(out).stderr(errors);
        Ok(match bounded::run(&mut command, deadline, || {}) {
            Ok(status) if status.success() => None,
            Ok(status) => Some(status.to_string()),
            Err(BoundedError::Overrun { .. }) => {
                Some(format!("stopped after {} minutes", self.minutes_max))
            }
            Err(error) => Some(error.to_string()),
        })
    }
}

/// A step without tests of its own counts as one; a step that failed has at least one failure.
fn count(output: &str, succeeded: bool) -> Counts {
    let mut counts = Counts::parse(output).unwrap_or(Counts { passed: 1, failed: 0, skipped: 0 });
    if !succeeded && counts.failed == 0 {
        counts.failed = 1;
        if Counts::parse(output).is_none() {
            counts.passed = 0;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_without_tests_count_as_one() {
        assert_eq!(count("", true), Counts { passed: 1, failed: 0, skipped: 0 });
        assert_eq!(count("error: x", false), Counts { passed: 0, failed: 1, skipped: 0 });
        let output = "test result: ok. 3 passed; 0 failed; 0 ignored";
        assert_eq!(count(output, false), Counts { passed: 3, failed: 1, skipped: 0 });
        assert_eq!(count(output, true), Counts { passed: 3, failed: 0, skipped: 0 });
    }
}
