//! Which bytes a pull reads: spans of partitions, and which of them share one request.

use std::ops::Range;

use windlass_transport::{
    QueuePairId, RemoteAddress,
    chunks::{CHUNK_ALIGNMENT, Chunk},
    memory::PAGE_LEN,
};
use windlass_wire::{PartitionId, RowRange};

use super::{
    Phase, Read,
    guard::{self, Guard},
    remote_of, span_len,
};
use crate::{
    core::{
        Cluster, Core, Links, RequestId, TableIndex, Tables,
        places::Place,
        requests::{NOBODY, Reading},
        view::{HEAD_VERSION_AT, ROWS_AT},
    },
    error::RequestError,
};

/// Bytes of one read.
const READ_LEN_MAX: u64 = 256 << 10;

/// Bytes between pieces that are read along rather than left out: the ends of two lines.
const GAP_LEN_MAX: u64 = 128;

/// Reads from this length on go to whole pages of the staging area, so that a device, or the kernel in its
/// place, copies each packet into one page.
const ALIGNED_LEN_MIN: u64 = 16 << 10;

/// How pieces are staged.
#[derive(Clone, Copy)]
struct Staging {
    phase: Phase,
    relaxed: bool,
    /// They are the whole of their pull.
    is_sole: bool,
    /// When they were listed.
    generation: u64,
}

/// Bytes of neighbouring blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) table: TableIndex,
    pub(super) partition: PartitionId,
    pub(super) place: Place,
    pub(super) block: u64,
    pub(super) block_count: u64,
    /// Bytes behind the first block's head version that are left out, and how many are not.
    pub(super) skipped: u64,
    pub(super) len: u64,
    /// Whether only rows `from..to` are read, without versions.
    pub(super) by_value: bool,
}

impl Span {
    /// Whole blocks, with all of their versions.
    pub(super) fn whole(
        table: TableIndex,
        partition: PartitionId,
        place: &Place,
        blocks: Range<u64>,
    ) -> Self {
        let (block, block_count) = (blocks.start, blocks.end - blocks.start);
        let (skipped, len) = (0, span_len(place, block_count));
        Self { table, partition, place: *place, block, block_count, skipped, len, by_value: false }
    }

    /// A read of it into a piece of the staging area, the whole of nobody's pull so far.
    pub(super) fn read(&self, queue_pair: QueuePairId, chunk: Chunk, phase: Phase) -> Read {
        Read {
            request: NOBODY,
            span: *self,
            queue_pair,
            chunk,
            relaxed: false,
            is_sole: true,
            versions: None,
            phase,
            joined: None,
            met: 0,
            again: None,
        }
    }

    /// Where the bytes come from.
    fn remote(&self) -> RemoteAddress {
        remote_of(&self.place, self.block, self.skipped)
    }

    /// Leaves out all but these rows, counted from the partition's first. It begins a multiple of `unit` bytes
    /// behind a version, and ends with a word: devices copy words whole.
    pub(super) fn trim(&mut self, rows: Range<u64>, row_len: u64, unit: u64) {
        let block_rows = u64::from(self.place.at.block_rows);
        let stride = u64::from(self.place.at.block_stride);
        let offset_of = |row: u64| {
            (row / block_rows - self.block) * stride + ROWS_AT - HEAD_VERSION_AT
                + row % block_rows * row_len
        };
        let begin = rows.start.max(self.block * block_rows);
        let last = rows.end.min((self.block + self.block_count) * block_rows) - 1;
        self.skipped = offset_of(begin) / unit * unit;
        self.len = (offset_of(last) + row_len).next_multiple_of(8) - self.skipped;
    }

    /// As [`Self::trim`], but keeps the end of the partition whole, so that the next one's piece is near.
    pub(super) fn trim_guarded(&mut self, rows: Range<u64>, row_len: u64) {
        let whole_end = self.skipped + self.len;
        let end = rows.end;
        self.trim(rows, row_len, CHUNK_ALIGNMENT);
        if end >= self.place.at.row_count {
            self.len = whole_end - self.skipped;
        }
    }
}

/// Starts to read the blocks of a range into the staging area.
pub(in crate::core) fn start_reads(
    core: &mut Core,
    request: RequestId,
    table: TableIndex,
    rows: RowRange,
    reading: Reading,
) -> Result<(), RequestError> {
    let mut spans = std::mem::take(&mut core.pending.reads.spans);
    spans.clear();
    let generation = core.cluster.generation;
    let started = core
        .cluster
        .list_spans(&core.links, &core.tables, table, rows, reading, &mut spans)
        .map_err(|partition| core.cluster.unavailable(&core.session, partition))
        .and_then(|()| read_spans(core, request, &mut spans, reading.relaxed, generation));
    core.pending.reads.spans = spans;
    started
}

/// Starts to read what was listed. Partitions of one shard lie one behind the other: pieces that do
/// come by one request.
fn read_spans(
    core: &mut Core,
    request: RequestId,
    spans: &mut [Span],
    relaxed: bool,
    generation: u64,
) -> Result<(), RequestError> {
    spans.sort_unstable_by_key(|span| (span.place.link, span.remote().address));
    let mut rest = &*spans;
    while let Some(first) = rest.first() {
        let link = &core.links.all[first.place.link];
        if link.state.failed {
            return Err(RequestError::ServerGone { server: link.server });
        }
        let transport = link.transport;
        core.pending.memory.register_staging(&mut core.links.transports, transport)?;
        let phase = if first.by_value {
            Phase::Values
        } else if core.links.is_guarded(first.place.link, relaxed) {
            Phase::Before
        } else {
            Phase::Whole
        };
        let (joined, behind) = rest.split_at(joined_count(rest, phase));
        let is_sole = joined.len() == spans.len();
        let how = Staging { phase, relaxed, is_sole, generation };
        let first = stage_spans(core, request, joined, how)?;
        let mut patience = None;
        while core.pending.reads.has_postponed()
            || !core.pending.post_read(&mut core.links, &mut core.tables, &mut core.recovery, first)
        {
            core.wait_a_little(&mut patience)?;
        }
        rest = behind;
    }
    Ok(())
}

/// Makes reads of pieces that come by one request, into one piece of the staging area; returns the
/// first. They were listed in this generation.
fn stage_spans(
    core: &mut Core,
    request: RequestId,
    spans: &[Span],
    Staging { phase, relaxed, is_sole, generation }: Staging,
) -> Result<usize, RequestError> {
    let offset_of = |span: &Span| span.remote().address - spans[0].remote().address;
    let len = spans.last().map_or(0, |last| offset_of(last) + last.len);
    let mut guard = None;
    if phase == Phase::Before {
        let mut layout = guard::Layout::default();
        for span in spans {
            layout.add(&span.place, span.block, span.block_count);
        }
        let chunk = core.allocate_chunk(2 * layout.len)?;
        guard = Some((chunk, layout.len));
    }
    let unit = if len < ALIGNED_LEN_MIN { 1 } else { PAGE_LEN as u64 };
    let whole = match core.allocate_chunk(len.next_multiple_of(unit)) {
        Ok(whole) => whole,
        Err(error) => {
            if let Some((chunk, _)) = guard {
                core.pending.memory.release(chunk);
            }
            return Err(error);
        }
    };
    if core.cluster.generation != generation {
        // The rows may lie elsewhere by now: whoever claims them looks again.
        core.pending.memory.release(whole);
        if let Some((chunk, _)) = guard {
            core.pending.memory.release(chunk);
        }
        return Err(core.cluster.unavailable(&core.session, spans[0].partition));
    }
    let guard = guard.map(|(chunk, half)| core.pending.reads.add_guard(Guard::new(chunk, half)));
    let mut layout = guard::Layout::default();
    let (mut first, mut last) = (None, None::<usize>);
    for (number, span) in spans.iter().enumerate() {
        let offset = whole.offset + offset_of(span);
        let end = spans.get(number + 1).map_or(whole.len, &offset_of) + whole.offset;
        let versions = guard.map(|guard| {
            let (at, step) = layout.add(&span.place, span.block, span.block_count);
            core.pending.reads.guarded_by(guard, at, step)
        });
        let at = core.pending.reads.vacant();
        let queue_pair = core.links.all[span.place.link].queue_pair;
        let read = span.read(queue_pair, Chunk { offset, len: end - offset }, phase);
        let relaxed = core.links.may_mix(span.place.link, relaxed);
        core.pending.reads.reads[at] = Some(Read { request, relaxed, is_sole, versions, ..read });
        if let Some(before) = last.and_then(|last| core.pending.reads.reads[last].as_mut()) {
            before.joined = Some(at);
        }
        first = first.or(Some(at));
        last = Some(at);
        if let Some(request) = core.pending.requests.find_mut(request) {
            request.parts_left += 1;
        }
    }
    Ok(first.unwrap_or_default())
}

impl Cluster {
    /// Lists where the blocks of a range lie, in pieces of bounded length. Fails with a
    /// partition whose place is not known.
    fn list_spans(
        &self,
        links: &Links,
        tables: &Tables,
        table: TableIndex,
        rows: RowRange,
        reading: Reading,
        spans: &mut Vec<Span>,
    ) -> Result<(), PartitionId> {
        let row_len = tables[table].row_len;
        let mut first = rows.start;
        while first < rows.end {
            let state = &tables[table];
            let partition = state.layout.partition_of(first);
            let end = rows.end.min(state.layout.rows_of(partition).end);
            let Some(place) = state.places.find(reading.replica, partition.0 as usize).copied()
            else {
                return Err(partition);
            };
            let block_rows = u64::from(place.at.block_rows);
            let stride = u64::from(place.at.block_stride);
            let (from, to) = (first - place.at.first_row, end - place.at.first_row);
            let mut block = from / block_rows;
            let last = (to - 1) / block_rows;
            let by_value = self.reads_by_value(links, tables, table, &place);
            let guarded = !by_value && links.is_guarded(place.link, reading.relaxed);
            let blocks_max = if guarded { guard::blocks_max(stride) } else { u64::MAX };
            let blocks_max = (READ_LEN_MAX / stride).clamp(1, blocks_max);
            while block <= last {
                let block_count = (last + 1 - block).min(blocks_max);
                let span = Span::whole(table, partition, &place, block..block + block_count);
                let mut span = Span { by_value, ..span };
                if by_value {
                    span.trim(from..to, row_len, 8);
                } else if guarded {
                    span.trim_guarded(from..to, row_len);
                }
                spans.push(span);
                block += block_count;
            }
            first = end;
        }
        Ok(())
    }
}

impl Links {
    /// Whether rows that come by a link are read between their versions.
    #[inline]
    pub(super) fn is_guarded(&self, link: usize, relaxed: bool) -> bool {
        !self.may_mix(link, relaxed) && !self.all[link].terms.promises.reads_in_order
    }

    /// Whether rows that come by a link may mix values from before and after an update, as their pull
    /// allows it: values themselves are whole.
    #[inline]
    pub(super) fn may_mix(&self, link: usize, relaxed: bool) -> bool {
        relaxed && self.all[link].terms.promises.reads_words_whole
    }
}

/// How many pieces from the first on lie so near to each other that one request reads them all.
fn joined_count(spans: &[Span], phase: Phase) -> usize {
    let Some(first) = spans.first() else { return 0 };
    if phase == Phase::Values {
        return 1;
    }
    let mut layout = guard::Layout::default();
    let mut is_guarded_too = |span: &Span| {
        phase != Phase::Before || {
            layout.add(&span.place, span.block, span.block_count);
            layout.fits()
        }
    };
    is_guarded_too(first);
    let begin = first.remote().address;
    let mut joins = |(before, span): (&Span, &Span)| {
        let (last, next) = (before.remote(), span.remote());
        let gap = next.address.checked_sub(last.address.saturating_add(before.len));
        span.place.link == first.place.link
            && next.key == first.remote().key
            && gap.is_some_and(|gap| gap <= GAP_LEN_MAX)
            && next.address - begin + span.len <= READ_LEN_MAX
            // Pieces of the staging area begin at such multiples.
            && (next.address - begin).is_multiple_of(CHUNK_ALIGNMENT)
            && !span.by_value
            && is_guarded_too(span)
    };
    1 + spans.iter().zip(&spans[1..]).take_while(|pair| joins(*pair)).count()
}

#[cfg(test)]
mod tests {
    use windlass_wire::control::{PartitionPlace, SharedRegion};

    use super::*;

    /// A partition of two blocks of 1,024 bytes at `offset`.
    fn span(link: usize, key: u32, offset: u64) -> Span {
        let at = PartitionPlace {
            partition: PartitionId(0),
            region: SharedRegion { key, address: 4096, len: 1 << 20 },
            offset,
            first_row: 0,
            row_count: 2,
            block_rows: 1,
            block_stride: 1024,
        };
        let place = Place { link, at, view: None, current_at: None, counted_at: None };
        Span::whole(TableIndex(0), at.partition, &place, 0..2)
    }

    #[test]
    fn neighbours_of_one_region_join_and_nothing_else() {
        let stride = 2 * 1024 + 64;
        let spans = [0, 1, 2].map(|number| span(0, 7, number * stride));
        assert_eq!(joined_count(&spans, Phase::Whole), 3);
        let far = [spans[0], span(0, 7, stride + 128)];
        assert_eq!(joined_count(&far, Phase::Whole), 1, "too far away");
        assert_eq!(joined_count(&[spans[0], span(1, 7, stride)], Phase::Whole), 1, "another link");
        assert_eq!(
            joined_count(&[spans[0], span(0, 8, stride)], Phase::Whole),
            1,
            "another region"
        );
        assert_eq!(joined_count(&[spans[0], spans[0]], Phase::Whole), 1, "the same bytes");
        let by_value = Span { by_value: true, ..spans[1] };
        assert_eq!(joined_count(&[spans[0], by_value], Phase::Whole), 1);
        let many: Vec<Span> = (0..200).map(|number| span(0, 7, number * stride)).collect();
        let joined = joined_count(&many, Phase::Whole) as u64;
        assert_eq!(joined, READ_LEN_MAX / stride, "as long as a read may be");
        assert!(
            joined_count(&[], Phase::Whole) == 0 && joined_count(&many[199..], Phase::Whole) == 1
        );
    }
}
