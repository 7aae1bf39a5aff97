//! One queue pair: its pages, its socket, and how it ends.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::event::epoll;

use super::{
    endpoint::Nonce,
    immediates::{Consumer, Producer},
    imports::{Import, Imports},
    limits::{MESSAGES_MAX, OUTBOX_MAX},
    message::{self, Descriptors, Message},
    segment::{ChannelPage, InstancePage},
    socket,
};
use crate::{
    fabric::{QueuePairId, QueuePairState},
    sync::Ordering,
};

/// Everything of one queue pair.
#[derive(Debug)]
pub(super) struct QueuePair {
    pub(super) id: QueuePairId,
    pub(super) nonce: Nonce,
    pub(super) state: QueuePairState,
    /// Set by `connect`: the peer that must connect or answer.
    pub(super) expected: Option<Nonce>,
    /// A peer that came before `connect` was called here.
    pub(super) early: Option<(OwnedFd, Nonce, Descriptors)>,
    /// On the active side, from its hello until the peer's welcome.
    pub(super) dialled: Option<OwnedFd>,
    /// What the peer sends by.
    pub(super) inbound: ChannelPage,
    pub(super) consumer: Consumer,
    /// The connection, from its beginning until the peer's end of it was seen.
    pub(super) link: Option<Link>,
    /// Completions queued and not polled yet.
    pub(super) unpolled: u32,
    /// Whether a write was made that a later read must not overtake.
    pub(super) wrote: bool,
    /// The peer's regions.
    pub(super) imports: Imports,
    /// Keys of one's own regions that the peer was told of.
    shared: Vec<u32>,
    /// The request that the peer was carrying out when memory was taken back from it.
    pub(super) awaited: Option<u32>,
    outbox: VecDeque<(Message, Descriptors)>,
    wants_room: bool,
    /// Why the peer's welcome could not be taken.
    pub(super) unwelcome: Option<io::Error>,
}

/// The peer, as far as this queue pair reaches it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) socket: OwnedFd,
    pub(super) instance: InstancePage,
    pub(super) bell: OwnedFd,
    pub(super) outbound: ChannelPage,
    pub(super) producer: Producer,
    /// Odd while a request is being carried out; its copy in `outbound` is what the peer sees.
    pub(super) mark: u32,
}

impl QueuePair {
    pub(super) fn new(
        id: QueuePairId,
        nonce: Nonce,
        inbound: ChannelPage,
        imports: Imports,
    ) -> Self {
        Self {
            id,
            nonce,
            state: QueuePairState::Connecting,
            expected: None,
            early: None,
            dialled: None,
            inbound,
            consumer: Consumer::default(),
            link: None,
            unpolled: 0,
            wrote: false,
            imports,
            shared: Vec::new(),
            awaited: None,
            outbox: VecDeque::new(),
            wants_room: false,
            unwelcome: None,
        }
    }

    /// Ends it: the peer sees the mark at once, or the hang-up. What was mapped stays until the
    /// queue pair is disconnected, because views point into it; so does the socket, by which the peer's
    /// end is seen, as long as it may be carrying out a request.
    pub(super) fn fail(&mut self) {
        self.close();
        self.state = QueuePairState::Error;
        if let Some(link) = &self.link {
            socket::hang_up(&link.socket);
        }
        self.early = None;
        self.dialled = None;
        self.outbox.clear();
    }

    /// The peer has hung up, and so carries nothing out any more.
    fn lose(&mut self) {
        self.fail();
        self.link = None;
        self.awaited = None;
    }

    /// Withdraws the peer's permission to send.
    pub(super) fn close(&self) {
        self.inbound.closed().store(1, Ordering::SeqCst);
    }

    /// The peer's region by this key, whether alive or not.
    #[inline]
    pub(super) fn import(&self, key: u32) -> Option<&Import> {
        self.imports.find(key)
    }

    /// Tells the peer of a region. False when too many messages wait already.
    pub(super) fn share(
        &mut self,
        epoll: BorrowedFd<'_>,
        message: Message,
        key: u32,
        fd: OwnedFd,
    ) -> bool {
        if !self.shared.contains(&key) {
            self.shared.push(key);
        }
        self.send(epoll, message, Descriptors([Some(fd), None, None]))
    }

    /// Tells the peer that a region has ended, if it was told of it.
    pub(super) fn unshare(&mut self, epoll: BorrowedFd<'_>, key: u32) {
        let Some(at) = self.shared.iter().position(|shared| *shared == key) else { return };
        self.shared.swap_remove(at);
        let may_hear = self.state != QueuePairState::Error;
        if may_hear && !self.send(epoll, Message::Unshare { key }, Descriptors::default()) {
            tracing::warn!("a shared-memory peer takes no messages: its connection ends");
            self.fail();
        }
    }

    /// Queues a message, and sends what the socket takes. False when too many wait already.
    pub(super) fn send(
        &mut self,
        epoll: BorrowedFd<'_>,
        message: Message,
        descriptors: Descriptors,
    ) -> bool {
        if self.outbox.len() == OUTBOX_MAX {
            return false;
        }
        self.outbox.push_back((message, descriptors));
        self.flush(epoll);
        true
    }

    /// Answers a hello, after everything that was shared before.
    pub(super) fn send_welcome(
        &mut self,
        epoll: BorrowedFd<'_>,
        page: &InstancePage,
        bell: &OwnedFd,
    ) -> io::Result<()> {
        let to = self.expected.ok_or(io::ErrorKind::NotConnected)?;
        let descriptors = Descriptors([
            Some(page.fd()?.try_clone()?),
            Some(bell.try_clone()?),
            Some(self.inbound.fd()?.try_clone()?),
        ]);
        self.inbound.close_file();
        if self.send(epoll, Message::Welcome { to, from: self.nonce }, descriptors) {
            Ok(())
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    /// Sends what waits, as far as the socket takes it.
    pub(super) fn flush(&mut self, epoll: BorrowedFd<'_>) {
        let Some(link) = &self.link else { return };
        let mut broken = false;
        while let Some((message, descriptors)) = self.outbox.front() {
            match message::send_owned(link.socket.as_fd(), message, descriptors) {
                Ok(()) => {
                    self.outbox.pop_front();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        let wants_room = !self.outbox.is_empty();
        if wants_room != self.wants_room && !broken {
            self.wants_room = wants_room;
            let token = epoll::EventData::new_u64(super::connect::queue_pair_token(self.id));
            broken =
                epoll::modify(epoll, &link.socket, token, socket::interest(wants_room)).is_err();
        }
        if broken {
            self.fail();
        }
    }

    /// Takes what the peer has sent; a hang-up or nonsense ends the queue pair.
    pub(super) fn drain(&mut self) {
        for _ in 0..MESSAGES_MAX {
            let Some(link) = &self.link else { return };
            match message::receive(&link.socket) {
                // What it had sent before it learns of the end.
                Ok(Some(_)) if self.state == QueuePairState::Error => {}
                Ok(Some((Message::Share { key, access, len }, descriptors))) => {
                    if let Err(error) = self.imports.map(key, access, len, descriptors) {
                        tracing::warn!(%error, key, len, "cannot map a peer's region");
                    }
                }
                Ok(Some((Message::Unshare { key }, _))) => self.imports.end(key),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => self.fail(),
                Ok(Some(_)) => self.fail(),
                Ok(None) | Err(_) => return self.lose(),
            }
        }
    }
}
