//! Reading a file of frames from one end to the other, in large reads that overlap with decoding.
//!
//! ```text
//!  each of two buffers:  | room for an unfinished frame | one read |
//! ```
//! A frame that crosses the end of a read is moved in front of the next one, so that it lies in one
//! piece; its alignment survives, because frames and reads are multiples of 64 bytes.
//!
//! A read that fails is tried again, block by block: what is reported is the block that cannot be read,
//! and everything before it was given.

use std::{io, ops::Range, time::Duration};

use super::{
    limits::{BLOCK_BYTES, READ_ATTEMPTS_MAX, READ_BYTES, READ_RETRY_PAUSE, RECORD_BYTES_MAX},
    memory::Window,
    storage::{
        self, Buffer, Completion, FileId, Operation, Outcome, RegionId, Storage, StorageError,
        Token,
    },
};

const OWNER: u8 = 4;
const CARRY: usize = RECORD_BYTES_MAX;

/// Memory for scans, to be used by one after the other.
#[derive(Debug)]
pub(crate) struct ScanMemory {
    buffers: [Window; 2],
    regions: [RegionId; 2],
}

impl ScanMemory {
    /// Memory registered with a storage.
    ///
    /// # Errors
    /// When the system has none.
    pub(crate) fn new(storage: &mut dyn Storage) -> Result<Self, StorageError> {
        let allocate = || {
            Window::allocate(CARRY + READ_BYTES).map_err(|source| StorageError {
                operation: "allocate memory for reading",
                name: "the log".to_owned(),
                source,
            })
        };
        let buffers = [allocate()?, allocate()?];
        let mut memory = Self { buffers, regions: [RegionId(0); 2] };
        memory.attach(storage)?;
        Ok(memory)
    }

    /// The memory that several storages share, registered with number `at` of them.
    pub(crate) fn for_storage<'a>(
        shared: &'a mut Option<(usize, Self)>,
        at: usize,
        storage: &mut dyn Storage,
    ) -> Result<&'a mut Self, StorageError> {
        match shared {
            Some((last, _)) if *last == at => {}
            Some((last, memory)) => {
                memory.attach(storage)?;
                *last = at;
            }
            None => *shared = Some((at, Self::new(storage)?)),
        }
        Ok(shared.as_mut().map(|(_, memory)| memory).expect("set above"))
    }

    /// Registers the memory with another storage, which is scanned next.
    fn attach(&mut self, storage: &mut dyn Storage) -> Result<(), StorageError> {
        for (buffer, region) in self.buffers.iter().zip(&mut self.regions) {
            *region = storage.register(buffer.pages().clone())?;
        }
        Ok(())
    }
}

/// Reads part of a file, whole blocks of it, and writes the same bytes again, durably. After a sync that
/// failed a cache may show bytes as written that never were. Blocks that cannot be read are left out where
/// that is known, and accepted.
pub(crate) fn write_again(
    storage: &mut dyn Storage,
    memory: &ScanMemory,
    file: FileId,
    part: Range<u64>,
    leave_out: bool,
) -> Result<(), StorageError> {
    let region = memory.regions[0];
    let (mut offset, end) = (part.start, part.end);
    let mut piece_bytes = READ_BYTES as u64;
    while offset < end {
        let length = u32::try_from((end - offset).min(piece_bytes)).expect("a few MiB");
        let count = match storage::read(storage, file, offset, Buffer { region, start: 0, length })
        {
            Ok(count) => count,
            Err(error) if !leave_out => return Err(error),
            Err(_) => {
                offset += if piece_bytes == BLOCK_BYTES as u64 { piece_bytes } else { 0 };
                piece_bytes = BLOCK_BYTES as u64;
                continue;
            }
        };
        let buffer = Buffer { region, start: 0, length: count };
        let write = Operation::Write { file, offset, buffer, durable: true };
        if count == 0 || storage::run(storage, write)? != Outcome::Transferred(count) {
            return Err(StorageError {
                operation: "write again",
                name: "the end of the log".to_owned(),
                source: io::ErrorKind::WriteZero.into(),
            });
        }
        offset += u64::from(count);
    }
    Ok(())
}

/// One pass over part of a file.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    storage: &'a mut dyn Storage,
    memory: &'a mut ScanMemory,
    file: FileId,
    /// Where the part ends, in bytes of the file.
    limit: u64,
    /// Which buffer holds the present bytes, and where in it.
    current: usize,
    start: usize,
    end: usize,
    /// File offset of `start`.
    offset: u64,
    /// Bytes between there and what was asked for first, while none was read.
    skip: usize,
    /// Length of the next read: a block behind an error, then twice the one before.
    read_bytes: usize,
    /// File offset of the next read, and whether it is under way.
    next_read: u64,
    reading: bool,
    completions: Vec<Completion>,
}

impl<'a> Reader<'a> {
    /// Bytes `offset..limit` of a file; less if the file is shorter.
    pub(crate) fn new(
        storage: &'a mut dyn Storage,
        memory: &'a mut ScanMemory,
        file: FileId,
        offset: u64,
        limit: u64,
    ) -> Self {
        let block = BLOCK_BYTES as u64;
        let next_read = offset / block * block;
        let skip = usize::try_from(offset - next_read).expect("less than a block");
        let mut reader = Self {
            storage,
            memory,
            file,
            limit,
            current: 0,
            start: CARRY,
            end: CARRY,
            offset: next_read,
            skip,
            read_bytes: READ_BYTES,
            next_read,
            reading: false,
            completions: Vec::with_capacity(2),
        };
        reader.read_ahead();
        reader
    }

    /// File offset of the next byte.
    pub(crate) fn offset(&self) -> u64 {
        self.offset + self.skip as u64
    }

    /// The next bytes: at least as many as are wanted, unless the part ends before.
    pub(crate) fn bytes(&mut self, wanted: usize) -> Result<&[u8], StorageError> {
        while self.skip > 0 && self.start == self.end && self.refill()? {}
        self.advance_over_skip();
        let wanted = wanted.min(CARRY);
        while self.end - self.start < wanted && self.offset + self.present() < self.limit {
            if !self.refill()? {
                break;
            }
        }
        let length = self.present().min(self.limit.saturating_sub(self.offset));
        let length = usize::try_from(length).expect("a buffer's length");
        Ok(self.memory.buffers[self.current].bytes(self.start, length))
    }

    /// Leaves bytes behind that were looked at.
    pub(crate) fn advance(&mut self, length: usize) {
        assert!(length <= self.end - self.start, "advance past what was read");
        self.start += length;
        self.offset += length as u64;
    }

    fn advance_over_skip(&mut self) {
        let skip = std::mem::take(&mut self.skip).min(self.end - self.start);
        self.advance(skip);
    }

    fn present(&self) -> u64 {
        (self.end - self.start) as u64
    }

    fn read_ahead(&mut self) {
        if self.reading || self.next_read >= self.limit {
            return;
        }
        let rest = (self.limit - self.next_read).next_multiple_of(BLOCK_BYTES as u64);
        let length = u32::try_from(rest.min(self.read_bytes as u64)).expect("a few MiB");
        let other = 1 - self.current;
        let operation = Operation::Read {
            file: self.file,
            offset: self.next_read,
            buffer: Buffer { region: self.memory.regions[other], start: CARRY as u64, length },
        };
        self.reading = self.storage.submit(Token::new(OWNER, 0), operation).is_ok();
        // Tell the device now, so that it reads while we decode.
        self.storage.poll(&mut self.completions);
    }

    /// Switches to the buffer that was read ahead. False at the file's end.
    fn refill(&mut self) -> Result<bool, StorageError> {
        self.read_ahead();
        if !self.reading {
            return Ok(false);
        }
        let count = self.finish_read()?;
        if count == 0 {
            self.limit = self.offset + self.present();
            return Ok(false);
        }
        let carried = self.end - self.start;
        let (first, second) = self.memory.buffers.split_at_mut(1);
        let (from, into) = if self.current == 0 {
            (&first[0], &mut second[0])
        } else {
            (&second[0], &mut first[0])
        };
        into.bytes_mut(CARRY - carried, carried).copy_from_slice(from.bytes(self.start, carried));
        self.current = 1 - self.current;
        self.start = CARRY - carried;
        self.end = CARRY + count;
        self.next_read += count as u64;
        self.read_ahead();
        Ok(true)
    }

    /// The read ahead, tried again in short pieces when it fails.
    fn finish_read(&mut self) -> Result<usize, StorageError> {
        let mut attempt = 0;
        loop {
            let error = match self.await_read() {
                Ok(count) => {
                    self.read_bytes = (self.read_bytes * 2).min(READ_BYTES);
                    return Ok(count);
                }
                Err(error) => error,
            };
            if attempt == READ_ATTEMPTS_MAX || error.is_of_no_device() {
                return Err(error);
            }
            tracing::warn!(%error, reason = %error.source, offset = self.next_read, "reading again");
            attempt += 1;
            self.read_bytes = BLOCK_BYTES;
            std::thread::sleep(READ_RETRY_PAUSE);
            self.read_ahead();
            assert!(self.reading, "nothing else is under way");
        }
    }

    fn await_read(&mut self) -> Result<usize, StorageError> {
        while self.completions.is_empty() {
            self.storage.poll(&mut self.completions);
            if self.completions.is_empty() {
                self.storage.wait(Duration::from_secs(1));
            }
        }
        self.reading = false;
        match self.completions.pop().map(|completion| completion.result) {
            Some(Ok(Outcome::Transferred(count))) => Ok(count as usize),
            Some(Err(error)) => Err(error),
            _ => Err(StorageError {
                operation: "read",
                name: format!("file {}", self.file.0),
                source: io::ErrorKind::InvalidData.into(),
            }),
        }
    }
}

impl Drop for Reader<'_> {
    /// The device must not write into memory that the next scan uses.
    fn drop(&mut self) {
        if self.reading {
            // Whatever came of it, nobody wants it any more.
            let _ = self.await_read();
        }
    }
}

#[cfg(test)]
mod tests;
