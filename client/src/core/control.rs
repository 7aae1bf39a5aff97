//! A control connection with a deadline for each answer.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use windlass_transport::control::{ControlError, ControlStream};
use windlass_wire::{
    ClusterMap,
    control::{ClientReply, ClientRequest},
};

use super::backoff::ask_after;
use crate::{
    error::{ConnectError, TableError},
    watch::{WATCH_EVERY, Watch},
};

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A control connection.
#[derive(Debug)]
pub(crate) struct Control {
    stream: ControlStream,
    /// How long an answer may take.
    limit: Duration,
    /// When the time for all that is asked while connecting is over.
    connected_by: Option<Instant>,
    watch: Option<Watch>,
    pulse: Question,
}

/// What is asked now and then, and nobody waits for, to hear whether the peer lives.
#[derive(Debug)]
struct Question {
    asked_at: Instant,
    /// Whether the answer is still to come.
    is_open: bool,
    /// How often its absence was told.
    told: u32,
}

/// How often a peer is asked whether it lives.
const PULSE_EVERY: Duration = Duration::from_millis(250);

/// What a look at a peer found.
#[derive(Debug)]
pub(super) enum Pulse {
    /// It lives, and its map is the one we know.
    Steady,
    /// It lives, and this is the map that it knows.
    Map(ClusterMap),
    /// It has said nothing for long: told so often now.
    Silent(u32),
}

/// Why there is no answer. One that is still to come would be taken for the next one's: after silence and
/// interruptions as well, the connection is of no use any more.
#[derive(Debug)]
pub(super) enum Unanswered {
    Control(ControlError),
    Interrupted,
}

impl From<ControlError> for Unanswered {
    fn from(error: ControlError) -> Self {
        Self::Control(error)
    }
}

impl From<Unanswered> for ConnectError {
    fn from(error: Unanswered) -> Self {
        match error {
            Unanswered::Interrupted => Self::Interrupted,
            Unanswered::Control(ControlError::Silent { peer, limit }) => {
                Self::Timeout { address: peer, timeout: limit }
            }
            Unanswered::Control(error) => Self::Control(error),
        }
    }
}

impl From<Unanswered> for TableError {
    fn from(error: Unanswered) -> Self {
        match error {
            Unanswered::Interrupted => Self::Interrupted,
            Unanswered::Control(ControlError::Silent { peer, limit }) => {
                Self::Timeout { address: peer, timeout: limit }
            }
            Unanswered::Control(error) => Self::Control(error),
        }
    }
}

impl Control {
    /// Connects; `limit` bounds that and all that is asked, until another limit is set.
    pub(super) fn connect(
        address: &str,
        limit: Duration,
        watch: Option<Watch>,
    ) -> Result<Self, ControlError> {
        let connected_by = Some(Instant::now() + limit);
        let stream = ControlStream::connect_within(address, limit.min(CONNECT_MAX))?;
        let pulse = Question { asked_at: Instant::now(), is_open: false, told: 0 };
        Ok(Self { stream, limit, connected_by, watch, pulse })
    }

    /// From now on all answers have to be there by this time.
    pub(super) fn set_deadline(&mut self, until: Instant) {
        self.connected_by = Some(until);
    }

    /// From now on each answer may take so long.
    pub(super) fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
        self.connected_by = None;
    }

    /// Sends a request and waits for its answer.
    pub(super) fn ask(&mut self, request: &ClientRequest) -> Result<ClientReply, Unanswered> {
        let until = self.connected_by.unwrap_or_else(|| Instant::now() + self.limit);
        self.exchange(request, self.limit, until)
    }

    /// The same, for another time.
    pub(super) fn ask_within(
        &mut self,
        request: &ClientRequest,
        limit: Duration,
    ) -> Result<ClientReply, Unanswered> {
        self.exchange(request, limit, Instant::now() + limit)
    }

    fn exchange(
        &mut self,
        request: &ClientRequest,
        limit: Duration,
        until: Instant,
    ) -> Result<ClientReply, Unanswered> {
        let left = until.saturating_duration_since(Instant::now());
        bound(&self.stream, left).map_err(|source| broken(&self.stream, source))?;
        self.stream.send(request)?;
        // Answers come in the order of the questions.
        if std::mem::take(&mut self.pulse.is_open) {
            self.answer(limit, until)?;
        }
        self.answer(limit, until)
    }

    /// Waits for the next answer until a moment, which is the end of `limit`.
    fn answer(&mut self, limit: Duration, until: Instant) -> Result<ClientReply, Unanswered> {
        let left = || until.saturating_duration_since(Instant::now());
        let silent = |stream: &ControlStream| {
            Unanswered::Control(ControlError::Silent { peer: stream.peer().to_owned(), limit })
        };
        loop {
            let slice = left().min(WATCH_EVERY);
            let is_ready = self.stream.is_ready_within(slice);
            if is_ready.map_err(|source| broken(&self.stream, source))? {
                break;
            }
            if left().is_zero() {
                return Err(silent(&self.stream));
            }
            if self.watch.as_ref().is_some_and(|watch| !watch.goes_on()) {
                return Err(Unanswered::Interrupted);
            }
        }
        bound(&self.stream, left()).map_err(|source| broken(&self.stream, source))?;
        let hung_up = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        self.stream.receive()?.ok_or_else(|| broken(&self.stream, hung_up()))
    }

    /// Asks now and then for the map, without waiting for the answer, which tells whether the peer lives.
    pub(super) fn pulse(&mut self, now: Instant) -> Result<Pulse, Unanswered> {
        let waited = now.saturating_duration_since(self.pulse.asked_at);
        if self.pulse.is_open {
            let is_ready = self.stream.is_ready_within(Duration::ZERO);
            if is_ready.map_err(|source| broken(&self.stream, source))? {
                self.pulse.is_open = false;
                // What has begun to come is whole soon.
                return match self.answer(PULSE_EVERY, now + PULSE_EVERY)? {
                    ClientReply::Map { map } => Ok(Pulse::Map(map)),
                    _ => Ok(Pulse::Steady),
                };
            }
            if waited >= ask_after(self.pulse.told) {
                self.pulse.told += 1;
                return Ok(Pulse::Silent(self.pulse.told));
            }
        } else if waited >= PULSE_EVERY {
            bound(&self.stream, PULSE_EVERY).map_err(|source| broken(&self.stream, source))?;
            self.stream.send(&ClientRequest::Map {})?;
            self.pulse = Question { asked_at: now, is_open: true, told: 0 };
        }
        Ok(Pulse::Steady)
    }

    /// The peer's address as text.
    pub(super) fn peer(&self) -> &str {
        self.stream.peer()
    }

    /// This side's address.
    pub(super) fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.stream.local_address()
    }

    /// Whether the peer has closed the connection, without waiting.
    pub(super) fn is_closed(&self) -> bool {
        self.stream.is_closed()
    }
}

fn broken(stream: &ControlStream, source: std::io::Error) -> Unanswered {
    Unanswered::Control(ControlError::Broken { peer: stream.peer().to_owned(), source })
}

/// Bounds what is sent and received next.
fn bound(stream: &ControlStream, limit: Duration) -> std::io::Result<()> {
    // Zero would be for ever.
    let limit = Some(limit.max(Duration::from_millis(1)));
    stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit))
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        sync::atomic::{AtomicU32, Ordering},
    };

    use super::*;

    /// A connection to somebody who accepts and says nothing.
    fn mute(limit: Duration, watch: Option<Watch>) -> (TcpListener, Control) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let control = Control::connect(&address, limit, watch).unwrap();
        (listener, control)
    }

    #[test]
    fn a_stopped_server_is_waited_for_until_the_deadline() {
        let limit = Duration::from_millis(200);
        // The limit counts from before the connection was made.
        let begun = Instant::now();
        let (_listener, mut control) = mute(limit, None);
        let error = TableError::from(control.ask(&ClientRequest::Map {}).unwrap_err());
        assert!(begun.elapsed() >= limit);
        assert!(matches!(error, TableError::Timeout { .. }), "{error:?}");
        assert!(error.to_string().contains("within 200ms"), "{error}");
    }

    #[test]
    fn the_caller_may_end_the_wait() {
        static ASKED: AtomicU32 = AtomicU32::new(0);
        let watch = Watch::new(|| ASKED.fetch_add(1, Ordering::Relaxed) < 2);
        let (_listener, mut control) = mute(Duration::from_secs(60), Some(watch));
        let ended = control.ask(&ClientRequest::Map {});
        assert!(matches!(ended, Err(Unanswered::Interrupted)), "{ended:?}");
        assert_eq!(ASKED.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn the_pulse_of_a_peer_is_felt_and_nobody_waits_for_it() {
        let (listener, mut control) = mute(Duration::from_secs(20), None);
        let mut peer = ControlStream::new(listener.accept().unwrap().0).unwrap();
        let begun = Instant::now();
        let after = |waited: Duration| begun + Duration::from_secs(1) + waited;
        assert!(matches!(control.pulse(begun).unwrap(), Pulse::Steady), "not yet");
        assert!(matches!(control.pulse(after(Duration::ZERO)).unwrap(), Pulse::Steady));
        assert_eq!(peer.receive::<ClientRequest>().unwrap(), Some(ClientRequest::Map {}));
        let mut told = Vec::new();
        for late in 1..8_u32 {
            if let Pulse::Silent(count) = control.pulse(after(ask_after(0) * late / 2)).unwrap() {
                told.push(count);
            }
        }
        assert_eq!(told, [1, 2, 3, 4, 5, 6], "in time, and then more and more often");

        // What is asked meanwhile gets its own answer.
        let answering = std::thread::spawn(move || {
            let map = ClusterMap { epoch: windlass_wire::Epoch(7), ..ClusterMap::default() };
            peer.send(&ClientReply::Map { map: map.clone() }).unwrap();
            assert_eq!(peer.receive::<ClientRequest>().unwrap(), Some(ClientRequest::Shutdown {}));
            peer.send(&ClientReply::Done {}).unwrap();
            assert_eq!(peer.receive::<ClientRequest>().unwrap(), Some(ClientRequest::Map {}));
            peer.send(&ClientReply::Map { map }).unwrap();
            peer
        });
        assert_eq!(control.ask(&ClientRequest::Shutdown {}).unwrap(), ClientReply::Done {});
        let later = after(Duration::from_secs(60));
        assert!(matches!(control.pulse(later).unwrap(), Pulse::Steady));
        let peer = answering.join().unwrap();
        assert!(matches!(control.pulse(later).unwrap(), Pulse::Map(map) if map.epoch.0 == 7));
        drop(peer);
    }
}
