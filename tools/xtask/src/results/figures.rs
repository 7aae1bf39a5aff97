//! The committed figures, as they were measured: every round, nothing rounded.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// All areas, by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Figures {
    pub(super) areas: BTreeMap<String, Area>,
}

/// The figures of one area, of one build on one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Area {
    pub(super) taken: Taken,
    pub(super) rounds: u32,
    pub(super) rows: Vec<Row>,
}

/// Build and machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Taken {
    /// Commit and its date; ends with `+` where the tree held changes that were not committed.
    pub(super) build: String,
    pub(super) processor: String,
    pub(super) processors: usize,
    pub(super) kernel: String,
    pub(super) rustc: String,
}

/// One bench.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    /// Arguments of `windlass`.
    pub(super) command: String,
    /// What the bench compares with.
    pub(super) limit_name: String,
    /// A round each.
    pub(super) rounds: Vec<Round>,
}

/// What one run of a bench says; its JSON has more.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Round {
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) rows_per_s: f64,
    pub(super) bytes_per_s: f64,
    /// Bytes per second, or microseconds.
    pub(super) limit: f64,
    pub(super) ratio: f64,
}

impl Figures {
    pub(super) fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self)
            .unwrap_or_else(|error| unreachable!("figures have string keys: {error}"));
        text.push('\n');
        text
    }
}

/// The middle of some values; of an even number the lower of the two.
pub(super) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_measured_value() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.0));
        assert_eq!(median(std::iter::empty()), None);
    }
}
