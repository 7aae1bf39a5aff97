//! Blocking pulls. They read in place when they can, large ones piece by piece, and begin again when the
//! server that had the rows is gone.

use std::{collections::VecDeque, time::Instant};

use windlass_wire::RowRange;

use super::{
    Core, TableIndex,
    begin::begin,
    clock::{is_counted_in, wait_for_workers_at},
    locate::view,
    message::index,
    pull::{Claimed, claim_once, pull_contended},
    read::start_reads,
    requests::{Reading, Reply},
    view::{Copied, CopyMode},
    vigil::still_serves,
};
use crate::error::RequestError;

/// Bytes of rows pulled at once when a large range is read piece by piece.
const WINDOW_LEN: u64 = 2 << 20;

/// Bytes of rows from which copies go around the caches.
const STREAM_LEN_MIN: usize = 16 << 20;

/// Pieces of a large range under way at once.
const WINDOWS: usize = 3;

/// Pulls rows now, from whoever has them; while nobody has, tries again as long as requests are
/// retried.
pub(super) fn read_until_done(
    core: &mut Core,
    table: TableIndex,
    rows: RowRange,
    mut reading: Reading,
    into: &mut [u8],
) -> Result<(), RequestError> {
    let (mut since, mut looks_again) = (None, !core.session.options.retry_for.is_zero());
    loop {
        wait_for_workers_at(core, table, rows, &mut reading)?;
        let read = match view(core, table, reading.replica, rows) {
            Ok(true) => copy_in_view(core, table, rows, reading, into),
            Ok(false) => read_now(core, table, rows, reading, into),
            // Nobody has the table any more.
            Err(error @ RequestError::NotCurrent { .. }) => return Err(error),
            Err(error) => Err(error),
        };
        let Err(error) = read else {
            if is_counted_in(core, table, rows, reading)? {
                return Ok(());
            }
            continue;
        };
        // Rows that become current later may be behind the clock that was looked at.
        core.tables.look_again();
        if let RequestError::NotCurrent { .. } = error
            && std::mem::replace(&mut looks_again, false)
        {
            core.tables[table].places.clear();
            continue;
        }
        let since = *since.get_or_insert_with(Instant::now);
        if !core.session.is_passing(&error) {
            return Err(error);
        }
        if since.elapsed() >= core.session.options.retry_for {
            return Err(core
                .cluster
                .unavailable(&core.session, core.tables[table].layout.partition_of(rows.start)));
        }
        core.recovery.start_trouble();
        let generation = core.cluster.generation;
        let mut patience = None;
        while core.cluster.generation == generation
            && since.elapsed() < core.session.options.retry_for
        {
            core.wait_a_little(&mut patience)?;
        }
    }
}

/// Pulls rows now, by windows of reads.
fn read_now(
    core: &mut Core,
    table: TableIndex,
    rows: RowRange,
    reading: Reading,
    into: &mut [u8],
) -> Result<(), RequestError> {
    let row_len = core.tables[table].row_len;
    let window_rows = (WINDOW_LEN / row_len).max(1);
    let mut windows = VecDeque::with_capacity(WINDOWS);
    let mut first = rows.start;
    while first < rows.end || !windows.is_empty() {
        if first < rows.end && windows.len() < WINDOWS {
            let part = RowRange::new(first, rows.end.min(first + window_rows));
            let id = begin(core, None, true)?;
            let started = start_reads(core, id, table, part, reading);
            if let Some(slot) = core.pending.requests.find_mut(id) {
                // Whoever reads again waits for slower workers again.
                slot.reply = Reply::Blocks { rows: part, reading };
            }
            core.pending.end_sending(id);
            windows.push_back((id, part));
            if let Err(error) = started {
                for (id, _) in windows {
                    core.pending.forget(id);
                }
                return Err(error);
            }
            first = part.end;
        } else if let Some((id, part)) = windows.pop_front() {
            let from = index((part.start - rows.start) * row_len);
            let out = &mut into[from..from + index(part.count() * row_len)];
            let claimed = claim_once(core, table, id, out).and_then(|claimed| match claimed {
                Claimed::Done => Ok(()),
                Claimed::Contended { .. } => pull_contended(core, table, part, reading, out),
                Claimed::Again { .. } => Err(core.cluster.unavailable(
                    &core.session,
                    core.tables[table].layout.partition_of(part.start),
                )),
            });
            if let Err(error) = claimed {
                for (id, _) in windows {
                    core.pending.forget(id);
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Copies rows that lie in memory of this host.
fn copy_in_view(
    core: &mut Core,
    table: TableIndex,
    rows: RowRange,
    reading: Reading,
    into: &mut [u8],
) -> Result<(), RequestError> {
    let row_len = core.tables[table].row_len;
    let Reading { replica, relaxed, .. } = reading;
    let streams = into.len() >= STREAM_LEN_MIN;
    let copy = CopyMode { relaxed, streams };
    let mut first = rows.start;
    while first < rows.end {
        let state = &core.tables[table];
        let partition = state.layout.partition_of(first);
        let end = rows.end.min(state.layout.rows_of(partition).end);
        let place = state.places.find(replica, partition.0 as usize).copied();
        let Some((place, view)) = place.and_then(|at| at.view.map(|view| (at, view))) else {
            return Err(core.cluster.unavailable(&core.session, partition));
        };
        if !still_serves(core, place.link) {
            return Err(RequestError::ServerGone { server: core.links.all[place.link].server });
        }
        let from = index((first - rows.start) * row_len);
        let part = RowRange::new(first, end);
        let out = &mut into[from..from + index(part.count() * row_len)];
        let retried = &mut core.pending.counters.reads_retried;
        match place.copy_view(view, part, row_len, copy, retried, out) {
            Copied::Whole => {}
            Copied::Contended => pull_contended(core, table, part, reading, out)?,
            Copied::Fenced => {
                let server = core.links.all[place.link].server;
                return Err(RequestError::NotCurrent { server });
            }
        }
        first = end;
    }
    Ok(())
}
