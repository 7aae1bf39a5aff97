//! Residuals: what is sent is rounded to 16 bits, and what that cuts off is held for later pushes (error feedback:
//! Seide et al. 2014, "1-bit stochastic gradient descent and its application to data-parallel distributed training").

use half::{bf16, f16};
use windlass_wire::DataType;

use super::select::ParseSparsifierError;
use crate::element::Element;

/// What `residuals` is called in texts.
pub(super) const NAME: &str = "residuals";

/// The type that values are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Residuals {
    Bf16,
    F16,
}

impl Residuals {
    /// Reads `residuals:bf16` or `residuals:f16`; `None` where the text names another filter.
    pub(super) fn parse(text: &str, dtype: DataType) -> Result<Option<Self>, ParseSparsifierError> {
        if text != NAME && !text.starts_with("residuals:") {
            return Ok(None);
        }
        let residuals = match text {
            "residuals:bf16" => Self::Bf16,
            "residuals:f16" => Self::F16,
            _ => {
                let needs = "a type to round to: residuals:bf16 or residuals:f16";
                return Err(ParseSparsifierError::Parameter { text: text.to_owned(), needs });
            }
        };
        match dtype {
            DataType::F32 => Ok(Some(residuals)),
            dtype => Err(ParseSparsifierError::Type { text: text.to_owned(), dtype }),
        }
    }

    /// Rounds a row of finite values, and leaves in `rest` what that cut off. Returns whether any of it is not zero.
    pub(super) fn round<T: Element>(self, row: &mut [T], rest: &mut [T]) -> bool {
        let row: &mut [f32] = bytemuck::cast_slice_mut(row);
        let rest: &mut [f32] = bytemuck::cast_slice_mut(rest);
        let mut is_any = false;
        for (value, rest) in row.iter_mut().zip(rest) {
            let rounded = self.nearest(*value);
            // Exact: both have the same sign, and the rest has fewer digits.
            *rest = *value - rounded;
            *value = rounded;
            is_any |= *rest != 0.0;
        }
        is_any
    }

    /// The nearest value of the type; its largest one for what is beyond.
    fn nearest(self, value: f32) -> f32 {
        match self {
            Self::Bf16 => {
                let largest = bf16::MAX.to_f32();
                bf16::from_f32(value.clamp(-largest, largest)).to_f32()
            }
            Self::F16 => {
                let largest = f16::MAX.to_f32();
                f16::from_f32(value.clamp(-largest, largest)).to_f32()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_and_what_is_sent_are_what_was_there() {
        let values = [1.0, 1.0 + 1.0 / 512.0, -3.3, 70_000.0, 1e-8, f32::MAX, 0.0, -0.1];
        for residuals in [Residuals::Bf16, Residuals::F16] {
            let (mut row, mut rest) = (values, [f32::NAN; 8]);
            assert!(residuals.round(&mut row, &mut rest));
            for ((value, row), rest) in values.iter().zip(row).zip(rest) {
                assert_eq!(row + rest, *value, "{residuals:?} {row} {rest}");
                assert!(row.is_finite());
                // What is sent is what the filter of this type leaves of it.
                assert_eq!(residuals.nearest(row), row);
            }
            assert_eq!((row[0], rest[0]), (1.0, 0.0));
        }
        assert_eq!(Residuals::F16.nearest(70_000.0), 65_504.0);
        assert_eq!(Residuals::Bf16.nearest(1.0 + 1.0 / 512.0), 1.0);
        assert!(!Residuals::F16.round(&mut [0.5_f32, 0.0], &mut [0.0_f32; 2]));
    }
}
