//! What the two sides of a queue pair must know of each other, and what the side that dials says
//! first. The nonce is a bearer token: only who was told over the control connection knows it.
//!
//! ```text
//! endpoint                               payload of the hello frame
//! byte  0  "WTCP"         4              byte  0  queue pair dialled    4
//!       4  version        2                    4  queue pair dialling   4
//!       6  family, 4 / 6  1                    8  nonce dialled        16
//!       7  promises       1                   24  nonce dialling       16
//!       8  address       16                   40
//!      24  port           2
//!      26  zero           2
//!      28  queue pair     4
//!      32  nonce         16
//!      48  checksum       4   CRC32C of bytes 0..48
//!      52
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use windlass_wire::checksum::Checksum;

use crate::{
    error::ConnectError,
    fabric::{Endpoint, Promises, QueuePairId},
};

use super::frame::u32_at;

const MAGIC: &[u8; 4] = b"WTCP";
const VERSION: u16 = 2;
const ADDRESS_LEN: usize = 52;

/// Bytes of the hello frame's payload.
pub(super) const HELLO_LEN: usize = 40;

/// The secret of one queue pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nonce(pub(super) [u8; 16]);

impl Nonce {
    /// Fresh and unguessable.
    pub(super) fn random() -> Result<Self, ConnectError> {
        let bytes = crate::random::bytes();
        bytes.map(Self).map_err(|source| ConnectError::System { step: "getrandom", source })
    }

    /// Whether both are the same, in a time that does not depend on where they differ.
    pub(super) fn matches(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).fold(0, |all, (a, b)| all | (a ^ b)) == 0
    }
}

/// A decoded endpoint.
#[derive(Clone, Copy)]
pub(super) struct Address {
    pub(super) socket: SocketAddr,
    pub(super) queue_pair: QueuePairId,
    pub(super) nonce: Nonce,
    pub(super) promises: Promises,
}

impl Address {
    pub(super) fn encode(&self) -> Endpoint {
        let mut bytes = vec![0; ADDRESS_LEN];
        bytes[0..4].copy_from_slice(MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        match self.socket.ip() {
            IpAddr::V4(ip) => {
                bytes[6] = 4;
                bytes[8..12].copy_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                bytes[6] = 6;
                bytes[8..24].copy_from_slice(&ip.octets());
            }
        }
        bytes[7] = self.promises.bits();
        bytes[24..26].copy_from_slice(&self.socket.port().to_le_bytes());
        bytes[28..32].copy_from_slice(&self.queue_pair.0.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.nonce.0);
        let checksum = Checksum::of(&bytes[..48]);
        bytes[48..52].copy_from_slice(&checksum.0.to_le_bytes());
        Endpoint(bytes)
    }

    pub(super) fn decode(endpoint: &Endpoint) -> Result<Self, ConnectError> {
        let malformed = ConnectError::Malformed { provider: super::PROVIDER };
        let bytes = endpoint.0.as_slice();
        if bytes.len() != ADDRESS_LEN
            || &bytes[0..4] != MAGIC
            || bytes[4..6] != VERSION.to_le_bytes()
            || Checksum::of(&bytes[..48]) != Checksum(u32_at(bytes, 48))
        {
            return Err(malformed);
        }
        let mut octets = [0; 16];
        octets.copy_from_slice(&bytes[8..24]);
        let ip = match bytes[6] {
            4 => IpAddr::V4(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3])),
            6 => IpAddr::V6(Ipv6Addr::from(octets)),
            _ => return Err(malformed),
        };
        let port = u16::from_le_bytes([bytes[24], bytes[25]]);
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&bytes[32..48]);
        Ok(Self {
            socket: SocketAddr::new(ip, port),
            queue_pair: QueuePairId(u32_at(bytes, 28)),
            nonce: Nonce(nonce),
            promises: Promises::from_bits(bytes[7]).ok_or(malformed)?,
        })
    }
}

/// The first thing said on a connection.
#[derive(Clone, Copy)]
pub(super) struct Hello {
    pub(super) dialled: QueuePairId,
    pub(super) dialling: QueuePairId,
    pub(super) nonce_dialled: Nonce,
    pub(super) nonce_dialling: Nonce,
}

impl Hello {
    pub(super) fn encode(&self) -> [u8; HELLO_LEN] {
        let mut bytes = [0; HELLO_LEN];
        bytes[0..4].copy_from_slice(&self.dialled.0.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.dialling.0.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.nonce_dialled.0);
        bytes[24..40].copy_from_slice(&self.nonce_dialling.0);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HELLO_LEN]) -> Self {
        let nonce = |at: usize| {
            let mut nonce = [0; 16];
            nonce.copy_from_slice(&bytes[at..at + 16]);
            Nonce(nonce)
        };
        Self {
            dialled: QueuePairId(u32_at(bytes, 0)),
            dialling: QueuePairId(u32_at(bytes, 4)),
            nonce_dialled: nonce(8),
            nonce_dialling: nonce(24),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_survives_its_bytes() {
        for socket in ["127.0.0.1:7700", "[fe80::1]:1"] {
            let address = Address {
                socket: socket.parse().unwrap(),
                queue_pair: QueuePairId(7),
                nonce: Nonce::random().unwrap(),
                promises: Promises { reads_in_order: false, ..Promises::ALL },
            };
            let decoded = Address::decode(&address.encode()).unwrap();
            assert_eq!(decoded.socket, address.socket);
            assert_eq!(decoded.queue_pair, address.queue_pair);
            assert!(decoded.nonce.matches(&address.nonce));
            assert_eq!(decoded.promises, address.promises);
        }
    }

    #[test]
    fn any_changed_byte_is_refused() {
        let address = Address {
            socket: "10.1.2.3:4".parse().unwrap(),
            queue_pair: QueuePairId(1),
            nonce: Nonce([9; 16]),
            promises: Promises::ALL,
        };
        let endpoint = address.encode();
        for at in 0..endpoint.0.len() {
            let mut changed = endpoint.clone();
            changed.0[at] ^= 0x10;
            assert!(Address::decode(&changed).is_err());
        }
        assert!(Address::decode(&Endpoint(endpoint.0[..51].to_vec())).is_err());
        assert!(Address::decode(&Endpoint(Vec::new())).is_err());
    }
}
