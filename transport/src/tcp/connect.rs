//! How two queue pairs find each other: one side dials the address in the other's endpoint and
//! introduces itself; the other knows it by the nonce that only its own endpoint carried.

use std::{
    io::{self, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    time::Instant,
};

use crate::{
    descriptors::{self, ACCEPT_PAUSE},
    error::ConnectError,
    fabric::{Endpoint, PendingQueuePair, QueuePairId, Role},
};

use super::{
    Tcp,
    connection::{Connection, Phase},
    datapath::rest_not,
    endpoint::{Address, HELLO_LEN, Hello, Nonce},
    failure::Failure,
    frame::{HEADER_LEN, Header, Kind},
    limits::{ACCEPTS_PER_POLL_MAX, QUEUE_PAIRS_MAX, STRANGERS_MAX},
    socket::Socket,
    wait::{Interest, Source},
};

const INTRODUCTION_LEN: usize = HEADER_LEN + HELLO_LEN;

/// A connection that was accepted and has not said which queue pair it is for.
#[derive(Debug)]
pub(super) struct Stranger {
    stream: TcpStream,
    bytes: [u8; INTRODUCTION_LEN],
    filled: usize,
    deadline: Instant,
}

impl AsFd for Stranger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// What a stranger is by now.
enum Acquaintance {
    Unknown,
    Introduced(Hello),
    Unwanted,
}

impl Stranger {
    /// Reads no further than the introduction: what follows belongs to the queue pair.
    fn listen(&mut self) -> Acquaintance {
        match self.stream.read(&mut self.bytes[self.filled..]) {
            Ok(0) => return Acquaintance::Unwanted,
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Acquaintance::Unwanted,
        }
        let (head, tail) = self.bytes.split_at(HEADER_LEN);
        let (Some(head), Some(tail)) = (head.first_chunk(), tail.first_chunk()) else {
            return Acquaintance::Unwanted;
        };
        // A first byte that is no header's is enough to know.
        if self.filled < HEADER_LEN {
            return Acquaintance::Unknown;
        }
        match Header::decode(head) {
            Ok(header) if header.kind == Kind::Hello && !header.trailer => {}
            _ => return Acquaintance::Unwanted,
        }
        if self.filled < INTRODUCTION_LEN {
            return Acquaintance::Unknown;
        }
        Acquaintance::Introduced(Hello::decode(tail))
    }
}

impl Tcp {
    pub(super) fn make_queue_pair(&mut self) -> Result<PendingQueuePair, ConnectError> {
        let socket = self.listening_address()?;
        let nonce = Nonce::random()?;
        let number = self
            .connections
            .insert_with(|number| Connection::new(QueuePairId(number), nonce))
            .ok_or(ConnectError::TooMany { count_max: QUEUE_PAIRS_MAX })?;
        let id = QueuePairId(number);
        self.queue_pair_count += 1;
        self.expected_count += 1;
        self.reserve_ready();
        let promises = self.options.promises();
        let address = Address { socket, queue_pair: id, nonce, promises };
        Ok(PendingQueuePair::new(id, address.encode()))
    }

    pub(super) fn join(
        &mut self,
        id: QueuePairId,
        role: Role,
        remote: &Endpoint,
    ) -> Result<(), ConnectError> {
        let address = Address::decode(remote)?;
        if role == Role::Passive {
            return self.expect(id, &address);
        }
        self.dial(id, &address)?;
        let connection = self.connections.find_mut(id.0).ok_or(ConnectError::Stale)?;
        let dialled = connection.socket.as_ref().ok_or(ConnectError::Stale)?;
        let unreachable =
            |source| ConnectError::Unreachable { address: address.socket.to_string(), source };
        dialled.await_answer(self.options.dial_timeout).map_err(unreachable)?;
        self.answered(id);
        Ok(())
    }

    /// Sends for the peer without waiting for its host to answer: a look finds that.
    pub(super) fn begin_dial(
        &mut self,
        id: QueuePairId,
        remote: &Endpoint,
    ) -> Result<(), ConnectError> {
        self.dial(id, &Address::decode(remote)?)
    }

    fn dial(&mut self, id: QueuePairId, address: &Address) -> Result<(), ConnectError> {
        let unreachable =
            |source| ConnectError::Unreachable { address: address.socket.to_string(), source };
        let connection = self.connections.find_mut(id.0).ok_or(ConnectError::Stale)?;
        let socket = Socket::dial(&address.socket, self.options.socket()).map_err(unreachable)?;
        let hello = Hello {
            dialled: address.queue_pair,
            dialling: id,
            nonce_dialled: address.nonce,
            nonce_dialling: connection.nonce,
        };
        let header =
            Header { length: u32::try_from(HELLO_LEN).unwrap_or(0), ..Header::new(Kind::Hello) };
        connection.outbox.stage(&header.encode());
        connection.outbox.stage(&hello.encode());
        connection.peer = Some((address.queue_pair, address.nonce));
        connection.peer_promises = address.promises;
        connection.interest = Interest { receive: false, send: true };
        self.wait_point
            .add(&socket, Source::Connection(id), connection.interest)
            .map_err(|error| ConnectError::System { step: "epoll_ctl", source: error.into() })?;
        connection.socket = Some(socket);
        connection.phase = Phase::Dialling { until: Instant::now() + self.options.dial_timeout };
        rest_not(connection, &mut self.lists.restless);
        Ok(())
    }

    /// Sees to dialled peers whose hosts have answered, or refused.
    pub(super) fn see_to_answered(&mut self) {
        while let Some(id) = self.lists.answered.pop() {
            let Some(connection) = self.connections.find_mut(id.0) else { continue };
            let Some(socket) = &connection.socket else { continue };
            match socket.answer() {
                Ok(true) => self.answered(id),
                Ok(false) => {}
                Err(error) => {
                    connection.settle::<()>(Err(Failure::Lost(error)), &mut self.shared);
                    self.expected_count -= 1;
                    self.connected = true;
                }
            }
        }
    }

    /// The peer's host has answered.
    fn answered(&mut self, id: QueuePairId) {
        let Some(connection) = self.connections.find_mut(id.0) else { return };
        let Some(socket) = &connection.socket else { return };
        let source = Source::Connection(id);
        // A descriptor that is registered can be changed.
        let _ = self.wait_point.change(socket, source, Interest::RECEIVE);
        connection.interest = Interest::RECEIVE;
        connection.phase = Phase::Ready;
        self.expected_count -= 1;
        self.connected = true;
        connection.send(&mut self.shared);
        self.heat(id);
    }

    fn expect(&mut self, id: QueuePairId, address: &Address) -> Result<(), ConnectError> {
        let connection = self.connections.find_mut(id.0).ok_or(ConnectError::Stale)?;
        let expected = (address.queue_pair, address.nonce);
        connection.peer_promises = address.promises;
        match connection.peer.replace(expected) {
            None => connection.phase = Phase::Connecting,
            Some(found) if connection.socket.is_some() && is_same(&found, &expected) => {
                // It dialled before we knew of it.
                connection.phase = Phase::Ready;
                self.expected_count -= 1;
                self.heat(id);
            }
            Some(_) => return Err(ConnectError::Stale),
        }
        Ok(())
    }

    /// Takes in those who dialled. Bounded.
    pub(super) fn accept(&mut self) {
        for _ in 0..ACCEPTS_PER_POLL_MAX {
            let Some(listener) = &self.listener else { return };
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if descriptors::stop_accepting(&error) => {
                    self.pause_accepting();
                    break;
                }
                Err(_) => break,
            };
            let deadline = Instant::now() + self.options.dial_timeout;
            if self.strangers.len() == STRANGERS_MAX {
                // An honest peer introduces itself as it dials: the oldest is the least honest.
                self.strangers.remove(0);
            }
            let stranger = Stranger { stream, bytes: [0; INTRODUCTION_LEN], filled: 0, deadline };
            let watched = stranger.stream.set_nonblocking(true).is_ok()
                && self.wait_point.add(&stranger, Source::Stranger, Interest::RECEIVE).is_ok();
            if watched {
                self.strangers.push(stranger);
            }
        }
        self.meet_strangers();
    }

    /// Leaves those who dial waiting: the listener stays readable, and would keep this thread busy.
    pub(super) fn pause_accepting(&mut self) {
        let Some(listener) = &self.listener else { return };
        if self.wait_point.change(listener, Source::Listener, Interest::default()).is_ok() {
            self.accepts_again_at = Some(Instant::now() + ACCEPT_PAUSE);
        }
    }

    pub(super) fn accept_again(&mut self, now: Instant) {
        if self.accepts_again_at.is_none_or(|at| now < at) {
            return;
        }
        self.accepts_again_at = None;
        if let Some(listener) = &self.listener
            && let Err(error) =
                self.wait_point.change(listener, Source::Listener, Interest::RECEIVE)
        {
            tracing::error!(%error, "cannot watch the listener again");
            self.accepts_again_at = Some(now + ACCEPT_PAUSE);
        }
    }

    /// Gives those who introduced themselves to their queue pairs, and drops the unwanted.
    pub(super) fn meet_strangers(&mut self) {
        let mut index = 0;
        while index < self.strangers.len() {
            match self.strangers[index].listen() {
                Acquaintance::Unknown => index += 1,
                Acquaintance::Unwanted => drop(self.strangers.remove(index)),
                Acquaintance::Introduced(hello) => {
                    let stranger = self.strangers.remove(index);
                    if self.welcome(stranger, &hello).is_none() {
                        tracing::debug!("a peer dialled a queue pair that does not expect it");
                    }
                }
            }
        }
    }

    pub(super) fn drop_late_strangers(&mut self, now: Instant) {
        self.strangers.retain(|stranger| now < stranger.deadline);
    }

    fn welcome(&mut self, stranger: Stranger, hello: &Hello) -> Option<()> {
        let id = hello.dialled;
        let connection = self.connections.find_mut(id.0)?;
        let found = (hello.dialling, hello.nonce_dialling);
        if connection.socket.is_some() || !connection.nonce.matches(&hello.nonce_dialled) {
            return None;
        }
        let is_ready = match (connection.phase, &connection.peer) {
            (Phase::Connecting, Some(expected)) if is_same(expected, &found) => true,
            (Phase::Pending, None) => false,
            _ => return None,
        };
        let socket = Socket::new(stranger.stream, self.options.socket()).ok()?;
        // Nothing is taken from it before this side says who it expects.
        let interest = if is_ready { Interest::RECEIVE } else { Interest::default() };
        self.wait_point.change(&socket, Source::Connection(id), interest).ok()?;
        connection.interest = interest;
        connection.socket = Some(socket);
        connection.peer = Some(found);
        if is_ready {
            connection.phase = Phase::Ready;
            self.expected_count -= 1;
            self.connected = true;
            self.heat(id);
        }
        Some(())
    }

    fn listening_address(&mut self) -> Result<SocketAddr, ConnectError> {
        let system = |step| move |source| ConnectError::System { step, source };
        if self.listener.is_none() {
            let listener = TcpListener::bind(self.options.bind).map_err(system("bind"))?;
            listener.set_nonblocking(true).map_err(system("fcntl(O_NONBLOCK)"))?;
            self.wait_point.add(&listener, Source::Listener, Interest::RECEIVE).map_err(
                |error| ConnectError::System { step: "epoll_ctl", source: error.into() },
            )?;
            self.listener = Some(listener);
        }
        let Some(listener) = &self.listener else { return Err(ConnectError::Stale) };
        let mut address = listener.local_addr().map_err(system("getsockname"))?;
        if let Some(ip) = self.options.advertised {
            address.set_ip(ip);
        }
        Ok(address)
    }
}

fn is_same(a: &(QueuePairId, Nonce), b: &(QueuePairId, Nonce)) -> bool {
    a.0 == b.0 && a.1.matches(&b.1)
}
