//! Registered memory by number. Every access looks its region up again, so a region that went away
//! in the middle of a transfer fails the transfer and nothing else.

use windlass_wire::checksum::Checksum;

use crate::{
    error::RegisterError,
    fabric::{Access, LocalSlice, RegionId, ScatterList},
    memory::Pages,
    slab::Slab,
};

use super::{
    limits::REGIONS_MAX,
    socket::{Gather, Scatter},
};

/// A region.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) pages: Pages,
    pub(super) access: Access,
}

/// The regions of one instance.
#[derive(Debug)]
pub(super) struct Regions(Slab<Region>);

/// A slice names a region that is not there, or bytes that are not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

impl Regions {
    pub(super) fn new() -> Self {
        Self(Slab::new(REGIONS_MAX))
    }

    pub(super) fn insert(
        &mut self,
        pages: &Pages,
        access: Access,
    ) -> Result<RegionId, RegisterError> {
        self.0
            .insert_with(|_| Region { pages: pages.clone(), access })
            .map(RegionId)
            .ok_or(RegisterError::TooMany { count_max: REGIONS_MAX })
    }

    pub(super) fn remove(&mut self, region: RegionId) {
        self.0.remove(region.0);
    }

    pub(super) fn find(&self, region: RegionId) -> Option<&Region> {
        self.0.find(region.0)
    }

    /// The memory a slice lies in.
    pub(super) fn pages_of(&self, slice: LocalSlice) -> Result<&Pages, Gone> {
        let region = self.0.find(slice.region.0).ok_or(Gone)?;
        if region.pages.contains(slice.offset, u64::from(slice.len)) {
            Ok(&region.pages)
        } else {
            Err(Gone)
        }
    }

    /// Whether every slice of a list lies in its region.
    pub(super) fn contains(&self, list: &ScatterList) -> bool {
        list.as_slice().iter().all(|slice| self.pages_of(*slice).is_ok())
    }

    /// Copies a slice out. An aligned word is loaded as one.
    pub(super) fn read(&self, slice: LocalSlice, into: &mut [u8]) -> Result<(), Gone> {
        let pages = self.pages_of(slice)?;
        assert!(into.len() == slice.len as usize, "a copy takes the whole slice");
        if is_word(pages, slice.offset, into.len()) {
            into.copy_from_slice(&pages.load_u64(slice.offset).to_le_bytes());
        } else {
            pages.read(slice.offset, into);
        }
        Ok(())
    }

    /// Copies `bytes` to position `done` of a list. An aligned word is stored as one, after all
    /// that was placed before it.
    pub(super) fn place(
        &self,
        list: &ScatterList,
        done: usize,
        mut bytes: &[u8],
    ) -> Result<(), Gone> {
        for rest in rest_of(list, done) {
            if bytes.is_empty() {
                break;
            }
            let pages = self.pages_of(rest)?;
            let (now, later) = bytes.split_at(bytes.len().min(rest.len as usize));
            if is_word(pages, rest.offset, now.len()) {
                let mut word = [0; 8];
                word.copy_from_slice(now);
                pages.store_u64(rest.offset, u64::from_le_bytes(word));
            } else {
                pages.write(rest.offset, now);
            }
            bytes = later;
        }
        assert!(bytes.is_empty(), "a payload is not longer than its list");
        Ok(())
    }

    /// Adds what is left of a list after `done` bytes to what the next receive fills.
    pub(super) fn scatter<'a>(
        &'a self,
        list: &ScatterList,
        done: usize,
        scatter: &mut Scatter<'a>,
    ) -> Result<(), Gone> {
        for rest in rest_of(list, done) {
            scatter.push_pages(self.pages_of(rest)?, rest.offset, rest.len as usize);
        }
        Ok(())
    }

    /// Adds a slice to what the next send takes.
    pub(super) fn gather<'a>(
        &'a self,
        slice: LocalSlice,
        gather: &mut Gather<'a>,
    ) -> Result<(), Gone> {
        gather.push_pages(self.pages_of(slice)?, slice.offset, slice.len as usize);
        Ok(())
    }

    /// The checksum `so_far` continued over a slice.
    pub(super) fn checksum(&self, so_far: Checksum, slice: LocalSlice) -> Result<Checksum, Gone> {
        let pages = self.pages_of(slice)?;
        let mut copy = [0; 4096];
        let (mut checksum, mut offset, mut left) = (so_far, slice.offset, slice.len as usize);
        while left > 0 {
            let chunk = &mut copy[..left.min(4096)];
            pages.read(offset, chunk);
            checksum = checksum.append(chunk);
            offset += chunk.len() as u64;
            left -= chunk.len();
        }
        Ok(checksum)
    }
}

/// The slices of a list without its first `done` bytes.
fn rest_of(list: &ScatterList, done: usize) -> impl Iterator<Item = LocalSlice> {
    let mut skip = done as u64;
    list.as_slice().iter().filter_map(move |slice| {
        let skipped = u32::try_from(skip.min(u64::from(slice.len))).unwrap_or(slice.len);
        skip -= u64::from(skipped);
        let len = slice.len - skipped;
        (len > 0).then_some(LocalSlice { len, offset: slice.offset + u64::from(skipped), ..*slice })
    })
}

/// Whether the bytes are one aligned word.
pub(super) fn is_word(pages: &Pages, offset: u64, len: usize) -> bool {
    len == 8 && (pages.as_ptr().addr() as u64).wrapping_add(offset).is_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::PagesOptions;

    #[test]
    fn payloads_continue_where_they_stopped() {
        let pages = Pages::allocate(4096, PagesOptions::default()).unwrap();
        let mut regions = Regions::new();
        let region = regions.insert(&pages, Access::LOCAL).unwrap();
        let mut list = ScatterList::EMPTY;
        list.push(LocalSlice { region, offset: 100, len: 3 });
        list.push(LocalSlice { region, offset: 50, len: 0 });
        list.push(LocalSlice { region, offset: 200, len: 4 });
        regions.place(&list, 0, b"ab").unwrap();
        regions.place(&list, 2, b"cde").unwrap();
        regions.place(&list, 5, b"fg").unwrap();
        let mut bytes = [0; 4];
        pages.read(200, &mut bytes);
        assert_eq!(&bytes, b"defg");
        regions.read(LocalSlice { region, offset: 100, len: 3 }, &mut bytes[..3]).unwrap();
        assert_eq!(&bytes[..3], b"abc");
        regions.remove(region);
        assert_eq!(regions.place(&list, 0, b"x"), Err(Gone));
    }
}
