//! f32 values as bfloat16 or binary16: two bytes a value, little-endian, rounded to the nearest and ties to
//! even. NaN stays NaN; what is too great becomes infinity.

use super::FilterError;

/// Appends each value as bfloat16.
pub fn encode_bf16(values: &[f32], out: &mut Vec<u8>) {
    encode(values, out, bf16_from_f32);
}

/// Fills `values` from as many bfloat16.
pub fn decode_bf16(bytes: &[u8], values: &mut [f32]) -> Result<(), FilterError> {
    decode("bf16", bytes, values, |bits| f32::from_bits(u32::from(bits) << 16))
}

/// Appends each value as binary16.
pub fn encode_f16(values: &[f32], out: &mut Vec<u8>) {
    encode(values, out, f16_from_f32);
}

/// Fills `values` from as many binary16.
pub fn decode_f16(bytes: &[u8], values: &mut [f32]) -> Result<(), FilterError> {
    decode("f16", bytes, values, f32_from_f16)
}

#[inline]
fn encode(values: &[f32], out: &mut Vec<u8>, convert: impl Fn(f32) -> u16) {
    let start = out.len();
    out.resize(start + values.len() * 2, 0);
    for (bytes, &value) in out[start..].chunks_exact_mut(2).zip(values) {
        bytes.copy_from_slice(&convert(value).to_le_bytes());
    }
}

#[inline]
fn decode(
    filter: &'static str,
    bytes: &[u8],
    values: &mut [f32],
    convert: impl Fn(u16) -> f32,
) -> Result<(), FilterError> {
    super::expect_len(filter, values.len() * 2, bytes.len())?;
    for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(2)) {
        *value = convert(u16::from_le_bytes([bytes[0], bytes[1]]));
    }
    Ok(())
}

#[inline]
fn bf16_from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    // A quiet bit keeps a NaN whose payload lies in the lower half.
    let kept = if value.is_nan() { bits | 0x0040_0000 } else { rounded };
    (kept >> 16) as u16
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "a half has 16 bits")]
fn f16_from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    let half = if magnitude > 0x7f80_0000 {
        0x7e00
    } else if magnitude >= 0x4780_0000 {
        // 65536 and more.
        0x7c00
    } else if magnitude < 0x3880_0000 {
        // Under 2^-14: the addition of one half rounds to the step of subnormals.
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5_f32.to_bits()
    } else {
        // The exponent's bias goes from 127 to 15; a carry out of the mantissa raises it.
        (magnitude - (112 << 23) + 0x0fff + ((magnitude >> 13) & 1)) >> 13
    };
    (sign | half) as u16
}

#[inline]
fn f32_from_f16(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = u32::from(half & 0x7fff);
    let bits = if magnitude >= 0x7c00 {
        (magnitude << 13) + (224 << 23)
    } else if magnitude < 0x0400 {
        // Subnormals are multiples of 2^-24.
        (f32::from(half & 0x7fff) * f32::from_bits((127 - 24) << 23)).to_bits()
    } else {
        (magnitude << 13) + (112 << 23)
    };
    f32::from_bits(sign | bits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALUES: [f32; 6] = [1.0, -2.5, 0.1, 65520.0, 6.0e-8, f32::NEG_INFINITY];

    #[test]
    fn bf16_has_golden_bytes() {
        let mut out = Vec::new();
        encode_bf16(&VALUES, &mut out);
        let golden = [0x80, 0x3f, 0x20, 0xc0, 0xcd, 0x3d, 0x80, 0x47, 0x81, 0x33, 0x80, 0xff];
        assert_eq!(out, golden);
    }

    #[test]
    fn f16_has_golden_bytes() {
        let mut out = Vec::new();
        encode_f16(&VALUES, &mut out);
        let golden = [0x00, 0x3c, 0x00, 0xc1, 0x66, 0x2e, 0x00, 0x7c, 0x01, 0x00, 0x00, 0xfc];
        assert_eq!(out, golden);
    }

    #[test]
    fn every_half_comes_back_from_f32() {
        for half in 0..=u16::MAX {
            let value = f32_from_f16(half);
            assert_eq!(value.is_nan(), half & 0x7fff > 0x7c00, "{half:#x}");
            if !value.is_nan() {
                assert_eq!(f16_from_f32(value), half);
            }
            let value = f32::from_bits(u32::from(half) << 16);
            if !value.is_nan() {
                assert_eq!(bf16_from_f32(value), half);
            }
        }
        // The least payloads, which a cut of the lower half would turn into infinities.
        let nan = f32::from_bits(0x7f80_0001);
        assert!(f32_from_f16(f16_from_f32(nan)).is_nan());
        assert!(f32::from_bits(u32::from(bf16_from_f32(nan)) << 16).is_nan());
    }

    #[test]
    fn halves_refuse_another_length() {
        let mut values = [0.0; 2];
        let length = |filter, actual| Err(FilterError::Length { filter, expected: 4, actual });
        assert_eq!(decode_bf16(&[0; 3], &mut values), length("bf16", 3));
        assert_eq!(decode_f16(&[0; 5], &mut values), length("f16", 5));
    }

    proptest! {
        /// No neighbour is nearer than the half that was chosen.
        #[test]
        fn halves_round_to_the_nearest(bits in 0_u32..0x7f7f_0000) {
            let value = f32::from_bits(bits);
            let error = |half: u16, back: &dyn Fn(u16) -> f32| {
                (f64::from(back(half)) - f64::from(value)).abs()
            };
            let back = |half: u16| f32::from_bits(u32::from(half) << 16);
            let chosen = bf16_from_f32(value);
            prop_assert!(error(chosen, &back) <= error(chosen + 1, &back));
            prop_assert!(error(chosen, &back) <= error(chosen.saturating_sub(1), &back));
            if value < 65504.0 {
                let chosen = f16_from_f32(value);
                prop_assert!(error(chosen, &f32_from_f16) <= error(chosen + 1, &f32_from_f16));
                prop_assert!(
                    error(chosen, &f32_from_f16) <= error(chosen.saturating_sub(1), &f32_from_f16)
                );
            }
        }
    }
}
