//! Pulls by key without the server's help: rows of a dense table in this host's memory, and keys that form a
//! range.

use windlass_wire::{RowRange, WorkerClock};

use super::short::pull_into;
use crate::{
    config::PullOptions,
    core::{
        Cluster, Core, Links, Memory, TableIndex, Tables,
        clock::{is_counted_in, may_pull},
        locate::locate,
        message::{Replica, index},
        pull::{claim, gather_all_keys},
        requests::Reading,
        view::Copied,
        vigil::still_serves,
    },
    error::RequestError,
};

/// Bytes of rows that are pulled by key at once: they pass through the staging area.
const PIECE_LEN: usize = 8 << 20;

/// Pulls rows by key into `into`, which is as long as they are: in place where they lie in memory of
/// this host, else through their servers, in pieces. False when the keys are not sorted: nothing is pulled then.
pub(crate) fn pull_keys_into(
    core: &mut Core,
    table: TableIndex,
    keys: &[u64],
    options: &PullOptions,
    into: &mut [u8],
) -> Result<bool, RequestError> {
    if let Some(rows) = core.tables.as_range(table, keys)
        && overtakes_nothing(core, table, rows)
    {
        // Rows by key are whole, also for whom parts of ranges will do.
        let options = PullOptions { relaxed: false, ..*options };
        return pull_into(core, table, rows, &options, into).map(|()| true);
    }
    if !core.tables.check_keys(table, keys)? {
        return Ok(false);
    }
    if pull_keys_in_view(core, table, keys, options, into)? {
        return Ok(true);
    }
    let row_len = index(core.tables[table].row_len);
    let piece_len = PIECE_LEN.min(core.pending.memory.staging_len() / 4);
    let rows_max = (piece_len / row_len).max(1);
    for (keys, into) in keys.chunks(rows_max).zip(into.chunks_mut(rows_max * row_len)) {
        let id = gather_all_keys(core, table, keys, options)?;
        claim(core, table, id, into)?;
    }
    Ok(true)
}

/// Whether reads of rows can overtake no push of this client: servers answer keys in order, so that
/// those see what was pushed before.
fn overtakes_nothing(core: &mut Core, table: TableIndex, rows: RowRange) -> bool {
    core.retries.queue.is_empty()
        && (core.cluster.awaits_nothing(&core.links, &core.tables, table, rows) || {
            core.poll();
            core.retries.queue.is_empty()
                && core.cluster.awaits_nothing(&core.links, &core.tables, table, rows)
        })
}

/// Whether it is known where rows lie. Why it is not shows again on the general way.
fn is_located(
    core: &mut Core,
    table: TableIndex,
    replica: Replica,
    rows: RowRange,
) -> Result<bool, RequestError> {
    match locate(core, table, replica, rows) {
        Ok(()) => Ok(true),
        Err(RequestError::Interrupted) => Err(RequestError::Interrupted),
        Err(_) => Ok(false),
    }
}

/// Copies rows of a dense table, by keys that were checked, out of this host's memory. False when
/// their servers are to be asked.
fn pull_keys_in_view(
    core: &mut Core,
    table: TableIndex,
    keys: &[u64],
    options: &PullOptions,
    into: &mut [u8],
) -> Result<bool, RequestError> {
    let replica = core.cluster.replica_of(options.from);
    let (Some(first), Some(last)) = (keys.first(), keys.last()) else { return Ok(false) };
    if core.tables[table].dense_rows().is_none() {
        return Ok(false);
    }
    let is_plain = options.after.is_none()
        && replica != Replica::Strong
        && !core.recovery.in_trouble()
        && !core.rounds.has_open_round();
    let rows = RowRange::new(*first, *last + 1);
    if !is_plain || !overtakes_nothing(core, table, rows) {
        return Ok(false);
    }
    let clock = core.clocks.pull_clock(&core.session, &core.tables, table);
    let mut reading = Reading { replica, relaxed: false, clock, gains: 0 };
    // All shards in between are asked for their clocks.
    if clock != WorkerClock(0) && !is_located(core, table, replica, rows)? {
        return Ok(false);
    }
    if !may_pull(core, table, rows, &mut reading) {
        return Ok(false);
    }
    let (layout, row_len) = (core.tables[table].layout, index(core.tables[table].row_len));
    let mut done = 0;
    while let Some(key) = keys.get(done) {
        let partition = layout.partition_of(*key);
        let end = layout.rows_of(partition).end;
        let count = keys[done..].partition_point(|key| *key < end);
        let at = partition.0 as usize;
        let mut place = core.tables[table].places.find(replica, at).copied();
        if place.is_none() && is_located(core, table, replica, RowRange::new(*key, *key + 1))? {
            place = core.tables[table].places.find(replica, at).copied();
        }
        let Some((place, view)) = place.and_then(|at| at.view.map(|view| (at, view))) else {
            return Ok(false);
        };
        if !still_serves(core, place.link) {
            return Ok(false);
        }
        let of_partition = &keys[done..done + count];
        let out = &mut into[done * row_len..(done + count) * row_len];
        let retried = &mut core.pending.counters.reads_retried;
        match place.copy_view_keys(view, of_partition, retried, out) {
            Copied::Whole => done += count,
            Copied::Contended => return Ok(false),
            Copied::Fenced => {
                // Others have them now, or will.
                core.tables[table].places.clear();
                return Ok(false);
            }
        }
    }
    let is_counted_in = is_counted_in(core, table, rows, reading)?;
    if is_counted_in {
        core.pending.count_pull(into.len() as u64);
    }
    Ok(is_counted_in)
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
