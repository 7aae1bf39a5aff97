//! One queue pair: its pages, its socket, and the peer's regions it has mapped.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::event::epoll;

use super::{
    endpoint::Nonce,
    immediates::{Consumer, Producer},
    limits::{MESSAGES_MAX, OUTBOX_MAX, REGIONS_MAX},
    message::{self, Descriptors, Message},
    segment::{ChannelPage, InstancePage, descriptor, slot_of},
    socket,
};
use crate::{
    fabric::{Access, QueuePairId, QueuePairState},
    memory::Pages,
    sync::Ordering,
};

/// Everything of one queue pair.
#[derive(Debug)]
pub(super) struct QueuePair {
    pub(super) id: QueuePairId,
    pub(super) nonce: Nonce,
    pub(super) state: QueuePairState,
    /// Once `connect` was called: who has to come, or to answer.
    pub(super) expected: Option<Nonce>,
    /// A peer that came before `connect` was called here.
    pub(super) early: Option<(OwnedFd, Nonce, Descriptors)>,
    /// On the active side, from its hello until the peer's welcome.
    pub(super) dialled: Option<OwnedFd>,
    /// What the peer sends by.
    pub(super) inbound: ChannelPage,
    pub(super) consumer: Consumer,
    /// The connection, from its beginning until the first failure.
    pub(super) link: Option<Link>,
    /// Completions queued and not polled yet.
    pub(super) unpolled: u32,
    /// Whether a write was made that a later read must not overtake.
    pub(super) wrote: bool,
    imports: Vec<Option<Import>>,
    /// Mappings of regions that have ended, which views may still point into.
    kept: Vec<Pages>,
    outbox: VecDeque<(Message, Descriptors)>,
    wants_room: bool,
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

/// A region of the peer, mapped here.
#[derive(Debug)]
pub(super) struct Import {
    pub(super) key: u32,
    pub(super) access: Access,
    pub(super) pages: Pages,
    pub(super) len: u64,
    /// Whether a view may point into it.
    viewed: bool,
}

impl QueuePair {
    pub(super) fn new(id: QueuePairId, nonce: Nonce, inbound: ChannelPage) -> Self {
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
            imports: Vec::new(),
            kept: Vec::new(),
            outbox: VecDeque::new(),
            wants_room: false,
        }
    }

    /// Ends it: the peer sees the mark at once, or the hang-up. What was mapped stays until the
    /// queue pair is disconnected, because views point into it.
    pub(super) fn fail(&mut self) {
        self.close();
        self.state = QueuePairState::Error;
        self.link = None;
        self.early = None;
        self.dialled = None;
        self.outbox.clear();
    }

    /// Withdraws the peer's permission to send.
    pub(super) fn close(&self) {
        self.inbound.closed().store(1, Ordering::SeqCst);
    }

    /// The peer's region by this key, whether alive or not.
    #[inline]
    pub(super) fn import(&self, key: u32) -> Option<&Import> {
        self.imports.get(slot_of(key))?.as_ref().filter(|import| import.key == key)
    }

    /// Keeps a region mapped until the queue pair is disconnected.
    pub(super) fn keep_for_views(&mut self, key: u32) {
        if let Some(Some(import)) = self.imports.get_mut(slot_of(key)) {
            import.viewed = true;
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
            Some(descriptor(page.fd())?.try_clone_to_owned()?),
            Some(bell.try_clone()?),
            Some(descriptor(self.inbound.fd())?.try_clone_to_owned()?),
        ]);
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
                Ok(Some((Message::Share { key, access, len }, descriptors))) => {
                    if let Err(error) = self.map(key, access, len, descriptors) {
                        tracing::warn!(%error, key, len, "cannot map a peer's region");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.fail();
                    return;
                }
            }
        }
    }

    /// Maps a region the peer has shared. Sharing it again changes nothing.
    pub(super) fn map(
        &mut self,
        key: u32,
        access: Access,
        len: u64,
        descriptors: Descriptors,
    ) -> io::Result<()> {
        let Descriptors([Some(descriptor), ..]) = descriptors else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let slot = slot_of(key);
        if slot >= REGIONS_MAX as usize {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if self.import(key).is_some() {
            return Ok(());
        }
        let map_len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidData)?;
        let writable = access.remote_write || access.remote_atomic;
        let pages =
            Pages::map_peer(descriptor.as_fd(), map_len, writable).map_err(io::Error::other)?;
        if self.imports.len() <= slot {
            self.imports.resize_with(slot + 1, || None);
        }
        // The owner has used the slot again, so what was there has ended; but views live on.
        if let Some(ended) = self.imports[slot].take()
            && ended.viewed
        {
            self.kept.push(ended.pages);
        }
        self.imports[slot] = Some(Import { key, access, pages, len, viewed: false });
        Ok(())
    }
}
