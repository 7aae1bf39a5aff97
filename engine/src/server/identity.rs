//! A server's identity, which its data directory keeps across restarts.
//!
//! ```text
//! offset size
//!      0    8  "WLSERVR2"
//!      8    4  CRC32C of the rest
//!     12    4  the server's number
//!     16    8  the cluster it has it in
//!     24    8  its last life: the next one is a later one
//!     32   16  the secret that proves its number
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use windlass_wire::{Checksum, Incarnation, ServerId, ServerSecret};

use crate::private_files;

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) server: ServerId,
    pub(super) cluster: u64,
    pub(super) incarnation: Incarnation,
    pub(super) secret: ServerSecret,
}

/// Why a server does not know who it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The disk refused.
    #[error("cannot {step} {path}")]
    Disk {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is damaged, or of another version.
    #[error(
        "{path} is damaged or of another version: restore it from a backup, or move the data \
         directory away"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

const MAGIC: [u8; 8] = *b"WLSERVR2";
const LEN: usize = 48;

impl Identity {
    /// Reads the identity in a data directory; `None` when there is none yet.
    pub(super) fn load(data: &Path) -> Result<Option<Self>, IdentityError> {
        let path = data.join("identity");
        match fs::read(&path) {
            Ok(bytes) => decode(&bytes).map(Some).ok_or(IdentityError::Damaged { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(IdentityError::Disk { step: "read", path, source }),
        }
    }

    /// Replaces the identity in a data directory; durable when it returns.
    pub(super) fn store(&self, data: &Path) -> Result<(), IdentityError> {
        let path = data.join("identity");
        private_files::make_directory(data)
            .and_then(|()| private_files::replace(&path, &[&self.encode()]))
            .map_err(|source| IdentityError::Disk { step: "write", path, source })
    }

    fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[12..16].copy_from_slice(&self.server.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.cluster.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.incarnation.0.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.secret.0);
        let checksum = Checksum::of(&bytes[12..]);
        bytes[8..12].copy_from_slice(&checksum.0.to_le_bytes());
        bytes
    }
}

fn decode(bytes: &[u8]) -> Option<Identity> {
    let bytes: &[u8; LEN] = bytes.try_into().ok()?;
    let (head, rest) = bytes.split_first_chunk::<12>()?;
    let (server, rest) = rest.split_first_chunk()?;
    let (cluster, rest) = rest.split_first_chunk()?;
    let (incarnation, secret) = rest.split_first_chunk()?;
    let is_whole = head[..8] == MAGIC && head[8..] == Checksum::of(&bytes[12..]).0.to_le_bytes();
    is_whole.then_some(Identity {
        server: ServerId(u32::from_le_bytes(*server)),
        cluster: u64::from_le_bytes(*cluster),
        incarnation: Incarnation(u64::from_le_bytes(*incarnation)),
        secret: ServerSecret(*secret.first_chunk()?),
    })
}

/// A life after `last`: lives of one server ascend, also over restarts and clocks that are set back.
pub(super) fn next_life(last: Incarnation) -> Incarnation {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    Incarnation(now.max(last.0.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Identity::load(folder.path()).unwrap(), None);
        let identity = Identity {
            server: ServerId(3),
            cluster: 77,
            incarnation: next_life(Incarnation(5)),
            secret: ServerSecret([7; 16]),
        };
        identity.store(folder.path()).unwrap();
        assert_eq!(Identity::load(folder.path()).unwrap(), Some(identity));
        let bytes = identity.encode();
        for at in 0..LEN {
            let mut damaged = bytes;
            damaged[at] ^= 2;
            assert_eq!(decode(&damaged), None, "byte {at}");
        }
        assert!(next_life(identity.incarnation) > identity.incarnation);
        assert_eq!(next_life(Incarnation(u64::MAX - 1)), Incarnation(u64::MAX));
    }
}
