//! The one deterministic hash of placement and tree shapes: the finaliser of SplitMix64. It is part
//! of the protocol (every coordinator must place alike), so its constants never change.

/// A well mixed function of `value`.
#[must_use]
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A well mixed function of two values, in order.
#[must_use]
pub fn mix2(a: u64, b: u64) -> u64 {
    mix(mix(a) ^ b)
}
