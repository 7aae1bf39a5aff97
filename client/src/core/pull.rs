//! Pulls: dense ranges by one-sided reads, keys gathered by the servers into the staging area.

use windlass_transport::chunks::Chunk;
use windlass_wire::{
    FilterStack, RequestHeader, RequestKind, RowRange, Rows, WorkerClock, filter::BodyEncoder,
    request::Coding,
};

use super::{
    Core, PART_KEYS_MAX, RequestId, TableIndex,
    begin::begin,
    blocking_pull::read_until_done,
    clock::{is_counted_in, may_pull},
    filters::is_coded,
    locate::view,
    message::{Message, Replica, Route, Values, count_of, index},
    read::start_reads,
    requests::{Reading, Reply},
    send::send,
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
    /// The clock of the pull.
    clock: WorkerClock,
    filters: FilterStack,
}

/// Starts to pull a range of rows of a dense table.
pub(crate) fn pull_range(
    core: &mut Core,
    table: TableIndex,
    rows: RowRange,
    options: &PullOptions,
) -> Result<RequestId, RequestError> {
    core.tables.check_range(table, rows)?;
    let (relaxed, clock) =
        (options.relaxed, core.clocks.pull_clock(&core.session, &core.tables, table));
    let replica = core.cluster.replica_of(options.from);
    let mut reading = Reading { replica, relaxed, clock, gains: 0 };
    if reading.replica == Replica::Strong {
        return pull_served_range(core, table, rows, options);
    }
    // Rows whose server is gone are looked for when they are claimed.
    let viewed = view(core, table, reading.replica, rows);
    if let Err(error) = &viewed
        && !core.session.is_passing(error)
    {
        return viewed.map(|_| 0);
    }
    let len = rows.count() * core.tables[table].row_len;
    let request = begin_pull(core, options, len)?;
    let lazy = viewed.unwrap_or(true)
        || len > STAGED_LEN_MAX
        || !may_pull(core, table, rows, &mut reading);
    let (reply, started) = if lazy {
        (Reply::Lazy { rows, reading }, Ok(()))
    } else {
        let started = start_reads(core, request, table, rows, reading);
        let passing = started.as_ref().is_err_and(|error| core.session.is_passing(error));
        if let (Some(slot), true) = (core.pending.requests.find_mut(request), passing) {
            slot.reads_again = true;
        }
        let started = if passing { Ok(()) } else { started };
        (Reply::Blocks { rows, reading }, started)
    };
    if let Some(slot) = core.pending.requests.find_mut(request) {
        slot.reply = reply;
    }
    core.pending.end_sending(request);
    core.pending.or_forget(request, started)
}

/// Starts to pull a range of rows that its servers write into the staging area.
fn pull_served_range(
    core: &mut Core,
    table: TableIndex,
    rows: RowRange,
    options: &PullOptions,
) -> Result<RequestId, RequestError> {
    let (request, chunk) =
        begin_gathering(core, options, rows.count() * core.tables[table].row_len)?;
    let (replica, clock) = (
        core.cluster.replica_of(options.from),
        core.clocks.pull_clock(&core.session, &core.tables, table),
    );
    let filters = FilterStack::default();
    gather_range(core, table, rows, Gathering { chunk, row: 0, request, replica, clock, filters })
}

/// Has the servers of a range of rows write them into the staging area.
fn gather_range(
    core: &mut Core,
    table: TableIndex,
    rows: RowRange,
    to: Gathering,
) -> Result<RequestId, RequestError> {
    let Gathering { chunk, request, replica, .. } = to;
    let row_count = count_of(rows.count());
    if let Some(slot) = core.pending.requests.find_mut(request) {
        slot.reply = Reply::Staged { chunk, row_count, positions: Vec::new() };
    }
    let (layout, row_len) = (core.tables[table].layout, core.tables[table].row_len);
    let rows_max = (GATHER_LEN_MAX / row_len).max(1);
    let (mut first, mut started) = (rows.start, Ok(()));
    while first < rows.end && started.is_ok() {
        let (link, part) = core.cluster.rows_at_one_link(replica, &layout, first, rows.end);
        let end = part.end.min(first + rows_max);
        let to = Gathering { row: first - rows.start, ..to };
        let asked = Asked::Range(RowRange::new(first, end));
        started = gather(core, core.cluster.route(link), table, asked, to);
        first = end;
    }
    core.pending.end_sending(request);
    core.pending.or_forget(request, started)
}

/// Starts to pull rows by key. `None` when the keys are not sorted.
pub(crate) fn pull_keys(
    core: &mut Core,
    table: TableIndex,
    keys: &[u64],
    options: &PullOptions,
) -> Result<Option<RequestId>, RequestError> {
    match core.tables.check_keys(table, keys)? {
        true => gather_all_keys(core, table, keys, options).map(Some),
        false => Ok(None),
    }
}

/// Has servers gather rows by keys that were checked.
pub(super) fn gather_all_keys(
    core: &mut Core,
    table: TableIndex,
    keys: &[u64],
    options: &PullOptions,
) -> Result<RequestId, RequestError> {
    let len = keys.len() as u64 * core.tables[table].row_len;
    let (request, chunk) = begin_gathering(core, options, len)?;
    let replica = core.cluster.replica_of(options.from);
    let sole = core.cluster.routes(replica).sole;
    let mut positions = core.pending.requests.take_positions();
    if sole.is_none() {
        core.scratch.sort_by_link(&core.cluster, &core.tables, table, keys, replica);
        for sorted in &core.scratch.by_link {
            positions.extend_from_slice(&sorted.positions);
        }
    }
    if let Some(slot) = core.pending.requests.find_mut(request) {
        slot.reply = Reply::Staged { chunk, row_count: count_of(keys.len() as u64), positions };
    }
    let generation = core.cluster.generation;
    let clock = core.clocks.pull_clock(&core.session, &core.tables, table);
    let filters = options.filters;
    let mut to = Gathering { chunk, row: 0, request, replica, clock, filters };
    let mut started = Ok(());
    if let Some(link) = sole {
        started = gather_keys(core, Route { link, generation }, table, keys, to);
    } else {
        for link in 0..core.scratch.by_link.len() {
            let sorted = std::mem::take(&mut core.scratch.by_link[link]);
            let route = Route { link, generation };
            started = started.and_then(|()| gather_keys(core, route, table, &sorted.keys, to));
            to.row += sorted.keys.len() as u64;
            core.scratch.by_link[link] = sorted;
        }
    }
    core.pending.end_sending(request);
    core.pending.or_forget(request, started)
}

fn begin_pull(core: &mut Core, options: &PullOptions, len: u64) -> Result<RequestId, RequestError> {
    let request = begin(core, options.after, true)?;
    core.pending.count_pull(len);
    Ok(request)
}

/// Starts a pull whose rows servers write into a piece of the staging area.
fn begin_gathering(
    core: &mut Core,
    options: &PullOptions,
    len: u64,
) -> Result<(RequestId, Chunk), RequestError> {
    let request = begin_pull(core, options, len)?;
    allocate_for(core, request, len).map(|chunk| (request, chunk))
}

/// Memory for what a request brings, without which the request is none.
pub(super) fn allocate_for(
    core: &mut Core,
    request: RequestId,
    len: u64,
) -> Result<Chunk, RequestError> {
    core.allocate_chunk(len).inspect_err(|_| {
        core.pending.end_sending(request);
        core.pending.forget(request);
    })
}

/// Waits for a pull and copies its rows into `into`, which is as long as they are. Reads whose
/// server is gone are made again at whoever has the rows now.
pub(crate) fn claim(
    core: &mut Core,
    table: TableIndex,
    id: RequestId,
    into: &mut [u8],
) -> Result<(), RequestError> {
    let read = core.pending.requests.find(id).and_then(|request| match request.reply {
        Reply::Blocks { rows, reading } => Some((rows, reading)),
        _ => None,
    });
    match claim_once(core, table, id, into)? {
        Claimed::Done => match read {
            Some((rows, reading)) if !is_counted_in(core, table, rows, reading)? => {
                read_until_done(core, table, rows, reading, into)
            }
            _ => Ok(()),
        },
        Claimed::Again { rows, reading } => read_until_done(core, table, rows, reading, into),
        Claimed::Contended { rows, reading } => pull_contended(core, table, rows, reading, into),
    }
}

/// Has rows that are always being pushed to sent by their servers, piece by piece.
pub(super) fn pull_contended(
    core: &mut Core,
    table: TableIndex,
    rows: RowRange,
    reading: Reading,
    into: &mut [u8],
) -> Result<(), RequestError> {
    core.pending.counters.pulls_served += 1;
    let row_len = core.tables[table].row_len;
    let piece_rows = (GATHER_LEN_MAX / row_len).max(1);
    let mut first = rows.start;
    while first < rows.end {
        let part = RowRange::new(first, rows.end.min(first + piece_rows));
        let request = begin(core, None, true)?;
        let chunk = allocate_for(core, request, part.count() * row_len)?;
        let Reading { replica, clock, .. } = reading;
        let filters = FilterStack::default();
        let to = Gathering { chunk, row: 0, request, replica, clock, filters };
        let id = gather_range(core, table, part, to)?;
        let from = index((first - rows.start) * row_len);
        let out = &mut into[from..from + index(part.count() * row_len)];
        // What servers send is never to be read again.
        claim_once(core, table, id, out)?;
        first = part.end;
    }
    Ok(())
}

/// As [`claim`], without reading again.
pub(super) fn claim_once(
    core: &mut Core,
    table: TableIndex,
    id: RequestId,
    into: &mut [u8],
) -> Result<Claimed, RequestError> {
    copy_while_waiting(core, table, id, into).inspect_err(|_| core.pending.forget(id))?;
    core.wait_for(id).inspect_err(|_| core.pending.forget(id))?;
    let Some(request) = core.pending.requests.find_mut(id) else { return Ok(Claimed::Done) };
    let again = std::mem::take(&mut request.reads_again);
    let asks = std::mem::take(&mut request.asks_servers);
    let reply = std::mem::take(&mut request.reply);
    request.claimable = false;
    let row_len = core.tables[table].row_len;
    match &reply {
        Reply::None => {}
        Reply::Staged { chunk, positions, .. } if positions.is_empty() => {
            core.pending.memory.staging_pages().read(chunk.offset, into);
        }
        Reply::Staged { chunk, positions, .. } => {
            let pages = core.pending.memory.staging_pages();
            for (row, position) in (0_u64..).zip(positions) {
                let to = index(u64::from(*position) * row_len);
                pages.read(chunk.offset + row * row_len, &mut into[to..][..index(row_len)]);
            }
        }
        Reply::Blocks { rows, reading } => {
            let (rows, reading) = (*rows, *reading);
            if again {
                core.pending.drop_reply(id, reply);
                return Ok(Claimed::Again { rows, reading });
            }
            if asks {
                core.pending.drop_reply(id, reply);
                return Ok(Claimed::Contended { rows, reading });
            }
            core.pending.copy_done(&core.tables, id, table, rows, into);
        }
        Reply::Lazy { rows, reading } => {
            return Ok(Claimed::Again { rows: *rows, reading: *reading });
        }
    }
    core.pending.drop_reply(id, reply);
    Ok(Claimed::Done)
}

/// Copies the blocks of a pull as they come, while they are in the caches and more are on their
/// way.
fn copy_while_waiting(
    core: &mut Core,
    table: TableIndex,
    id: RequestId,
    into: &mut [u8],
) -> Result<(), RequestError> {
    let (mut patience, mut parts_left) = (None, u32::MAX);
    while let Some(request) = core.pending.requests.find(id)
        && let Reply::Blocks { rows, .. } = request.reply
        && !request.is_done()
    {
        let is_fewer = request.parts_left < parts_left;
        parts_left = request.parts_left;
        if is_fewer {
            core.pending.copy_done(&core.tables, id, table, rows, into);
        } else {
            core.wait_a_little(&mut patience)?;
        }
    }
    Ok(())
}

/// Asks a link's server for rows by key, in messages of bounded size.
fn gather_keys(
    core: &mut Core,
    route: Route,
    table: TableIndex,
    keys: &[u64],
    mut to: Gathering,
) -> Result<(), RequestError> {
    let row_len = core.tables[table].row_len;
    let rows_max = usize::try_from(GATHER_LEN_MAX / row_len).unwrap_or(1).clamp(1, PART_KEYS_MAX);
    for part in keys.chunks(rows_max) {
        gather(core, route, table, Asked::Keys(part), to)?;
        to.row += part.len() as u64;
    }
    Ok(())
}

/// Asks a link's server to write rows into the staging area.
fn gather(
    core: &mut Core,
    route: Route,
    table: TableIndex,
    asked: Asked<'_>,
    to: Gathering,
) -> Result<(), RequestError> {
    let row_len = core.tables[table].row_len;
    let staging = core.pending.memory.staging_region()?;
    let options = PushOptions { clock: Some(to.clock), ..PushOptions::default() };
    let mut header = core.session.header(
        &core.tables,
        &core.clocks,
        &core.cluster,
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
        return send(core, route, &Message { request, header, list, keys, values, reply });
    }
    let mut encoder = std::mem::take(&mut core.scratch.encoder);
    filter_pull(core, &mut header, route.link, list, &to.filters, &mut encoder);
    let keys = match header.coding {
        Some(_) => encoder.keys(),
        None => bytemuck::cast_slice(list),
    };
    let sent = send(core, route, &Message { request, header, list, keys, values, reply });
    core.scratch.encoder = encoder;
    sent
}

/// Has the keys and the answer of a pull by key go through filters, where they are smaller then: the keys are
/// then those of `encoder`.
pub(super) fn filter_pull(
    core: &mut Core,
    header: &mut RequestHeader,
    link: usize,
    keys: &[u64],
    stack: &FilterStack,
    encoder: &mut BodyEncoder,
) {
    // Only its shard can say what it keeps.
    core.links.prepare_link(&mut core.cluster, &mut core.session, &core.recovery, link);
    let len = index(header.values_len());
    let mut used = FilterStack::default();
    if stack.values.encoded_len(len) < len {
        used.values = stack.values;
    }
    let keys =
        core.links.encode_keys(&mut core.pending.counters, encoder, link, keys, stack, &mut used);
    if is_coded(&used, keys) {
        header.coding = Some(Coding { filters: used, keys, values_len: 0 });
    }
}
