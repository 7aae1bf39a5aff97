//! A connection that has not authenticated yet. It gets little memory and little time.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use windlass_wire::{
    DecodeError,
    control::{
        ClientReply, ClientRequest, FRAME_HEADER_LEN, HELLO_LEN_MAX, decode_frame_header,
        decode_message, encode_frame,
    },
};

/// How long a stranger may take for its whole greeting.
pub(super) const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one that was refused may take to read why.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// One stranger.
#[derive(Debug)]
pub(super) struct Stranger {
    stream: TcpStream,
    address: SocketAddr,
    came_at: Instant,
    leaves_at: Instant,
    /// Its greeting so far, in a buffer of the length that is to come next. Empty once it was refused.
    bytes: Vec<u8>,
    filled: usize,
    is_refused: bool,
}

/// What a stranger has said by now.
#[derive(Debug)]
pub(super) enum Heard {
    /// Not all.
    Part,
    /// Its greeting.
    Greeting(ClientRequest),
    /// Something else.
    Nonsense(DecodeError),
    /// A greeting that is too long to listen to.
    TooLong(usize),
    /// It is gone.
    Gone,
}

impl Stranger {
    /// Takes a connection that was accepted.
    pub(super) fn new(stream: TcpStream, address: SocketAddr, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            address,
            came_at: now,
            leaves_at: now + GREETING_TIMEOUT,
            bytes: vec![0; FRAME_HEADER_LEN],
            filled: 0,
            is_refused: false,
        })
    }

    /// Where it comes from.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn host(&self) -> IpAddr {
        self.address.ip()
    }

    pub(super) fn came_at(&self) -> Instant {
        self.came_at
    }

    /// When it has to be gone.
    pub(super) fn leaves_at(&self) -> Instant {
        self.leaves_at
    }

    /// Reads no further than its greeting: what follows belongs to whoever serves it.
    pub(super) fn hear(&mut self) -> Heard {
        if self.is_refused {
            return self.wait_for_end();
        }
        loop {
            match self.stream.read(&mut self.bytes[self.filled..]) {
                Ok(0) => return Heard::Gone,
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Part,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Heard::Gone,
            }
            if self.filled < self.bytes.len() {
                continue;
            }
            let Some((header, message)) = self.bytes.split_first_chunk() else {
                unreachable!("the buffer begins with room for a header");
            };
            let (len, checksum) = match decode_frame_header(header) {
                Ok(header) => header,
                Err(error) => return Heard::Nonsense(error),
            };
            if FRAME_HEADER_LEN + len > HELLO_LEN_MAX {
                return Heard::TooLong(len);
            }
            if self.filled == FRAME_HEADER_LEN + len {
                return match decode_message(message, checksum) {
                    Ok(greeting) => Heard::Greeting(greeting),
                    Err(error) => Heard::Nonsense(error),
                };
            }
            self.bytes.resize(FRAME_HEADER_LEN + len, 0);
        }
    }

    /// Says no. It may read that before it has to be gone: an end at once would overtake the answer if it
    /// is still sending.
    pub(super) fn refuse(&mut self, refusal: &ClientReply, now: Instant) {
        // Nothing was sent to it before, so there is room; one that is gone needs no answer.
        let _ = self.stream.write(&encode_frame(refusal));
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        self.is_refused = true;
        self.bytes = Vec::new();
        self.leaves_at = now + FAREWELL_TIMEOUT;
    }

    /// The connection, handed to the thread that will serve it.
    pub(super) fn into_stream(self) -> io::Result<TcpStream> {
        self.stream.set_nonblocking(false)?;
        Ok(self.stream)
    }

    fn wait_for_end(&self) -> Heard {
        let mut ignored = [0; 4096];
        match (&self.stream).read(&mut ignored) {
            Ok(0) => Heard::Gone,
            Ok(_) => Heard::Part,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Heard::Part,
            Err(_) => Heard::Gone,
        }
    }
}

impl AsFd for Stranger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
