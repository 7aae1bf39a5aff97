//! The ring as the chain's successor reads it, and when its bytes are given back.

use windlass_wire::{Lsn, PartitionId};

use super::{Log, Sealed};
use crate::persist::frame::Kind;

impl Log {
    /// Keeps records of a partition after `lsn` in the ring until [`Log::replicated`] passes them:
    /// a chain's successor reads them there.
    pub fn hold(&mut self, partition: PartitionId, lsn: Lsn) {
        self.partitions.hold(partition, Some(lsn));
    }

    /// The successor has everything of a partition up to `lsn`.
    pub fn replicated(&mut self, partition: PartitionId, lsn: Lsn) {
        self.partitions.hold(partition, Some(lsn));
        self.release();
    }

    /// The partition has no successor any more.
    pub fn unhold(&mut self, partition: PartitionId) {
        self.partitions.hold(partition, None);
        self.release();
    }

    /// Records of a partition still in the ring from `lsn` on, in order, each with its offset in the
    /// pages: for resending, while no reservation is open. Records before the first one given have
    /// to come from elsewhere.
    pub fn held(
        &self,
        partition: PartitionId,
        lsn: Lsn,
    ) -> impl Iterator<Item = (Lsn, u64, &[u8])> + '_ {
        let mut cursor = self.ring.released();
        let end = self.sealed_end();
        std::iter::from_fn(move || {
            loop {
                cursor = self.ring.after_gap(cursor);
                if cursor >= end {
                    return None;
                }
                let here = cursor;
                let lying = self.ring.lying(here);
                cursor += lying.length;
                if lying.partition == partition.0
                    && lying.lsn >= lsn.0
                    && Kind::from_number(lying.kind).is_some_and(Kind::is_record)
                {
                    let length = usize::try_from(lying.length).unwrap_or(0);
                    let bytes = self.ring.bytes(here, length);
                    return Some((Lsn(lying.lsn), self.ring.page_offset(here), bytes));
                }
            }
        })
    }

    /// The bytes of a record just sealed, to be applied straight from the ring. Panics when it was
    /// released meanwhile.
    #[must_use]
    pub fn sealed_bytes(&self, sealed: &Sealed) -> &[u8] {
        self.ring.at_page_offset(sealed.page_offset, sealed.length)
    }

    /// Gives back what is on disk and with every successor.
    pub(super) fn release(&mut self) {
        if !self.partitions.any_held() {
            self.ring.release(self.durable_cursor);
            return;
        }
        let mut cursor = self.ring.released();
        loop {
            cursor = self.ring.after_gap(cursor);
            if cursor >= self.durable_cursor {
                break;
            }
            let lying = self.ring.lying(cursor);
            let is_record = Kind::from_number(lying.kind).is_some_and(Kind::is_record);
            if is_record && self.partitions.holds(PartitionId(lying.partition), Lsn(lying.lsn)) {
                break;
            }
            cursor += lying.length;
        }
        self.ring.release(cursor.min(self.durable_cursor).max(self.ring.released()));
    }

    /// Ring cursor up to which all frames are sealed.
    fn sealed_end(&self) -> u64 {
        self.batches
            .iter()
            .find(|batch| batch.filling > 0)
            .map_or(self.ring.tail(), |batch| batch.start)
    }
}
