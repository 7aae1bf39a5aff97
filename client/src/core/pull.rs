//! Pulls: dense ranges by one-sided reads, keys gathered by the servers into the staging area.

use windlass_transport::chunks::Chunk;
use windlass_wire::{FilterStack, RequestKind, RowRange, Rows, WorkerClock};

use super::{
    Core, PART_KEYS_MAX, Pending, RequestId, TableIndex,
    push::{Replica, count_of, index},
    requests::{Reading, Reply},
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
        reading: Reading,
    },
    /// These rows are always being pushed to: their servers are to send them.
    Contended {
        rows: RowRange,
        reading: Reading,
    },
}

/// Rows of one message.
#[derive(Clone, Copy)]
enum Asked<'a> {
    Keys(&'a [u64]),
    Range(RowRange),
}

/// Where rows that servers write go: from row `row` of a chunk on.
#[derive(Clone, Copy)]
struct Gathering {
    chunk: Chunk,
    row: u64,
    request: RequestId,
    replica: Replica,
    /// That of the pull.
    clock: WorkerClock,
    filters: FilterStack,
}

impl Core {
    /// Starts to pull a range of rows of a dense table.
    pub(crate) fn pull_range(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        options: &PullOptions,
    ) -> Result<RequestId, RequestError> {
        self.tables.check_range(table, rows)?;
        let (relaxed, clock) =
            (options.relaxed, self.clocks.pull_clock(&self.session, &self.tables, table));
        let replica = self.cluster.replica_of(options.from);
        let mut reading = Reading { replica, relaxed, clock, gains: 0 };
        if reading.replica == Replica::Strong {
            return self.pull_served_range(table, rows, options);
        }
        // Rows whose server is gone are looked for when they are claimed.
        let located = self.locate(table, reading.replica);
        if located.as_ref().is_err_and(|error| !self.session.is_passing(error)) {
            return located.map(|()| 0);
        }
        let len = rows.count() * self.tables[table].row_len;
        let request = self.begin_pull(options, len)?;
        let lazy = located.is_err()
            || len > STAGED_LEN_MAX
            || self.tables.is_viewable(&self.links, table, reading.replica, rows)
            || !self.clocks.may_pull(
                &mut self.tables,
                &self.links,
                &self.cluster,
                table,
                rows,
                &mut reading,
            );
        let (reply, started) = if lazy {
            (Reply::Lazy { rows, reading }, Ok(()))
        } else {
            let started = self.start_reads(request, table, rows, reading);
            let passing = started.as_ref().is_err_and(|error| self.session.is_passing(error));
            if let (Some(slot), true) = (self.pending.requests.find_mut(request), passing) {
                slot.reads_again = true;
            }
            let started = if passing { Ok(()) } else { started };
            (Reply::Blocks { rows, reading }, started)
        };
        if let Some(slot) = self.pending.requests.find_mut(request) {
            slot.reply = reply;
        }
        self.pending.end_sending(request);
        self.pending.or_forget(request, started)
    }

    /// Starts to pull a range of rows that its servers write into the staging area.
    fn pull_served_range(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        options: &PullOptions,
    ) -> Result<RequestId, RequestError> {
        let (request, chunk) =
            self.begin_gathering(options, rows.count() * self.tables[table].row_len)?;
        let (replica, clock) = (
            self.cluster.replica_of(options.from),
            self.clocks.pull_clock(&self.session, &self.tables, table),
        );
        let filters = FilterStack::default();
        self.gather_range(
            table,
            rows,
            Gathering { chunk, row: 0, request, replica, clock, filters },
        )
    }

    /// Has the servers of a range of rows write them into the staging area.
    fn gather_range(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        to: Gathering,
    ) -> Result<RequestId, RequestError> {
        let Gathering { chunk, request, replica, .. } = to;
        let row_count = count_of(rows.count());
        if let Some(slot) = self.pending.requests.find_mut(request) {
            slot.reply = Reply::Staged { chunk, row_count, positions: Vec::new() };
        }
        let (layout, row_len) = (self.tables[table].layout, self.tables[table].row_len);
        let rows_max = (GATHER_LEN_MAX / row_len).max(1);
        let (mut first, mut started) = (rows.start, Ok(()));
        while first < rows.end && started.is_ok() {
            let (link, part) = self.cluster.rows_at_one_link(replica, &layout, first, rows.end);
            let end = part.end.min(first + rows_max);
            let to = Gathering { row: first - rows.start, ..to };
            let asked = Asked::Range(RowRange::new(first, end));
            started = self.gather(self.cluster.route(link), table, asked, to);
            first = end;
        }
        self.pending.end_sending(request);
        self.pending.or_forget(request, started)
    }

    /// Starts to pull rows by key. `None` when the keys are not sorted.
    pub(crate) fn pull_keys(
        &mut self,
        table: TableIndex,
        keys: &[u64],
        options: &PullOptions,
    ) -> Result<Option<RequestId>, RequestError> {
        match self.tables.check_keys(table, keys)? {
            true => self.gather_all_keys(table, keys, options).map(Some),
            false => Ok(None),
        }
    }

    /// Has servers gather rows by keys that were checked.
    pub(super) fn gather_all_keys(
        &mut self,
        table: TableIndex,
        keys: &[u64],
        options: &PullOptions,
    ) -> Result<RequestId, RequestError> {
        let len = keys.len() as u64 * self.tables[table].row_len;
        let (request, chunk) = self.begin_gathering(options, len)?;
        let replica = self.cluster.replica_of(options.from);
        let sole = self.cluster.routes(replica).sole;
        let mut positions = self.pending.requests.take_positions();
        if sole.is_none() {
            self.scratch.sort_by_link(&self.cluster, &self.tables, table, keys, replica);
            for sorted in &self.scratch.by_link {
                positions.extend_from_slice(&sorted.positions);
            }
        }
        if let Some(slot) = self.pending.requests.find_mut(request) {
            slot.reply = Reply::Staged { chunk, row_count: count_of(keys.len() as u64), positions };
        }
        let generation = self.cluster.generation;
        let clock = self.clocks.pull_clock(&self.session, &self.tables, table);
        let filters = options.filters;
        let mut to = Gathering { chunk, row: 0, request, replica, clock, filters };
        let mut started = Ok(());
        if let Some(link) = sole {
            started = self.gather_keys(Route { link, generation }, table, keys, to);
        } else {
            for link in 0..self.scratch.by_link.len() {
                let sorted = std::mem::take(&mut self.scratch.by_link[link]);
                let route = Route { link, generation };
                started = started.and_then(|()| self.gather_keys(route, table, &sorted.keys, to));
                to.row += sorted.keys.len() as u64;
                self.scratch.by_link[link] = sorted;
            }
        }
        self.pending.end_sending(request);
        self.pending.or_forget(request, started)
    }

    fn begin_pull(&mut self, options: &PullOptions, len: u64) -> Result<RequestId, RequestError> {
        let request = self.begin(options.after, true)?;
        self.pending.count_pull(len);
        Ok(request)
    }

    /// Starts a pull whose rows servers write into a piece of the staging area.
    fn begin_gathering(
        &mut self,
        options: &PullOptions,
        len: u64,
    ) -> Result<(RequestId, Chunk), RequestError> {
        let request = self.begin_pull(options, len)?;
        self.allocate_for(request, len).map(|chunk| (request, chunk))
    }

    /// Memory for what a request brings, without which the request is none.
    pub(super) fn allocate_for(
        &mut self,
        request: RequestId,
        len: u64,
    ) -> Result<Chunk, RequestError> {
        self.allocate_chunk(len).inspect_err(|_| {
            self.pending.end_sending(request);
            self.pending.forget(request);
        })
    }

    /// Waits for a pull and copies its rows into `into`, which is as long as they are. Reads whose
    /// server is gone are made again at whoever has the rows now.
    pub(crate) fn claim(
        &mut self,
        table: TableIndex,
        id: RequestId,
        into: &mut [u8],
    ) -> Result<(), RequestError> {
        let read = self.pending.requests.find(id).and_then(|request| match request.reply {
            Reply::Blocks { rows, reading } => Some((rows, reading)),
            _ => None,
        });
        match self.claim_once(table, id, into)? {
            Claimed::Done => match read {
                Some((rows, reading)) if !self.is_counted_in(table, rows, reading)? => {
                    self.read_until_done(table, rows, reading, into)
                }
                _ => Ok(()),
            },
            Claimed::Again { rows, reading } => self.read_until_done(table, rows, reading, into),
            Claimed::Contended { rows, reading } => self.pull_contended(table, rows, reading, into),
        }
    }

    /// Has rows that are always being pushed to sent by their servers, piece by piece.
    pub(super) fn pull_contended(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        reading: Reading,
        into: &mut [u8],
    ) -> Result<(), RequestError> {
        self.pending.counters.pulls_served += 1;
        let row_len = self.tables[table].row_len;
        let piece_rows = (GATHER_LEN_MAX / row_len).max(1);
        let mut first = rows.start;
        while first < rows.end {
            let part = RowRange::new(first, rows.end.min(first + piece_rows));
            let request = self.begin(None, true)?;
            let chunk = self.allocate_for(request, part.count() * row_len)?;
            let Reading { replica, clock, .. } = reading;
            let filters = FilterStack::default();
            let to = Gathering { chunk, row: 0, request, replica, clock, filters };
            let id = self.gather_range(table, part, to)?;
            let from = index((first - rows.start) * row_len);
            let out = &mut into[from..from + index(part.count() * row_len)];
            // What servers send is never to be read again.
            self.claim_once(table, id, out)?;
            first = part.end;
        }
        Ok(())
    }

    /// As [`Core::claim`], without reading again.
    pub(super) fn claim_once(
        &mut self,
        table: TableIndex,
        id: RequestId,
        into: &mut [u8],
    ) -> Result<Claimed, RequestError> {
        self.copy_while_waiting(table, id, into).inspect_err(|_| self.pending.forget(id))?;
        self.wait_for(id).inspect_err(|_| self.pending.forget(id))?;
        let Some(request) = self.pending.requests.find_mut(id) else { return Ok(Claimed::Done) };
        let again = std::mem::take(&mut request.reads_again);
        let asks = std::mem::take(&mut request.asks_servers);
        let reply = std::mem::take(&mut request.reply);
        request.claimable = false;
        let row_len = self.tables[table].row_len;
        match &reply {
            Reply::None => {}
            Reply::Staged { chunk, positions, .. } if positions.is_empty() => {
                self.pending.memory.staging_pages().read(chunk.offset, into);
            }
            Reply::Staged { chunk, positions, .. } => {
                let pages = self.pending.memory.staging_pages();
                for (row, position) in (0_u64..).zip(positions) {
                    let to = index(u64::from(*position) * row_len);
                    pages.read(chunk.offset + row * row_len, &mut into[to..][..index(row_len)]);
                }
            }
            Reply::Blocks { rows, reading } => {
                let (rows, reading) = (*rows, *reading);
                if again {
                    self.pending.drop_reply(id, reply);
                    return Ok(Claimed::Again { rows, reading });
                }
                if asks {
                    self.pending.drop_reply(id, reply);
                    return Ok(Claimed::Contended { rows, reading });
                }
                self.pending.copy_done(&self.tables, id, table, rows, into);
            }
            Reply::Lazy { rows, reading } => {
                return Ok(Claimed::Again { rows: *rows, reading: *reading });
            }
        }
        self.pending.drop_reply(id, reply);
        Ok(Claimed::Done)
    }

    /// Copies the blocks of a pull as they come, while they are in the caches and more are on their
    /// way.
    fn copy_while_waiting(
        &mut self,
        table: TableIndex,
        id: RequestId,
        into: &mut [u8],
    ) -> Result<(), RequestError> {
        let (mut patience, mut parts_left) = (None, u32::MAX);
        while let Some(request) = self.pending.requests.find(id)
            && let Reply::Blocks { rows, .. } = request.reply
            && !request.is_done()
        {
            let is_fewer = request.parts_left < parts_left;
            parts_left = request.parts_left;
            if is_fewer {
                self.pending.copy_done(&self.tables, id, table, rows, into);
            } else {
                self.wait_a_little(&mut patience)?;
            }
        }
        Ok(())
    }

    /// Asks a link's server for rows by key, in messages of bounded size.
    fn gather_keys(
        &mut self,
        route: Route,
        table: TableIndex,
        keys: &[u64],
        mut to: Gathering,
    ) -> Result<(), RequestError> {
        let row_len = self.tables[table].row_len;
        let rows_max =
            usize::try_from(GATHER_LEN_MAX / row_len).unwrap_or(1).clamp(1, PART_KEYS_MAX);
        for part in keys.chunks(rows_max) {
            self.gather(route, table, Asked::Keys(part), to)?;
            to.row += part.len() as u64;
        }
        Ok(())
    }

    /// Asks a link's server to write rows into the staging area.
    fn gather(
        &mut self,
        route: Route,
        table: TableIndex,
        asked: Asked<'_>,
        to: Gathering,
    ) -> Result<(), RequestError> {
        let row_len = self.tables[table].row_len;
        let staging = self.pending.memory.staging_region()?;
        let options = PushOptions { clock: Some(to.clock), ..PushOptions::default() };
        let mut header = self.session.header(
            &self.tables,
            &self.clocks,
            &self.cluster,
            RequestKind::Pull,
            table,
            &options,
        );
        header.strong = to.replica == Replica::Strong;
        let keys = match asked {
            Asked::Keys(keys) => {
                header.rows = Rows::Keys;
                header.row_count = count_of(keys.len() as u64);
                keys
            }
            Asked::Range(rows) => {
                header.rows = Rows::Range { first: rows.start };
                header.row_count = count_of(rows.count());
                &[]
            }
        };
        let reply = Some((staging, to.chunk.offset + to.row * row_len));
        let (request, list, values) = (to.request, keys, Values::None);
        if to.filters.is_empty() || list.is_empty() {
            let keys = bytemuck::cast_slice(list);
            return self.send(route, &Message { request, header, list, keys, values, reply });
        }
        let mut encoder = std::mem::take(&mut self.scratch.encoder);
        self.filter_pull(&mut header, route.link, list, &to.filters, &mut encoder);
        let keys = match header.coding {
            Some(_) => encoder.keys(),
            None => bytemuck::cast_slice(list),
        };
        let sent = self.send(route, &Message { request, header, list, keys, values, reply });
        self.scratch.encoder = encoder;
        sent
    }
}

impl Pending {
    pub(super) fn count_pull(&mut self, len: u64) {
        self.counters.pulls += 1;
        self.counters.bytes_pulled += len;
    }

    /// A request that could not be started is nobody's to claim.
    pub(super) fn or_forget(
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
