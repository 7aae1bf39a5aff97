//! Sets rows to given values, a piece of one partition at a time, through the partition's current head.

use std::time::Instant;

use windlass_wire::{
    Blob, Layout, PartitionId, TableEntry,
    control::{ClientReply, ClientRequest, RefusalKind},
};

use super::{Core, catalogue::ask_server, servers::is_passing};
use crate::error::{RequestError, TableError};

/// Most bytes of rows in one message that sets them.
const SET_LEN_MAX: usize = 512 << 10;

/// Sets consecutive rows of a dense table.
pub(crate) fn set_rows(
    core: &mut Core,
    table: &TableEntry,
    first: u64,
    values: &[u8],
) -> Result<(), TableError> {
    let row_len = len_of(table.schema.row_len())?;
    let layout = Layout::new(table.id, table.schema.kind, core.cluster.map.partition_count());
    let (mut first, mut rest) = (first, values);
    while !rest.is_empty() {
        let partition = layout.partition_of(first);
        let held = layout.rows_of(partition);
        let fitting = (SET_LEN_MAX / row_len) as u64;
        let count = held.end.saturating_sub(first).min(fitting);
        let length = usize::try_from(count).unwrap_or(0) * row_len;
        let Some((piece, after)) = rest
            .split_at_checked(length.min(rest.len()))
            .filter(|(piece, _)| !piece.is_empty() && piece.len().is_multiple_of(row_len))
        else {
            return Err(refused(format!("row {first} is not in table {:?}", table.name)));
        };
        let values = Blob(piece.to_vec());
        let request = ClientRequest::SetRows { table: table.id, partition, first, values };
        set(core, partition, &request)?;
        first += (piece.len() / row_len) as u64;
        rest = after;
    }
    Ok(())
}

/// Sets rows of a sparse table: values, and state if there is any, of each key.
pub(crate) fn set_keys(
    core: &mut Core,
    table: &TableEntry,
    keys: &[u64],
    values: &[u8],
    state: Option<&[u8]>,
) -> Result<(), TableError> {
    let schema = &table.schema;
    let values_len = len_of(schema.row_len())?;
    let state_len = state.map_or(Ok(0), |_| len_of(schema.state_len()))?;
    let row_len = len_of((8 + values_len + state_len) as u64)?;
    let (wanted, given) = (keys.len() * values_len, values.len());
    if wanted != given {
        let count = keys.len();
        return Err(refused(format!("{given} bytes of values for {count} keys: {wanted} are")));
    }
    let state = state.unwrap_or_default();
    if keys.len() * state_len != state.len() {
        let (wanted, given) = (keys.len() * state_len, state.len());
        return Err(refused(format!(
            "{given} bytes of state where a table of rule {} has {wanted}",
            schema.rule
        )));
    }
    let layout = Layout::new(table.id, schema.kind, core.cluster.map.partition_count());
    let mut order: Vec<(PartitionId, usize)> =
        keys.iter().enumerate().map(|(at, key)| (layout.partition_of(*key), at)).collect();
    // Of a key that comes twice the last row stays.
    order.sort_unstable();
    for of_one in order.chunk_by(|one, next| one.0 == next.0) {
        for piece in of_one.chunks(SET_LEN_MAX / row_len) {
            let mut rows = Vec::with_capacity(piece.len() * row_len);
            for (_, at) in piece {
                rows.extend_from_slice(&keys[*at].to_le_bytes());
                rows.extend_from_slice(&values[at * values_len..][..values_len]);
                rows.extend_from_slice(&state[at * state_len..][..state_len]);
            }
            let (partition, with_state, rows) = (piece[0].0, state_len > 0, Blob(rows));
            let table = table.id;
            let request = ClientRequest::SetKeys { table, partition, with_state, rows };
            set(core, partition, &request)?;
        }
    }
    Ok(())
}

fn set(core: &mut Core, partition: PartitionId, request: &ClientRequest) -> Result<(), TableError> {
    match ask_leader(core, partition, request)? {
        ClientReply::Done {} => Ok(()),
        _ => Err(TableError::Unexpected),
    }
}

/// Asks whoever leads a partition, and whoever does next, as long as requests are retried: rows that are set,
/// or removed, twice are as if they had been so once.
pub(super) fn ask_leader(
    core: &mut Core,
    partition: PartitionId,
    request: &ClientRequest,
) -> Result<ClientReply, TableError> {
    let since = Instant::now();
    loop {
        let chain = core.cluster.map.chains.get(partition.0 as usize);
        let server = chain.and_then(|chain| chain.servers.first().copied());
        let server = server.ok_or(TableError::Unexpected)?;
        let failed = match ask_server(core, server, request) {
            Ok(reply) => return Ok(reply),
            Err(error) => error,
        };
        let is_over = match &failed {
            TableError::Refused { kind, .. } => !is_passing(*kind),
            TableError::Interrupted => true,
            _ => false,
        };
        if is_over || since.elapsed() >= core.session.options.retry_for {
            return Err(failed);
        }
        core.recovery.start_trouble();
        if let Err(RequestError::Interrupted) = core.wait_a_little(&mut None) {
            return Err(TableError::Interrupted);
        }
    }
}

pub(super) fn refused(text: String) -> TableError {
    TableError::Refused { kind: RefusalKind::Invalid {}, text }
}

/// The length of rows, if they are short enough to be set.
fn len_of(row_len: u64) -> Result<usize, TableError> {
    let len = usize::try_from(row_len).ok().filter(|len| *len <= SET_LEN_MAX);
    len.ok_or_else(|| refused(format!("rows of {row_len} bytes are set by pushes only")))
}
