//! Pulls by one-sided reads over a network: blocks are read as they lie, validated by the versions
//! at both their ends, and read again if they changed meanwhile. Rows of a single value need no
//! versions: a value is written and read whole, so only their bytes are read.

mod short;

use std::time::{Duration, Instant};

use windlass_transport::{Operation, Pages, QueuePairId, RemoteAddress, WorkId, chunks::Chunk};
use windlass_wire::{PartitionId, RowRange};

use super::{
    Core, RequestId, TableIndex,
    push::index,
    requests::{Failure, Reading},
    tables::Place,
    view::{FENCED, HEAD_VERSION_AT, ROWS_AT},
};
use crate::error::RequestError;

/// Bytes of one read.
const READ_LEN_MAX: u64 = 256 << 10;

/// How long after its versions were looked at a block's memory counts as current. Whoever takes
/// rows over from a server waits for longer before it serves them.
const CURRENT_FOR: Duration = Duration::from_millis(5);

/// Blocks of one partition, being read.
#[derive(Clone, Copy, Debug)]
struct Read {
    request: RequestId,
    table: TableIndex,
    partition: PartitionId,
    place: Place,
    link: usize,
    /// The link may have another one by the time it completes.
    queue_pair: QueuePairId,
    /// First block and how many.
    block: u64,
    block_count: u64,
    /// Where they go: all from the head version of the first to the tail version of the last, or
    /// `len` bytes from `skipped` on.
    chunk: Chunk,
    skipped: u64,
    len: u64,
    relaxed: bool,
    phase: Phase,
}

/// What a read is doing. Devices that read in ascending order validate a read by itself; others
/// need versions from before and after, each ordered by a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Reading rows of a single value each, without versions.
    Values,
    /// Reading the blocks; the versions in them decide.
    Whole,
    /// Reading them for their versions only.
    Before,
    /// Reading them for their rows.
    Rows,
    /// Reading them again for their versions.
    After,
    Done,
}

/// Reads under way or staged.
#[derive(Debug, Default)]
pub(super) struct Reads {
    reads: Vec<Option<Read>>,
    /// Second buffer of a read whose device does not read in order.
    shadows: Vec<Option<Chunk>>,
}

impl Read {
    /// Where the bytes come from.
    #[inline]
    fn remote(&self) -> RemoteAddress {
        let line = self.place.line(self.block);
        let address = line.address.wrapping_add(HEAD_VERSION_AT + self.skipped);
        RemoteAddress { address, ..line }
    }
}

impl Reads {
    /// A place for one more read.
    #[inline]
    fn vacant(&mut self) -> usize {
        self.reads.iter().position(Option::is_none).unwrap_or_else(|| {
            self.reads.push(None);
            self.shadows.push(None);
            self.reads.len() - 1
        })
    }
}

impl Core {
    /// Starts to read the blocks of a range into the staging area.
    pub(super) fn start_reads(
        &mut self,
        request: RequestId,
        table: TableIndex,
        rows: RowRange,
        reading: Reading,
    ) -> Result<(), RequestError> {
        let row_len = self.tables[table.0].row_len;
        let mut first = rows.start;
        while first < rows.end {
            let state = &self.tables[table.0];
            let partition = state.layout.partition_of(first);
            let end = rows.end.min(state.layout.rows_of(partition).end);
            let Some(place) = state.places.find(reading.replica, partition.0 as usize).copied()
            else {
                return Err(self.unavailable(partition));
            };
            let block_rows = u64::from(place.at.block_rows);
            let stride = u64::from(place.at.block_stride);
            let (from, to) = (first - place.at.first_row, end - place.at.first_row);
            let mut block = from / block_rows;
            let last = (to - 1) / block_rows;
            let by_value = self.reads_by_value(table, &place);
            while block <= last {
                let block_count = (last + 1 - block).min((READ_LEN_MAX / stride).max(1));
                let len = span_len(&place, block_count);
                let mut span =
                    Span { table, partition, block, block_count, skipped: 0, len, by_value };
                if by_value {
                    span.trim(&place, from, to, row_len);
                }
                self.start_read(request, place, span, reading.relaxed)?;
                block += block_count;
            }
            first = end;
        }
        Ok(())
    }

    fn start_read(
        &mut self,
        request: RequestId,
        place: Place,
        span: Span,
        relaxed: bool,
    ) -> Result<(), RequestError> {
        let Span { block, block_count, skipped, len, by_value, .. } = span;
        let link = place.link;
        if self.links[link].failed {
            return Err(RequestError::ServerGone { server: self.links[link].server });
        }
        let chunk = self.allocate_chunk(len)?;
        let (shadow, phase) = if by_value {
            (None, Phase::Values)
        } else if relaxed || self.links[link].reads_in_order {
            (None, Phase::Whole)
        } else {
            (Some(self.allocate_chunk(len)?), Phase::Before)
        };
        let read = Read {
            request,
            table: span.table,
            partition: span.partition,
            place,
            link,
            queue_pair: self.links[link].queue_pair,
            block,
            block_count,
            chunk,
            skipped,
            len,
            relaxed,
            phase,
        };
        let at = self.reads.vacant();
        self.reads.reads[at] = Some(read);
        self.reads.shadows[at] = shadow;
        if let Some(request) = self.requests.find_mut(request) {
            request.parts_left += 1;
        }
        let mut patience = None;
        while !self.post_read(at) {
            self.wait_a_little(&mut patience)?;
        }
        Ok(())
    }

    /// Posts a read, if the send queue has room. True also when the read is over already.
    fn post_read(&mut self, at: usize) -> bool {
        let Some(read) = self.reads.reads[at] else { return true };
        if read.phase == Phase::Done {
            return true;
        }
        let to = match read.phase {
            Phase::Before | Phase::After => self.reads.shadows[at].unwrap_or(read.chunk),
            Phase::Values | Phase::Whole | Phase::Rows | Phase::Done => read.chunk,
        };
        let transport = self.links[read.link].transport;
        let Some(local) = self.memory.staged(transport, to, read.len) else {
            let Ok(staging) = self.memory.staging() else { return true };
            // Only the first read of a transport comes here, and then again.
            return self.memory.registered(staging, transport, &mut self.transports).is_err()
                || self.post_read(at);
        };
        let link = &mut self.links[read.link];
        if link.failed || link.queue_pair != read.queue_pair {
            let server = link.server;
            self.finish_read(at, Some(Failure::Gone { server }));
            return true;
        }
        if link.sender.room() < 2 {
            return false;
        }
        let (local, remote) = (local.into(), read.remote());
        link.sender.push_signaled(WorkId(at as u64 + 1), Operation::Read { local, remote });
        self.flush(read.link);
        true
    }

    /// A read has completed.
    pub(super) fn end_read(&mut self, queue_pair: QueuePairId, work_id: WorkId, succeeded: bool) {
        let at = index(work_id.0 - 1);
        let Some(mut read) = self.reads.reads.get(at).copied().flatten() else { return };
        if read.phase == Phase::Done || read.queue_pair != queue_pair {
            return;
        }
        if !succeeded {
            let server = self.links[read.link].server;
            return self.finish_read(at, Some(Failure::Gone { server }));
        }
        read.phase = match read.phase {
            Phase::Values => Phase::Done,
            Phase::Whole if read.relaxed && !self.is_fenced(&read) => Phase::Done,
            Phase::Whole if !read.relaxed && self.is_whole(&read) => Phase::Done,
            Phase::Before => Phase::Rows,
            Phase::Rows => {
                // The versions from before move over the rows' own, to be compared with those
                // from after.
                self.keep_versions(at, &read);
                Phase::After
            }
            Phase::After if self.agrees(at, &read) => Phase::Done,
            Phase::After => Phase::Before,
            Phase::Whole | Phase::Done => Phase::Whole,
        };
        if read.phase == Phase::Done {
            if read.skipped == 0 {
                self.saw_current(&read);
            }
            return self.finish_read(at, None);
        }
        if matches!(read.phase, Phase::Whole | Phase::Before) {
            self.counters.reads_retried += 1;
            if self.is_fenced(&read) {
                let server = self.links[read.link].server;
                return self.finish_read(at, Some(Failure::NotCurrent { server }));
            }
        }
        self.reads.reads[at] = Some(read);
        if !self.post_read(at) {
            // The send queue is full of this client's own requests: they fail only with the link.
            self.finish_read(at, Some(Failure::Gone { server: self.links[read.link].server }));
        }
    }

    fn finish_read(&mut self, at: usize, failure: Option<Failure>) {
        if let Some(shadow) = self.reads.shadows[at].take() {
            self.memory.release(shadow);
        }
        let Some(read) = &mut self.reads.reads[at] else { return };
        read.phase = Phase::Done;
        let (id, table) = (read.request, read.table);
        match failure {
            Some(Failure::Gone { .. } | Failure::NotCurrent { .. })
                if !self.options.retry_for.is_zero() =>
            {
                // Whoever claims the rows reads them again elsewhere.
                self.tables[table.0].places.clear();
                if let Some(request) = self.requests.find_mut(id) {
                    request.reads_again = true;
                }
                self.end_part(id, None);
                if let Some(Failure::Gone { .. }) = failure {
                    self.start_trouble();
                }
            }
            _ => self.end_part(id, failure),
        }
    }

    /// Whether rows of this place can be read without their versions: each is one value, nobody
    /// takes the place over by failover, and it was current a moment ago. Values are aligned and at
    /// most eight bytes, which every device reads whole.
    fn reads_by_value(&self, table: TableIndex, place: &Place) -> bool {
        let schema = &self.tables[table.0].entry.schema;
        schema.width == 1
            && !self.map.chained
            && place.current_at.is_some_and(|at| at.elapsed() < CURRENT_FOR)
    }

    /// Versions at a place were looked at and were not fenced.
    fn saw_current(&mut self, read: &Read) {
        let now = Instant::now();
        let (link, offset) = (read.link, read.place.at.offset);
        let Some(table) = self.tables.get_mut(read.table.0) else { return };
        let is_same = |place: &&mut Place| place.link == link && place.at.offset == offset;
        for place in table.places.of_partition(read.partition.0 as usize).filter(is_same) {
            place.current_at = Some(now);
        }
    }

    /// Whether every block of a read has equal, even versions at both ends.
    fn is_whole(&self, read: &Read) -> bool {
        let pages = self.memory.staging_pages();
        (0..read.block_count).all(|block| {
            let head = pages.load_u64(read.chunk.offset + head_at(&read.place, block));
            let tail = pages.load_u64(read.chunk.offset + tail_at(&read.place, block));
            head == tail && head & (FENCED | 1) == 0
        })
    }

    /// Writes the versions read before over those read with the rows.
    fn keep_versions(&self, at: usize, read: &Read) {
        let Some(shadow) = self.reads.shadows[at] else { return };
        let pages = self.memory.staging_pages();
        for block in 0..read.block_count {
            let head = head_at(&read.place, block);
            pages.store_u64(read.chunk.offset + head, pages.load_u64(shadow.offset + head));
        }
    }

    /// Whether the versions from before and after are equal and even.
    fn agrees(&self, at: usize, read: &Read) -> bool {
        let Some(shadow) = self.reads.shadows[at] else { return false };
        let pages = self.memory.staging_pages();
        (0..read.block_count).all(|block| {
            let head = head_at(&read.place, block);
            let before = pages.load_u64(read.chunk.offset + head);
            before == pages.load_u64(shadow.offset + head) && before & (FENCED | 1) == 0
        })
    }

    fn is_fenced(&self, read: &Read) -> bool {
        let pages = self.memory.staging_pages();
        (0..read.block_count).any(|block| {
            pages.load_u64(read.chunk.offset + head_at(&read.place, block)) & FENCED != 0
        })
    }

    /// Copies the rows of a request's finished reads into `into`, and gives their blocks back.
    pub(super) fn copy_done(
        &mut self,
        request: RequestId,
        table: TableIndex,
        rows: RowRange,
        into: &mut [u8],
    ) {
        let state = &self.tables[table.0];
        let (row_len, layout) = (state.row_len, state.layout);
        for slot in &mut self.reads.reads {
            let done = |read: &mut Read| read.request == request && read.phase == Phase::Done;
            let Some(read) = slot.take_if(done) else { continue };
            let part = layout.rows_of(read.partition);
            copy_read(&read, self.memory.staging_pages(), (part, rows), row_len, into);
            self.memory.release(read.chunk);
        }
    }

    /// Gives the staged blocks of a request back.
    pub(super) fn drop_reads(&mut self, request: RequestId) {
        for slot in &mut self.reads.reads {
            if let Some(read) = slot.take_if(|read| read.request == request) {
                self.memory.release(read.chunk);
            }
        }
    }

    /// Every read under way on a link fails.
    pub(super) fn fail_reads(&mut self, link: usize) {
        let server = self.links[link].server;
        for at in 0..self.reads.reads.len() {
            let lost = self.reads.reads[at]
                .is_some_and(|read| read.link == link && read.phase != Phase::Done);
            if lost {
                self.finish_read(at, Some(Failure::Gone { server }));
            }
        }
    }

    /// Places at a link are not known any more, nor is anything in view there.
    pub(super) fn forget_places(&mut self, link: usize) {
        self.forget_lines(link);
        for table in &mut self.tables {
            for place in table.places.iter_mut() {
                place.take_if(|place| place.link == link);
            }
        }
    }
}

/// Bytes of neighbouring blocks.
#[derive(Clone, Copy, Debug)]
struct Span {
    table: TableIndex,
    partition: PartitionId,
    block: u64,
    block_count: u64,
    /// Bytes behind the first block's head version that are left out, and how many are not.
    skipped: u64,
    len: u64,
    /// Whether only rows `from..to` are read, without versions.
    by_value: bool,
}

impl Span {
    /// Leaves out what is before row `from` and from row `to` on, counted from the partition's first,
    /// in words: devices copy words whole.
    fn trim(&mut self, place: &Place, from: u64, to: u64, row_len: u64) {
        let block_rows = u64::from(place.at.block_rows);
        let stride = u64::from(place.at.block_stride);
        let offset_of = |row: u64| {
            (row / block_rows - self.block) * stride + ROWS_AT - HEAD_VERSION_AT
                + row % block_rows * row_len
        };
        let begin = from.max(self.block * block_rows);
        let last = to.min((self.block + self.block_count) * block_rows) - 1;
        self.skipped = offset_of(begin) / 8 * 8;
        self.len = (offset_of(last) + row_len).next_multiple_of(8) - self.skipped;
    }
}

/// Copies those of `rows` that a read has staged to where they belong in `into`. The last block of a
/// partition may have room for more rows than `part`: those are other reads'.
fn copy_read(
    read: &Read,
    pages: &Pages,
    (part, rows): (RowRange, RowRange),
    row_len: u64,
    into: &mut [u8],
) {
    let Some(of_part) = part.intersection(rows) else { return };
    let place = &read.place.at;
    let block_rows = u64::from(place.block_rows);
    for block in 0..read.block_count {
        let first = place.first_row + (read.block + block) * block_rows;
        let all = RowRange::new(first, first + block_rows);
        let Some(wanted) = all.intersection(of_part) else { continue };
        let from = block * u64::from(place.block_stride) + ROWS_AT - HEAD_VERSION_AT
            + (wanted.start - first) * row_len
            - read.skipped;
        let to = index((wanted.start - rows.start) * row_len);
        let len = index(wanted.count() * row_len);
        pages.read(read.chunk.offset + from, &mut into[to..to + len]);
    }
}

/// Bytes from the head version of the first block to the tail version of the last.
fn span_len(place: &Place, block_count: u64) -> u64 {
    block_count * u64::from(place.at.block_stride) + 8 - HEAD_VERSION_AT
}

/// Offset in a span of a block's head version.
fn head_at(place: &Place, block: u64) -> u64 {
    block * u64::from(place.at.block_stride)
}

/// Offset in a span of a block's tail version: at the start of the next line.
fn tail_at(place: &Place, block: u64) -> u64 {
    (block + 1) * u64::from(place.at.block_stride) - HEAD_VERSION_AT
}
