//! Which rows of a push are sent now.

use windlass_wire::{DataType, UpdateRule};

use crate::element::Element;

/// Rows of a push that filters choose from.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a, T> {
    /// The keys, ascending.
    pub keys: &'a [u64],
    /// `width` values for each: those of this push and what was held back of the same keys.
    pub values: &'a [T],
    /// The rows as the caller of the push has pulled them, if it gave any.
    pub weights: Option<&'a [T]>,
    /// Values in a row.
    pub width: usize,
}

impl<'a, T> Candidates<'a, T> {
    /// The values of each row, in the order of the keys.
    pub fn rows(&self) -> impl Iterator<Item = &'a [T]> {
        self.values.chunks_exact(self.width)
    }
}

/// A filter that chooses rows. Implement it for one of your own.
pub trait SelectRows<T> {
    /// Clears `is_sent`, which has an element for each row, where a row is to be held back. Rows that other filters
    /// hold back come as cleared, and stay so.
    fn select(&mut self, rows: &Candidates<'_, T>, is_sent: &mut [bool]);
}

/// Why a text names no sparsifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSparsifierError {
    /// No filter that chooses rows has this name.
    #[error(
        "unknown filter {text:?}: use significance:T, top-k:K, skip:P, kkt, residuals:bf16 or residuals:f16"
    )]
    Unknown {
        /// The filter as written.
        text: String,
    },
    /// The parameter is missing, no number, or out of range.
    #[error("{text:?} needs {needs}")]
    Parameter {
        /// The filter as written.
        text: String,
        /// What it needs.
        needs: &'static str,
    },
    /// The table's rule has no L1 penalty to go by.
    #[error("kkt goes by the L1 penalty of the table's rule, and {rule} has none: use kkt:T")]
    NoPenalty {
        /// The rule.
        rule: &'static str,
    },
    /// The table's values are not rounded by its filters.
    #[error("{text} is for tables of f32, and this one has {dtype}")]
    Type {
        /// The filter as written.
        text: String,
        /// The table's type.
        dtype: DataType,
    },
    /// The table's rule does not sum what is pushed.
    #[error("rows of rule {rule} cannot be held back: its pushes do not add up")]
    Rule {
        /// The rule.
        rule: &'static str,
    },
}

/// What share of the L1 penalty `kkt` goes by, where its text has no threshold. FTRL counts what was held of a row
/// as one gradient, whose square is larger than the sum of squares, so a larger share slows the weights that leave zero:
/// with 0.1 the objective of sparse logistic regression ended 0.16 % higher, with 0.05 less than 0.07 %.
const KKT_PENALTY_SHARE: f64 = 0.05;

/// The filter of this text, and its name.
pub(super) fn parse<T: Element>(
    text: &str,
    rule: &UpdateRule,
) -> Result<(&'static str, Box<dyn SelectRows<T>>), ParseSparsifierError> {
    let (name, parameter) = match text.split_once(':') {
        Some((name, parameter)) => (name, Some(parameter)),
        None => (text, None),
    };
    let number = |needs, is_valid: fn(f64) -> bool| {
        let number =
            parameter.and_then(|text| text.parse().ok()).filter(|number| is_valid(*number));
        number.ok_or_else(|| ParseSparsifierError::Parameter { text: text.to_owned(), needs })
    };
    let threshold = || number("a magnitude above 0, as in :0.01", |at| at > 0.0 && at.is_finite());
    Ok(match name {
        "significance" => ("significance", Box::new(Significance { threshold: threshold()? })),
        "top-k" => {
            let needs = "a number of rows above 0, as in top-k:100";
            let count = parameter.and_then(|text| text.parse().ok()).filter(|count| *count > 0);
            let count = count
                .ok_or_else(|| ParseSparsifierError::Parameter { text: text.to_owned(), needs })?;
            ("top-k", Box::new(TopK { count, norms: Vec::new() }))
        }
        "skip" => {
            let needs = "a probability from 0 to below 1, as in skip:0.5";
            let probability = number(needs, |at| (0.0..1.0).contains(&at))?;
            ("skip", Box::new(Skip { probability, state: SKIP_SEED }))
        }
        "kkt" => {
            let threshold = match (parameter, rule) {
                (Some(_), _) => threshold()?,
                (None, UpdateRule::Ftrl { l1, .. }) if *l1 > 0.0 => l1 * KKT_PENALTY_SHARE,
                (None, rule) => return Err(ParseSparsifierError::NoPenalty { rule: rule.name() }),
            };
            ("kkt", Box::new(Kkt { threshold }))
        }
        _ => return Err(ParseSparsifierError::Unknown { text: text.to_owned() }),
    })
}

/// Rows with a value of this magnitude or more.
struct Significance {
    threshold: f64,
}

impl<T: Element> SelectRows<T> for Significance {
    fn select(&mut self, rows: &Candidates<'_, T>, is_sent: &mut [bool]) {
        for (row, is_sent) in rows.rows().zip(is_sent) {
            *is_sent &= row.iter().any(|value| value.magnitude() >= self.threshold);
        }
    }
}

/// As many rows, those of the largest Euclidean norm; of equal ones those with lesser keys.
struct TopK {
    count: usize,
    norms: Vec<(f64, usize)>,
}

impl<T: Element> SelectRows<T> for TopK {
    fn select(&mut self, rows: &Candidates<'_, T>, is_sent: &mut [bool]) {
        let square = |row: &[T]| row.iter().map(|value| value.magnitude().powi(2)).sum::<f64>();
        let chosen = rows.rows().zip(&*is_sent).enumerate().filter(|(_, (_, is_sent))| **is_sent);
        self.norms.clear();
        self.norms.extend(chosen.map(|(at, (row, _))| (square(row), at)));
        if self.norms.len() <= self.count {
            return;
        }
        self.norms.select_nth_unstable_by(self.count, |one, other| {
            other.0.total_cmp(&one.0).then(one.1.cmp(&other.1))
        });
        for (_, at) in &self.norms[self.count..] {
            is_sent[*at] = false;
        }
    }
}

/// Where every sparsifier's random numbers begin, so that a run can be repeated.
const SKIP_SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Rows but for a random share of them.
struct Skip {
    probability: f64,
    state: u64,
}

impl<T: Element> SelectRows<T> for Skip {
    fn select(&mut self, rows: &Candidates<'_, T>, is_sent: &mut [bool]) {
        for (_, is_sent) in rows.keys.iter().zip(is_sent) {
            *is_sent &= self.next() >= self.probability;
        }
    }
}

impl Skip {
    /// A number from 0 to below 1 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    #[expect(clippy::cast_precision_loss, reason = "of 53 bits")]
    fn next(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Rows that are not zero at the servers, and those whose gradient might change that.
struct Kkt {
    threshold: f64,
}

impl<T: Element> SelectRows<T> for Kkt {
    fn select(&mut self, rows: &Candidates<'_, T>, is_sent: &mut [bool]) {
        // Who does not know the weights sends everything.
        let Some(weights) = rows.weights else { return };
        let weights = weights.chunks_exact(rows.width);
        for ((row, weights), is_sent) in rows.rows().zip(weights).zip(is_sent) {
            let is_zero = weights.iter().all(|weight| weight.magnitude() == 0.0);
            *is_sent &= !is_zero || row.iter().any(|value| value.magnitude() > self.threshold);
        }
    }
}
