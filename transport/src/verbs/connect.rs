//! What two verbs queue pairs tell each other over the control connection.
//!
//! An exchange of our own, not rdma_cm: it needs no IP address on InfiniBand ports, no second
//! library and no port opened in a firewall, and the control connection, which carries tokens and
//! incarnations, is there anyway.
//!
//! ```text
//!  0        4        8        12       16 17 18   20   22 23 24              40
//!  | "WLVB" | version| number | psn    |ln|rd| lid | mtu |pr|0 | gid           |
//! ```
//! All integers little-endian; `ln` is the link (1 InfiniBand, 2 Ethernet), `rd` the reads the
//! side carries out at once, `mtu` in bytes, `pr` what its device promises (bit 0 reads in order, 1 words
//! read whole, 2 writes in order).

use super::{abi::ibv_gid, device::Link};
use crate::{
    error::{ConnectError, OpenError},
    fabric::{Endpoint, Promises},
};

const MAGIC: [u8; 4] = *b"WLVB";
const VERSION: u32 = 2;
const LEN: usize = 40;
/// Queue pair and packet sequence numbers have 24 bits.
const NUMBER_MAX: u32 = 0x00ff_ffff;

const _: () = assert!(LEN <= Endpoint::LEN_MAX);

/// One side of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VerbsEndpoint {
    pub(super) link: Link,
    pub(super) number: u32,
    pub(super) sequence_number: u32,
    pub(super) lid: u16,
    pub(super) mtu: u16,
    pub(super) reads_max: u8,
    pub(super) promises: Promises,
    pub(super) gid: ibv_gid,
}

impl VerbsEndpoint {
    pub(super) fn encode(&self) -> Endpoint {
        let link = match self.link {
            Link::InfiniBand => 1,
            Link::Ethernet | Link::Other => 2,
        };
        let mut bytes = Vec::with_capacity(LEN);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.sequence_number.to_le_bytes());
        bytes.extend([link, self.reads_max]);
        bytes.extend(self.lid.to_le_bytes());
        bytes.extend(self.mtu.to_le_bytes());
        bytes.extend([self.promises.bits(), 0]);
        bytes.extend(self.gid.raw);
        debug_assert_eq!(bytes.len(), LEN);
        Endpoint(bytes)
    }

    /// Takes nothing on trust: a peer may send any bytes.
    pub(super) fn decode(endpoint: &Endpoint) -> Result<Self, ConnectError> {
        const MALFORMED: ConnectError = ConnectError::Malformed { provider: "verbs" };
        let bytes: &[u8; LEN] = endpoint.0.as_slice().try_into().map_err(|_| MALFORMED)?;
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let link = match bytes[16] {
            1 => Link::InfiniBand,
            2 => Link::Ethernet,
            _ => return Err(MALFORMED),
        };
        let decoded = Self {
            link,
            number: word(8),
            sequence_number: word(12),
            reads_max: bytes[17],
            lid: half(18),
            mtu: half(20),
            promises: Promises::from_bits(bytes[22]).ok_or(MALFORMED)?,
            gid: ibv_gid { raw: bytes[24..].try_into().map_err(|_| MALFORMED)? },
        };
        let sound = bytes[..4] == MAGIC
            && word(4) == VERSION
            && decoded.number <= NUMBER_MAX
            && decoded.sequence_number <= NUMBER_MAX
            && decoded.reads_max > 0
            && (256..=4096).contains(&decoded.mtu)
            && decoded.mtu.is_power_of_two();
        if sound { Ok(decoded) } else { Err(MALFORMED) }
    }
}

/// A packet sequence number that an earlier queue pair of the same number hardly had: a stale
/// endpoint then cannot be answered by a later queue pair.
pub(super) fn random_sequence_number() -> u32 {
    use std::hash::{BuildHasher as _, RandomState};
    let random = RandomState::new().hash_one(std::process::id());
    u32::try_from(random & u64::from(NUMBER_MAX)).unwrap_or(0)
}

/// The peer cannot be reached.
pub(super) fn unreachable(remote: &VerbsEndpoint, kind: std::io::ErrorKind) -> ConnectError {
    let address = std::net::Ipv6Addr::from(remote.gid.raw).to_string();
    ConnectError::Unreachable { address, source: kind.into() }
}

/// What a device failed at, as an error of connecting.
pub(super) fn connect_error(error: OpenError) -> ConnectError {
    match error {
        OpenError::System { step, source, .. } => ConnectError::System { step, source },
        OpenError::Unavailable { .. } => ConnectError::System {
            step: "opening the device",
            source: std::io::Error::other(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> VerbsEndpoint {
        VerbsEndpoint {
            link: Link::Ethernet,
            number: 0x11,
            sequence_number: 0x00ab_cdef,
            lid: 7,
            mtu: 1024,
            reads_max: 16,
            promises: Promises { reads_words_whole: false, ..Promises::ALL },
            gid: ibv_gid { raw: [9; 16] },
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(VerbsEndpoint::decode(&endpoint().encode()).unwrap(), endpoint());
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let good = endpoint().encode();
        for len in 0..good.0.len() {
            assert!(VerbsEndpoint::decode(&Endpoint(good.0[..len].to_vec())).is_err());
        }
        let break_at = |at: usize, value: u8| {
            let mut bad = good.clone();
            bad.0[at] = value;
            VerbsEndpoint::decode(&bad)
        };
        assert!(break_at(0, b'X').is_err(), "magic");
        assert!(break_at(4, 9).is_err(), "version");
        assert!(break_at(11, 1).is_err(), "number of more than 24 bits");
        assert!(break_at(16, 3).is_err(), "link");
        assert!(break_at(17, 0).is_err(), "no reads");
        assert!(break_at(20, 1).is_err(), "MTU");
        assert!(break_at(22, 8).is_err(), "promises");
    }
}
