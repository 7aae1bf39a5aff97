//! Registered memory of a client: rows the user allocated, and a staging area for everything else.

use std::time::{Duration, Instant};

use windlass_transport::{
    Access, LocalSlice, MemoryRegion, Pages, RemoteRegion, Transport,
    chunks::{Chunk, Chunks},
    error::{AllocateError, RegisterError, chain},
    memory::{Lock, PagesOptions},
};
use windlass_wire::Place;

use super::{Links, Pending, RequestId};
use crate::error::RequestError;

/// A region of the client, over all of its transports. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegionId(pub(crate) usize);

/// A region, registered with transports when it is first used with them.
#[derive(Debug)]
struct Region {
    pages: Pages,
    /// What servers may do: only the staging area is theirs to write.
    access: Access,
    registered: Vec<Option<MemoryRegion>>,
}

/// The regions, and what of the staging area is free.
#[derive(Debug)]
pub(crate) struct Memory {
    regions: Vec<Option<Region>>,
    staging: Option<(RegionId, Chunks)>,
    staging_len: usize,
    /// Whether a server that was given up may still be writing, and pieces released since.
    unquiet: bool,
    condemned: Vec<Chunk>,
}

/// How long a server that was given up in the middle of a write may take to end it, before what it
/// was writing to is not used again: the longest copy takes a small part of it.
const QUIET_WITHIN: Duration = Duration::from_secs(2);

impl Memory {
    pub(super) fn new(staging_len: usize) -> Self {
        Self {
            regions: Vec::new(),
            staging: None,
            staging_len,
            unquiet: false,
            condemned: Vec::new(),
        }
    }

    pub(super) fn staging_len(&self) -> usize {
        self.staging_len
    }

    /// Keeps pages for registration.
    pub(super) fn add(&mut self, pages: Pages, access: Access) -> RegionId {
        self.regions.push(Some(Region { pages, access, registered: Vec::new() }));
        RegionId(self.regions.len() - 1)
    }

    /// Forgets pages and ends their registrations.
    pub(super) fn remove(&mut self, id: RegionId, transports: &mut [Box<dyn Transport>]) {
        let Some(region) = self.regions[id.0].take() else { return };
        for (transport, registered) in transports.iter_mut().zip(region.registered) {
            if let Some(registered) = registered {
                transport.deregister(&registered);
            }
        }
    }

    /// The pages of a region.
    pub(super) fn pages(&self, id: RegionId) -> &Pages {
        match &self.regions[id.0] {
            Some(region) => &region.pages,
            None => unreachable!("regions are removed by their owner only"),
        }
    }

    /// The region as one transport knows it, registered now if it was not.
    pub(super) fn registered(
        &mut self,
        id: RegionId,
        transport: usize,
        transports: &mut [Box<dyn Transport>],
    ) -> Result<MemoryRegion, RegisterError> {
        let Some(region) = &mut self.regions[id.0] else {
            unreachable!("regions are removed by their owner only")
        };
        if region.registered.len() <= transport {
            region.registered.resize_with(transport + 1, || None);
        }
        if let Some(registered) = &region.registered[transport] {
            return Ok(registered.clone());
        }
        let registered = transports[transport].register(&region.pages, region.access)?;
        region.registered[transport] = Some(registered.clone());
        Ok(registered)
    }

    /// Bytes of the staging area as local side of a request, once it is registered with a transport.
    pub(super) fn staged(&self, transport: usize, chunk: Chunk, len: u64) -> Option<LocalSlice> {
        let region = self.staging_at(transport)?.id;
        debug_assert!(len <= chunk.len, "a request leaves its chunk");
        Some(LocalSlice { region, offset: chunk.offset, len: u32::try_from(len).ok()? })
    }

    /// The staging area as one transport knows it, if it is registered there.
    fn staging_at(&self, transport: usize) -> Option<&MemoryRegion> {
        let (id, _) = self.staging.as_ref()?;
        self.regions[id.0].as_ref()?.registered.get(transport)?.as_ref()
    }

    /// The staging region, made at its first use.
    pub(super) fn staging(&mut self) -> Result<RegionId, AllocateError> {
        if let Some((id, _)) = &self.staging {
            return Ok(*id);
        }
        // A device pins it by itself; elsewhere it takes as much memory as was in use at once.
        let options = PagesOptions { lock: Lock::Never, ..PagesOptions::default() };
        let pages = Pages::allocate(self.staging_len, options)?;
        let chunks = Chunks::new(pages.len() as u64);
        let id = self.add(pages, Access::READ_WRITE);
        self.staging = Some((id, chunks));
        Ok(id)
    }

    /// A piece of the staging area, which has to exist.
    pub(super) fn allocate(&mut self, len: u64) -> Option<Chunk> {
        self.staging.as_mut()?.1.allocate(len)
    }

    /// Gives a piece back, to be used again once nobody can be writing to it.
    #[inline]
    pub(super) fn release(&mut self, chunk: Chunk) {
        if self.unquiet {
            self.condemned.push(chunk);
        } else if let Some((_, chunks)) = &mut self.staging {
            chunks.release(chunk);
        }
    }

    /// Says whether servers that were given up may still be writing.
    fn set_unquiet(&mut self, unquiet: bool) {
        self.unquiet = unquiet;
        if !unquiet {
            for chunk in std::mem::take(&mut self.condemned) {
                self.release(chunk);
            }
        }
    }

    /// The pages of the staging area, which has to exist.
    pub(super) fn staging_pages(&self) -> &Pages {
        match &self.staging {
            Some((id, _)) => self.pages(*id),
            None => unreachable!("chunks come from a staging area"),
        }
    }
}

impl Memory {
    /// Keeps pages, which servers may only read, for registration.
    pub(crate) fn add_region(&mut self, pages: Pages) -> RegionId {
        self.add(pages, Access::READ)
    }

    /// A region of its own with these bytes; `None` when there is no memory.
    pub(super) fn region_with(&mut self, bytes: &[u8]) -> Option<RegionId> {
        let pages = Pages::allocate(bytes.len().max(1), PagesOptions::default()).ok()?;
        pages.write(0, bytes);
        Some(self.add(pages, Access::READ))
    }
}

impl Pending {
    /// Ends the registrations of a region, once no request reads it any more.
    pub(crate) fn remove_region(&mut self, links: &mut Links, id: RegionId) {
        self.readers.orphan(id);
        let requests = &self.requests;
        while let Some(free) = self.readers.sweep(|request| requests.is_over(request)) {
            for link in &mut links.all {
                link.shared.remove(free);
            }
            self.memory.remove(free, &mut links.transports);
        }
    }

    /// Nobody will wait for a request that may still read a region.
    pub(crate) fn keep_until_done(&mut self, request: RequestId, id: RegionId) {
        if !self.requests.is_over(request) {
            self.readers.note(request, id);
        }
    }

    /// A request that nobody was given and that may still read a region.
    pub(crate) fn reader_of(&self, id: RegionId) -> Option<RequestId> {
        self.readers.last_of(id).filter(|request| !self.requests.is_over(*request))
    }
}

impl Memory {
    /// Waits until a server that was disconnected writes nothing any more; what it could have written
    /// to stays out of use where it takes long.
    pub(super) fn await_quiet(&mut self, transports: &mut [Box<dyn Transport>], at: usize) {
        let deadline = Instant::now() + QUIET_WITHIN;
        while !transports[at].is_quiet() {
            if Instant::now() >= deadline {
                tracing::warn!("a server stopped in the middle of a write to this client's memory");
                return self.set_unquiet(true);
            }
            std::thread::yield_now();
        }
    }

    /// Whether a server that was given up may still be writing to this client's memory.
    pub(super) fn is_unquiet(&mut self, transports: &mut [Box<dyn Transport>]) -> bool {
        if self.unquiet && transports.iter_mut().all(|transport| transport.is_quiet()) {
            self.set_unquiet(false);
        }
        self.unquiet
    }

    /// Makes sure that requests of a transport can use the staging area.
    #[inline]
    pub(super) fn register_staging(
        &mut self,
        transports: &mut [Box<dyn Transport>],
        at: usize,
    ) -> Result<(), RequestError> {
        if self.staging_at(at).is_some() {
            return Ok(());
        }
        let staging = self.staging_region()?;
        match self.registered(staging, at, transports) {
            Ok(_) => Ok(()),
            Err(error) => Err(RequestError::Setup { text: chain(&error) }),
        }
    }
}

impl Links {
    /// Whether servers can read regions whose memory was not allocated here.
    pub(crate) fn shares_foreign_memory(&self) -> bool {
        self.transports.iter().all(|transport| transport.capabilities().shares_foreign_memory)
    }
}

/// What a link calls regions of the client.
#[derive(Debug, Default)]
pub(super) struct SharedRegions {
    shared: Vec<(RegionId, RemoteRegion)>,
}

impl SharedRegions {
    pub(super) fn find(&self, id: RegionId) -> Option<RemoteRegion> {
        self.shared.iter().find(|(shared, _)| *shared == id).map(|(_, remote)| *remote)
    }

    /// The region, and the offset in it, that a place of a message is.
    pub(super) fn region_of(&self, place: Place) -> Option<(RegionId, u64)> {
        self.shared.iter().find_map(|(id, remote)| {
            let offset = place.address.wrapping_sub(remote.address);
            (remote.key.0 == place.key && offset < remote.len).then_some((*id, offset))
        })
    }

    pub(super) fn insert(&mut self, id: RegionId, remote: RemoteRegion) {
        self.shared.push((id, remote));
    }

    pub(super) fn remove(&mut self, id: RegionId) {
        self.shared.retain(|(shared, _)| *shared != id);
    }
}

impl Memory {
    /// Most bytes of the staging area that one request takes.
    pub(super) fn staged_len_max(&self) -> usize {
        self.staging_len() / 2
    }

    /// The staging area's region.
    pub(super) fn staging_region(&mut self) -> Result<RegionId, RequestError> {
        self.staging().map_err(|error| RequestError::Setup { text: chain(&error) })
    }
}

#[cfg(test)]
mod tests {
    use windlass_transport::tcp::{Tcp, TcpOptions};

    use super::*;

    #[test]
    fn servers_may_write_the_staging_area_and_nothing_else() {
        let mut transports: Vec<Box<dyn Transport>> =
            vec![Box::new(Tcp::open(TcpOptions::LOOPBACK).unwrap())];
        let mut memory = Memory::new(1 << 20);
        let rows = Pages::allocate(4096, PagesOptions::default()).unwrap();
        let rows = memory.add_region(rows);
        let copied = memory.region_with(b"values of a push").unwrap();
        let staging = memory.staging().unwrap();
        let mut access = |id| memory.registered(id, 0, &mut transports).unwrap().access;
        assert_eq!(access(rows), Access::READ);
        assert_eq!(access(copied), Access::READ);
        assert_eq!(access(staging), Access::READ_WRITE);
    }

    #[test]
    fn what_a_stopped_server_may_write_to_is_not_used_again_until_it_goes_on() {
        let mut memory = Memory::new(4096);
        memory.staging().unwrap();
        let pulled = memory.allocate(4096).unwrap();
        memory.set_unquiet(true);
        memory.release(pulled);
        assert!(memory.allocate(64).is_none(), "a server may be writing there");
        memory.set_unquiet(false);
        assert!(memory.allocate(4096).is_some());
    }
}
