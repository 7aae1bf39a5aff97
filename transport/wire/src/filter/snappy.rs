//! Snappy's raw format, for the bytes of keys and of values.

use std::fmt;

use super::FilterError;

/// Compresses; keeps the tables that compression needs, so that only the first calls allocate them.
#[derive(Default)]
pub struct Compressor(Option<Box<snap::raw::Encoder>>);

impl Compressor {
    /// Appends `bytes` compressed. On an error (an input over 4 GiB) `out` is as it was.
    pub fn compress(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), FilterError> {
        let start = out.len();
        out.resize(start + snap::raw::max_compress_len(bytes.len()), 0);
        let encoder = self.0.get_or_insert_with(|| Box::new(snap::raw::Encoder::new()));
        match encoder.compress(bytes, &mut out[start..]) {
            Ok(len) => {
                out.truncate(start + len);
                Ok(())
            }
            Err(error) => {
                out.truncate(start);
                Err(error.into())
            }
        }
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Compressor")
    }
}

/// Fills `out` from `bytes`, which must be that many bytes compressed. Allocates nothing.
pub fn decompress(bytes: &[u8], out: &mut [u8]) -> Result<(), FilterError> {
    super::expect_len("snappy", out.len(), snap::raw::decompress_len(bytes)?)?;
    let len = snap::raw::Decoder::new().decompress(bytes, out)?;
    super::expect_len("snappy", out.len(), len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compressed(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Compressor::default().compress(bytes, &mut out).unwrap();
        out
    }

    #[test]
    fn snappy_has_golden_bytes() {
        // Length 100, a literal of one byte, then copies of it.
        let bytes = compressed(&[7; 100]);
        assert_eq!(bytes, [0x64, 0x00, 0x07, 0xfe, 0x01, 0x00, 0x8a, 0x01, 0x00]);
    }

    #[test]
    fn snappy_refuses_a_length_that_the_request_does_not_call_for() {
        // A head that promises 4 GiB - 1 is refused by its length alone.
        let error = decompress(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0], &mut [0; 8]).unwrap_err();
        let actual = 0xffff_ffff;
        assert_eq!(error, FilterError::Length { filter: "snappy", expected: 8, actual });
        let error = decompress(&compressed(&[7; 100]), &mut [0; 101]).unwrap_err();
        assert_eq!(error, FilterError::Length { filter: "snappy", expected: 101, actual: 100 });
        let error = decompress(&[], &mut [0; 1]).unwrap_err();
        assert!(error.to_string().starts_with("snappy: "), "{error}");
    }

    proptest! {
        #[test]
        fn snappy_round_trips(bytes in prop::collection::vec(0_u8..4, 0..2000)) {
            let mut decoded = vec![9; bytes.len()];
            decompress(&compressed(&bytes), &mut decoded).unwrap();
            prop_assert_eq!(decoded, bytes);
        }

        #[test]
        fn snappy_takes_any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 1..80), len in 0_u8..128) {
            // The right length at the head, so that the rest is looked at.
            bytes[0] = len;
            let _ = decompress(&bytes, &mut vec![0; usize::from(len)]);
        }
    }
}
