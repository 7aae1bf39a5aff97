//! Pushes: split by link, sent inline when small, by reference when large.

use windlass_wire::{Aggregation, RequestHeader, RequestKind, RowRange, Rows, WorkerClock};

use super::{
    Clocks, Cluster, Core, Links, PART_KEYS_MAX, PART_LEN_MAX, PART_NEW_KEYS_MAX, Pending,
    Recovery, RegionId, RequestId, Scratch, Session, TableIndex, Tables, WRITTEN_PART_LEN_MAX,
    link::Held,
    send::{Message, Route, Values},
};
use crate::{config::PushOptions, error::RequestError};

/// Where the values of a push are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    /// In memory of the caller, copied before the call returns.
    Plain(&'a [u8]),
    /// In a registered region, which stays untouched until the push is done.
    Registered { region: RegionId, offset: u64 },
}

/// Which replica of a partition keys are sorted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replica {
    Head,
    /// The last that holds all that was committed.
    Tail,
    /// One of those that do, always the same while it can be reached.
    Any,
    /// The last of the chain, asked to answer only while it is that.
    Strong,
}

/// The rows of one message.
#[derive(Clone, Copy)]
pub(super) enum PartRows<'a> {
    Range(RowRange),
    Keys(&'a [u64]),
}

/// What of a push goes in one message: rows by a route, whose values are those of `source` from `from` on.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) route: Route,
    pub(super) table: TableIndex,
    pub(super) rows: PartRows<'a>,
    pub(super) source: Source<'a>,
    pub(super) from: u64,
    pub(super) request: RequestId,
    pub(super) options: &'a PushOptions,
}

impl<'a> PartRows<'a> {
    /// The keys; none of a range.
    pub(super) fn keys(self) -> &'a [u64] {
        match self {
            Self::Range(_) => &[],
            Self::Keys(keys) => keys,
        }
    }
}

impl Core {
    /// Pushes a range of rows. The values are as long as the rows, which the caller has checked.
    pub(crate) fn push_range(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        values: Source<'_>,
        options: &PushOptions,
    ) -> Result<RequestId, RequestError> {
        self.tables.check_range(table, rows)?;
        if let Some(request) = self.push_short(table, PartRows::Range(rows), values, options) {
            return Ok(request);
        }
        let request = self.begin(options.after, false)?;
        self.rounds.note_push(&self.tables, table, request);
        let sent = self.send_range(request, table, rows, values, options);
        self.end_push(request, values, sent)?;
        self.pending.count_push(rows.count() * self.tables[table].row_len);
        Ok(request)
    }

    fn send_range(
        &mut self,
        request: RequestId,
        table: TableIndex,
        rows: RowRange,
        values: Source<'_>,
        options: &PushOptions,
    ) -> Result<(), RequestError> {
        let row_len = self.tables[table].row_len;
        let layout = self.tables[table].layout;
        let mut first = rows.start;
        while first < rows.end {
            if first > rows.start {
                self.go_on_sending(request)?;
            }
            let (link, mut part) =
                self.cluster.rows_at_one_link(Replica::Head, &layout, first, rows.end);
            let route = self.cluster.route(link);
            let rows_max = (self.links.part_len_max(
                &mut self.cluster,
                &mut self.session,
                &self.recovery,
                &self.tables,
                table,
                link,
            ) / row_len)
                .max(1);
            part.end = part.end.min(part.start + rows_max);
            let from = (first - rows.start) * row_len;
            let rows = PartRows::Range(part);
            self.send_part(&Part { route, table, rows, source: values, from, request, options })?;
            first = part.end;
        }
        Ok(())
    }

    /// Pushes rows by key. The values are as long as the rows, which the caller has checked. `None` when the keys
    /// are not sorted; nothing is sent then.
    pub(crate) fn push_keys(
        &mut self,
        table: TableIndex,
        keys: &[u64],
        values: Source<'_>,
        options: &PushOptions,
    ) -> Result<Option<RequestId>, RequestError> {
        if let Some(range) = self.tables.as_range(table, keys) {
            return self.push_range(table, range, values, options).map(Some);
        }
        if !self.tables.check_keys(table, keys)? {
            return Ok(None);
        }
        if let Some(request) = self.push_short(table, PartRows::Keys(keys), values, options) {
            return Ok(Some(request));
        }
        let request = self.begin(options.after, false)?;
        self.rounds.note_push(&self.tables, table, request);
        let sent = self.send_keys(request, table, keys, values, options);
        self.end_push(request, values, sent)?;
        self.pending.count_push(keys.len() as u64 * self.tables[table].row_len);
        Ok(Some(request))
    }

    fn send_keys(
        &mut self,
        request: RequestId,
        table: TableIndex,
        keys: &[u64],
        values: Source<'_>,
        options: &PushOptions,
    ) -> Result<(), RequestError> {
        let row_len = self.tables[table].row_len;
        if let Some(link) = self.cluster.heads.sole {
            let route = self.cluster.route(link);
            let rows_max = self.links.keyed_rows_max(
                &mut self.cluster,
                &mut self.session,
                &self.recovery,
                &self.tables,
                table,
                link,
            );
            for (at, part) in keys.chunks(rows_max).enumerate() {
                if at > 0 {
                    self.go_on_sending(request)?;
                }
                let from = (at * rows_max) as u64 * row_len;
                let rows = PartRows::Keys(part);
                self.send_part(&Part {
                    route,
                    table,
                    rows,
                    source: values,
                    from,
                    request,
                    options,
                })?;
            }
        } else {
            self.scratch.sort_by_link(&self.cluster, &self.tables, table, keys, Replica::Head);
            let generation = self.cluster.generation;
            for link in 0..self.scratch.by_link.len() {
                let route = Route { link, generation };
                if self.scratch.by_link[link].keys.is_empty() {
                    continue;
                }
                let sorted = std::mem::take(&mut self.scratch.by_link[link]);
                let rows_max = self.links.keyed_rows_max(
                    &mut self.cluster,
                    &mut self.session,
                    &self.recovery,
                    &self.tables,
                    table,
                    link,
                );
                let parts = sorted.keys.chunks(rows_max).zip(sorted.positions.chunks(rows_max));
                for (at, (keys, positions)) in parts.enumerate() {
                    if at > 0 {
                        self.go_on_sending(request)?;
                    }
                    self.push_gathered(route, table, keys, positions, values, request, options)?;
                }
                self.scratch.by_link[link] = sorted;
            }
        }
        Ok(())
    }

    /// Everything of a push is sent, or no more of it can be: then its caller is not told of the request,
    /// and servers may read the values for those parts that were sent.
    fn end_push(
        &mut self,
        request: RequestId,
        values: Source<'_>,
        sent: Result<(), RequestError>,
    ) -> Result<(), RequestError> {
        self.pending.end_sending(request);
        if let (Err(_), Source::Registered { region, .. }) = (&sent, values) {
            self.pending.keep_until_done(request, region);
        }
        sent.map_err(|error| match error {
            RequestError::Timeout { timeout } => RequestError::SendTimeout { timeout },
            error => error,
        })
    }

    /// Whether there is time for one more part of a push.
    fn go_on_sending(&mut self, request: RequestId) -> Result<(), RequestError> {
        if self.pending.time_left(&self.session, request).is_zero() {
            return Err(RequestError::Timeout { timeout: self.session.options.timeout });
        }
        self.session.watching.ask()
    }

    /// Sends rows that do not lie beside each other in the request.
    #[expect(clippy::too_many_arguments, reason = "one call site; a struct would say the same")]
    fn push_gathered(
        &mut self,
        route: Route,
        table: TableIndex,
        keys: &[u64],
        positions: &[u32],
        values: Source<'_>,
        request: RequestId,
        options: &PushOptions,
    ) -> Result<(), RequestError> {
        let row_len = self.tables[table].row_len;
        let mut gathered = std::mem::take(&mut self.scratch.values);
        gathered.clear();
        for position in positions {
            let from = u64::from(*position) * row_len;
            match values {
                Source::Plain(bytes) => {
                    gathered.extend_from_slice(&bytes[index(from)..index(from + row_len)]);
                }
                Source::Registered { region, offset } => {
                    let at = gathered.len();
                    gathered.resize(at + index(row_len), 0);
                    self.pending.memory.pages(region).read(offset + from, &mut gathered[at..]);
                }
            }
        }
        let (rows, source) = (PartRows::Keys(keys), Source::Plain(&gathered));
        let sent = self.send_part(&Part { route, table, rows, source, from: 0, request, options });
        self.scratch.values = gathered;
        sent
    }

    /// Sends what goes in one message.
    fn send_part(&mut self, part: &Part<'_>) -> Result<(), RequestError> {
        let Part { route, table, rows, source, from, request, options } = *part;
        if !options.filters.is_empty() {
            return self.send_filtered(part);
        }
        let header = self.session.push_header(
            &self.tables,
            &self.clocks,
            &self.cluster,
            table,
            rows,
            options,
        );
        let values = self.part_values((table, route.link), source, from, header.values_len())?;
        let keys = (rows.keys(), bytemuck::cast_slice(rows.keys()));
        self.send_push(route, table, header, keys, values, request)
    }

    /// Chooses how the values of one message travel, and copies them if they are to be staged.
    pub(super) fn part_values<'a>(
        &mut self,
        (table, link): (TableIndex, usize),
        source: Source<'a>,
        from: u64,
        len: u64,
    ) -> Result<Values<'a>, RequestError> {
        let large = len > self.tables.inline_len_max(&self.links, table, link);
        match source {
            Source::Plain(bytes) if !large => {
                Ok(Values::Inline(&bytes[index(from)..index(from + len)]))
            }
            Source::Plain(bytes) => {
                let region = self.pending.memory.staging_region()?;
                let chunk = self.allocate_chunk(len)?;
                let bytes = &bytes[index(from)..index(from + len)];
                self.pending.memory.staging_pages().write(chunk.offset, bytes);
                Ok(Values::At { region, offset: chunk.offset, held: Held::Chunk(chunk) })
            }
            Source::Registered { region, offset } => {
                Ok(Values::At { region, offset: offset + from, held: Held::Nothing })
            }
        }
    }

    pub(super) fn send_push(
        &mut self,
        route: Route,
        table: TableIndex,
        header: RequestHeader,
        (list, keys): (&[u64], &[u8]),
        values: Values<'_>,
        request: RequestId,
    ) -> Result<(), RequestError> {
        let len = header.sent_values_len();
        let message = Message { request, header, list, keys, values, reply: None };
        match values {
            Values::At { region, offset, held: Held::Nothing }
                if len <= self.tables.inline_len_max(&self.links, table, route.link) =>
            {
                if let Some(local) =
                    self.links.lend(&mut self.pending.memory, route.link, region, offset, len)
                {
                    let values = Values::Lent { region, offset, local };
                    return self.send(route, &Message { values, ..message });
                }
                let bytes =
                    self.pending.memory.copy_registered(&mut self.scratch, region, offset, len);
                let sent = self.send(route, &Message { values: Values::Inline(&bytes), ..message });
                self.scratch.values = bytes;
                sent
            }
            _ => self.send(route, &message),
        }
    }
}

impl Links {
    /// Most bytes of values in one message.
    fn part_len_max(
        &mut self,
        cluster: &mut Cluster,
        session: &mut Session,
        recovery: &Recovery,
        tables: &Tables,
        table: TableIndex,
        link: usize,
    ) -> u64 {
        // Only its shard can say.
        self.prepare_link(cluster, session, recovery, link);
        // What can be written is written; a single row may still be too long for it.
        let is_written = tables.inline_len_max(self, table, link) == WRITTEN_PART_LEN_MAX;
        if is_written { WRITTEN_PART_LEN_MAX } else { PART_LEN_MAX }
    }

    /// Most rows in one message that names keys.
    fn keyed_rows_max(
        &mut self,
        cluster: &mut Cluster,
        session: &mut Session,
        recovery: &Recovery,
        tables: &Tables,
        table: TableIndex,
        link: usize,
    ) -> usize {
        let rows = self.part_len_max(cluster, session, recovery, tables, table, link)
            / tables[table].row_len;
        let is_dense = tables[table].dense_rows().is_some();
        let most = if is_dense { PART_KEYS_MAX } else { PART_NEW_KEYS_MAX };
        usize::try_from(rows).unwrap_or(most).clamp(1, most)
    }
}

impl Pending {
    pub(super) fn count_push(&mut self, len: u64) {
        self.counters.pushes += 1;
        self.counters.bytes_pushed += len;
    }
}

impl Scratch {
    /// Sorts keys by the link that leads to them, into the scratch buffers.
    pub(super) fn sort_by_link(
        &mut self,
        cluster: &Cluster,
        tables: &Tables,
        table: TableIndex,
        keys: &[u64],
        replica: Replica,
    ) {
        for link in &mut self.by_link {
            link.keys.clear();
            link.positions.clear();
        }
        let layout = tables[table].layout;
        for (position, key) in (0_u32..).zip(keys) {
            let link = cluster.routes(replica).link_of(layout.partition_of(*key));
            let sorted = &mut self.by_link[link];
            sorted.keys.push(*key);
            sorted.positions.push(position);
        }
    }
}

impl Session {
    /// The header of a message of a push.
    pub(super) fn push_header(
        &mut self,
        tables: &Tables,
        clocks: &Clocks,
        cluster: &Cluster,
        table: TableIndex,
        rows: PartRows<'_>,
        options: &PushOptions,
    ) -> RequestHeader {
        let mut header = self.header(tables, clocks, cluster, RequestKind::Push, table, options);
        match rows {
            PartRows::Range(range) => {
                header.rows = Rows::Range { first: range.start };
                header.row_count = count_of(range.count());
            }
            PartRows::Keys(keys) => header.row_count = count_of(keys.len() as u64),
        }
        header
    }

    /// A header for this table; rows and values are filled in by the caller.
    pub(super) fn header(
        &mut self,
        tables: &Tables,
        clocks: &Clocks,
        cluster: &Cluster,
        kind: RequestKind,
        table: TableIndex,
        options: &PushOptions,
    ) -> RequestHeader {
        self.sequence = self.sequence.next();
        let entry = &tables[table].entry;
        let clock = match entry.schema.aggregation {
            // Of the round that this worker is in.
            Aggregation::Rounds { .. } if kind.pushes() => WorkerClock(clocks.own.0 + 1),
            _ => options.clock.unwrap_or(clocks.own),
        };
        RequestHeader {
            kind,
            sync: options.sync,
            resumes: false,
            strong: false,
            dtype: entry.schema.dtype,
            table: entry.id,
            sequence: self.sequence,
            epoch: cluster.map.epoch,
            clock,
            rows: Rows::Keys,
            row_count: 0,
            width: entry.schema.width,
            coding: None,
            values: None,
            reply: None,
        }
    }
}

pub(super) fn count_of(rows: u64) -> u32 {
    u32::try_from(rows).unwrap_or_else(|_| unreachable!("parts are bounded"))
}

/// A length or offset within memory of this process.
#[expect(clippy::cast_possible_truncation, reason = "the transport asserts a 64-bit target")]
pub(super) const fn index(value: u64) -> usize {
    value as usize
}
