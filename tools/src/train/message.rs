//! The messages between a training run and its worker processes, as lines of JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Pace, SourceOptions, Straggler};
use crate::verbs_flags::VerbsFlags;

/// What a worker is to do: the one line on its stdin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// Where the servers are.
    pub connection: Connection,
    /// Table of the weights.
    pub table: String,
    /// Table in which every push is counted, if it is to be proved that each was applied once.
    pub ledger: Option<String>,
    /// Filters of pushes and pulls, apart by commas; may be empty.
    pub filters: String,
    /// The examples.
    pub source: SourceOptions,
    /// When it goes on to its next batch.
    pub pace: Pace,
    /// Who is slow, to see what the others wait.
    pub straggler: Straggler,
}

/// How to reach the servers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// Address of any of them.
    pub address: String,
    /// Name of the only transport allowed, if one was named.
    pub transport: Option<String>,
    /// The token, if the servers ask for one.
    pub token: Option<String>,
    /// Settings of the verbs transport.
    #[serde(default)]
    pub verbs: VerbsFlags,
}

/// What a worker says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Report {
    /// From time to time.
    Progress(Progress),
    /// A line of the data that is no example, described.
    Malformed {
        /// The description.
        text: String,
    },
    /// At the end.
    Done(Done),
    /// Instead of `Done`.
    Failed {
        /// Why, with its causes.
        text: String,
        /// Exit code for the whole run.
        exit_code: u8,
    },
}

/// How far a worker is.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Examples since the last report.
    pub examples: u64,
    /// Their summed loss, each before its own update.
    pub loss_sum: f64,
}

/// What a worker did altogether.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// Examples trained on.
    pub examples: u64,
    /// Pushes acknowledged; ledger entries are not counted.
    pub pushes: u64,
    /// Keys and values pushed.
    pub bytes_pushed: u64,
    /// Keys and values pulled.
    pub bytes_pulled: u64,
    /// Bytes that filters kept from being sent, by filter.
    pub bytes_saved: BTreeMap<String, u64>,
    /// Malformed lines.
    pub skipped_lines: u64,
    /// Microseconds spent waiting for slower workers.
    pub idle_us: u64,
    /// Microseconds of its loop altogether.
    pub loop_us: u64,
    /// Latencies of pulls: nanoseconds and their counts.
    pub pull_latency: Vec<(u64, u64)>,
    /// Latencies of pushes, likewise.
    pub push_latency: Vec<(u64, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_lines_of_json() {
        let report = Report::Progress(Progress { examples: 3, loss_sum: 1.5 });
        let line = serde_json::to_string(&report).unwrap();
        assert!(!line.contains('\n') && line.contains("\"kind\":\"progress\""), "{line}");
        let Report::Progress(read) = serde_json::from_str(&line).unwrap() else { panic!() };
        assert_eq!((read.examples, read.loss_sum), (3, 1.5));
    }
}
