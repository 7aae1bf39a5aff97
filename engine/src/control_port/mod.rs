//! A control port. One thread accepts connections and listens to them until they have shown the token. Only then does a
//! connection get its own thread.

mod lobby;
mod places;
mod stranger;

#[cfg(test)]
mod tests;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use windlass_transport::{
    control::{ControlError, ControlStream},
    descriptors::{self, ACCEPT_PAUSE},
};
use windlass_wire::control::RefusalKind;

use self::{
    lobby::Lobby,
    places::{Place, Places},
    stranger::{Heard, Stranger},
};
use crate::{
    complaints::Complaints,
    greeting::Greeting,
    limits::STRANGERS_MAX,
    refusal::{Refusal, invalid, refused},
    shard::chain,
};

/// A port that is listened on. Dropping it stops that; connections go on.
#[derive(Debug)]
pub(crate) struct ControlPort {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Stack of a control thread, in bytes.
const CONTROL_STACK_LEN: usize = 256 << 10;

impl ControlPort {
    /// Serves every connection to `listener` that presents the token, if one is asked for, by `serve`.
    pub(crate) fn open(
        listener: TcpListener,
        token: Option<String>,
        serve: impl Fn(ControlStream, Greeting) -> Result<(), ControlError> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let doorkeeper = Doorkeeper {
            listener,
            token,
            serve: Arc::new(serve),
            stopping: stopping.clone(),
            wake: wake.clone(),
            lobby: Lobby::default(),
            places: Arc::new(Places::new(descriptors::limit())),
            accepts_again_at: None,
            wrong_tokens: Complaints::default(),
            refused_accepts: Complaints::default(),
        };
        let thread = std::thread::Builder::new()
            .name("windlass-control".to_owned())
            .spawn(move || doorkeeper.run())?;
        Ok(Self { address, stopping, wake, thread: Some(thread) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections.
    pub(crate) fn close(&mut self) {
        self.stopping.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return };
        // Fails only when the counter is full: then the thread is being woken anyway.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_le_bytes());
        if thread.join().is_err() {
            tracing::error!("the control port's thread panicked");
        }
    }
}

impl Drop for ControlPort {
    fn drop(&mut self) {
        self.close();
    }
}

struct Doorkeeper<S> {
    listener: TcpListener,
    token: Option<String>,
    serve: Arc<S>,
    stopping: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
    lobby: Lobby,
    places: Arc<Places>,
    /// Set while nobody is accepted, for want of descriptors.
    accepts_again_at: Option<Instant>,
    wrong_tokens: Complaints,
    refused_accepts: Complaints,
}

impl<S> Doorkeeper<S>
where
    S: Fn(ControlStream, Greeting) -> Result<(), ControlError> + Send + Sync + 'static,
{
    fn run(mut self) {
        while self.turn() {}
    }

    /// Sleeps until something happens, and sees to it; false when it is to stop.
    fn turn(&mut self) -> bool {
        let ready = self.wait();
        if self.stopping.load(Ordering::Acquire) {
            return false;
        }
        let now = Instant::now();
        // From the last on, since those who leave close ranks.
        for at in ready.into_iter().rev() {
            self.hear(at, now);
        }
        self.lobby.expire(now);
        self.accept(now);
        true
    }

    /// Sleeps until something happens; which strangers have something to say, in order.
    fn wait(&self) -> Vec<usize> {
        let now = Instant::now();
        let accepts = self.accepts_again_at.is_none() && self.lobby.has_room(now);
        let mut polls = vec![PollFd::new(&*self.wake, PollFlags::IN)];
        polls.extend(accepts.then(|| PollFd::new(&self.listener, PollFlags::IN)));
        let before = polls.len();
        let strangers = self.lobby.strangers().iter();
        polls.extend(strangers.map(|stranger| PollFd::new(stranger, PollFlags::IN)));
        let next = [self.lobby.next_change(now), self.accepts_again_at].into_iter().flatten().min();
        let timeout = next.map(|next| {
            let left = next.saturating_duration_since(now);
            Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 })
        });
        // An interruption is a spurious return; nothing else can fail with valid descriptors.
        let _ = poll(&mut polls, timeout.as_ref());
        let strangers = polls[before..].iter().enumerate();
        strangers.filter(|(_, poll)| !poll.revents().is_empty()).map(|(at, _)| at).collect()
    }

    fn accept(&mut self, now: Instant) {
        if self.accepts_again_at.is_some_and(|at| now < at) {
            return;
        }
        if self.accepts_again_at.take().is_some() {
            descriptors::refill_reserve();
        }
        for _ in 0..STRANGERS_MAX {
            if !self.lobby.has_room(now) {
                return;
            }
            match self.listener.accept() {
                Ok((stream, address)) => self.lobby.enter(stream, address, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // It waits in the listener's queue, which would keep this thread busy.
                    self.accepts_again_at = Some(now + ACCEPT_PAUSE);
                    if let Some(count) = self.refused_accepts.due(now) {
                        tracing::warn!(%error, count, "cannot take connections: raise `ulimit -n`");
                    }
                    return;
                }
            }
        }
    }

    /// Listens to a stranger that has something to say.
    fn hear(&mut self, at: usize, now: Instant) {
        let refusal = match self.lobby.get_mut(at).hear() {
            Heard::Part => return,
            Heard::Gone => return drop(self.lobby.remove(at)),
            Heard::Nonsense(error) => {
                let stranger = self.lobby.remove(at);
                let address = stranger.address();
                return tracing::debug!(%address, %error, "a stranger spoke nonsense");
            }
            Heard::TooLong(len) => invalid(format!("a greeting has no {len} bytes")),
            Heard::Greeting(message) => {
                match Greeting::check(message, self.token.as_deref())
                    .and_then(|greeting| Ok((self.places.take(greeting.peer.is_some())?, greeting)))
                {
                    Ok((place, greeting)) => {
                        let stranger = self.lobby.remove(at);
                        return self.let_in(stranger, place, greeting);
                    }
                    Err(refusal) => refusal,
                }
            }
        };
        self.turn_away(at, refusal, now);
    }

    fn turn_away(&mut self, at: usize, refusal: Refusal, now: Instant) {
        let stranger = self.lobby.get_mut(at);
        let address = stranger.address();
        if refusal.kind == (RefusalKind::Token {}) {
            if let Some(count) = self.wrong_tokens.due(now) {
                tracing::warn!(%address, count, "connections without the right token were refused");
            }
        } else {
            tracing::debug!(%address, text = refusal.text, "a connection was refused");
        }
        stranger.refuse(&refused(refusal), now);
    }

    /// Gives a connection that has shown who it is a thread of its own.
    fn let_in(&self, stranger: Stranger, place: Place, greeting: Greeting) {
        let address = stranger.address();
        let serve = self.serve.clone();
        let started = stranger.into_stream().and_then(ControlStream::new).and_then(|stream| {
            std::thread::Builder::new()
                .name("windlass-client".to_owned())
                .stack_size(CONTROL_STACK_LEN)
                .spawn(move || {
                    let peer = stream.peer().to_owned();
                    if let Err(error) = serve(stream, greeting) {
                        tracing::debug!(peer, error = chain(&error), "control connection ended");
                    }
                    drop(place);
                })
        });
        if let Err(error) = started {
            tracing::warn!(%error, %address, "a control connection cannot be served");
        }
    }
}
