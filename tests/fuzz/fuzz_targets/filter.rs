//! Any filtered keys and values: refused, or decoded; keys are encoded as they were.
#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass_wire::filter::{
    FixedWidth, decode_bf16, decode_f16, decode_fixed, decode_keys, decompress, encode_keys,
};

fuzz_target!(|bytes: &[u8]| {
    let Some((&[count, width], coded)) = bytes.split_first_chunk() else { return };
    let count = usize::from(count);
    let mut keys = vec![0; count];
    if decode_keys(coded, &mut keys).is_ok() {
        let mut again = Vec::new();
        encode_keys(&keys, &mut again).expect("decoded keys ascend");
        assert_eq!(again, coded);
    }
    let mut values = vec![0.0; count];
    let _ = decode_bf16(coded, &mut values);
    let _ = decode_f16(coded, &mut values);
    if let Some(fixed) = FixedWidth::new(usize::from(width % 5)) {
        let _ = decode_fixed(coded, fixed, &mut values);
    }
    let _ = decompress(coded, &mut vec![0; count]);
});
