//! Pulls that are carried out when they are claimed: in place, piece by piece when they are large,
//! and again when whoever had the rows is gone.

use std::{collections::VecDeque, time::Instant};

use windlass_wire::RowRange;

use super::{
    Core, TableIndex,
    pull::Claimed,
    push::index,
    requests::{Reading, Reply},
    view::{Copied, CopyMode},
};
use crate::error::RequestError;

/// Bytes of rows pulled at once when a large range is read piece by piece.
const WINDOW_LEN: u64 = 2 << 20;

/// Bytes of rows from which copies go around the caches.
const STREAM_LEN_MIN: usize = 16 << 20;

/// Pieces of a large range under way at once.
const WINDOWS: usize = 3;

impl Core {
    /// Pulls rows now, from whoever has them; while nobody has, tries again as long as requests are
    /// retried.
    pub(super) fn read_until_done(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        mut reading: Reading,
        into: &mut [u8],
    ) -> Result<(), RequestError> {
        let (mut since, mut looks_again) = (None, !self.session.options.retry_for.is_zero());
        loop {
            self.wait_for_workers_at(table, rows, &mut reading)?;
            let read = match self.locate(table, reading.replica) {
                // Nobody has the table any more.
                Err(error @ RequestError::NotCurrent { .. }) => return Err(error),
                located => located.and_then(|()| self.read_now(table, rows, reading, into)),
            };
            let Err(error) = read else {
                if self.is_counted_in(table, rows, reading)? {
                    return Ok(());
                }
                continue;
            };
            // Rows that become current later may be behind the clock that was looked at.
            self.tables.look_again();
            if let RequestError::NotCurrent { .. } = error
                && std::mem::replace(&mut looks_again, false)
            {
                self.tables[table].places.clear();
                continue;
            }
            let since = *since.get_or_insert_with(Instant::now);
            if !self.session.is_passing(&error) {
                return Err(error);
            }
            if since.elapsed() >= self.session.options.retry_for {
                return Err(self.cluster.unavailable(
                    &self.session,
                    self.tables[table].layout.partition_of(rows.start),
                ));
            }
            self.recovery.start_trouble();
            let generation = self.cluster.generation;
            let mut patience = None;
            while self.cluster.generation == generation
                && since.elapsed() < self.session.options.retry_for
            {
                self.wait_a_little(&mut patience)?;
            }
        }
    }

    /// Pulls rows now, in place or by windows of reads.
    fn read_now(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        reading: Reading,
        into: &mut [u8],
    ) -> Result<(), RequestError> {
        let row_len = self.tables[table].row_len;
        let Reading { replica, .. } = reading;
        if self.tables.is_viewable(&self.links, table, replica, rows) {
            return self.copy_in_view(table, rows, reading, into);
        }
        let window_rows = (WINDOW_LEN / row_len).max(1);
        let mut windows = VecDeque::with_capacity(WINDOWS);
        let mut first = rows.start;
        while first < rows.end || !windows.is_empty() {
            if first < rows.end && windows.len() < WINDOWS {
                let part = RowRange::new(first, rows.end.min(first + window_rows));
                let id = self.begin(None, true)?;
                let started = self.start_reads(id, table, part, reading);
                if let Some(slot) = self.pending.requests.find_mut(id) {
                    // Whoever reads again waits for slower workers again.
                    slot.reply = Reply::Blocks { rows: part, reading };
                }
                self.pending.end_sending(id);
                windows.push_back((id, part));
                if let Err(error) = started {
                    for (id, _) in windows {
                        self.pending.forget(id);
                    }
                    return Err(error);
                }
                first = part.end;
            } else if let Some((id, part)) = windows.pop_front() {
                let from = index((part.start - rows.start) * row_len);
                let out = &mut into[from..from + index(part.count() * row_len)];
                let claimed = self.claim_once(table, id, out).and_then(|claimed| match claimed {
                    Claimed::Done => Ok(()),
                    Claimed::Contended { .. } => self.pull_contended(table, part, reading, out),
                    Claimed::Again { .. } => Err(self.cluster.unavailable(
                        &self.session,
                        self.tables[table].layout.partition_of(part.start),
                    )),
                });
                if let Err(error) = claimed {
                    for (id, _) in windows {
                        self.pending.forget(id);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Copies rows that lie in memory of this host.
    fn copy_in_view(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        reading: Reading,
        into: &mut [u8],
    ) -> Result<(), RequestError> {
        let row_len = self.tables[table].row_len;
        let Reading { replica, relaxed, .. } = reading;
        let streams = into.len() >= STREAM_LEN_MIN;
        let copy = CopyMode { relaxed, streams };
        let mut first = rows.start;
        while first < rows.end {
            let state = &self.tables[table];
            let partition = state.layout.partition_of(first);
            let end = rows.end.min(state.layout.rows_of(partition).end);
            let place = state.places.find(replica, partition.0 as usize).copied();
            let Some((place, view)) = place.and_then(|at| at.view.map(|view| (at, view))) else {
                return Err(self.cluster.unavailable(&self.session, partition));
            };
            if !self.still_serves(place.link) {
                return Err(RequestError::ServerGone { server: self.links.all[place.link].server });
            }
            let from = index((first - rows.start) * row_len);
            let part = RowRange::new(first, end);
            let out = &mut into[from..from + index(part.count() * row_len)];
            let retried = &mut self.pending.counters.reads_retried;
            match place.copy_view(view, part, row_len, copy, retried, out) {
                Copied::Whole => {}
                Copied::Contended => self.pull_contended(table, part, reading, out)?,
                Copied::Fenced => {
                    let server = self.links.all[place.link].server;
                    return Err(RequestError::NotCurrent { server });
                }
            }
            first = end;
        }
        Ok(())
    }
}
