//! Carries out the outputs of replicas.

use windlass_replication::{Input, LeaseOutput, Output, ReplicaError};
use windlass_wire::{
    Lsn, PartitionId, ServerId,
    chain::{ChainFrame, ChainPosition},
};

use super::{Chain, Kept, Peers, ServerEvent, answer, apply, copy_in, disk, link::Link, waiting};
use crate::{
    limits::CHAIN_LEARNER_LEN_MAX,
    shard::{port::Port, tables::Tables},
};

/// Turns between messages after which records are let go of, at the latest; whole turns do it always.
const TURNS_PER_RELEASE: u32 = 16;

/// Bytes of records held from which on each turn lets go of what it can, so that they stay in the caches.
const RELEASE_LEN: u64 = 64 << 10;

/// Gives one input to a replica and does what it says. A partition without a replica here takes
/// nothing.
pub(super) fn step(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    partition: PartitionId,
    input: Input<'_>,
) -> Result<(), ReplicaError> {
    let (now, index) = (chain.time.now, chain.index(partition));
    let mut outputs = std::mem::take(&mut chain.step.outputs);
    let Some(part) = chain.parts.get_mut(index).and_then(Option::as_deref_mut) else {
        chain.step.outputs = outputs;
        return Ok(());
    };
    let result = part.replica.step(now, input, &mut outputs);
    let inflight = if part.replica.is_head() { part.replica.inflight_count() } else { 0 };
    let before = std::mem::replace(&mut part.inflight_count, inflight);
    if !std::mem::replace(&mut part.dirty, true) {
        chain.kept.dirty.push(index);
    }
    chain.kept.inflight_count = chain.kept.inflight_count + inflight - before;
    for output in outputs.drain(..) {
        carry_out_output(port, tables, chain, partition, output);
    }
    chain.step.outputs = outputs;
    result
}

pub(super) fn carry_out_output(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    partition: PartitionId,
    output: Output,
) {
    if matches!(output, Output::CaughtUp { .. }) && !disk::has_base(tables, chain, partition) {
        // It is told once what was copied is on disk.
        disk::keep_record(chain, partition);
        return;
    }
    if let Output::ReportCommitted { to, epoch, lsn } = output
        && answer::answer_committed(port, chain, to, partition, epoch, lsn)
    {
        return;
    }
    let (to, frame) = match output {
        Output::Apply { first, last } => {
            apply::apply_records(tables, chain, partition, first, last);
            return;
        }
        Output::Acknowledge { up_to } => {
            waiting::acknowledge_up_to(port, chain, partition, up_to);
            return;
        }
        // In its place among the frames: what welcomes a follower goes before its records.
        Output::Forward { to, epoch, first, last } => {
            if let Some(link) = chain.link_mut(to) {
                link.push_records(partition, epoch, first, last);
            }
            return;
        }
        Output::StartCopy { start, .. } => {
            copy_in::start_copy_in(tables, chain, partition, start);
            return;
        }
        Output::CaughtUp { epoch } => {
            chain.tell(ServerEvent::CaughtUp { partition, epoch });
            return;
        }
        Output::Synchronised { epoch } => {
            chain.tell(ServerEvent::Synchronised { partition, epoch });
            return;
        }
        Output::Reject { server, epoch } => {
            chain.tell(ServerEvent::Rejected { partition, epoch, server });
            return;
        }
        Output::ReportCommitted { to, epoch, lsn } => {
            (to, ChainFrame::Committed { partition, epoch, lsn })
        }
        Output::Report { to, epoch, position, attempt } => {
            let position =
                position.map(|position| ChainPosition { epoch: position.epoch, lsn: position.lsn });
            (to, ChainFrame::Report { partition, epoch, position, attempt })
        }
        Output::AskReport { to, epoch } => (to, ChainFrame::AskReport { partition, epoch }),
        Output::Welcome { to, epoch, last } => (to, ChainFrame::Welcome { partition, epoch, last }),
        Output::CopyFrom { to, epoch, start } => {
            chain.start_copy_out(partition, to, start.lsn);
            let start = ChainPosition { epoch: start.epoch, lsn: start.lsn };
            (to, ChainFrame::CopyFrom { partition, epoch, start })
        }
        Output::Refuse { to, epoch } => (to, ChainFrame::Refuse { partition, epoch }),
    };
    if let Some(link) = chain.link_mut(to) {
        link.push_frame(frame);
    }
}

/// A link to a peer is new, in one direction or the other: what was under way may be lost.
pub(super) fn peer_connected(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    peer: ServerId,
) {
    let count = chain.parts.len();
    for index in 0..count {
        let part = chain.parts[index].as_deref();
        let Some(partition) = part.map(|part| part.partition) else { continue };
        if let Some(link) = chain.link_mut(peer) {
            link.forget(partition);
        }
        chain.end_copy_out(partition, peer);
        // A new link is always taken.
        let _ = step(port, tables, chain, partition, Input::Connected { peer });
    }
}

/// A learner is so far behind that its records make way: it is asked anew what it holds.
fn start_learner_over(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    partition: PartitionId,
    learner: ServerId,
) {
    if let Some(link) = chain.link_mut(learner) {
        link.forget(partition);
    }
    chain.end_copy_out(partition, learner);
    // A new link, as far as this partition goes, is always taken.
    let _ = step(port, tables, chain, partition, Input::Connected { peer: learner });
}

/// Lets go of records that nobody needs any more, if there are enough of them to be worth a look.
pub(super) fn release_some_records(port: &mut Port, tables: &mut Tables, chain: &mut Chain) {
    chain.kept.unreleased += u32::from(!chain.kept.dirty.is_empty());
    if chain.kept.unreleased >= TURNS_PER_RELEASE || chain.kept.spare.held_len > RELEASE_LEN {
        release_records(port, tables, chain);
    }
}

/// Lets go of records that nobody needs any more.
pub(in crate::shard) fn release_records(port: &mut Port, tables: &mut Tables, chain: &mut Chain) {
    chain.kept.unreleased = 0;
    let mut dirty = std::mem::take(&mut chain.kept.dirty);
    for index in dirty.drain(..) {
        let Chain { parts, peers: Peers { links, .. }, kept: Kept { spare, .. }, disk, .. } = chain;
        let Some(part) = parts[index].as_deref_mut() else { continue };
        if part.records.is_empty() {
            part.dirty = false;
            continue;
        }
        // Of a copy under way, what came was applied at once to the rows that are here.
        let own = match part.copy_in {
            Some(_) => part.applied.next(),
            None => part.replica.needed_from(),
        };
        let own = disk.needed_from(index).map_or(own, |first| own.min(first));
        let mut outrun = None;
        let mut needed = own;
        if let Some((learner, first)) = part.replica.learner_needs() {
            if spare.held_len <= CHAIN_LEARNER_LEN_MAX {
                needed = needed.min(first);
            } else if first < own {
                outrun = Some(learner);
            }
        }
        let sent_by = links.iter().filter(|link| Some(link.peer.server) != outrun);
        let pending = sent_by.filter_map(|link: &Link| link.first_pending(part.partition));
        let needed = pending.fold(needed, Lsn::min);
        let mut released = false;
        while part.records.front().is_some_and(|held| held.lsn < needed) {
            if let Some(held) = part.records.pop_front() {
                spare.put(held.words);
                released = true;
            }
        }
        if released {
            let (partition, first) = (part.partition, needed);
            if let Some(learner) = outrun {
                start_learner_over(port, tables, chain, partition, learner);
            }
            // Releasing is always taken.
            let _ = step(port, tables, chain, partition, Input::Released { first });
        }
        if let Some(part) = &mut chain.parts[index] {
            part.dirty = false;
        }
    }
    // What a step for another partition may have added.
    dirty.append(&mut chain.kept.dirty);
    chain.kept.dirty = dirty;
}

impl Chain {
    pub(super) fn carry_out_leases(&mut self, outputs: &mut Vec<LeaseOutput>) {
        for output in outputs.drain(..) {
            let (to, frame) = match output {
                LeaseOutput::Ping { to, asked_at } => {
                    (to, ChainFrame::Ping { asked_at: asked_at.0 })
                }
                LeaseOutput::Grant { to, asked_at, map_epoch } => {
                    (to, ChainFrame::Grant { asked_at: asked_at.0, map_epoch })
                }
                LeaseOutput::Suspect { peer } => {
                    self.tell(ServerEvent::Suspect { server: peer });
                    continue;
                }
            };
            if let Some(link) = self.link_mut(to) {
                link.push_frame(frame);
            }
        }
    }
}

/// Gives a replica what a peer says. What it does not await it drops: the peer says it again when
/// both act by one map.
pub(in crate::shard) fn step_from_peer(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    partition: PartitionId,
    input: Input<'_>,
) -> bool {
    match step(port, tables, chain, partition, input) {
        Ok(()) => true,
        Err(error) => {
            if let ReplicaError::BehindEpoch { its, .. } = error
                && its > chain.map.epoch
            {
                chain.tell(ServerEvent::StaleMap { epoch: its });
            }
            tracing::debug!(shard = chain.shard.0, %error, "a chain message was not taken");
            false
        }
    }
}
