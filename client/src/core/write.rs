//! Writing messages into the mailboxes of links.

use std::sync::atomic::{Ordering, fence};

use windlass_transport::{
    LocalSlice, QueuePairState,
    error::chain,
    mailbox::{LENT_PIECES, MailboxFull},
};
use windlass_wire::{Place, RequestHeader, RequestKind, request::EncodedHeader};

use super::{
    Cluster, Links, Scratch, Session,
    link::{BY_REFERENCE_LEN, InFlight},
    memory::{Memory, RegionId},
    message::{Message, Route, Values, index},
    trouble::Recovery,
};
use crate::error::RequestError;

/// Why a header could not be made for a link.
pub(super) enum Unsealed {
    LinkFailed,
    Setup(RequestError),
}

impl Links {
    /// Writes a message that no user waits for, if its link takes it at once.
    pub(super) fn write_now(
        &mut self,
        cluster: &mut Cluster,
        session: &mut Session,
        memory: &mut Memory,
        link: usize,
        message: &Message<'_>,
    ) -> bool {
        if !self.all[link].is_open() || self.make_link(cluster, session, link).is_err() {
            return false;
        }
        let Ok(bytes) = self.seal(memory, link, message, &[]) else { return false };
        let written = self.write(link, &bytes, message, &[]).is_ok();
        self.push_out(link);
        written
    }

    /// Whether new messages may go by a route.
    #[inline]
    pub(super) fn takes(&self, cluster: &Cluster, recovery: &Recovery, route: Route) -> bool {
        route.generation == cluster.generation
            && !recovery.settling
            && self.all.get(route.link).is_some_and(super::link::Link::is_open)
    }

    /// The header as this link's server is to read it.
    pub(super) fn seal(
        &mut self,
        memory: &mut Memory,
        link_at: usize,
        message: &Message<'_>,
        inline: &[u8],
    ) -> Result<EncodedHeader, Unsealed> {
        let mut header = message.header;
        if let Values::At { region, offset, .. } = message.values {
            header.values = Some(self.place_of(memory, link_at, region, offset)?);
        }
        if let Some((region, offset)) = message.reply {
            header.reply = Some(self.place_of(memory, link_at, region, offset)?);
        }
        header.resumes = self.all[link_at].state.order.resumes() && is_ordered(header.kind);
        let mut bytes = header.encode();
        RequestHeader::seal(&mut bytes, message.keys, inline);
        Ok(bytes)
    }

    /// Writes one message, if there is room.
    pub(super) fn write(
        &mut self,
        link_at: usize,
        header: &EncodedHeader,
        message: &Message<'_>,
        inline: &[u8],
    ) -> Result<(), MailboxFull> {
        let keys = message.keys;
        let link = &mut self.all[link_at];
        let wake = link.take_wake();
        let written = match message.values {
            Values::Lent { local, .. } => link.mailbox.writer.write_lent(
                &[header, keys],
                local,
                wake,
                &mut link.mailbox.sender,
            ),
            _ => link.mailbox.writer.write(&[header, keys, inline], wake, &mut link.mailbox.sender),
        };
        match written {
            Ok(number) => {
                let (request, held) = (message.request, message.held());
                link.in_flight.push_back(InFlight { number, request, held });
                if let (Some(coding), Some(oldest)) =
                    (message.header.coding, link.in_flight.front())
                {
                    link.key_lists.note_written(number, coding.keys, oldest.number);
                }
                if is_ordered(message.header.kind) {
                    link.state.order.sent();
                }
                Ok(())
            }
            Err(full) => {
                if wake {
                    // It was not sent with this message: it has to be with the next.
                    link.sleeps.woken_epoch = link.sleeps.woken_epoch.wrapping_sub(1);
                }
                Err(full)
            }
        }
    }

    /// Posts what was written, and wakes the shard if it fell asleep meanwhile.
    pub(super) fn push_out(&mut self, link_at: usize) {
        self.flush(link_at);
        // The shard may have gone to sleep since its epoch was looked at, without seeing the message;
        // nobody promises to poll again. It tells, then looks: this side writes, then looks.
        fence(Ordering::SeqCst);
        let link = &mut self.all[link_at];
        if !link.state.failed && link.mailbox.sender.room() > 2 && link.take_wake() {
            link.mailbox.writer.write_wake(&mut link.mailbox.sender);
            self.flush(link_at);
        }
    }

    /// How the server of a link names a place in one of the client's regions.
    fn place_of(
        &mut self,
        memory: &mut Memory,
        link_at: usize,
        region: RegionId,
        offset: u64,
    ) -> Result<Place, Unsealed> {
        let link = &mut self.all[link_at];
        let remote = match link.shared.find(region) {
            Some(remote) => remote,
            None => {
                let setup = |error: &dyn std::error::Error| {
                    Unsealed::Setup(RequestError::Setup { text: chain(error) })
                };
                let registered = memory
                    .registered(region, link.transport, &mut self.transports)
                    .map_err(|error| setup(&error))?;
                let transport = self.transports[link.transport].as_mut();
                match transport.share(link.queue_pair, &registered) {
                    Ok(remote) => {
                        link.shared.insert(region, remote);
                        remote
                    }
                    Err(_) if transport.state(link.queue_pair) == QueuePairState::Error => {
                        self.lose(link_at);
                        return Err(Unsealed::LinkFailed);
                    }
                    Err(error) => return Err(setup(&error)),
                }
            }
        };
        Ok(Place { key: remote.key.0, address: remote.address.wrapping_add(offset) })
    }

    /// Bytes from which values go by reference on a link.
    #[inline]
    pub(super) fn by_reference_len(&self, link: usize) -> u64 {
        self.all.get(link).map_or(BY_REFERENCE_LEN, |link| link.terms.by_reference_len)
    }

    /// Values in a registered region as part of a message by a link: long ones only, which no digest covers, and
    /// where the device gathers.
    pub(super) fn lend(
        &mut self,
        memory: &mut Memory,
        link: usize,
        region: RegionId,
        offset: u64,
        len: u64,
    ) -> Option<LocalSlice> {
        let link = self.all.get(link)?;
        let gathers = self.transports[link.transport].capabilities().scatter_max >= LENT_PIECES;
        // A digest of its mailbox covers what is copied, where writes show in any order.
        let is_lent = link.terms.promises.writes_in_order && !RequestHeader::checks_values(len);
        if !is_lent || !gathers {
            return None;
        }
        let registered = memory.registered(region, link.transport, &mut self.transports);
        Some(registered.ok()?.slice(offset, u32::try_from(len).ok()?))
    }
}

impl Memory {
    /// Copies values out of a registered region into a buffer that has to be given back.
    pub(super) fn copy_registered(
        &mut self,
        scratch: &mut Scratch,
        region: RegionId,
        offset: u64,
        len: u64,
    ) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut scratch.values);
        bytes.resize(index(len), 0);
        self.pages(region).read(offset, &mut bytes);
        bytes
    }
}

/// Whether a shard carries these out in the order they were first sent in.
fn is_ordered(kind: RequestKind) -> bool {
    kind.pushes() || kind == RequestKind::AdvanceClock
}
