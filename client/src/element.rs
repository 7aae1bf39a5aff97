//! Element types that tables can hold and Rust has.

use half::{bf16, f16};
use windlass_wire::DataType;

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that is a table's dtype. Implemented for the eight of them, and for no other.
pub trait Element: bytemuck::Pod + Default + sealed::Sealed {
    /// The dtype.
    const DTYPE: DataType;

    /// Whether all values are finite; integers always are.
    fn all_finite(values: &[Self]) -> bool;

    /// The sum: of halves in f32 and rounded once, of integers modulo their size.
    fn sum(values: impl Iterator<Item = Self>) -> Self;

    /// The absolute value, rounded to binary64.
    fn magnitude(self) -> f64;

    /// Whether there is a mean: of floating-point types.
    const HAS_MEAN: bool;

    /// The mean of so many values: of halves in f32 and rounded once; of integers their sum.
    fn mean(values: impl Iterator<Item = Self>, count: usize) -> Self;
}

macro_rules! elements {
    ($($type:ty => $dtype:ident, $finite:expr, $magnitude:expr, $sum:expr, $mean:expr);* $(;)?) => {$(
        impl sealed::Sealed for $type {}

        impl Element for $type {
            const DTYPE: DataType = DataType::$dtype;

            const HAS_MEAN: bool = DataType::$dtype.is_float();

            fn all_finite(values: &[Self]) -> bool {
                // Without an early end, so that it is done many values at a time.
                values.iter().fold(true, |finite, value| finite & $finite(*value))
            }

            fn sum(values: impl Iterator<Item = Self>) -> Self {
                $sum(values)
            }

            #[allow(clippy::cast_precision_loss, reason = "rounded, as its documentation says")]
            fn magnitude(self) -> f64 {
                $magnitude(self)
            }

            #[expect(clippy::cast_precision_loss, reason = "bags of fewer than 2^24 keys")]
            fn mean(values: impl Iterator<Item = Self>, count: usize) -> Self {
                $mean(values, count as f32)
            }
        }
    )*};
}

elements!(
    f32 => F32, f32::is_finite, |value: f32| f64::from(value).abs(), Iterator::sum, |values, count| <Self as Element>::sum(values) / count;
    f64 => F64, f64::is_finite, f64::abs, Iterator::sum, |values, count| <Self as Element>::sum(values) / f64::from(count);
    f16 => F16, f16::is_finite, |value: f16| f64::from(value).abs(), |values| f16::from_f32(Iterator::map(values, f16::to_f32).sum()),
        |values, count| f16::from_f32(Iterator::map(values, f16::to_f32).sum::<f32>() / count);
    bf16 => Bf16, bf16::is_finite, |value: bf16| f64::from(value).abs(), |values| bf16::from_f32(Iterator::map(values, bf16::to_f32).sum()),
        |values, count| bf16::from_f32(Iterator::map(values, bf16::to_f32).sum::<f32>() / count);
    i8 => I8, |_| true, |value: i8| f64::from(value).abs(), |values| Iterator::fold(values, 0, i8::wrapping_add), |values, _| <Self as Element>::sum(values);
    i32 => I32, |_| true, |value: i32| f64::from(value).abs(), |values| Iterator::fold(values, 0, i32::wrapping_add), |values, _| <Self as Element>::sum(values);
    i64 => I64, |_| true, |value: i64| value.unsigned_abs() as f64, |values| Iterator::fold(values, 0, i64::wrapping_add), |values, _| <Self as Element>::sum(values);
    u64 => U64, |_| true, |value: u64| value as f64, |values| Iterator::fold(values, 0, u64::wrapping_add), |values, _| <Self as Element>::sum(values);
);
