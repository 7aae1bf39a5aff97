//! Registered memory for values on their way: pushes fetched from clients, pulls gathered for them.

use windlass_transport::{
    Access, LocalSlice, MemoryRegion, Pages, Transport, WorkId,
    memory::{HugePages, Lock, PagesOptions},
};

use super::{
    ShardError,
    fetch::{Outstanding, OutstandingSlab},
};
use crate::limits::STAGING_LEN;

/// A piece of the staging area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// The area, registered with every transport, and what of it is free.
#[derive(Debug)]
pub(super) struct Staging {
    pages: Pages,
    regions: Vec<MemoryRegion>,
    /// Free pieces by offset, never touching each other.
    free: Vec<Chunk>,
    outstanding: OutstandingSlab,
}

impl Staging {
    pub(super) fn new(transports: &mut [Box<dyn Transport>]) -> Result<Self, ShardError> {
        // Not locked: most servers never use most of it, and devices pin what they register.
        let options =
            PagesOptions { huge: HugePages::Never, lock: Lock::Never, sealed_for_peers: false };
        let pages = Pages::allocate(STAGING_LEN, options)
            .map_err(|source| ShardError::Staging { source })?;
        let mut regions = Vec::new();
        for transport in transports {
            let region = transport.register(&pages, Access::LOCAL).map_err(|source| {
                ShardError::Register { provider: transport.capabilities().provider, source }
            })?;
            regions.push(region);
        }
        let free = vec![Chunk { offset: 0, len: pages.len() as u64 }];
        Ok(Self { pages, regions, free, outstanding: OutstandingSlab::default() })
    }

    /// A piece of at least `len` bytes, 64-byte aligned, or `None` until others are released.
    pub(super) fn allocate(&mut self, len: u64) -> Option<Chunk> {
        let len = len.max(1).next_multiple_of(64);
        let at = self.free.iter().position(|chunk| chunk.len >= len)?;
        let chunk = &mut self.free[at];
        let allocated = Chunk { offset: chunk.offset, len };
        chunk.offset += len;
        chunk.len -= len;
        if chunk.len == 0 {
            self.free.remove(at);
        }
        Some(allocated)
    }

    /// Gives a piece back.
    pub(super) fn release(&mut self, chunk: Chunk) {
        let at = self.free.partition_point(|free| free.offset < chunk.offset);
        self.free.insert(at, chunk);
        if at + 1 < self.free.len() && chunk.offset + chunk.len == self.free[at + 1].offset {
            self.free[at].len += self.free[at + 1].len;
            self.free.remove(at + 1);
        }
        if at > 0 && self.free[at - 1].offset + self.free[at - 1].len == self.free[at].offset {
            self.free[at - 1].len += self.free[at].len;
            self.free.remove(at);
        }
    }

    /// Remembers what a signaled request is for; its completion finds it by the work id.
    pub(super) fn start(&mut self, outstanding: Outstanding) -> WorkId {
        self.outstanding.insert(outstanding)
    }

    /// What a completed request was for.
    pub(super) fn finish(&mut self, work_id: WorkId) -> Option<Outstanding> {
        self.outstanding.remove(work_id)
    }

    /// Pointer to a piece's first byte.
    pub(super) fn pointer(&self, chunk: Chunk) -> *mut u8 {
        #[expect(clippy::cast_possible_truncation, reason = "within the area")]
        self.pages.pointer(chunk.offset, chunk.len as usize)
    }

    /// `len` bytes of a piece from `from` on, as a transport names them.
    pub(super) fn slice(&self, transport: usize, chunk: Chunk, from: u64, len: u32) -> LocalSlice {
        self.regions[transport].slice(chunk.offset + from, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_pieces_join_again() {
        let mut staging = Staging::new(&mut []).unwrap();
        let pieces: Vec<Chunk> = (0..8).map(|_| staging.allocate(1 << 20).unwrap()).collect();
        for order in [0, 2, 1, 7, 5, 6, 3, 4] {
            staging.release(pieces[order]);
        }
        assert_eq!(staging.free, [Chunk { offset: 0, len: STAGING_LEN as u64 }]);
        assert!(staging.allocate(STAGING_LEN as u64 + 1).is_none());
        assert!(staging.allocate(STAGING_LEN as u64).is_some());
        assert!(staging.allocate(1).is_none());
    }
}
