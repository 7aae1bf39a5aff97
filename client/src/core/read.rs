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

use windlass_transport::{QueuePairId, RemoteAddress, WorkId, chunks::Chunk};
use windlass_wire::RowRange;

use self::{
    guard::{Guard, VersionRead, Versions},
    span::Span,
    staged::{Staged, copy_read},
};
use super::{
    Cluster, Links, Memory, Pending, Recovery, RequestId, TableIndex, Tables, places::Place,
    push::index, requests::Failure, view::HEAD_VERSION_AT,
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
    /// The blocks, and which of their bytes: all from the head version of the first to the tail version
    /// of the last, or `len` from `skipped` on.
    span: Span,
    /// The link may have another one by the time it completes.
    queue_pair: QueuePairId,
    /// Where they go.
    chunk: Chunk,
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
        remote_of(&self.span.place, self.span.block, self.span.skipped)
    }

    /// The blocks that it reads now, counted from its first.
    fn blocks(&self) -> Range<u64> {
        self.again.map_or(0..self.span.block_count, |(first, last)| first..last + 1)
    }

    /// What it brought, when it is one of whole blocks.
    #[inline]
    fn staged(&self) -> Staged {
        let stride = u64::from(self.span.place.at.block_stride);
        Staged { at: self.chunk.offset, len: self.span.len, stride }
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

impl Reads {
    /// A read and those joined to it.
    fn joined<'a>(&'a self, read: &'a Read) -> impl Iterator<Item = &'a Read> {
        let next = |read: &&Read| read.joined.and_then(|next| self.reads[next].as_ref());
        std::iter::successors(Some(read), next)
    }

    /// Where a read's request goes, and how much it brings with those joined to it.
    fn extent(&self, read: &Read) -> (Chunk, u64) {
        if read.joined.is_none() {
            return (read.chunk, read.span.len);
        }
        let (mut chunk, mut len) = (Chunk { len: 0, ..read.chunk }, 0);
        for joined in self.joined(read) {
            chunk.len += joined.chunk.len;
            len = joined.chunk.offset - read.chunk.offset + joined.span.len;
        }
        (chunk, len)
    }

    /// Sets what a read and those joined to it are doing.
    fn set_phase(&mut self, first: usize, phase: Phase) {
        let mut at = Some(first);
        while let Some(read) = at.and_then(|at| self.reads[at].as_mut()) {
            read.phase = phase;
            at = read.joined;
        }
    }

    /// Whether reads that are under way wait for room on their link.
    #[inline]
    pub(super) fn has_postponed(&self) -> bool {
        !self.postponed.is_empty()
    }

    /// Versions at a place were looked at and were not fenced.
    fn saw_current(&mut self, tables: &mut Tables, at: usize) {
        let Some(read) = &self.reads[at] else { return };
        let (link, offset) = (read.span.place.link, read.span.place.at.offset);
        let now = Instant::now();
        let table = &mut tables[read.span.table];
        let is_same = |place: &&mut Place| place.link == link && place.at.offset == offset;
        for place in table.places.of_partition(read.span.partition.0 as usize).filter(is_same) {
            place.current_at = Some(now);
        }
    }

    /// Gives the staged blocks of a request back.
    pub(super) fn drop_reads(&mut self, memory: &mut Memory, request: RequestId) {
        self.take(|read| read.request == request, |read| memory.release(read.chunk));
    }
}

impl Pending {
    /// Posts a read, if the send queue has room. True also when the read is over already.
    fn post_read(
        &mut self,
        links: &mut Links,
        tables: &mut Tables,
        recovery: &mut Recovery,
        at: usize,
    ) -> bool {
        let Some(read) = &self.reads.reads[at] else { return true };
        if read.phase == Phase::Done {
            return true;
        }
        let (link_at, link) = (read.span.place.link, &links.all[read.span.place.link]);
        if link.failed || link.queue_pair != read.queue_pair {
            let server = link.server;
            let mut ended = Some(at);
            while let Some(at) = ended {
                ended = self.reads.reads[at].and_then(|read| read.joined);
                self.finish_read(tables, recovery, at, Some(Failure::Gone { server }));
            }
            return true;
        }
        let work_id = WorkId(at as u64 + 1);
        if matches!(read.phase, Phase::Before | Phase::Rows | Phase::After) {
            let read = *read;
            let last = if self.reads.may_fence(&read) { Phase::After } else { read.phase };
            let is_posted = self.post_guarded(links, &read, last, work_id);
            if is_posted {
                self.reads.set_phase(at, last);
            }
            return is_posted;
        }
        if link.sender.room() < 2 {
            return false;
        }
        let (to, len, remote) = match read.again {
            None => {
                let (to, len) = self.reads.extent(read);
                (to, len, read.remote())
            }
            Some((first, last)) => {
                let skipped = head_at(&read.span.place, first);
                let Chunk { offset, len } = read.chunk;
                let to = Chunk { offset: offset + skipped, len: len - skipped };
                let remote = remote_of(&read.span.place, read.span.block + first, 0);
                (to, span_len(&read.span.place, last + 1 - first), remote)
            }
        };
        let Some(local) = self.memory.staged(link.transport, to, len) else {
            unreachable!("reads start once the staging area is registered")
        };
        let ends = Some(work_id);
        links.all[link_at].sender.push_read((local, remote), false, ends);
        self.count_reads(1, len);
        links.flush(link_at);
        true
    }

    #[inline]
    fn count_reads(&mut self, reads: u64, len: u64) {
        self.counters.reads += reads;
        self.counters.bytes_read += len;
    }

    /// Posts a read's next step, now or when its link has room.
    fn go_on(
        &mut self,
        links: &mut Links,
        tables: &mut Tables,
        recovery: &mut Recovery,
        at: usize,
    ) {
        if !self.post_read(links, tables, recovery, at) {
            self.reads.postponed.push_back(at);
        }
    }

    /// Posts what waited for room.
    pub(super) fn post_postponed(
        &mut self,
        links: &mut Links,
        tables: &mut Tables,
        recovery: &mut Recovery,
    ) {
        // One that fails takes those of its link out.
        while let Some(at) = self.reads.postponed.pop_front() {
            if !self.post_read(links, tables, recovery, at) {
                return self.reads.postponed.push_front(at);
            }
        }
    }

    /// A read has completed, and those joined to it.
    pub(super) fn end_read(
        &mut self,
        links: &mut Links,
        tables: &mut Tables,
        recovery: &mut Recovery,
        queue_pair: QueuePairId,
        work_id: WorkId,
        succeeded: bool,
    ) {
        let first = index(work_id.0 - 1);
        if let Some(Some(read)) = self.reads.reads.get(first)
            && let (Phase::Before | Phase::Rows, true) = (read.phase, succeeded)
            && read.queue_pair == queue_pair
        {
            let next = if read.phase == Phase::Before { Phase::Rows } else { Phase::After };
            self.reads.set_phase(first, next);
            return self.go_on(links, tables, recovery, first);
        }
        let mut ended = Some(first);
        while let Some(at) = ended {
            let Some(Some(read)) = self.reads.reads.get_mut(at) else { return };
            if read.phase == Phase::Done || read.queue_pair != queue_pair {
                return;
            }
            ended = read.joined.take();
            self.end_one_read(links, tables, recovery, at, succeeded);
        }
    }

    fn end_one_read(
        &mut self,
        links: &mut Links,
        tables: &mut Tables,
        recovery: &mut Recovery,
        at: usize,
        succeeded: bool,
    ) {
        let Some(read) = &self.reads.reads[at] else { return };
        if !succeeded {
            let server = links.all[read.span.place.link].server;
            return self.finish_read(tables, recovery, at, Some(Failure::Gone { server }));
        }
        let is_whole = match read.phase {
            Phase::Values => return self.finish_read(tables, recovery, at, None),
            Phase::After => self.reads.agrees(&self.memory, read),
            _ if read.relaxed => !self.memory.is_fenced(read),
            _ => self.memory.is_whole(read),
        };
        if is_whole {
            self.reads.saw_current(tables, at);
            return self.finish_read(tables, recovery, at, None);
        }
        let mut read = *read;
        self.counters.reads_retried += 1;
        let is_fenced = match read.phase {
            Phase::After => self.reads.ends_fenced(&self.memory, &read),
            _ => self.memory.is_fenced(&read),
        };
        if is_fenced {
            let server = links.all[read.span.place.link].server;
            return self.finish_read(tables, recovery, at, Some(Failure::NotCurrent { server }));
        }
        read.met += 1;
        if read.phase == Phase::After {
            self.reads.turn_versions(&self.memory, &read);
            read.phase = Phase::Rows;
        } else {
            read.again = self.memory.changed(&read);
        }
        self.reads.reads[at] = Some(read);
        let request = self.requests.find_mut(read.request);
        let asks = request.is_some_and(|request| {
            request.asks_servers |= read.met >= MET_MAX;
            request.asks_servers
        });
        if asks {
            return self.finish_read(tables, recovery, at, None);
        }
        self.go_on(links, tables, recovery, at);
    }

    fn finish_read(
        &mut self,
        tables: &mut Tables,
        recovery: &mut Recovery,
        at: usize,
        failure: Option<Failure>,
    ) {
        let Some(read) = &mut self.reads.reads[at] else { return };
        read.phase = Phase::Done;
        let (id, table, versions) = (read.request, read.span.table, read.versions.take());
        self.reads.release_versions(&mut self.memory, versions);
        self.reads.postponed.retain(|other| *other != at);
        match failure {
            Some(Failure::Gone { .. } | Failure::NotCurrent { .. }) if recovery.retries() => {
                // Whoever claims the rows reads them again elsewhere.
                tables[table].places.clear();
                if let Some(request) = self.requests.find_mut(id) {
                    request.reads_again = true;
                }
                self.end_part(id, None);
                if let Some(Failure::Gone { .. }) = failure {
                    recovery.start_trouble();
                }
            }
            _ => self.end_part(id, failure),
        }
    }

    /// Copies the rows of a request's finished reads into `into`, and gives their blocks back.
    pub(super) fn copy_done(
        &mut self,
        tables: &Tables,
        request: RequestId,
        table: TableIndex,
        rows: RowRange,
        into: &mut [u8],
    ) {
        let state = &tables[table];
        let (row_len, layout) = (state.row_len, state.layout);
        let memory = &mut self.memory;
        let is_done = |read: &Read| read.request == request && read.phase == Phase::Done;
        self.reads.take(is_done, |read| {
            let part = layout.rows_of(read.span.partition);
            copy_read(read, memory.staging_pages(), (part, rows), row_len, into);
            memory.release(read.chunk);
        });
    }

    /// Every read under way on a link fails.
    pub(super) fn fail_reads(
        &mut self,
        links: &Links,
        tables: &mut Tables,
        recovery: &mut Recovery,
        link: usize,
    ) {
        let server = links.all[link].server;
        for at in 0..self.reads.reads.len() {
            let lost = self.reads.reads[at]
                .is_some_and(|read| read.span.place.link == link && read.phase != Phase::Done);
            if lost {
                self.finish_read(tables, recovery, at, Some(Failure::Gone { server }));
            }
        }
    }
}

impl Cluster {
    /// Whether rows of this place can be read without their versions: each is one value, nobody
    /// takes the place over by failover, and it was current a moment ago. Values are aligned and at
    /// most eight bytes, and the server's device reads such whole.
    fn reads_by_value(
        &self,
        links: &Links,
        tables: &Tables,
        table: TableIndex,
        place: &Place,
    ) -> bool {
        let schema = &tables[table].entry.schema;
        schema.width == 1
            && links.all[place.link].promises.reads_words_whole
            && self.map.replicas <= 1
            && place.current_at.is_some_and(|at| at.elapsed() < CURRENT_FOR)
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
