//! One queue pair: its requests, what it answers the peer, and the stream that carries both. The
//! sending half is in [`emit`](super::emit), the receiving half in [`execute`](super::execute).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::fabric::{
    Access, Completion, CompletionStatus, LocalSlice, Promises, QueuePairId, QueuePairState,
    RegionId, RemoteKey, ScatterList,
};

use super::{
    endpoint::Nonce,
    failure::Failure,
    frame::Header,
    inbox::Inbox,
    late::Late,
    limits::{GRANTS_MAX, OUTSTANDING_MAX},
    outbox::Outbox,
    region::Regions,
    requests::Requests,
    socket::Socket,
    wait::Interest,
};

/// What the connections of one instance have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) regions: Regions,
    /// Completions not handed out yet.
    pub(super) ready: VecDeque<Completion>,
    pub(super) payload_checksums: bool,
    pub(super) silence_max: Duration,
}

/// Where a queue pair is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Made; the peer may have dialled already.
    Pending,
    /// Waits for the peer to dial.
    Connecting,
    /// Dials, and gives up then.
    Dialling { until: Instant },
    /// Carries requests.
    Ready,
    /// A request of the peer's was refused: only answers still go out, and what comes in is thrown
    /// away, so that the refusal is not overtaken by a reset.
    Refusing { until: Instant },
    /// Over.
    Failed,
}

/// An answer to a request of the peer's, to be sent in order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Bytes { number: u32, slice: LocalSlice },
    Nothing { number: u32 },
    Word { number: u32, word: u64 },
    Refusal { number: u32, status: CompletionStatus },
}

/// What the next received bytes belong to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Receiving {
    Header,
    /// A long payload, `done` of whose bytes are in place.
    Payload {
        header: Header,
        list: ScatterList,
        done: usize,
    },
    /// The checksum of a long payload that is in place.
    Trailer {
        header: Header,
        list: ScatterList,
    },
}

/// A queue pair.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: QueuePairId,
    pub(super) phase: Phase,
    pub(super) nonce: Nonce,
    /// Who may be at the other end, once known; who is, once heard of.
    pub(super) peer: Option<(QueuePairId, Nonce)>,
    /// What its device promises.
    pub(super) peer_promises: Promises,
    /// Where its requests wait whose writes show out of order.
    pub(super) late: Option<Box<Late>>,
    pub(super) socket: Option<Socket>,
    /// Regions the peer may name; see [`Connection::grant`].
    grants: Vec<RegionId>,
    pub(super) requests: Requests,
    pub(super) answers: VecDeque<Answer>,
    pub(super) outbox: Outbox,
    pub(super) inbox: Inbox,
    pub(super) receiving: Receiving,
    /// The last header was that of a long payload: the next may be, too.
    pub(super) follows_long: bool,
    /// Receives posted.
    pub(super) receives: u32,
    /// Since when a write with immediate waits for one.
    pub(super) stalled_since: Option<Instant>,
    /// When a check first found something unanswered by the peer's host.
    pub(super) unanswered_since: Option<Instant>,
    /// Number of the last request of the peer's that was carried out.
    pub(super) executed: u32,
    pub(super) acknowledgement: Acknowledgement,
    /// What the wait point watches the socket for.
    pub(super) interest: Interest,
    /// The wait point said so and no receive was tried since.
    pub(super) is_readable: bool,
    /// In the list of connections to try.
    pub(super) is_hot: bool,
    /// In the list of connections that have to be seen to before a sleep.
    pub(super) is_restless: bool,
    /// In the list of those whose peers had requests carried out.
    pub(super) is_named: bool,
    /// Whether the last turn left received bytes unlooked at.
    pub(super) has_more: bool,
}

/// When to acknowledge: at once, until it shows that a request of our own follows each time and
/// could have carried the acknowledgement.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Acknowledgement {
    /// The peer wants one.
    pub(super) wanted: bool,
    /// One was sent in a frame of its own in the last turn.
    pub(super) sent_alone: bool,
    /// Times in a row that a request followed.
    pub(super) followed: u32,
}

impl Acknowledgement {
    const FOLLOWED_ENOUGH: u32 = 4;

    /// Whether to wait for a request to carry it.
    pub(super) fn may_wait(&self) -> bool {
        self.followed >= Self::FOLLOWED_ENOUGH
    }

    /// A request goes out.
    pub(super) fn request_follows(&mut self) {
        if std::mem::take(&mut self.sent_alone) {
            self.followed = (self.followed + 1).min(Self::FOLLOWED_ENOUGH);
        }
    }
}

impl Connection {
    pub(super) fn new(id: QueuePairId, nonce: Nonce) -> Self {
        Self {
            id,
            phase: Phase::Pending,
            nonce,
            peer: None,
            peer_promises: Promises::NONE,
            late: None,
            socket: None,
            grants: Vec::new(),
            requests: Requests::new(),
            answers: VecDeque::with_capacity(OUTSTANDING_MAX as usize + 1),
            outbox: Outbox::new(),
            inbox: Inbox::new(),
            receiving: Receiving::Header,
            follows_long: false,
            receives: 0,
            stalled_since: None,
            unanswered_since: None,
            executed: 0,
            acknowledgement: Acknowledgement::default(),
            interest: Interest::RECEIVE,
            is_readable: false,
            is_hot: false,
            is_restless: false,
            is_named: false,
            has_more: false,
        }
    }

    pub(super) fn state(&self) -> QueuePairState {
        match self.phase {
            Phase::Pending | Phase::Connecting | Phase::Dialling { .. } => {
                QueuePairState::Connecting
            }
            Phase::Ready => QueuePairState::Ready,
            Phase::Refusing { .. } | Phase::Failed => QueuePairState::Error,
        }
    }

    /// Whether the peer has still to come, or to answer.
    pub(super) fn is_expected(&self) -> bool {
        self.state() == QueuePairState::Connecting
    }

    /// Lets the peer name a region, by a key that is good on this queue pair only.
    pub(super) fn grant(&mut self, region: RegionId) -> Option<RemoteKey> {
        let index = match self.grants.iter().position(|granted| *granted == region) {
            Some(index) => index,
            None if self.grants.len() < GRANTS_MAX as usize => {
                self.grants.push(region);
                self.grants.len() - 1
            }
            None => return None,
        };
        u32::try_from(index).ok().map(|index| RemoteKey(self.salt() | index))
    }

    /// The bytes that the peer names, if it may do to them what `allows` asks.
    pub(super) fn granted(
        &self,
        header: &Header,
        regions: &Regions,
        allows: impl Fn(Access) -> bool,
    ) -> Result<LocalSlice, Failure> {
        let refusal =
            Failure::Refuse { number: header.number, status: CompletionStatus::RemoteAccess };
        if header.key & 0xFFFF_0000 != self.salt() {
            return Err(refusal);
        }
        let Some(region) = self.grants.get((header.key & 0xFFFF) as usize) else {
            return Err(refusal);
        };
        let slice = LocalSlice { region: *region, offset: header.address, len: header.length };
        match regions.find(*region) {
            Some(found)
                if allows(found.access)
                    && found.pages.contains(slice.offset, u64::from(slice.len)) =>
            {
                Ok(slice)
            }
            _ => Err(refusal),
        }
    }

    /// Upper half of this queue pair's keys, so that a key of another one is not taken for its own.
    fn salt(&self) -> u32 {
        u32::from_le_bytes([0, 0, self.nonce.0[0], self.nonce.0[1]])
    }

    /// Receives if it may, carries out, answers and sends, within bounds.
    pub(super) fn turn(&mut self, may_receive: bool, shared: &mut Shared) {
        if self.socket.is_none() {
            return;
        }
        self.acknowledgement.sent_alone = false;
        if self.acknowledgement.wanted {
            self.acknowledgement.followed = 0;
            self.emit_acknowledgement();
        }
        if may_receive {
            let received = self.receive(shared);
            self.settle(received, shared);
        }
        if self.acknowledgement.wanted && !self.acknowledgement.may_wait() {
            self.acknowledgement.sent_alone = self.emit_acknowledgement();
        }
        self.send(shared);
    }

    /// Sends what there is to send, as far as the socket takes it.
    pub(super) fn send(&mut self, shared: &mut Shared) {
        let sent = self.emit_and_flush(shared);
        self.settle(sent, shared);
        if let Phase::Refusing { .. } = self.phase
            && self.outbox.is_empty()
            && self.answers.is_empty()
            && self.has_requests()
        {
            // The outbox no longer refers to memory of these requests.
            self.report_failure(CompletionStatus::Flushed, shared);
            if let Some(socket) = &self.socket {
                socket.finish_sending();
            }
        }
    }

    /// Whether something has to be sent or watched although nothing comes in.
    pub(super) fn is_pending(&self) -> bool {
        self.socket.is_some()
            && (!self.outbox.is_empty()
                || self.has_requests()
                || self.stalled_since.is_some()
                || matches!(self.phase, Phase::Refusing { .. }))
    }
}
