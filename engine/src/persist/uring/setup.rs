//! Making a ring, and finding out what this kernel and file system allow.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use io_uring::{IoUring, opcode, types};
use windlass_transport::memory::{HugePages, Lock, Pages, PagesOptions};

use super::{UringStorage, files::Files, in_place::InPlace, inflight::Inflight};
use crate::{
    persist::{limits, storage::StorageReport},
    private_files::FILE_MODE,
};

const PROBE_NAME: &str = ".windlass-probe";

/// Entries of the submission queue: every operation under way fits.
const ENTRIES: u32 = 256;

const _: () = assert!(ENTRIES as usize == limits::OPERATIONS_MAX);

pub(super) fn open(directory: &Path, only_reads: bool) -> io::Result<UringStorage> {
    let ring = build()?;
    let mut report = StorageReport {
        provider: "io_uring",
        direct: true,
        registered_buffers: true,
        registered_files: true,
        durable_write: "RWF_DSYNC",
        fallbacks: Vec::new(),
    };
    let regions_max = u32::try_from(limits::REGIONS_MAX).unwrap_or(u32::MAX);
    if let Err(error) = ring.submitter().register_buffers_sparse(regions_max) {
        report.registered_buffers = false;
        report.fallbacks.push(format!("registered buffers are refused: {error}"));
    }
    if let Err(error) = ring.submitter().register_files_sparse(Files::REGISTERED_MAX) {
        report.registered_files = false;
        report.fallbacks.push(format!("registered files are refused: {error}"));
    }
    let tried =
        if only_reads { probe_read(&ring, directory) } else { probe_write(&ring, directory, true) };
    if let Err(error) = tried {
        report.direct = false;
        report.fallbacks.push(format!("O_DIRECT is refused: {error}"));
        if !only_reads {
            probe_write(&ring, directory, false)?;
        }
    }
    let directory_file = File::open(directory)?;
    Ok(UringStorage {
        ring,
        directory: directory.to_owned(),
        directory_file,
        report,
        only_reads,
        regions: Vec::new(),
        files: Files::new(),
        inflight: Inflight::new(),
        ready: Vec::new(),
        may_block: true,
        in_place: InPlace::default(),
        written: Vec::new(),
        flushes: InPlace::default(),
    })
}

/// A ring whose completions cost no interrupt of the shard's thread; a plain one on old kernels.
fn build() -> io::Result<IoUring> {
    IoUring::builder()
        .dontfork()
        .setup_clamp()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .build(ENTRIES)
        .or_else(|_| IoUring::builder().dontfork().build(ENTRIES))
}

/// Registers one region under its id.
pub(super) fn register_buffer(ring: &IoUring, id: u16, pages: &Pages) -> io::Result<()> {
    if pages.len() > limits::REGISTERED_BUFFER_BYTES_MAX {
        return Err(io::Error::other("the kernel takes at most 1 GiB as one buffer"));
    }
    let vector = libc::iovec { iov_base: pages.as_ptr().cast(), iov_len: pages.len() };
    // SAFETY: the pages stay mapped until the ring is gone: the storage that owns the ring keeps a
    // clone of them, and its fields are dropped after it waited for everything under way.
    unsafe { ring.submitter().register_buffers_update(u32::from(id), &[vector], None) }
}

/// Writes one block durably through the ring, as the log will.
fn probe_write(ring: &IoUring, directory: &Path, direct: bool) -> io::Result<()> {
    let path = directory.join(PROBE_NAME);
    // A name of this process, since several shards may try the same directory.
    let path = path.with_extension(std::process::id().to_string());
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(FILE_MODE);
    if direct {
        options.custom_flags(libc::O_DIRECT);
    }
    // Some file systems refuse the flag at open, others at the first write.
    let file = options.open(&path);
    let result = file.and_then(|file| carry_out(ring, &file, true));
    let _ = std::fs::remove_file(&path);
    match result? {
        limits::BLOCK_BYTES => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Reads a block of a file that is there, past the kernel's cache, as recovery will.
fn probe_read(ring: &IoUring, directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(libc::O_DIRECT).open(entry.path());
        match file.and_then(|file| carry_out(ring, &file, false)) {
            Ok(_) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Err(error),
            // A running server has removed it, or it is damaged, which its reader will say.
            Err(_) => {}
        }
    }
    Ok(())
}

/// Writes or reads the first block of a file, and returns how many bytes of it.
fn carry_out(ring: &IoUring, file: &File, writes: bool) -> io::Result<usize> {
    let options =
        PagesOptions { huge: HugePages::Never, lock: Lock::Never, sealed_for_peers: false };
    let pages = Pages::allocate(limits::BLOCK_BYTES, options).map_err(io::Error::other)?;
    let length = u32::try_from(limits::BLOCK_BYTES).unwrap_or(0);
    let fd = types::Fd(file.as_raw_fd());
    let entry = if writes {
        opcode::Write::new(fd, pages.as_ptr(), length).rw_flags(libc::RWF_DSYNC).build()
    } else {
        opcode::Read::new(fd, pages.as_ptr(), length).build()
    };
    // SAFETY: nothing else uses the ring yet: this is set-up, with exclusive ownership.
    let mut queue = unsafe { ring.submission_shared() };
    // SAFETY: file and pages live until the completion, waited for below, has arrived.
    unsafe { queue.push(&entry) }.map_err(io::Error::other)?;
    drop(queue);
    loop {
        match ring.submitter().submit_and_wait(1) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // SAFETY: as above: nothing else uses the ring.
    let mut completions = unsafe { ring.completion_shared() };
    let result = completions.next().map_or(-libc::EIO, |entry| entry.result());
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}
