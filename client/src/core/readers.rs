//! Abandoned requests whose values servers may still read.

use super::{RegionId, RequestId};

/// Which requests read which regions, and regions whose owner is gone meanwhile.
#[derive(Debug, Default)]
pub(super) struct Readers {
    readers: Vec<(RequestId, RegionId)>,
    orphans: Vec<RegionId>,
}

impl Readers {
    /// A request may read a region until it is over.
    pub(super) fn note(&mut self, request: RequestId, region: RegionId) {
        if !self.readers.contains(&(request, region)) {
            self.readers.push((request, region));
        }
    }

    /// The last request that may still read a region.
    pub(super) fn last_of(&self, region: RegionId) -> Option<RequestId> {
        let readers = self.readers.iter().filter(|(_, read)| *read == region);
        readers.map(|(request, _)| *request).max()
    }

    /// A region has no owner any more: it has to stay while [`Readers::last_of`] names a request.
    pub(super) fn orphan(&mut self, region: RegionId) {
        self.orphans.push(region);
    }

    /// Forgets requests that are over, and returns an orphan that none reads any more, if there is one.
    pub(super) fn sweep(&mut self, is_over: impl Fn(RequestId) -> bool) -> Option<RegionId> {
        self.readers.retain(|(request, _)| !is_over(*request));
        let free = self.orphans.iter().position(|region| self.last_of(*region).is_none())?;
        Some(self.orphans.swap_remove(free))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_orphan_is_free_once_its_last_reader_is_over() {
        let (mut readers, one, two) = (Readers::default(), RegionId(1), RegionId(2));
        readers.note(5, one);
        readers.note(7, one);
        readers.note(7, one);
        readers.note(6, two);
        assert_eq!(readers.last_of(one), Some(7));
        readers.orphan(one);
        readers.orphan(two);
        assert_eq!(readers.sweep(|request| request == 7), None);
        assert_eq!(readers.last_of(one), Some(5));
        assert_eq!(readers.sweep(|request| request <= 6), Some(one));
        assert_eq!(readers.sweep(|_| false), Some(two));
        assert_eq!(readers.sweep(|_| false), None);
    }
}
