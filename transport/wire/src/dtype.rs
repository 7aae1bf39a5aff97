//! Element types of tables and of pushed and pulled values.

use std::{fmt, str::FromStr};

crate::numbered::numbered! {
    /// The type of one value of a row. The discriminant is its number on the wire and on disk.
    pub enum DataType {
        /// IEEE 754 binary32.
        F32 = 0 "f32",
        /// IEEE 754 binary64.
        F64 = 1 "f64",
        /// IEEE 754 binary16.
        F16 = 2 "f16",
        /// bfloat16: the upper half of a binary32.
        Bf16 = 3 "bf16",
        /// Signed 8-bit integer.
        I8 = 4 "i8",
        /// Signed 32-bit integer.
        I32 = 5 "i32",
        /// Signed 64-bit integer.
        I64 = 6 "i64",
        /// Unsigned 64-bit integer.
        U64 = 7 "u64",
    }
}

impl DataType {
    /// Size of one value in bytes.
    #[must_use]
    #[inline]
    pub const fn size(self) -> usize {
        match self {
            Self::I8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    /// Whether the type is a floating-point one, as update rules other than `add` and `assign` need.
    #[must_use]
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::F16 | Self::Bf16)
    }

    /// The name used in the CLI, in JSON and in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.text()
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for DataType {
    type Err = UnknownDataType;

    fn from_str(text: &str) -> Result<Self, UnknownDataType> {
        Self::ALL
            .into_iter()
            .find(|dtype| dtype.name() == text)
            .ok_or_else(|| UnknownDataType { text: text.to_owned() })
    }
}

/// A text that names no [`DataType`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown dtype {text:?}: use one of {}", DataType::ALL.map(DataType::name).join(", "))]
pub struct UnknownDataType {
    /// The text.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_round_trip() {
        for dtype in DataType::ALL {
            assert_eq!(dtype.name().parse::<DataType>().unwrap(), dtype);
            assert_eq!(DataType::from_number(dtype as u8), Some(dtype));
        }
        assert_eq!(DataType::from_number(8), None);
        assert!("float".parse::<DataType>().is_err());
    }
}
