//! Copying blocks into staging buffers, and writing those.

use std::time::Duration;

use windlass_wire::PartitionId;

use super::{
    BUFFERS, BlockHead, CheckpointError, CheckpointSource, Checkpointer, Extent, Next, OWNER,
    STAGING,
    run::{BufferState, Run, Stage},
};
use crate::persist::{
    frame::{HEADER_BYTES, Header, Kind, Salt},
    limits::{BLOCK_BYTES, FRAME_ALIGNMENT, STAGING_BYTES},
    log::Log,
    storage::{Buffer, Operation, Storage, Token},
};

/// What beginning with a partition counts as, in bytes copied.
const BEGIN_COST: usize = 8 << 10;

impl Checkpointer {
    /// Copies blocks into staging buffers and writes those that are full.
    pub(super) fn copy(
        &mut self,
        run: &mut Run,
        storage: &mut dyn Storage,
        log: &Log,
        source: &mut dyn CheckpointSource,
        now: Duration,
        budget_bytes: usize,
    ) -> Result<(), CheckpointError> {
        let (requests, room) = (source.requests(), log.room_bytes());
        run.rate.advance(&self.config, run.copied(), source.bytes(), requests, room, now);
        let mut copied = 0;
        while copied < budget_bytes && run.rate.allows(run.copied()) {
            let used = match run.buffers[run.filling] {
                BufferState::Free => 0,
                BufferState::Filled { used } => used,
                BufferState::Ready { .. } | BufferState::Writing { .. } => break,
            };
            if run.at == run.manifest.partitions.len() {
                self.end_data(run, used);
                break;
            }
            if !run.begun {
                self.begin(run, log, source);
                copied += BEGIN_COST;
                continue;
            }
            let entry = &mut run.manifest.partitions[run.at];
            // The end frame must always fit behind. A block that ended just before it leaves no room.
            let room = STAGING_BYTES.saturating_sub(used + 2 * HEADER_BYTES);
            let start = run.filling * STAGING_BYTES + used;
            let partition = entry.partition;
            let next = if room == 0 {
                Next::NoRoom
            } else {
                source.next(partition, self.window.bytes_mut(start + HEADER_BYTES, room))
            };
            match next {
                Next::Block(head) => {
                    assert!(head.length <= room, "a block longer than its buffer");
                    entry.end = entry.end.max(head.lsn);
                    entry.epoch = entry.epoch.max(head.epoch);
                    let length = (HEADER_BYTES + head.length).next_multiple_of(FRAME_ALIGNMENT);
                    let frame = self.window.bytes_mut(start, length);
                    frame[HEADER_BYTES + head.length..].fill(0);
                    block_header(partition, &head, length).seal(frame, Salt::NONE);
                    run.blocks += 1;
                    run.buffers[run.filling] = BufferState::Filled { used: used + length };
                    copied += length;
                    if used + length >= run.rate.write_bytes() {
                        self.end_buffer(run, used + length);
                        self.write_ready(run, storage);
                    }
                }
                Next::NoRoom if used <= HEADER_BYTES => {
                    return Err(CheckpointError::BlockTooLong { partition });
                }
                Next::NoRoom => {
                    self.end_buffer(run, used);
                    self.write_ready(run, storage);
                }
                Next::Later { cost } => copied += cost.max(1),
                Next::Done => (run.at, run.begun) = (run.at + 1, false),
            }
        }
        self.write_ready(run, storage);
        Ok(())
    }

    /// Begins with the next partition. Between the checkpoint's beginning and this its records are in
    /// the log that is kept, and all of them are applied: blocks hold what was before.
    fn begin(&mut self, run: &mut Run, log: &Log, source: &mut dyn CheckpointSource) {
        let entry = &mut run.manifest.partitions[run.at];
        let anew = run.full || source.begins_anew(entry.partition);
        let before = self.last.partition(entry.partition).filter(|_| !anew);
        let extent = if before.is_some() { Extent::Changed } else { Extent::Full };
        source.begin(entry.partition, extent);
        entry.begin = log.last_lsn(entry.partition);
        entry.end = entry.begin;
        entry.first_file = before.map_or(run.manifest.number, |before| before.first_file);
        run.begun = true;
    }

    fn end_data(&mut self, run: &mut Run, used: usize) {
        let start = run.filling * STAGING_BYTES + used;
        let header = Header {
            lsn: run.manifest.number,
            row_count: run.blocks,
            ..Header::of(Kind::CheckpointEnd)
        };
        header.seal(self.window.bytes_mut(start, HEADER_BYTES), Salt::NONE);
        self.end_buffer(run, used + HEADER_BYTES);
        run.stage = Stage::DrainData;
    }

    fn end_buffer(&mut self, run: &mut Run, used: usize) {
        let padded = used.next_multiple_of(BLOCK_BYTES);
        if padded > used {
            let start = run.filling * STAGING_BYTES + used;
            let bytes = self.window.bytes_mut(start, padded - used);
            bytes.fill(0);
            Header::of(Kind::Pad).seal(bytes, Salt::NONE);
        }
        run.buffers[run.filling] =
            BufferState::Ready { used: padded, offset: run.file_offset, at: 0 };
        run.file_offset += padded as u64;
        self.bytes_written += padded as u64;
        run.filling = (run.filling + 1) % BUFFERS;
    }

    /// Writes what is full, oldest first, as much as one turn may.
    pub(super) fn write_ready(&mut self, run: &mut Run, storage: &mut dyn Storage) {
        let Some(file) = run.file else { return };
        for step in 0..BUFFERS {
            let index = (run.filling + step) % BUFFERS;
            let BufferState::Ready { used, offset, at } = run.buffers[index] else { continue };
            let to = used.min(at + self.pace.left());
            if to == at {
                return;
            }
            let start = (index * STAGING_BYTES + at) as u64;
            let length = u32::try_from(to - at).expect("a buffer's length");
            let operation = Operation::Write {
                file,
                offset: offset + at as u64,
                buffer: Buffer { region: self.region, start, length },
                durable: false,
            };
            if storage.submit(Token::new(OWNER, STAGING + index as u64), operation).is_err() {
                return;
            }
            self.pace.submitted(to - at);
            run.buffers[index] = BufferState::Writing { used, offset, at, to };
        }
    }
}

fn block_header(partition: PartitionId, head: &BlockHead, frame_bytes: usize) -> Header {
    let slack = frame_bytes - HEADER_BYTES - head.length;
    Header {
        lsn: head.lsn.0,
        epoch: head.epoch.0,
        partition: partition.0,
        table: head.table.0,
        row_start: head.index,
        row_count: head.detail,
        tag: head.section,
        slack: u8::try_from(slack).expect("less than one alignment"),
        ..Header::of(Kind::CheckpointBlock)
    }
}
