//! The tail of a log that is not known to have been synced.

use crate::persist::{
    limits::BLOCK_BYTES,
    log_files::LogFiles,
    log_walk::Walked,
    scan::{self, ScanMemory},
    storage::{Storage, StorageError},
};

/// Writes what was read behind the last position that is known to be durable once more: it may lie in a
/// cache only, which counts it as written although a sync has failed.
pub(super) fn write_again(
    storage: &mut dyn Storage,
    memory: &ScanMemory,
    files: &LogFiles,
    walked: &Walked,
) -> Result<(), StorageError> {
    let block = BLOCK_BYTES as u64;
    for live in &walked.tail.live {
        let (start, end) = (walked.durable.saturating_sub(live.base) / block * block, live.end);
        let link = files.chain.iter().find(|link| link.name == live.name);
        let file = link.expect("a live segment is one of the chain").file;
        let end = end.next_multiple_of(block).min(live.file_bytes);
        scan::write_again(storage, memory, file, start..end, !walked.damage.is_empty())?;
    }
    Ok(())
}
