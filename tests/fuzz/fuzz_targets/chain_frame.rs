//! Any header and body between the servers of a chain: refused, or encoded as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass_wire::{
    Checksum,
    chain::{ChainFrame, HEADER_LEN},
};

/// Where a header has its checksum.
const CHECKSUM_AT: usize = 40;

fuzz_target!(|bytes: &[u8]| {
    let Some((header, body)) = bytes.split_first_chunk::<HEADER_LEN>() else { return };
    let mut header = *header;
    header[CHECKSUM_AT..CHECKSUM_AT + 4].fill(0);
    // Either sum may be asked for: that of the header alone, or of both.
    let alone = Checksum::of(&header);
    for sum in [alone, alone.append(body)] {
        header[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&sum.0.to_le_bytes());
        if let Ok(frame) = ChainFrame::decode(&header, body) {
            assert_eq!(frame.encode(body), header);
        }
    }
});
