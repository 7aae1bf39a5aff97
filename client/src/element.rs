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
}

macro_rules! elements {
    ($($type:ty => $dtype:ident),* $(,)?) => {$(
        impl sealed::Sealed for $type {}

        impl Element for $type {
            const DTYPE: DataType = DataType::$dtype;
        }
    )*};
}

elements!(
    f32 => F32,
    f64 => F64,
    f16 => F16,
    bf16 => Bf16,
    i8 => I8,
    i32 => I32,
    i64 => I64,
    u64 => U64,
);
