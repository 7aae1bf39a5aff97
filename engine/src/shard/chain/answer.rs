//! Answers to messages with records. The receiver delays the completion briefly, so that it can say that the
//! records are committed: eight bytes go back up the chain in place of a message. If that takes too long, the
//! message is completed without it, and a frame tells the position later.

use std::collections::VecDeque;

use windlass_replication::Time;
use windlass_wire::{Epoch, Lsn, PartitionId, ServerId, Status, chain::ChainFrame};

use super::{Chain, Peers, Times};
use crate::{
    limits::{CHAIN_ANSWER_WAIT_US, CHAIN_ANSWERS_MAX},
    shard::port::Port,
};

/// Detail of a message's completion: all records in it are committed, or at a learner, received.
pub(super) const COMMITTED: u32 = 1;

/// Records of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) partition: PartitionId,
    /// The sender's chain epoch.
    pub(super) epoch: Epoch,
    /// The last of them.
    pub(super) last: Lsn,
}

/// The message with records that is being taken in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taking {
    /// From which peer.
    pub(super) at: usize,
    pub(super) partition: PartitionId,
    /// What was to be told of the partition meanwhile.
    pub(super) committed: Option<(Epoch, Lsn)>,
}

/// A message whose records were taken in and are not committed yet.
#[derive(Clone, Copy, Debug)]
struct Unanswered {
    number: u32,
    records: Records,
    since: Time,
}

/// Messages of one peer that are not completed.
#[derive(Debug, Default)]
pub(super) struct Answers {
    unanswered: VecDeque<Unanswered>,
}

impl Answers {
    /// Completions that the peer is owed.
    pub(super) fn count(&self) -> usize {
        self.unanswered.len()
    }
}

/// A message with records was taken in: completes it when they are committed, or at once where that
/// may take long. `committed` is what was to be told of its partition on the way.
pub(super) fn answer(
    port: &mut Port,
    chain: &mut Chain,
    at: usize,
    number: u32,
    records: Records,
    is_soon: bool,
    committed: Option<(Epoch, Lsn)>,
) {
    let Port { sessions, .. } = port;
    let Chain { peers: Peers { incoming, links, .. }, time: Times { now, .. }, .. } = chain;
    let incoming = &mut incoming[at];
    let link = links.iter_mut().find(|link| link.peer.server == incoming.peer.server);
    let session = sessions[incoming.slot].as_mut();
    let mailbox = session.and_then(|session| session.mailbox.as_mut());
    let mailbox = mailbox.expect("a message is answered by the mailbox that it came by");
    let is_whole = committed == Some((records.epoch, records.last));
    if let Some((epoch, lsn)) = committed
        && let Some(link) = link
    {
        if is_whole && link.is_awake() {
            mailbox.completions.complete(number, Status::Done, COMMITTED);
            link.owe_wake();
            return;
        }
        let partition = records.partition;
        link.push_frame(ChainFrame::Committed { partition, epoch, lsn });
    }
    if is_whole || !is_soon {
        mailbox.completions.complete(number, Status::Done, 0);
        return;
    }
    let unanswered = &mut incoming.answers.unanswered;
    unanswered.push_back(Unanswered { number, records, since: *now });
    if unanswered.len() > CHAIN_ANSWERS_MAX
        && let Some(oldest) = unanswered.pop_front()
    {
        mailbox.completions.complete(oldest.number, Status::Done, 0);
    }
}

/// A partition has got so far, which its predecessor is to be told: by completions of the messages
/// that brought the records, if that says it all and the peer looks; false when a frame has to.
pub(super) fn answer_committed(
    port: &mut Port,
    chain: &mut Chain,
    to: ServerId,
    partition: PartitionId,
    epoch: Epoch,
    lsn: Lsn,
) -> bool {
    let Port { sessions, .. } = port;
    let Peers { incoming, links, taking, .. } = &mut chain.peers;
    let Some(at) = incoming.iter().position(|one| one.peer.server == to) else { return false };
    if let Some(taking) = taking
        && (taking.at, taking.partition) == (at, partition)
    {
        taking.committed = Some((epoch, lsn));
        return true;
    }
    let incoming = &mut incoming[at];
    let Some(link) = links.iter_mut().find(|link| link.peer.server == to) else { return false };
    let session = sessions[incoming.slot].as_mut();
    let Some(mailbox) = session.and_then(|session| session.mailbox.as_mut()) else {
        return false;
    };
    let is_awake = link.is_awake();
    let mut is_told = false;
    incoming.answers.unanswered.retain(|one| {
        let Records { partition: of, epoch: by, last } = one.records;
        let is_over = (of, by) == (partition, epoch) && last <= lsn;
        if is_over {
            let detail = if is_awake { COMMITTED } else { 0 };
            mailbox.completions.complete(one.number, Status::Done, detail);
            is_told |= is_awake && last == lsn;
        }
        !is_over
    });
    if is_told {
        link.owe_wake();
    }
    is_told
}

/// Completes messages whose records are not committed for long, or all of them: their room is needed,
/// and what becomes of the records is told by frames.
pub(in crate::shard) fn give_up_answers(port: &mut Port, chain: &mut Chain, all: bool) {
    let Port { sessions, .. } = port;
    let Chain { peers: Peers { incoming, .. }, time: Times { now, .. }, .. } = chain;
    for incoming in incoming.iter_mut() {
        let session = sessions[incoming.slot].as_mut();
        let Some(mailbox) = session.and_then(|session| session.mailbox.as_mut()) else {
            continue;
        };
        let unanswered = &mut incoming.answers.unanswered;
        let is_over = |one: &Unanswered| all || now.since(one.since) >= CHAIN_ANSWER_WAIT_US;
        while let Some(one) = unanswered.front().copied().filter(is_over) {
            mailbox.completions.complete(one.number, Status::Done, 0);
            unanswered.pop_front();
        }
    }
}
