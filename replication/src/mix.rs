//! The one deterministic hash of placement and tree shapes. It is part of the protocol: every coordinator must
//! place alike.

pub use windlass_wire::map::mix;

/// A well mixed function of two values, in order.
#[must_use]
pub fn mix2(a: u64, b: u64) -> u64 {
    mix(mix(a) ^ b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_as_splitmix64_does() {
        // The published first outputs of the generator from the seeds 0 and 1234567.
        assert_eq!(mix(0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(mix(1_234_567), 6_457_827_717_110_365_317);
        assert_eq!(mix(0x9E37_79B9_7F4A_7C15), 0x6E78_9E6A_A1B9_65F4);
        assert_eq!(mix2(3, 5), mix(mix(3) ^ 5));
        assert_ne!(mix2(3, 5), mix2(5, 3));
    }
}
