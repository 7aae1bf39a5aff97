//! Pulls by one-sided reads over a network: blocks are read as they lie, validated by the versions
//! at both their ends, and read again if they changed meanwhile. Rows of a single value need no
//! versions where a value is written and read whole: only their bytes are read.

mod guard;
mod keys;
mod short;
mod span;
mod staged;

use std::{
    collections::VecDeque,
    ops::Range,
    time::{Duration, Instant},
};

use windlass_transport::{Pages, QueuePairId, RemoteAddress, WorkId, chunks::Chunk};
use windlass_wire::{PartitionId, RowRange};

use self::{
    guard::{Guard, VersionRead, Versions},
    span::Span,
    staged::{Rows, Staged},
};
use super::{
    Core, RequestId, TableIndex, Tables,
    places::Place,
    push::index,
    requests::Failure,
    view::{HEAD_VERSION_AT, ROWS_AT},
};

/// How long after its versions were looked at a block's memory counts as current. Whoever takes
/// rows over from a server waits for longer before it serves them.
const CURRENT_FOR: Duration = Duration::from_millis(5);

/// How often a read may meet pushes before its server is asked for the rows: where rows are always being
/// pushed to, reads could go on for ever.
const MET_MAX: u32 = 8;

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
    /// The whole of its pull, with those joined to it.
    is_sole: bool,
    /// Where the versions go that it is read between.
    versions: Option<Versions>,
    phase: Phase,
    /// The read behind it in the same request to the device, which ends with it.
    joined: Option<usize>,
    /// Times it met pushes.
    met: u32,
    /// The blocks that it did, from the first to the last of them, which are read again: others are whole.
    again: Option<(u64, u64)>,
}

/// What a read is doing, up to which step it was posted. Devices that read in ascending order validate
/// a read by itself; others need versions from before and after, see [`guard`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Reading rows of a single value each, without versions.
    Values,
    /// Reading the blocks; the versions in them decide.
    Whole,
    /// Reading versions.
    Before,
    /// Reading the rows.
    Rows,
    /// Reading versions again.
    After,
    Done,
}

/// Reads under way or staged.
#[derive(Debug, Default)]
pub(super) struct Reads {
    reads: Vec<Option<Read>>,
    /// All places before this one are taken.
    vacant_from: usize,
    guards: Vec<Option<Guard>>,
    /// Reads whose next step waits for room on their link.
    postponed: VecDeque<usize>,
    /// What is about to be read for versions; empty in between.
    version_reads: Vec<VersionRead>,
    /// What is about to be read; empty in between.
    spans: Vec<Span>,
}

impl Read {
    /// Where the bytes come from.
    #[inline]
    fn remote(&self) -> RemoteAddress {
        remote_of(&self.place, self.block, self.skipped)
    }

    /// The blocks that it reads now, counted from its first.
    fn blocks(&self) -> Range<u64> {
        self.again.map_or(0..self.block_count, |(first, last)| first..last + 1)
    }

    /// What it brought, when it is one of whole blocks.
    #[inline]
    fn staged(&self) -> Staged {
        let stride = u64::from(self.place.at.block_stride);
        Staged { at: self.chunk.offset, len: self.len, stride }
    }
}

impl Reads {
    /// A place for one more read.
    #[inline]
    fn vacant(&mut self) -> usize {
        let rest = &self.reads[self.vacant_from..];
        self.vacant_from += rest.iter().position(Option::is_none).unwrap_or(rest.len());
        if self.vacant_from == self.reads.len() {
            self.reads.push(None);
        }
        self.vacant_from
    }

    /// Takes the reads for which `is_over` holds away, one after the other.
    fn take(&mut self, mut is_over: impl FnMut(&Read) -> bool, mut each: impl FnMut(&Read)) {
        for (at, slot) in self.reads.iter_mut().enumerate() {
            if let Some(read) = slot.take_if(|read| is_over(read)) {
                self.vacant_from = self.vacant_from.min(at);
                each(&read);
            }
        }
    }
}

impl Core {
    /// A read and those joined to it.
    fn joined<'a>(&'a self, read: &'a Read) -> impl Iterator<Item = &'a Read> {
        let next =
            |read: &&Read| read.joined.and_then(|next| self.pending.reads.reads[next].as_ref());
        std::iter::successors(Some(read), next)
    }

    /// Where a read's request goes, and how much it brings with those joined to it.
    fn extent(&self, read: &Read) -> (Chunk, u64) {
        if read.joined.is_none() {
            return (read.chunk, read.len);
        }
        let (mut chunk, mut len) = (Chunk { len: 0, ..read.chunk }, 0);
        for joined in self.joined(read) {
            chunk.len += joined.chunk.len;
            len = joined.chunk.offset - read.chunk.offset + joined.len;
        }
        (chunk, len)
    }

    /// Posts a read, if the send queue has room. True also when the read is over already.
    fn post_read(&mut self, at: usize) -> bool {
        let Some(read) = &self.pending.reads.reads[at] else { return true };
        if read.phase == Phase::Done {
            return true;
        }
        let (link_at, link) = (read.link, &self.links.all[read.link]);
        if link.failed || link.queue_pair != read.queue_pair {
            let server = link.server;
            let mut ended = Some(at);
            while let Some(at) = ended {
                ended = self.pending.reads.reads[at].and_then(|read| read.joined);
                self.finish_read(at, Some(Failure::Gone { server }));
            }
            return true;
        }
        let work_id = WorkId(at as u64 + 1);
        if matches!(read.phase, Phase::Before | Phase::Rows | Phase::After) {
            let read = *read;
            let last = if self.may_fence(&read) { Phase::After } else { read.phase };
            let is_posted = self.post_guarded(&read, last, work_id);
            if is_posted {
                self.set_phase(at, last);
            }
            return is_posted;
        }
        if link.sender.room() < 2 {
            return false;
        }
        let (to, len, remote) = match read.again {
            None => {
                let (to, len) = self.extent(read);
                (to, len, read.remote())
            }
            Some((first, last)) => {
                let skipped = head_at(&read.place, first);
                let Chunk { offset, len } = read.chunk;
                let to = Chunk { offset: offset + skipped, len: len - skipped };
                let remote = remote_of(&read.place, read.block + first, 0);
                (to, span_len(&read.place, last + 1 - first), remote)
            }
        };
        let Some(local) = self.pending.memory.staged(link.transport, to, len) else {
            unreachable!("reads start once the staging area is registered")
        };
        let ends = Some(work_id);
        self.links.all[link_at].sender.push_read((local, remote), false, ends);
        self.count_reads(1, len);
        self.links.flush(link_at);
        true
    }

    #[inline]
    fn count_reads(&mut self, reads: u64, len: u64) {
        self.pending.counters.reads += reads;
        self.pending.counters.bytes_read += len;
    }

    /// Sets what a read and those joined to it are doing.
    fn set_phase(&mut self, first: usize, phase: Phase) {
        let mut at = Some(first);
        while let Some(read) = at.and_then(|at| self.pending.reads.reads[at].as_mut()) {
            read.phase = phase;
            at = read.joined;
        }
    }

    /// Posts a read's next step, now or when its link has room.
    fn go_on(&mut self, at: usize) {
        if !self.post_read(at) {
            self.pending.reads.postponed.push_back(at);
        }
    }

    /// Posts what waited for room.
    pub(super) fn post_postponed(&mut self) {
        // One that fails takes those of its link out.
        while let Some(at) = self.pending.reads.postponed.pop_front() {
            if !self.post_read(at) {
                return self.pending.reads.postponed.push_front(at);
            }
        }
    }

    /// Whether reads that are under way wait for room on their link.
    #[inline]
    pub(super) fn has_postponed(&self) -> bool {
        !self.pending.reads.postponed.is_empty()
    }

    /// A read has completed, and those joined to it.
    pub(super) fn end_read(&mut self, queue_pair: QueuePairId, work_id: WorkId, succeeded: bool) {
        let first = index(work_id.0 - 1);
        if let Some(Some(read)) = self.pending.reads.reads.get(first)
            && let (Phase::Before | Phase::Rows, true) = (read.phase, succeeded)
            && read.queue_pair == queue_pair
        {
            let next = if read.phase == Phase::Before { Phase::Rows } else { Phase::After };
            self.set_phase(first, next);
            return self.go_on(first);
        }
        let mut ended = Some(first);
        while let Some(at) = ended {
            let Some(Some(read)) = self.pending.reads.reads.get_mut(at) else { return };
            if read.phase == Phase::Done || read.queue_pair != queue_pair {
                return;
            }
            ended = read.joined.take();
            self.end_one_read(at, succeeded);
        }
    }

    fn end_one_read(&mut self, at: usize, succeeded: bool) {
        let Some(read) = &self.pending.reads.reads[at] else { return };
        if !succeeded {
            let server = self.links.all[read.link].server;
            return self.finish_read(at, Some(Failure::Gone { server }));
        }
        let is_whole = match read.phase {
            Phase::Values => return self.finish_read(at, None),
            Phase::After => self.agrees(read),
            _ if read.relaxed => !self.is_fenced(read),
            _ => self.is_whole(read),
        };
        if is_whole {
            self.saw_current(at);
            return self.finish_read(at, None);
        }
        let mut read = *read;
        self.pending.counters.reads_retried += 1;
        let is_fenced = match read.phase {
            Phase::After => self.ends_fenced(&read),
            _ => self.is_fenced(&read),
        };
        if is_fenced {
            let server = self.links.all[read.link].server;
            return self.finish_read(at, Some(Failure::NotCurrent { server }));
        }
        read.met += 1;
        if read.phase == Phase::After {
            self.turn_versions(&read);
            read.phase = Phase::Rows;
        } else {
            read.again = self.changed(&read);
        }
        self.pending.reads.reads[at] = Some(read);
        let request = self.pending.requests.find_mut(read.request);
        let asks = request.is_some_and(|request| {
            request.asks_servers |= read.met >= MET_MAX;
            request.asks_servers
        });
        if asks {
            return self.finish_read(at, None);
        }
        self.go_on(at);
    }

    fn finish_read(&mut self, at: usize, failure: Option<Failure>) {
        let Some(read) = &mut self.pending.reads.reads[at] else { return };
        read.phase = Phase::Done;
        let (id, table, versions) = (read.request, read.table, read.versions.take());
        self.release_versions(versions);
        self.pending.reads.postponed.retain(|other| *other != at);
        match failure {
            Some(Failure::Gone { .. } | Failure::NotCurrent { .. }) if self.recovery.retries() => {
                // Whoever claims the rows reads them again elsewhere.
                self.tables[table].places.clear();
                if let Some(request) = self.pending.requests.find_mut(id) {
                    request.reads_again = true;
                }
                self.end_part(id, None);
                if let Some(Failure::Gone { .. }) = failure {
                    self.recovery.start_trouble();
                }
            }
            _ => self.end_part(id, failure),
        }
    }

    /// Whether rows of this place can be read without their versions: each is one value, nobody
    /// takes the place over by failover, and it was current a moment ago. Values are aligned and at
    /// most eight bytes, and the server's device reads such whole.
    fn reads_by_value(&self, table: TableIndex, place: &Place) -> bool {
        let schema = &self.tables[table].entry.schema;
        schema.width == 1
            && self.links.all[place.link].promises.reads_words_whole
            && self.cluster.map.replicas <= 1
            && place.current_at.is_some_and(|at| at.elapsed() < CURRENT_FOR)
    }

    /// Versions at a place were looked at and were not fenced.
    fn saw_current(&mut self, at: usize) {
        let Some(read) = &self.pending.reads.reads[at] else { return };
        let (link, offset) = (read.link, read.place.at.offset);
        let now = Instant::now();
        let table = &mut self.tables[read.table];
        let is_same = |place: &&mut Place| place.link == link && place.at.offset == offset;
        for place in table.places.of_partition(read.partition.0 as usize).filter(is_same) {
            place.current_at = Some(now);
        }
    }

    /// Whether every block of a read has equal, even versions at both ends.
    fn is_whole(&self, read: &Read) -> bool {
        let (pages, staged) = (self.pending.memory.staging_pages(), read.staged());
        read.blocks().all(|block| staged.is_whole(pages, block))
    }

    /// The first and the last block of a read that are not whole.
    fn changed(&self, read: &Read) -> Option<(u64, u64)> {
        let (pages, staged) = (self.pending.memory.staging_pages(), read.staged());
        let mut changed = read.blocks().filter(|block| !staged.is_whole(pages, *block));
        let first = changed.next()?;
        Some((first, changed.next_back().unwrap_or(first)))
    }

    fn is_fenced(&self, read: &Read) -> bool {
        let (pages, staged) = (self.pending.memory.staging_pages(), read.staged());
        read.blocks().any(|block| staged.is_fenced(pages, block))
    }

    /// Copies the rows of a request's finished reads into `into`, and gives their blocks back.
    pub(super) fn copy_done(
        &mut self,
        request: RequestId,
        table: TableIndex,
        rows: RowRange,
        into: &mut [u8],
    ) {
        let state = &self.tables[table];
        let (row_len, layout) = (state.row_len, state.layout);
        let memory = &mut self.pending.memory;
        let is_done = |read: &Read| read.request == request && read.phase == Phase::Done;
        self.pending.reads.take(is_done, |read| {
            let part = layout.rows_of(read.partition);
            copy_read(read, memory.staging_pages(), (part, rows), row_len, into);
            memory.release(read.chunk);
        });
    }

    /// Gives the staged blocks of a request back.
    pub(super) fn drop_reads(&mut self, request: RequestId) {
        let memory = &mut self.pending.memory;
        self.pending.reads.take(|read| read.request == request, |read| memory.release(read.chunk));
    }

    /// Every read under way on a link fails.
    pub(super) fn fail_reads(&mut self, link: usize) {
        let server = self.links.all[link].server;
        for at in 0..self.pending.reads.reads.len() {
            let lost = self.pending.reads.reads[at]
                .is_some_and(|read| read.link == link && read.phase != Phase::Done);
            if lost {
                self.finish_read(at, Some(Failure::Gone { server }));
            }
        }
    }
}

impl Tables {
    /// Places at a link are not known any more, nor is anything in view there.
    pub(super) fn forget_places(&mut self, link: usize) {
        self.forget_lines(link);
        for table in self.iter_mut() {
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
    let place = &read.place.at;
    let block_rows = u64::from(place.block_rows);
    let first = place.first_row + read.block * block_rows;
    let all = RowRange::new(first, first + read.block_count * block_rows);
    let wanted = part.intersection(rows).and_then(|of_part| of_part.intersection(all));
    let Some(wanted) = wanted else { return };
    let to = index((wanted.start - rows.start) * row_len);
    let len = index(wanted.count() * row_len);
    let blocks = Rows {
        at: (read.chunk.offset + ROWS_AT - HEAD_VERSION_AT).wrapping_sub(read.skipped),
        stride: u64::from(place.block_stride),
        block_rows,
        row_len,
    };
    blocks.copy(pages, wanted.start - first, &mut into[to..to + len]);
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
