//! How a server proves that it is the one it says it is.
//!
//! A server makes a secret at its first join and keeps it; the coordinator keeps it beside the
//! server's number. Whoever joins by that number later has to present it. Between servers the
//! coordinator hands out tickets: one for server A at server B is a keyed digest of A's name by B's
//! secret, so that B checks it alone, and A learns nothing that makes tickets for others.
//!
//! ```text
//! ticket = SipHash-2-4(key: secret of B, cluster (8) | A's number (4) | A's incarnation (8))
//! ```

#[expect(deprecated, reason = "it is SipHash 2-4 with a key, and std has no other way to it")]
use std::hash::SipHasher;
use std::{fmt, hash::Hasher as _};

use crate::{
    codec::{DecodeError, Reader, Wire},
    control::Peer,
    ids::ServerId,
};

/// What a server proves itself by: known to it and the coordinator, and to nobody else.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerSecret(pub [u8; 16]);

/// Says to one server that another one is who it says it is, in one life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket(pub u64);

/// A server's number, and what proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// The number.
    pub server: ServerId,
    /// The secret of whoever has it.
    pub secret: ServerSecret,
}

crate::codec::wire_struct!(Enrolled { server, secret });

impl ServerSecret {
    /// The ticket by which `peer` proves itself to the server whose secret this is.
    #[must_use]
    pub fn ticket_for(&self, cluster: u64, peer: Peer) -> Ticket {
        let (low, high) = self.0.split_at(8);
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("half of the secret"));
        #[expect(deprecated, reason = "as above")]
        let mut hasher = SipHasher::new_with_keys(word(low), word(high));
        hasher.write(&cluster.to_le_bytes());
        hasher.write(&peer.server.0.to_le_bytes());
        hasher.write(&peer.incarnation.0.to_le_bytes());
        Ticket(hasher.finish())
    }

    /// Whether this is the secret that is presented. Takes as long for any.
    #[must_use]
    pub fn is(&self, presented: &Self) -> bool {
        self.0.iter().zip(presented.0).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
    }
}

impl fmt::Debug for ServerSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ServerSecret")
    }
}

impl Wire for ServerSecret {
    fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.0);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(from.array()?))
    }
}

impl Wire for Ticket {
    fn encode(&self, into: &mut Vec<u8>) {
        self.0.encode(into);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(u64::decode(from)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Incarnation;

    #[test]
    #[expect(deprecated, reason = "as above")]
    fn the_digest_is_siphash_2_4() {
        // The vector in the appendix of the paper by Aumasson and Bernstein.
        let mut hasher = SipHasher::new_with_keys(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        hasher.write(&(0..15).collect::<Vec<u8>>());
        assert_eq!(hasher.finish(), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn a_ticket_is_for_one_life_of_one_server_at_another() {
        let secret = ServerSecret(*b"0123456789abcdef");
        let peer = Peer { server: ServerId(2), incarnation: Incarnation(7) };
        let ticket = secret.ticket_for(9, peer);
        assert_eq!(ticket, secret.ticket_for(9, peer));
        let others = [
            secret.ticket_for(8, peer),
            secret.ticket_for(9, Peer { server: ServerId(3), ..peer }),
            secret.ticket_for(9, Peer { incarnation: Incarnation(8), ..peer }),
            ServerSecret(*b"0123456789abcdeg").ticket_for(9, peer),
        ];
        assert!(others.iter().all(|other| *other != ticket));
        assert!(secret.is(&secret) && !secret.is(&ServerSecret::default()));
        assert_eq!(format!("{secret:?}"), "ServerSecret", "logs do not tell it");
    }
}
