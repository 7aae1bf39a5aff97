//! One step of a scan: asks a partition's current server for the next rows.

use windlass_transport::chunks::Chunk;
use windlass_wire::{
    PartitionId, RequestKind, Rows, ScanColumns,
    scan::{HEAD_LEN, ScanHead, answer_len},
};

use super::{
    Core, RequestId, TableIndex,
    begin::begin,
    message::{Message, Values, index},
    pull::allocate_for,
    requests::Reply,
    send::send,
};
use crate::{
    config::{PullFrom, PushOptions},
    error::RequestError,
};

/// Bytes that a step brings, unless one row is longer.
const STEP_LEN: u64 = 512 << 10;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) partition: PartitionId,
    pub(crate) position: u64,
    pub(crate) columns: ScanColumns,
    /// As many rows as suit the client when it is zero.
    pub(crate) rows_max: u32,
    pub(crate) from: PullFrom,
}

/// Brings the next rows: the head of the answer, and its columns appended to `into`.
pub(crate) fn step(
    core: &mut Core,
    table: TableIndex,
    step: &Step,
    into: &mut Vec<u8>,
) -> Result<ScanHead, RequestError> {
    if core.tables[table].rows_lost {
        return Err(RequestError::RowsLost);
    }
    let row_words = step.columns.row_words(&core.tables[table].entry.schema);
    let row_words = u32::try_from(row_words).unwrap_or(u32::MAX);
    let fitting = (STEP_LEN / (u64::from(row_words) * 8)).max(1);
    let row_count = u32::try_from(fitting).unwrap_or(u32::MAX);
    let row_count = if step.rows_max == 0 { row_count } else { row_count.min(step.rows_max) };
    let request = begin(core, None, true)?;
    let chunk = allocate_for(core, request, answer_len(row_count, row_words))?;
    if let Some(slot) = core.pending.requests.find_mut(request) {
        slot.reply = Reply::Staged { chunk, row_count, positions: Vec::new() };
    }
    let sent = ask(core, table, step, row_count, row_words, request, chunk);
    core.pending.end_sending(request);
    core.pending.or_forget(request, sent)?;
    core.wait_for(request).inspect_err(|_| core.pending.forget(request))?;
    let pages = core.pending.memory.staging_pages();
    let mut head = [0; HEAD_LEN];
    pages.read(chunk.offset, &mut head);
    let head = ScanHead::decode(head, row_count);
    if let Some(head) = head {
        let len = index(answer_len(head.row_count, row_words)) - HEAD_LEN;
        let at = into.len();
        into.resize(at + len, 0);
        pages.read(chunk.offset + HEAD_LEN as u64, &mut into[at..]);
        core.pending.count_pull(len as u64);
    }
    core.pending.forget(request);
    head.ok_or(RequestError::BadScan)
}

fn ask(
    core: &mut Core,
    table: TableIndex,
    step: &Step,
    row_count: u32,
    row_words: u32,
    request: RequestId,
    chunk: Chunk,
) -> Result<(), RequestError> {
    let replica = core.cluster.replica_of(step.from);
    let staging = core.pending.memory.staging_region()?;
    let mut header = core.session.header(
        &core.tables,
        &core.clocks,
        &core.cluster,
        RequestKind::Scan,
        table,
        &PushOptions::default(),
    );
    header.strong = replica == super::message::Replica::Strong;
    header.rows =
        Rows::Partition { partition: step.partition, from: step.position, columns: step.columns };
    (header.row_count, header.width) = (row_count, row_words);
    let route = core.cluster.route(core.cluster.routes(replica).link_of(step.partition));
    let reply = Some((staging, chunk.offset));
    send(
        core,
        route,
        &Message { request, header, list: &[], keys: &[], values: Values::None, reply },
    )
}
