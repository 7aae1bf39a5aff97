//! Any bytes: refused, or the one encoding of a message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass_wire::Wire;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = <windlass_wire::coordination::Report>::from_bytes(bytes) {
        assert_eq!(message.to_bytes(), bytes);
    }
});
