//! Keys and values of one message through a stack of filters, and back.

use super::{
    Compressor, FilterError, FilterStack, ValueCoding, decode_bf16, decode_f16, decode_fixed,
    decode_keys, decompress, encode_bf16, encode_f16, encode_fixed, encode_keys, expect_len,
};

/// Bytes that each filter kept from being sent. A filter that makes a message no smaller is left out of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SavedBytes {
    /// By naming lists of keys that servers kept.
    pub key_cache: u64,
    /// By writing keys as differences.
    pub delta_keys: u64,
    /// By compressing keys and values.
    pub snappy: u64,
    /// By writing values as bfloat16.
    pub bf16: u64,
    /// By writing values as binary16.
    pub f16: u64,
    /// By writing values in fixed point.
    pub fixed: u64,
}

impl SavedBytes {
    /// Counts what a coding of values saved.
    pub fn add(&mut self, coding: ValueCoding, bytes: u64) {
        match coding {
            ValueCoding::Plain => {}
            ValueCoding::Bf16 => self.bf16 += bytes,
            ValueCoding::F16 => self.f16 += bytes,
            ValueCoding::Fixed(_) => self.fixed += bytes,
        }
    }

    /// Each filter's name and bytes.
    #[must_use]
    pub fn by_filter(&self) -> [(&'static str, u64); 6] {
        let Self { key_cache, delta_keys, snappy, bf16, f16, fixed } = *self;
        [
            ("key-cache", key_cache),
            ("delta-keys", delta_keys),
            ("snappy", snappy),
            ("bf16", bf16),
            ("f16", f16),
            ("fixed", fixed),
        ]
    }
}

/// Writes keys and values through filters, into buffers that it keeps.
#[derive(Debug, Default)]
pub struct BodyEncoder {
    keys: Vec<u8>,
    values: Vec<u8>,
    compressed: Vec<u8>,
    compressor: Compressor,
}

impl BodyEncoder {
    /// The keys last encoded.
    #[must_use]
    pub fn keys(&self) -> &[u8] {
        &self.keys
    }

    /// The values last encoded.
    #[must_use]
    pub fn values(&self) -> &[u8] {
        &self.values
    }

    /// As if there were no keys: servers have them.
    pub fn send_no_keys(&mut self) {
        self.keys.clear();
    }

    /// Writes keys through the filters of `stack` that make them smaller: these are set in `used`, and what
    /// they save is added to `saved`.
    ///
    /// # Errors
    /// When `delta-keys` finds keys that do not ascend.
    pub fn encode_keys(
        &mut self,
        keys: &[u64],
        stack: &FilterStack,
        used: &mut FilterStack,
        saved: &mut SavedBytes,
    ) -> Result<(), FilterError> {
        let plain: &[u8] = bytemuck::cast_slice(keys);
        self.keys.clear();
        if stack.delta_keys {
            encode_keys(keys, &mut self.keys)?;
            used.delta_keys = self.keys.len() < plain.len();
        }
        if used.delta_keys {
            saved.delta_keys += (plain.len() - self.keys.len()) as u64;
        } else {
            self.keys.clear();
            self.keys.extend_from_slice(plain);
        }
        if stack.snappy_keys {
            let less = compress(&mut self.compressor, &mut self.keys, &mut self.compressed)?;
            used.snappy_keys = less > 0;
            saved.snappy += less;
        }
        Ok(())
    }

    /// The same for values, of type f32 where the stack codes values. `seed` is that of stochastic rounding.
    ///
    /// # Errors
    /// When fixed point meets a value that is not finite.
    pub fn encode_values(
        &mut self,
        values: &[u8],
        seed: u64,
        stack: &FilterStack,
        used: &mut FilterStack,
        saved: &mut SavedBytes,
    ) -> Result<(), FilterError> {
        self.values.clear();
        if stack.values.encoded_len(values.len()) < values.len() {
            stack.values.encode(values, seed, &mut self.values)?;
            saved.add(stack.values, (values.len() - self.values.len()) as u64);
            used.values = stack.values;
        } else {
            self.values.extend_from_slice(values);
        }
        if stack.snappy_values {
            let less = compress(&mut self.compressor, &mut self.values, &mut self.compressed)?;
            used.snappy_values = less > 0;
            saved.snappy += less;
        }
        Ok(())
    }
}

/// Compresses `bytes` in place where that makes them smaller; by how much.
fn compress(
    compressor: &mut Compressor,
    bytes: &mut Vec<u8>,
    compressed: &mut Vec<u8>,
) -> Result<u64, FilterError> {
    compressed.clear();
    compressor.compress(bytes, compressed)?;
    if compressed.len() >= bytes.len() {
        return Ok(0);
    }
    std::mem::swap(bytes, compressed);
    Ok((compressed.len() - bytes.len()) as u64)
}

/// Fills `keys` from those that a message has. `scratch` is for what is between two filters: at most
/// 10 bytes a key.
///
/// # Errors
/// When the bytes are not as many keys, written through these filters.
pub fn decode_body_keys(
    filters: &FilterStack,
    bytes: &[u8],
    keys: &mut [u64],
    scratch: &mut Vec<u8>,
) -> Result<(), FilterError> {
    let longest = keys.len().saturating_mul(VARINT_LEN_MAX);
    let coded = match (filters.snappy_keys, filters.delta_keys) {
        (true, false) => return decompress(bytes, bytemuck::cast_slice_mut(keys)),
        (true, true) => {
            let len = snap::raw::decompress_len(bytes)?;
            if len > longest {
                return Err(FilterError::Length {
                    filter: "snappy",
                    expected: longest,
                    actual: len,
                });
            }
            scratch.resize(len, 0);
            decompress(bytes, scratch)?;
            scratch.as_slice()
        }
        (false, _) => bytes,
    };
    if filters.delta_keys {
        return decode_keys(coded, keys);
    }
    let plain: &mut [u8] = bytemuck::cast_slice_mut(keys);
    expect_len("keys", plain.len(), coded.len())?;
    plain.copy_from_slice(coded);
    Ok(())
}

/// Fills `values` from those that a message has. `scratch` is for what is between two filters: no longer than
/// the values. Panics when values are coded and `values` is not aligned to four bytes.
///
/// # Errors
/// When the bytes are not as many values, written through these filters.
pub fn decode_body_values(
    filters: &FilterStack,
    bytes: &[u8],
    values: &mut [u8],
    scratch: &mut Vec<u8>,
) -> Result<(), FilterError> {
    let coded = match (filters.snappy_values, filters.values) {
        (true, ValueCoding::Plain) => return decompress(bytes, values),
        (true, coding) => {
            scratch.resize(coding.encoded_len(values.len()), 0);
            decompress(bytes, scratch)?;
            scratch.as_slice()
        }
        (false, _) => bytes,
    };
    filters.values.decode(coded, values)
}

impl ValueCoding {
    /// Appends values, of type f32 unless the coding is plain. `seed` is that of stochastic rounding.
    ///
    /// # Errors
    /// When fixed point meets a value that is not finite.
    pub fn encode(self, values: &[u8], seed: u64, out: &mut Vec<u8>) -> Result<(), FilterError> {
        if self == Self::Plain {
            out.extend_from_slice(values);
            return Ok(());
        }
        let copied: Vec<f32>;
        let floats: &[f32] = match bytemuck::try_cast_slice(values) {
            Ok(floats) => floats,
            Err(_) => {
                copied = values.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
                &copied
            }
        };
        match self {
            Self::Plain => {}
            Self::Bf16 => encode_bf16(floats, out),
            Self::F16 => encode_f16(floats, out),
            Self::Fixed(width) => encode_fixed(floats, width, seed, out)?,
        }
        Ok(())
    }

    /// Fills `values`, which are aligned to four bytes unless the coding is plain.
    ///
    /// # Errors
    /// When the bytes are not as many values in this coding.
    pub fn decode(self, bytes: &[u8], values: &mut [u8]) -> Result<(), FilterError> {
        match self {
            Self::Plain => {
                expect_len("values", values.len(), bytes.len())?;
                values.copy_from_slice(bytes);
                Ok(())
            }
            Self::Bf16 => decode_bf16(bytes, bytemuck::cast_slice_mut(values)),
            Self::F16 => decode_f16(bytes, bytemuck::cast_slice_mut(values)),
            Self::Fixed(width) => decode_fixed(bytes, width, bytemuck::cast_slice_mut(values)),
        }
    }
}

/// Bytes of the longest varint of 64 bits.
const VARINT_LEN_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn through(
        text: &str,
        keys: &[u64],
        values: &[f32],
    ) -> (FilterStack, BodyEncoder, SavedBytes, Vec<u64>, Vec<f32>) {
        let stack: FilterStack = text.parse().unwrap();
        let (mut encoder, mut used) = (BodyEncoder::default(), FilterStack::default());
        let (mut saved, bytes) = (SavedBytes::default(), bytemuck::cast_slice(values));
        encoder.encode_keys(keys, &stack, &mut used, &mut saved).unwrap();
        encoder.encode_values(bytes, 7, &stack, &mut used, &mut saved).unwrap();
        let (mut back, mut floats) = (vec![9; keys.len()], vec![9.0_f32; values.len()]);
        let mut scratch = Vec::new();
        decode_body_keys(&used, encoder.keys(), &mut back, &mut scratch).unwrap();
        let bytes = bytemuck::cast_slice_mut(&mut floats);
        decode_body_values(&used, encoder.values(), bytes, &mut scratch).unwrap();
        (used, encoder, saved, back, floats)
    }

    const STACKS: [&str; 8] = [
        "",
        "delta-keys",
        "snappy",
        "delta-keys,snappy",
        "bf16",
        "fixed:2,snappy",
        "delta-keys,snappy,f16",
        "delta-keys,fixed:4,snappy",
    ];

    #[test]
    fn a_filter_that_saves_nothing_is_left_out() {
        let far = [0x1122_3344_5566_7788, 0x5a69_788f_9ead_bccb, 0x99aa_bbcc_ddee_ff13];
        let (used, encoder, saved, ..) = through("delta-keys,snappy,fixed:4", &far, &[1.5]);
        assert_eq!(used, FilterStack::default());
        assert_eq!((encoder.keys().len(), encoder.values().len()), (24, 4));
        assert_eq!(saved, SavedBytes::default());
    }

    #[test]
    fn each_filter_tells_what_it_saved() {
        let keys: Vec<u64> = (0..1000).map(|key| 5000 + key * 2).collect();
        let values = vec![0.25; 1000];
        let (used, encoder, saved, back, floats) =
            through("delta-keys,bf16,snappy", &keys, &values);
        assert_eq!(used, "delta-keys,bf16,snappy".parse().unwrap());
        assert_eq!((back, floats), (keys, values));
        // The first key takes two bytes, every other one.
        assert_eq!((saved.delta_keys, saved.bf16), (8000 - 1001, 2000));
        let sent = (encoder.keys().len() + encoder.values().len()) as u64;
        assert_eq!(saved.by_filter().iter().map(|(_, bytes)| bytes).sum::<u64>(), 12_000 - sent);
        assert!(saved.snappy > 2500, "{saved:?}");
    }

    #[test]
    fn a_head_that_promises_too_many_keys_is_refused() {
        let filters: FilterStack = "delta-keys,snappy".parse().unwrap();
        let promise = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0];
        let mut scratch = Vec::new();
        let refused = decode_body_keys(&filters, &promise, &mut [0; 3], &mut scratch);
        assert!(matches!(refused, Err(FilterError::Length { expected: 30, .. })), "{refused:?}");
        assert_eq!(scratch.capacity(), 0);
    }

    proptest! {
        #[test]
        fn bodies_round_trip(
            mut keys in prop::collection::vec(any::<u64>(), 0..200),
            near in any::<bool>(),
            values in prop::collection::vec(-1e3_f32..1e3, 0..200),
            stack in 0..STACKS.len(),
        ) {
            if near {
                keys.iter_mut().for_each(|key| *key %= 10_000);
            }
            keys.sort_unstable();
            let greatest = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            let (_, encoder, _, back, floats) = through(STACKS[stack], &keys, &values);
            prop_assert_eq!(&back, &keys);
            prop_assert!(encoder.keys().len() <= keys.len() * 8);
            prop_assert!(encoder.values().len() <= values.len() * 4);
            for (was, is) in values.iter().zip(&floats) {
                prop_assert!((was - is).abs() <= greatest / 100.0, "{} became {}", was, is);
            }
        }

        #[test]
        fn bodies_take_any_bytes(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            count in 0_usize..64,
            stack in 0..STACKS.len(),
        ) {
            let filters: FilterStack = STACKS[stack].parse().unwrap();
            let mut scratch = Vec::new();
            let _ = decode_body_keys(&filters, &bytes, &mut vec![0; count], &mut scratch);
            let mut values = vec![0_f32; count];
            let values = bytemuck::cast_slice_mut(&mut values);
            let _ = decode_body_values(&filters, &bytes, values, &mut scratch);
            prop_assert!(scratch.capacity() <= count * VARINT_LEN_MAX + 8);
        }
    }
}
