//! How a server reaches its coordinator: the one in its own process, or one of several addresses,
//! tried in turn.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crossbeam::channel::Receiver;
use windlass_transport::control::{ControlStream, host_identity};
use windlass_wire::{
    Incarnation, ServerId, SessionId,
    control::{ClientReply, ClientRequest, PROTOCOL_VERSION, PeerRole, RefusalKind},
    coordination::Order,
};

use super::member::Uplink;
use crate::{
    coordinator::{Desk, Downward, Joining},
    refusal::Refusal,
    shard::chain,
};

/// The coordinators of a server's cluster.
#[derive(Debug)]
pub(super) enum Coordinators {
    /// In this process.
    Here(Desk),
    /// Elsewhere.
    At {
        addresses: Vec<String>,
        token: String,
        /// The one that led last.
        current: AtomicUsize,
    },
}

/// What a server is told when it is taken in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joined {
    pub(super) server: ServerId,
    pub(super) cluster: u64,
    pub(super) heartbeat: Duration,
}

/// Orders as they come in.
#[derive(Debug)]
pub(super) enum Downlink {
    Local(Receiver<Downward>),
    Remote(ControlStream),
}

/// Why a coordinator did not take a server in.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", windlass_transport::text::Shown(.coordinator))]
pub(super) struct JoinError {
    pub(super) coordinator: String,
    pub(super) reason: String,
    is_passing: bool,
}

impl JoinError {
    /// Whether another attempt may succeed.
    pub(super) fn is_passing(&self) -> bool {
        self.is_passing
    }
}

/// How long a connection to one coordinator may take to be made, and a report to be sent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a request may wait for servers that have to do their part.
const ASK_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a coordinator may take to answer a join: its store has to be written.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server that has joined before waits until it asks again: a coordinator that has it wait for others hears
/// by that that it is there, and takes it for silent after 3/8 of `disk_wait_us`.
const REJOIN_TIMEOUT: Duration = Duration::from_secs(2);

impl Coordinators {
    /// Coordinators at these addresses.
    pub(super) fn at(addresses: Vec<String>, token: String) -> Self {
        Self::At { addresses, token, current: AtomicUsize::new(0) }
    }

    /// The coordinator in this process, if it is there.
    pub(super) fn here(&self) -> Option<&Desk> {
        match self {
            Self::Here(desk) => Some(desk),
            Self::At { .. } => None,
        }
    }

    /// Joins by the first that takes the server in. `silence` is how long a coordinator may then say
    /// nothing.
    pub(super) fn join(
        &self,
        joining: Joining,
        silence: Duration,
    ) -> Result<(Joined, Uplink, Downlink), JoinError> {
        match self {
            Self::Here(desk) => join_here(desk, joining),
            Self::At { addresses, token, current } => {
                try_each(addresses, current, |address| join_at(address, token, &joining, silence))
            }
        }
    }

    /// Passes a client's request on.
    pub(super) fn ask(&self, request: &ClientRequest) -> Result<ClientReply, Refusal> {
        match self {
            Self::Here(desk) => desk.ask(request.clone()),
            Self::At { addresses, token, current } => {
                let asked = try_each(addresses, current, |address| {
                    let passing = |reason| passing(address, reason);
                    let mut stream =
                        greet(address, token, Incarnation(windlass_transport::random::number()))
                            .map_err(|error| passing(error.text))?;
                    let patient = stream.set_read_timeout(Some(ASK_TIMEOUT));
                    patient.map_err(|error| passing(error.to_string()))?;
                    match stream.ask(request).map_err(|error| passing(chain(&error)))? {
                        ClientReply::Refused { status: RefusalKind::NoCoordinator {}, text } => {
                            Err(passing(text))
                        }
                        reply => Ok(reply),
                    }
                });
                asked.map_err(|error| {
                    let JoinError { coordinator, reason, .. } = error;
                    Refusal::new(RefusalKind::NoCoordinator {}, format!("{coordinator}: {reason}"))
                })
            }
        }
    }
}

impl Downlink {
    /// The next order; `None` when the connection is gone or silent for too long.
    pub(super) fn next(&mut self) -> Option<Order> {
        match self {
            Self::Local(downward) => match downward.recv().ok()? {
                Downward::Order(order) => Some(order.order.clone()),
                Downward::Reply(_) => None,
            },
            Self::Remote(stream) => match stream.receive::<Order>() {
                Ok(order) => order,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "the coordinator is gone");
                    None
                }
            },
        }
    }
}

/// Tries addresses in turn, beginning with the one that worked last.
fn try_each<T>(
    addresses: &[String],
    current: &AtomicUsize,
    mut attempt: impl FnMut(&str) -> Result<T, JoinError>,
) -> Result<T, JoinError> {
    let mut last = passing("the coordinators", "none is configured".to_owned());
    let from = current.load(Ordering::Relaxed);
    for step in 0..addresses.len() {
        let at = (from + step) % addresses.len();
        match attempt(&addresses[at]) {
            Ok(done) => {
                current.store(at, Ordering::Relaxed);
                return Ok(done);
            }
            Err(error) if error.is_passing => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn join_here(desk: &Desk, joining: Joining) -> Result<(Joined, Uplink, Downlink), JoinError> {
    let address = "this server";
    let patience = patience_of(&joining);
    let (connection, downward) = desk.connect(joining);
    let reply = match downward.recv_timeout(patience) {
        Ok(Downward::Reply(reply)) => reply,
        _ => return Err(passing(address, "the coordinator does not answer".to_owned())),
    };
    let joined = joined(address, *reply)?;
    let uplink = Uplink::Local { desk: desk.clone(), connection };
    Ok((joined, uplink, Downlink::Local(downward)))
}

fn join_at(
    address: &str,
    token: &str,
    joining: &Joining,
    silence: Duration,
) -> Result<(Joined, Uplink, Downlink), JoinError> {
    let passing = |reason| passing(address, reason);
    let mut stream = greet(address, token, joining.incarnation).map_err(|refusal| {
        let is_passing =
            matches!(refusal.kind, RefusalKind::NoCoordinator {} | RefusalKind::ShuttingDown {});
        JoinError { coordinator: address.to_owned(), reason: refusal.text, is_passing }
    })?;
    let broken = |error: std::io::Error| passing(error.to_string());
    stream.set_read_timeout(Some(patience_of(joining))).map_err(broken)?;
    let reply =
        stream.ask(&joining.clone().into_request()).map_err(|error| passing(chain(&error)))?;
    let joined = joined(address, reply)?;
    stream.set_read_timeout(Some(silence)).map_err(broken)?;
    stream.set_write_timeout(Some(SEND_TIMEOUT)).map_err(broken)?;
    let uplink = stream.try_clone().map_err(broken)?;
    Ok((joined, Uplink::Remote(uplink), Downlink::Remote(stream)))
}

/// How long an answer is waited for. A server without a number would be given another one each time it asks.
fn patience_of(joining: &Joining) -> Duration {
    if joining.server.is_some() { REJOIN_TIMEOUT } else { JOIN_TIMEOUT }
}

fn joined(address: &str, reply: ClientReply) -> Result<Joined, JoinError> {
    match reply {
        ClientReply::Joined { server, cluster, heartbeat_ms } => {
            let heartbeat = Duration::from_millis(u64::from(heartbeat_ms.max(1)));
            Ok(Joined { server, cluster, heartbeat })
        }
        ClientReply::Refused { status, text } => {
            let is_passing = status == (RefusalKind::NoCoordinator {});
            Err(JoinError { coordinator: address.to_owned(), reason: text, is_passing })
        }
        _ => Err(passing(address, "unexpected answer to join".to_owned())),
    }
}

fn passing(address: &str, reason: String) -> JoinError {
    JoinError { coordinator: address.to_owned(), reason, is_passing: true }
}

/// Greets the process that listens at `address`.
fn greet(address: &str, token: &str, incarnation: Incarnation) -> Result<ControlStream, Refusal> {
    let unreachable = |text| Refusal::new(RefusalKind::NoCoordinator {}, text);
    let mut stream = ControlStream::connect_within(address, CONNECT_TIMEOUT)
        .map_err(|error| unreachable(chain(&error)))?;
    let hello = ClientRequest::Hello {
        version: PROTOCOL_VERSION,
        token: token.to_owned(),
        session: SessionId(incarnation.0),
        incarnation,
        rank: None,
        host: host_identity(),
        peer: Some(PeerRole::Joins {}),
    };
    match stream.ask(&hello) {
        Ok(ClientReply::Welcome { .. }) => Ok(stream),
        Ok(ClientReply::Refused { status, text }) => Err(Refusal::new(status, text)),
        Ok(_) => Err(unreachable("unexpected answer to hello".to_owned())),
        Err(error) => Err(unreachable(chain(&error))),
    }
}
