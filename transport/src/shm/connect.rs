//! Queue pairs come and go: the listener, the greeting of both sides, hang-ups.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use rustix::event::{PollFd, PollFlags, Timespec, epoll};

use super::{
    Listener, Shm,
    endpoint::{Address, Nonce},
    immediates::Producer,
    imports::Imports,
    limits::{ACCEPTS_MAX, EVENTS_MAX, GREETINGS_MAX, QUEUE_PAIRS_MAX},
    message::{self, Descriptors, Message},
    queue_pair::{Link, QueuePair},
    quiesce::fence_peers,
    segment::{ChannelPage, InstancePage},
    socket,
};
use crate::{
    descriptors::{self, ACCEPT_PAUSE, are_exhausted},
    error::{AllocateError, ConnectError},
    fabric::{Endpoint, PendingQueuePair, QueuePairId, QueuePairState, Role},
};

/// Epoll tokens: the kind above, a number below.
pub(super) const BELL_TOKEN: u64 = 0;
const LISTENER_TOKEN: u64 = 1 << 32;
const GREETING_TOKEN: u64 = 2 << 32;
const QUEUE_PAIR_TOKEN: u64 = 3 << 32;

pub(super) fn queue_pair_token(id: QueuePairId) -> u64 {
    QUEUE_PAIR_TOKEN | u64::from(id.0)
}

fn system(step: &'static str) -> impl Fn(io::Error) -> ConnectError {
    move |source| ConnectError::System { step, source }
}

fn no_memory(source: AllocateError) -> ConnectError {
    ConnectError::System {
        step: "allocating a queue pair's pages",
        source: io::Error::other(source),
    }
}

impl Shm {
    pub(super) fn make_queue_pair(&mut self) -> Result<PendingQueuePair, ConnectError> {
        self.ensure_listener()?;
        let Some(listener) = &self.listener else { return Err(ConnectError::Stale) };
        let listener_name = listener.name;
        let inbound = ChannelPage::create().map_err(no_memory)?;
        let nonce = socket::random_nonce().map_err(system("getrandom"))?;
        let number = self
            .queue_pairs
            .insert_with(|number| {
                let imports = Imports::new(self.options.mapped_len_max);
                QueuePair::new(QueuePairId(number), nonce, inbound, imports)
            })
            .ok_or(ConnectError::TooMany { count_max: QUEUE_PAIRS_MAX })?;
        // Room for all completions that can wait at once, so that posting never allocates.
        let outstanding =
            self.queue_pairs.values().count() * self.capabilities.outstanding_max as usize;
        self.completions.reserve(outstanding.saturating_sub(self.completions.len()));
        let address = Address { nonce, host: self.host, listener: listener_name };
        Ok(PendingQueuePair::new(QueuePairId(number), address.encode()))
    }

    pub(super) fn connect_queue_pair(
        &mut self,
        id: QueuePairId,
        role: Role,
        remote: &Endpoint,
    ) -> Result<QueuePairId, ConnectError> {
        let deadline = Instant::now() + self.options.connect_timeout;
        let connected = match Address::decode(remote, &self.host) {
            Ok(address) if role == Role::Active => self
                .dial(id, &address, deadline)
                .and_then(|()| self.await_welcome(id, &address, deadline)),
            Ok(address) => self.expect(id, address.nonce),
            Err(error) => Err(error),
        };
        self.end_unless(connected, id)
    }

    /// Leaves the peer's answer to [`Self::serve`].
    pub(super) fn begin_connect_queue_pair(
        &mut self,
        id: QueuePairId,
        remote: &Endpoint,
    ) -> Result<QueuePairId, ConnectError> {
        let dialled = Address::decode(remote, &self.host)
            .and_then(|address| self.dial(id, &address, Instant::now()));
        self.end_unless(dialled, id)
    }

    fn end_unless(
        &mut self,
        connected: Result<(), ConnectError>,
        id: QueuePairId,
    ) -> Result<QueuePairId, ConnectError> {
        if connected.is_err() {
            self.end_queue_pair(id);
        }
        connected.map(|()| id)
    }

    pub(super) fn end_queue_pair(&mut self, id: QueuePairId) {
        self.receivers.retain(|receiver| *receiver != id);
        let Some(mut queue_pair) = self.queue_pairs.remove(id.0) else { return };
        queue_pair.fail();
        let Some(link) = &queue_pair.link else { return };
        // Nobody looks after it any more but `forget_quiet`.
        let _ = epoll::delete(&self.epoll, &link.socket);
        fence_peers();
        queue_pair.await_peer();
        self.leaving.extend(queue_pair.leave());
    }

    /// Looks after sockets without blocking.
    pub(super) fn serve(&mut self) {
        self.accept_again();
        self.forget_quiet();
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); EVENTS_MAX];
        let mut tokens = [0; EVENTS_MAX];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = match epoll::wait(&self.epoll, &mut events, Some(&now)) {
            Ok((events, _)) => {
                for (token, event) in tokens.iter_mut().zip(&*events) {
                    let event = *event;
                    *token = event.data.u64();
                }
                events.len()
            }
            // Nothing but an interruption can happen here; the next turn looks again.
            Err(_) => 0,
        };
        for token in &tokens[..count] {
            #[expect(clippy::cast_possible_truncation, reason = "the low half is the number")]
            let number = *token as u32;
            match token & !0xffff_ffff {
                LISTENER_TOKEN => self.accept_all(),
                GREETING_TOKEN => self.greet(number),
                QUEUE_PAIR_TOKEN => {
                    self.hear(QueuePairId(number));
                    if let Some(queue_pair) = self.queue_pairs.find_mut(number) {
                        queue_pair.drain();
                        queue_pair.flush(self.epoll.as_fd());
                    }
                }
                // The bell is cleared when the thread wakes.
                _ => {}
            }
        }
    }

    fn ensure_listener(&mut self) -> Result<(), ConnectError> {
        if self.listener.is_some() {
            return Ok(());
        }
        let name = socket::random_nonce().map_err(system("getrandom"))?;
        let socket = socket::listen(&name).map_err(system("listening on an abstract socket"))?;
        socket::watch(&self.epoll, &socket, LISTENER_TOKEN).map_err(system("epoll_ctl"))?;
        self.listener = Some(Listener { name, socket });
        Ok(())
    }

    fn accept_all(&mut self) {
        for _ in 0..ACCEPTS_MAX {
            let Some(listener) = &self.listener else { return };
            let socket = match socket::accept(listener.socket.as_fd()) {
                Ok(socket) => socket,
                Err(error) => {
                    if descriptors::stop_accepting(&error) {
                        // It stays readable, and would keep this thread busy.
                        let unwatched = epoll::delete(&self.epoll, &listener.socket).is_ok();
                        self.accepts_again_at = unwatched.then(|| Instant::now() + ACCEPT_PAUSE);
                    }
                    return;
                }
            };
            if !socket::is_trusted(socket.as_fd()) {
                tracing::warn!("a process of another user tried to connect by shared memory");
                continue;
            }
            self.greeting_number = self.greeting_number.wrapping_add(1);
            let token = GREETING_TOKEN | u64::from(self.greeting_number);
            if socket::watch(&self.epoll, &socket, token).is_ok() {
                if self.greetings.len() == GREETINGS_MAX {
                    self.greetings.pop_front();
                }
                self.greetings.push_back((self.greeting_number, socket));
            }
        }
    }

    /// Watches the listener again after there were no descriptors.
    pub(super) fn accept_again(&mut self) {
        if self.accepts_again_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.accepts_again_at = None;
        if let Some(listener) = &self.listener
            && let Err(error) = socket::watch(&self.epoll, &listener.socket, LISTENER_TOKEN)
        {
            tracing::error!(%error, "cannot watch the listener again");
            self.accepts_again_at = Some(Instant::now() + ACCEPT_PAUSE);
        }
    }

    /// A connection's first message, or its end.
    fn greet(&mut self, number: u32) {
        let position = self.greetings.iter().position(|(greeting, _)| *greeting == number);
        let Some((_, socket)) = position.and_then(|position| self.greetings.remove(position))
        else {
            return;
        };
        match message::receive(&socket) {
            Ok(Some((Message::Hello { to, from }, descriptors))) => {
                // Its queue pair watches it from now on, under a token of its own.
                let _ = epoll::delete(&self.epoll, &socket);
                self.welcome(socket, to, from, descriptors);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.greetings.push_back((number, socket));
            }
            // It hung up or talks nonsense: dropping the socket says so.
            _ => {}
        }
    }

    fn welcome(&mut self, socket: OwnedFd, to: Nonce, from: Nonce, descriptors: Descriptors) {
        let Self { queue_pairs, epoll, page, bell, .. } = self;
        let candidate = queue_pairs.values_mut().find(|queue_pair| queue_pair.nonce == to);
        let welcome_is_due = |queue_pair: &&mut QueuePair| {
            queue_pair.state == QueuePairState::Connecting
                && queue_pair.early.is_none()
                && queue_pair.expected.is_none_or(|expected| expected == from)
        };
        let Some(queue_pair) = candidate.filter(welcome_is_due) else {
            // The dialler learns it from the hang-up if not from the message.
            let _ = message::send(socket.as_fd(), &Message::Refused, &[]);
            return;
        };
        if queue_pair.expected.is_none() {
            // Nothing more is due from it before our welcome, so nobody watches it.
            queue_pair.early = Some((socket, from, descriptors));
            return;
        }
        if let Err(error) = establish(queue_pair, socket, descriptors, epoll, true, page, bell) {
            tracing::warn!(%error, "cannot set up a shared-memory connection");
            queue_pair.fail();
        }
        self.receivers.push(queue_pair.id);
    }

    fn expect(&mut self, id: QueuePairId, peer: Nonce) -> Result<(), ConnectError> {
        let queue_pair = self.queue_pairs.find_mut(id.0).ok_or(ConnectError::Stale)?;
        queue_pair.expected = Some(peer);
        if let Some((socket, from, descriptors)) = queue_pair.early.take() {
            let nonce = queue_pair.nonce;
            // If it is not the expected one it is refused there.
            self.welcome(socket, nonce, from, descriptors);
        }
        Ok(())
    }

    /// Reaches the peer's listener and says hello.
    fn dial(
        &mut self,
        id: QueuePairId,
        address: &Address,
        deadline: Instant,
    ) -> Result<(), ConnectError> {
        let unreachable = |source| ConnectError::Unreachable { address: address.name(), source };
        let socket = loop {
            match socket::dial(&address.listener) {
                Ok(socket) => break socket,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Err(ConnectError::Stale);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.pause(id, deadline).map_err(unreachable)?;
                }
                Err(error) => return Err(unreachable(error)),
            }
        };
        if !socket::is_trusted(socket.as_fd()) {
            return Err(unreachable(io::ErrorKind::PermissionDenied.into()));
        }
        let queue_pair = self.queue_pairs.find_mut(id.0).ok_or(ConnectError::Stale)?;
        queue_pair.expected = Some(address.nonce);
        let from = queue_pair.nonce;
        let page = self.page.fd().map_err(system("sharing the instance page"))?;
        let inbound = queue_pair.inbound.fd().map_err(system("sharing a queue pair"))?;
        let descriptors = [page.as_fd(), self.bell.as_fd(), inbound.as_fd()];
        message::send(socket.as_fd(), &Message::Hello { to: address.nonce, from }, &descriptors)
            .map_err(unreachable)?;
        queue_pair.inbound.close_file();
        socket::watch(&self.epoll, &socket, queue_pair_token(id)).map_err(system("epoll_ctl"))?;
        queue_pair.dialled = Some(socket);
        Ok(())
    }

    /// Looks after sockets until the peer has answered.
    fn await_welcome(
        &mut self,
        id: QueuePairId,
        address: &Address,
        deadline: Instant,
    ) -> Result<(), ConnectError> {
        loop {
            let queue_pair = self.queue_pairs.find_mut(id.0).ok_or(ConnectError::Stale)?;
            match queue_pair.state {
                QueuePairState::Ready => return Ok(()),
                QueuePairState::Error => {
                    return Err(match queue_pair.unwelcome.take() {
                        Some(error) if are_exhausted(&error) => {
                            system("receiving the peer's descriptors (raise `ulimit -n`)")(error)
                        }
                        // Refused, or gone before it could say so.
                        _ => ConnectError::Stale,
                    });
                }
                QueuePairState::Connecting => {}
            }
            self.pause(id, deadline)
                .map_err(|source| ConnectError::Unreachable { address: address.name(), source })?;
        }
    }

    /// What the peer says to the hello: what it shares, and then that we are welcome.
    fn hear(&mut self, id: QueuePairId) {
        let Self { queue_pairs, epoll, page, bell, .. } = self;
        let Some(queue_pair) = queue_pairs.find_mut(id.0) else { return };
        while let Some(socket) = &queue_pair.dialled {
            let heard = match message::receive(socket) {
                Ok(Some((Message::Share { key, access, len }, descriptors))) => {
                    queue_pair.imports.map(key, access, len, descriptors)
                }
                Ok(Some((Message::Unshare { key }, _))) => {
                    queue_pair.imports.end(key);
                    Ok(())
                }
                Ok(Some((Message::Welcome { to, from }, descriptors)))
                    if to == queue_pair.nonce && queue_pair.expected == Some(from) =>
                {
                    let Some(socket) = queue_pair.dialled.take() else { return };
                    // It is watched again as the link's.
                    let _ = epoll::delete(&*epoll, &socket);
                    self.receivers.push(id);
                    establish(queue_pair, socket, descriptors, epoll, false, page, bell)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                Ok(_) => Err(io::ErrorKind::ConnectionRefused.into()),
                Err(error) => Err(error),
            };
            if let Err(error) = heard {
                tracing::debug!(%error, "a shared-memory connection was not made");
                queue_pair.fail();
                queue_pair.unwelcome = Some(error);
            }
        }
    }

    /// Sleeps a little until something may have changed, looking after other queue pairs meanwhile:
    /// two instances that dial each other must not wait for each other.
    fn pause(&mut self, id: QueuePairId, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let slice = left.min(std::time::Duration::from_millis(10));
        let slice = Timespec::try_from(slice).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 1 });
        let listener = self.listener.as_ref().map(|listener| &listener.socket);
        let dialled = self.queue_pairs.find(id.0).and_then(|pair| pair.dialled.as_ref());
        let first = dialled.or(listener).unwrap_or(&self.epoll);
        let second = listener.unwrap_or(&self.epoll);
        let mut polls = [PollFd::new(first, PollFlags::IN), PollFd::new(second, PollFlags::IN)];
        match rustix::event::poll(&mut polls, Some(&slice)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.serve();
        Ok(())
    }
}

/// Makes a queue pair ready with what the peer's greeting carried.
fn establish(
    queue_pair: &mut QueuePair,
    socket: OwnedFd,
    descriptors: Descriptors,
    epoll: &OwnedFd,
    answer: bool,
    page: &InstancePage,
    bell: &OwnedFd,
) -> io::Result<()> {
    let Descriptors([Some(instance), Some(peer_bell), Some(channel)]) = descriptors else {
        return Err(Descriptors::missing());
    };
    let link = Link {
        instance: InstancePage::map(instance.as_fd()).map_err(io::Error::other)?,
        outbound: ChannelPage::map(channel.as_fd()).map_err(io::Error::other)?,
        bell: peer_bell,
        socket,
        producer: Producer::default(),
        mark: 0,
    };
    socket::watch(epoll, &link.socket, queue_pair_token(queue_pair.id))?;
    queue_pair.link = Some(link);
    queue_pair.state = QueuePairState::Ready;
    // What was shared so far goes first: whoever is welcome can use it at once.
    queue_pair.flush(epoll.as_fd());
    if answer {
        queue_pair.send_welcome(epoll.as_fd(), page, bell)?;
    }
    Ok(())
}
