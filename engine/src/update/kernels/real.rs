//! What rules are written in: a number, or a vector of numbers, of binary32 or binary64. Each operation
//! rounds by itself, so a vector gives in each lane what the number gives.

use std::ops::{Add, Div, Mul, Neg, Sub};

use half::{bf16, f16};
use windlass_wire::half_bits;

/// A number or a vector that kernels compute in.
///
/// Vectors run instructions that their processor must have: they are used only in functions that are
/// compiled for its [`super::path::Path`], and these are chosen only where the path is available.
pub(super) trait Real:
    Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + Load<Self::Element>
    + Store<Self::Element>
{
    /// The number in each lane.
    type Element;
    /// Numbers handled at once.
    const LANES: usize;

    /// This number, rounded to the precision, in each lane.
    fn splat(value: f64) -> Self;
    fn sqrt(self) -> Self;
    fn abs(self) -> Self;
    fn copysign(self, sign: Self) -> Self;
    /// `self <= limit ? yes : no`; a NaN is never at most anything.
    fn if_at_most(self, limit: Self, yes: Self, no: Self) -> Self;
    /// With every NaN replaced by the positive quiet one without a payload: which payload an operation
    /// gives depends on the order of its operands, and that is the compiler's choice.
    fn canonical(self) -> Self;
    /// Whether any lane of four is NaN: cheaper than replacing where there is none.
    fn any_nan(four: [Self; 4]) -> bool;
}

/// Reading values of dtype `T`.
pub(super) trait Load<T>: Copy {
    /// Reads as many values as there are lanes; the address may have any alignment.
    ///
    /// # Safety
    /// `at` points to that many readable values. Another process may be writing them: the result is
    /// then some mixture of old and new bytes, which is a value like any other.
    unsafe fn load(at: *const T) -> Self;
}

/// Writing values of dtype `T`.
pub(super) trait Store<T>: Copy {
    /// Writes the lanes, rounded to nearest even; the address may have any alignment. NaN lanes must be
    /// canonical: only then do all paths agree on a narrowed NaN.
    ///
    /// # Safety
    /// `at` points to as many writable values as there are lanes.
    unsafe fn store(self, at: *mut T);
}

pub(super) const CANONICAL_NAN_F32: f32 = f32::from_bits(0x7FC0_0000);
pub(super) const CANONICAL_NAN_F64: f64 = f64::from_bits(0x7FF8_0000_0000_0000);

macro_rules! real {
    ($type:ident, $nan:expr) => {
        impl Real for $type {
            type Element = Self;
            const LANES: usize = 1;

            #[inline(always)]
            #[allow(clippy::cast_possible_truncation, reason = "rounding to nearest is meant")]
            fn splat(value: f64) -> Self {
                value as Self
            }

            #[inline(always)]
            fn sqrt(self) -> Self {
                self.sqrt()
            }

            #[inline(always)]
            fn abs(self) -> Self {
                self.abs()
            }

            #[inline(always)]
            fn copysign(self, sign: Self) -> Self {
                self.copysign(sign)
            }

            #[inline(always)]
            fn if_at_most(self, limit: Self, yes: Self, no: Self) -> Self {
                if self <= limit { yes } else { no }
            }

            #[inline(always)]
            fn canonical(self) -> Self {
                if self.is_nan() { $nan } else { self }
            }

            #[inline(always)]
            fn any_nan(four: [Self; 4]) -> bool {
                four.into_iter().any(Self::is_nan)
            }
        }
    };
}

real!(f32, CANONICAL_NAN_F32);
real!(f64, CANONICAL_NAN_F64);

macro_rules! load {
    ($type:ty => $real:ty, |$raw:ident| $convert:expr) => {
        impl Load<$type> for $real {
            #[inline(always)]
            unsafe fn load(at: *const $type) -> Self {
                // SAFETY: the caller promises a readable value; read_unaligned asks for no alignment.
                let $raw = unsafe { at.read_unaligned() };
                $convert
            }
        }
    };
}

load!(f32 => f32, |raw| raw);
load!(f16 => f32, |raw| half_bits::f16_to_f32(raw.to_bits()));
load!(bf16 => f32, |raw| half_bits::bf16_to_f32(raw.to_bits()));
load!(f64 => f64, |raw| raw);
load!(f32 => f64, |raw| Self::from(raw));

macro_rules! store {
    ($real:ty => $type:ty, |$value:ident| $convert:expr) => {
        impl Store<$type> for $real {
            #[inline(always)]
            unsafe fn store(self, at: *mut $type) {
                let $value = self;
                // SAFETY: the caller promises a writable value; write_unaligned asks for no alignment.
                unsafe { at.write_unaligned($convert) }
            }
        }
    };
}

store!(f32 => f32, |value| value);
store!(f32 => f16, |value| f16::from_bits(half_bits::f32_to_f16(value)));
store!(f32 => bf16, |value| bf16::from_bits(half_bits::f32_to_bf16(value)));
store!(f64 => f64, |value| value);
