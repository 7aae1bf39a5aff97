//! Pulls: dense ranges by one-sided reads, keys gathered by the servers into the staging area.

use windlass_transport::chunks::Chunk;
use windlass_wire::{RequestKind, RowRange, Rows, WorkerClock};

use super::{
    Core, PART_KEYS_MAX, RequestId, TableIndex,
    push::{Replica, count_of, index},
    requests::Reply,
    send::{Message, Route, Values},
};
use crate::{
    config::{PullOptions, PushOptions},
    error::RequestError,
};

/// Bytes a pull may stage; larger ones are read piece by piece when they are claimed.
const STAGED_LEN_MAX: u64 = 8 << 20;

/// Most bytes of rows in one gathering message.
const GATHER_LEN_MAX: u64 = 4 << 20;

/// What came of claiming a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    Done,
    /// These rows are to be read, again or for the first time.
    Again {
        rows: RowRange,
        relaxed: bool,
        clock: WorkerClock,
    },
}

impl Core {
    /// Starts to pull a range of rows of a dense table.
    pub(crate) fn pull_range(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        options: &PullOptions,
    ) -> Result<RequestId, RequestError> {
        self.check_range(table, rows)?;
        // Rows whose server is gone are looked for when they are claimed.
        let located = self.locate(table);
        if located.as_ref().is_err_and(|error| !self.is_passing(error)) {
            return located.map(|()| 0);
        }
        let len = rows.count() * self.tables[table.0].row_len;
        let request = self.begin(options.after, true)?;
        self.counters.pulls += 1;
        self.counters.bytes_pulled += len;
        let clock = self.pull_clock(table);
        let lazy = located.is_err()
            || len > STAGED_LEN_MAX
            || self.is_viewable(table, rows)
            || !self.may_pull(table, rows, clock);
        let (first_row, row_count) = (rows.start, rows.count());
        let (reply, started) = if lazy {
            (Reply::Lazy { first_row, row_count, relaxed: options.relaxed, clock }, Ok(()))
        } else {
            let relaxed = options.relaxed;
            let started = self.start_reads(request, table, rows, relaxed);
            let passing = started.as_ref().is_err_and(|error| self.is_passing(error));
            if let (Some(slot), true) = (self.requests.find_mut(request), passing) {
                slot.reads_again = true;
            }
            let started = if passing { Ok(()) } else { started };
            (Reply::Blocks { first_row, row_count, relaxed, clock }, started)
        };
        if let Some(slot) = self.requests.find_mut(request) {
            slot.reply = reply;
        }
        self.end_sending(request);
        self.or_forget(request, started)
    }

    /// Starts to pull rows by key.
    pub(crate) fn pull_keys(
        &mut self,
        table: TableIndex,
        keys: &[u64],
        options: &PullOptions,
    ) -> Result<RequestId, RequestError> {
        self.check_keys(table, keys)?;
        let len = keys.len() as u64 * self.tables[table.0].row_len;
        let request = self.begin(options.after, true)?;
        self.counters.pulls += 1;
        self.counters.bytes_pulled += len;
        let chunk = match self.allocate_chunk(len) {
            Ok(chunk) => chunk,
            Err(error) => {
                self.end_sending(request);
                return self.or_forget(request, Err(error));
            }
        };
        let mut positions = self.requests.take_positions();
        if self.tails.sole.is_none() {
            self.sort_by_link(table, keys, Replica::Tail);
            for sorted in &self.scratch.by_link {
                positions.extend_from_slice(&sorted.positions);
            }
        }
        if let Some(slot) = self.requests.find_mut(request) {
            slot.reply = Reply::Staged { chunk, row_count: count_of(keys.len() as u64), positions };
        }
        let generation = self.generation;
        let started = match self.tails.sole {
            Some(link) => self.gather(Route { link, generation }, table, keys, chunk, 0, request),
            None => {
                let mut row = 0;
                let mut started = Ok(());
                for link in 0..self.scratch.by_link.len() {
                    let sorted = std::mem::take(&mut self.scratch.by_link[link]);
                    let route = Route { link, generation };
                    started = started.and_then(|()| {
                        self.gather(route, table, &sorted.keys, chunk, row, request)
                    });
                    row += sorted.keys.len() as u64;
                    self.scratch.by_link[link] = sorted;
                }
                started
            }
        };
        self.end_sending(request);
        self.or_forget(request, started)
    }

    /// Waits for a pull and copies its rows into `into`, which is as long as they are. Reads whose
    /// server is gone are made again at whoever has the rows now.
    pub(crate) fn claim(
        &mut self,
        table: TableIndex,
        id: RequestId,
        into: &mut [u8],
    ) -> Result<(), RequestError> {
        match self.claim_once(table, id, into)? {
            Claimed::Done => Ok(()),
            Claimed::Again { rows, relaxed, clock } => {
                self.read_until_done(table, rows, (relaxed, clock), into)
            }
        }
    }

    /// As [`Core::claim`], without reading again.
    pub(super) fn claim_once(
        &mut self,
        table: TableIndex,
        id: RequestId,
        into: &mut [u8],
    ) -> Result<Claimed, RequestError> {
        self.wait_for(id).inspect_err(|_| self.forget(id))?;
        let Some(request) = self.requests.find_mut(id) else { return Ok(Claimed::Done) };
        let again = std::mem::take(&mut request.reads_again);
        let reply = std::mem::take(&mut request.reply);
        request.claimable = false;
        let row_len = self.tables[table.0].row_len;
        match &reply {
            Reply::None => {}
            Reply::Staged { chunk, positions, .. } if positions.is_empty() => {
                self.memory.staging_pages().read(chunk.offset, into);
            }
            Reply::Staged { chunk, positions, .. } => {
                let pages = self.memory.staging_pages();
                for (row, position) in (0_u64..).zip(positions) {
                    let to = index(u64::from(*position) * row_len);
                    pages.read(chunk.offset + row * row_len, &mut into[to..][..index(row_len)]);
                }
            }
            Reply::Blocks { first_row, row_count, relaxed, clock } => {
                let rows = RowRange::new(*first_row, first_row + row_count);
                if again {
                    let (relaxed, clock) = (*relaxed, *clock);
                    self.drop_reply(id, reply);
                    return Ok(Claimed::Again { rows, relaxed, clock });
                }
                self.copy_blocks(id, table, rows, into);
            }
            Reply::Lazy { first_row, row_count, relaxed, clock } => {
                let rows = RowRange::new(*first_row, first_row + row_count);
                return Ok(Claimed::Again { rows, relaxed: *relaxed, clock: *clock });
            }
        }
        self.drop_reply(id, reply);
        Ok(Claimed::Done)
    }

    /// Asks a link's server to write rows into the chunk, from row `row` of it on.
    fn gather(
        &mut self,
        route: Route,
        table: TableIndex,
        keys: &[u64],
        chunk: Chunk,
        row: u64,
        request: RequestId,
    ) -> Result<(), RequestError> {
        let row_len = self.tables[table.0].row_len;
        let rows_max =
            usize::try_from(GATHER_LEN_MAX / row_len).unwrap_or(1).clamp(1, PART_KEYS_MAX);
        let staging = self.staging_region()?;
        let mut at = row;
        for part in keys.chunks(rows_max) {
            let clock = Some(self.pull_clock(table));
            let options = PushOptions { clock, ..PushOptions::default() };
            let mut header = self.header(RequestKind::Pull, table, &options);
            header.rows = Rows::Keys;
            header.row_count = count_of(part.len() as u64);
            let reply = Some((staging, chunk.offset + at * row_len));
            let message = Message { request, header, keys: part, values: Values::None, reply };
            self.send(route, &message)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// A request that could not be started is nobody's to claim.
    fn or_forget(
        &mut self,
        request: RequestId,
        started: Result<(), RequestError>,
    ) -> Result<RequestId, RequestError> {
        if started.is_err() {
            self.forget(request);
        }
        started.map(|()| request)
    }
}
