//! The system calls behind connections: listening, dialling, and who the peer is.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::epoll,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

use super::endpoint::{Nonce, listener_name};
use crate::random;

/// A name that nobody can guess.
pub(super) fn random_nonce() -> io::Result<Nonce> {
    random::bytes().map(Nonce)
}

/// Listens under a name that lives as long as the socket.
pub(super) fn listen(name: &Nonce) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    rustix::net::bind(&socket, &address(name)?)?;
    rustix::net::listen(&socket, 1024)?;
    Ok(socket)
}

/// Connects without blocking; `WouldBlock` when the listener's queue is full.
pub(super) fn dial(name: &Nonce) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    rustix::net::connect(&socket, &address(name)?)?;
    Ok(socket)
}

/// Takes one connection, or `WouldBlock`.
pub(super) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::accept_with(listener, flags)?)
}

/// Whether the peer may be trusted with memory: it runs as the same user, or as root.
pub(super) fn is_trusted(socket: BorrowedFd<'_>) -> bool {
    let ours = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(socket)
        .is_ok_and(|peer| peer.uid == ours || peer.uid.is_root())
}

/// A second descriptor of the same memory that cannot be mapped writable.
pub(super) fn reopen_read_only(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?)
}

/// Ends the connection for the peer; what it says before its own end can still be received.
pub(super) fn hang_up(socket: impl AsFd) {
    // It fails where the peer has gone already.
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Write);
}

/// What to watch a queue pair's socket for.
pub(super) fn interest(wants_room: bool) -> epoll::EventFlags {
    let watched = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
    if wants_room { watched | epoll::EventFlags::OUT } else { watched }
}

/// Adds a descriptor to an epoll set.
pub(super) fn watch(epoll: impl AsFd, fd: impl AsFd, token: u64) -> io::Result<()> {
    Ok(epoll::add(epoll, fd, epoll::EventData::new_u64(token), interest(false))?)
}

fn seqpacket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

fn address(name: &Nonce) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new_abstract_name(listener_name(name).as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Pages, PagesOptions};

    #[test]
    fn memory_handed_over_for_reading_cannot_be_mapped_writable() {
        let pages = Pages::allocate(4096, PagesOptions::default()).unwrap();
        let handed_over = reopen_read_only(pages.fd().unwrap().as_fd()).unwrap();
        assert!(Pages::map_peer(handed_over.as_fd(), 4096, true).is_err());
        assert!(Pages::map_peer(handed_over.as_fd(), 4096, false).is_ok());
    }

    #[test]
    fn a_peer_of_the_same_user_is_trusted() {
        let name = random_nonce().unwrap();
        let listener = listen(&name).unwrap();
        let dialled = dial(&name).unwrap();
        let accepted = accept(listener.as_fd()).unwrap();
        assert!(is_trusted(dialled.as_fd()));
        assert!(is_trusted(accepted.as_fd()));
    }
}
