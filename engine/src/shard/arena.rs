//! Parameter memory of one shard: few and large regions that peers may read and never write.

use std::collections::VecDeque;

use windlass_transport::{
    Access, MemoryRegion, Pages, Transport,
    error::{AllocateError, RegisterError},
    memory::PagesOptions,
};

use crate::limits::{ARENA_REGION_LEN, RETIRED_LEN_MAX};

/// Why there is no parameter memory for a table.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArenaError {
    /// The system has none.
    #[error("cannot allocate parameter memory")]
    Allocate {
        /// Why.
        #[from]
        source: AllocateError,
    },
    /// A transport refused it.
    #[error("cannot register parameter memory with the {provider} transport")]
    Register {
        /// The transport.
        provider: &'static str,
        /// Why.
        source: RegisterError,
    },
}

/// The regions and what of them is used.
#[derive(Debug, Default)]
pub(super) struct Arena {
    regions: Vec<Option<ArenaRegion>>,
    /// Regions without a table, oldest first: peers may still read that nothing in them is current.
    retired: VecDeque<usize>,
}

#[derive(Debug)]
struct ArenaRegion {
    pages: Pages,
    /// One for each transport.
    registered: Vec<MemoryRegion>,
    used: u64,
    /// Allocations alive; at zero the region is given back.
    alive: u32,
}

/// A piece of a region.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) region: usize,
    pub(super) pages: Pages,
    pub(super) offset: u64,
}

impl Arena {
    /// `len` zeroed bytes, 64-byte aligned, for which a new region is made when no other has room.
    pub(super) fn allocate(
        &mut self,
        len: u64,
        transports: &mut [Box<dyn Transport>],
    ) -> Result<Piece, ArenaError> {
        let fits = |region: &Option<ArenaRegion>| {
            region.as_ref().is_some_and(|region| {
                region.alive > 0 && region.used + len <= region.pages.len() as u64
            })
        };
        let at = match self.regions.iter().position(fits) {
            Some(at) => at,
            None => self.grow(len, transports)?,
        };
        let Some(region) = &mut self.regions[at] else { unreachable!("chosen above") };
        let offset = region.used;
        region.used = (offset + len).next_multiple_of(64);
        region.alive += 1;
        Ok(Piece { region: at, pages: region.pages.clone(), offset })
    }

    /// Gives a piece back, whose blocks are fenced. A region whose last piece this was retires.
    pub(super) fn release(&mut self, region: usize) {
        let Some(alive) = &mut self.regions[region] else { return };
        alive.alive -= 1;
        if alive.alive == 0 {
            self.retired.push_back(region);
        }
    }

    /// Ends retired regions that nobody was told of, and the oldest ones of those that are too many:
    /// peers that read these get remote access errors.
    pub(super) fn sweep(
        &mut self,
        is_shared: impl Fn(usize) -> bool,
        transports: &mut [Box<dyn Transport>],
    ) {
        let len_of = |regions: &[Option<ArenaRegion>], at: usize| {
            regions[at].as_ref().map_or(0, |region| region.pages.len() as u64)
        };
        let mut left: u64 = self.retired.iter().map(|at| len_of(&self.regions, *at)).sum();
        let regions = &mut self.regions;
        self.retired.retain(|&at| {
            if left <= RETIRED_LEN_MAX && is_shared(at) {
                return true;
            }
            left -= len_of(regions, at);
            if let Some(region) = regions[at].take() {
                for (transport, registered) in transports.iter_mut().zip(&region.registered) {
                    transport.deregister(registered);
                }
            }
            false
        });
    }

    /// A region as registered with one transport.
    pub(super) fn registered(&self, region: usize, transport: usize) -> Option<&MemoryRegion> {
        self.regions.get(region)?.as_ref()?.registered.get(transport)
    }

    /// Bytes of all regions.
    pub(super) fn memory_len(&self) -> u64 {
        self.regions.iter().flatten().map(|region| region.pages.len() as u64).sum()
    }

    fn grow(
        &mut self,
        len: u64,
        transports: &mut [Box<dyn Transport>],
    ) -> Result<usize, ArenaError> {
        let options = PagesOptions { sealed_for_peers: true, ..PagesOptions::default() };
        let len = usize::try_from(len).unwrap_or(usize::MAX).max(ARENA_REGION_LEN);
        let pages = Pages::allocate(len, options)?;
        let mut registered = Vec::new();
        for transport in transports.iter_mut() {
            let region = transport.register(&pages, Access::READ).map_err(|source| {
                ArenaError::Register { provider: transport.capabilities().provider, source }
            })?;
            registered.push(region);
        }
        let region = Some(ArenaRegion { pages, registered, used: 0, alive: 0 });
        // Numbers are never used again: sessions remember regions by them.
        self.regions.push(region);
        Ok(self.regions.len() - 1)
    }
}
