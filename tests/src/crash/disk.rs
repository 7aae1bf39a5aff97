//! A simulated disk: what is written lies in a volatile cache until it is made durable; a power cut
//! keeps, loses or tears, sector by sector, whatever was not.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::random::Random;

const SECTOR: usize = 512;

/// The platter and the cache before it.
#[derive(Debug)]
pub struct Disk {
    random: Random,
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the directory was synced, in order: what is in one entry is kept or lost
    /// as a whole.
    name_changes: Vec<Vec<NameChange>>,
    events: u64,
    cut_at: Option<u64>,
    off: bool,
    /// What the disk does wrong.
    pub faults: Faults,
    writes: u64,
    syncs: u64,
    /// Parts of files that cannot be read.
    unreadable: Vec<(usize, Range<usize>)>,
}

/// A disk that outlives the storages over it.
#[derive(Clone, Debug)]
pub struct SharedDisk(Arc<Mutex<Disk>>);

impl SharedDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Disk::new(seed))))
    }

    /// The disk, to look at or to change.
    pub fn borrow_mut(&self) -> MutexGuard<'_, Disk> {
        // Whoever panicked has failed the test.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk, to look at.
    pub fn borrow(&self) -> MutexGuard<'_, Disk> {
        self.borrow_mut()
    }
}

/// What a disk does wrong, besides losing power.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Durable writes and syncs are acknowledged and do nothing: what a missing fsync looks like.
    pub ignore_durability: bool,
    /// This write, counted from the first, fails with EIO, and all after it.
    pub fail_write: Option<u64>,
    /// This write ends after half of its bytes.
    pub short_write: Option<u64>,
    /// This sync or durable write fails with EIO, after which the cache shows its bytes and counts them as
    /// written: the next sync succeeds, and writes nothing of them.
    pub fail_sync: Option<u64>,
    /// No file grows or is made while the disk holds more than this.
    pub capacity_bytes: Option<u64>,
    /// Something was changed by [`Disk::damage`].
    pub damaged: bool,
}

#[derive(Debug, Default)]
struct Inode {
    /// What a reader sees.
    view: Vec<u8>,
    /// What survives.
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug)]
enum NameChange {
    Set(String, usize),
    Remove(String),
}

impl Disk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            events: 0,
            cut_at: None,
            off: false,
            faults: Faults::default(),
            writes: 0,
            syncs: 0,
            unreadable: Vec::new(),
        }
    }

    /// Cuts the power now.
    pub fn cut(&mut self) {
        self.off = true;
    }

    /// Cuts the power at this many events from now; every submission and completion is one.
    pub fn cut_after(&mut self, events: Option<u64>) {
        self.cut_at = events.map(|events| self.events + events);
    }

    /// Whether it has been told when the power goes, or that has gone.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.off || self.cut_at.is_some()
    }

    /// Events so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Whether the power is off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.off
    }

    /// Counts an event. True when the power goes, or is, off.
    pub fn event(&mut self) -> bool {
        self.events += 1;
        self.off |= self.cut_at.is_some_and(|cut| self.events >= cut);
        self.off
    }

    /// A number below a bound, from the disk's own seed.
    pub fn choose(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    /// The file of a name, made or emptied if asked for.
    pub fn open(&mut self, name: &str, create: bool) -> io::Result<usize> {
        match self.names.get(name) {
            Some(&inode) if create => {
                // Truncation is a new file for our purposes: the old one may come back.
                let fresh = self.fresh();
                self.set_name(name, fresh);
                let _ = inode;
                Ok(fresh)
            }
            Some(&inode) => Ok(inode),
            None if create => {
                if self.is_full(0) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let fresh = self.fresh();
                self.set_name(name, fresh);
                Ok(fresh)
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Names and lengths.
    pub fn list(&self) -> impl Iterator<Item = (&str, u64)> {
        self.names
            .iter()
            .map(|(name, &inode)| (name.as_str(), self.inodes[inode].view.len() as u64))
    }

    /// Names and bytes, as a reader sees them.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.names.iter().map(|(name, &inode)| (name.as_str(), &self.inodes[inode].view[..]))
    }

    /// Puts a file there that is durable, bytes and name.
    pub fn put_file(&mut self, name: &str, bytes: Vec<u8>) {
        self.inodes.push(Inode { view: bytes.clone(), durable: bytes, pending: Vec::new() });
        self.names.insert(name.to_owned(), self.inodes.len() - 1);
        self.durable_names.insert(name.to_owned(), self.inodes.len() - 1);
    }

    /// Reserves space.
    pub fn allocate(&mut self, inode: usize, length: usize) -> io::Result<()> {
        let grows = length.saturating_sub(self.inodes[inode].view.len());
        if grows > 0 && self.is_full(grows as u64) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if grows > 0 {
            self.inodes[inode].view.resize(length, 0);
        }
        Ok(())
    }

    /// Gives a part of a file back: zeros, which a power cut may keep, lose or tear as it does a write's.
    pub fn release(&mut self, inode: usize, offset: usize, length: usize) {
        let file = &mut self.inodes[inode];
        let end = (offset + length).min(file.view.len());
        if offset < end {
            let zeros = vec![0; end - offset];
            put(&mut file.view, offset, &zeros);
            file.pending.push((offset, zeros));
        }
    }

    /// Writes into the cache, or through it. Returns how many bytes.
    pub fn write(
        &mut self,
        inode: usize,
        offset: usize,
        bytes: &[u8],
        durable: bool,
    ) -> io::Result<usize> {
        self.writes += 1;
        if self.faults.fail_write.is_some_and(|at| self.writes >= at) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let grows = (offset + bytes.len()).saturating_sub(self.inodes[inode].view.len());
        if grows > 0 && self.is_full(grows as u64) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let bytes = match self.faults.short_write {
            Some(at) if at == self.writes => &bytes[..bytes.len() / 2],
            _ => bytes,
        };
        put(&mut self.inodes[inode].view, offset, bytes);
        if durable {
            self.count_sync()?;
        }
        let file = &mut self.inodes[inode];
        if durable && !self.faults.ignore_durability {
            put(&mut file.durable, offset, bytes);
            // What is still in the cache is older: it cannot come back over these bytes.
            let end = offset + bytes.len();
            for (start, cached) in &mut file.pending {
                let (first, last) = (offset.max(*start), end.min(*start + cached.len()));
                if first < last {
                    cached[first - *start..last - *start]
                        .copy_from_slice(&bytes[first - offset..last - offset]);
                }
            }
        } else {
            file.pending.push((offset, bytes.to_vec()));
        }
        Ok(bytes.len())
    }

    /// A sync or durable write fails after so many others from now on, or none.
    pub fn fail_sync_after(&mut self, others: Option<u64>) {
        self.faults.fail_sync = others.map(|others| self.syncs + 1 + others);
    }

    /// Reads; short at the end.
    pub fn read(&self, inode: usize, offset: usize, into: &mut [u8]) -> io::Result<usize> {
        let view = &self.inodes[inode].view;
        let count = view.len().saturating_sub(offset).min(into.len());
        let fails = |(bad, part): &(usize, Range<usize>)| {
            *bad == inode && part.start < offset + count && offset < part.end
        };
        if self.unreadable.iter().any(fails) {
            return Err(io::Error::from_raw_os_error(5));
        }
        into[..count].copy_from_slice(&view[offset.min(view.len())..][..count]);
        Ok(count)
    }

    /// From now on reads of a part of a file fail, or those of no file.
    pub fn fail_reads(&mut self, part: Option<(&str, Range<usize>)>) {
        self.unreadable.clear();
        self.unreadable.extend(part.map(|(name, part)| (self.names[name], part)));
    }

    /// Makes a file's cached bytes durable.
    pub fn sync(&mut self, inode: usize) -> io::Result<()> {
        if let Err(error) = self.count_sync() {
            self.inodes[inode].pending.clear();
            return Err(error);
        }
        if !self.faults.ignore_durability {
            let file = &mut self.inodes[inode];
            for (offset, bytes) in std::mem::take(&mut file.pending) {
                put(&mut file.durable, offset, &bytes);
            }
            file.durable.resize(file.view.len(), 0);
        }
        Ok(())
    }

    fn count_sync(&mut self) -> io::Result<()> {
        self.syncs += 1;
        match self.faults.fail_sync {
            Some(at) if at == self.syncs => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        }
    }

    /// Renames a file over another.
    pub fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let inode = self.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.names.insert(to.to_owned(), inode);
        let set = NameChange::Set(to.to_owned(), inode);
        self.name_changes.push(vec![set, NameChange::Remove(from.to_owned())]);
        Ok(())
    }

    /// Removes a name.
    pub fn remove(&mut self, name: &str) -> io::Result<()> {
        self.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        self.name_changes.push(vec![NameChange::Remove(name.to_owned())]);
        Ok(())
    }

    /// Makes names durable. Where that fails they may become so later.
    pub fn sync_directory(&mut self) -> io::Result<()> {
        self.count_sync()?;
        if !self.faults.ignore_durability {
            self.name_changes.clear();
            self.durable_names.clone_from(&self.names);
        }
        Ok(())
    }

    /// The process dies and the power stays: the cache survives, and so does what is in it only.
    pub fn kill(&mut self) {
        self.cut_at = None;
        self.off = false;
    }

    /// Power comes back: what was not durable is kept, lost or torn, sector by sector.
    pub fn power_cycle(&mut self) {
        // A journal keeps the first of them; without one any may be there.
        let is_journaled = self.random.one_in(2);
        let count = self.name_changes.len() as u64;
        let kept = self.random.below(count + 1);
        let mut names = self.durable_names.clone();
        for (at, changes) in (0..).zip(std::mem::take(&mut self.name_changes)) {
            let is_kept = if is_journaled { at < kept } else { self.random.one_in(2) };
            for change in changes.into_iter().filter(|_| is_kept) {
                match change {
                    NameChange::Set(name, inode) => names.insert(name, inode),
                    NameChange::Remove(name) => names.remove(&name),
                };
            }
        }
        for file in &mut self.inodes {
            for (offset, bytes) in std::mem::take(&mut file.pending) {
                let fate = self.random.below(3);
                for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                    if fate == 1 || (fate == 2 && self.random.one_in(2)) {
                        put(&mut file.durable, offset + index * SECTOR, sector);
                    }
                }
            }
            file.view.clone_from(&file.durable);
        }
        self.names.clone_from(&names);
        self.durable_names = names;
        for (inode, file) in self.inodes.iter_mut().enumerate() {
            if !self.names.values().any(|named| *named == inode) {
                *file = Inode::default();
            }
        }
        self.cut_at = None;
        self.off = false;
    }

    /// Flips one bit of a file, on the platter too.
    pub fn flip(&mut self, name: &str, bit: usize) {
        self.damage(name, |bytes| {
            if let Some(byte) = bytes.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
        });
    }

    /// Changes the bytes of a file, on the platter too.
    pub fn damage(&mut self, name: &str, change: impl Fn(&mut Vec<u8>)) {
        self.faults.damaged = true;
        if let Some(&inode) = self.names.get(name) {
            let file = &mut self.inodes[inode];
            for bytes in [&mut file.view, &mut file.durable] {
                change(bytes);
            }
        }
    }

    fn fresh(&mut self) -> usize {
        self.inodes.push(Inode::default());
        self.inodes.len() - 1
    }

    fn set_name(&mut self, name: &str, inode: usize) {
        self.names.insert(name.to_owned(), inode);
        self.name_changes.push(vec![NameChange::Set(name.to_owned(), inode)]);
    }

    fn is_full(&self, more: u64) -> bool {
        let used: u64 = self.list().map(|(_, length)| length).sum();
        self.faults.capacity_bytes.is_some_and(|capacity| used + more > capacity)
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}
