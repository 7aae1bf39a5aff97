//! How a command fails: one sentence with the remedy, the causes below it, and an exit code.

use std::{error::Error, process::ExitCode};

use windlass_transport::text::Shown;

/// Exit codes; `windlass --help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// The command failed.
    Failed = 1,
    /// The command line or the config file is wrong.
    Usage = 2,
    /// No server could be reached, or it went away.
    Unreachable = 3,
    /// Input data is malformed, and `--strict` was given.
    Malformed = 4,
    /// The user stopped it.
    Interrupted = 130,
}

/// A command that did not do its work.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct Failure {
    status: ExitStatus,
    source: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// A failure with this exit code; a text or an error says what went wrong.
    pub fn new(status: ExitStatus, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { status, source: source.into() }
    }

    /// A failure of the work itself.
    pub fn failed(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(ExitStatus::Failed, source)
    }

    /// The exit code it gives.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        self.status
    }

    /// Prints the failure and its causes on stderr.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        let mut text = self.source.to_string();
        eprintln!("windlass: {}", for_people(&text));
        let mut cause = self.source.source();
        while let Some(error) = cause {
            // Transparent errors say the same as their cause.
            let next = error.to_string();
            if !text.contains(&next) {
                eprintln!("  because: {}", for_people(&next));
                text = next;
            }
            cause = error.source();
        }
        ExitCode::from(self.status as u8)
    }
}

/// An error's text with its lines as they are and other control characters escaped: it may quote what a file, a user
/// or a peer says.
fn for_people(text: &str) -> String {
    text.split('\n').map(|line| Shown(line).to_string()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_words_do_not_command_the_terminal() {
        assert_eq!(
            for_people("no table \u{1b}[2J\r\nthere are:\n  a"),
            "no table \\u{1b}[2J\\r\nthere are:\n  a"
        );
    }
}
