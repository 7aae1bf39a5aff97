//! Parameter memory of one shard: few and large regions that peers may read and never write.

use std::collections::VecDeque;

use windlass_transport::{
    Access, MemoryRegion, Pages, Prepared, Transport,
    error::{AllocateError, RegisterError},
};

use super::memory::MadeRegion;
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
    /// A device refused it.
    #[error("cannot register parameter memory with the device")]
    Prepare {
        /// Why.
        source: RegisterError,
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
    /// Whether it is retired: no new allocation comes from it.
    is_retired: bool,
}

/// What is left of a region that has ended, to be dropped where that may take long.
#[derive(Debug)]
pub(super) struct EndedRegion {
    _prepared: Vec<Option<Prepared>>,
    _region: ArenaRegion,
}

/// A piece of a region.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) region: usize,
    pub(super) pages: Pages,
    pub(super) offset: u64,
}

impl Arena {
    /// Lengths of the regions that have to be made before pieces of these lengths can be allocated one
    /// after the other.
    pub(super) fn lacks(&self, lens: &[u64]) -> Vec<usize> {
        let region_len = |region: &ArenaRegion| region.pages.len() as u64;
        let open = self.regions.iter().flatten().filter(|region| !region.is_retired);
        let mut room: Vec<(u64, u64)> =
            open.map(|region| (region.used, region_len(region))).collect();
        let mut lacking = Vec::new();
        for len in lens {
            let found = room.iter().position(|(used, all)| used + len <= *all);
            let at = found.unwrap_or_else(|| {
                let made = usize::try_from(*len).unwrap_or(usize::MAX).max(ARENA_REGION_LEN);
                lacking.push(made);
                room.push((0, made as u64));
                room.len() - 1
            });
            room[at].0 = (room[at].0 + len).next_multiple_of(64);
        }
        lacking
    }

    /// Takes in a region that was made.
    pub(super) fn adopt(
        &mut self,
        made: MadeRegion,
        transports: &mut [Box<dyn Transport>],
    ) -> Result<(), ArenaError> {
        let MadeRegion { pages, prepared } = made;
        let mut registered = Vec::new();
        for (transport, prepared) in transports.iter_mut().zip(prepared) {
            let adopted = transport.adopt(&pages, Access::READ, prepared);
            registered.push(adopted.map_err(|source| ArenaError::Register {
                provider: transport.capabilities().provider,
                source,
            })?);
        }
        let region = ArenaRegion { pages, registered, used: 0, alive: 0, is_retired: false };
        // Numbers are never used again: sessions remember regions by them.
        self.regions.push(Some(region));
        Ok(())
    }

    /// `len` zeroed bytes, 64-byte aligned.
    ///
    /// # Panics
    ///
    /// When no region has room: those that [`Arena::lacks`] named have to be there.
    pub(super) fn allocate(&mut self, len: u64) -> Piece {
        let fits = |region: &ArenaRegion| {
            !region.is_retired && region.used + len <= region.pages.len() as u64
        };
        for (at, region) in self.regions.iter_mut().enumerate() {
            if let Some(region) = region
                && fits(region)
            {
                let offset = region.used;
                region.used = (offset + len).next_multiple_of(64);
                region.alive += 1;
                return Piece { region: at, pages: region.pages.clone(), offset };
            }
        }
        unreachable!("no region has room for {len} bytes, and none was made for them")
    }

    /// Gives a piece back, whose blocks are fenced. A region whose last piece this was retires.
    pub(super) fn release(&mut self, region: usize) {
        let alive = self.regions[region].as_mut().expect("a region lives as long as its pieces");
        alive.alive -= 1;
        if alive.alive == 0 {
            alive.is_retired = true;
            self.retired.push_back(region);
        }
    }

    /// Regions that were made and of which nothing was taken go again.
    pub(super) fn retire_unused(&mut self) {
        for (at, region) in self.regions.iter_mut().enumerate() {
            if let Some(region) = region
                && region.alive == 0
                && !std::mem::replace(&mut region.is_retired, true)
            {
                self.retired.push_back(at);
            }
        }
    }

    /// Ends retired regions that nobody was told of, and the oldest ones of those that are too many:
    /// peers that read these get remote access errors. What is left of each goes to `end`.
    pub(super) fn sweep(
        &mut self,
        is_shared: impl Fn(usize) -> bool,
        transports: &mut [Box<dyn Transport>],
        mut end: impl FnMut(EndedRegion),
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
                let registered = transports.iter_mut().zip(&region.registered);
                let prepared = registered.map(|(transport, one)| transport.release(one)).collect();
                end(EndedRegion { _prepared: prepared, _region: region });
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
}
