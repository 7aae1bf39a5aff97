//! The table of open files and their registration with the ring.

use std::{
    fs::File,
    os::fd::{AsRawFd, RawFd},
};

use io_uring::IoUring;

use crate::persist::{limits, storage::FileId};

/// Open files by number; numbers are reused after closing.
#[derive(Debug)]
pub(super) struct Files {
    slots: Vec<Option<OpenFile>>,
}

#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) name: String,
    pub(super) file: File,
    pub(super) registered: bool,
}

impl Files {
    /// Files beyond this many are used by descriptor.
    pub(super) const REGISTERED_MAX: u32 = 256;

    pub(super) fn new() -> Self {
        Self { slots: Vec::new() }
    }

    /// Takes a file in, or gives it back when there are too many.
    pub(super) fn insert(
        &mut self,
        ring: &IoUring,
        name: String,
        file: File,
        register: bool,
    ) -> Option<FileId> {
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if free >= limits::FILES_MAX {
            return None;
        }
        let id = u32::try_from(free).ok()?;
        let registered = register
            && id < Self::REGISTERED_MAX
            && ring.submitter().register_files_update(id, &[file.as_raw_fd()]).is_ok();
        if free == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[free] = Some(OpenFile { name, file, registered });
        Some(FileId(id))
    }

    pub(super) fn open_file(&self, id: FileId) -> Option<&OpenFile> {
        self.slots.get(usize::try_from(id.0).ok()?)?.as_ref()
    }

    /// Takes a file out, still open.
    pub(super) fn remove(&mut self, ring: &IoUring, id: FileId) -> Option<File> {
        let slot = usize::try_from(id.0).ok().and_then(|index| self.slots.get_mut(index));
        let open = slot.and_then(Option::take)?;
        if open.registered {
            const NONE: RawFd = -1;
            // A stale registration is harmless: the slot is registered anew before its next use.
            let _ = ring.submitter().register_files_update(id.0, &[NONE]);
        }
        Some(open.file)
    }

    pub(super) fn name(&self, id: FileId) -> String {
        self.open_file(id).map_or_else(|| format!("file {}", id.0), |open| open.name.clone())
    }
}
