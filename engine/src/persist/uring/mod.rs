//! Storage by io_uring: direct IO from registered memory into registered files, durable by
//! `RWF_DSYNC`. One ring per shard, used by one thread.
#![allow(unsafe_code)]

mod files;
mod in_place;
mod inflight;
mod overlapped;
mod setup;
mod submit;

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use io_uring::{IoUring, types};
use windlass_transport::memory::Pages;

use self::{
    files::Files,
    in_place::InPlace,
    inflight::{Inflight, Slot},
};
use super::{
    buffered::list_directory,
    limits,
    storage::{
        Completion, Listed, Operation, RegionId, Storage, StorageError, StorageReport, Token,
    },
};

/// One ring over one directory.
pub struct UringStorage {
    ring: IoUring,
    directory: PathBuf,
    directory_file: File,
    report: StorageReport,
    only_reads: bool,
    regions: Vec<Region>,
    files: Files,
    inflight: Inflight,
    /// Ends of operations that need no system call of the ring.
    ready: Vec<Completion>,
    /// Whether calls may block at all.
    may_block: bool,
    in_place: InPlace,
    /// Writes whose bytes are there, and how long it takes to keep such.
    written: Vec<Slot>,
    flushes: InPlace,
}

/// Memory the ring may be told to use.
struct Region {
    pages: Pages,
    /// Whether it is registered, at the index of its id.
    registered: bool,
}

impl UringStorage {
    /// A ring over a directory, after trying out what it can do there.
    ///
    /// # Errors
    /// When the kernel refuses io_uring, or durable writes through it.
    pub fn open(directory: &Path) -> Result<Self, StorageError> {
        Self::set_up(directory, false)
    }

    /// The same, for reading alone: nothing in the directory is changed, not even to try it out.
    ///
    /// # Errors
    /// When the kernel refuses io_uring, or the directory cannot be opened.
    pub fn open_to_read(directory: &Path) -> Result<Self, StorageError> {
        Self::set_up(directory, true)
    }

    fn set_up(directory: &Path, only_reads: bool) -> Result<Self, StorageError> {
        setup::open(directory, only_reads).map_err(|source| StorageError {
            operation: "set up io_uring for",
            name: directory.display().to_string(),
            source,
        })
    }

    fn drain(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.ready);
        loop {
            let Some(entry) = self.ring.completion().next() else { break };
            if let Some(done) = self.inflight.finish(entry.user_data())
                && let Some(done) = self.open_again(done, entry.result())
                && let Some(done) = self.hold_back(done, entry.result())
            {
                let result = self.conclude(done.slot.operation, done.result);
                completions.push(Completion { token: done.slot.token, result });
            }
        }
        self.flush_written(completions);
    }

    fn enter(&mut self) {
        let result = self.ring.submit();
        if let Err(error) = result
            && !matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN | libc::EINTR))
        {
            // Completions of what was submitted still come; what was not stays queued.
            tracing::error!(%error, directory = %self.directory.display(), "io_uring_enter failed");
        }
    }
}

impl Storage for UringStorage {
    fn report(&self) -> &StorageReport {
        &self.report
    }

    fn register(&mut self, pages: Pages) -> Result<RegionId, StorageError> {
        let id = u16::try_from(self.regions.len())
            .ok()
            .filter(|&id| usize::from(id) < limits::REGIONS_MAX)
            .ok_or_else(|| StorageError {
                operation: "register memory for",
                name: self.directory.display().to_string(),
                source: io::ErrorKind::OutOfMemory.into(),
            })?;
        let registered = self.report.registered_buffers
            && match setup::register_buffer(&self.ring, id, &pages) {
                Ok(()) => true,
                Err(error) => {
                    self.report.fallbacks.push(format!(
                        "{} bytes of memory are not registered ({error}): raise `ulimit -l`",
                        pages.len()
                    ));
                    false
                }
            };
        self.regions.push(Region { pages, registered });
        Ok(RegionId(id))
    }

    fn list(&mut self) -> Result<Vec<Listed>, StorageError> {
        list_directory(&self.directory)
    }

    fn submit(&mut self, token: Token, operation: Operation) -> Result<(), Operation> {
        self.queue(token, operation)
    }

    fn submit_awaited(&mut self, token: Token, operation: Operation) -> Result<(), Operation> {
        self.write_overlapped(token, operation)
            .or_else(|operation| self.write_in_place(token, operation))
            .or_else(|operation| self.queue(token, operation))
    }

    fn set_in_place(&mut self, may: bool) {
        self.may_block = may;
    }

    fn begin(&mut self) -> Duration {
        if self.ring.submission().is_empty() {
            return Duration::ZERO;
        }
        let begun = Instant::now();
        self.enter();
        begun.elapsed()
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        let queue = self.ring.submission();
        let needs_kernel = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        if needs_kernel {
            self.enter();
        }
        self.drain(completions);
    }

    fn wait(&mut self, timeout: Duration) {
        if !self.ready.is_empty() || !self.ring.completion().is_empty() {
            return;
        }
        let timespec = types::Timespec::from(timeout);
        let arguments = types::SubmitArgs::new().timespec(&timespec);
        // A timeout or a signal is a spurious return, which every caller expects.
        let _ = self.ring.submitter().submit_with_args(1, &arguments);
    }

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the descriptor is the ring's, which `self` keeps open while it is borrowed.
        Some(unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) })
    }
}

impl Drop for UringStorage {
    /// The device may still use memory and files: both must outlive what is under way.
    fn drop(&mut self) {
        let mut completions = Vec::new();
        while self.inflight.count() > 0 {
            self.wait(Duration::from_millis(100));
            self.drain(&mut completions);
            completions.clear();
        }
    }
}

impl std::fmt::Debug for UringStorage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("UringStorage")
            .field("directory", &self.directory)
            .field("report", &self.report)
            .field("inflight_count", &self.inflight.count())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
