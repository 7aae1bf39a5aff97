//! binary16 and bfloat16 to and from binary32 without branches, so that the conversions vectorise.
//!
//! Rounding is to nearest even; every NaN becomes the canonical one of the target when narrowed.

const SIGN: u32 = 0x8000_0000;
const EXPONENT: u32 = 0x7F80_0000;

/// The value of a binary16. Exact; a NaN keeps its sign and payload.
#[inline(always)]
#[must_use]
pub fn f16_to_f32(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    // With the fields moved into place the exponent is too small by 127 - 15; the product is exact,
    // also for subnormal halves, because binary32 has room for them as normal numbers.
    let shifted = u32::from(half & 0x7FFF) << 13;
    let magnitude = (f32::from_bits(shifted) * f32::from_bits((127 + 112) << 23)).to_bits();
    let magnitude = if shifted >= 0x0F80_0000 { shifted | EXPONENT } else { magnitude };
    f32::from_bits(sign | magnitude)
}

/// The nearest binary16.
#[inline(always)]
#[must_use]
pub fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let magnitude = bits & !SIGN;
    // Normal results: drop 13 bits, rounding half to even, and rebias the exponent. A carry out of the
    // significand goes into the exponent as it should; what is beyond the largest half is infinite.
    let even = (magnitude >> 13) & 1;
    let normal = magnitude.wrapping_add(0x0FFF + even).wrapping_sub(112 << 23) >> 13;
    let normal = if normal > 0x7C00 { 0x7C00 } else { normal };
    // Subnormal results are multiples of 2^-24, the distance of binary32 neighbours in [0.5, 1): the
    // addition rounds to one of them.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
    let signed = finite | ((bits & SIGN) >> 16);
    let result = if magnitude > EXPONENT { 0x7E00 } else { signed };
    low_half(result)
}

/// The value of a bfloat16. Exact.
#[inline(always)]
#[must_use]
pub fn bf16_to_f32(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

/// The nearest bfloat16.
#[inline(always)]
#[must_use]
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let even = (bits >> 16) & 1;
    let rounded = bits.wrapping_add(0x7FFF + even) >> 16;
    let result = if bits & !SIGN > EXPONENT { 0x7FC0 } else { rounded };
    low_half(result)
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the value fits: its upper half is zero")]
fn low_half(word: u32) -> u16 {
    word as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn widening_equals_the_reference_for_every_half() {
        for bits in 0..=u16::MAX {
            let wide = f16_to_f32(bits);
            let reference = f16::from_bits(bits).to_f32();
            assert!(wide.to_bits() == reference.to_bits() || wide.is_nan() && reference.is_nan());
            let wide = bf16_to_f32(bits);
            let reference = bf16::from_bits(bits).to_f32();
            assert!(wide.to_bits() == reference.to_bits() || wide.is_nan() && reference.is_nan());
        }
    }

    #[test]
    fn narrowing_equals_the_reference() {
        // Every sign, exponent and upper significand, each with the lower bits that decide rounding.
        for upper in 0..=u16::MAX {
            for lower in [0, 1, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xEFFF, 0xFFFF] {
                let value = f32::from_bits(u32::from(upper) << 16 | lower);
                let (half, brain) = (f32_to_f16(value), f32_to_bf16(value));
                if value.is_nan() {
                    assert_eq!((half, brain), (0x7E00, 0x7FC0));
                } else {
                    assert_eq!(half, f16::from_f32_const(value).to_bits(), "{value:e}");
                    assert_eq!(brain, bf16::from_f32(value).to_bits(), "{value:e}");
                }
            }
        }
    }

    #[test]
    fn every_half_survives_a_round_trip() {
        for bits in 0..=u16::MAX {
            if !f16::from_bits(bits).is_nan() {
                assert_eq!(f32_to_f16(f16_to_f32(bits)), bits);
            }
            if !bf16::from_bits(bits).is_nan() {
                assert_eq!(f32_to_bf16(bf16_to_f32(bits)), bits);
            }
        }
    }
}
