//! Reading the data file of a checkpoint.

use windlass_wire::{Epoch, Lsn, PartitionId, TableId};

use super::Block;
use crate::persist::{
    checkpoint::BlockHead,
    frame::{Frame, FrameError, HEADER_BYTES, Header, Kind, Salt},
    limits::RECORD_BYTES_MAX,
    scan::{Reader, ScanMemory},
    storage::{self, Storage, StorageError},
};

/// Where a checkpoint's file is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BadBlock {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// What was found.
    pub reason: String,
}

/// Reads all blocks of a data file, checking every byte. Returns how many there were.
pub(crate) fn read_data_file(
    storage: &mut dyn Storage,
    memory: &mut ScanMemory,
    name: &str,
    length: u64,
    visit: &mut dyn FnMut(&Block<'_>),
) -> Result<u64, BadBlock> {
    let at_start = |error: StorageError| BadBlock { offset: 0, reason: error.source.to_string() };
    let file = storage::open_file(storage, name, false).map_err(at_start)?;
    let result = read_blocks(storage, memory, file, length, visit);
    storage::run(storage, storage::Operation::Close { file }).map_err(at_start)?;
    result
}

fn read_blocks(
    storage: &mut dyn Storage,
    memory: &mut ScanMemory,
    file: storage::FileId,
    length: u64,
    visit: &mut dyn FnMut(&Block<'_>),
) -> Result<u64, BadBlock> {
    let mut reader = Reader::new(storage, memory, file, 0, length);
    let mut blocks = 0;
    loop {
        let offset = reader.offset();
        let bad = |error: FrameError| BadBlock { offset, reason: error.to_string() };
        let unread = |error: StorageError| BadBlock { offset, reason: error.source.to_string() };
        let bytes = reader.bytes(HEADER_BYTES).map_err(unread)?;
        let (_, length) = Header::decode(bytes, Salt::NONE).map_err(bad)?;
        if length > RECORD_BYTES_MAX {
            return Err(bad(FrameError::Length { length }));
        }
        let bytes = reader.bytes(length).map_err(unread)?;
        let frame = Frame::decode(bytes, Salt::NONE).map_err(bad)?;
        let header = frame.header;
        match header.kind {
            Kind::CheckpointBlock => {
                blocks += 1;
                let bytes = frame.delta();
                visit(&Block {
                    partition: PartitionId(header.partition),
                    head: BlockHead {
                        table: TableId(header.table),
                        section: header.tag,
                        index: header.row_start,
                        detail: header.row_count,
                        lsn: Lsn(header.lsn),
                        epoch: Epoch(header.epoch),
                        length: bytes.len(),
                    },
                    bytes,
                });
            }
            Kind::CheckpointEnd => return Ok(blocks),
            Kind::CheckpointHeader | Kind::Pad => {}
            kind => return Err(bad(FrameError::Kind { found: kind as u8 })),
        }
        reader.advance(length);
    }
}
