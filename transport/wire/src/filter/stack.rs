//! Which filters a push goes through, parsed from text such as `delta-keys,fixed:2,snappy`.
//!
//! `snappy` compresses keys, and values too unless a coding of values follows it: `snappy,fixed:2` compresses
//! keys alone, `fixed:2,snappy` both.

use std::{fmt, str::FromStr};

use super::FixedWidth;
use crate::DataType;

/// How values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ValueCoding {
    /// In the table's type.
    #[default]
    Plain,
    /// As bfloat16.
    Bf16,
    /// As binary16.
    F16,
    /// In fixed point of this many bytes.
    Fixed(FixedWidth),
}

impl ValueCoding {
    /// Bytes that f32 values of `len` bytes are written in; of plain values of any type, `len`.
    #[must_use]
    pub fn encoded_len(self, len: usize) -> usize {
        match self {
            Self::Plain => len,
            Self::Bf16 | Self::F16 => len / 2,
            Self::Fixed(width) => width.encoded_len(len / 4),
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Bf16 => 1,
            Self::F16 => 2,
            Self::Fixed(width) => 2 + width.number(),
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Plain,
            1 => Self::Bf16,
            2 => Self::F16,
            _ => Self::Fixed(FixedWidth::new(usize::from(number - 2))?),
        })
    }
}

impl fmt::Display for ValueCoding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => formatter.write_str("plain"),
            Self::Bf16 => formatter.write_str("bf16"),
            Self::F16 => formatter.write_str("f16"),
            Self::Fixed(width) => write!(formatter, "fixed:{}", width.bytes()),
        }
    }
}

/// The filters of a push. The default has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterStack {
    /// Lists of keys are kept by servers, and named when they come again.
    pub key_cache: bool,
    /// Keys are written as differences.
    pub delta_keys: bool,
    /// Keys are compressed, after `delta_keys`.
    pub snappy_keys: bool,
    /// How values are written.
    pub values: ValueCoding,
    /// Values are compressed, after their coding.
    pub snappy_values: bool,
}

const DELTA_KEYS: u8 = 1;
const SNAPPY_KEYS: u8 = 2;
const SNAPPY_VALUES: u8 = 0x80;

impl FilterStack {
    /// Whether it has no filter.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether values are written otherwise than the table has them.
    #[must_use]
    pub fn codes_values(&self) -> bool {
        self.snappy_values || self.values != ValueCoding::Plain
    }

    /// Whether values have to be finite.
    #[must_use]
    pub fn needs_finite(&self) -> bool {
        matches!(self.values, ValueCoding::Fixed(_))
    }

    /// On the wire, what is done to the bytes of a message: of keys bit 0 `delta-keys`, bit 1 `snappy`; of values the number of the coding (0 plain,
    /// 1 bf16, 2 f16, 3 to 6 fixed point of 1 to 4 bytes), bit 7 `snappy`.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 2] {
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let keys = flag(self.delta_keys, DELTA_KEYS) | flag(self.snappy_keys, SNAPPY_KEYS);
        [keys, self.values.number() | flag(self.snappy_values, SNAPPY_VALUES)]
    }

    /// Reads what [`FilterStack::to_bytes`] wrote.
    #[must_use]
    pub fn from_bytes([keys, values]: [u8; 2]) -> Option<Self> {
        if keys & !(DELTA_KEYS | SNAPPY_KEYS) != 0 {
            return None;
        }
        Some(Self {
            key_cache: false,
            delta_keys: keys & DELTA_KEYS != 0,
            snappy_keys: keys & SNAPPY_KEYS != 0,
            values: ValueCoding::from_number(values & !SNAPPY_VALUES)?,
            snappy_values: values & SNAPPY_VALUES != 0,
        })
    }

    /// Checks that the stack can write values of a table of this type.
    pub fn check(&self, dtype: DataType) -> Result<(), StackError> {
        match self.values {
            ValueCoding::Plain => Ok(()),
            _ if dtype == DataType::F32 => Ok(()),
            coding => Err(StackError::Type { filter: coding.to_string(), dtype }),
        }
    }

    fn add_key_cache(&mut self) -> Result<(), StackError> {
        if self.key_cache {
            return Err(StackError::Twice { filter: "key-cache" });
        }
        self.key_cache = true;
        Ok(())
    }

    fn add_delta_keys(&mut self) -> Result<(), StackError> {
        if self.delta_keys {
            return Err(StackError::Twice { filter: "delta-keys" });
        }
        if self.snappy_keys {
            return Err(StackError::DeltaAfterSnappy);
        }
        self.delta_keys = true;
        Ok(())
    }

    /// `values` says whether this `snappy` compresses values as well.
    fn add_snappy(&mut self, values: bool) -> Result<(), StackError> {
        if self.snappy_keys {
            return Err(StackError::Twice { filter: "snappy" });
        }
        self.snappy_keys = true;
        self.snappy_values = values;
        Ok(())
    }

    fn add_coding(&mut self, coding: ValueCoding) -> Result<(), StackError> {
        if self.values != ValueCoding::Plain {
            let (first, second) = (self.values.to_string(), coding.to_string());
            return Err(StackError::TwoCodings { first, second });
        }
        self.values = coding;
        Ok(())
    }
}

impl FromStr for FilterStack {
    type Err = StackError;

    fn from_str(text: &str) -> Result<Self, StackError> {
        let mut stack = Self::default();
        if text.is_empty() {
            return Ok(stack);
        }
        let codings = text.split(',').map(parse_coding).collect::<Result<Vec<_>, _>>()?;
        for (index, (name, coding)) in text.split(',').zip(&codings).enumerate() {
            match coding {
                Some(coding) => stack.add_coding(*coding)?,
                None if name == "key-cache" => stack.add_key_cache()?,
                None if name == "delta-keys" => stack.add_delta_keys()?,
                None => {
                    let coding_follows = codings[index + 1..].iter().any(Option::is_some);
                    stack.add_snappy(!coding_follows)?;
                }
            }
        }
        Ok(stack)
    }
}

/// The coding of values that this filter is, or `None` for those of keys and for `snappy`.
fn parse_coding(filter: &str) -> Result<Option<ValueCoding>, StackError> {
    let (name, parameter) = match filter.split_once(':') {
        Some((name, parameter)) => (name, Some(parameter)),
        None => (filter, None),
    };
    let coding = match name {
        "key-cache" | "delta-keys" | "snappy" => None,
        "bf16" => Some(ValueCoding::Bf16),
        "f16" => Some(ValueCoding::F16),
        "fixed" => {
            let width = parameter.and_then(|text| text.parse().ok()).and_then(FixedWidth::new);
            let width = width.ok_or_else(|| StackError::Width { text: filter.to_owned() })?;
            return Ok(Some(ValueCoding::Fixed(width)));
        }
        _ => return Err(StackError::Unknown { text: filter.to_owned() }),
    };
    match parameter {
        None => Ok(coding),
        Some(_) => Err(StackError::Parameter { text: filter.to_owned() }),
    }
}

/// Why a text is no stack of filters, or a stack does not fit a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StackError {
    /// No filter has this name.
    #[error(
        "unknown filter {text:?}: use key-cache, delta-keys, snappy, bf16, f16, fixed:1 to fixed:4"
    )]
    Unknown {
        /// The filter as written.
        text: String,
    },
    /// The filter takes no parameter.
    #[error("{text:?} has a parameter, but the filter takes none")]
    Parameter {
        /// The filter as written.
        text: String,
    },
    /// The width of fixed point is missing or none of 1 to 4.
    #[error("{text:?} needs a width in bytes: fixed:1, fixed:2, fixed:3 or fixed:4")]
    Width {
        /// The filter as written.
        text: String,
    },
    /// A filter stands twice in the stack.
    #[error("{filter} stands twice in the stack")]
    Twice {
        /// The filter.
        filter: &'static str,
    },
    /// Two filters code values.
    #[error("{first} and {second} both code values: use one of them")]
    TwoCodings {
        /// The first.
        first: String,
        /// The second.
        second: String,
    },
    /// `delta-keys` finds its keys compressed.
    #[error("delta-keys stands after snappy, which has compressed the keys: put it before snappy")]
    DeltaAfterSnappy,
    /// The filter has no form for values of this type.
    #[error("{filter} codes values of f32 tables, and this table's are {dtype}")]
    Type {
        /// The filter.
        filter: String,
        /// The table's type.
        dtype: DataType,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        text.parse::<FilterStack>().unwrap_err().to_string()
    }

    #[test]
    fn stacks_are_parsed() {
        let fixed = ValueCoding::Fixed(FixedWidth::new(2).unwrap());
        let expected = FilterStack {
            key_cache: false,
            delta_keys: true,
            snappy_keys: true,
            values: fixed,
            snappy_values: true,
        };
        assert_eq!("delta-keys,fixed:2,snappy".parse(), Ok(expected));
        assert_eq!(
            "delta-keys,snappy,fixed:2".parse(),
            Ok(FilterStack { snappy_values: false, ..expected })
        );
        assert_eq!(
            "snappy".parse(),
            Ok(FilterStack { snappy_keys: true, snappy_values: true, ..FilterStack::default() })
        );
        assert_eq!("".parse(), Ok(FilterStack::default()));
        assert_eq!(
            "key-cache".parse(),
            Ok(FilterStack { key_cache: true, ..FilterStack::default() })
        );
    }

    #[test]
    fn wrong_stacks_are_refused_by_name() {
        for (text, expected) in [
            ("gzip", "unknown filter \"gzip\""),
            ("snappy,", "unknown filter \"\""),
            ("snappy:3", "\"snappy:3\" has a parameter"),
            ("bf16:2", "\"bf16:2\" has a parameter"),
            ("fixed", "\"fixed\" needs a width"),
            ("fixed:5", "\"fixed:5\" needs a width"),
            ("fixed:-1", "\"fixed:-1\" needs a width"),
            ("snappy,snappy", "snappy stands twice"),
            ("key-cache,bf16,key-cache", "key-cache stands twice"),
            ("delta-keys,delta-keys", "delta-keys stands twice"),
            ("snappy,delta-keys", "delta-keys stands after snappy"),
            ("fixed:2,bf16", "fixed:2 and bf16 both code values"),
            ("f16,snappy,bf16", "f16 and bf16 both code values"),
        ] {
            let refused = refusal(text);
            assert!(refused.starts_with(expected), "{text}: {refused}");
        }
    }

    #[test]
    fn codings_of_values_fit_f32_alone() {
        for text in ["bf16", "f16", "fixed:1"] {
            let stack: FilterStack = text.parse().unwrap();
            for dtype in DataType::ALL {
                let refused = StackError::Type { filter: text.to_owned(), dtype };
                let expected = if dtype == DataType::F32 { Ok(()) } else { Err(refused) };
                assert_eq!(stack.check(dtype), expected);
            }
        }
        let plain: FilterStack = "delta-keys,snappy".parse().unwrap();
        assert!(DataType::ALL.into_iter().all(|dtype| plain.check(dtype).is_ok()));
    }
}
