//! Results on stdout: JSON for programs, text for people.

use std::io::{self, Write};

use serde::Serialize;

use super::Failure;

/// Where and how results are printed.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    is_json: bool,
}

impl Output {
    /// Prints JSON, or text.
    #[must_use]
    pub fn new(is_json: bool) -> Self {
        Self { is_json }
    }

    /// Whether results are JSON.
    #[must_use]
    pub fn is_json(self) -> bool {
        self.is_json
    }

    /// Prints one result: `value` as a line of JSON, or the text.
    pub fn result(
        self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let line = if self.is_json {
            serde_json::to_string(value).map_err(Failure::failed)?
        } else {
            text()
        };
        print_line(&line)
    }

    /// Prints text for people; nothing under `--json`.
    pub fn text(self, text: &str) -> Result<(), Failure> {
        if self.is_json { Ok(()) } else { print_line(text) }
    }
}

/// A reader that went away early, as `head` does, is no failure.
fn print_line(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out
        .write_all(line.trim_end_matches('\n').as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("cannot write results to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
