//! Short pulls, the ones whose latency shows: rows of one partition, copied out of this host's memory
//! or by one read that is posted, waited for, checked and copied in a line. It takes no request, and
//! becomes one when it takes long; whatever is out of the ordinary goes the general way.

use windlass_transport::{CompletionStatus, QueuePairId, WorkId, spin::Idle};
use windlass_wire::{PartitionId, RowRange};

use super::{
    super::{
        Core, Links, Pending, Recovery, RequestId, TableIndex, Tables,
        places::Place,
        push::Replica,
        requests::{Reading, Reply},
        view::{Copied, CopyMode, HEAD_VERSION_AT, ROWS_AT},
    },
    Phase, Read, remote_of,
    span::Span,
    span_len,
    staged::{Rows, Staged, copy_read},
};
use crate::{config::PullOptions, error::RequestError};

/// Longest rows of a short pull, and most bytes of the blocks they lie in.
const ROWS_LEN_MAX: u64 = 8 << 10;
const SPAN_LEN_MAX: u64 = 2 * ROWS_LEN_MAX;

/// The last version is read by its low half alone. From 79 bytes on SoftRoCE's kernel uses, and so saves,
/// vector registers for a packet's checksum: `ib_read_lat` took 39.0 us for the 80 bytes of a block of one
/// line, versions included, and 34.8 for 64.
const HALF_VERSION_LEN: u64 = 4;

/// Polls until it is waited for with the patience that others get.
const POLLS_MAX: u32 = 256;

/// What became of a short pull.
enum Short {
    /// The rows are there, read so.
    Pulled(Reading),
    /// The read is under way still, as this request.
    Started(RequestId),
    /// Nothing was done, or nothing came of it.
    Impossible,
}

impl Core {
    /// Pulls a range of rows of a dense table into `into`, which is as long as they are.
    pub(crate) fn pull_into(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        options: &PullOptions,
        into: &mut [u8],
    ) -> Result<(), RequestError> {
        self.tables.check_range(table, rows)?;
        let id = match self.pull_short(table, rows, options, into) {
            Short::Pulled(reading) if self.is_counted_in(table, rows, reading)? => return Ok(()),
            Short::Pulled(_) => self.pull_range(table, rows, options)?,
            Short::Started(id) => id,
            Short::Impossible => self.pull_range(table, rows, options)?,
        };
        self.claim(table, id, into)
    }

    #[inline]
    fn pull_short(
        &mut self,
        table: TableIndex,
        rows: RowRange,
        options: &PullOptions,
        into: &mut [u8],
    ) -> Short {
        let len = into.len() as u64;
        let is_plain = options.after.is_none()
            && (1..=ROWS_LEN_MAX).contains(&len)
            && !self.recovery.in_trouble()
            && !self.rounds.has_open_round()
            && self.pending.requests.next_is_free();
        let replica = self.cluster.replica_of(options.from);
        if !is_plain || replica == Replica::Strong {
            return Short::Impossible;
        }
        let relaxed = options.relaxed;
        let mut reading = Reading {
            replica,
            relaxed,
            clock: self.clocks.pull_clock(&self.session, &self.tables, table),
            gains: 0,
        };
        if !self.clocks.may_pull(
            &mut self.tables,
            &self.links,
            &self.cluster,
            table,
            rows,
            &mut reading,
        ) {
            return Short::Impossible;
        }
        let state = &self.tables[table];
        let (partition, row_len) = (state.layout.partition_of(rows.start), state.row_len);
        let place = state.places.find(replica, partition.0 as usize);
        let Some(place) = place.filter(|place| {
            place.at.first_row <= rows.start
                && rows.end <= place.at.first_row + place.at.row_count
                && !self.links.all[place.link].failed
        }) else {
            return Short::Impossible;
        };
        if let Some(view) = place.view {
            let (place, copy) = (*place, CopyMode { relaxed, streams: false });
            if !self.still_serves(place.link) {
                return Short::Impossible;
            }
            let retried = &mut self.pending.counters.reads_retried;
            return match place.copy_view(view, rows, row_len, copy, retried, into) {
                Copied::Whole => {
                    self.pending.count_pull(len);
                    Short::Pulled(reading)
                }
                Copied::Contended | Copied::Fenced => Short::Impossible,
            };
        }
        let place = *place;
        // A device reads the memory of a server that was stopped, too.
        if !self.still_serves(place.link) {
            return Short::Impossible;
        }
        if self.links.is_guarded(place.link, relaxed) {
            self.pull_guarded((table, partition), &place, (rows, reading), into)
        } else {
            self.pull_blocks((table, partition), &place, (rows, reading), into)
        }
    }

    /// Reads whole blocks and takes what they bring, unless that takes long.
    #[inline]
    fn pull_blocks(
        &mut self,
        (table, partition): (TableIndex, PartitionId),
        place: &Place,
        (rows, reading): (RowRange, Reading),
        into: &mut [u8],
    ) -> Short {
        let (block, block_count) = blocks_of(place, rows);
        let (len, link_at) = (span_len(place, block_count) - HALF_VERSION_LEN, place.link);
        let link = &self.links.all[link_at];
        if !link.sender.is_empty() || len > SPAN_LEN_MAX {
            return Short::Impossible;
        }
        let Some(chunk) = self.pending.memory.allocate(len) else { return Short::Impossible };
        let (transport, queue_pair) = (link.transport, link.queue_pair);
        let at = self.pending.reads.vacant();
        let work_id = WorkId(at as u64 + 1);
        // What has failed shows again on the general way.
        let is_posted = self.pending.memory.staged(transport, chunk, len).is_some_and(|local| {
            let remote = remote_of(place, block, 0);
            let transport = self.links.transports[transport].as_mut();
            transport.read_now(queue_pair, work_id, local, remote).unwrap_or(false)
        });
        if !is_posted {
            self.pending.memory.release(chunk);
            return Short::Impossible;
        }
        self.pending.count_reads(1, len);
        let of = (link_at, queue_pair, work_id);
        let Some(succeeded) = self.wait_shortly(transport, of) else {
            let span = Span { len, ..Span::whole((table, partition), place, (block, block_count)) };
            let read = span.read(queue_pair, chunk, Phase::Whole);
            let read = Read { relaxed: self.links.may_mix(link_at, reading.relaxed), ..read };
            self.pending.count_pull(into.len() as u64);
            return self.pending.go_on_as_request(
                &self.links,
                &mut self.tables,
                &mut self.recovery,
                at,
                read,
                (rows, reading),
            );
        };
        let pages = self.pending.memory.staging_pages();
        let stride = u64::from(place.at.block_stride);
        let staged = Staged { at: chunk.offset, len, stride };
        let relaxed = self.links.may_mix(link_at, reading.relaxed);
        let is_good = |block| match relaxed {
            true => !staged.is_fenced(pages, block),
            false => staged.is_whole(pages, block),
        };
        let is_whole = succeeded && (0..block_count).all(is_good);
        if is_whole {
            let block_rows = u64::from(place.at.block_rows);
            let first = rows.start - place.at.first_row - block * block_rows;
            let at = chunk.offset + ROWS_AT - HEAD_VERSION_AT;
            let row_len = self.tables[table].row_len;
            Rows { at, stride, block_rows, row_len }.copy(pages, first, into);
            self.pending.count_pull(into.len() as u64);
        } else {
            self.pending.counters.reads_retried += u64::from(succeeded);
        }
        self.pending.memory.release(chunk);
        if is_whole { Short::Pulled(reading) } else { Short::Impossible }
    }

    /// Reads rows between their blocks' versions, and takes what they bring, unless that takes long.
    fn pull_guarded(
        &mut self,
        (table, partition): (TableIndex, PartitionId),
        place: &Place,
        (rows, reading): (RowRange, Reading),
        into: &mut [u8],
    ) -> Short {
        let mut span = Span::whole((table, partition), place, blocks_of(place, rows));
        let (first, row_len) = (place.at.first_row, self.tables[table].row_len);
        span.trim_guarded((rows.start - first, rows.end - first), row_len);
        if !self.links.all[place.link].sender.is_empty() || span.len > SPAN_LEN_MAX {
            return Short::Impossible;
        }
        let Some(mut read) = self.pending.stage_guarded(&self.links, &span) else {
            return Short::Impossible;
        };
        let at = self.pending.reads.vacant();
        let work_id = WorkId(at as u64 + 1);
        let is_posted = self.pending.post_guarded(&mut self.links, &read, Phase::After, work_id);
        read.phase = Phase::After;
        if !is_posted {
            self.pending.release_short(&mut read);
            return Short::Impossible;
        }
        let transport = self.links.all[read.span.place.link].transport;
        let Some(succeeded) =
            self.wait_shortly(transport, (read.span.place.link, read.queue_pair, work_id))
        else {
            self.pending.count_pull(into.len() as u64);
            return self.pending.go_on_as_request(
                &self.links,
                &mut self.tables,
                &mut self.recovery,
                at,
                read,
                (rows, reading),
            );
        };
        let is_whole = succeeded && self.pending.reads.agrees(&self.pending.memory, &read);
        if is_whole {
            let part = self.tables[table].layout.rows_of(partition);
            copy_read(&read, self.pending.memory.staging_pages(), (part, rows), row_len, into);
            self.pending.count_pull(into.len() as u64);
        } else {
            self.pending.counters.reads_retried += u64::from(succeeded);
        }
        self.pending.release_short(&mut read);
        if is_whole { Short::Pulled(reading) } else { Short::Impossible }
    }

    /// Waits for a read of a link for as long as no request is needed for it; whether it has
    /// succeeded, if it has ended.
    #[inline]
    fn wait_shortly(&mut self, transport: usize, of: (usize, QueuePairId, WorkId)) -> Option<bool> {
        for _ in 0..POLLS_MAX {
            if let Some(succeeded) = self.poll_for(transport, of) {
                self.links.spin.found();
                return Some(succeeded);
            }
            if self.links.spin.idle() == Idle::Crowded {
                break;
            }
        }
        None
    }

    /// Polls a transport once; whether a read of a link has succeeded, if it has ended.
    #[inline]
    fn poll_for(
        &mut self,
        transport: usize,
        (link, queue_pair, work_id): (usize, QueuePairId, WorkId),
    ) -> Option<bool> {
        let mut completions = std::mem::take(&mut self.links.completions);
        let count = self.links.transports[transport].poll(&mut completions);
        let mut outcome = None;
        for completion in &completions[..count] {
            if completion.work_id != work_id || completion.queue_pair != queue_pair {
                self.take_completion(transport, completion);
            } else {
                outcome = Some(completion.status == CompletionStatus::Success);
            }
        }
        self.links.completions = completions;
        if outcome == Some(false) {
            self.links.lose(link);
        }
        outcome
    }
}

impl Pending {
    /// From here on it is a read like others.
    #[cold]
    fn go_on_as_request(
        &mut self,
        links: &Links,
        tables: &mut Tables,
        recovery: &mut Recovery,
        at: usize,
        read: Read,
        (rows, reading): (RowRange, Reading),
    ) -> Short {
        let request = self.requests.start(true);
        if let Some(slot) = self.requests.find_mut(request) {
            slot.parts_left = 1;
            slot.reply = Reply::Blocks { rows, reading };
        }
        self.reads.reads[at] = Some(Read { request, ..read });
        if links.all[read.span.place.link].failed {
            // What completed meanwhile ended the link, and the reads that were known then.
            self.fail_reads(links, tables, recovery, read.span.place.link);
        }
        Short::Started(request)
    }
}

/// The first of a place's blocks that rows lie in, and how many they are.
fn blocks_of(place: &Place, rows: RowRange) -> (u64, u64) {
    let block_rows = u64::from(place.at.block_rows);
    let first = (rows.start - place.at.first_row) / block_rows;
    let last = (rows.end - 1 - place.at.first_row) / block_rows;
    (first, last + 1 - first)
}
