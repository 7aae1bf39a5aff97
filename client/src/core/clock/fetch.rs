//! Reading the line of a shard over a network.

use windlass_transport::{LocalSlice, RemoteAddress, WorkId};
use windlass_wire::ClockLine;

use super::{CLOCK_READ, LINE_LEN, Poll};
use crate::{
    core::{Clocks, Core},
    error::RequestError,
};

impl Core {
    /// Reads a line over a network: once where words come whole, and else until two reads, one begun when
    /// the other has ended, bring the same.
    pub(super) fn fetch_line(
        &mut self,
        at: RemoteAddress,
        link: usize,
    ) -> Result<ClockLine, RequestError> {
        loop {
            let (first, second) = self.fetch_words(at, link)?;
            if first == second {
                return Ok(ClockLine::from_words(first));
            }
            self.pending.counters.reads_retried += 1;
        }
    }

    /// Reads the words of a line, twice where they may be torn.
    fn fetch_words(
        &mut self,
        at: RemoteAddress,
        link: usize,
    ) -> Result<([u64; 4], [u64; 4]), RequestError> {
        let chunk = self.allocate_chunk(2 * LINE_LEN)?;
        let queue_pair = self.links.all[link].queue_pair;
        let is_same = |core: &Self| {
            let link = &core.links.all[link];
            !link.failed && link.queue_pair == queue_pair
        };
        let mut patience = None;
        let mut outcome = Ok(());
        while outcome.is_ok() && is_same(self) && self.links.all[link].sender.room() < 2 {
            outcome = self.wait_a_little(&mut patience);
        }
        self.clocks.poll = Poll { number: self.clocks.poll.number + 1, link, completed: None };
        if outcome.is_ok() && is_same(self) {
            let transport = self.links.all[link].transport;
            self.pending.memory.register_staging(&mut self.links.transports, transport)?;
            let Some(local) = self.pending.memory.staged(transport, chunk, LINE_LEN) else {
                unreachable!("the staging area was registered")
            };
            // Gains first, then the clock.
            let gains = LocalSlice { len: 8, ..local };
            let rest = LocalSlice { offset: local.offset + 8, len: local.len - 8, ..local };
            let behind = RemoteAddress { address: at.address.wrapping_add(8), ..at };
            let ends = Some(WorkId(CLOCK_READ | self.clocks.poll.number));
            let link_at = link;
            let link = &mut self.links.all[link_at];
            if !link.promises.reads_words_whole {
                let again = LocalSlice { offset: local.offset + LINE_LEN, ..local };
                link.sender.push_read((local, at), false, None);
                link.sender.push_read((again, at), true, ends);
            } else if link.promises.reads_in_order {
                link.sender.push_read((local, at), false, ends);
            } else {
                link.sender.push_read((gains, at), false, None);
                link.sender.push_read((rest, behind), true, ends);
            }
            self.links.flush(link_at);
        } else {
            self.clocks.poll.completed = Some(false);
        }
        while outcome.is_ok() && self.clocks.poll.completed.is_none() {
            outcome = self.wait_a_little(&mut patience);
        }
        // A read that is still under way may write to its chunk: that is nobody's from now on.
        outcome?;
        if self.clocks.poll.completed != Some(true) {
            self.pending.memory.release(chunk);
            return Err(RequestError::ServerGone { server: self.links.all[link].server });
        }
        let pages = self.pending.memory.staging_pages();
        let words_at = |from: u64| [0, 8, 16, 24].map(|word| pages.load_u64(from + word));
        let first = words_at(chunk.offset);
        let second = match self.links.all[link].promises.reads_words_whole {
            true => first,
            false => words_at(chunk.offset + LINE_LEN),
        };
        self.pending.memory.release(chunk);
        Ok((first, second))
    }
}

impl Clocks {
    /// A poll has completed.
    pub(in crate::core) fn end_clock_read(&mut self, work_id: WorkId, succeeded: bool) {
        if work_id.0 == CLOCK_READ | self.poll.number {
            self.poll.completed = Some(succeeded);
        }
    }

    /// A poll at a link that is gone is over.
    pub(in crate::core) fn fail_clock_read(&mut self, link: usize) {
        if self.poll.link == link {
            self.poll.completed.get_or_insert(false);
        }
    }
}
