//! Loopback TCP without us: ping-pong of eight bytes, and a stream in one direction.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::{Pinned, median};

const PING_BYTES: usize = 8;
/// Round trips measured one by one, so that the median of a sample is a p50 like the bench's.
const ROUNDS_MIN: usize = 50;
const STREAM_LOOK_BYTES: usize = 4 << 20;
const STREAM_WRITE_BYTES_MAX: usize = 1 << 20;

/// How an end waits for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    Blocking,
    Spinning,
}

/// A connection whose other end sends back what it gets.
#[derive(Debug)]
pub(super) struct PingPong {
    stream: TcpStream,
}

/// A connection whose other end reads all it gets and answers each stretch with a byte.
#[derive(Debug)]
pub(super) struct Stream {
    stream: TcpStream,
    chunk: Vec<u8>,
}

impl PingPong {
    pub(super) fn start(waiting: Waiting, core: Option<usize>) -> io::Result<Self> {
        let stream = connect_to_thread(waiting, core, |mut peer| {
            let mut bytes = [0; PING_BYTES];
            // An error is the end of the connection: the measuring side is gone.
            while read_exact(&mut peer, &mut bytes).is_ok() && peer.write_all(&bytes).is_ok() {}
        })?;
        Ok(Self { stream })
    }

    /// Median microseconds of a round trip, over about `time`.
    pub(super) fn round_trip_us(&mut self, time: Duration) -> io::Result<f64> {
        let mut samples = Vec::new();
        let start = Instant::now();
        while samples.len() < ROUNDS_MIN || start.elapsed() < time {
            let mut bytes = [1; PING_BYTES];
            let round = Instant::now();
            self.stream.write_all(&bytes)?;
            read_exact(&mut self.stream, &mut bytes)?;
            samples.push(round.elapsed().as_secs_f64() * 1e6);
        }
        Ok(median(&samples))
    }
}

impl Stream {
    pub(super) fn start(bytes: usize, core: Option<usize>) -> io::Result<Self> {
        let stream = connect_to_thread(Waiting::Blocking, core, |mut peer| {
            let mut buffer = vec![0; STREAM_WRITE_BYTES_MAX];
            let mut unanswered = 0;
            while let Ok(count @ 1..) = peer.read(&mut buffer) {
                unanswered += count;
                while unanswered >= STREAM_LOOK_BYTES {
                    unanswered -= STREAM_LOOK_BYTES;
                    if peer.write_all(&[1]).is_err() {
                        return;
                    }
                }
            }
        })?;
        let chunk = vec![1; bytes.clamp(4096, STREAM_WRITE_BYTES_MAX)];
        Ok(Self { stream, chunk })
    }

    /// Bytes per second, over about `time`, up to the last byte having been read.
    #[expect(clippy::cast_precision_loss, reason = "a few terabytes at most")]
    pub(super) fn rate(&mut self, time: Duration) -> io::Result<f64> {
        let start = Instant::now();
        let mut stretches = 0_usize;
        let mut answered = 0;
        loop {
            let mut sent = 0;
            while sent < STREAM_LOOK_BYTES {
                let count = self.chunk.len().min(STREAM_LOOK_BYTES - sent);
                self.stream.write_all(&self.chunk[..count])?;
                sent += count;
            }
            stretches += 1;
            // One stretch stays under way, so that the connection never runs dry.
            if stretches - answered > 1 {
                self.stream.read_exact(&mut [0])?;
                answered += 1;
            }
            if start.elapsed() >= time {
                break;
            }
        }
        while answered < stretches {
            self.stream.read_exact(&mut [0])?;
            answered += 1;
        }
        Ok((stretches * STREAM_LOOK_BYTES) as f64 / start.elapsed().as_secs_f64())
    }
}

/// Connects to a new thread that serves `peer` until the connection ends, on a core of its own if
/// there is one: it would otherwise share the one that its maker is pinned to.
fn connect_to_thread(
    waiting: Waiting,
    core: Option<usize>,
    peer: impl FnOnce(TcpStream) + Send + 'static,
) -> io::Result<TcpStream> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let (accepted, _) = listener.accept()?;
    for end in [&stream, &accepted] {
        end.set_nodelay(true)?;
        end.set_nonblocking(waiting == Waiting::Spinning)?;
    }
    thread::Builder::new().name("tcp-limit".to_owned()).spawn(move || {
        let _pinned = core.map(Pinned::to);
        peer(accepted);
    })?;
    Ok(stream)
}

/// Like [`Read::read_exact`], but a non-blocking stream is asked again and again.
fn read_exact(stream: &mut TcpStream, bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
