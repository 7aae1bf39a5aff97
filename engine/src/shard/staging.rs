//! Registered staging memory: values fetched from clients, and rows gathered for their pulls.

use windlass_transport::{
    Access, LocalSlice, MemoryRegion, Pages, Transport, WorkId,
    chunks::{Chunk, Chunks},
    mailbox::digest_of,
    memory::{HugePages, Lock, PagesOptions},
};

use super::{
    ShardError,
    fetch::{Outstanding, OutstandingSlab},
    ids_hash::{self, IdMap},
};
use crate::limits::{STAGING_LEN, STAGING_SESSION_LEN_MAX};

/// Requests under way and pieces in use from which their tables grow.
const OUTSTANDING_EXPECTED: usize = 128;

/// The area, registered with every transport, and what of it is free.
#[derive(Debug)]
pub(super) struct Staging {
    pages: Pages,
    regions: Vec<MemoryRegion>,
    chunks: Chunks,
    /// Who holds the piece at an offset, and how much each holds, by the session's life.
    owners: IdMap<u64, u64>,
    held: IdMap<u64, u64>,
    outstanding: OutstandingSlab,
}

impl Staging {
    pub(super) fn new(transports: &mut [Box<dyn Transport>]) -> Result<Self, ShardError> {
        // Not locked: most servers never use most of it, and devices pin what they register.
        let options =
            PagesOptions { huge: HugePages::Never, lock: Lock::Never, sealed_for_peers: false };
        let pages = Pages::allocate(STAGING_LEN, options)
            .map_err(|source| ShardError::Staging { source })?;
        // No peer is given it.
        pages.close_file();
        let mut regions = Vec::new();
        for transport in transports {
            let region = transport.register(&pages, Access::LOCAL).map_err(|source| {
                ShardError::Register { provider: transport.capabilities().provider, source }
            })?;
            regions.push(region);
        }
        let chunks = Chunks::new(pages.len() as u64);
        Ok(Self {
            pages,
            regions,
            chunks,
            owners: ids_hash::with_capacity(OUTSTANDING_EXPECTED),
            held: ids_hash::with_capacity(OUTSTANDING_EXPECTED),
            outstanding: OutstandingSlab::with_capacity(OUTSTANDING_EXPECTED),
        })
    }

    /// A piece of at least `len` bytes for the session with this life, or `None` until others are
    /// released.
    pub(super) fn allocate(&mut self, life: u64, len: u64) -> Option<Chunk> {
        if !self.may_hold(life, len) {
            return None;
        }
        let chunk = self.chunks.allocate(len)?;
        self.owners.insert(chunk.offset, life);
        *self.held.entry(life).or_insert(0) += chunk.len;
        Some(chunk)
    }

    /// Whether [`Staging::allocate`] would give a piece now.
    pub(super) fn has_room(&self, life: u64, len: u64) -> bool {
        self.may_hold(life, len) && self.chunks.has_room(len)
    }

    /// Gives a piece back.
    pub(super) fn release(&mut self, chunk: Chunk) {
        self.chunks.release(chunk);
        let life = self.owners.remove(&chunk.offset).expect("a piece is given back once");
        let held = self.held.get_mut(&life).expect("whoever has a piece is known");
        *held -= chunk.len;
        if *held == 0 {
            self.held.remove(&life);
        }
    }

    /// Any one request fits, however large; several only within the bound.
    fn may_hold(&self, life: u64, len: u64) -> bool {
        self.held.get(&life).is_none_or(|held| held + len <= STAGING_SESSION_LEN_MAX)
    }

    /// Remembers what a signaled request is for; its completion finds it by the work id.
    pub(super) fn start(&mut self, outstanding: Outstanding) -> WorkId {
        self.outstanding.insert(outstanding)
    }

    /// Whether any such request has not completed.
    #[inline]
    pub(super) fn has_outstanding(&self) -> bool {
        !self.outstanding.is_empty()
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

    /// Copies the first bytes of a piece.
    pub(super) fn read(&self, chunk: Chunk, into: &mut [u8]) {
        self.pages.read(chunk.offset, into);
    }

    /// Writes the first bytes of a piece.
    pub(super) fn write(&self, chunk: Chunk, bytes: &[u8]) {
        self.pages.write(chunk.offset, bytes);
    }

    /// The digest of the first `len` bytes of a piece, as rows that a message pulled.
    pub(super) fn digest(&self, number: u32, chunk: Chunk, len: u64) -> u32 {
        digest_of(number, len, |at, section| self.pages.read(chunk.offset + at, section))
    }

    /// `len` bytes of a piece from `from` on, as a transport names them.
    pub(super) fn slice(&self, transport: usize, chunk: Chunk, from: u64, len: u32) -> LocalSlice {
        self.regions[transport].slice(chunk.offset + from, len)
    }
}
