//! The storage seam over the simulated disk: operations complete late and in any order.

use std::{io, time::Duration};

use windlass_engine::persist::storage::{
    Buffer, Completion, FileId, Listed, Operation, Outcome, RegionId, Storage, StorageError,
    StorageReport, Token,
};
use windlass_transport::memory::Pages;

use super::disk::SharedDisk;

/// A storage of a simulated disk.
#[derive(Debug)]
pub struct SimulatedStorage {
    disk: SharedDisk,
    regions: Vec<Pages>,
    files: Vec<Option<(String, usize)>>,
    inflight: Vec<(Token, Operation)>,
    report: StorageReport,
}

impl SimulatedStorage {
    /// A storage over a disk, which outlives it.
    #[must_use]
    pub fn new(disk: SharedDisk) -> Self {
        Self {
            disk,
            regions: Vec::new(),
            files: Vec::new(),
            inflight: Vec::new(),
            report: StorageReport {
                provider: "simulated",
                direct: false,
                registered_buffers: false,
                registered_files: false,
                durable_write: "simulated",
                fallbacks: Vec::new(),
            },
        }
    }

    /// The power goes: writes under way may have happened, in part.
    pub fn crash(&mut self) {
        for (_, operation) in std::mem::take(&mut self.inflight) {
            if let Operation::Write { file, offset, buffer, .. } = operation
                && let Some(Some((_, inode))) = self.files.get(file.0 as usize)
            {
                let bytes = self.bytes(buffer);
                // Into the cache: the power cycle decides what stays.
                let _ = self.disk.borrow_mut().write(*inode, to_usize(offset), &bytes, false);
            }
        }
    }

    fn bytes(&self, buffer: Buffer) -> Vec<u8> {
        let mut bytes = vec![0; buffer.length as usize];
        self.regions[usize::from(buffer.region.0)].read(buffer.start, &mut bytes);
        bytes
    }

    fn carry_out(&mut self, operation: &Operation) -> io::Result<Outcome> {
        let disk = self.disk.clone();
        let mut disk = disk.borrow_mut();
        if disk.is_off() {
            return Err(power_is_off());
        }
        match operation {
            Operation::Open { name, create } => {
                let inode = disk.open(name, *create)?;
                let id = u32::try_from(self.files.len()).map_err(io::Error::other)?;
                self.files.push(Some((name.clone(), inode)));
                return Ok(Outcome::Opened(FileId(id)));
            }
            Operation::Close { file } => {
                self.inode(*file)?;
                self.files[file.0 as usize] = None;
            }
            Operation::Allocate { file, length } => {
                disk.allocate(self.inode(*file)?, to_usize(*length))?;
            }
            Operation::Release { file, offset, length } => {
                disk.release(self.inode(*file)?, to_usize(*offset), to_usize(*length));
            }
            Operation::Write { file, offset, buffer, durable } => {
                let bytes = self.bytes(*buffer);
                let count = disk.write(self.inode(*file)?, to_usize(*offset), &bytes, *durable)?;
                return Ok(Outcome::Transferred(u32::try_from(count).unwrap_or(0)));
            }
            Operation::Read { file, offset, buffer } => {
                let mut bytes = vec![0; buffer.length as usize];
                let count = disk.read(self.inode(*file)?, to_usize(*offset), &mut bytes)?;
                self.regions[usize::from(buffer.region.0)].write(buffer.start, &bytes[..count]);
                return Ok(Outcome::Transferred(u32::try_from(count).unwrap_or(0)));
            }
            Operation::Sync { file } => disk.sync(self.inode(*file)?)?,
            Operation::Rename { from, to } => disk.rename(from, to)?,
            Operation::Remove { name } => disk.remove(name)?,
            Operation::SyncDirectory => disk.sync_directory()?,
        }
        Ok(Outcome::Done)
    }

    fn inode(&self, file: FileId) -> io::Result<usize> {
        let open = self.files.get(file.0 as usize).and_then(Option::as_ref);
        open.map(|(_, inode)| *inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Storage for SimulatedStorage {
    fn report(&self) -> &StorageReport {
        &self.report
    }

    fn register(&mut self, pages: Pages) -> Result<RegionId, StorageError> {
        self.regions.push(pages);
        Ok(RegionId(u16::try_from(self.regions.len() - 1).unwrap_or(u16::MAX)))
    }

    fn list(&mut self) -> Result<Vec<Listed>, StorageError> {
        let disk = self.disk.borrow();
        let listed = disk.list().map(|(name, length)| Listed { name: name.to_owned(), length });
        Ok(listed.collect())
    }

    fn submit(&mut self, token: Token, operation: Operation) -> Result<(), Operation> {
        self.disk.borrow_mut().event();
        self.inflight.push((token, operation));
        Ok(())
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        while !self.inflight.is_empty() {
            let (off, index) = {
                let mut disk = self.disk.borrow_mut();
                if disk.is_off() {
                    (true, 0)
                } else if disk.choose(3) == 0 {
                    // Slow: later.
                    return;
                } else {
                    let index = disk.choose(self.inflight.len() as u64);
                    (disk.event(), to_usize(index))
                }
            };
            if off {
                // Whatever is under way stays so for `crash`; a caller that waits hears of it.
                for (token, operation) in &self.inflight {
                    completions.push(Completion {
                        token: *token,
                        result: Err(StorageError {
                            operation: operation.name(),
                            name: "a dead disk".to_owned(),
                            source: power_is_off(),
                        }),
                    });
                }
                self.crash();
                return;
            }
            let (token, operation) = self.inflight.swap_remove(index);
            let result = self.carry_out(&operation).map_err(|source| StorageError {
                operation: operation.name(),
                name: "a simulated file".to_owned(),
                source,
            });
            completions.push(Completion { token, result });
        }
    }

    fn wait(&mut self, _timeout: Duration) {}
}

const ENODEV: i32 = 19;

/// As of a device that has gone, which nothing is asked of again.
fn power_is_off() -> io::Error {
    io::Error::from_raw_os_error(ENODEV)
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("simulated files are small")
}
