//! Writing messages into mailboxes, or putting them off while their server is out of reach.

use std::sync::atomic::{Ordering, fence};

use windlass_transport::{
    QueuePairState,
    error::chain,
    fabric::LocalSlice,
    mailbox::{LENT_PIECES, MailboxFull},
};
use windlass_wire::{
    Place, RequestHeader, RequestKind, ServerId, filter::ValueCoding, request::EncodedHeader,
};

use super::{
    Cluster, Core, Links, Memory, Recovery, RegionId, RequestId, Session,
    kept::{Kept, KeptValues},
    link::{Answer, BY_REFERENCE_LEN, Held, InFlight},
    progress::Patience,
    push::index,
};
use crate::error::RequestError;

/// The values of one message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values<'a> {
    None,
    Inline(&'a [u8]),
    At {
        region: RegionId,
        offset: u64,
        held: Held,
    },
    /// In the message, written from where they lie.
    Lent {
        region: RegionId,
        offset: u64,
        local: LocalSlice,
    },
}

/// One message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) request: RequestId,
    /// Places are filled in once it is known which link it goes by.
    pub(super) header: RequestHeader,
    /// Its keys, and as they are sent.
    pub(super) list: &'a [u64],
    pub(super) keys: &'a [u8],
    pub(super) values: Values<'a>,
    /// Where pulled rows go.
    pub(super) reply: Option<(RegionId, u64)>,
}

/// A link as it was chosen: by the routes of this generation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) link: usize,
    pub(super) generation: u64,
}

/// What came of writing a kept message.
#[derive(Debug)]
pub(super) enum Written {
    Done,
    /// Its server is out of reach.
    Nowhere(Kept),
    /// The mailbox is full.
    Full(Kept),
}

/// Why a header could not be made for a link.
enum Unsealed {
    LinkFailed,
    Setup(RequestError),
}

impl Core {
    /// Writes one message into its link's mailbox, waiting for room, and counts it as a part of its
    /// request.
    pub(super) fn send(&mut self, route: Route, message: &Message<'_>) -> Result<(), RequestError> {
        if !self.links.takes(&self.cluster, &self.recovery, route) {
            return self.put_off(route, message);
        }
        match self.links.make_link(&mut self.cluster, &mut self.session, route.link) {
            Ok(()) => {}
            Err(error) if self.links.all[route.link].failed => {
                tracing::debug!(error = chain(&error), "a link is not made");
                return self.put_off(route, message);
            }
            Err(error) => {
                self.release(message.held());
                return Err(RequestError::Setup { text: chain(&error) });
            }
        }
        let inline = match message.values {
            Values::Inline(bytes) => bytes,
            Values::None | Values::At { .. } | Values::Lent { .. } => &[],
        };
        let bytes = match self.links.seal(&mut self.pending.memory, route.link, message, inline) {
            Ok(bytes) => bytes,
            Err(Unsealed::LinkFailed) => return self.put_off(route, message),
            Err(Unsealed::Setup(error)) => {
                self.release(message.held());
                return Err(error);
            }
        };
        let mut patience = None;
        let lent_len = match message.values {
            Values::Lent { local, .. } => local.len as usize,
            _ => 0,
        };
        let len = message.keys.len() + inline.len() + lent_len;
        while !self.rounds.leaves_room(&self.links, route.link, &message.header, len)
            || self.links.write(route.link, &bytes, message, inline).is_err()
        {
            if patience.is_none() {
                patience = Some(Patience::new(self.time_left(message.request)));
            }
            let waited =
                match self.rounds.round_fills(&self.links, route.link, &message.header, len) {
                    true => Err(RequestError::RoundFull),
                    false => self.wait_a_little(&mut patience),
                };
            if let Err(error) = waited {
                self.release(message.held());
                return Err(self.rounds.blame_round(&self.pending.requests, error));
            }
            if !self.links.takes(&self.cluster, &self.recovery, route) {
                return self.put_off(route, message);
            }
        }
        if let Some(request) = self.pending.requests.find_mut(message.request) {
            request.parts_left += 1;
        }
        self.links.push_out(route.link);
        Ok(())
    }

    /// Writes a kept message, which counts as a part already.
    pub(super) fn write_again(&mut self, link: usize, kept: Kept) -> Written {
        if !self.links.all.get(link).is_some_and(super::link::Link::is_open) {
            return Written::Nowhere(kept);
        }
        if let Err(error) = self.links.make_link(&mut self.cluster, &mut self.session, link) {
            tracing::debug!(error = chain(&error), "a link is not made");
            return Written::Nowhere(kept);
        }
        let (values, inline) = match &kept.values {
            KeptValues::None => (Values::None, &[][..]),
            KeptValues::Inline(bytes) => (Values::Inline(bytes), bytes.as_slice()),
            KeptValues::At { region, offset, held } => {
                (Values::At { region: *region, offset: *offset, held: *held }, &[][..])
            }
        };
        let mut header = kept.header;
        header.epoch = self.cluster.map.epoch;
        let message = Message {
            request: kept.request,
            header,
            list: &kept.keys,
            keys: bytemuck::cast_slice(&kept.keys),
            values,
            reply: kept.reply,
        };
        let Ok(bytes) = self.links.seal(&mut self.pending.memory, link, &message, inline) else {
            return Written::Nowhere(kept);
        };
        if self.links.write(link, &bytes, &message, inline).is_err() {
            return Written::Full(kept);
        }
        self.retries.len = self.retries.len.saturating_sub(kept.len());
        self.pending.counters.resent += 1;
        self.links.push_out(link);
        Written::Done
    }

    /// Keeps a message that cannot be sent now.
    #[cold]
    pub(super) fn put_off(
        &mut self,
        route: Route,
        message: &Message<'_>,
    ) -> Result<(), RequestError> {
        if self.session.options.retry_for.is_zero() {
            self.release(message.held());
            let server = self.links.all.get(route.link).map_or(ServerId(0), |link| link.server);
            return Err(RequestError::ServerGone { server });
        }
        if let Some(request) = self.pending.requests.find_mut(message.request) {
            request.parts_left += 1;
        }
        let values = match message.values {
            Values::None => KeptValues::None,
            Values::Inline(bytes) => KeptValues::Inline(bytes.to_vec()),
            Values::At { region, offset, held } => KeptValues::At { region, offset, held },
            Values::Lent { region, offset, .. } => {
                KeptValues::At { region, offset, held: Held::Nothing }
            }
        };
        let (request, mut header, reply) = (message.request, message.header, message.reply);
        let values = self.decoded_values(&mut header, values);
        let keys = message.list.to_vec();
        self.keep(Kept { request, header, keys, values, reply });
        Ok(())
    }
}

impl Cluster {
    /// The route by a link, as of now.
    #[inline]
    pub(super) fn route(&self, link: usize) -> Route {
        Route { link, generation: self.generation }
    }
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
    fn takes(&self, cluster: &Cluster, recovery: &Recovery, route: Route) -> bool {
        route.generation == cluster.generation
            && !recovery.settling
            && self.all.get(route.link).is_some_and(super::link::Link::is_open)
    }

    /// The header as this link's server is to read it.
    fn seal(
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
        header.resumes = self.all[link_at].order.resumes() && is_ordered(header.kind);
        let mut bytes = header.encode();
        RequestHeader::seal(&mut bytes, message.keys, inline);
        Ok(bytes)
    }

    /// Writes one message, if there is room.
    fn write(
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
            Values::Lent { local, .. } => {
                link.writer.write_lent(&[header, keys], local, wake, &mut link.sender)
            }
            _ => link.writer.write(&[header, keys, inline], wake, &mut link.sender),
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
                    link.order.sent();
                }
                Ok(())
            }
            Err(full) => {
                if wake {
                    // It was not sent with this message: it has to be with the next.
                    link.woken_epoch = link.woken_epoch.wrapping_sub(1);
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
        if !link.failed && link.sender.room() > 2 && link.take_wake() {
            link.writer.write_wake(&mut link.sender);
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
        self.all.get(link).map_or(BY_REFERENCE_LEN, |link| link.by_reference_len)
    }
}

/// Whether a shard carries these out in the order they were first sent in.
fn is_ordered(kind: RequestKind) -> bool {
    kind.pushes() || kind == RequestKind::AdvanceClock
}

impl Message<'_> {
    fn held(&self) -> Held {
        let coding = self.header.coding.map(|coding| coding.filters.values);
        if let (Some(coding), Some((region, offset))) = (coding, self.reply)
            && coding != ValueCoding::Plain
        {
            let len = u32::try_from(self.header.values_len())
                .unwrap_or_else(|_| unreachable!("pulls are bounded"));
            return Held::Answer(Answer { region, offset, coding, len });
        }
        match self.values {
            Values::At { held, .. } => held,
            Values::Lent { region, offset, .. } => Held::Lent { region, offset },
            Values::None | Values::Inline(_) => Held::Nothing,
        }
    }
}

impl Core {
    /// Copies values out of a registered region into a buffer that has to be given back.
    pub(super) fn copy_registered(&mut self, region: RegionId, offset: u64, len: u64) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.scratch.values);
        bytes.resize(index(len), 0);
        self.pending.memory.pages(region).read(offset, &mut bytes);
        bytes
    }
}

impl Links {
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
        let is_lent = link.promises.writes_in_order && !RequestHeader::checks_values(len);
        if !is_lent || !gathers {
            return None;
        }
        let registered = memory.registered(region, link.transport, &mut self.transports);
        Some(registered.ok()?.slice(offset, u32::try_from(len).ok()?))
    }
}
