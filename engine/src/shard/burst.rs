//! Bursts. Pushes that waited for one write are acknowledged together, so the next ones arrive together, too.
//! Making a sum costs as much as adding several pushes to it, so the shard waits for a burst of long pushes
//! and makes one sum of it.

use std::time::{Duration, Instant};

use super::{
    chain::{Chain, is_settled},
    disk::Disk,
    drain,
    port::Port,
    tables::Tables,
};

/// How long the rest of a burst is awaited: a client is woken by the acknowledgements, and pushes again.
const BURST_MAX: Duration = Duration::from_micros(80);

/// How long nothing comes when a burst has ended sooner than expected.
const BURST_GAP: Duration = Duration::from_micros(8);

/// Takes the pushes of a burst that has begun, until there are as many as were acknowledged.
pub(super) fn take_burst(port: &mut Port, tables: &mut Tables, chain: &mut Chain, disk: &mut Disk) {
    if port.turn.is_empty() {
        return;
    }
    let expected = match &mut disk.durable {
        Some(durable) => std::mem::take(&mut durable.released_count),
        None => return,
    };
    // Short pushes are summed faster than they come.
    let is_long = port.turn.referenced > 0 && is_settled(chain);
    if !is_long || port.turn.works.len() >= expected || port.visible_mailboxes().is_none() {
        return;
    }
    let begun = Instant::now();
    let (mut now, mut last) = (begun, begun);
    while port.turn.works.len() < expected
        && now - begun < BURST_MAX
        && now - last < BURST_GAP
        // A session's pushes come before its pulls within a turn.
        && port.turn.works.iter().all(|work| !work.header.kind.pulls())
    {
        let count = port.turn.works.len();
        take_more(port, tables, chain, disk);
        now = Instant::now();
        if port.turn.works.len() > count {
            last = now;
        }
    }
}

/// Takes what has come since.
fn take_more(port: &mut Port, tables: &mut Tables, chain: &mut Chain, disk: &mut Disk) {
    for at in 0..port.sessions.watched().len() {
        let slot = port.sessions.watched()[at];
        let mailbox = port.sessions[slot].as_ref().and_then(|session| session.mailbox.as_ref());
        if mailbox.is_some_and(|mailbox| mailbox.reader.looks_ready()) {
            let taken = port.turn.works.iter().filter(|work| work.session == slot).count();
            drain::drain_session(port, tables, chain, disk, slot, taken);
        }
    }
    std::hint::spin_loop();
}
