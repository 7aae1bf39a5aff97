//! Which rows the operations of a bench name: by key, drawn before the measurement.

use std::{collections::HashSet, str::FromStr, sync::Arc};

use crate::data::random::Random;

/// Bytes that all drawn keys take at most.
const DRAWN_LEN_MAX: u64 = 64 << 20;
const LISTS_MAX: u64 = 256;

/// Draws after which what a list still lacks is taken from the most likely rows: where nearly all rows are
/// in a list, the last ones would hardly ever be drawn.
const DRAWS_PER_KEY_MAX: usize = 64;

/// Odd, so that multiplying by it maps keys to keys one to one; the golden ratio of 2^64.
const SCATTER: u64 = 0x9e37_79b9_7f4a_7c15;

/// How rows are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Each as likely as any other.
    Uniform,
    /// The `r`-th most likely about as likely as `r^-exponent`. Likely rows lie anywhere in the table.
    Zipf {
        /// Above 0.
        exponent: f64,
    },
}

/// Not a distribution.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no distribution: uniform, or zipf:S with S above 0, such as zipf:1.05")]
pub struct DistributionError {
    text: String,
}

impl FromStr for Distribution {
    type Err = DistributionError;

    fn from_str(text: &str) -> Result<Self, DistributionError> {
        let exponent = text.strip_prefix("zipf:").and_then(|exponent| exponent.parse().ok());
        match (text, exponent) {
            ("uniform", _) => Ok(Self::Uniform),
            (_, Some(exponent)) if exponent > 0.0 && f64::is_finite(exponent) => {
                Ok(Self::Zipf { exponent })
            }
            _ => Err(DistributionError { text: text.to_owned() }),
        }
    }
}

/// How an operation names its rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Naming {
    /// As a range.
    Range,
    /// By keys beside each other.
    Neighbours,
    /// By keys drawn so.
    Drawn(Distribution),
}

/// Rows of operations, list by list. Copies share the lists and go on by themselves.
#[derive(Clone, Debug)]
pub(super) struct Draw {
    lists: Arc<[List]>,
    next: usize,
}

/// What one operation names, in ascending order of the keys.
#[derive(Debug)]
struct List {
    keys: Vec<u64>,
    /// The rows they stand for: numbered in the order in which a sparse table gets them.
    rows: Vec<u64>,
}

impl Draw {
    /// Lists of `count` of `table_rows` rows each. Equal arguments give equal lists.
    pub(super) fn new(
        distribution: Distribution,
        count: u64,
        table_rows: u64,
        is_sparse: bool,
    ) -> Self {
        let mut random = Random::new(table_rows, count);
        let lists = (DRAWN_LEN_MAX / (16 * count.max(1))).clamp(2, LISTS_MAX);
        let mut list = || {
            let rows = rows(distribution, count, table_rows, &mut random).into_iter();
            let mut list: Vec<(u64, u64)> = rows.map(|row| (key_of(row, is_sparse), row)).collect();
            list.sort_unstable();
            let (keys, rows) = list.into_iter().unzip();
            List { keys, rows }
        };
        Self { lists: (0..lists).map(|_| list()).collect(), next: 0 }
    }

    /// Keys of the operation that is next.
    pub(super) fn keys(&self) -> &[u64] {
        &self.lists[self.next].keys
    }

    /// Goes on to the next operation.
    pub(super) fn go_on(&mut self) {
        self.next = (self.next + 1) % self.lists.len();
    }

    /// The rows of each list.
    pub(super) fn rows(&self) -> Vec<Vec<u64>> {
        self.lists.iter().map(|list| list.rows.clone()).collect()
    }
}

/// The key of a row: in a sparse table they lie far apart.
pub(super) fn key_of(row: u64, is_sparse: bool) -> u64 {
    if is_sparse { row.wrapping_mul(SCATTER) } else { row }
}

/// Distinct rows, as many as asked for.
fn rows(
    distribution: Distribution,
    count: u64,
    table_rows: u64,
    random: &mut Random,
) -> HashSet<u64> {
    let count = usize::try_from(count.min(table_rows)).unwrap_or(usize::MAX);
    let mut rows = HashSet::with_capacity(count);
    let mut draws = 0;
    while rows.len() < count && draws < count.saturating_mul(DRAWS_PER_KEY_MAX) {
        rows.insert(row(distribution, table_rows, random.unit()));
        draws += 1;
    }
    let mut rank = 0;
    while rows.len() < count {
        rows.insert(scattered(rank, table_rows));
        rank += 1;
    }
    rows
}

/// The row at `unit`, within 0 and 1, of the distribution's cumulative probability.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "below the number of rows, which is far below 2^53"
)]
fn row(distribution: Distribution, table_rows: u64, unit: f64) -> u64 {
    let all = table_rows as f64;
    let rank = match distribution {
        Distribution::Uniform => unit * all,
        // The inverse of the integral of x^-exponent from 1 on.
        Distribution::Zipf { exponent } if (exponent - 1.0).abs() < 1e-9 => {
            (all + 1.0).powf(unit) - 1.0
        }
        Distribution::Zipf { exponent } => {
            let power = 1.0 - exponent;
            (((all + 1.0).powf(power) - 1.0) * unit + 1.0).powf(1.0 / power) - 1.0
        }
    };
    let rank = (rank as u64).min(table_rows - 1);
    if distribution == Distribution::Uniform { rank } else { scattered(rank, table_rows) }
}

/// Likely rows are not neighbours.
fn scattered(rank: u64, table_rows: u64) -> u64 {
    let scattered = u128::from(rank) * u128::from(SCATTER >> 32) % u128::from(table_rows);
    u64::try_from(scattered).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_ascending_keys_of_rows_of_the_table() {
        let all = [Distribution::Uniform, Distribution::Zipf { exponent: 1.05 }];
        for distribution in all.into_iter().chain([Distribution::Zipf { exponent: 1.0 }]) {
            for (count, table_rows) in [(1, 1), (10, 10), (9, 10), (100, 100_000)] {
                for is_sparse in [false, true] {
                    let mut draw = Draw::new(distribution, count, table_rows, is_sparse);
                    let first = draw.keys().to_vec();
                    assert_eq!(first.len() as u64, count);
                    assert!(first.windows(2).all(|pair| pair[0] < pair[1]), "{first:?}");
                    draw.go_on();
                    assert!(count < 100 || draw.keys() != first, "the same rows again");
                    for List { keys, rows } in &*draw.lists {
                        assert!(rows.iter().all(|row| *row < table_rows));
                        let of_rows = rows.iter().map(|row| key_of(*row, is_sparse));
                        assert!(keys.iter().copied().eq(of_rows));
                    }
                }
            }
        }
    }

    #[test]
    fn likely_rows_are_drawn_as_often_as_the_distribution_says() {
        let mut random = Random::new(1, 2);
        let zipf = Distribution::Zipf { exponent: 1.05 };
        let draws = 100_000;
        let first = scattered(0, 1_000_000);
        let count = (0..draws).filter(|_| row(zipf, 1_000_000, random.unit()) == first).count();
        // The integral from 1 to 2 over that to the end: 0.0683.
        assert!((6500..7200).contains(&count), "{count} of {draws}");
    }

    #[test]
    fn distributions_are_read_and_refused() {
        assert_eq!("uniform".parse(), Ok(Distribution::Uniform));
        assert_eq!("zipf:1.05".parse(), Ok(Distribution::Zipf { exponent: 1.05 }));
        for text in ["", "zipf", "zipf:", "zipf:0", "zipf:-1", "zipf:nan", "zipf:inf", "normal"] {
            assert!(text.parse::<Distribution>().is_err(), "{text}");
        }
    }
}
