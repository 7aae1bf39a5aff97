//! What the values of a sparse row are before anything is pushed to it: in a pull of a key without a row, and in
//! the row that a first push makes.
//!
//! The values follow from seed, name of the table, key and column alone, by the same arithmetic on every processor. So replicas
//! and restarts agree, and a pull makes no row.

use std::{fmt, str::FromStr};

use crate::{
    codec::wire_enum,
    dtype::DataType,
    half_bits::{f32_to_bf16, f32_to_f16},
    map::mix,
};

/// The values of new rows of a sparse table. As text: `zero`, `constant:0.5`, `uniform:-0.01,0.01`,
/// `normal:0,0.02` or `truncated-normal:0,0.02`, the last three with `,seed=7` behind if that is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initializer {
    /// Zeros.
    Zero {},
    /// One value everywhere.
    Constant {
        /// The value. For integers it is whole and in their range.
        value: f64,
    },
    /// Evenly distributed from `low` to `high`.
    Uniform {
        /// The least value.
        low: f64,
        /// The greatest value.
        high: f64,
        /// Chooses among the possible beginnings of a table.
        seed: u64,
    },
    /// Normally distributed.
    Normal {
        /// The mean.
        mean: f64,
        /// The standard deviation, > 0.
        deviation: f64,
        /// See `Uniform`.
        seed: u64,
    },
    /// Normally distributed; values further from the mean than two standard deviations are drawn again.
    TruncatedNormal {
        /// The mean.
        mean: f64,
        /// The standard deviation of the distribution before it is cut, > 0.
        deviation: f64,
        /// See `Uniform`.
        seed: u64,
    },
}

wire_enum!(Initializer {
    0 => Zero {},
    1 => Constant { value },
    2 => Uniform { low, high, seed },
    3 => Normal { mean, deviation, seed },
    4 => TruncatedNormal { mean, deviation, seed },
});

/// Why an initializer is not valid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InitializerError {
    /// The text names none.
    #[error(
        "there is no initializer {text:?}: use zero, constant:VALUE, uniform:LOW,HIGH, normal:MEAN,DEVIATION or \
         truncated-normal:MEAN,DEVIATION; the last three take ,seed=N"
    )]
    Text {
        /// The text.
        text: String,
    },
    /// A number is out of its bounds.
    #[error("the initializer {initializer} is not valid: {reason}")]
    Numbers {
        /// The initializer.
        initializer: Initializer,
        /// What is wrong.
        reason: &'static str,
    },
    /// The dtype has no such values.
    #[error("a table of {dtype} cannot begin with {initializer}: {reason}")]
    DataType {
        /// The table's dtype.
        dtype: DataType,
        /// The initializer.
        initializer: Initializer,
        /// What is wrong.
        reason: &'static str,
    },
    /// A dense table has all of its rows from the start.
    #[error("a dense table begins with zeros: set its rows, or make the table sparse")]
    Dense,
}

/// The greatest magnitude of its numbers.
const NUMBER_MAX: f64 = 1e30;

/// Draws of one value of a truncated normal distribution before the mean is taken: one in 10^21 values.
const DRAWS_MAX: u64 = 16;

/// How far from the mean a truncated normal distribution goes, in standard deviations.
const DEVIATIONS_MAX: f64 = 2.0;

impl Initializer {
    /// Whether rows begin with zeros.
    #[inline]
    #[must_use]
    pub fn is_zero(&self) -> bool {
        matches!(self, Self::Zero {})
    }

    /// Checks the numbers, by themselves and for a dtype.
    ///
    /// # Errors
    /// The first that is out of its bounds, or that the dtype does not hold.
    pub fn validate(&self, dtype: DataType) -> Result<(), InitializerError> {
        let numbers = |holds: bool, reason| match holds {
            true => Ok(()),
            false => Err(InitializerError::Numbers { initializer: *self, reason }),
        };
        let is_bounded = |value: f64| value.abs() <= NUMBER_MAX;
        match *self {
            Self::Zero {} => return Ok(()),
            Self::Constant { value } => numbers(is_bounded(value), "use -1e30 to 1e30")?,
            Self::Uniform { low, high, .. } => {
                numbers(is_bounded(low) && is_bounded(high), "use -1e30 to 1e30")?;
                numbers(low < high, "its low end lies below its high end")?;
            }
            Self::Normal { mean, deviation, .. }
            | Self::TruncatedNormal { mean, deviation, .. } => {
                numbers(is_bounded(mean), "use a mean of -1e30 to 1e30")?;
                let holds = deviation > 0.0 && deviation <= NUMBER_MAX;
                numbers(holds, "use a deviation above 0, to 1e30")?;
            }
        }
        let refused = |reason| InitializerError::DataType { dtype, initializer: *self, reason };
        match (*self, integers(dtype)) {
            (_, None) => Ok(()),
            (Self::Constant { value }, Some((least, most))) => {
                // 2^63 and 2^64 are no values of their dtypes, and what lies below them here is at least 1024 less.
                match value.trunc() == value && value >= least && value < most {
                    true => Ok(()),
                    false => Err(refused("its values are whole numbers in its range")),
                }
            }
            _ => Err(refused("integers take zero or constant")),
        }
    }

    /// This initializer as a table of that name uses it: tables of one seed do not begin alike.
    #[must_use]
    pub fn of_table(self, name: &str) -> Self {
        self.with_seed(|seed| name.bytes().fold(seed, |mixed, byte| mix(mixed ^ u64::from(byte))))
    }

    fn with_seed(self, change: impl Fn(u64) -> u64) -> Self {
        match self {
            Self::Zero {} | Self::Constant { .. } => self,
            Self::Uniform { low, high, seed } => Self::Uniform { low, high, seed: change(seed) },
            Self::Normal { mean, deviation, seed } => {
                Self::Normal { mean, deviation, seed: change(seed) }
            }
            Self::TruncatedNormal { mean, deviation, seed } => {
                Self::TruncatedNormal { mean, deviation, seed: change(seed) }
            }
        }
    }

    /// Writes what a key's row of this dtype begins with.
    ///
    /// # Panics
    /// When `into` is not whole values.
    pub fn fill(&self, key: u64, dtype: DataType, into: &mut [u8]) {
        assert!(into.len().is_multiple_of(dtype.size()), "a row is whole values");
        match *self {
            Self::Zero {} => into.fill(0),
            Self::Constant { value } => write_values(dtype, into, |_| value),
            Self::Uniform { low, high, seed } => {
                let row = Row::new(seed, key);
                write_values(dtype, into, |column| {
                    low + fraction(row.bits(column, 0)) * (high - low)
                });
            }
            Self::Normal { mean, deviation, seed } => {
                let row = Row::new(seed, key);
                write_values(dtype, into, |column| mean + deviation * row.normal(column, 0));
            }
            Self::TruncatedNormal { mean, deviation, seed } => {
                let row = Row::new(seed, key);
                write_values(dtype, into, |column| {
                    let mut draws = (0..DRAWS_MAX).map(|draw| row.normal(column, draw));
                    let near = draws.find(|draw| draw.abs() <= DEVIATIONS_MAX).unwrap_or_default();
                    mean + deviation * near
                });
            }
        }
    }
}

/// The range of an integer dtype: from the first on, and less than the second.
fn integers(dtype: DataType) -> Option<(f64, f64)> {
    match dtype {
        DataType::I8 => Some((-128.0, 128.0)),
        DataType::I32 => Some((-2_147_483_648.0, 2_147_483_648.0)),
        DataType::I64 => Some((-9_223_372_036_854_775_808.0, 9_223_372_036_854_775_808.0)),
        DataType::U64 => Some((0.0, 18_446_744_073_709_551_616.0)),
        DataType::F32 | DataType::F64 | DataType::F16 | DataType::Bf16 => None,
    }
}

/// Where the random bits of a row begin.
#[derive(Clone, Copy)]
struct Row(u64);

impl Row {
    fn new(seed: u64, key: u64) -> Self {
        Self(mix(mix(seed) ^ mix(key)))
    }

    /// Random bits of a column.
    fn bits(self, column: u64, draw: u64) -> u64 {
        mix(self.0.wrapping_add(mix(column) ^ mix(draw).rotate_left(32)))
    }

    /// A value of the standard normal distribution: Box and Muller 1958, with functions that give the same bits
    /// on every machine.
    fn normal(self, column: u64, draw: u64) -> f64 {
        let bits = self.bits(column, draw);
        // In (0, 1], which has a logarithm.
        let radius = 1.0 - fraction(bits);
        let angle = fraction(mix(bits)) * std::f64::consts::TAU;
        libm::sqrt(-2.0 * libm::log(radius)) * libm::cos(angle)
    }
}

/// Random bits as a number in [0, 1).
#[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
fn fraction(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// Writes the nearest value of the dtype for each column.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked by `validate`"
)]
fn write_values(dtype: DataType, into: &mut [u8], value: impl Fn(u64) -> f64) {
    fn write<const N: usize>(into: &mut [u8], value: impl Fn(u64) -> [u8; N]) {
        for (column, into) in (0..).zip(into.chunks_exact_mut(N)) {
            into.copy_from_slice(&value(column));
        }
    }
    match dtype {
        DataType::F32 => write(into, |column| (value(column) as f32).to_le_bytes()),
        DataType::F64 => write(into, |column| value(column).to_le_bytes()),
        DataType::F16 => write(into, |column| f32_to_f16(value(column) as f32).to_le_bytes()),
        DataType::Bf16 => write(into, |column| f32_to_bf16(value(column) as f32).to_le_bytes()),
        DataType::I8 => write(into, |column| (value(column) as i8).to_le_bytes()),
        DataType::I32 => write(into, |column| (value(column) as i32).to_le_bytes()),
        DataType::I64 => write(into, |column| (value(column) as i64).to_le_bytes()),
        DataType::U64 => write(into, |column| (value(column) as u64).to_le_bytes()),
    }
}

impl FromStr for Initializer {
    type Err = InitializerError;

    fn from_str(text: &str) -> Result<Self, InitializerError> {
        let unknown = || InitializerError::Text { text: text.to_owned() };
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let (numbers, seed) = match rest.split_once(",seed=") {
            Some((numbers, seed)) => (numbers, Some(seed.trim().parse().map_err(|_| unknown())?)),
            None => (rest, None),
        };
        let numbers: Vec<f64> = numbers
            .split(',')
            .filter(|number| !number.is_empty())
            .map(|number| number.trim().parse().map_err(|_| unknown()))
            .collect::<Result<_, _>>()?;
        let parsed = match (name.trim(), &numbers[..]) {
            ("zero", []) => Self::Zero {},
            ("constant", &[value]) => Self::Constant { value },
            ("uniform", &[low, high]) => Self::Uniform { low, high, seed: 0 },
            ("normal", &[mean, deviation]) => Self::Normal { mean, deviation, seed: 0 },
            ("truncated-normal", &[mean, deviation]) => {
                Self::TruncatedNormal { mean, deviation, seed: 0 }
            }
            _ => return Err(unknown()),
        };
        match (parsed, seed) {
            (Self::Zero {} | Self::Constant { .. }, Some(_)) => Err(unknown()),
            _ => Ok(parsed.with_seed(|_| seed.unwrap_or_default())),
        }
    }
}

impl fmt::Display for Initializer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, first, second, seed) = match *self {
            Self::Zero {} => return formatter.write_str("zero"),
            Self::Constant { value } => return write!(formatter, "constant:{value}"),
            Self::Uniform { low, high, seed } => ("uniform", low, high, seed),
            Self::Normal { mean, deviation, seed } => ("normal", mean, deviation, seed),
            Self::TruncatedNormal { mean, deviation, seed } => {
                ("truncated-normal", mean, deviation, seed)
            }
        };
        write!(formatter, "{name}:{first},{second},seed={seed}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [DataType; 8] = [
        DataType::F32,
        DataType::F64,
        DataType::F16,
        DataType::Bf16,
        DataType::I8,
        DataType::I32,
        DataType::I64,
        DataType::U64,
    ];

    fn parsed(text: &str) -> Initializer {
        text.parse().unwrap()
    }

    fn row(text: &str, key: u64, width: usize) -> Vec<f64> {
        let mut bytes = vec![0xEE; width * 8];
        parsed(text).fill(key, DataType::F64, &mut bytes);
        bytes.chunks(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    #[test]
    fn text_says_all_of_it() {
        for text in [
            "zero",
            "constant:0.5",
            "constant:-3",
            "uniform:-0.01,0.01,seed=0",
            "normal:0,0.02,seed=18446744073709551615",
            "truncated-normal:1,0.5,seed=7",
        ] {
            assert_eq!(parsed(text).to_string(), text);
        }
        assert_eq!(parsed("uniform:-1,1"), parsed("uniform:-1,1,seed=0"));
        for text in [
            "",
            "zeros",
            "zero:1",
            "constant",
            "constant:x",
            "constant:1,2",
            "constant:1,seed=2",
            "zero:,seed=2",
            "uniform:1",
            "uniform:1,2,3",
            "normal:0,1,seed=-1",
            "normal:0,1,seed=",
        ] {
            let error = text.parse::<Initializer>().unwrap_err().to_string();
            assert!(error.contains(&format!("no initializer {text:?}")), "{error}");
        }
    }

    #[test]
    fn numbers_are_checked_for_the_dtype() {
        let why = |text: &str, dtype| match parsed(text).validate(dtype) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        for dtype in ALL {
            assert_eq!(why("zero", dtype) + &why("constant:7", dtype), "");
            let drawn = why("normal:0,1", dtype);
            assert_eq!(drawn.is_empty(), dtype.is_float(), "{drawn}");
        }
        for (text, reason) in [
            ("constant:nan", "use -1e30"),
            ("constant:1.1e30", "use -1e30"),
            ("uniform:0,inf", "use -1e30"),
            ("uniform:1,1", "lies below"),
            ("normal:nan,1", "use a mean"),
            ("normal:0,0", "use a deviation"),
            ("truncated-normal:0,nan", "use a deviation"),
        ] {
            assert!(why(text, DataType::F32).contains(reason), "{}", why(text, DataType::F32));
        }
        for (text, dtype) in [
            ("constant:0.5", DataType::I32),
            ("constant:128", DataType::I8),
            ("constant:-129", DataType::I8),
            ("constant:2147483648", DataType::I32),
            ("constant:9223372036854775808", DataType::I64),
            ("constant:18446744073709551616", DataType::U64),
            ("constant:-1", DataType::U64),
        ] {
            assert!(why(text, dtype).contains("whole numbers"), "{text} {dtype}");
        }
        for (text, dtype) in [
            ("constant:-128", DataType::I8),
            ("constant:9223372036854774784", DataType::I64),
            ("constant:18446744073709549568", DataType::U64),
        ] {
            let number = text.split(':').nth(1).unwrap().to_owned();
            let mut bytes = vec![0; dtype.size()];
            assert_eq!(why(text, dtype), "");
            parsed(text).fill(1, dtype, &mut bytes);
            let held = match dtype {
                DataType::I8 => i8::from_le_bytes(bytes.try_into().unwrap()).to_string(),
                DataType::I64 => i64::from_le_bytes(bytes.try_into().unwrap()).to_string(),
                _ => u64::from_le_bytes(bytes.try_into().unwrap()).to_string(),
            };
            assert_eq!(held, number);
        }
    }

    /// Replicas of different versions and processors must agree: these never change.
    #[test]
    fn values_are_fixed_for_ever() {
        let bits =
            |text: &str| row(text, 42, 3).iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let table = parsed("normal:0,1,seed=7").of_table("embedding");
        let Initializer::Normal { seed, .. } = table else { panic!("{table}") };
        assert_eq!(
            [bits("uniform:-1,1,seed=7"), bits("normal:0,1,seed=7"), vec![seed]].concat(),
            FIXED
        );
        // Another name, seed, key or column is another value.
        assert_ne!(table, parsed("normal:0,1,seed=7").of_table("embeddings"));
        assert_ne!(row("uniform:0,1,seed=1", 42, 2), row("uniform:0,1,seed=2", 42, 2));
        assert_ne!(row("uniform:0,1", 42, 2), row("uniform:0,1", 43, 2));
        assert_eq!(row("uniform:0,1", 42, 3)[..2], row("uniform:0,1", 42, 2));
    }

    const FIXED: [u64; 7] = [
        0x3fde6b8235eb1428,
        0xbfe4c1819ebe9656,
        0xbfd7f5292cec97a8,
        0xbfcfa6dff7df6668,
        0xbfcbec894012955d,
        0xbfeb6e21ebfd5c78,
        0xa59c52b36ad47cfd,
    ];

    #[test]
    fn values_are_distributed_as_asked() {
        let moments = |text: &str| {
            let values: Vec<f64> = (0..1_000).flat_map(|key| row(text, key * 7, 100)).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let square = |value: &f64| (value - mean) * (value - mean);
            let deviation = (values.iter().map(square).sum::<f64>() / values.len() as f64).sqrt();
            let (least, most) = values.iter().fold((f64::MAX, f64::MIN), |(least, most), value| {
                (least.min(*value), most.max(*value))
            });
            (mean, deviation, least, most)
        };
        let near = |found: f64, wanted: f64| (found - wanted).abs() < 0.01;
        let (mean, deviation, least, most) = moments("uniform:-1,3");
        assert!(near(mean, 1.0) && near(deviation, 4.0 / 12.0_f64.sqrt()), "{mean} {deviation}");
        assert!(least >= -1.0 && most <= 3.0 && most - least > 3.99, "{least} {most}");
        let (mean, deviation, least, most) = moments("normal:0.5,1");
        assert!(near(mean, 0.5) && near(deviation, 1.0), "{mean} {deviation}");
        assert!(least < -3.0 && most > 4.0, "{least} {most}");
        // The deviation of the standard normal distribution between -2 and 2 is 0.880.
        let (mean, deviation, least, most) = moments("truncated-normal:0.5,1");
        assert!(near(mean, 0.5) && near(deviation, 0.880), "{mean} {deviation}");
        assert!(least >= -1.5 && most <= 2.5 && most - least > 3.9, "{least} {most}");
        assert_eq!(row("constant:0.25", 9, 2), [0.25, 0.25]);
    }
}
