//! From operations to submission entries, and from completion results to outcomes.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, IntoRawFd},
};

use io_uring::{
    opcode,
    squeue::{Entry, Flags},
    types,
};

use windlass_transport::descriptors;

use super::{
    UringStorage,
    files::OpenFile,
    inflight::{Flush, Slot},
};
use crate::{
    persist::storage::{Buffer, Completion, FileId, Operation, Outcome, StorageError, Token},
    private_files::FILE_MODE,
};

impl UringStorage {
    /// Queues an operation for the next enter. Mistakes complete at once with an error.
    pub(super) fn queue(&mut self, token: Token, operation: Operation) -> Result<(), Operation> {
        if self.inflight.is_full() {
            return Err(operation);
        }
        if let Operation::Close { file } = operation {
            match self.files.remove(&self.ring, file) {
                Some(file) => self.close(token, operation, file),
                None => {
                    let result = Err(self.failed(&operation, io::ErrorKind::NotFound.into()));
                    self.ready.push(Completion { token, result });
                }
            }
            return Ok(());
        }
        let paths = match &operation {
            Operation::Open { name, .. } | Operation::Remove { name } => {
                [CString::new(name.as_str()).ok(), None]
            }
            Operation::Rename { from, to } => {
                [CString::new(from.as_str()).ok(), CString::new(to.as_str()).ok()]
            }
            _ => [None, None],
        };
        self.start(Slot { token, operation, paths, flush: Flush::None });
        Ok(())
    }

    /// Queues what a slot says. There has to be one free.
    pub(super) fn start(&mut self, slot: Slot) {
        let token = slot.token;
        let index = self.inflight.start(slot);
        match self.entry(index) {
            Ok(entry) => self.push(entry.user_data(index as u64)),
            Err(source) => {
                if let Some(slot) = self.inflight.finish(index as u64) {
                    let result = Err(self.failed(&slot.operation, source));
                    self.ready.push(Completion { token, result });
                }
            }
        }
    }

    /// By one of the kernel's workers: the last close of a long file may take its time.
    fn close(&mut self, token: Token, operation: Operation, file: File) {
        let slot = Slot { token, operation, paths: [None, None], flush: Flush::None };
        let index = self.inflight.start(slot);
        let entry = opcode::Close::new(types::Fd(file.into_raw_fd())).build();
        self.push(entry.flags(Flags::ASYNC).user_data(index as u64));
    }

    /// Has a file opened again with a descriptor of the reserve, if there was no other; otherwise gives
    /// the slot back.
    pub(super) fn open_again(&mut self, slot: Slot, result: i32) -> Option<Slot> {
        let found_none = matches!(slot.operation, Operation::Open { .. })
            && matches!(-result, libc::EMFILE | libc::ENFILE);
        if found_none && descriptors::give_from_reserve() {
            self.start(slot);
            return None;
        }
        Some(slot)
    }

    fn push(&mut self, entry: Entry) {
        // SAFETY: the slot keeps the entry's paths, `regions` its memory and `files` its file until
        // the completion has been seen; dropping the storage waits for that.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            // The queue has a place for every slot; a full one only waits to be told to the kernel.
            self.enter();
        }
    }

    fn entry(&self, index: usize) -> io::Result<Entry> {
        let slot = self.inflight.slot(index).ok_or(io::ErrorKind::NotFound)?;
        let path = |which: usize| -> io::Result<*const libc::c_char> {
            Ok(slot.paths[which].as_ref().ok_or(io::ErrorKind::InvalidInput)?.as_ptr())
        };
        let here = types::Fd(self.directory_file.as_raw_fd());
        Ok(match slot.operation {
            Operation::Open { create, .. } => {
                let access = if self.only_reads { libc::O_RDONLY } else { libc::O_RDWR };
                let mut flags = access | libc::O_CLOEXEC;
                if create {
                    flags |= libc::O_CREAT | libc::O_TRUNC;
                }
                if self.report.direct {
                    flags |= libc::O_DIRECT;
                }
                opcode::OpenAt::new(here, path(0)?).flags(flags).mode(FILE_MODE).build()
            }
            Operation::Close { .. } => return Err(io::ErrorKind::InvalidInput.into()),
            Operation::Allocate { file, length } => {
                let fd = types::Fd(self.open_file(file)?.file.as_raw_fd());
                opcode::Fallocate::new(fd, length).build()
            }
            Operation::Release { file, offset, length } => {
                let fd = types::Fd(self.open_file(file)?.file.as_raw_fd());
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                opcode::Fallocate::new(fd, length).offset(offset).mode(mode).build()
            }
            Operation::Write { file, .. } if slot.flush == Flush::Now => {
                flush_entry(self.open_file(file)?)
            }
            Operation::Write { file, offset, buffer, durable } => {
                let flushes = durable && slot.flush == Flush::None;
                let flags = if flushes { libc::RWF_DSYNC } else { 0 };
                self.write_entry(self.open_file(file)?, file.0, offset, buffer, flags)?
            }
            Operation::Read { file, offset, buffer } => {
                self.read_entry(self.open_file(file)?, file.0, offset, buffer)?
            }
            Operation::Sync { file } => flush_entry(self.open_file(file)?),
            Operation::Rename { .. } => {
                opcode::RenameAt::new(here, path(0)?, here, path(1)?).build()
            }
            Operation::Remove { .. } => opcode::UnlinkAt::new(here, path(0)?).build(),
            Operation::SyncDirectory => {
                opcode::Fsync::new(types::Fd(self.directory_file.as_raw_fd())).build()
            }
        })
    }

    pub(super) fn open_file(&self, file: FileId) -> io::Result<&OpenFile> {
        self.files.open_file(file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The bytes' address, and their registration if they have one.
    pub(super) fn locate(&self, buffer: Buffer) -> io::Result<(*mut u8, Option<u16>)> {
        let region =
            self.regions.get(usize::from(buffer.region.0)).ok_or(io::ErrorKind::NotFound)?;
        if !region.pages.contains(buffer.start, u64::from(buffer.length)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let pointer = region.pages.pointer(buffer.start, buffer.length as usize);
        Ok((pointer, region.registered.then_some(buffer.region.0)))
    }

    fn write_entry(
        &self,
        file: &OpenFile,
        id: u32,
        offset: u64,
        buffer: Buffer,
        flags: i32,
    ) -> io::Result<Entry> {
        let (pointer, index) = self.locate(buffer)?;
        let (fd, fixed) = (types::Fd(file.file.as_raw_fd()), types::Fixed(id));
        let length = buffer.length;
        Ok(match (index, file.registered) {
            (Some(index), true) => opcode::WriteFixed::new(fixed, pointer, length, index)
                .offset(offset)
                .rw_flags(flags)
                .build(),
            (Some(index), false) => opcode::WriteFixed::new(fd, pointer, length, index)
                .offset(offset)
                .rw_flags(flags)
                .build(),
            (None, true) => {
                opcode::Write::new(fixed, pointer, length).offset(offset).rw_flags(flags).build()
            }
            (None, false) => {
                opcode::Write::new(fd, pointer, length).offset(offset).rw_flags(flags).build()
            }
        })
    }

    fn read_entry(
        &self,
        file: &OpenFile,
        id: u32,
        offset: u64,
        buffer: Buffer,
    ) -> io::Result<Entry> {
        let (pointer, index) = self.locate(buffer)?;
        let (fd, fixed) = (types::Fd(file.file.as_raw_fd()), types::Fixed(id));
        let length = buffer.length;
        Ok(match (index, file.registered) {
            (Some(index), true) => {
                opcode::ReadFixed::new(fixed, pointer, length, index).offset(offset).build()
            }
            (Some(index), false) => {
                opcode::ReadFixed::new(fd, pointer, length, index).offset(offset).build()
            }
            (None, true) => opcode::Read::new(fixed, pointer, length).offset(offset).build(),
            (None, false) => opcode::Read::new(fd, pointer, length).offset(offset).build(),
        })
    }

    /// What an operation's result means.
    pub(super) fn conclude(
        &mut self,
        operation: Operation,
        result: i32,
    ) -> Result<Outcome, StorageError> {
        let Ok(value) = u32::try_from(result) else {
            return Err(self.failed(&operation, io::Error::from_raw_os_error(-result)));
        };
        match operation {
            Operation::Open { name, .. } => {
                // SAFETY: the kernel made this descriptor for us just now, and nobody else owns it.
                let file = unsafe { File::from_raw_fd(result) };
                let registered = self.report.registered_files;
                match self.files.insert(&self.ring, name.clone(), file, registered) {
                    Some(id) => Ok(Outcome::Opened(id)),
                    None => Err(StorageError {
                        operation: "open",
                        name,
                        source: io::Error::from_raw_os_error(libc::EMFILE),
                    }),
                }
            }
            Operation::Write { .. } | Operation::Read { .. } => Ok(Outcome::Transferred(value)),
            _ => Ok(Outcome::Done),
        }
    }

    pub(super) fn failed(&self, operation: &Operation, source: io::Error) -> StorageError {
        let name = match operation {
            Operation::Open { name, .. } | Operation::Remove { name } => name.clone(),
            Operation::Rename { from, to } => format!("{from} to {to}"),
            Operation::SyncDirectory => self.directory.display().to_string(),
            Operation::Close { file }
            | Operation::Allocate { file, .. }
            | Operation::Release { file, .. }
            | Operation::Write { file, .. }
            | Operation::Read { file, .. }
            | Operation::Sync { file } => self.files.name(*file),
        };
        StorageError { operation: operation.name(), name, source }
    }
}

fn flush_entry(file: &OpenFile) -> Entry {
    let fd = types::Fd(file.file.as_raw_fd());
    opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build()
}
