//! What one side tells the other to be found: fixed 64 bytes.
//!
//! ```text
//! offset
//!      0  [4]   "WSHM"
//!      4  u16   version
//!      6  u16   zero
//!      8  [16]  nonce of the queue pair
//!     24  [16]  boot id of the host
//!     40  u64   network namespace: where abstract socket names are known
//!     48  [16]  name of the listener
//! ```

use std::{io, os::linux::fs::MetadataExt};

use crate::{error::ConnectError, fabric::Endpoint};

const MAGIC: [u8; 4] = *b"WSHM";
const VERSION: u16 = 1;
pub(super) const ENDPOINT_LEN: usize = 64;

/// A number that nobody guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nonce(pub(super) [u8; 16]);

/// A decoded endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) nonce: Nonce,
    pub(super) host: Host,
    pub(super) listener: Nonce,
}

/// Where names mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Host {
    boot_id: [u8; 16],
    network_namespace: u64,
}

impl Host {
    /// This host; what cannot be read is zero, and then says nothing.
    pub(super) fn here() -> Self {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let mut boot_id = [0; 16];
        let mut digits = text.chars().filter_map(|digit| digit.to_digit(16));
        for byte in &mut boot_id {
            let high = digits.next().unwrap_or(0);
            let low = digits.next().unwrap_or(0);
            *byte = u8::try_from(high << 4 | low).unwrap_or(0);
        }
        let network_namespace =
            std::fs::metadata("/proc/self/ns/net").map_or(0, |metadata| metadata.st_ino());
        Self { boot_id, network_namespace }
    }

    /// Why a peer there cannot be reached from here, if it cannot.
    fn obstacle(&self, peer: &Self) -> Option<&'static str> {
        if self.boot_id != peer.boot_id {
            return Some("it is on another host: use the tcp or verbs transport");
        }
        if self.network_namespace != peer.network_namespace {
            return Some("it is in another network namespace: use the tcp transport");
        }
        None
    }
}

impl Address {
    pub(super) fn encode(&self) -> Endpoint {
        let mut bytes = Vec::with_capacity(ENDPOINT_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&self.nonce.0);
        bytes.extend_from_slice(&self.host.boot_id);
        bytes.extend_from_slice(&self.host.network_namespace.to_le_bytes());
        bytes.extend_from_slice(&self.listener.0);
        assert_eq!(bytes.len(), ENDPOINT_LEN);
        Endpoint(bytes)
    }

    /// Decodes a peer's endpoint and checks that it can be reached from `here`.
    pub(super) fn decode(endpoint: &Endpoint, here: &Host) -> Result<Self, ConnectError> {
        let address =
            Self::parse(&endpoint.0).ok_or(ConnectError::Malformed { provider: "shm" })?;
        match here.obstacle(&address.host) {
            None => Ok(address),
            Some(reason) => Err(ConnectError::Unreachable {
                address: address.name(),
                source: io::Error::new(io::ErrorKind::AddrNotAvailable, reason),
            }),
        }
    }

    /// The abstract socket name.
    pub(super) fn name(&self) -> String {
        listener_name(&self.listener)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; ENDPOINT_LEN] = bytes.try_into().ok()?;
        let header_is_right =
            bytes[..4] == MAGIC && bytes[4..6] == VERSION.to_le_bytes() && bytes[6..8] == [0; 2];
        if !header_is_right {
            return None;
        }
        let host = Host {
            boot_id: bytes[24..40].try_into().ok()?,
            network_namespace: u64::from_le_bytes(bytes[40..48].try_into().ok()?),
        };
        Some(Self {
            nonce: Nonce(bytes[8..24].try_into().ok()?),
            host,
            listener: Nonce(bytes[48..64].try_into().ok()?),
        })
    }
}

/// The abstract socket name of a listener.
pub(super) fn listener_name(listener: &Nonce) -> String {
    use std::fmt::Write;
    let mut name = String::from("windlass-shm-");
    for byte in listener.0 {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_come_back_as_they_went_and_are_refused_when_changed() {
        let here = Host::here();
        let address = Address { nonce: Nonce([3; 16]), host: here, listener: Nonce([5; 16]) };
        let endpoint = address.encode();
        assert_eq!(Address::decode(&endpoint, &here).unwrap(), address);
        for position in 0..8 {
            let mut changed = endpoint.clone();
            changed.0[position] ^= 1;
            let refused = Address::decode(&changed, &here);
            assert!(matches!(refused, Err(ConnectError::Malformed { .. })));
        }
        for len in 0..ENDPOINT_LEN {
            let short = Endpoint(endpoint.0[..len].to_vec());
            assert!(Address::decode(&short, &here).is_err());
        }
        let mut elsewhere = endpoint;
        elsewhere.0[30] ^= 1;
        let refused = Address::decode(&elsewhere, &here);
        assert!(matches!(refused, Err(ConnectError::Unreachable { .. })));
    }
}
