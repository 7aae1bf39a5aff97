//! Storage by plain system calls on a helper thread, for where io_uring is refused (containers
//! often forbid it). Same guarantees: durable means `fdatasync` returned. The shard never blocks.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec},
    fs::FallocateFlags,
};
use windlass_transport::{descriptors, memory::Pages};

use super::{
    limits, memory,
    storage::{
        Completion, FileId, Listed, Operation, Outcome, RegionId, Storage, StorageError,
        StorageReport, Token,
    },
};
use crate::private_files::FILE_MODE;

/// A helper thread that carries operations out in the order of submission.
#[derive(Debug)]
pub struct BufferedStorage {
    directory: PathBuf,
    report: StorageReport,
    regions: Arc<Mutex<Vec<Pages>>>,
    requests: Option<mpsc::SyncSender<(Token, Operation)>>,
    results: mpsc::Receiver<Completion>,
    inflight_count: usize,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl BufferedStorage {
    /// Storage of one directory. `reason` says why nothing better is used.
    ///
    /// # Errors
    /// When the directory cannot be opened or no thread or event descriptor is to be had.
    pub fn open(directory: &Path, reason: String) -> Result<Self, StorageError> {
        Self::start(directory, reason, false)
    }

    /// The same, for reading alone.
    ///
    /// # Errors
    /// As [`BufferedStorage::open`].
    pub fn open_to_read(directory: &Path, reason: String) -> Result<Self, StorageError> {
        Self::start(directory, reason, true)
    }

    fn start(directory: &Path, reason: String, only_reads: bool) -> Result<Self, StorageError> {
        let failed = |operation: &'static str, source: io::Error| StorageError {
            operation,
            name: directory.display().to_string(),
            source,
        };
        let directory_file = File::open(directory).map_err(|source| failed("open", source))?;
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|source| failed("make an event descriptor for", source.into()))?;
        let wake = Arc::new(wake);
        let regions = Arc::new(Mutex::new(Vec::new()));
        let (requests, request_receiver) = mpsc::sync_channel(limits::OPERATIONS_MAX);
        // One more than can be under way, so that the helper never waits to report.
        let (result_sender, results) = mpsc::sync_channel(limits::OPERATIONS_MAX + 1);
        let mut helper = Helper {
            directory: directory.to_owned(),
            directory_file,
            only_reads,
            regions: Arc::clone(&regions),
            files: HashMap::new(),
            next_file: 0,
        };
        let helper_wake = Arc::clone(&wake);
        let thread = std::thread::Builder::new()
            .name("windlass-disk".to_owned())
            .spawn(move || {
                while let Ok((token, operation)) = request_receiver.recv() {
                    let result = helper.run(operation);
                    if result_sender.send(Completion { token, result }).is_err() {
                        return;
                    }
                    // The counter saturates only after 2^64 events: a failure means "already set".
                    let _ = rustix::io::write(&*helper_wake, bytemuck::bytes_of(&1_u64));
                }
            })
            .map_err(|source| failed("start the disk thread for", source))?;
        Ok(Self {
            directory: directory.to_owned(),
            report: StorageReport {
                provider: "buffered",
                direct: false,
                registered_buffers: false,
                registered_files: false,
                durable_write: "fdatasync",
                fallbacks: vec![reason],
            },
            regions,
            requests: Some(requests),
            results,
            inflight_count: 0,
            wake,
            thread: Some(thread),
        })
    }
}

impl Storage for BufferedStorage {
    fn report(&self) -> &StorageReport {
        &self.report
    }

    fn register(&mut self, pages: Pages) -> Result<RegionId, StorageError> {
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        let id =
            u16::try_from(regions.len()).ok().filter(|&id| usize::from(id) < limits::REGIONS_MAX);
        let Some(id) = id else {
            return Err(StorageError {
                operation: "register memory for",
                name: self.directory.display().to_string(),
                source: io::ErrorKind::OutOfMemory.into(),
            });
        };
        regions.push(pages);
        Ok(RegionId(id))
    }

    fn list(&mut self) -> Result<Vec<Listed>, StorageError> {
        list_directory(&self.directory)
    }

    fn submit(&mut self, token: Token, operation: Operation) -> Result<(), Operation> {
        if self.inflight_count == limits::OPERATIONS_MAX {
            return Err(operation);
        }
        let Some(requests) = &self.requests else { return Err(operation) };
        match requests.try_send((token, operation)) {
            Ok(()) => {
                self.inflight_count += 1;
                Ok(())
            }
            Err(
                mpsc::TrySendError::Full((_, operation))
                | mpsc::TrySendError::Disconnected((_, operation)),
            ) => Err(operation),
        }
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        if self.inflight_count == 0 {
            return;
        }
        // Reset first: whatever is reported after this sets it again.
        let mut counter = [0_u8; 8];
        let _ = rustix::io::read(&*self.wake, &mut counter);
        let before = completions.len();
        completions.extend(self.results.try_iter());
        self.inflight_count -= completions.len() - before;
    }

    fn wait(&mut self, timeout: Duration) {
        let mut polls = [PollFd::new(&*self.wake, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        // An interruption is a spurious return, which every caller expects.
        let _ = rustix::event::poll(&mut polls, Some(&timeout));
    }

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.wake.as_fd())
    }
}

impl Drop for BufferedStorage {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the disk thread panicked");
        }
    }
}

/// Names and lengths of a directory's plain files.
pub(crate) fn list_directory(directory: &Path) -> Result<Vec<Listed>, StorageError> {
    let failed =
        |source| StorageError { operation: "list", name: directory.display().to_string(), source };
    let mut listed = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let metadata = match entry.metadata() {
            // Removed since it was read: shards that look into one directory at once try it out with a file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata.map_err(failed)?,
        };
        if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
            listed.push(Listed { name, length: metadata.len() });
        }
    }
    Ok(listed)
}

struct Helper {
    directory: PathBuf,
    directory_file: File,
    only_reads: bool,
    regions: Arc<Mutex<Vec<Pages>>>,
    files: HashMap<FileId, (String, File)>,
    next_file: u32,
}

impl Helper {
    fn run(&mut self, operation: Operation) -> Result<Outcome, StorageError> {
        let name = self.name_of(&operation);
        let verb = operation.name();
        self.carry_out(operation).map_err(|source| StorageError { operation: verb, name, source })
    }

    fn carry_out(&mut self, operation: Operation) -> io::Result<Outcome> {
        match operation {
            Operation::Open { name, create } => {
                let path = self.directory.join(&name);
                let mut options = OpenOptions::new();
                options.read(true).mode(FILE_MODE);
                options.write(!self.only_reads).create(create).truncate(create);
                let file = descriptors::with_reserve(|| options.open(&path))?;
                let id = FileId(self.next_file);
                self.next_file += 1;
                self.files.insert(id, (name, file));
                return Ok(Outcome::Opened(id));
            }
            Operation::Close { file } => {
                self.files.remove(&file).ok_or(io::ErrorKind::NotFound)?;
            }
            Operation::Allocate { file, length } => {
                let flags = FallocateFlags::empty();
                rustix::fs::fallocate(self.file(file)?, flags, 0, length)?;
            }
            Operation::Release { file, offset, length } => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(self.file(file)?, flags, offset, length)?;
            }
            Operation::Write { file, offset, buffer, durable } => {
                let pages = self.region(buffer.region)?;
                let file = self.file(file)?;
                let count =
                    memory::write_at(file, offset, &pages, buffer.start, buffer.length as usize)?;
                if durable {
                    file.sync_data()?;
                }
                return Ok(Outcome::Transferred(u32::try_from(count).unwrap_or(u32::MAX)));
            }
            Operation::Read { file, offset, buffer } => {
                let pages = self.region(buffer.region)?;
                let file = self.file(file)?;
                let count =
                    memory::read_at(file, offset, &pages, buffer.start, buffer.length as usize)?;
                return Ok(Outcome::Transferred(u32::try_from(count).unwrap_or(u32::MAX)));
            }
            Operation::Sync { file } => self.file(file)?.sync_data()?,
            Operation::Rename { from, to } => {
                std::fs::rename(self.directory.join(from), self.directory.join(to))?;
            }
            Operation::Remove { name } => std::fs::remove_file(self.directory.join(name))?,
            Operation::SyncDirectory => self.directory_file.sync_all()?,
        }
        Ok(Outcome::Done)
    }

    fn file(&self, id: FileId) -> io::Result<&File> {
        self.files.get(&id).map(|(_, file)| file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn region(&self, id: RegionId) -> io::Result<Pages> {
        let regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        regions.get(usize::from(id.0)).cloned().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn name_of(&self, operation: &Operation) -> String {
        match operation {
            Operation::Open { name, .. } | Operation::Remove { name } => name.clone(),
            Operation::Rename { from, to } => format!("{from} to {to}"),
            Operation::SyncDirectory => self.directory.display().to_string(),
            Operation::Close { file }
            | Operation::Allocate { file, .. }
            | Operation::Release { file, .. }
            | Operation::Write { file, .. }
            | Operation::Read { file, .. }
            | Operation::Sync { file } => self
                .files
                .get(file)
                .map_or_else(|| format!("file {}", file.0), |(name, _)| name.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::persist::storage::{Buffer, open_file, run};

    #[test]
    fn a_file_that_goes_while_its_directory_is_listed_is_no_failure() {
        let directory = tempfile::tempdir().unwrap();
        let (path, stop) = (directory.path(), std::sync::atomic::AtomicBool::new(false));
        std::fs::write(path.join("stays"), "bytes").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    std::fs::write(path.join("goes"), "").unwrap();
                    std::fs::remove_file(path.join("goes")).unwrap();
                }
            });
            let listed = (0..20_000).map(|_| list_directory(path)).find(|listed| {
                listed.as_ref().map_or(true, |files| !files.iter().any(|file| file.name == "stays"))
            });
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(listed.is_none(), "{listed:?}");
        });
    }

    fn storage(folder: &tempfile::TempDir) -> (BufferedStorage, RegionId, FileId) {
        let mut storage = BufferedStorage::open(folder.path(), "a test".to_owned()).unwrap();
        let mut window = memory::Window::allocate(1 << 20).unwrap();
        window.bytes_mut(0, 1 << 20).fill(7);
        let region = storage.register(window.pages().clone()).unwrap();
        let file = open_file(&mut storage, "file", true).unwrap();
        (storage, region, file)
    }

    #[test]
    fn what_was_submitted_is_carried_out_before_the_storage_is_gone() {
        const WRITES: u64 = 64;
        let folder = tempfile::tempdir().unwrap();
        let (mut storage, region, file) = storage(&folder);
        for number in 0..WRITES {
            let buffer = Buffer { region, start: 0, length: 1 << 20 };
            let write = Operation::Write { file, offset: number << 20, buffer, durable: false };
            storage.submit(Token(number), write).unwrap();
        }
        drop(storage);
        let length = std::fs::metadata(folder.path().join("file")).unwrap().len();
        assert_eq!(length, WRITES << 20);
    }

    #[test]
    fn no_more_is_taken_than_can_be_under_way() {
        let folder = tempfile::tempdir().unwrap();
        let (mut storage, _, file) = storage(&folder);
        for number in 0..limits::OPERATIONS_MAX as u64 {
            storage.submit(Token(number), Operation::Sync { file }).unwrap();
        }
        let refused = storage.submit(Token(1000), Operation::Sync { file });
        assert_eq!(refused, Err(Operation::Sync { file }));
        let mut completions = Vec::new();
        while completions.len() < limits::OPERATIONS_MAX {
            storage.wait(Duration::from_millis(10));
            storage.poll(&mut completions);
        }
        assert!(completions.iter().map(|done| done.token.0).eq(0..256), "in order");
        storage.submit(Token(1000), Operation::Sync { file }).unwrap();
    }

    #[test]
    fn errors_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (mut storage, region, file) = storage(&folder);
        let refused = |storage: &mut BufferedStorage, operation| {
            let error = run(storage, operation).unwrap_err();
            (error.operation, error.name)
        };
        let none = || "none".to_owned();
        let open = Operation::Open { name: none(), create: false };
        assert_eq!(refused(&mut storage, open), ("open", none()));
        assert_eq!(refused(&mut storage, Operation::Remove { name: none() }), ("remove", none()));
        let rename = Operation::Rename { from: none(), to: "other".to_owned() };
        assert_eq!(refused(&mut storage, rename), ("rename", "none to other".to_owned()));
        let close = Operation::Close { file: FileId(9) };
        assert_eq!(refused(&mut storage, close), ("close", "file 9".to_owned()));
        let buffer = Buffer { region: RegionId(region.0 + 1), start: 0, length: 64 };
        let read = Operation::Read { file, offset: 0, buffer };
        assert_eq!(refused(&mut storage, read), ("read", "file".to_owned()));
    }
}
