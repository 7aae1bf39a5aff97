//! Where things lie in memory that is shared with a peer.

use crate::ids::{PartitionId, WorkerClock};

/// A region of the peer, as [`RemoteRegion`] of the transport.
///
/// [`RemoteRegion`]: https://docs.rs/windlass-transport
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedRegion {
    /// Key to name it by.
    pub key: u32,
    /// Address of its first byte in the owner's terms.
    pub address: u64,
    /// Length in bytes.
    pub len: u64,
}

/// Where the rows of one partition of a dense table lie, for one-sided reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionPlace {
    /// The partition.
    pub partition: PartitionId,
    /// Region that holds it.
    pub region: SharedRegion,
    /// Offset of its first block's line within the region.
    pub offset: u64,
    /// First row.
    pub first_row: u64,
    /// Number of rows.
    pub row_count: u64,
    /// Rows per block; the last one may have fewer.
    pub block_rows: u32,
    /// Bytes from one block's line to the next one's.
    pub block_stride: u32,
}

/// Where a table's clock at one shard is published, for one-sided reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockPlace {
    /// Region that holds the [`ClockLine`](crate::ClockLine).
    pub region: SharedRegion,
    /// Its offset within the region.
    pub offset: u64,
    /// The clock the asking worker starts from; 0 without a rank.
    pub clock: WorkerClock,
}

crate::codec::wire_struct!(SharedRegion { key, address, len });
crate::codec::wire_struct!(ClockPlace { region, offset, clock });
crate::codec::wire_struct!(PartitionPlace {
    partition,
    region,
    offset,
    first_row,
    row_count,
    block_rows,
    block_stride,
});
