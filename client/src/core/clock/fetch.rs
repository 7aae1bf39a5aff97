//! Reads a shard's published clock over a network.

use windlass_transport::{LocalSlice, RemoteAddress, WorkId};
use windlass_wire::ClockLine;

use super::{CLOCK_READ, LINE_LEN, Poll};
use crate::{core::Core, error::RequestError};

/// Reads a line over a network: once where words come whole, and else until two reads, one begun when
/// the other has ended, bring the same.
pub(super) fn fetch_line(
    core: &mut Core,
    at: RemoteAddress,
    link: usize,
) -> Result<ClockLine, RequestError> {
    loop {
        let (first, second) = fetch_words(core, at, link)?;
        if first == second {
            return Ok(ClockLine::from_words(first));
        }
        core.pending.counters.reads_retried += 1;
    }
}

/// Reads the words of a line, twice where they may be torn.
fn fetch_words(
    core: &mut Core,
    at: RemoteAddress,
    link: usize,
) -> Result<([u64; 4], [u64; 4]), RequestError> {
    let chunk = core.allocate_chunk(2 * LINE_LEN)?;
    let queue_pair = core.links.all[link].queue_pair;
    let is_same = |core: &Core| {
        let link = &core.links.all[link];
        !link.state.failed && link.queue_pair == queue_pair
    };
    let mut patience = None;
    let mut outcome = Ok(());
    while outcome.is_ok() && is_same(core) && core.links.all[link].mailbox.sender.room() < 2 {
        outcome = core.wait_a_little(&mut patience);
    }
    core.clocks.poll = Poll { number: core.clocks.poll.number + 1, link, completed: None };
    if outcome.is_ok() && is_same(core) {
        let transport = core.links.all[link].transport;
        core.pending.memory.register_staging(&mut core.links.transports, transport)?;
        let Some(local) = core.pending.memory.staged(transport, chunk, LINE_LEN) else {
            unreachable!("the staging area was registered")
        };
        // Gains first, then the clock.
        let gains = LocalSlice { len: 8, ..local };
        let rest = LocalSlice { offset: local.offset + 8, len: local.len - 8, ..local };
        let behind = RemoteAddress { address: at.address.wrapping_add(8), ..at };
        let ends = Some(WorkId(CLOCK_READ | core.clocks.poll.number));
        let link_at = link;
        let link = &mut core.links.all[link_at];
        if !link.terms.promises.reads_words_whole {
            let again = LocalSlice { offset: local.offset + LINE_LEN, ..local };
            link.mailbox.sender.push_read((local, at), false, None);
            link.mailbox.sender.push_read((again, at), true, ends);
        } else if link.terms.promises.reads_in_order {
            link.mailbox.sender.push_read((local, at), false, ends);
        } else {
            link.mailbox.sender.push_read((gains, at), false, None);
            link.mailbox.sender.push_read((rest, behind), true, ends);
        }
        core.links.flush(link_at);
    } else {
        core.clocks.poll.completed = Some(false);
    }
    while outcome.is_ok() && core.clocks.poll.completed.is_none() {
        outcome = core.wait_a_little(&mut patience);
    }
    // A read that is still under way may write to its chunk: that is nobody's from now on.
    outcome?;
    if core.clocks.poll.completed != Some(true) {
        core.pending.memory.release(chunk);
        return Err(RequestError::ServerGone { server: core.links.all[link].server });
    }
    let pages = core.pending.memory.staging_pages();
    let words_at = |from: u64| [0, 8, 16, 24].map(|word| pages.load_u64(from + word));
    let first = words_at(chunk.offset);
    let second = match core.links.all[link].terms.promises.reads_words_whole {
        true => first,
        false => words_at(chunk.offset + LINE_LEN),
    };
    core.pending.memory.release(chunk);
    Ok((first, second))
}
