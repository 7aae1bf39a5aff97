//! Pulls by one-sided reads over a network: blocks are read as they lie, validated by the versions
//! at both their ends, and read again if they changed meanwhile. Rows of a single value need no
//! versions: a value is written and read whole, so only their bytes are read.

mod short;
mod span;

use std::time::{Duration, Instant};

use windlass_transport::{Operation, Pages, QueuePairId, RemoteAddress, WorkId, chunks::Chunk};
use windlass_wire::{PartitionId, RowRange};

use self::span::Span;
use super::{
    Core, RequestId, TableIndex,
    push::index,
    requests::Failure,
    tables::Place,
    view::{FENCED, HEAD_VERSION_AT, ROWS_AT},
};

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
    /// The read behind it in the same request to the device, which ends with it.
    joined: Option<usize>,
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
    /// What is about to be read; empty in between.
    spans: Vec<Span>,
}

impl Read {
    /// Where the bytes come from.
    #[inline]
    fn remote(&self) -> RemoteAddress {
        remote_of(&self.place, self.block, self.skipped)
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
    /// Where a read's request goes, and how much it brings with those joined to it.
    fn extent(&self, read: &Read) -> (Chunk, u64) {
        let (mut last, mut chunk) = (*read, read.chunk);
        while let Some(next) = last.joined.and_then(|next| self.reads.reads[next]) {
            chunk.len += next.chunk.len;
            last = next;
        }
        (chunk, last.chunk.offset - read.chunk.offset + last.len)
    }

    /// Posts a read, if the send queue has room. True also when the read is over already.
    fn post_read(&mut self, at: usize) -> bool {
        let Some(read) = self.reads.reads[at] else { return true };
        if read.phase == Phase::Done {
            return true;
        }
        let (to, len) = match read.phase {
            Phase::Before | Phase::After => {
                (self.reads.shadows[at].unwrap_or(read.chunk), read.len)
            }
            Phase::Values | Phase::Whole | Phase::Rows | Phase::Done => self.extent(&read),
        };
        let transport = self.links[read.link].transport;
        let Some(local) = self.memory.staged(transport, to, len) else {
            unreachable!("reads start once the staging area is registered")
        };
        let link = &mut self.links[read.link];
        if link.failed || link.queue_pair != read.queue_pair {
            let server = link.server;
            let mut ended = Some(at);
            while let Some(at) = ended {
                ended = self.reads.reads[at].and_then(|read| read.joined);
                self.finish_read(at, Some(Failure::Gone { server }));
            }
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

    /// A read has completed, and those joined to it.
    pub(super) fn end_read(&mut self, queue_pair: QueuePairId, work_id: WorkId, succeeded: bool) {
        let mut ended = Some(index(work_id.0 - 1));
        while let Some(at) = ended {
            let Some(mut read) = self.reads.reads.get(at).copied().flatten() else { return };
            if read.phase == Phase::Done || read.queue_pair != queue_pair {
                return;
            }
            ended = read.joined.take();
            self.end_one_read(at, read, succeeded);
        }
    }

    fn end_one_read(&mut self, at: usize, mut read: Read, succeeded: bool) {
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

/// What is `skipped` bytes behind the head version of a block.
#[inline]
fn remote_of(place: &Place, block: u64, skipped: u64) -> RemoteAddress {
    let line = place.line(block);
    RemoteAddress { address: line.address.wrapping_add(HEAD_VERSION_AT + skipped), ..line }
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
