//! The arithmetic that rules are written in: binary32 or binary64, each operation rounded by itself.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// Most constants a rule needs.
pub(in super::super) const CONSTANTS: usize = 6;

/// The constants of a rule in both precisions, rounded once when the kernel is chosen.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Constants {
    single: [f32; CONSTANTS],
    double: [f64; CONSTANTS],
}

impl Constants {
    pub(in super::super) fn new(double: [f64; CONSTANTS]) -> Self {
        Self { single: double.map(f32::from_f64), double }
    }
}

/// A floating-point type that kernels compute in.
pub(in super::super) trait Real:
    Copy
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    const ZERO: Self;
    /// The one NaN that is ever stored: which payload an operation gives depends on the order of its
    /// operands, and that is the compiler's choice.
    const CANONICAL_NAN: Self;

    fn from_f64(value: f64) -> Self;
    fn sqrt(self) -> Self;
    fn abs(self) -> Self;
    fn copysign(self, sign: Self) -> Self;
    fn constants(constants: &Constants) -> &[Self; CONSTANTS];
    fn canonical(self) -> Self;
}

macro_rules! real {
    ($type:ident, $nan:expr, $field:ident) => {
        impl Real for $type {
            const ZERO: Self = 0.0;
            const CANONICAL_NAN: Self = Self::from_bits($nan);

            #[inline(always)]
            #[allow(clippy::cast_possible_truncation, reason = "rounding to nearest is meant")]
            fn from_f64(value: f64) -> Self {
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
            fn constants(constants: &Constants) -> &[Self; CONSTANTS] {
                &constants.$field
            }

            #[inline(always)]
            #[allow(clippy::eq_op, reason = "the form that becomes one vector comparison")]
            fn canonical(self) -> Self {
                if self != self { Self::CANONICAL_NAN } else { self }
            }
        }
    };
}

real!(f32, 0x7FC0_0000, single);
real!(f64, 0x7FF8_0000_0000_0000, double);
