//! The seam between persistence and the disk, shaped for io_uring: operations are submitted and
//! complete later, memory is named by registered region, one directory per instance. Under it lie
//! [`super::uring`], [`super::buffered`] and, in tests, a simulated disk.
//!
//! Who may touch a buffer: from `submit` of a write until its completion nobody may write the
//! bytes; from `submit` of a read until its completion nobody may look at them. Dropping a storage
//! waits for what the device still holds.

use std::{fmt, io, os::fd::BorrowedFd, path::Path, time::Duration};

use windlass_transport::{descriptors, memory::Pages};

use super::limits;

/// Whatever stores bytes for one shard. Not shared between threads.
pub trait Storage: fmt::Debug {
    /// How operations are carried out, and why not in the better way.
    fn report(&self) -> &StorageReport;

    /// Makes memory known, so that operations can name it. It stays mapped while the storage lives.
    ///
    /// # Errors
    /// When there are already [`limits::REGIONS_MAX`] regions.
    fn register(&mut self, pages: Pages) -> Result<RegionId, StorageError>;

    /// Names and lengths of the files in the directory, in no order. Blocks: for start-up.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn list(&mut self) -> Result<Vec<Listed>, StorageError>;

    /// Hands an operation over without waiting for it.
    ///
    /// # Errors
    /// Gives the operation back when [`limits::OPERATIONS_MAX`] are under way: poll, then retry.
    fn submit(&mut self, token: Token, operation: Operation) -> Result<(), Operation>;

    /// Hands over an operation whose end somebody waits for. It may be carried out before this returns,
    /// if that is quick; its completion is polled for all the same.
    ///
    /// # Errors
    /// As [`Storage::submit`].
    fn submit_awaited(&mut self, token: Token, operation: Operation) -> Result<(), Operation> {
        self.submit(token, operation)
    }

    /// Whether [`Storage::submit_awaited`] may carry operations out before it returns. A disk may take
    /// any time for one, and a thread that others wait for must not: it is told not to.
    fn set_in_place(&mut self, _may: bool) {}

    /// Tells the device what was submitted, ahead of the next poll, which does so anyway. Never waits.
    /// Returns how long that took, where the device may carry operations out meanwhile.
    fn begin(&mut self) -> Duration {
        Duration::ZERO
    }

    /// Tells the device what was submitted and appends what has completed. Never waits.
    fn poll(&mut self, completions: &mut Vec<Completion>);

    /// Sleeps until there may be something to poll, or the time is over.
    fn wait(&mut self, timeout: Duration);

    /// Becomes readable when there may be something to poll, so that a shard sleeps on this and on
    /// its transports together. Reset by `poll`. `None` when it cannot be offered.
    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Says which submission a completion belongs to: the upper byte names the submitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

impl Token {
    /// A token of one submitter.
    #[must_use]
    pub const fn new(owner: u8, value: u64) -> Self {
        assert!(value < 1 << 56);
        Self(((owner as u64) << 56) | value)
    }

    /// The submitter.
    #[must_use]
    pub const fn owner(self) -> u8 {
        self.0.to_le_bytes()[7]
    }

    /// What the submitter put in.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0 & ((1 << 56) - 1)
    }
}

/// An open file of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(pub u32);

/// A registered region of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegionId(pub u16);

/// Bytes of a registered region. For direct IO start, length and file offset are multiples of
/// [`limits::BLOCK_BYTES`]; every caller keeps to that on every storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// The region.
    pub region: RegionId,
    /// Offset of the first byte.
    pub start: u64,
    /// Number of bytes.
    pub length: u32,
}

/// What can be asked of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Opens a file of the directory; completes with [`Outcome::Opened`].
    Open {
        /// Its name.
        name: String,
        /// Whether it is made, and emptied, or has to exist.
        create: bool,
    },
    /// Closes a file once nothing of it is under way.
    Close {
        /// The file.
        file: FileId,
    },
    /// Reserves space from the start of a file up to a length.
    Allocate {
        /// The file.
        file: FileId,
        /// Length in bytes.
        length: u64,
    },
    /// Gives the space of a part of a file back, which reads as zeros from then on; not on every file
    /// system.
    Release {
        /// The file.
        file: FileId,
        /// Where in the file, in bytes.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
    /// Writes a buffer; completes with [`Outcome::Transferred`]. `durable`: completes only once
    /// the bytes survive a power cut.
    Write {
        /// The file.
        file: FileId,
        /// Where in the file, in bytes.
        offset: u64,
        /// What.
        buffer: Buffer,
        /// Whether completion means durability.
        durable: bool,
    },
    /// Reads into a buffer; completes with [`Outcome::Transferred`], short at the file's end.
    Read {
        /// The file.
        file: FileId,
        /// Where in the file, in bytes.
        offset: u64,
        /// Into what.
        buffer: Buffer,
    },
    /// Makes everything written and completed so far durable, length included.
    Sync {
        /// The file.
        file: FileId,
    },
    /// Renames a file, replacing the target atomically.
    Rename {
        /// Old name.
        from: String,
        /// New name.
        to: String,
    },
    /// Removes a file.
    Remove {
        /// Its name.
        name: String,
    },
    /// Makes creations, renames and removals durable.
    SyncDirectory,
}

impl Operation {
    /// The name used in errors.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Close { .. } => "close",
            Self::Allocate { .. } => "allocate space for",
            Self::Release { .. } => "give back space of",
            Self::Write { .. } => "write",
            Self::Read { .. } => "read",
            Self::Sync { .. } => "sync",
            Self::Rename { .. } => "rename",
            Self::Remove { .. } => "remove",
            Self::SyncDirectory => "sync the directory of",
        }
    }
}

/// The result of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The file opened.
    Opened(FileId),
    /// Bytes read or written; fewer than asked for is possible and never retried here.
    Transferred(u32),
    /// Done.
    Done,
}

/// The end of an operation.
#[derive(Debug)]
pub struct Completion {
    /// The token it was submitted with.
    pub token: Token,
    /// Its result.
    pub result: Result<Outcome, StorageError>,
}

/// A file in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
}

/// An operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {name}: check the disk and the file's permissions")]
pub struct StorageError {
    /// What was tried.
    pub operation: &'static str,
    /// The file, as named in the directory.
    pub name: String,
    /// The system's reason.
    #[source]
    pub source: io::Error,
}

impl StorageError {
    /// Whether the disk, or the quota, is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether the device has gone: nothing that is tried again succeeds.
    pub(crate) fn is_of_no_device(&self) -> bool {
        let gone = [rustix::io::Errno::NODEV, rustix::io::Errno::NXIO];
        self.source
            .raw_os_error()
            .is_some_and(|error| gone.iter().any(|gone| gone.raw_os_error() == error))
    }

    /// Whether only a file descriptor was missing: nothing is wrong with the disk.
    #[must_use]
    pub fn is_for_want_of_descriptors(&self) -> bool {
        descriptors::are_exhausted(&self.source)
    }
}

/// How a storage works, for `windlass doctor` and the log line at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageReport {
    /// `io_uring`, `buffered` or `simulated`.
    pub provider: &'static str,
    /// Whether files are opened with `O_DIRECT`.
    pub direct: bool,
    /// Whether memory is registered, so that it is not pinned anew by each operation.
    pub registered_buffers: bool,
    /// Whether files are registered.
    pub registered_files: bool,
    /// What makes a write durable: `RWF_DSYNC` or `fdatasync`.
    pub durable_write: &'static str,
    /// Why a better way was not taken, one sentence each.
    pub fallbacks: Vec<String>,
}

impl fmt::Display for StorageReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |flag| if flag { "yes" } else { "no" };
        write!(
            formatter,
            "{}, O_DIRECT {}, registered buffers {}, registered files {}, durable by {}",
            self.provider,
            yes(self.direct),
            yes(self.registered_buffers),
            yes(self.registered_files),
            self.durable_write
        )?;
        self.fallbacks.iter().try_for_each(|reason| write!(formatter, "; {reason}"))
    }
}

/// Which storage to open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provider {
    /// io_uring, or buffered where it is refused.
    #[default]
    Automatic,
    /// io_uring, or an error.
    Uring,
    /// A helper thread with plain system calls.
    Buffered,
    /// As `Automatic`, but each durable write takes so much longer: to see what a slow disk does to a
    /// server.
    Delayed(Duration),
    /// Whatever a function makes of a directory: to see what a failing disk does to a server.
    Made(Maker),
}

/// Makes the storage of a directory, on the thread that will use it.
#[derive(Clone, Copy, Debug)]
pub struct Maker(pub fn(&Path) -> Result<Box<dyn Storage>, StorageError>);

impl PartialEq for Maker {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::fn_addr_eq(self.0, other.0)
    }
}

impl Eq for Maker {}

/// Opens the storage of a directory, which is made if it is missing. To be called on the thread
/// that will use it.
///
/// # Errors
/// When the directory cannot be made or opened, or the provider asked for is refused.
pub fn open(directory: &Path, provider: Provider) -> Result<Box<dyn Storage>, StorageError> {
    crate::private_files::make_directory(directory).map_err(|source| StorageError {
        operation: "create",
        name: directory.display().to_string(),
        source,
    })?;
    let refused = match provider {
        Provider::Buffered => "the configuration asks for buffered storage".to_owned(),
        Provider::Uring => {
            return Ok(Box::new(super::uring::UringStorage::open(directory)?));
        }
        Provider::Delayed(delay) => {
            let inner = open(directory, Provider::Automatic)?;
            return Ok(Box::new(super::delayed::DelayedStorage::new(inner, delay)));
        }
        Provider::Made(Maker(make)) => return make(directory),
        Provider::Automatic => match super::uring::UringStorage::open(directory) {
            Ok(storage) => return Ok(Box::new(storage)),
            Err(error) => format!("io_uring is refused: {}", error.source),
        },
    };
    tracing::warn!(directory = %directory.display(), %refused, "falling back to buffered storage");
    Ok(Box::new(super::buffered::BufferedStorage::open(directory, refused)?))
}

/// Opens the storage of a directory that is there, for reading alone: nothing in it is changed, and it may be
/// mounted read-only.
///
/// # Errors
/// When the directory cannot be opened.
pub fn open_to_read(directory: &Path) -> Result<Box<dyn Storage>, StorageError> {
    match super::uring::UringStorage::open_to_read(directory) {
        Ok(storage) => Ok(Box::new(storage)),
        Err(error) => {
            let refused = format!("io_uring is refused: {}", error.source);
            Ok(Box::new(super::buffered::BufferedStorage::open_to_read(directory, refused)?))
        }
    }
}

/// Submits one operation and waits for its end: for start-up, recovery and tools, while nothing
/// else is under way on this storage.
///
/// # Errors
/// What the operation failed with.
pub fn run(storage: &mut dyn Storage, operation: Operation) -> Result<Outcome, StorageError> {
    const RUN: Token = Token::new(u8::MAX, 0);
    let name = operation.name();
    if storage.submit(RUN, operation).is_err() {
        return Err(StorageError {
            operation: name,
            name: "a file while other operations are under way".to_owned(),
            source: io::ErrorKind::WouldBlock.into(),
        });
    }
    let mut completions = Vec::with_capacity(1);
    loop {
        storage.poll(&mut completions);
        if let Some(completion) = completions.pop() {
            assert_eq!(completion.token, RUN, "another operation was under way");
            return completion.result;
        }
        storage.wait(Duration::from_secs(1));
    }
}

/// Opens a file and waits for that.
///
/// # Errors
/// As [`run`].
pub fn open_file(
    storage: &mut dyn Storage,
    name: &str,
    create: bool,
) -> Result<FileId, StorageError> {
    assert!(name.len() <= limits::NAME_BYTES_MAX && !name.contains('/'), "bad file name {name:?}");
    match run(storage, Operation::Open { name: name.to_owned(), create })? {
        Outcome::Opened(file) => Ok(file),
        Outcome::Transferred(_) | Outcome::Done => unreachable!("open completes with a file"),
    }
}

/// Reads as much as there is and waits for that. Returns the number of bytes. What cannot be read is
/// tried again, as an error may pass.
///
/// # Errors
/// As [`run`].
pub fn read(
    storage: &mut dyn Storage,
    file: FileId,
    offset: u64,
    buffer: Buffer,
) -> Result<u32, StorageError> {
    let mut attempt = 1;
    loop {
        match run(storage, Operation::Read { file, offset, buffer }) {
            Ok(Outcome::Transferred(bytes)) => return Ok(bytes),
            Ok(_) => unreachable!("read completes with a length"),
            Err(error) if attempt == limits::READ_ATTEMPTS_MAX || error.is_of_no_device() => {
                return Err(error);
            }
            Err(error) => {
                tracing::warn!(%error, reason = %error.source, "reading again");
                attempt += 1;
                std::thread::sleep(limits::READ_RETRY_PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{buffered::BufferedStorage, uring::UringStorage},
        *,
    };

    #[test]
    fn storage_opened_to_read_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), [7; 8192]).unwrap();
        let before = std::fs::metadata(folder.path()).unwrap().modified().unwrap();
        let buffered = BufferedStorage::open_to_read(folder.path(), String::new()).unwrap();
        let mut storages: Vec<Box<dyn Storage>> = vec![Box::new(buffered)];
        match UringStorage::open_to_read(folder.path()) {
            Ok(ring) => storages.push(Box::new(ring)),
            Err(error) => assert!(UringStorage::open(folder.path()).is_err(), "{error}"),
        }
        for mut storage in storages {
            let file = open_file(storage.as_mut(), "a", false).unwrap();
            let grown = run(storage.as_mut(), Operation::Allocate { file, length: 1 << 20 });
            // The descriptor itself does not allow it.
            let reason = grown.unwrap_err().source.raw_os_error();
            assert_eq!(reason, Some(libc::EBADF), "{:?}", storage.report());
        }
        assert_eq!(std::fs::metadata(folder.path()).unwrap().modified().unwrap(), before);
        assert!(open_to_read(&folder.path().join("none")).is_err());
        assert!(!folder.path().join("none").exists());
    }
}
