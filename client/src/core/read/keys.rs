//! Pulls by key that need no server: rows of a dense table in this host's memory, and keys that are a
//! range.

use windlass_wire::RowRange;

use super::super::{
    Cluster, Core, Links, Memory, TableIndex, Tables,
    push::{Replica, index},
    requests::Reading,
    view::Copied,
};
use crate::{config::PullOptions, error::RequestError};

/// Bytes of rows that are pulled by key at once: they pass through the staging area.
const PIECE_LEN: usize = 8 << 20;

impl Core {
    /// Pulls rows by key into `into`, which is as long as they are: in place where they lie in memory of
    /// this host, else through their servers, in pieces. False when the keys are not sorted: nothing is pulled then.
    pub(crate) fn pull_keys_into(
        &mut self,
        table: TableIndex,
        keys: &[u64],
        options: &PullOptions,
        into: &mut [u8],
    ) -> Result<bool, RequestError> {
        if let Some(rows) = self.tables.as_range(table, keys)
            && self.overtakes_nothing(table, rows)
        {
            // Rows by key are whole, also for whom parts of ranges will do.
            let options = PullOptions { relaxed: false, ..*options };
            return self.pull_into(table, rows, &options, into).map(|()| true);
        }
        if !self.tables.check_keys(table, keys)? {
            return Ok(false);
        }
        if self.pull_keys_in_view(table, keys, options, into)? {
            return Ok(true);
        }
        let row_len = index(self.tables[table].row_len);
        let piece_len = PIECE_LEN.min(self.pending.memory.staging_len() / 4);
        let rows_max = (piece_len / row_len).max(1);
        for (keys, into) in keys.chunks(rows_max).zip(into.chunks_mut(rows_max * row_len)) {
            let id = self.gather_all_keys(table, keys, options)?;
            self.claim(table, id, into)?;
        }
        Ok(true)
    }

    /// Whether reads of rows can overtake no push of this client: servers answer keys in order, so that
    /// those see what was pushed before.
    fn overtakes_nothing(&mut self, table: TableIndex, rows: RowRange) -> bool {
        self.retries.queue.is_empty()
            && (self.cluster.awaits_nothing(&self.links, &self.tables, table, rows) || {
                self.poll();
                self.retries.queue.is_empty()
                    && self.cluster.awaits_nothing(&self.links, &self.tables, table, rows)
            })
    }

    /// Copies rows of a dense table, by keys that were checked, out of this host's memory. False when
    /// their servers are to be asked.
    fn pull_keys_in_view(
        &mut self,
        table: TableIndex,
        keys: &[u64],
        options: &PullOptions,
        into: &mut [u8],
    ) -> Result<bool, RequestError> {
        let replica = self.cluster.replica_of(options.from);
        let (Some(first), Some(last)) = (keys.first(), keys.last()) else { return Ok(false) };
        if self.tables[table].dense_rows().is_none() {
            return Ok(false);
        }
        let is_plain = options.after.is_none()
            && replica != Replica::Strong
            && !self.recovery.in_trouble()
            && !self.rounds.has_open_round();
        let rows = RowRange::new(*first, *last + 1);
        // Why rows cannot be located shows again on the general way.
        if !is_plain || !self.overtakes_nothing(table, rows) {
            return Ok(false);
        }
        match self.locate(table, replica) {
            Ok(()) => {}
            Err(RequestError::Interrupted) => return Err(RequestError::Interrupted),
            Err(_) => return Ok(false),
        }
        let clock = self.clocks.pull_clock(&self.session, &self.tables, table);
        let mut reading = Reading { replica, relaxed: false, clock, gains: 0 };
        if !self.clocks.may_pull(
            &mut self.tables,
            &self.links,
            &self.cluster,
            table,
            rows,
            &mut reading,
        ) {
            return Ok(false);
        }
        let (layout, row_len) = (self.tables[table].layout, index(self.tables[table].row_len));
        let mut done = 0;
        while let Some(key) = keys.get(done) {
            let partition = layout.partition_of(*key);
            let end = layout.rows_of(partition).end;
            let count = keys[done..].partition_point(|key| *key < end);
            let place = self.tables[table].places.find(replica, partition.0 as usize).copied();
            let Some((place, view)) = place.and_then(|at| at.view.map(|view| (at, view))) else {
                return Ok(false);
            };
            if !self.still_serves(place.link) {
                return Ok(false);
            }
            let of_partition = &keys[done..done + count];
            let out = &mut into[done * row_len..(done + count) * row_len];
            let retried = &mut self.pending.counters.reads_retried;
            match place.copy_view_keys(view, of_partition, retried, out) {
                Copied::Whole => done += count,
                Copied::Contended => return Ok(false),
                Copied::Fenced => {
                    // Others have them now, or will.
                    self.tables[table].places.clear();
                    return Ok(false);
                }
            }
        }
        let is_counted_in = self.is_counted_in(table, rows, reading)?;
        if is_counted_in {
            self.pending.count_pull(into.len() as u64);
        }
        Ok(is_counted_in)
    }
}

impl Memory {
    /// With how many of so many keys a pull of them starts: what is pulled goes through the staging area. Of a pull
    /// that does not fit it few do, so that others have room as long as nobody waits for it.
    pub(crate) fn keys_at_first(&self, tables: &Tables, table: TableIndex, count: usize) -> usize {
        let row_len = index(tables[table].row_len);
        if count <= self.staged_len_max() / row_len {
            return count;
        }
        (PIECE_LEN.min(self.staging_len() / 8) / row_len).max(1)
    }
}

impl Cluster {
    /// Whether the heads of rows have answered all that they were asked.
    fn awaits_nothing(
        &self,
        links: &Links,
        tables: &Tables,
        table: TableIndex,
        rows: RowRange,
    ) -> bool {
        let layout = tables[table].layout;
        let mut first = rows.start;
        while first < rows.end {
            let partition = layout.partition_of(first);
            let link = links.all.get(self.heads.link_of(partition));
            if link.is_none_or(|link| !link.in_flight.is_empty()) {
                return false;
            }
            first = layout.rows_of(partition).end;
        }
        true
    }
}
