//! f32 values as bfloat16 or binary16: two bytes a value, little-endian, rounded to the nearest and ties to
//! even. NaN stays NaN; what is too great becomes infinity.

use super::FilterError;
use crate::half_bits::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};

/// Appends each value as bfloat16.
pub fn encode_bf16(values: &[f32], out: &mut Vec<u8>) {
    encode(values, out, f32_to_bf16);
}

/// Fills `values` from as many bfloat16.
pub fn decode_bf16(bytes: &[u8], values: &mut [f32]) -> Result<(), FilterError> {
    decode("bf16", bytes, values, bf16_to_f32)
}

/// Appends each value as binary16.
pub fn encode_f16(values: &[f32], out: &mut Vec<u8>) {
    encode(values, out, f32_to_f16);
}

/// Fills `values` from as many binary16.
pub fn decode_f16(bytes: &[u8], values: &mut [f32]) -> Result<(), FilterError> {
    decode("f16", bytes, values, f16_to_f32)
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

#[cfg(test)]
mod tests {
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
    fn halves_refuse_another_length() {
        let mut values = [0.0; 2];
        let length = |filter, actual| Err(FilterError::Length { filter, expected: 4, actual });
        assert_eq!(decode_bf16(&[0; 3], &mut values), length("bf16", 3));
        assert_eq!(decode_f16(&[0; 5], &mut values), length("f16", 5));
    }
}
