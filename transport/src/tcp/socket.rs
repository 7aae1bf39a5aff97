//! The system calls that move bytes between a socket and registered memory. They are made by hand
//! because the safe interfaces want references, and none may exist over memory that peers write.
#![allow(unsafe_code)]

use std::{
    io,
    marker::PhantomData,
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{self, AddressFamily, SocketFlags, SocketType, sockopt},
};

use crate::memory::Pages;

use super::limits::PIECES_MAX;

const NO_PIECE: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// Pieces of memory that one send takes bytes from, in order. It borrows all of them.
pub(super) struct Gather<'a> {
    pieces: [libc::iovec; PIECES_MAX],
    count: usize,
    len: usize,
    memory: PhantomData<&'a [u8]>,
}

impl<'a> Gather<'a> {
    pub(super) fn new() -> Self {
        Self { pieces: [NO_PIECE; PIECES_MAX], count: 0, len: 0, memory: PhantomData }
    }

    /// Total bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_full(&self) -> bool {
        self.count == PIECES_MAX
    }

    pub(super) fn push_bytes(&mut self, bytes: &'a [u8]) {
        self.push(bytes.as_ptr().cast_mut(), bytes.len());
    }

    /// Panics when the bytes are not inside the pages.
    pub(super) fn push_pages(&mut self, pages: &'a Pages, offset: u64, len: usize) {
        self.push(pages.pointer(offset, len), len);
    }

    fn push(&mut self, pointer: *mut u8, len: usize) {
        self.pieces[self.count] = libc::iovec { iov_base: pointer.cast(), iov_len: len };
        self.count += 1;
        self.len += len;
    }
}

/// Pieces of memory that one receive fills, in order. It borrows all of them.
pub(super) struct Scatter<'a> {
    pieces: [libc::iovec; PIECES_MAX],
    count: usize,
    len: usize,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Scatter<'a> {
    pub(super) fn new() -> Self {
        Self { pieces: [NO_PIECE; PIECES_MAX], count: 0, len: 0, memory: PhantomData }
    }

    /// Total bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push_buffer(&mut self, buffer: &'a mut [u8]) {
        self.push(buffer.as_mut_ptr(), buffer.len());
    }

    /// Panics when the bytes are not inside the pages.
    pub(super) fn push_pages(&mut self, pages: &'a Pages, offset: u64, len: usize) {
        self.push(pages.pointer(offset, len), len);
    }

    fn push(&mut self, pointer: *mut u8, len: usize) {
        self.pieces[self.count] = libc::iovec { iov_base: pointer.cast(), iov_len: len };
        self.count += 1;
        self.len += len;
    }
}

/// Result of a transfer.
#[derive(Debug)]
pub(super) enum Transfer {
    /// Bytes moved; zero only if none were requested.
    Bytes(usize),
    /// None can be moved now.
    Blocked,
    /// None will ever be: the end of the stream, or an error.
    Ended(io::Error),
}

/// How a connection's socket is set up.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketOptions {
    pub(super) buffer_len: Option<usize>,
    pub(super) silence_max: Duration,
}

/// A connected, nonblocking stream socket.
#[derive(Debug)]
pub(super) struct Socket(TcpStream);

impl Socket {
    /// The socket of a peer that has dialled.
    pub(super) fn new(stream: TcpStream, options: SocketOptions) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let peer = stream.peer_addr()?;
        Self::set_up(stream, peer, options)
    }

    /// Dials without waiting for the peer's host: see [`Self::answer`].
    pub(super) fn dial(peer: &SocketAddr, options: SocketOptions) -> io::Result<Self> {
        let family = if peer.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
        match net::connect(&socket, peer) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        Self::set_up(TcpStream::from(socket), *peer, options)
    }

    /// Whether the host that was dialled has answered.
    ///
    /// # Errors
    /// When it refused, or cannot be reached.
    pub(super) fn answer(&self) -> io::Result<bool> {
        sockopt::socket_error(&self.0)??;
        match self.0.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits until the host that was dialled has answered.
    ///
    /// # Errors
    /// As [`Self::answer`], and when it has not answered in time.
    pub(super) fn await_answer(&self, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        while !self.answer()? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
            match poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn set_up(stream: TcpStream, peer: SocketAddr, options: SocketOptions) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        if let Some(len) = options.buffer_len {
            sockopt::set_socket_send_buffer_size(&stream, len)?;
            sockopt::set_socket_recv_buffer_size(&stream, len)?;
        } else if peer.ip() == stream.local_addr()?.ip() {
            sockopt::set_socket_send_buffer_size(&stream, LOCAL_SEND_BUFFER_LEN)?;
        }
        // Probes find a peer's host that vanished while nothing was being sent; what was sent and
        // is not acknowledged is watched by `unanswered`.
        let seconds = options.silence_max.as_secs().clamp(1, 3600);
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, Duration::from_secs(seconds))?;
        sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(seconds))?;
        sockopt::set_tcp_keepcnt(&stream, 2)?;
        Ok(Self(stream))
    }

    pub(super) fn send(&self, gather: &Gather<'_>) -> Transfer {
        let fd = self.0.as_raw_fd();
        if gather.count == 1 {
            let piece = gather.pieces[0];
            // SAFETY: the piece was pushed from a borrow that outlives `gather`: readable memory of
            // that length, which the kernel only reads.
            return outcome(unsafe { libc::send(fd, piece.iov_base, piece.iov_len, SEND_FLAGS) });
        }
        // SAFETY: msghdr is plain numbers and pointers; all zero is an empty message.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = gather.pieces.as_ptr().cast_mut();
        message.msg_iovlen = gather.count;
        // SAFETY: the first `count` pieces were pushed from borrows that outlive `gather`, so each is
        // readable memory for its length; the kernel only reads them and the piece list. A peer may
        // change the bytes meanwhile, which the kernel's copy does not mind.
        let sent = unsafe { libc::sendmsg(fd, &raw const message, SEND_FLAGS) };
        outcome(sent)
    }

    pub(super) fn receive(&self, scatter: &mut Scatter<'_>) -> Transfer {
        let fd = self.0.as_raw_fd();
        let received = if scatter.count == 1 {
            let piece = scatter.pieces[0];
            // SAFETY: the piece was pushed from an exclusive buffer or from pages that outlive
            // `scatter`, checked to be writable memory of that length; nothing else of this thread
            // uses it during the call.
            unsafe { libc::recv(fd, piece.iov_base, piece.iov_len, 0) }
        } else {
            #[expect(clippy::cast_possible_truncation, reason = "at most PIECES_MAX")]
            let count = scatter.count as libc::c_int;
            // SAFETY: as above, for each of the first `count` pieces.
            unsafe { libc::readv(fd, scatter.pieces.as_ptr(), count) }
        };
        match outcome(received) {
            Transfer::Bytes(0) if scatter.len > 0 => {
                Transfer::Ended(io::Error::from(io::ErrorKind::UnexpectedEof))
            }
            transfer => transfer,
        }
    }

    /// Time since the peer's host last acknowledged anything, when something is on its way to it.
    /// A process that is merely slow to read leaves nothing unanswered: its host answers.
    pub(super) fn unanswered(&self) -> Option<Duration> {
        // SAFETY: tcp_info is plain numbers.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        #[expect(clippy::cast_possible_truncation, reason = "a few hundred bytes")]
        let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: `info` is writable for `len` bytes and `len` is a valid in-out length.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut len,
            )
        };
        let is_sent_later = info.tcpi_last_data_sent < info.tcpi_last_ack_recv;
        let unanswered =
            (info.tcpi_unacked > 0 && is_sent_later) || info.tcpi_probes > PROBES_IGNORED_MAX;
        (result == 0 && unanswered)
            .then(|| Duration::from_millis(u64::from(info.tcpi_last_ack_recv)))
    }

    /// Says that nothing more will be sent; what was sent still arrives.
    pub(super) fn finish_sending(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Write);
    }

    /// Makes every later receive find the end.
    pub(super) fn cut(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A host whose process has stopped reading answers at most one probe of its window in half a
/// second, so that the first ones, after 0.2 and 0.6 seconds, may go unanswered.
const PROBES_IGNORED_MAX: u8 = 2;

/// Bytes on their way to a peer on this host: there is no delay to bridge, and what is in the caches
/// when the peer receives it costs it half.
const LOCAL_SEND_BUFFER_LEN: usize = 512 << 10;

/// A host program in another language may not ignore SIGPIPE.
const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;

fn outcome(result: libc::ssize_t) -> Transfer {
    if let Ok(bytes) = usize::try_from(result) {
        return Transfer::Bytes(bytes);
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Transfer::Blocked,
        _ if error.raw_os_error() == Some(libc::ENOBUFS) => Transfer::Blocked,
        _ => Transfer::Ended(error),
    }
}
