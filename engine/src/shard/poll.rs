//! What the transports report: values fetched, replies written, wake-ups, failures.

use windlass_transport::{Completion, CompletionStatus, Opcode, WorkId};

use super::{chain::Chain, port::Port};

/// Polls every transport once; returns whether anything was reported.
pub(super) fn poll_transports(port: &mut Port, chain: &mut Chain) -> bool {
    let mut polled = false;
    for transport in 0..port.transports.len() {
        let mut completions = std::mem::take(&mut port.completions);
        let count = port.transports[transport].poll(&mut completions);
        for completion in &completions[..count] {
            complete_one(port, chain, transport, completion);
        }
        port.completions = completions;
        polled |= count > 0;
        while let Some(queue_pair) = port.transports[transport].take_writer() {
            if let Some(slot) = port.by_queue_pair.get(&(transport, queue_pair)) {
                port.sessions.watch(*slot);
            }
        }
    }
    polled
}

fn complete_one(port: &mut Port, chain: &mut Chain, transport: usize, completion: &Completion) {
    let slot = port.by_queue_pair.get(&(transport, completion.queue_pair)).copied();
    let succeeded = completion.status == CompletionStatus::Success;
    if completion.work_id != WorkId(0) {
        port.end_outstanding(completion.work_id, succeeded);
    }
    if let Some(slot) = slot {
        port.sessions.watch(slot);
    }
    let Some(session) = slot.and_then(|slot| port.sessions[slot].as_mut()) else {
        if !succeeded {
            chain.queue_pair_failed(transport, completion.queue_pair);
        } else if completion.opcode == Opcode::ReceiveImmediate {
            // A queue pair that is gone needs no receives.
            let _ = port.transports[transport].post_receive(completion.queue_pair, 1);
        }
        return;
    };
    if !succeeded {
        session.failed = true;
    } else if completion.opcode == Opcode::ReceiveImmediate {
        session.watch.active = true;
        let posted = port.transports[transport].post_receive(completion.queue_pair, 1);
        session.failed |= posted.is_err();
    }
}
