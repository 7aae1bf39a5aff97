//! f32 values as whole steps of the greatest magnitude among them, in one to four bytes each.
//!
//! ```text
//! | f32 greatest magnitude | width bytes: steps of value 0, signed | width bytes: value 1 | ...
//! ```
//! A value is rounded up or down at random, so that the mean of many equals the value (stochastic rounding).
//! The random numbers come from a seed and the value's index: who encodes again writes the same bytes.

use super::FilterError;

/// Bytes of a value in fixed point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedWidth(u8);

impl FixedWidth {
    /// Bytes of the greatest magnitude at the head.
    const HEAD: usize = size_of::<f32>();

    /// A width of 1 to 4 bytes, or `None`.
    #[must_use]
    pub fn new(bytes: usize) -> Option<Self> {
        u8::try_from(bytes).ok().filter(|bytes| (1..=4).contains(bytes)).map(Self)
    }

    /// Bytes of a value.
    #[must_use]
    pub fn bytes(self) -> usize {
        usize::from(self.0)
    }

    pub(super) fn number(self) -> u8 {
        self.0
    }

    /// Bytes of `count` values with their head.
    #[must_use]
    pub fn encoded_len(self, count: usize) -> usize {
        Self::HEAD + count * self.bytes()
    }

    /// Steps between zero and the greatest magnitude.
    fn steps(self) -> f64 {
        f64::from(i32::MAX >> (8 * (4 - self.0)))
    }
}

/// Appends `values`, which must be finite. On an error `out` is as it was.
pub fn encode_fixed(
    values: &[f32],
    width: FixedWidth,
    seed: u64,
    out: &mut Vec<u8>,
) -> Result<(), FilterError> {
    if let Some(position) = values.iter().position(|value| !value.is_finite()) {
        return Err(FilterError::NotFinite { position });
    }
    let greatest = values.iter().fold(0.0_f32, |greatest, value| greatest.max(value.abs()));
    let start = out.len();
    out.resize(start + width.encoded_len(values.len()), 0);
    let (head, body) = out[start..].split_at_mut(FixedWidth::HEAD);
    head.copy_from_slice(&greatest.to_le_bytes());
    match width.0 {
        1 => encode_body::<1>(values, greatest, width.steps(), seed, body),
        2 => encode_body::<2>(values, greatest, width.steps(), seed, body),
        3 => encode_body::<3>(values, greatest, width.steps(), seed, body),
        _ => encode_body::<4>(values, greatest, width.steps(), seed, body),
    }
    Ok(())
}

#[allow(clippy::cast_possible_truncation, reason = "seeds are folded; steps fit 32 bits")]
fn encode_body<const N: usize>(
    values: &[f32],
    greatest: f32,
    steps: f64,
    seed: u64,
    body: &mut [u8],
) {
    let scale = if greatest > 0.0 { steps / f64::from(greatest) } else { 0.0 };
    let seed = mix32((seed ^ (seed >> 32)) as u32);
    for (index, (bytes, &value)) in body.chunks_exact_mut(N).zip(values).enumerate() {
        let chance = f64::from(mix32(seed ^ index as u32)) / (f64::from(u32::MAX) + 1.0);
        // Positive before it is cut, so that the cut rounds down.
        let cut = (f64::from(value) * scale + steps + chance) as i64;
        let whole = cut.min(2 * steps as i64) - steps as i64;
        bytes.copy_from_slice(&whole.to_le_bytes()[..N]);
    }
}

/// Fills `values` from as many in fixed point.
pub fn decode_fixed(
    bytes: &[u8],
    width: FixedWidth,
    values: &mut [f32],
) -> Result<(), FilterError> {
    super::expect_len("fixed", width.encoded_len(values.len()), bytes.len())?;
    let (head, body) = bytes.split_at(FixedWidth::HEAD);
    let greatest = f32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    if !greatest.is_finite() || greatest.is_sign_negative() {
        return Err(FilterError::MalformedMagnitude);
    }
    match width.0 {
        1 => decode_body::<1>(body, greatest, width.steps(), values),
        2 => decode_body::<2>(body, greatest, width.steps(), values),
        3 => decode_body::<3>(body, greatest, width.steps(), values),
        _ => decode_body::<4>(body, greatest, width.steps(), values),
    }
}

#[allow(clippy::cast_possible_truncation, reason = "at most the greatest magnitude, an f32")]
fn decode_body<const N: usize>(
    body: &[u8],
    greatest: f32,
    steps: f64,
    values: &mut [f32],
) -> Result<(), FilterError> {
    let step = f64::from(greatest) / steps;
    let mut in_range = true;
    for (value, bytes) in values.iter_mut().zip(body.chunks_exact(N)) {
        let whole = f64::from(whole::<N>(bytes));
        in_range &= whole >= -steps;
        *value = (whole * step) as f32;
    }
    if in_range {
        return Ok(());
    }
    let position = body.chunks_exact(N).position(|bytes| f64::from(whole::<N>(bytes)) < -steps);
    Err(FilterError::OutOfRange { position: position.expect("one was out of range") })
}

/// A signed number of `N` bytes.
#[inline]
fn whole<const N: usize>(bytes: &[u8]) -> i32 {
    let mut word = [0; 4];
    word[4 - N..].copy_from_slice(bytes);
    i32::from_le_bytes(word) >> (8 * (4 - N))
}

/// Mixes the bits of a word (the finaliser of `MurmurHash3`).
#[inline]
fn mix32(mut word: u32) -> u32 {
    word = (word ^ (word >> 16)).wrapping_mul(0x85eb_ca6b);
    word = (word ^ (word >> 13)).wrapping_mul(0xc2b2_ae35);
    word ^ (word >> 16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn width(bytes: usize) -> FixedWidth {
        FixedWidth::new(bytes).unwrap()
    }

    fn encoded(values: &[f32], bytes: usize, seed: u64) -> Vec<u8> {
        let mut out = Vec::new();
        encode_fixed(values, width(bytes), seed, &mut out).unwrap();
        out
    }

    fn decoded(bytes: &[u8], width_bytes: usize, count: usize) -> Result<Vec<f32>, FilterError> {
        let mut values = vec![9.0; count];
        decode_fixed(bytes, width(width_bytes), &mut values).map(|()| values)
    }

    #[test]
    fn values_between_steps_are_neither_raised_nor_lowered_on_average() {
        let count = 4096;
        let mut values = vec![0.3_f32 / 127.0; count];
        values[0] = 1.0;
        for seed in (0..64).chain([u64::MAX, 1 << 32, 0x5555_5555_5555_5555]) {
            let decoded = decoded(&encoded(&values, 1, seed), 1, count).unwrap();
            let steps = decoded[1..].iter().map(|value| value * 127.0).sum::<f32>();
            let mean = steps / (count - 1) as f32;
            // The mean of so many has a deviation of 0.007.
            assert!((mean - 0.3).abs() < 0.04, "seed {seed}: {mean} of a step instead of 0.3");
        }
    }

    #[test]
    fn fixed_has_golden_bytes() {
        // Whole steps, which chance does not move.
        let golden: [&[u8]; 4] = [
            &[0, 0, 0x80, 0x3f, 0x7f, 0x81, 0x00],
            &[0, 0, 0x80, 0x3f, 0xff, 0x7f, 0x01, 0x80, 0x00, 0x00],
            &[0, 0, 0x80, 0x3f, 0xff, 0xff, 0x7f, 0x01, 0x00, 0x80, 0, 0, 0],
            &[0, 0, 0x80, 0x3f, 0xff, 0xff, 0xff, 0x7f, 0x01, 0, 0, 0x80, 0, 0, 0, 0],
        ];
        for (bytes, golden) in (1..).zip(golden) {
            assert_eq!(encoded(&[1.0, -1.0, 0.0], bytes, 3), golden);
            assert_eq!(decoded(golden, bytes, 3).unwrap(), [1.0, -1.0, 0.0]);
            assert_eq!(encoded(&[0.0, -0.0], bytes, 3), vec![0; 4 + 2 * bytes], "no magnitude");
        }
    }

    /// Who sends a push again, by whatever build, writes the same bytes.
    #[test]
    fn rounding_by_chance_has_golden_bytes() {
        let values = [1.0, 0.3, -0.3, 0.301, 0.5, 1e-3, -0.999];
        let golden = [0, 0, 128, 63, 127, 38, 218, 38, 64, 0, 129];
        assert_eq!(encoded(&values, 1, 0x0123_4567_89ab_cdef), golden);
        let halves = [&[1.0][..], &[0.5 / 127.0; 64]].concat();
        let steps = encoded(&halves, 1, 0x0123_4567_89ab_cdef).split_off(5);
        let up = steps.iter().rev().fold(0_u64, |up, step| up << 1 | u64::from(*step));
        assert_eq!(up, 0x407e_bc4a_baab_2c5d, "which halves of a step are rounded up");
    }

    #[test]
    fn fixed_rounds_by_its_seed_and_on_average_to_the_value() {
        let mut values = vec![0.3; 20_000];
        values[0] = 100.0;
        let bytes = encoded(&values, 1, 42);
        assert_eq!(bytes, encoded(&values, 1, 42), "a retry sends the same bytes");
        assert_ne!(bytes, encoded(&values, 1, 43));
        let back = decoded(&bytes, 1, values.len()).unwrap();
        let mean = back[1..].iter().map(|&value| f64::from(value)).sum::<f64>() / 19_999.0;
        // The standard error is 0.003; rounding to the nearest would give 0.
        assert!((mean - 0.3).abs() < 0.015, "{mean}");
    }

    #[test]
    fn fixed_refuses_what_has_no_form() {
        let mut out = vec![7];
        for value in [f32::NAN, f32::INFINITY] {
            let refused = encode_fixed(&[1.0, value], width(2), 0, &mut out);
            assert_eq!(refused, Err(FilterError::NotFinite { position: 1 }));
        }
        assert_eq!(out, [7]);
        let magnitude =
            |value: f32| decoded(&[&value.to_le_bytes()[..], &[1]].concat(), 1, 1).unwrap_err();
        for value in [f32::NAN, f32::INFINITY, -1.0] {
            assert_eq!(magnitude(value), FilterError::MalformedMagnitude);
        }
        let least = decoded(&[0, 0, 0x80, 0x3f, 0x81, 0x80], 1, 2);
        assert_eq!(least, Err(FilterError::OutOfRange { position: 1 }), "-127 is in range");
        let short = decoded(&[0, 0], 1, 0);
        assert_eq!(short, Err(FilterError::Length { filter: "fixed", expected: 4, actual: 2 }));
        assert_eq!((FixedWidth::new(0), FixedWidth::new(5)), (None, None));
    }

    proptest! {
        #[test]
        fn fixed_is_within_a_step(
            values in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO, 0..100),
            bytes in 1_usize..=4, seed: u64,
        ) {
            let back = decoded(&encoded(&values, bytes, seed), bytes, values.len()).unwrap();
            let greatest = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            let step = f64::from(greatest) / width(bytes).steps();
            for (value, back) in values.iter().zip(back) {
                let rounding = f64::from(value.abs()) * f64::from(f32::EPSILON) + 1.5e-45;
                let error = (f64::from(*value) - f64::from(back)).abs();
                prop_assert!(error <= step * 1.000_001 + rounding, "{value} {back}");
            }
        }

        #[test]
        fn fixed_takes_any_bytes_and_makes_finite_values(
            bytes in prop::collection::vec(any::<u8>(), 0..40), width in 1_usize..=4,
        ) {
            let count = bytes.len().saturating_sub(4) / width;
            if let Ok(values) = decoded(&bytes, width, count) {
                prop_assert!(values.iter().all(|value| value.is_finite()));
            }
        }
    }
}
