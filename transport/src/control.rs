//! Control connections: framed messages over blocking TCP, with deadlines. Set-up only, never on
//! the data path.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    net::sockopt,
};
use windlass_wire::{
    DecodeError, Wire,
    control::{FRAME_HEADER_LEN, decode_frame_header, decode_message, encode_frame},
};

use crate::{
    resolve::resolve,
    text::{Shown, Span},
};

/// Why a control message could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No connection could be made.
    #[error(
        "cannot connect to {}: check that the server runs and that the address is right",
        Shown(.address)
    )]
    Connect {
        /// Where to.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke or was silent for too long.
    #[error("the control connection to {peer} is gone")]
    Broken {
        /// The peer.
        peer: String,
        /// Why.
        source: io::Error,
    },
    /// The peer has the connection and says nothing: what it was asked may still be carried out, and its
    /// answer may still come, so that the connection is of no use any more.
    #[error("{peer} did not answer within {}: it is overloaded or stopped", Span(*.limit))]
    Silent {
        /// The peer.
        peer: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The peer sent something that is no message.
    #[error("{peer} does not speak this protocol")]
    Decode {
        /// The peer.
        peer: String,
        /// What is wrong.
        source: DecodeError,
    },
}

/// One control connection.
#[derive(Debug)]
pub struct ControlStream {
    stream: TcpStream,
    peer: String,
}

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How many addresses of a name are tried, and the least time for each.
const ADDRESSES_MAX: usize = 16;
const SHARE_MIN: Duration = Duration::from_millis(1);

/// An idle peer is asked whether it is there after this long, and so often in such intervals: one whose
/// host has vanished is gone after all of it. What it is sent meanwhile waits no longer either.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_COUNT: u32 = 3;
const VANISHED_AFTER: Duration = Duration::from_secs(
    KEEPALIVE_IDLE.as_secs() + KEEPALIVE_COUNT as u64 * KEEPALIVE_INTERVAL.as_secs(),
);

/// How long an answer may take: the peer may be allocating and pinning memory.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

impl ControlStream {
    /// Connects to `address`, `host:port`.
    ///
    /// # Errors
    /// When the name has no address or none of them answers.
    pub fn connect(address: &str) -> Result<Self, ControlError> {
        Self::dial(address, CONNECT_TIMEOUT)
    }

    /// Connects within `limit`, which bounds every answer too until
    /// [`ControlStream::set_read_timeout`] says otherwise.
    ///
    /// # Errors
    /// As [`ControlStream::connect`].
    pub fn connect_within(address: &str, limit: Duration) -> Result<Self, ControlError> {
        let connected = Self::dial(address, limit)?;
        connected.set_read_timeout(Some(limit)).map_err(|source| connected.broken(source))?;
        Ok(connected)
    }

    fn dial(address: &str, limit: Duration) -> Result<Self, ControlError> {
        let connect = |source| ControlError::Connect { address: address.to_owned(), source };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let until = Instant::now() + limit;
        let mut resolved = resolve(address, limit).map_err(connect)?;
        // The first ones are what the system prefers. Each has its share of the time that is left.
        resolved.truncate(ADDRESSES_MAX);
        for (tried, to) in resolved.iter().enumerate() {
            let left = until.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(resolved.len() - tried).unwrap_or(1);
            match TcpStream::connect_timeout(to, share.max(SHARE_MIN)) {
                Ok(stream) => return Self::new(stream).map_err(connect),
                Err(error) => last = error,
            }
        }
        Err(connect(last))
    }

    /// A connection that was accepted.
    ///
    /// # Errors
    /// When the socket is gone already.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        notice_vanishing(&stream)?;
        let peer = stream.peer_addr()?.to_string();
        Ok(Self { stream, peer })
    }

    /// The peer's address as text.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// This side's address.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// How long [`ControlStream::receive`] waits; `None` for ever.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)
    }

    /// How long [`ControlStream::send`] waits for a peer that does not read; `None` for ever.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_write_timeout(timeout)
    }

    /// Another handle to the connection, to end it by [`ControlStream::shutdown`] from elsewhere.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { stream: self.stream.try_clone()?, peer: self.peer.clone() })
    }

    /// Ends the connection. A thread that waits on it sees the end.
    pub fn shutdown(&self) {
        // It may be gone already, which is as good.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Whether the peer has closed the connection, without waiting. What it has sent stays unread.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let mut byte = [0_u8; 1];
        if self.stream.set_nonblocking(true).is_err() {
            return true;
        }
        let peeked = self.stream.peek(&mut byte);
        let restored = self.stream.set_nonblocking(false);
        match peeked {
            Ok(count) => count == 0 || restored.is_err(),
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send<M: Wire>(&mut self, message: &M) -> Result<(), ControlError> {
        self.send_frame(&encode_frame(message))
    }

    /// Sends a message that [`encode_frame`] has encoded already.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_frame(&mut self, frame: &[u8]) -> Result<(), ControlError> {
        self.stream.write_all(frame).map_err(|source| self.broken(source))
    }

    /// Waits for one message; `None` when the peer ended the connection between two.
    ///
    /// # Errors
    /// When the connection breaks, is silent for too long, or carries something else.
    pub fn receive<M: Wire>(&mut self) -> Result<Option<M>, ControlError> {
        let mut header = [0; FRAME_HEADER_LEN];
        match self.stream.read(&mut header) {
            Ok(0) => return Ok(None),
            Ok(count) => self
                .stream
                .read_exact(&mut header[count..])
                .map_err(|source| self.broken(source))?,
            Err(source) => return Err(self.broken(source)),
        }
        let (len, checksum) = decode_frame_header(&header).map_err(|source| self.decode(source))?;
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).map_err(|source| self.broken(source))?;
        decode_message(&bytes, checksum).map(Some).map_err(|source| self.decode(source))
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// As [`ControlStream::send`] and [`ControlStream::receive`]; a peer that hangs up instead of
    /// answering is an error here.
    pub fn ask<Q: Wire, A: Wire>(&mut self, request: &Q) -> Result<A, ControlError> {
        self.send(request)?;
        let hung_up = io::Error::from(io::ErrorKind::UnexpectedEof);
        self.receive()?.ok_or_else(|| self.broken(hung_up))
    }

    /// Waits until there is something to receive, or the connection has ended; false when neither was so
    /// for as long as `limit`.
    ///
    /// # Errors
    /// When the system refuses to wait.
    pub fn is_ready_within(&self, limit: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        match rustix::event::poll(&mut fds, Some(&limit)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn broken(&self, source: io::Error) -> ControlError {
        let peer = self.peer.clone();
        if source.kind() == io::ErrorKind::WouldBlock {
            let limit = self.stream.read_timeout().ok().flatten().unwrap_or_default();
            return ControlError::Silent { peer, limit };
        }
        ControlError::Broken { peer, source }
    }

    fn decode(&self, source: DecodeError) -> ControlError {
        ControlError::Decode { peer: self.peer.clone(), source }
    }
}

/// Has the system end a connection whose peer is no longer there.
fn notice_vanishing(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?;
    let vanished_ms = u32::try_from(VANISHED_AFTER.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(stream, vanished_ms)?)
}

/// Names what has to be equal for two processes to share memory: the running kernel, the network
/// namespace that abstract sockets live in, and the user.
#[must_use]
pub fn host_identity() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let network = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
    let user = rustix::process::geteuid().as_raw();
    format!("{}/{}/{user}", boot.trim(), network.display())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use windlass_wire::control::ClientRequest;

    use super::*;

    fn pair() -> (ControlStream, ControlStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let active = ControlStream::connect(&address).unwrap();
        (active, ControlStream::new(listener.accept().unwrap().0).unwrap())
    }

    #[test]
    fn messages_travel_and_ends_are_seen() {
        let (mut active, mut passive) = pair();
        active.send(&ClientRequest::Map {}).unwrap();
        assert_eq!(passive.receive::<ClientRequest>().unwrap(), Some(ClientRequest::Map {}));
        assert!(!passive.is_closed());
        drop(active);
        assert!(passive.is_closed());
        assert_eq!(passive.receive::<ClientRequest>().unwrap(), None);
    }

    #[test]
    fn both_sides_notice_a_peer_whose_host_vanished() {
        let (active, passive) = pair();
        for stream in [&active.stream, &passive.stream] {
            assert!(sockopt::socket_keepalive(stream).unwrap());
            let idle = sockopt::tcp_keepidle(stream).unwrap();
            let interval = sockopt::tcp_keepintvl(stream).unwrap();
            let after = idle + interval * sockopt::tcp_keepcnt(stream).unwrap();
            assert!(after <= Duration::from_secs(15), "noticed after {after:?}");
            let unread_ms = sockopt::tcp_user_timeout(stream).unwrap();
            assert_eq!(Duration::from_millis(u64::from(unread_ms)), after);
        }
    }

    #[test]
    fn silence_is_told_in_words() {
        let (mut active, mut passive) = pair();
        let limit = Duration::from_millis(200);
        assert!(!active.is_ready_within(limit).unwrap());
        active.set_read_timeout(Some(limit)).unwrap();
        let error = active.receive::<ClientRequest>().unwrap_err();
        assert!(matches!(error, ControlError::Silent { .. }), "{error:?}");
        assert!(error.to_string().contains("did not answer within 200ms"), "{error}");
        passive.send(&ClientRequest::Map {}).unwrap();
        assert!(active.is_ready_within(Duration::from_secs(10)).unwrap());
        drop(passive);
        active.receive::<ClientRequest>().unwrap();
        assert!(active.is_ready_within(Duration::from_secs(10)).unwrap(), "an end is something");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let (active, mut passive) = pair();
        (&active.stream).write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert!(matches!(passive.receive::<ClientRequest>(), Err(ControlError::Decode { .. })));
    }
}
