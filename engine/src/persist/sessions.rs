//! What the log says of sessions that are forgotten, and where checkpoints hold the others.
//!
//! ```text
//!  record of kind Engine, tag 16, of no table    delta: sessions' ids, 8 bytes each
//! ```
//!
//! Whatever the partition's records before it covered of them is forgotten, on every replica and in
//! every recovery.

use windlass_wire::SessionId;

use super::{frame::Kind, record::Record};

/// Tag of an engine record that names sessions which have expired.
pub(crate) const EXPIRES: u16 = 16;

/// Section of a checkpoint's blocks with the last pushes applied: session tables as chains copy them, which
/// together are the whole one. Section 2 was another layout of them.
pub(crate) const SESSIONS: u16 = 3;

/// Bytes of one session's id.
pub(crate) const EXPIRED_LEN: usize = 8;

/// The sessions that expire with a record.
pub(crate) fn expired_of<'a>(record: &Record<'a>) -> impl Iterator<Item = SessionId> + use<'a> {
    let expires = record.kind() == Kind::Engine && record.tag() == EXPIRES;
    let bytes = if expires { record.delta() } else { &[] };
    bytes.chunks_exact(EXPIRED_LEN).map(|id| {
        let mut word = [0; EXPIRED_LEN];
        word.copy_from_slice(id);
        SessionId(u64::from_le_bytes(word))
    })
}
