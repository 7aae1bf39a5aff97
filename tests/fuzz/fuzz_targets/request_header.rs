//! Any header, rule, frame header and completion word: refused, or encoded as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass_wire::{CompletionWord, RequestHeader, UpdateRule, control};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(found) = RequestHeader::decode(bytes, bytes.len() as u64) {
        let mut again = found.encode();
        again[44..48].copy_from_slice(&bytes[44..48]);
        assert_eq!(again[..], bytes[..found.len()]);
    }
    let _ = RequestHeader::verify(bytes);
    if let Some(rule) = bytes.first_chunk::<{ UpdateRule::ENCODED_LENGTH }>()
        && let Ok(found) = UpdateRule::decode(rule)
    {
        assert_eq!(found.encode(), *rule);
    }
    if let Some(header) = bytes.first_chunk::<{ control::FRAME_HEADER_LEN }>() {
        let _ = control::decode_frame_header(header);
    }
    if let Some(word) = bytes.first_chunk::<8>().map(|word| u64::from_le_bytes(*word))
        && let Some(found) = CompletionWord::decode(word)
    {
        assert_eq!(found.encode(), word);
    }
});
