//! What goes over a queue pair's Unix socket: fixed 40 bytes, and descriptors beside them.
//!
//! ```text
//! offset
//!      0  u8    kind: 1 hello, 2 welcome, 3 refused, 4 share, 5 unshare
//!      1  u8    share: access bits (1 read, 2 write, 4 atomic)
//!      2  [6]   zero
//!      8  [16]  hello, welcome: nonce of the receiver's queue pair; share: u32 key, u32 zero, u64 length;
//!              unshare: u32 key, zeros
//!     24  [16]  hello, welcome: nonce of the sender's queue pair
//! ```
//! Hello and welcome carry three descriptors (instance page, eventfd, channel page), share one.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags,
    },
};

use super::{endpoint::Nonce, limits::DESCRIPTORS_MAX};
use crate::fabric::Access;

pub(super) const MESSAGE_LEN: usize = 40;

/// A message without its descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The active side's first message.
    Hello { to: Nonce, from: Nonce },
    /// The passive side's answer, after the regions that were shared before.
    Welcome { to: Nonce, from: Nonce },
    /// The passive side knows no such queue pair.
    Refused,
    /// A region to map.
    Share { key: u32, access: Access, len: u64 },
    /// A region has ended: nothing needs its mapping but views.
    Unshare { key: u32 },
}

/// Descriptors that came with a message.
#[derive(Debug, Default)]
pub(super) struct Descriptors(pub(super) [Option<OwnedFd>; DESCRIPTORS_MAX]);

impl Descriptors {
    /// Why one of them is missing: a peer sends what belongs to its message, and the kernel drops what finds no
    /// room here.
    pub(super) fn missing() -> io::Error {
        Errno::MFILE.into()
    }
}

impl Message {
    pub(super) fn encode(&self) -> [u8; MESSAGE_LEN] {
        let mut bytes = [0; MESSAGE_LEN];
        match self {
            Self::Hello { to, from } | Self::Welcome { to, from } => {
                bytes[0] = if matches!(self, Self::Hello { .. }) { 1 } else { 2 };
                bytes[8..24].copy_from_slice(&to.0);
                bytes[24..40].copy_from_slice(&from.0);
            }
            Self::Refused => bytes[0] = 3,
            Self::Share { key, access, len } => {
                bytes[0] = 4;
                bytes[1] = u8::from(access.remote_read)
                    | u8::from(access.remote_write) << 1
                    | u8::from(access.remote_atomic) << 2;
                bytes[8..12].copy_from_slice(&key.to_le_bytes());
                bytes[16..24].copy_from_slice(&len.to_le_bytes());
            }
            Self::Unshare { key } => {
                bytes[0] = 5;
                bytes[8..12].copy_from_slice(&key.to_le_bytes());
            }
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8; MESSAGE_LEN]) -> Option<Self> {
        let to = || Some(Nonce(bytes[8..24].try_into().ok()?));
        let from = || Some(Nonce(bytes[24..40].try_into().ok()?));
        match (bytes[0], bytes[1]) {
            (1, 0) => Some(Self::Hello { to: to()?, from: from()? }),
            (2, 0) => Some(Self::Welcome { to: to()?, from: from()? }),
            (3, 0) => Some(Self::Refused),
            (4, bits @ 1..=7) => Some(Self::Share {
                key: u32::from_le_bytes(bytes[8..12].try_into().ok()?),
                access: Access {
                    remote_read: bits & 1 != 0,
                    remote_write: bits & 2 != 0,
                    remote_atomic: bits & 4 != 0,
                },
                len: u64::from_le_bytes(bytes[16..24].try_into().ok()?),
            }),
            (5, 0) => {
                Some(Self::Unshare { key: u32::from_le_bytes(bytes[8..12].try_into().ok()?) })
            }
            _ => None,
        }
    }
}

/// Sends without blocking; `WouldBlock` when the socket has no room.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    message: &Message,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    assert!(descriptors.len() <= DESCRIPTORS_MAX, "a message carries few descriptors");
    let bytes = message.encode();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
        assert!(fits, "the space is made for this many descriptors");
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags)?;
    if sent == MESSAGE_LEN { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// As [`send`], with descriptors as they wait for room.
pub(super) fn send_owned(
    socket: BorrowedFd<'_>,
    message: &Message,
    descriptors: &Descriptors,
) -> io::Result<()> {
    match &descriptors.0 {
        [Some(first), Some(second), Some(third)] => {
            send(socket, message, &[first.as_fd(), second.as_fd(), third.as_fd()])
        }
        [Some(first), ..] => send(socket, message, &[first.as_fd()]),
        _ => send(socket, message, &[]),
    }
}

/// Receives without blocking; `None` when the peer has hung up, `WouldBlock` when nothing is there,
/// `InvalidData` when the message makes no sense.
pub(super) fn receive(socket: impl AsFd) -> io::Result<Option<(Message, Descriptors)>> {
    // One byte more than a message, so that a longer one is seen to be longer.
    let mut bytes = [0_u8; MESSAGE_LEN + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let mut descriptors = Descriptors::default();
    let mut count = 0;
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
            for descriptor in rights {
                // What is too much is closed by being dropped.
                if let Some(place) = descriptors.0.get_mut(count) {
                    *place = Some(descriptor);
                    count += 1;
                }
            }
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let message = <&[u8; MESSAGE_LEN]>::try_from(&bytes[..received.bytes])
        .ok()
        .and_then(Message::decode)
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some((message, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_as_they_went() {
        let messages = [
            Message::Hello { to: Nonce([1; 16]), from: Nonce([2; 16]) },
            Message::Welcome { to: Nonce([3; 16]), from: Nonce([4; 16]) },
            Message::Refused,
            Message::Share { key: 0x0102_0304, access: Access::ALL, len: 1 << 40 },
            Message::Unshare { key: 0x0102_0304 },
        ];
        for message in messages {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
        let mut unknown = Message::Refused.encode();
        unknown[0] = 6;
        assert_eq!(Message::decode(&unknown), None);
    }
}
