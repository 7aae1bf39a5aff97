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
}

macro_rules! elements {
    ($($type:ty => $dtype:ident, $finite:expr);* $(;)?) => {$(
        impl sealed::Sealed for $type {}

        impl Element for $type {
            const DTYPE: DataType = DataType::$dtype;

            fn all_finite(values: &[Self]) -> bool {
                // Without an early end, so that it is done many values at a time.
                values.iter().fold(true, |finite, value| finite & $finite(*value))
            }
        }
    )*};
}

elements!(
    f32 => F32, f32::is_finite;
    f64 => F64, f64::is_finite;
    f16 => F16, f16::is_finite;
    bf16 => Bf16, bf16::is_finite;
    i8 => I8, |_| true;
    i32 => I32, |_| true;
    i64 => I64, |_| true;
    u64 => U64, |_| true;
);
