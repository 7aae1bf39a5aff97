//! A peer's regions, mapped here: as long as it has them, and longer only for views.

use std::{io, os::fd::AsFd};

use super::{limits::REGIONS_MAX, message::Descriptors, segment::slot_of};
use crate::{fabric::Access, memory::Pages};

/// The regions that one peer has shared.
#[derive(Debug)]
pub(super) struct Imports {
    /// By the slots that keys name.
    live: Vec<Option<Import>>,
    /// Those that have ended, which views may still point into.
    kept: Vec<Import>,
    /// Keys of regions for which there was no room.
    refused: Vec<u32>,
    /// Bytes that are mapped, and may be.
    mapped_len: u64,
    mapped_len_max: u64,
}

/// A region of the peer, mapped here.
#[derive(Debug)]
pub(super) struct Import {
    pub(super) key: u32,
    pub(super) access: Access,
    pub(super) pages: Pages,
    pub(super) len: u64,
    /// Whether a view may point into it.
    viewed: bool,
}

impl Imports {
    /// None, and room for so many bytes.
    pub(super) fn new(mapped_len_max: u64) -> Self {
        Self {
            live: Vec::new(),
            kept: Vec::new(),
            refused: Vec::new(),
            mapped_len: 0,
            mapped_len_max,
        }
    }

    /// The region by this key, whether its owner still has it or not.
    #[inline]
    pub(super) fn find(&self, key: u32) -> Option<&Import> {
        self.live.get(slot_of(key))?.as_ref().filter(|import| import.key == key)
    }

    /// Whether a region was shared for which there was no room.
    pub(super) fn has_refused(&self, key: u32) -> bool {
        self.refused.contains(&key)
    }

    /// Keeps a region mapped until its views are released.
    pub(super) fn keep_for_views(&mut self, key: u32) {
        if let Some(Some(import)) = self.live.get_mut(slot_of(key)) {
            import.viewed = true;
        }
    }

    /// No view points into a region any more.
    pub(super) fn release_views(&mut self, key: u32) {
        let live = self.live.get_mut(slot_of(key)).and_then(Option::as_mut);
        if let Some(import) = live.filter(|import| import.key == key) {
            import.viewed = false;
        }
        let mapped_len = &mut self.mapped_len;
        self.kept.retain(|import| {
            let is_needed = import.key != key;
            *mapped_len -= if is_needed { 0 } else { import.len };
            is_needed
        });
    }

    /// A region that has ended and is mapped for views alone.
    pub(super) fn ended_view(&self) -> Option<u32> {
        self.kept.first().map(|import| import.key)
    }

    /// Maps a region the peer has shared. Sharing it again changes nothing.
    pub(super) fn map(
        &mut self,
        key: u32,
        access: Access,
        len: u64,
        descriptors: Descriptors,
    ) -> io::Result<()> {
        let Descriptors([Some(descriptor), ..]) = descriptors else {
            return Err(Descriptors::missing());
        };
        let slot = slot_of(key);
        if slot >= REGIONS_MAX as usize {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if self.find(key).is_some() {
            return Ok(());
        }
        // The owner has used the slot again, so what was there has ended.
        self.end_slot(slot);
        if self.mapped_len.checked_add(len).is_none_or(|sum| sum > self.mapped_len_max) {
            self.refused.push(key);
            return Err(io::Error::other(format!(
                "the peer has shared {} bytes, and may share {}",
                self.mapped_len, self.mapped_len_max
            )));
        }
        let map_len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidData)?;
        let writable = access.remote_write || access.remote_atomic;
        let pages =
            Pages::map_peer(descriptor.as_fd(), map_len, writable).map_err(io::Error::other)?;
        if self.live.len() <= slot {
            self.live.resize_with(slot + 1, || None);
        }
        self.live[slot] = Some(Import { key, access, pages, len, viewed: false });
        self.mapped_len += len;
        Ok(())
    }

    /// The owner has ended a region: only views still need it.
    pub(super) fn end(&mut self, key: u32) {
        if self.find(key).is_some() {
            self.end_slot(slot_of(key));
        } else {
            self.refused.retain(|refused| *refused != key);
        }
    }

    fn end_slot(&mut self, slot: usize) {
        // A slot has one key at a time.
        self.refused.retain(|refused| slot_of(*refused) != slot);
        let Some(ended) = self.live.get_mut(slot).and_then(Option::take) else { return };
        if ended.viewed {
            self.kept.push(ended);
        } else {
            self.mapped_len -= ended.len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::PagesOptions;

    /// A region of a page in `slot`, as shared for the `generation`-th time.
    fn share(imports: &mut Imports, slot: u32, generation: u32) -> io::Result<u32> {
        let pages = Pages::allocate(4096, PagesOptions::default()).unwrap();
        let fd = pages.fd().unwrap().try_clone().unwrap();
        let key = generation << 16 | slot;
        imports.map(key, Access::READ, 4096, Descriptors([Some(fd), None, None])).map(|()| key)
    }

    #[test]
    fn a_region_that_ended_is_unmapped_when_no_view_needs_it() {
        let mut imports = Imports::new(u64::MAX);
        let plain = share(&mut imports, 0, 1).unwrap();
        let viewed = share(&mut imports, 1, 1).unwrap();
        let released = share(&mut imports, 2, 1).unwrap();
        imports.keep_for_views(viewed);
        imports.keep_for_views(released);
        imports.release_views(released);
        assert_eq!(imports.mapped_len, 3 * 4096);
        for key in [plain, viewed, released] {
            imports.end(key);
            assert!(imports.find(key).is_none());
        }
        assert_eq!((imports.mapped_len, imports.kept.len()), (4096, 1), "a view points into it");
        assert_eq!(imports.ended_view(), Some(viewed));
        imports.release_views(viewed);
        assert_eq!((imports.mapped_len, imports.ended_view()), (0, None));
    }

    #[test]
    fn a_slot_that_is_used_again_keeps_what_views_need() {
        let mut imports = Imports::new(u64::MAX);
        let first = share(&mut imports, 7, 1).unwrap();
        imports.keep_for_views(first);
        let second = share(&mut imports, 7, 2).unwrap();
        assert!(imports.find(first).is_none() && imports.find(second).is_some());
        assert_eq!(imports.mapped_len, 2 * 4096);
        imports.release_views(first);
        assert_eq!(imports.mapped_len, 4096);
    }

    #[test]
    fn more_than_there_is_room_for_is_refused_until_others_have_ended() {
        let mut imports = Imports::new(2 * 4096);
        let first = share(&mut imports, 0, 1).unwrap();
        share(&mut imports, 1, 1).unwrap();
        assert!(share(&mut imports, 2, 1).is_err());
        assert!(imports.has_refused(1 << 16 | 2) && !imports.has_refused(first));
        imports.end(1 << 16 | 2);
        assert!(!imports.has_refused(1 << 16 | 2));
        imports.end(first);
        share(&mut imports, 2, 2).unwrap();
        assert_eq!(imports.mapped_len, 2 * 4096);
    }
}
