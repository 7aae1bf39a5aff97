//! What the interoperation tests share: the endpoint bytes of our verbs provider, read and written
//! here by their documented layout and not by its code.

/// One side of a queue pair as the control connection carries it.
#[derive(Clone, Copy, Debug)]
pub struct EndpointBytes {
    /// Queue pair number.
    pub number: u32,
    /// First packet sequence number this side sends.
    pub sequence_number: u32,
    /// Reads it carries out at once.
    pub reads_max: u8,
    /// InfiniBand local identifier.
    pub lid: u16,
    /// MTU in bytes.
    pub mtu: u16,
    /// Its address.
    pub gid: [u8; 16],
}

impl EndpointBytes {
    /// The 40 bytes of an Ethernet endpoint.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = b"WLVB\x01\0\0\0".to_vec();
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.sequence_number.to_le_bytes());
        bytes.extend([2, self.reads_max]);
        bytes.extend(self.lid.to_le_bytes());
        bytes.extend(self.mtu.to_le_bytes());
        bytes.extend([0, 0]);
        bytes.extend(self.gid);
        bytes
    }

    /// Reads an endpoint of ours.
    ///
    /// # Panics
    /// When it does not have the documented length.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        assert_eq!((bytes.len(), &bytes[..4]), (40, &b"WLVB"[..]));
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let half = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
        Self {
            number: word(8),
            sequence_number: word(12),
            reads_max: bytes[17],
            lid: half(18),
            mtu: half(20),
            gid: bytes[24..].try_into().unwrap(),
        }
    }
}

/// The device under test, or `None` where there is none and none is required.
#[must_use]
pub fn device() -> Option<String> {
    let device = std::env::var("WINDLASS_VERBS_DEVICE").ok();
    assert!(
        device.is_some() || std::env::var_os("WINDLASS_REQUIRE_VERBS").is_none(),
        "this run requires a device: use `cargo xtask softroce`"
    );
    device
}
