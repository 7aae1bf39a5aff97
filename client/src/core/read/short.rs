//! Short pulls, whose latency matters most: rows of one partition, copied from this host's memory or fetched
//! by one read. A short pull takes no request slot; it becomes a request when it takes long. Every unusual
//! case takes the general path.

use std::ops::Range;

use windlass_transport::{CompletionStatus, QueuePairId, WorkId, spin::Idle};
use windlass_wire::{PartitionId, RowRange};

use super::{
    Phase, Read, remote_of,
    span::Span,
    span_len,
    staged::{Rows, Staged, copy_read},
};
use crate::{
    config::PullOptions,
    core::{
        Core, RequestId, TableIndex,
        clock::{is_counted_in, may_pull},
        message::Replica,
        places::Place,
        pull::{claim, pull_range},
        requests::{Reading, Reply},
        view::{Copied, CopyMode, HEAD_VERSION_AT, ROWS_AT},
        vigil::still_serves,
    },
    error::RequestError,
};

/// Longest rows of a short pull, and most bytes of the blocks they lie in.
const ROWS_LEN_MAX: u64 = 8 << 10;
const SPAN_LEN_MAX: u64 = 2 * ROWS_LEN_MAX;

/// The last version is read by its low half alone. From 79 bytes on SoftRoCE's kernel uses, and so saves,
/// vector registers for a packet's checksum: `ib_read_lat` took 39.0 us for the 80 bytes of a block of one
/// line, versions included, and 34.8 for 64.
const HALF_VERSION_LEN: u64 = 4;

/// Polls until it is waited for with the patience that others get.
const POLLS_MAX: u32 = 256;

/// A short pull that no view answers: rows of one partition, and where they are read from.
#[derive(Clone, Copy)]
struct ShortPull {
    table: TableIndex,
    partition: PartitionId,
    place: Place,
    rows: RowRange,
    reading: Reading,
}

/// A read that was posted and is waited for.
#[derive(Clone, Copy)]
struct PostedRead {
    transport: usize,
    link: usize,
    queue_pair: QueuePairId,
    work_id: WorkId,
}

/// What became of a short pull.
enum Short {
    /// The rows are there, read so.
    Pulled(Reading),
    /// The read is under way still, as this request.
    Started(RequestId),
    /// No read was made, or it brought nothing usable.
    Impossible,
}

/// Pulls a range of rows of a dense table into `into`, which is as long as they are.
pub(crate) fn pull_into(
    core: &mut Core,
    table: TableIndex,
    rows: RowRange,
    options: &PullOptions,
    into: &mut [u8],
) -> Result<(), RequestError> {
    core.tables.check_range(table, rows)?;
    let id = match pull_short(core, table, rows, options, into) {
        Short::Pulled(reading) if is_counted_in(core, table, rows, reading)? => return Ok(()),
        Short::Pulled(_) => pull_range(core, table, rows, options)?,
        Short::Started(id) => id,
        Short::Impossible => pull_range(core, table, rows, options)?,
    };
    claim(core, table, id, into)
}

#[inline]
fn pull_short(
    core: &mut Core,
    table: TableIndex,
    rows: RowRange,
    options: &PullOptions,
    into: &mut [u8],
) -> Short {
    let len = into.len() as u64;
    let is_plain = options.after.is_none()
        && (1..=ROWS_LEN_MAX).contains(&len)
        && !core.recovery.in_trouble()
        && !core.rounds.has_open_round()
        && core.pending.requests.next_is_free();
    let replica = core.cluster.replica_of(options.from);
    if !is_plain || replica == Replica::Strong {
        return Short::Impossible;
    }
    let relaxed = options.relaxed;
    let mut reading = Reading {
        replica,
        relaxed,
        clock: core.clocks.pull_clock(&core.session, &core.tables, table),
        gains: 0,
    };
    if !may_pull(core, table, rows, &mut reading) {
        return Short::Impossible;
    }
    let state = &core.tables[table];
    let (partition, row_len) = (state.layout.partition_of(rows.start), state.row_len);
    let place = state.places.find(replica, partition.0 as usize);
    let Some(place) = place.filter(|place| {
        place.at.first_row <= rows.start
            && rows.end <= place.at.first_row + place.at.row_count
            && !core.links.all[place.link].state.failed
    }) else {
        return Short::Impossible;
    };
    if let Some(view) = place.view {
        let (place, copy) = (*place, CopyMode { relaxed, streams: false });
        if !still_serves(core, place.link) {
            return Short::Impossible;
        }
        let retried = &mut core.pending.counters.reads_retried;
        return match place.copy_view(view, rows, row_len, copy, retried, into) {
            Copied::Whole => {
                core.pending.count_pull(len);
                Short::Pulled(reading)
            }
            Copied::Contended | Copied::Fenced => Short::Impossible,
        };
    }
    let place = *place;
    // A device reads the memory of a server that was stopped, too.
    if !still_serves(core, place.link) {
        return Short::Impossible;
    }
    let pull = ShortPull { table, partition, place, rows, reading };
    if core.links.is_guarded(place.link, relaxed) {
        pull_guarded(core, pull, into)
    } else {
        pull_blocks(core, pull, into)
    }
}

/// Reads whole blocks and takes what they bring, unless that takes long.
#[inline]
fn pull_blocks(core: &mut Core, pull: ShortPull, into: &mut [u8]) -> Short {
    let ShortPull { table, place, rows, reading, .. } = pull;
    let blocks = pull.blocks();
    let (block, block_count) = (blocks.start, blocks.end - blocks.start);
    let len = span_len(&place, block_count) - HALF_VERSION_LEN;
    let link = &core.links.all[place.link];
    if !link.mailbox.sender.is_empty() || len > SPAN_LEN_MAX {
        return Short::Impossible;
    }
    let Some(chunk) = core.pending.memory.allocate(len) else { return Short::Impossible };
    let (transport, queue_pair) = (link.transport, link.queue_pair);
    let at = core.pending.reads.vacant();
    let work_id = WorkId(at as u64 + 1);
    // What has failed shows again on the general way.
    let is_posted = core.pending.memory.staged(transport, chunk, len).is_some_and(|local| {
        let remote = remote_of(&place, block, 0);
        let transport = core.links.transports[transport].as_mut();
        transport.read_now(queue_pair, work_id, local, remote).unwrap_or(false)
    });
    if !is_posted {
        core.pending.memory.release(chunk);
        return Short::Impossible;
    }
    core.pending.count_reads(1, len);
    let posted = PostedRead { transport, link: place.link, queue_pair, work_id };
    let Some(succeeded) = wait_shortly(core, posted) else {
        let span = Span { len, ..pull.span() };
        let read = span.read(queue_pair, chunk, Phase::Whole);
        let read = Read { relaxed: core.links.may_mix(place.link, reading.relaxed), ..read };
        return go_on_as_request(core, pull, at, read, into.len());
    };
    let pages = core.pending.memory.staging_pages();
    let stride = u64::from(place.at.block_stride);
    let staged = Staged { at: chunk.offset, len, stride };
    let relaxed = core.links.may_mix(place.link, reading.relaxed);
    let is_good = |block| match relaxed {
        true => !staged.is_fenced(pages, block),
        false => staged.is_whole(pages, block),
    };
    let is_whole = succeeded && (0..block_count).all(is_good);
    if is_whole {
        let block_rows = u64::from(place.at.block_rows);
        let first = rows.start - place.at.first_row - block * block_rows;
        let at = chunk.offset + ROWS_AT - HEAD_VERSION_AT;
        let row_len = core.tables[table].row_len;
        Rows { at, stride, block_rows, row_len }.copy(pages, first, into);
        core.pending.count_pull(into.len() as u64);
    } else {
        core.pending.counters.reads_retried += u64::from(succeeded);
    }
    core.pending.memory.release(chunk);
    if is_whole { Short::Pulled(reading) } else { Short::Impossible }
}

/// Reads rows between their blocks' versions, and takes what they bring, unless that takes long.
fn pull_guarded(core: &mut Core, pull: ShortPull, into: &mut [u8]) -> Short {
    let ShortPull { table, partition, place, rows, reading } = pull;
    let mut span = pull.span();
    let (first, row_len) = (place.at.first_row, core.tables[table].row_len);
    span.trim_guarded(rows.start - first..rows.end - first, row_len);
    if !core.links.all[place.link].mailbox.sender.is_empty() || span.len > SPAN_LEN_MAX {
        return Short::Impossible;
    }
    let Some(mut read) = core.pending.stage_guarded(&core.links, &span) else {
        return Short::Impossible;
    };
    let at = core.pending.reads.vacant();
    let work_id = WorkId(at as u64 + 1);
    let is_posted = core.pending.post_guarded(&mut core.links, &read, Phase::After, work_id);
    read.phase = Phase::After;
    if !is_posted {
        core.pending.release_short(&mut read);
        return Short::Impossible;
    }
    let transport = core.links.all[place.link].transport;
    let posted = PostedRead { transport, link: place.link, queue_pair: read.queue_pair, work_id };
    let Some(succeeded) = wait_shortly(core, posted) else {
        return go_on_as_request(core, pull, at, read, into.len());
    };
    let is_whole = succeeded && core.pending.reads.agrees(&core.pending.memory, &read);
    if is_whole {
        let part = core.tables[table].layout.rows_of(partition);
        copy_read(&read, core.pending.memory.staging_pages(), part, rows, row_len, into);
        core.pending.count_pull(into.len() as u64);
    } else {
        core.pending.counters.reads_retried += u64::from(succeeded);
    }
    core.pending.release_short(&mut read);
    if is_whole { Short::Pulled(reading) } else { Short::Impossible }
}

/// Polls for a read until it ends, and gives up early. Returns whether it succeeded, or `None` if it has not ended.
#[inline]
fn wait_shortly(core: &mut Core, read: PostedRead) -> Option<bool> {
    for _ in 0..POLLS_MAX {
        if let Some(succeeded) = poll_for(core, read) {
            core.links.spin.found();
            return Some(succeeded);
        }
        if core.links.spin.idle() == Idle::Crowded {
            break;
        }
    }
    None
}

/// Polls the read's transport once. Returns whether the read succeeded, or `None` if it has not ended.
#[inline]
fn poll_for(core: &mut Core, read: PostedRead) -> Option<bool> {
    let PostedRead { transport, link, queue_pair, work_id } = read;
    let mut completions = std::mem::take(&mut core.links.completions);
    let count = core.links.transports[transport].poll(&mut completions);
    let mut outcome = None;
    for completion in &completions[..count] {
        if completion.work_id != work_id || completion.queue_pair != queue_pair {
            core.take_completion(transport, completion);
        } else {
            outcome = Some(completion.status == CompletionStatus::Success);
        }
    }
    core.links.completions = completions;
    if outcome == Some(false) {
        core.links.lose(link);
    }
    outcome
}

/// Turns a read that takes long into a request like others.
#[cold]
fn go_on_as_request(core: &mut Core, pull: ShortPull, at: usize, read: Read, len: usize) -> Short {
    core.pending.count_pull(len as u64);
    let request = core.pending.requests.start(true);
    let slot = core.pending.requests.find_mut(request).expect("a request that was just started");
    slot.parts_left = 1;
    slot.reply = Reply::Blocks { rows: pull.rows, reading: pull.reading };
    core.pending.reads.reads[at] = Some(Read { request, ..read });
    let link = read.span.place.link;
    if core.links.all[link].state.failed {
        // What completed meanwhile ended the link, and the reads that were known then.
        core.pending.fail_reads(&core.links, &mut core.tables, &mut core.recovery, link);
    }
    Short::Started(request)
}

impl ShortPull {
    /// The place's blocks that the rows lie in.
    fn blocks(&self) -> Range<u64> {
        let Place { at, .. } = &self.place;
        let block_rows = u64::from(at.block_rows);
        let first = (self.rows.start - at.first_row) / block_rows;
        let last = (self.rows.end - 1 - at.first_row) / block_rows;
        first..last + 1
    }

    fn span(&self) -> Span {
        Span::whole(self.table, self.partition, &self.place, self.blocks())
    }
}
