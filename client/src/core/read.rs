//! Pulls by one-sided reads over a network: blocks are read as they lie, validated by the versions at both
//! their ends, and read again if they changed meanwhile. Rows of a single value need no versions where the
//! platform reads and writes a value atomically: only their bytes are read.

mod guard;
mod keys;
mod short;
mod span;
mod staged;
mod steps;

pub(super) use self::span::start_reads;
pub(crate) use self::{keys::pull_keys_into, short::pull_into};

use std::{
    collections::VecDeque,
    ops::Range,
    time::{Duration, Instant},
};

use windlass_transport::{QueuePairId, RemoteAddress, chunks::Chunk};

use super::{
    Cluster, Links, Memory, RequestId, TableIndex, Tables, places::Place, view::HEAD_VERSION_AT,
};

use self::{
    guard::{Guard, VersionRead, Versions},
    span::Span,
    staged::Staged,
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
    /// No slot before this one is free.
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
            && links.all[place.link].terms.promises.reads_words_whole
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
