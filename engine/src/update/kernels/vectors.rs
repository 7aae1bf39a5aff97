//! Vectors of x86-64 as [`Real`] numbers: SSE2, AVX2 with F16C, AVX-512.
//!
//! SAFETY of every block here that only computes: its instructions exist, because a vector is used only
//! under a path whose instructions were detected (see [`Real`]). Blocks that touch memory rest on the
//! contracts of [`Load::load`] and [`Store::store`] besides; the instructions are the unaligned ones.
#![allow(clippy::undocumented_unsafe_blocks, reason = "one proof holds for all: see above")]

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Neg, Sub};

use half::{bf16, f16};

use super::real::{CANONICAL_NAN_F32, CANONICAL_NAN_F64, Load, Real, Store};

macro_rules! vector {
    ($name:ident, $raw:ty, $element:ty, $lanes:literal, $nan:expr,
     [$add:ident $sub:ident $mul:ident $div:ident $sqrt:ident $splat:ident $load:ident $store:ident],
     sign |$s:ident, $x:ident| $keep_sign:expr, $clear_sign:expr, $flip:expr, $or:ident,
     select_at_most |$a:ident, $b:ident, $yes:ident, $no:ident| $select:expr,
     select_nan |$n:ident, $c:ident| $canonical:expr,
     any_nan |$p:ident, $q:ident, $r:ident, $t:ident| $any_nan:expr) => {
        #[derive(Clone, Copy)]
        pub(super) struct $name($raw);

        vector!(@operator $name, Add, add, $add);
        vector!(@operator $name, Sub, sub, $sub);
        vector!(@operator $name, Mul, mul, $mul);
        vector!(@operator $name, Div, div, $div);

        impl Neg for $name {
            type Output = Self;
            #[inline(always)]
            fn neg(self) -> Self {
                let $x = self.0;
                let $s = unsafe { $splat(-0.0) };
                Self(unsafe { $flip })
            }
        }

        impl Real for $name {
            type Element = $element;
            const LANES: usize = $lanes;

            #[inline(always)]
            #[allow(clippy::cast_possible_truncation, reason = "rounding to nearest is meant")]
            #[allow(trivial_numeric_casts, reason = "one macro for both precisions")]
            fn splat(value: f64) -> Self {
                Self(unsafe { $splat(value as $element) })
            }

            #[inline(always)]
            fn sqrt(self) -> Self {
                Self(unsafe { $sqrt(self.0) })
            }

            #[inline(always)]
            fn abs(self) -> Self {
                let $x = self.0;
                let $s = unsafe { $splat(-0.0) };
                Self(unsafe { $clear_sign })
            }

            #[inline(always)]
            fn copysign(self, sign: Self) -> Self {
                let magnitude = self.abs().0;
                let $x = sign.0;
                let $s = unsafe { $splat(-0.0) };
                let sign = unsafe { $keep_sign };
                Self(unsafe { $or(magnitude, sign) })
            }

            #[inline(always)]
            fn if_at_most(self, limit: Self, yes: Self, no: Self) -> Self {
                let ($a, $b, $yes, $no) = (self.0, limit.0, yes.0, no.0);
                Self(unsafe { $select })
            }

            #[inline(always)]
            fn canonical(self) -> Self {
                let $n = self.0;
                let $c = unsafe { $splat($nan) };
                Self(unsafe { $canonical })
            }

            #[inline(always)]
            fn any_nan([$p, $q, $r, $t]: [Self; 4]) -> bool {
                // One unordered comparison looks at two vectors.
                let ($p, $q, $r, $t) = ($p.0, $q.0, $r.0, $t.0);
                unsafe { $any_nan }
            }
        }

        impl Load<$element> for $name {
            #[inline(always)]
            unsafe fn load(at: *const $element) -> Self {
                Self(unsafe { $load(at) })
            }
        }

        impl Store<$element> for $name {
            #[inline(always)]
            unsafe fn store(self, at: *mut $element) {
                unsafe { $store(at, self.0) }
            }
        }
    };
    (@operator $name:ident, $trait:ident, $method:ident, $instruction:ident) => {
        impl $trait for $name {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(unsafe { $instruction(self.0, other.0) })
            }
        }
    };
}

vector!(F32x4, __m128, f32, 4, CANONICAL_NAN_F32,
[_mm_add_ps _mm_sub_ps _mm_mul_ps _mm_div_ps _mm_sqrt_ps _mm_set1_ps _mm_loadu_ps _mm_storeu_ps],
sign |s, x| _mm_and_ps(s, x), _mm_andnot_ps(s, x), _mm_xor_ps(s, x), _mm_or_ps,
select_at_most |a, b, yes, no| {
    let mask = _mm_cmple_ps(a, b);
    _mm_or_ps(_mm_and_ps(mask, yes), _mm_andnot_ps(mask, no))
},
select_nan |x, nan| {
    let mask = _mm_cmpunord_ps(x, x);
    _mm_or_ps(_mm_and_ps(mask, nan), _mm_andnot_ps(mask, x))
},
    any_nan |p, q, r, t| {
        let nans = _mm_or_ps(_mm_cmpunord_ps(p, q), _mm_cmpunord_ps(r, t));
        _mm_movemask_ps(nans) != 0
    }
);

vector!(F64x2, __m128d, f64, 2, CANONICAL_NAN_F64,
[_mm_add_pd _mm_sub_pd _mm_mul_pd _mm_div_pd _mm_sqrt_pd _mm_set1_pd _mm_loadu_pd _mm_storeu_pd],
sign |s, x| _mm_and_pd(s, x), _mm_andnot_pd(s, x), _mm_xor_pd(s, x), _mm_or_pd,
select_at_most |a, b, yes, no| {
    let mask = _mm_cmple_pd(a, b);
    _mm_or_pd(_mm_and_pd(mask, yes), _mm_andnot_pd(mask, no))
},
select_nan |x, nan| {
    let mask = _mm_cmpunord_pd(x, x);
    _mm_or_pd(_mm_and_pd(mask, nan), _mm_andnot_pd(mask, x))
},
    any_nan |p, q, r, t| {
        let nans = _mm_or_pd(_mm_cmpunord_pd(p, q), _mm_cmpunord_pd(r, t));
        _mm_movemask_pd(nans) != 0
    }
);

vector!(F32x8, __m256, f32, 8, CANONICAL_NAN_F32,
    [_mm256_add_ps _mm256_sub_ps _mm256_mul_ps _mm256_div_ps _mm256_sqrt_ps _mm256_set1_ps
     _mm256_loadu_ps _mm256_storeu_ps],
    sign |s, x| _mm256_and_ps(s, x), _mm256_andnot_ps(s, x), _mm256_xor_ps(s, x), _mm256_or_ps,
    select_at_most |a, b, yes, no| _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LE_OQ>(a, b)),
    select_nan |x, nan| _mm256_blendv_ps(x, nan, _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x)),
    any_nan |p, q, r, t| {
        let nans = _mm256_or_ps(
            _mm256_cmp_ps::<_CMP_UNORD_Q>(p, q),
            _mm256_cmp_ps::<_CMP_UNORD_Q>(r, t),
        );
        _mm256_movemask_ps(nans) != 0
    }
);

vector!(F64x4, __m256d, f64, 4, CANONICAL_NAN_F64,
    [_mm256_add_pd _mm256_sub_pd _mm256_mul_pd _mm256_div_pd _mm256_sqrt_pd _mm256_set1_pd
     _mm256_loadu_pd _mm256_storeu_pd],
    sign |s, x| _mm256_and_pd(s, x), _mm256_andnot_pd(s, x), _mm256_xor_pd(s, x), _mm256_or_pd,
    select_at_most |a, b, yes, no| _mm256_blendv_pd(no, yes, _mm256_cmp_pd::<_CMP_LE_OQ>(a, b)),
    select_nan |x, nan| _mm256_blendv_pd(x, nan, _mm256_cmp_pd::<_CMP_UNORD_Q>(x, x)),
    any_nan |p, q, r, t| {
        let nans = _mm256_or_pd(
            _mm256_cmp_pd::<_CMP_UNORD_Q>(p, q),
            _mm256_cmp_pd::<_CMP_UNORD_Q>(r, t),
        );
        _mm256_movemask_pd(nans) != 0
    }
);

vector!(F32x16, __m512, f32, 16, CANONICAL_NAN_F32,
    [_mm512_add_ps _mm512_sub_ps _mm512_mul_ps _mm512_div_ps _mm512_sqrt_ps _mm512_set1_ps
     _mm512_loadu_ps _mm512_storeu_ps],
    sign |s, x| _mm512_and_ps(s, x), _mm512_andnot_ps(s, x), _mm512_xor_ps(s, x), _mm512_or_ps,
    select_at_most |a, b, yes, no| {
        _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b), no, yes)
    },
    select_nan |x, nan| _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x), x, nan),
    any_nan |p, q, r, t| {
        let nans = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(p, q) | _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(r, t);
        nans != 0
    }
);

vector!(F64x8, __m512d, f64, 8, CANONICAL_NAN_F64,
    [_mm512_add_pd _mm512_sub_pd _mm512_mul_pd _mm512_div_pd _mm512_sqrt_pd _mm512_set1_pd
     _mm512_loadu_pd _mm512_storeu_pd],
    sign |s, x| _mm512_and_pd(s, x), _mm512_andnot_pd(s, x), _mm512_xor_pd(s, x), _mm512_or_pd,
    select_at_most |a, b, yes, no| {
        _mm512_mask_blend_pd(_mm512_cmp_pd_mask::<_CMP_LE_OQ>(a, b), no, yes)
    },
    select_nan |x, nan| _mm512_mask_blend_pd(_mm512_cmp_pd_mask::<_CMP_UNORD_Q>(x, x), x, nan),
    any_nan |p, q, r, t| {
        let nans = _mm512_cmp_pd_mask::<_CMP_UNORD_Q>(p, q) | _mm512_cmp_pd_mask::<_CMP_UNORD_Q>(r, t);
        nans != 0
    }
);

/// A dtype that is read (and written) otherwise than the vector lies in registers.
macro_rules! narrow {
    ($name:ident, $type:ty, load |$from:ident| $load:expr $(, store |$value:ident, $to:ident| $store:expr)?) => {
        impl Load<$type> for $name {
            #[inline(always)]
            unsafe fn load($from: *const $type) -> Self {
                Self(unsafe { $load })
            }
        }

        $(impl Store<$type> for $name {
            #[inline(always)]
            unsafe fn store(self, $to: *mut $type) {
                let $value = self.0;
                unsafe { $store }
            }
        })?
    };
}

narrow!(F64x2, f32, load | at | _mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64(at.cast()))));
narrow!(F64x4, f32, load | at | _mm256_cvtps_pd(_mm_loadu_ps(at)));
narrow!(F64x8, f32, load | at | _mm512_cvtps_pd(_mm256_loadu_ps(at)));

narrow!(
    F32x8,
    f16,
    load | at | _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
    store | value,
    at | _mm_storeu_si128(at.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value))
);
narrow!(
    F32x16,
    f16,
    load | at | _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())),
    store | value,
    at | _mm256_storeu_si256(at.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value))
);

// A canonical NaN rounds to the canonical bfloat16 without being looked for.
narrow!(
    F32x8,
    bf16,
    load | at | {
        let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
    },
    store | value,
    at | {
        let bits = _mm256_castps_si256(value);
        let even = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7FFF)));
        let upper = _mm256_srli_epi32::<16>(rounded);
        let halves =
            _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256::<1>(upper));
        _mm_storeu_si128(at.cast(), halves);
    }
);
narrow!(
    F32x16,
    bf16,
    load | at | {
        let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
    },
    store | value,
    at | {
        let bits = _mm512_castps_si512(value);
        let even = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7FFF)));
        let upper = _mm512_srli_epi32::<16>(rounded);
        _mm256_storeu_si256(at.cast(), _mm512_cvtepi32_epi16(upper));
    }
);

/// Without hardware conversions, four halves are converted one by one.
macro_rules! by_lane {
    ($type:ty) => {
        impl Load<$type> for F32x4 {
            #[inline(always)]
            unsafe fn load(at: *const $type) -> Self {
                let mut lanes = [0f32; 4];
                for (lane, number) in lanes.iter_mut().enumerate() {
                    *number = unsafe { Load::<$type>::load(at.add(lane)) };
                }
                Self(unsafe { _mm_loadu_ps(lanes.as_ptr()) })
            }
        }

        impl Store<$type> for F32x4 {
            #[inline(always)]
            unsafe fn store(self, at: *mut $type) {
                let mut lanes = [0f32; 4];
                unsafe { _mm_storeu_ps(lanes.as_mut_ptr(), self.0) };
                for (lane, number) in lanes.into_iter().enumerate() {
                    unsafe { Store::<$type>::store(number, at.add(lane)) };
                }
            }
        }
    };
}

by_lane!(f16);
by_lane!(bf16);
