//! A control connection with a deadline for each answer.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use windlass_transport::control::{ControlError, ControlStream};
use windlass_wire::control::{ClientReply, ClientRequest};

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
    watch: Option<Watch>,
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
    /// Connects; `limit` bounds that and each answer.
    pub(super) fn connect(
        address: &str,
        limit: Duration,
        watch: Option<Watch>,
    ) -> Result<Self, ControlError> {
        let stream = ControlStream::connect_within(address, limit.min(CONNECT_MAX))?;
        Ok(Self { stream, limit, watch })
    }

    /// From now on an answer may take so long.
    pub(super) fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Sends a request and waits for its answer.
    pub(super) fn ask(&mut self, request: &ClientRequest) -> Result<ClientReply, Unanswered> {
        self.ask_within(request, self.limit)
    }

    /// The same, for another time.
    pub(super) fn ask_within(
        &mut self,
        request: &ClientRequest,
        limit: Duration,
    ) -> Result<ClientReply, Unanswered> {
        let broken = |stream: &ControlStream, source| {
            Unanswered::Control(ControlError::Broken { peer: stream.peer().to_owned(), source })
        };
        let silent = |stream: &ControlStream| {
            Unanswered::Control(ControlError::Silent { peer: stream.peer().to_owned(), limit })
        };
        let asked_at = Instant::now();
        let left = || limit.saturating_sub(asked_at.elapsed());
        let bound = |stream: &ControlStream, limit: Duration| {
            // Zero would be for ever.
            let limit = Some(limit.max(Duration::from_millis(1)));
            stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit))
        };
        bound(&self.stream, limit).map_err(|source| broken(&self.stream, source))?;
        self.stream.send(request)?;
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
        let (_listener, mut control) = mute(Duration::from_millis(200), None);
        let asked_at = Instant::now();
        let error = TableError::from(control.ask(&ClientRequest::Map {}).unwrap_err());
        assert!(asked_at.elapsed() >= Duration::from_millis(200));
        assert!(asked_at.elapsed() < Duration::from_secs(20), "{:?}", asked_at.elapsed());
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
}
