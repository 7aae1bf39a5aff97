//! Norms of rows.

use half::{bf16, f16};
use windlass_wire::DataType;

/// The Euclidean norm of little-endian values of a dtype, computed in binary64.
///
/// # Panics
///
/// When the bytes are no whole values.
#[must_use]
pub fn norm(dtype: DataType, values: &[u8]) -> f64 {
    assert!(values.len().is_multiple_of(dtype.size()), "whole values");
    #[expect(clippy::cast_precision_loss, reason = "a norm is rounded")]
    match dtype {
        DataType::F32 => of(values, |value| f64::from(f32::from_le_bytes(value))),
        DataType::F64 => of(values, f64::from_le_bytes),
        DataType::F16 => of(values, |value| f16::from_le_bytes(value).to_f64()),
        DataType::Bf16 => of(values, |value| bf16::from_le_bytes(value).to_f64()),
        DataType::I8 => of(values, |value| f64::from(i8::from_le_bytes(value))),
        DataType::I32 => of(values, |value| f64::from(i32::from_le_bytes(value))),
        DataType::I64 => of(values, |value| i64::from_le_bytes(value) as f64),
        DataType::U64 => of(values, |value| u64::from_le_bytes(value) as f64),
    }
}

fn of<const N: usize>(values: &[u8], to_f64: impl Fn([u8; N]) -> f64) -> f64 {
    let (values, _) = values.as_chunks();
    let squares = values.iter().map(|value| to_f64(*value).powi(2));
    squares.sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_has_the_norm_of_its_values() {
        let norm_of = |dtype, values: &[&[u8]]| norm(dtype, &values.concat());
        assert_eq!(norm_of(DataType::F32, &[&3_f32.to_le_bytes(), &(-4_f32).to_le_bytes()]), 5.0);
        assert_eq!(norm_of(DataType::F64, &[&3_f64.to_le_bytes(), &4_f64.to_le_bytes()]), 5.0);
        let half = |value| f16::from_f32(value).to_le_bytes();
        assert_eq!(norm_of(DataType::F16, &[&half(3.0), &half(-4.0)]), 5.0);
        let brain = |value| bf16::from_f32(value).to_le_bytes();
        assert_eq!(norm_of(DataType::Bf16, &[&brain(-3.0), &brain(4.0)]), 5.0);
        assert_eq!(norm(DataType::I8, &[253, 4]), 5.0);
        assert_eq!(norm_of(DataType::I32, &[&3_i32.to_le_bytes(), &(-4_i32).to_le_bytes()]), 5.0);
        assert_eq!(norm_of(DataType::I64, &[&(-3_i64).to_le_bytes(), &4_i64.to_le_bytes()]), 5.0);
        assert_eq!(norm(DataType::U64, &u64::MAX.to_le_bytes()), 1.8446744073709552e19);
        assert_eq!(norm(DataType::F32, &[]), 0.0);
        assert!(norm(DataType::F32, &f32::NAN.to_le_bytes()).is_nan());
    }
}
