//! Where the rows of a dense table lie at its servers, for one-sided reads.

use std::time::Instant;

use windlass_transport::{RemoteAddress, RemoteKey, fabric::PeerBytes};
use windlass_wire::{Layout, control::PartitionPlace};

use super::message::Replica;

/// Places of each partition, at the tail of its chain and at any replica; empty until needed.
#[derive(Debug, Default)]
pub(super) struct Places {
    tail: Vec<Option<Place>>,
    any: Vec<Option<Place>>,
}

impl Places {
    fn of(&self, replica: Replica) -> &[Option<Place>] {
        if replica == Replica::Any { &self.any } else { &self.tail }
    }

    /// Keeps where a partition lies, one of so many.
    pub(super) fn set(&mut self, replica: Replica, partitions: u32, place: Place) {
        let places = if replica == Replica::Any { &mut self.any } else { &mut self.tail };
        places.resize(partitions as usize, None);
        places[place.at.partition.0 as usize] = Some(place);
    }

    /// A place, if it is known.
    #[inline]
    pub(super) fn find(&self, replica: Replica, partition: usize) -> Option<&Place> {
        self.of(replica).get(partition)?.as_ref()
    }

    /// Those of one partition that are known.
    pub(super) fn of_partition(&mut self, partition: usize) -> impl Iterator<Item = &mut Place> {
        let places = [self.tail.get_mut(partition), self.any.get_mut(partition)];
        places.into_iter().flatten().flatten()
    }

    /// All that are known.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Option<Place>> {
        self.tail.iter_mut().chain(&mut self.any)
    }

    pub(super) fn clear(&mut self) {
        self.tail.clear();
        self.any.clear();
    }
}

/// Where the rows of one partition lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) link: usize,
    pub(crate) at: PartitionPlace,
    /// The whole partition in place, when it is this host's memory.
    pub(crate) view: Option<PeerBytes>,
    /// When a read of its versions last said that it is current.
    pub(crate) current_at: Option<Instant>,
    /// The shard's gains at which its clock counts these rows in, as was found out.
    pub(crate) counted_at: Option<u64>,
}

impl Place {
    /// Where a server says that rows of `row_len` bytes lie, unless its numbers are impossible.
    pub(super) fn new(
        link: usize,
        at: PartitionPlace,
        layout: &Layout,
        row_len: u64,
    ) -> Option<Self> {
        let place = Self { link, at, view: None, current_at: None, counted_at: None };
        is_sound(&at, layout, row_len).then_some(place)
    }

    /// Address of the line of a block.
    pub(crate) fn line(&self, block: u64) -> RemoteAddress {
        let offset = self.at.offset + block * u64::from(self.at.block_stride);
        RemoteAddress {
            key: RemoteKey(self.at.region.key),
            address: self.at.region.address.wrapping_add(offset),
        }
    }

    /// Number of blocks.
    pub(crate) fn block_count(&self) -> u64 {
        self.at.row_count.div_ceil(u64::from(self.at.block_rows))
    }

    /// Bytes of all blocks and lines.
    pub(super) fn len(&self) -> u64 {
        self.block_count() * u64::from(self.at.block_stride) + 64
    }
}

/// Whether a server's numbers are those of rows of `row_len` bytes in this layout, and lie in its region:
/// nothing that reads by them looks again.
fn is_sound(place: &PartitionPlace, layout: &Layout, row_len: u64) -> bool {
    let rows = layout.rows_of(place.partition);
    let (block_rows, stride) = (u64::from(place.block_rows), u64::from(place.block_stride));
    if block_rows == 0 {
        return false;
    }
    let end = (rows.count().div_ceil(block_rows))
        .checked_mul(stride)
        .and_then(|len| len.checked_add(LINE_LEN))
        .and_then(|len| len.checked_add(place.offset));
    let first_line = place.region.address.wrapping_add(place.offset);
    place.first_row == rows.start
        && place.row_count == rows.count()
        && block_rows.checked_mul(row_len).is_some_and(|data| data + LINE_LEN <= stride)
        && end.is_some_and(|end| end <= place.region.len)
        // Versions are loaded as words where they lie.
        && first_line.is_multiple_of(8)
        && stride.is_multiple_of(8)
}

/// Bytes of the line before each block.
const LINE_LEN: u64 = 64;

#[cfg(test)]
mod tests {
    use windlass_wire::{PartitionId, TableId, TableKind, control::SharedRegion};

    use super::*;

    #[test]
    fn places_that_are_not_of_the_layout_are_refused() {
        // 10 rows of 8 bytes in 4 partitions: 3, 3, 3 and 1.
        let layout = Layout::new(TableId(0), TableKind::Dense { rows: 10 }, 4);
        let partitions = || (0..4).map(PartitionId);
        let partition = partitions().find(|at| layout.rows_of(*at).start == 3).unwrap();
        let sound = PartitionPlace {
            partition,
            region: SharedRegion { key: 1, address: 4096, len: 1024 },
            offset: 128,
            first_row: 3,
            row_count: 3,
            block_rows: 2,
            block_stride: 128,
        };
        let check = |place: &PartitionPlace| Place::new(0, *place, &layout, 8).is_some();
        assert!(check(&sound));
        let other = partitions().find(|at| *at != partition).unwrap();
        type Change = fn(&mut PartitionPlace, PartitionId);
        let cases: [(&str, Change); 11] = [
            ("rows of another partition", |place, other| place.partition = other),
            ("an earlier row", |place, _| place.first_row = 2),
            ("a row near the end of numbers", |place, _| place.first_row = u64::MAX),
            ("too many rows", |place, _| place.row_count = u64::MAX),
            ("too few rows", |place, _| place.row_count = 2),
            ("no rows in a block", |place, _| place.block_rows = 0),
            ("more rows than a block has room for", |place, _| place.block_rows = u32::MAX),
            ("blocks that overlap", |place, _| place.block_stride = 72),
            ("blocks out of line", |place, _| place.block_stride = 129),
            ("an offset out of line", |place, _| place.offset = 129),
            ("an end outside of the region", |place, _| place.offset = 1024 - 256),
        ];
        for (what, change) in cases {
            let mut place = sound;
            change(&mut place, other);
            assert!(!check(&place), "{what}");
        }
    }
}
