//! Values of any dtype, as text and as JSON.

use half::{bf16, f16};
use serde_json::Value as Json;
use windlass_client::Element;

/// A table's value that can be written on a command line.
pub trait Value: Element {
    /// Reads one.
    fn parse(text: &str) -> Result<Self, String>;

    /// The value 1.
    fn one() -> Self;

    /// Shows one; NaN and infinities, which JSON lacks, as text.
    fn json(self) -> Json;
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn parse(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| {
                    format!("{text:?} is no whole number that an {} holds", stringify!($type))
                })
            }

            fn one() -> Self {
                1
            }

            fn json(self) -> Json {
                self.into()
            }
        }
    )*};
}

integers!(i8, i32, i64, u64);

impl Value for f32 {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is no number"))
    }

    fn one() -> Self {
        1.0
    }

    fn json(self) -> Json {
        // The shortest text that reads back as the same f32, as a number.
        self.to_string().parse::<f64>().map_or(Json::Null, f64::json)
    }
}

impl Value for f64 {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is no number"))
    }

    fn one() -> Self {
        1.0
    }

    fn json(self) -> Json {
        serde_json::Number::from_f64(self)
            .map_or_else(|| Json::String(self.to_string()), Json::Number)
    }
}

impl Value for f16 {
    fn parse(text: &str) -> Result<Self, String> {
        <f32 as Value>::parse(text).map(Self::from_f32)
    }

    fn one() -> Self {
        Self::ONE
    }

    fn json(self) -> Json {
        self.to_f32().json()
    }
}

impl Value for bf16 {
    fn parse(text: &str) -> Result<Self, String> {
        <f32 as Value>::parse(text).map(Self::from_f32)
    }

    fn one() -> Self {
        Self::ONE
    }

    fn json(self) -> Json {
        self.to_f32().json()
    }
}

/// Runs a block with `$type` standing for the Rust type of a dtype.
macro_rules! with_dtype {
    ($dtype:expr, $type:ident => $body:expr) => {
        match $dtype {
            windlass_client::DataType::F32 => {
                type $type = f32;
                $body
            }
            windlass_client::DataType::F64 => {
                type $type = f64;
                $body
            }
            windlass_client::DataType::F16 => {
                type $type = half::f16;
                $body
            }
            windlass_client::DataType::Bf16 => {
                type $type = half::bf16;
                $body
            }
            windlass_client::DataType::I8 => {
                type $type = i8;
                $body
            }
            windlass_client::DataType::I32 => {
                type $type = i32;
                $body
            }
            windlass_client::DataType::I64 => {
                type $type = i64;
                $body
            }
            windlass_client::DataType::U64 => {
                type $type = u64;
                $body
            }
        }
    };
}

pub(crate) use with_dtype;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json() {
        assert_eq!(<f32 as Value>::parse("0.1").unwrap().json().to_string(), "0.1");
        assert_eq!(f32::NAN.json(), Json::String("NaN".into()));
        assert_eq!(<i8 as Value>::parse("-7").unwrap().json().to_string(), "-7");
        assert!(<i8 as Value>::parse("300").unwrap_err().contains("i8"));
        assert!(<u64 as Value>::parse("-1").is_err());
        assert_eq!(<f16 as Value>::parse("1.5").unwrap().json().to_string(), "1.5");
        assert!(<bf16 as Value>::parse("x").is_err());
    }
}
