//! How values of each floating-point dtype are read into and written from the type they compute in.

use half::{bf16, f16};

use super::{half_bits, real::Real};

/// A dtype as it lies in memory, readable as a number of the computing type `R`.
pub(super) trait Source<R>: Copy {
    /// Reads one value; the address may have any alignment.
    ///
    /// # Safety
    /// `at` points to a readable value. Another process may be writing it: the result is then some
    /// mixture of old and new bytes, which is a value like any other.
    unsafe fn load(at: *const Self) -> R;
}

/// A dtype that parameters may have.
pub(super) trait Value: Source<Self::Compute> {
    type Compute: Real;

    /// Writes one value, rounded to nearest even; the address may have any alignment.
    ///
    /// # Safety
    /// `at` points to a writable value.
    unsafe fn store(at: *mut Self, value: Self::Compute);
}

macro_rules! source {
    ($type:ty => $real:ty, |$raw:ident| $convert:expr) => {
        impl Source<$real> for $type {
            #[inline(always)]
            unsafe fn load(at: *const Self) -> $real {
                // SAFETY: the caller promises a readable value; read_unaligned asks for no alignment.
                let $raw = unsafe { at.read_unaligned() };
                $convert
            }
        }
    };
}

source!(f32 => f32, |raw| raw);
source!(f32 => f64, |raw| f64::from(raw));
source!(f64 => f64, |raw| raw);
source!(f16 => f32, |raw| half_bits::f16_to_f32(raw.to_bits()));
source!(bf16 => f32, |raw| half_bits::bf16_to_f32(raw.to_bits()));

macro_rules! value {
    ($type:ty => $real:ty, |$value:ident| $convert:expr) => {
        impl Value for $type {
            type Compute = $real;

            #[inline(always)]
            unsafe fn store(at: *mut Self, $value: $real) {
                // SAFETY: the caller promises a writable value; write_unaligned asks for no alignment.
                unsafe { at.write_unaligned($convert) }
            }
        }
    };
}

value!(f32 => f32, |value| value);
value!(f64 => f64, |value| value);
value!(f16 => f32, |value| f16::from_bits(half_bits::f32_to_f16(value)));
value!(bf16 => f32, |value| bf16::from_bits(half_bits::f32_to_bf16(value)));
