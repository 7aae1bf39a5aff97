//! Every bound of the log, the checkpoints and recovery, and how they relate.

/// Unit of log and checkpoint writes. A physical sector never holds bytes of two writes, so that a
/// torn write cannot take back what an earlier one made durable.
pub const BLOCK_BYTES: usize = 4096;

/// Size and alignment of a frame's header, and the alignment of deltas: one cache line, one vector.
pub const FRAME_ALIGNMENT: usize = 64;

/// Longest record: the longest push, its keys and a margin for what it covers.
pub const RECORD_BYTES_MAX: usize = 24 << 20;

/// Most sessions one record covers.
pub const COVERED_MAX: usize = 4096;

/// Most worker clock stamps in one record.
pub const STAMPS_MAX: usize = 4096;

/// Most keys in one record: their lists must end where the delta's 16-bit offset can still point.
pub const KEYS_MAX: usize = 1 << 18;

/// Most partitions one shard's log serves.
pub const PARTITIONS_PER_LOG_MAX: usize = 4096;

/// Partition numbers are below this.
pub const PARTITION_NUMBER_MAX: u32 = 1 << 20;

/// A batch that has grown to this is closed and written without waiting for the turn's end.
pub const BATCH_BYTES_TARGET: usize = 1 << 20;

/// Bytes from which a batch is written while another write is under way: from here on a write's
/// time grows with its length, so that two overlap instead of sharing one flush.
pub const OVERLAP_BYTES_MIN: u64 = 64 << 10;

/// Most batches between closing and release of their write.
pub const BATCHES_MAX: usize = 1024;

/// Most log writes under way.
pub const WRITES_MAX: usize = 64;

/// How far a log's sequence jumps when it is opened: beyond every segment that a crash may have
/// begun without a trace, one per write under way, so that no salt is ever used twice.
pub const SEQUENCE_JUMP: u64 = 128;

/// The same where the log's watermark is lost: beyond all segments of lives that left no trace at all.
pub const SEQUENCE_JUMP_BLIND: u64 = 1 << 20;

/// Least time between two writings of a log's watermark.
pub const WATERMARK_INTERVAL: std::time::Duration = std::time::Duration::from_millis(250);

/// Attempts to read a block that cannot be read.
pub const READ_ATTEMPTS_MAX: u32 = 3;

/// Time between two of these attempts.
pub const READ_RETRY_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// Longest write that a shard carries out in place; see `uring/in_place.rs`. Longer ones take their time,
/// and gain by overlapping.
pub const IN_PLACE_BYTES_MAX: u32 = 512 << 10;

/// Mean time of writes up to which they are carried out in place: a shard does nothing else meanwhile.
pub const IN_PLACE_MEAN_MAX: std::time::Duration = std::time::Duration::from_micros(250);

/// Most operations a storage holds at once.
pub const OPERATIONS_MAX: usize = 256;

/// Most files a storage has open at once.
pub const FILES_MAX: usize = 4096;

/// Most memory regions a storage knows.
pub const REGIONS_MAX: usize = 64;

/// Largest region io_uring takes as one registered buffer.
pub const REGISTERED_BUFFER_BYTES_MAX: usize = 1 << 30;

/// Smallest segment.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;

/// The first segments of a log, unless it is told otherwise.
pub const SEGMENT_BYTES_FIRST: u64 = 8 << 20;

/// Longest segment, unless it is told otherwise.
pub const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// A new segment is long enough for what is written in this time, so that the next one is there when it
/// is full.
pub const SEGMENT_TIME: std::time::Duration = std::time::Duration::from_millis(250);

/// A new segment is not shorter than this part of all segments: few files make up a long log.
pub const SEGMENTS_PER_LOG: u64 = 32;

/// A new segment is at most this many times as long as the one filled last.
pub const SEGMENT_GROWTH_MAX: u64 = 4;

/// Longest segments left when a log is nearly full: no new pushes from then on.
pub const SEGMENTS_LAST: u64 = 4;

/// Longest segments left for the images that a checkpoint needs to end, whatever is recorded meanwhile.
pub const SEGMENTS_OF_IMAGES: u64 = 2;

/// Most segments of one log.
pub const SEGMENTS_MAX: usize = 4096;

/// Longest superblock: the fixed part and one entry for each partition, in whole blocks.
pub const SUPERBLOCK_BYTES_MAX: usize =
    (FRAME_ALIGNMENT + 64 + PARTITIONS_PER_LOG_MAX * 16).next_multiple_of(BLOCK_BYTES);

/// Longest block of a checkpoint, header excluded.
pub const CHECKPOINT_BLOCK_BYTES_MAX: usize = 1 << 20;

/// One staging buffer of a checkpoint: several are filled and written in turn.
pub const STAGING_BYTES: usize = 2 << 20;

/// Bytes from which a staging buffer is written before it is full: a file system that copies what it is
/// given, as some do, does so within the turn that gives it.
pub const STAGING_WRITE_BYTES: usize = 256 << 10;

/// The same while requests are served: a write of the log waits for the one that the device is at.
pub const STAGING_WRITE_BYTES_SHORT: usize = 64 << 10;

/// Bytes of an old checkpoint's file that are given back to the file system at once: a device discards
/// them in well below a millisecond.
pub const RELEASE_BYTES: u64 = 1 << 20;

/// Checkpoints that fail one after another before a log without room for more records stops: only
/// they bring room back.
pub const CHECKPOINT_FAILURES_MAX: u32 = 3;

/// Milliseconds from a failed checkpoint to the next attempt, while the log has room.
pub const CHECKPOINT_RETRY_MS: u64 = 1000;

/// Longest manifest.
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;

/// Most data files of one checkpoint; the next one after that is full.
pub const CHECKPOINT_FILES_MAX: usize = 64;

/// One read of a scan.
pub const READ_BYTES: usize = 4 << 20;

/// Readings of a directory by one scrub, while each finds something bad that the one before did not.
pub const SCRUB_READINGS_MAX: usize = 4;

/// Longest file name within a storage's directory.
pub const NAME_BYTES_MAX: usize = 128;

const _: () = {
    assert!(BLOCK_BYTES.is_multiple_of(FRAME_ALIGNMENT));
    assert!(RECORD_BYTES_MAX.is_multiple_of(BLOCK_BYTES));
    // The lists before a delta must be addressable by 16 bits of 64-byte units.
    let lists = FRAME_ALIGNMENT + COVERED_MAX * 24 + STAMPS_MAX * 16 + KEYS_MAX * 8;
    assert!(lists / FRAME_ALIGNMENT < u16::MAX as usize);
    assert!(lists < RECORD_BYTES_MAX);
    assert!(CHECKPOINT_BLOCK_BYTES_MAX + 2 * FRAME_ALIGNMENT <= STAGING_BYTES);
    assert!(READ_BYTES.is_multiple_of(BLOCK_BYTES));
    assert!(SEQUENCE_JUMP > WRITES_MAX as u64);
    assert!(SEQUENCE_JUMP_BLIND > SEQUENCE_JUMP);
    assert!(WRITES_MAX < OPERATIONS_MAX);
    assert!(SEGMENT_BYTES_MIN <= SEGMENT_BYTES_FIRST && SEGMENT_BYTES_FIRST <= SEGMENT_BYTES_MAX);
    assert!(RECORD_BYTES_MAX as u64 + (1 << 20) < SEGMENT_BYTES_MAX);
    assert!(SEGMENTS_OF_IMAGES < SEGMENTS_LAST);
};
