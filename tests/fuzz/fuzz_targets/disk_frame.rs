//! Any bytes of a log or checkpoint, with checksums that hold: refused, or lists within their bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass_engine::persist::{
    frame::{Frame, Salt},
    manifest::Manifest,
    record::Record,
    segment::Superblock,
};
use windlass_wire::Checksum;

const HEADER_BYTES: usize = 64;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    let Some(length) = bytes.len().checked_sub(bytes.len() % HEADER_BYTES).filter(|&len| len > 0)
    else {
        return;
    };
    // Sums that hold, as a fuzzer would hardly find them: the body's, then the header's.
    bytes[4..8].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    let body = Checksum::of(&bytes[HEADER_BYTES..length]).0;
    bytes[8..12].copy_from_slice(&body.to_le_bytes());
    for salt in [Salt::NONE, Salt::default()] {
        let unsalted = if salt == Salt::NONE { 0x5741_4C31 } else { 0 };
        let sum = Checksum::of(&bytes[4..HEADER_BYTES]).0 ^ unsalted;
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        if let Ok(frame) = Frame::decode(&bytes, salt) {
            assert_eq!(frame.bytes.len(), length);
            assert!(frame.delta().len() <= length);
        }
        if let Ok(record) = Record::decode(&bytes, salt) {
            assert_eq!(record.key_bytes().len(), record.keys().len() * 8);
            assert_eq!(record.covered().count() + record.stamps().count(), {
                usize::from(u16::from_le_bytes([bytes[56], bytes[57]]))
                    + usize::from(u16::from_le_bytes([bytes[58], bytes[59]]))
            });
            let _ = (record.rows(), record.dtype(), record.delta().len());
        }
        let _ = Superblock::decode(&bytes);
        let _ = Manifest::decode(&bytes);
    }
});
