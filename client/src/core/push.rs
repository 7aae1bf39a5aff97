//! Pushes: split by link, sent inline when small, by reference when large.

use windlass_wire::RowRange;

use super::{
    Cluster, Core, PART_KEYS_MAX, PART_LEN_MAX, PART_NEW_KEYS_MAX, RequestId, Scratch, TableIndex,
    Tables, WRITTEN_PART_LEN_MAX,
    begin::begin,
    inline_push::push_short,
    message::{PartRows, Replica, Route, Source, index},
    push_part::{Part, send_part},
};
use crate::{config::PushOptions, error::RequestError};

/// Pushes a range of rows. The values are as long as the rows, which the caller has checked.
pub(crate) fn push_range(
    core: &mut Core,
    table: TableIndex,
    rows: RowRange,
    values: Source<'_>,
    options: &PushOptions,
) -> Result<RequestId, RequestError> {
    core.tables.check_range(table, rows)?;
    if let Some(request) = push_short(core, table, PartRows::Range(rows), values, options) {
        return Ok(request);
    }
    let request = begin(core, options.after, false)?;
    core.rounds.note_push(&core.tables, table, request);
    let sent = send_range(core, request, table, rows, values, options);
    end_push(core, request, values, sent)?;
    core.pending.count_push(rows.count() * core.tables[table].row_len);
    Ok(request)
}

fn send_range(
    core: &mut Core,
    request: RequestId,
    table: TableIndex,
    rows: RowRange,
    values: Source<'_>,
    options: &PushOptions,
) -> Result<(), RequestError> {
    let row_len = core.tables[table].row_len;
    let layout = core.tables[table].layout;
    let mut first = rows.start;
    while first < rows.end {
        if first > rows.start {
            go_on_sending(core, request)?;
        }
        let (link, mut part) =
            core.cluster.rows_at_one_link(Replica::Head, &layout, first, rows.end);
        let route = core.cluster.route(link);
        let rows_max = (part_len_max(core, table, link) / row_len).max(1);
        part.end = part.end.min(part.start + rows_max);
        let from = (first - rows.start) * row_len;
        let rows = PartRows::Range(part);
        send_part(core, &Part { route, table, rows, source: values, from, request, options })?;
        first = part.end;
    }
    Ok(())
}

/// Pushes rows by key. The values are as long as the rows, which the caller has checked. `None` when the keys
/// are not sorted; nothing is sent then.
pub(crate) fn push_keys(
    core: &mut Core,
    table: TableIndex,
    keys: &[u64],
    values: Source<'_>,
    options: &PushOptions,
) -> Result<Option<RequestId>, RequestError> {
    if let Some(range) = core.tables.as_range(table, keys) {
        return push_range(core, table, range, values, options).map(Some);
    }
    if !core.tables.check_keys(table, keys)? {
        return Ok(None);
    }
    if let Some(request) = push_short(core, table, PartRows::Keys(keys), values, options) {
        return Ok(Some(request));
    }
    let request = begin(core, options.after, false)?;
    core.rounds.note_push(&core.tables, table, request);
    let sent = send_keys(core, request, table, keys, values, options);
    end_push(core, request, values, sent)?;
    core.pending.count_push(keys.len() as u64 * core.tables[table].row_len);
    Ok(Some(request))
}

fn send_keys(
    core: &mut Core,
    request: RequestId,
    table: TableIndex,
    keys: &[u64],
    values: Source<'_>,
    options: &PushOptions,
) -> Result<(), RequestError> {
    let row_len = core.tables[table].row_len;
    if let Some(link) = core.cluster.heads.sole {
        let route = core.cluster.route(link);
        let rows_max = keyed_rows_max(core, table, link);
        for (at, part) in keys.chunks(rows_max).enumerate() {
            if at > 0 {
                go_on_sending(core, request)?;
            }
            let from = (at * rows_max) as u64 * row_len;
            let rows = PartRows::Keys(part);
            send_part(core, &Part { route, table, rows, source: values, from, request, options })?;
        }
    } else {
        core.scratch.sort_by_link(&core.cluster, &core.tables, table, keys, Replica::Head);
        let generation = core.cluster.generation;
        for link in 0..core.scratch.by_link.len() {
            let route = Route { link, generation };
            if core.scratch.by_link[link].keys.is_empty() {
                continue;
            }
            let sorted = std::mem::take(&mut core.scratch.by_link[link]);
            let rows_max = keyed_rows_max(core, table, link);
            let parts = sorted.keys.chunks(rows_max).zip(sorted.positions.chunks(rows_max));
            for (at, (keys, positions)) in parts.enumerate() {
                if at > 0 {
                    go_on_sending(core, request)?;
                }
                push_gathered(core, route, table, keys, positions, values, request, options)?;
            }
            core.scratch.by_link[link] = sorted;
        }
    }
    Ok(())
}

/// Ends the sending of a push. If it failed, the caller gets no request, but servers may still read the
/// values of the parts that were sent.
fn end_push(
    core: &mut Core,
    request: RequestId,
    values: Source<'_>,
    sent: Result<(), RequestError>,
) -> Result<(), RequestError> {
    core.pending.end_sending(request);
    if let (Err(_), Source::Registered { region, .. }) = (&sent, values) {
        core.pending.keep_until_done(request, region);
    }
    sent.map_err(|error| match error {
        RequestError::Timeout { timeout } => RequestError::SendTimeout { timeout },
        error => error,
    })
}

/// Whether there is time for one more part of a push.
fn go_on_sending(core: &mut Core, request: RequestId) -> Result<(), RequestError> {
    if core.pending.time_left(&core.session, request).is_zero() {
        return Err(RequestError::Timeout { timeout: core.session.options.timeout });
    }
    core.session.watching.ask()
}

/// Sends rows that do not lie beside each other in the request.
#[expect(clippy::too_many_arguments, reason = "one call site; a struct would say the same")]
fn push_gathered(
    core: &mut Core,
    route: Route,
    table: TableIndex,
    keys: &[u64],
    positions: &[u32],
    values: Source<'_>,
    request: RequestId,
    options: &PushOptions,
) -> Result<(), RequestError> {
    let row_len = core.tables[table].row_len;
    let mut gathered = std::mem::take(&mut core.scratch.values);
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
                core.pending.memory.pages(region).read(offset + from, &mut gathered[at..]);
            }
        }
    }
    let (rows, source) = (PartRows::Keys(keys), Source::Plain(&gathered));
    let sent = send_part(core, &Part { route, table, rows, source, from: 0, request, options });
    core.scratch.values = gathered;
    sent
}

/// Most bytes of values in one message by a link.
fn part_len_max(core: &mut Core, table: TableIndex, link: usize) -> u64 {
    // Only its shard can say.
    core.links.prepare_link(&mut core.cluster, &mut core.session, &core.recovery, link);
    // What can be written is written; a single row may still be too long for it.
    let is_written = core.tables.inline_len_max(&core.links, table, link) == WRITTEN_PART_LEN_MAX;
    if is_written { WRITTEN_PART_LEN_MAX } else { PART_LEN_MAX }
}

/// Most rows in one message by a link that names keys.
fn keyed_rows_max(core: &mut Core, table: TableIndex, link: usize) -> usize {
    let rows = part_len_max(core, table, link) / core.tables[table].row_len;
    let is_dense = core.tables[table].dense_rows().is_some();
    let most = if is_dense { PART_KEYS_MAX } else { PART_NEW_KEYS_MAX };
    usize::try_from(rows).unwrap_or(most).clamp(1, most)
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
