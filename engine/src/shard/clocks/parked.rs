//! Pulls that wait for a slower worker and continue when the clock allows.

use std::time::Instant;

use windlass_wire::{RowRange, Rows, SessionId, Status, completion::DETAIL_MAX};

use super::waiting::WaitingPull;
use crate::shard::{
    chain::reaching,
    port::Port,
    push::session_of,
    tables::{ShardTable, Tables},
    work::{Values, Work},
};
impl Tables {
    /// Forgets the pulls of a session that ends.
    pub(in crate::shard) fn forget_pulls(&mut self, session: SessionId) {
        for _ in 0..self.clocks.waiting.pulls.len() {
            let pull = self.clocks.waiting.pulls.pop_front().expect("each is looked at once");
            if pull.session == session {
                self.clocks.waiting.end(pull.keys);
            } else {
                self.clocks.waiting.pulls.push_back(pull);
            }
        }
    }
}

/// Whether a pull has to wait for a slower worker.
pub(in crate::shard) fn must_wait(port: &Port, tables: &Tables, work: &Work) -> bool {
    let clock = work.header.clock;
    let Some(table) = tables.by_id.get(&work.header.table) else { return false };
    let Some(clocks) = &table.clocks else { return false };
    let line = clocks.line();
    if !line.must_wait(clock) {
        return false;
    }
    // Some row is behind; these may not be.
    let needed = line.needed(clock);
    let keys = &port.turn.keys[work.keys.0..work.keys.1];
    !each_piece(table, rows_of(work), keys, |slot, rows| !clocks.is_behind(slot, rows, needed))
}

/// Keeps a pull aside until the clock allows it.
pub(in crate::shard) fn park_pull(port: &mut Port, tables: &mut Tables, at: usize) {
    let work = port.turn.works[at];
    let keys = &port.turn.keys[work.keys.0..work.keys.1];
    let session = session_of(&port.sessions, &work).owner.id;
    if !tables.clocks.waiting.has_room(keys.len()) {
        return port.close(at, Status::TooEarly, 0);
    }
    let mut header = work.header;
    header.kind = header.kind.without_push();
    let keys = tables.clocks.waiting.copy_keys(keys);
    let (slot, number) = (work.session, work.number);
    let since = Instant::now();
    tables.clocks.waiting.push(WaitingPull { slot, session, number, header, keys, since });
    port.turn.works[at].closed = true;
    port.statistics.pulls_parked += 1;
}

/// Takes pulls that need not wait any more into the turn.
pub(in crate::shard) fn release_pulls(port: &mut Port, tables: &mut Tables) {
    if !std::mem::take(&mut tables.clocks.moved) {
        return;
    }
    for _ in 0..tables.clocks.waiting.pulls.len() {
        let pull = tables.clocks.waiting.pulls.pop_front().expect("each is looked at once");
        let open = port.sessions.get(pull.slot).and_then(Option::as_ref);
        if open.is_none_or(|open| open.owner.id != pull.session) {
            tables.clocks.waiting.end(pull.keys);
            continue;
        }
        let keys_at = port.turn.keys.len();
        let has_room = port.turn.has_room(pull.keys.len() as u64 * 8);
        if has_room {
            port.turn.keys.extend_from_slice(&pull.keys);
        }
        let waited_us = u32::try_from(pull.since.elapsed().as_micros()).unwrap_or(DETAIL_MAX);
        let work = Work {
            session: pull.slot,
            number: pull.number,
            header: pull.header,
            keys: (keys_at, port.turn.keys.len()),
            values: Values::None,
            closed: false,
            durable_at: None,
            wait: None,
            pushed: false,
            waited_us: waited_us.max(1),
        };
        if !has_room || must_wait(port, tables, &work) {
            tables.clocks.moved |= !has_room;
            port.turn.keys.truncate(keys_at);
            tables.clocks.waiting.pulls.push_back(pull);
            continue;
        }
        port.turn.works.push(work);
        tables.clocks.waiting.end(pull.keys);
    }
}

/// Has the clients of pulls that wait for a round ask again, by the map that has just come.
pub(in crate::shard) fn end_parked_pulls(port: &mut Port, tables: &mut Tables) {
    for _ in 0..tables.clocks.waiting.pulls.len() {
        let pull = tables.clocks.waiting.pulls.pop_front().expect("each is looked at once");
        let table = tables.by_id.get(&pull.header.table);
        if table.is_some_and(|table| table.rounds.is_none()) {
            tables.clocks.waiting.pulls.push_back(pull);
            continue;
        }
        let open = port.sessions.get(pull.slot).and_then(Option::as_ref);
        if open.is_some_and(|open| open.owner.id == pull.session) {
            port.complete(pull.slot, pull.number, Status::StaleEpoch, 0);
        }
        tables.clocks.waiting.end(pull.keys);
    }
}

/// The range of a request, unless it names keys.
pub(in crate::shard) fn rows_of(work: &Work) -> Option<RowRange> {
    match work.header.rows {
        Rows::Range { first } => {
            Some(RowRange::new(first, first + u64::from(work.header.row_count)))
        }
        // A scan waits for nobody.
        Rows::Keys | Rows::Partition { .. } => None,
    }
}

/// Calls `piece` with each partition's slot and the rows of it that a request names, until it says
/// no. Rows at an end of their partition reach as far as there are numbers, so that a push of all of
/// a partition covers all of its clock. Returns whether it never said no.
pub(in crate::shard) fn each_piece(
    table: &ShardTable,
    range: Option<RowRange>,
    keys: &[u64],
    mut piece: impl FnMut(usize, RowRange) -> bool,
) -> bool {
    let is_dense = table.is_dense();
    let mut rows_piece = |rows: RowRange| {
        let partition = table.layout.partition_of(rows.start);
        let Some(slot) = table.slot(partition) else { return true };
        piece(slot, reaching(rows, is_dense, table.layout.rows_of(partition)))
    };
    if let Some(range) = range {
        return table.layout.pieces_of(range).all(|(_, rows)| rows_piece(rows));
    }
    keys.iter().all(|key| rows_piece(RowRange::new(*key, key.saturating_add(1))))
}
