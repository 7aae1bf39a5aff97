//! Reading a file of frames from one end to the other, in large reads that overlap with decoding.
//!
//! ```text
//!  each of two buffers:  | room for an unfinished frame | one read |
//! ```
//! A frame that crosses the end of a read is moved in front of the next one, so that it lies in one
//! piece; its alignment survives, because frames and reads are multiples of 64 bytes.

use std::{io, time::Duration};

use super::{
    limits::{BLOCK_BYTES, READ_BYTES, RECORD_BYTES_MAX},
    memory::Window,
    storage::{
        Buffer, Completion, FileId, Operation, Outcome, RegionId, Storage, StorageError, Token,
    },
};

const OWNER: u8 = 4;
const CARRY: usize = RECORD_BYTES_MAX;

/// Memory for scans, to be used by one after the other.
#[derive(Debug)]
pub(crate) struct ScanMemory {
    buffers: [Window; 2],
    regions: [RegionId; 2],
    read_bytes: usize,
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
        let mut memory = Self { buffers, regions: [RegionId(0); 2], read_bytes: READ_BYTES };
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
        let mut reader = Self {
            storage,
            memory,
            file,
            limit,
            current: 0,
            start: CARRY,
            end: CARRY,
            offset: next_read,
            next_read,
            reading: false,
            completions: Vec::with_capacity(2),
        };
        reader.read_ahead();
        if offset > next_read {
            let skip = usize::try_from(offset - next_read).expect("less than a block");
            // An error shows again at the first use.
            if reader.bytes(skip).is_ok_and(|bytes| bytes.len() >= skip) {
                reader.advance(skip);
            }
        }
        reader
    }

    /// File offset of the next byte.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes: at least as many as are wanted, unless the part ends before.
    pub(crate) fn bytes(&mut self, wanted: usize) -> Result<&[u8], StorageError> {
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

    fn present(&self) -> u64 {
        (self.end - self.start) as u64
    }

    fn read_ahead(&mut self) {
        if self.reading || self.next_read >= self.limit {
            return;
        }
        let rest = (self.limit - self.next_read).next_multiple_of(BLOCK_BYTES as u64);
        let length = u32::try_from(rest.min(self.memory.read_bytes as u64)).expect("a few MiB");
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

    fn finish_read(&mut self) -> Result<usize, StorageError> {
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
            let _ = self.finish_read();
        }
    }
}
