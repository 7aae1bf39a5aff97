//! Short pulls, the ones whose latency shows: rows of one partition, copied out of this host's memory
//! or by one read that is posted, waited for, checked and copied in a line. It takes no request, and
//! becomes one when it takes long; whatever is out of the ordinary goes the general way.

use windlass_transport::{Completion, CompletionStatus, WorkId, chunks::Chunk, spin::Idle};
use windlass_wire::RowRange;

use super::{
    super::{
        Core, RequestId, TableIndex,
        push::Replica,
        requests::{NOBODY, Reading, Reply},
        view::CopyMode,
    },
    Phase, Read, copy_read,
    guard::{Guard, Layout},
    span::Span,
    span_len,
};
use crate::{config::PullOptions, error::RequestError};

/// Longest rows of a short pull, and most bytes of the blocks they lie in.
const ROWS_LEN_MAX: u64 = 8 << 10;
const SPAN_LEN_MAX: u64 = 2 * ROWS_LEN_MAX;

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
        self.check_range(table, rows)?;
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
            && !self.in_trouble()
            && !self.has_open_round()
            && self.requests.next_is_free();
        let replica = self.replica_of(options.from);
        if !is_plain || replica == Replica::Strong {
            return Short::Impossible;
        }
        let relaxed = options.relaxed;
        let mut reading = Reading { replica, relaxed, clock: self.pull_clock(table), gains: 0 };
        if !self.may_pull(table, rows, &mut reading) {
            return Short::Impossible;
        }
        let state = &self.tables[table.0];
        let (partition, row_len) = (state.layout.partition_of(rows.start), state.row_len);
        let place = state.places.find(replica, partition.0 as usize);
        let Some(place) = place.filter(|place| {
            place.at.first_row <= rows.start
                && rows.end <= place.at.first_row + place.at.row_count
                && !self.links[place.link].failed
        }) else {
            return Short::Impossible;
        };
        if let Some(view) = place.view {
            let (place, copy) = (*place, CopyMode { relaxed, streams: false });
            return match self.copy_view(&place, view, rows, row_len, copy, into) {
                Ok(true) => {
                    self.count_pull(len);
                    Short::Pulled(reading)
                }
                Ok(false) | Err(_) => Short::Impossible,
            };
        }
        let block_rows = u64::from(place.at.block_rows);
        let block = (rows.start - place.at.first_row) / block_rows;
        let block_count = (rows.end - 1 - place.at.first_row) / block_rows + 1 - block;
        let (skipped, len) = (0, span_len(place, block_count));
        let mut span = Span {
            table,
            partition,
            place: *place,
            block,
            block_count,
            skipped,
            len,
            by_value: false,
        };
        let guarded = self.is_guarded(place.link, relaxed);
        if guarded {
            let first = place.at.first_row;
            span.trim_guarded((rows.start - first, rows.end - first), row_len);
        }
        if !self.links[span.place.link].sender.is_empty() || span.len > SPAN_LEN_MAX {
            return Short::Impossible;
        }
        let Some(read) = self.stage_short(&span, guarded, relaxed) else {
            return Short::Impossible;
        };
        self.read_short(read, (rows, reading), into)
    }

    /// Memory for a read that takes no request, unless there is none or it would take several steps.
    fn stage_short(&mut self, span: &Span, guarded: bool, relaxed: bool) -> Option<Read> {
        let mut versions = None;
        if guarded {
            let mut layout = Layout::default();
            let laid = layout.add(&span.place, span.block, span.block_count);
            if !layout.fits() {
                return None;
            }
            let guard = Guard::new(self.memory.allocate(2 * layout.len)?, layout.len);
            let guard = self.reads.add_guard(guard);
            versions = Some(self.reads.guarded_by(guard, laid));
        }
        let Span { table, partition, place, block, block_count, skipped, len, .. } = *span;
        let chunk = self.memory.allocate(len);
        let mut read = Read {
            request: NOBODY,
            table,
            partition,
            place,
            link: place.link,
            queue_pair: self.links[place.link].queue_pair,
            block,
            block_count,
            chunk: chunk.unwrap_or(Chunk { offset: 0, len: 0 }),
            skipped,
            len,
            relaxed,
            is_sole: true,
            versions,
            phase: if guarded { Phase::Before } else { Phase::Whole },
            joined: None,
            met: 0,
            again: None,
        };
        if chunk.is_none() || guarded && !self.may_fence(&read) {
            self.release_short(&mut read);
            return None;
        }
        Some(read)
    }

    fn release_short(&mut self, read: &mut Read) {
        self.release_versions(read);
        if read.chunk.len > 0 {
            self.memory.release(read.chunk);
        }
    }

    /// Posts a read at once.
    fn post_short(&mut self, read: &mut Read, work_id: WorkId) -> bool {
        let transport = self.links[read.link].transport;
        let Some(local) = self.memory.staged(transport, read.chunk, read.len) else { return false };
        if read.phase == Phase::Before {
            let is_posted = self.post_guarded(read, Phase::After, work_id);
            read.phase = Phase::After;
            return is_posted;
        }
        let transport = self.transports[transport].as_mut();
        let posted = transport.read_now(read.queue_pair, work_id, local, read.remote());
        // What has failed shows again on the general way.
        let is_posted = posted.unwrap_or(false);
        if is_posted {
            self.count_reads(1, read.len);
        }
        is_posted
    }

    /// Posts a read of whole blocks and takes what it brings, unless that takes long.
    fn read_short(
        &mut self,
        mut read: Read,
        (rows, reading): (RowRange, Reading),
        into: &mut [u8],
    ) -> Short {
        let at = self.reads.vacant();
        let work_id = WorkId(at as u64 + 1);
        let transport = self.links[read.link].transport;
        if !self.post_short(&mut read, work_id) {
            self.release_short(&mut read);
            return Short::Impossible;
        }
        for _ in 0..POLLS_MAX {
            let Some(succeeded) = self.poll_for(transport, &read, work_id) else {
                if self.spin.idle() == Idle::Crowded {
                    break;
                }
                continue;
            };
            self.spin.found();
            let is_whole = succeeded
                && match read.phase {
                    Phase::After => self.agrees(&read),
                    _ if read.relaxed => !self.is_fenced(&read),
                    _ => self.is_whole(&read),
                };
            if is_whole {
                let state = &self.tables[read.table.0];
                let part = state.layout.rows_of(read.partition);
                copy_read(&read, self.memory.staging_pages(), (part, rows), state.row_len, into);
                self.count_pull(into.len() as u64);
            } else {
                self.counters.reads_retried += u64::from(succeeded);
            }
            self.release_short(&mut read);
            return if is_whole { Short::Pulled(reading) } else { Short::Impossible };
        }
        // From here on it is a read like others.
        let request = self.requests.start(true);
        if let Some(slot) = self.requests.find_mut(request) {
            slot.parts_left = 1;
            slot.reply = Reply::Blocks { rows, reading };
        }
        self.reads.reads[at] = Some(Read { request, ..read });
        if self.links[read.link].failed {
            // What completed meanwhile ended the link, and the reads that were known then.
            self.fail_reads(read.link);
        }
        self.count_pull(into.len() as u64);
        Short::Started(request)
    }

    /// Polls a transport once; whether a read has succeeded, if it has ended.
    #[inline]
    fn poll_for(&mut self, transport: usize, read: &Read, work_id: WorkId) -> Option<bool> {
        let mut completions = std::mem::take(&mut self.completions);
        let count = self.transports[transport].poll(&mut completions);
        let mut outcome = None;
        for completion in &completions[..count] {
            let Completion { queue_pair, work_id: of, status, .. } = *completion;
            if of != work_id || queue_pair != read.queue_pair {
                self.take_completion(transport, completion);
            } else {
                outcome = Some(status == CompletionStatus::Success);
            }
        }
        self.completions = completions;
        if outcome == Some(false) {
            self.fail_link(read.link);
        }
        outcome
    }
}
